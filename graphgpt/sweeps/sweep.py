"""``graphgpt sweep``: the best settings looked for by Optuna, each run a fresh process of ``graphgpt train``.

A process per run makes runs of several processes right, gives back all memory, and can be stopped from outside. What is known
about a sweep lies in its folder::

    sweep.json            how it was started
    study.db              Optuna's study: every trial, its settings, its curve, its outcome
    0/, 1/, ...           run folders by trial, or 0-seed0/, 0-seed1/, ... where every setting is trained with several seeds
    runs.html             the comparison, at the end
"""

import contextlib
import dataclasses
import datetime
import itertools
import math
import os
import signal
import statistics
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field
from rich.console import Console
from rich.text import Text

from graphgpt.config.command_line import CommandLine, read_command_line
from graphgpt.config.compatibility import logged_metrics, metric_problems, unknown_metric
from graphgpt.config.composition import read_sweeps
from graphgpt.config.experiment import ExperimentConfig
from graphgpt.config.grammar import quoted
from graphgpt.errors import ConfigError, GraphGPTError, Interrupted, amount
from graphgpt.files.atomic import new_folder, write_json, write_text
from graphgpt.launch.sweep import SWEEP, check_started, read_sweep
from graphgpt.machine.installation import program, typed
from graphgpt.machine.processors import threads
from graphgpt.metrics import Declared
from graphgpt.runs.page import PAGE, duration, number, show, value_text, write_page
from graphgpt.runs.runs import FINISHED, PRUNED, compare, find_runs, last_values, read_metrics, read_run, run_state
from graphgpt.schema import GIVEN, ActsWith, configclass, idle_problems, parse

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override
    from optuna import Study, Trial
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

STUDY = "study.db"

#: Seconds between two looks at the processes.
_PATIENCE = 0.5
#: Seconds that a run gets to save itself when it is asked to stop.
_GRACE = 60.0


@configclass
class SweepConfig:
    """How a sweep looks for the best settings."""

    overrides: list[str]
    """The command line for ``graphgpt train``, swept values among it."""
    metric: str = "val/loss"
    """Of ``metrics.jsonl``; its last value counts."""
    direction: Literal["minimize", "maximize"] | None = None
    """Null is the metric's own: losses are minimized, accuracies maximized."""
    trials: int | None = Field(default=None, ge=1)
    """Settings to try; null tries every combination of listed values."""
    sampler: Annotated[Literal["tpe", "random"], ActsWith(trials=GIVEN)] = "tpe"
    """How they are chosen."""
    parallel: int = Field(default=1, ge=1)
    """Runs at once."""
    folders: list[str] = Field(default_factory=list)
    """More folders with config files of the user's own."""
    prune: int | None = Field(default=None, ge=1)
    """From so many finished trials on, stop runs that are worse than the median; null stops none."""


def sweep(overrides: Sequence[str], given: Mapping[str, Any], *, out: Path | None = None, resume: Path | None = None) -> None:
    """Run a sweep to its end and say what was best.

    Args:
        overrides: The command line for ``graphgpt train``; values in Hydra's sweep grammar are swept over.
        given: Fields of :class:`SweepConfig` that are not as by default.
        out: Folder to make; None makes a dated one.
        resume: Folder of a sweep to go on with: with its own command line, and ``given`` in place of what it had.

    Raises:
        GraphGPTError: something does not fit (nothing was started), or every run failed.
        Interrupted: the user asked to stop; what is there can be resumed.
    """
    try:
        import optuna
    except ImportError as error:
        raise GraphGPTError("graphgpt sweep needs Optuna: pip install 'graphgpt[sweep]'.") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if resume is not None and (overrides or out):
        raise GraphGPTError(f"--resume {resume}: takes the command line that started the sweep; leave settings and --out out.")
    config = _read_config({**read_sweep(resume), **given} if resume is not None else {"overrides": [*overrides], **given}, resume)
    if resume is not None:
        check_started(resume, config.overrides)
    line = read_command_line(ExperimentConfig, "train", config.overrides)
    space = Space.read(line)
    _check(line, config, space)
    line.tell()
    folder = resume or out or Path("multirun") / line.configs[0].name / f"{datetime.datetime.now():%Y-%m-%d_%H-%M-%S}"
    if out is not None and folder.exists():
        raise GraphGPTError(f"{folder} exists already; choose another --out, or go on with it: graphgpt sweep --resume {folder}")
    if resume is None:
        folder = new_folder(folder)
    with _alone(folder):
        write_json(folder / SWEEP, {"program": "sweep", **dataclasses.asdict(config)})
        Sweep(folder, config, space, line.configs[0]).run()


def _read_config(data: dict[str, Any], resume: Path | None) -> SweepConfig:
    if data.pop("program", "sweep") != "sweep":
        raise GraphGPTError(f"--resume {resume}: was started by {typed('train', '-m')}; use {typed('train', '-m', f'resume={resume}')}")
    problems: list[str] = []
    config = parse(SweepConfig, data, problems)
    problems += [] if config is None else idle_problems(config, data)
    if problems or config is None:
        raise ConfigError([problem if problem.startswith("overrides") else f"--{problem}" for problem in problems])
    return config


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Two processes would each take the other's runs for cut off."""
    from filelock import FileLock, Timeout

    try:
        with FileLock(folder / ".lock", timeout=0):
            yield
    except Timeout as error:
        raise GraphGPTError(f"{folder} is being worked on by another graphgpt sweep.") from error


# What is swept over


@dataclasses.dataclass(frozen=True)
class Axis:
    """What one key is swept over.

    Args:
        distribution: For Optuna.
        values: All of them, where they are listed; None for an interval.
    """

    distribution: "BaseDistribution"
    values: list[Any] | None

    @classmethod
    def read(cls, override: "Override") -> "Axis":
        """From a sweep in Hydra's grammar.

        Raises:
            ConfigError: a logarithm of what is not above 0.
        """
        from hydra.core.override_parser.types import IntervalSweep, RangeSweep
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        swept = override.value()
        if isinstance(swept, IntervalSweep):
            low, high, log = swept.start, swept.end, "log" in swept.tags
            if low is None or high is None or low > high or (log and low <= 0):
                wanted = "0 < low <= high" if log else "low <= high"
                raise ConfigError([f"'{override.input_line}': an interval needs {wanted}."])
            if isinstance(low, int) and isinstance(high, int):
                return cls(IntDistribution(low, high, log=log), None)
            return cls(FloatDistribution(low, high, log=log), None)
        texts = list(dict.fromkeys(override.sweep_string_iterator()))
        if isinstance(swept, RangeSweep):
            # Ordered, which the sampler can make use of.
            if all(isinstance(part, int) for part in (swept.start, swept.stop, swept.step)):
                numbers = sorted(int(text) for text in texts)
                return cls(IntDistribution(numbers[0], numbers[-1], step=abs(int(swept.step))), numbers)
            fractions = sorted(float(text) for text in texts)
            return cls(FloatDistribution(fractions[0], fractions[-1], step=abs(float(swept.step))), fractions)
        return cls(CategoricalDistribution(texts), texts)


@dataclasses.dataclass(frozen=True)
class Space:
    """The settings of a sweep.

    Args:
        fixed: Overrides that all runs share.
        axes: What is swept over, by key.
        seeds: Every setting is trained with each of them; none leaves the seed as it is.
    """

    fixed: list[str]
    axes: dict[str, Axis]
    seeds: list[str]

    @classmethod
    def read(cls, line: CommandLine[ExperimentConfig]) -> "Space":
        """From a command line that was checked.

        Raises:
            ConfigError: an interval that is none, or one of seeds.
        """
        axes: dict[str, Axis] = {}
        for override in read_sweeps(line.swept):
            axes[override.get_key_element().lstrip("+")] = Axis.read(override)
        seeds = axes.pop("seed", None)
        if seeds is not None and seeds.values is None:
            raise ConfigError(["seed: each setting is trained with every seed, so they must be listed, such as seed=0,1,2."])
        fixed = [argument for argument in line.arguments if argument not in line.swept]
        return cls(fixed, axes, [str(seed) for seed in seeds.values or ()] if seeds else [])

    @property
    def distributions(self) -> "dict[str, BaseDistribution]":
        return {key: axis.distribution for key, axis in self.axes.items()}

    def combinations(self) -> list[dict[str, Any]] | None:
        """All settings; None where an interval has no end of them."""
        if any(axis.values is None for axis in self.axes.values()):
            return None
        return [
            dict(zip(self.axes, chosen, strict=True)) for chosen in itertools.product(*(axis.values or () for axis in self.axes.values()))
        ]

    def command(self, params: Mapping[str, Any], seed: str | None) -> list[str]:
        """The overrides of one run."""
        return [*self.fixed, *(f"{key}={value}" for key, value in params.items()), *([] if seed is None else [f"seed={seed}"])]


def _check(line: CommandLine[ExperimentConfig], config: SweepConfig, space: Space) -> None:
    """What would only be seen after the first runs.

    Raises:
        ConfigError: all of it.
    """
    problems = []
    if not space.axes and not space.seeds:
        problems.append("there is nothing to sweep over; give a key several values, such as model.lora.rank=4,8,16.")
    if config.trials is None and space.combinations() is None:
        problems.append("--trials: an interval has no end of values; say how many to try, such as --trials 20.")
    if any(override.startswith(("hydra/", "hydra.", "resume=")) for override in config.overrides):
        problems.append("hydra and resume: are for graphgpt train -m; graphgpt sweep starts its runs itself, see --parallel and --resume.")
    for one in line.configs:
        if problem := unknown_metric(config.metric, logged_metrics(one.model, one.task, one.runner), one):
            problems.append(f"--metric: {problem}")
        problems += metric_problems(one)
        if one.runner.num_nodes > 1:
            problems.append(f"runner.num_nodes: {one.runner.num_nodes}, but graphgpt sweep starts its runs on this machine alone.")
    if problems:
        raise ConfigError(dict.fromkeys(problems))


def direction(config: SweepConfig, declared: Declared) -> Literal["minimize", "maximize"]:
    """Which way to look: as asked, or else to the good end of the metric, given what the runs log."""
    return config.direction or ("minimize" if declared[config.metric].less_is_better else "maximize")


# What is run


@dataclasses.dataclass
class Job:
    """A trial that is going on: one process after the other, a run per seed."""

    trial: "Trial"
    seeds: list[str | None]
    """Still to be trained; the first of them now."""
    slot: int
    """Of those that run at once: which share of the devices."""
    first: bool = True
    """Whether this is the trial's first seed, whose curve decides on pruning."""
    values: list[float] = dataclasses.field(default_factory=list)
    reported: set[int] = dataclasses.field(default_factory=set)
    process: "subprocess.Popen[bytes] | None" = None
    asked: float | None = None
    """When it was asked to stop."""
    why: str = ""
    """It was stopped."""


class Sweep:
    """A study that is run to its end.

    Args:
        folder: Of the sweep.
        config: How to look.
        space: What is swept over.
        first: The configuration of the first run, for what all have in common.
    """

    def __init__(self, folder: Path, config: SweepConfig, space: Space, first: ExperimentConfig) -> None:
        import optuna

        self.folder, self.config, self.space = folder, config, space
        self.console = Console(highlight=False, markup=False, soft_wrap=True)
        url = f"sqlite:///{(folder / STUDY).absolute()}"
        way = direction(config, logged_metrics(first.model, first.task, first.runner))
        self.study: Study = optuna.create_study(storage=url, study_name="sweep", direction=way, load_if_exists=True)
        # From its number on, for a sampler that starts anew would draw the same settings again.
        begun = len(self.study.trials)
        if config.sampler == "random":
            self.study.sampler = optuna.samplers.RandomSampler(seed=begun)
        else:
            self.study.sampler = optuna.samplers.TPESampler(seed=begun, constant_liar=config.parallel > 1)
        self.study.pruner = optuna.pruners.MedianPruner(n_startup_trials=config.prune) if config.prune else optuna.pruners.NopPruner()
        self.devices = _devices(first, config.parallel)
        self.threads = [] if first.runner.threads else [f"runner.threads={threads(at_once=config.parallel * first.runner.processes)}"]
        self.ended = 0
        self.total = 0
        self._asked = 0

    def run(self) -> None:
        """Run what is left to run, then compare.

        Raises:
            GraphGPTError: no run came to its end.
            Interrupted: the user asked to stop.
        """
        from optuna.trial import TrialState

        waiting = self._take_up()
        self.console.print(f"{amount(self.total, 'setting')} to train, {self.config.parallel} at once, in {self.folder}")
        jobs: list[Job] = []
        # Noted and not raised: in the middle of the study's database an exception may get lost.
        before = [(number, signal.signal(number, self._asked_to_stop)) for number in (signal.SIGINT, signal.SIGTERM)]
        try:
            while (waiting or jobs) and not self._asked:
                while waiting and len(jobs) < self.config.parallel:
                    slot = min(set(range(self.config.parallel)) - {job.slot for job in jobs})
                    if (job := waiting.pop(0)(slot)) is not None:
                        jobs.append(job)
                        self._start(job)
                jobs = [job for job in jobs if not self._is_over(job)]
                time.sleep(_PATIENCE if jobs else 0)
            if self._asked:
                self.console.print("\nStopping the runs, which save themselves first; once more to stop at once.")
                self._stop([job.process for job in jobs if job.process])
                raise Interrupted(f"Stopped. To go on: graphgpt sweep --resume {self.folder}")
        finally:
            for number, handler in before:
                signal.signal(number, handler)
            for job in jobs:
                if job.process:
                    _signal(job.process, signal.SIGKILL)
        self._conclude(self.study.get_trials(states=(TrialState.COMPLETE,)))

    def _asked_to_stop(self, *_: Any) -> None:
        self._asked += 1

    def _stop(self, processes: "Sequence[subprocess.Popen[bytes]]") -> None:
        """Ask runs to save themselves and end; a second Ctrl-C, or too long a wait, kills them."""
        for process in processes:
            _signal(process, signal.SIGINT)
        until = time.monotonic() + _GRACE
        while any(process.poll() is None for process in processes) and time.monotonic() < until and self._asked < 2:
            time.sleep(0.1)
        for process in processes:
            _signal(process, signal.SIGKILL)
            process.wait()

    def _take_up(self) -> "list[Any]":
        """What is to be done: cut-off trials first, then those that failed, then new ones; each as a function of its slot."""
        from optuna.trial import Trial, TrialState

        trials = self.study.trials
        cut_off = [trial for trial in trials if trial.state == TrialState.RUNNING]
        for trial in cut_off:
            if (pid := trial.user_attrs.get("pid")) and _is_alive(pid):
                raise GraphGPTError(
                    f"Trial {trial.number} is still running as process {pid}, left by a sweep that was killed; end it first."
                )
        combinations = self.space.combinations() if self.config.trials is None else None
        for params in combinations or ():
            self.study.enqueue_trial(params, skip_if_exists=True)
        done = {TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING, TrialState.WAITING}
        known = [trial.params or trial.system_attrs.get("fixed_params") for trial in self.study.trials if trial.state in done]
        for trial in trials:
            if trial.state == TrialState.FAIL and trial.params not in known:
                # In the same folders: what finished there, or can be resumed, is not repeated.
                self.study.enqueue_trial(trial.params, user_attrs={"folder": _place(trial)})
                known.append(trial.params)
        waiting = len(self.study.get_trials(states=(TrialState.WAITING,)))
        ended = sum(trial.state in (TrialState.COMPLETE, TrialState.PRUNED) for trial in trials)
        new = waiting if self.config.trials is None else max(0, self.config.trials - ended - len(cut_off))
        self.total = len(cut_off) + new

        def go_on(frozen: Any) -> Any:
            return lambda slot: Job(Trial(self.study, frozen._trial_id), self._seeds(), slot, reported={*frozen.intermediate_values})

        return [*map(go_on, cut_off), *[self._ask] * new]

    def _seeds(self) -> list[str | None]:
        return [*self.space.seeds] or [None]

    def _ask(self, slot: int) -> Job | None:
        """A new trial; None where its settings were tried already, whose result it takes."""
        from optuna.trial import TrialState

        trial = self.study.ask(self.space.distributions)
        for other in self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
            if other.params == trial.params and other.number != trial.number:
                self.study.tell(trial, other.value)
                self._say(trial, f"the same as trial {other.number}: {number(other.value)}")
                return None
        return Job(trial, self._seeds(), slot)

    def _run_folder(self, job: Job) -> Path:
        seed = job.seeds[0]
        return self.folder / (_place(job.trial) if seed is None else f"{_place(job.trial)}-seed{seed}")

    def _start(self, job: Job) -> None:
        """Start the process of a trial's next seed, unless its folder holds the finished run."""
        folder = self._run_folder(job)
        if run_state(folder) == FINISHED:
            return
        folder.mkdir(exist_ok=True)
        cut_off = any((folder / "resume").glob("*.ckpt"))
        overrides = [f"resume={quoted(str(folder))}"] if cut_off else self.space.command(job.trial.params, job.seeds[0])
        environment = os.environ | {"GRAPHGPT_RUN_DIR": str(folder)} | self.devices[job.slot]
        with (folder / "output.log").open("ab") as log:
            # In a session of its own, for a Ctrl-C in the terminal is the sweep's to pass on.
            job.process = subprocess.Popen(
                [*program("train"), *overrides, *self.threads],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        job.trial.set_user_attr("pid", job.process.pid)

    def _is_over(self, job: Job) -> bool:
        """Look after a trial: report its curve, prune it, go on to its next seed, tell its outcome."""
        from optuna.trial import TrialState

        folder = self._run_folder(job)
        if job.process is not None and job.process.poll() is None:
            if job.first and self.config.prune and not job.asked:
                self._report(job, folder)
            if job.asked and time.monotonic() - job.asked > _GRACE:
                _signal(job.process, signal.SIGKILL)
            return False
        job.process = None
        if job.asked:
            write_text(folder / PRUNED, job.why + "\n")
            self.study.tell(job.trial, state=TrialState.PRUNED)
            self._say(job.trial, f"pruned: {job.why}")
            return True
        value = last_values(read_metrics(folder)).get(self.config.metric)
        if run_state(folder) != FINISHED or value is None or not math.isfinite(value):
            self.study.tell(job.trial, state=TrialState.FAIL)
            self._say(job.trial, f"failed: {self._why(folder, value)}")
            return True
        job.values.append(value)
        job.first = False
        job.seeds.pop(0)
        if job.seeds:
            self._start(job)
            return False
        mean = statistics.fmean(job.values)
        self.study.tell(job.trial, mean)
        spread = f" ± {statistics.stdev(job.values):.2g} over {len(job.values)} seeds" if len(job.values) > 1 else ""
        self._say(job.trial, f"{self.config.metric} {number(mean)}{spread}, {duration(read_run(folder).seconds)}")
        return True

    def _report(self, job: Job, folder: Path) -> None:
        """Tell the study what a run logged since the last look, and ask the run to stop when that is not good enough."""
        for line in read_metrics(folder):
            if self.config.metric not in line or line["step"] in job.reported:
                continue
            job.reported.add(line["step"])
            job.trial.report(line[self.config.metric], line["step"])
            if job.trial.should_prune():
                job.why = f"{self.config.metric} {number(line[self.config.metric])} after step {line['step'] + 1}, worse than the median"
                job.asked = time.monotonic()
                if job.process:
                    _signal(job.process, signal.SIGINT)
                return

    def _why(self, folder: Path, value: float | None) -> str:
        """Why a run counts as failed, in one line."""
        if run_state(folder) == FINISHED:
            known = ", ".join(last_values(read_metrics(folder)))
            return f"'{self.config.metric}' is {value}" if value is not None else f"it logged no '{self.config.metric}', but {known}"
        if (folder / "config.yaml").is_file() and (error := read_run(folder).error):
            return error
        lines = (folder / "output.log").read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return f"{lines[-1] if lines else 'it said nothing'} ({folder / 'output.log'})"

    def _say(self, trial: "Trial", outcome: str) -> None:
        self.ended += 1
        settings = " ".join(f"{key}={value_text(value)}" for key, value in trial.params.items())
        self.console.print(Text(f"[{self.ended}/{self.total}] trial {trial.number} {settings}: {outcome}"))

    def _conclude(self, completed: "Sequence[Any]") -> None:
        """The comparison, its page, the best trial and its command line."""
        runs = find_runs(self.folder)
        if runs:
            self.console.print()
            show(runs, self.folder)
            write_page(compare(runs), self.folder, self.folder / PAGE, score=self.config.metric)
            self.console.print(f"Page: {self.folder / PAGE}")
        if not completed:
            raise GraphGPTError(f"No run of the sweep came to its end; each says why in {self.folder}/*/output.log.")
        best = self.study.best_trial
        command = self.space.command(best.params, None if not self.space.seeds else self.space.seeds[0])
        self.console.print(Text(f"\nBest: trial {best.number}, {self.config.metric} {number(best.value)}"))
        own = [word for one in self.config.folders for word in ("--config-dir", one)]
        self.console.print(Text(f"  {typed('train', *own, *command)}"))


def _place(trial: "Trial | FrozenTrial") -> str:
    """Name of a trial's folder: its number, or that of the failed trial which it tries again."""
    return str(trial.user_attrs.get("folder", trial.number))


def _devices(config: ExperimentConfig, parallel: int) -> list[dict[str, str]]:
    """Environment of each of the runs at once: GPUs of its own, where they run on GPUs.

    Raises:
        ConfigError: there are fewer GPUs than they need.
    """
    import torch

    if config.runner.accelerator in ("cpu", "mps") or not torch.cuda.is_available():
        return [{}] * parallel
    each = config.runner.devices
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    visible = given.split(",") if given else [str(place) for place in range(torch.cuda.device_count())]
    if len(visible) < parallel * each:
        raise ConfigError(
            [
                f"--parallel: {amount(parallel, 'run')} of {amount(each, 'GPU')} at once, "
                f"but there are {len(visible)}; use fewer, or accelerator=cpu."
            ]
        )
    return [{"CUDA_VISIBLE_DEVICES": ",".join(visible[slot * each : (slot + 1) * each])} for slot in range(parallel)]


def _signal(process: "subprocess.Popen[bytes]", number: int) -> None:
    """To a run and the processes that it started."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)


def _is_alive(pid: int) -> bool:
    """Whether a process that a sweep started is still there: it leads a session, which one that has its number by chance hardly does."""
    try:
        return os.getsid(pid) == pid
    except ProcessLookupError:
        return False
