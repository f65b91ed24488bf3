"""How the programs start: a command line checked as a whole, a run folder that says how the run went, sweeps that remember."""

import argparse
import dataclasses
import functools
import logging
import os
import re
import shutil
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NotRequired

import yaml
from omegaconf import DictConfig, OmegaConf
from typing_extensions import TypedDict

from graphgpt.checkpoints.folder import read_settings
from graphgpt.config.command_line import (
    AUTO,
    CommandLine,
    addable,
    check_command_line,
    compose_unchecked,
    expanded,
    quoted,
    read_command_line,
    read_sweeps,
    register_resolvers,
    resolving,
    with_latest,
)
from graphgpt.config.compatibility import accelerator_problems, metric_problems, run_problems
from graphgpt.config.experiment import C, EvaluationConfig, ExperimentConfig, plain_settings
from graphgpt.errors import ConfigError, GraphGPTError, Interrupted, amount, did_you_mean
from graphgpt.files.atomic import new_folder, write_json, write_text
from graphgpt.files.configs import OWN, config_groups, own_folders, with_folders
from graphgpt.files.records import read_record
from graphgpt.files.untrusted import leads_out
from graphgpt.launch.outermost import user_errors
from graphgpt.machine.installation import typed
from graphgpt.machine.processors import processors, threads
from graphgpt.registry import check_plugins, load_plugins
from graphgpt.runs.runs import ERROR, FAILED, FINISHED, changes, compare, find_runs, holds_results, objective, run_state
from graphgpt.schema import flat

log = logging.getLogger(__name__)

#: In a sweep's folder: the command line that it was started with.
SWEEP = "sweep.json"

MULTIRUN = ("-m", "--multirun")
HELP = ("-h", "--help")


#: The configuration of the one run that this process was started for; of a sweep, each run reads its own command line.
_checked: list[Any] = []


class Started(TypedDict):
    """``sweep.json``."""

    program: str
    overrides: list[str]
    folders: NotRequired[list[str]]


class OtherRun(GraphGPTError):
    """A sweep came upon a run of another one in its folder."""


def launch(program: Callable[[], None], cls: type[Any], config_name: str) -> None:
    """Run a Hydra program after its command line was checked; a user's mistake ends in exit code 2 and no traceback.

    Hydra's own flags (``--info``, ``--cfg hydra``) go to Hydra unchecked.
    """
    logging.getLogger("matplotlib").setLevel(logging.WARNING)  # it tells the first run that it looked for fonts
    with user_errors():
        arguments = read_arguments(sys.argv[1:])
        flags, overrides = set(arguments.flags), with_latest(arguments.overrides)
        with with_folders(arguments.folders):
            if flags & {*HELP}:
                print(help_text(program, config_name, overrides))
            elif flags & {*MULTIRUN}:
                _launch_sweep(program, cls, config_name, overrides, arguments.folders)
            elif arguments.shows == "job":
                print(OmegaConf.to_yaml(plain_settings(check_command_line(cls, config_name, overrides))), end="")
            elif arguments.shows:
                register_resolvers()
                program()
            else:
                _launch_run(program, cls, config_name, overrides)


def _launch_run(program: Callable[[], None], cls: type[Any], config_name: str, overrides: Sequence[str]) -> None:
    """A single run."""
    line: CommandLine[Any] = read_command_line(cls, config_name, overrides)
    if line.swept:
        raise ConfigError([f"{argument}: several values make a sweep; start it with -m." for argument in line.swept])
    [config] = line.configs
    # Of a sweep each run asks for itself: the machine that starts it may not be the one that runs it.
    if problems := _problems_here(config):
        raise ConfigError(problems)
    _check_folder(line, overrides)
    line.tell()
    arguments = line.arguments
    if f"resume={AUTO}" in arguments and isinstance(config, ExperimentConfig):
        print(f"resume={AUTO}: " + (f"going on with {config.resume}" if config.resume else "nothing to go on with, a new run"))
        others = [argument for argument in arguments if argument != f"resume={AUTO}"]
        arguments = [f"resume={quoted(config.resume)}"] if config.resume else others
    # Here, for Hydra would show a traceback where it cannot be made.
    with resolving(line.hydra):
        folder = Path(str(line.hydra.run.dir))
    folder.mkdir(parents=True, exist_ok=True)
    others = [argument for argument in arguments if not argument.startswith("hydra.run.dir=")]
    sys.argv[1:] = [*map(addable, others), f"hydra.run.dir={quoted(str(folder))}"]
    _checked[:] = [config]
    try:
        program()
    finally:
        _checked.clear()


@dataclasses.dataclass(frozen=True)
class Arguments:
    """A command line, sorted."""

    overrides: list[str]
    flags: list[str]
    folders: list[str]
    """Of ``--config-dir``."""
    shows: str | None
    """What Hydra or we are to show instead of running."""


def read_arguments(arguments: Sequence[str]) -> Arguments:
    """Sort the arguments of a program.

    Raises:
        ConfigError: there is no such flag.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for flags in (HELP, MULTIRUN, ("--resolve",)):
        parser.add_argument(*flags, action="append_const", const=flags[-1], dest="flags")
    parser.add_argument("--config-dir", "-cd", action="append", default=[])
    parser.add_argument("--cfg", "-c", choices=("job", "hydra", "all"))
    # Hydra's own, which it gets as they are.
    parser.add_argument("--package", "-p")
    parser.add_argument("--info", "-i", nargs="?", const="all")
    parser.add_argument("--hydra-help", action="store_const", const="help")
    parser.add_argument("--shell-completion", "-sc", action="store_const", const="completion")
    try:
        known, others = parser.parse_known_args([*arguments])
    except argparse.ArgumentError as error:
        raise ConfigError([f"{error}."]) from error
    if unknown := [other for other in others if other.startswith("-")]:
        raise ConfigError([_unknown_flag(flag) for flag in unknown])
    shows = "hydra" if known.package else known.cfg or known.info or known.hydra_help or known.shell_completion
    return Arguments(others, known.flags or [], known.config_dir, shows)


def _unknown_flag(flag: str) -> str:
    name, equals, value = flag.lstrip("-").partition("=")
    if name in ("config-path", "config-name", "cp", "cn"):
        return f"{flag}: config files of your own lie in {OWN}/ beside you, or in a folder named by --config-dir."
    if flag.startswith("--") and re.match(r"[a-z]", name):
        return f"{flag}: is no flag; settings are written without dashes, {name.replace('-', '_')}={value if equals else '...'}."
    return f"{flag}: is no flag; there are -m, --help, --cfg job, --config-dir DIR, and Hydra's (--hydra-help)."


def _problems_here(config: ExperimentConfig | EvaluationConfig) -> list[str]:
    """What keeps a run from being run on this machine."""
    return run_problems(config) if isinstance(config, ExperimentConfig) else accelerator_problems(config.accelerator, "accelerator")


def _check_folder(line: CommandLine[Any], overrides: Sequence[str]) -> None:
    """Refuse a given run folder that holds what another run has made; a folder that nobody names is new anyway.

    Raises:
        ConfigError: it does.
    """
    resume = getattr(line.configs[0], "resume", None)
    named = {"GRAPHGPT_RUN_DIR": os.environ.get("GRAPHGPT_RUN_DIR")}
    if any(override.startswith("hydra.run.dir=") for override in overrides):
        named = {"hydra.run.dir": str(line.hydra.run.dir)}
    for key, folder in named.items():
        if folder and resume is None and holds_results(Path(folder)):
            trained = isinstance(line.configs[0], ExperimentConfig) and (Path(folder) / "resume").is_dir()
            go_on = f"go on with it (resume={folder}), " if trained else ""
            sentence = f"{key}: {folder} holds a run already, which would be overwritten; {go_on}choose another folder or delete it."
            raise ConfigError([sentence])


def help_text(program: Callable[[], None], config_name: str, overrides: Sequence[str]) -> str:
    """What ``--help`` shows. Hydra's own shows the same in three times the time: it copies every schema once per group of configs."""
    groups = "\n".join(f"{group}: {', '.join(path.stem for path in files)}" for group, files in sorted(config_groups().items()))
    return f"""{program.__doc__}

    {typed(config_name)} [group=option ...] [key=value ...]

Choose from these groups of configs (group=option); graphgpt ls GROUP says what each option is:

{groups}

Override any value of what this command line makes (foo.bar=value):

{OmegaConf.to_yaml(compose_unchecked(config_name, overrides))}
-m tries several values in turn (seed=0,1,2), --cfg job shows the values alone, --info defaults their files, --hydra-help all flags."""


def run(cls: type[C]) -> Callable[[Callable[[C, Path], None]], Callable[[DictConfig], float | None]]:
    """Decorator of a program's main function: ``main(config, folder)`` becomes what Hydra calls.

    The run folder holds ``config.yaml`` from the start and, when the run fails, ``error.txt``. In a sweep a run that fails does not
    end the others, one that finished earlier in the same folder is not repeated, and one that was cut off there goes on. The
    main function returns its score, for Hydra's sweepers that look for the best one.
    """

    def decorate(program: Callable[[C, Path], None]) -> Callable[[DictConfig], float | None]:
        @functools.wraps(program)
        def main(composed: DictConfig) -> float | None:
            from hydra.core.hydra_config import HydraConfig
            from hydra.types import RunMode

            from graphgpt.assembly import command_line, run_folder

            register_resolvers()  # a launcher's process knows nothing of this one's
            with user_errors():
                hydra = HydraConfig.get()
                swept = hydra.mode == RunMode.MULTIRUN

                def read() -> C:
                    # What Hydra composed is not looked at: there is one reading of a command line.
                    found: C = _checked[0] if _checked else check_command_line(cls, str(hydra.job.config_name), command_line())
                    return found

                return _run(program, read, run_folder(), swept=swept)

        return main

    return decorate


def _run(program: Callable[[C, Path], None], read: Callable[[], C], folder: Path, *, swept: bool) -> float | None:
    """One run in its folder. In a sweep, ``None`` says that it failed."""
    if swept:
        _join_processes()
    config: C | None = None
    try:
        config = read()
        if swept and _is_done(folder, config):
            log.info("%s: done already", folder)
            return objective(folder)
        if swept and isinstance(config, ExperimentConfig):
            config = dataclasses.replace(config, resume=str(folder))  # type: ignore[call-arg]  # mypy takes it for an evaluation, too
        if speaks():
            (folder / ERROR).unlink(missing_ok=True)
            if isinstance(config, ExperimentConfig):
                _write_settings(folder, config)
        program(config, folder)
    except (Interrupted, OtherRun):
        raise
    except Exception as error:
        if speaks() and run_state(folder) != FINISHED:
            if config is not None:
                _write_settings(folder, config)
            write_text(folder / ERROR, str(error) if isinstance(error, GraphGPTError) else traceback.format_exc())
        if not swept:
            raise
        log.error("%s failed: %s", folder, error)
        return None
    return objective(folder)


def speaks() -> bool:
    """Whether this is the one of a run's processes that writes and prints."""
    return all(os.environ.get(rank, "0") == "0" for rank in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))


def _write_settings(folder: Path, config: Any) -> None:
    """What a run is, before it is through; what an earlier attempt wrote stays, for the run says what has changed since."""
    if not (folder / "config.yaml").exists():
        settings = plain_settings(config) | {"resume": None}
        write_text(folder / "config.yaml", yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))


def _is_done(folder: Path, config: Any) -> bool:
    """Whether a sweep's folder holds this very run, finished.

    Raises:
        OtherRun: it holds another one.
    """
    file = folder / "config.yaml"
    if not file.is_file():
        return False
    if different := changes(read_settings(file), plain_settings(config)):
        key, old, new = different[0]
        raise OtherRun(f"{folder} holds a run with {key}={old}, not {new}; choose another folder for this sweep (hydra.sweep.dir).")
    return run_state(folder) == FINISHED


def _join_processes() -> None:
    """Where submitit's local executor started several processes for a run, tell Lightning so, as SLURM would."""
    if os.environ.get("SUBMITIT_EXECUTOR") == "local" and int(os.environ.get("SUBMITIT_LOCAL_NTASKS", "1")) > 1:
        from submitit.helpers import TorchDistributedEnvironment

        TorchDistributedEnvironment().export(set_cuda_visible_devices=False)


# Sweeps: -m


def _launch_sweep(program: Callable[[], None], cls: type[C], config_name: str, overrides: Sequence[str], folders: Sequence[str]) -> None:
    """Run a sweep by Hydra's sweeper and launcher, then compare its runs."""
    from graphgpt.runs.page import PAGE, show, write_page

    overrides, folder = _resumed_sweep(overrides, config_name)
    line: CommandLine[Any] = read_command_line(cls, config_name, overrides)
    _check_processes(line)
    _check_values(line)
    # Whether the machine that runs them has what they need, each run says itself.
    if problems := [problem for config in line.configs if isinstance(config, ExperimentConfig) for problem in metric_problems(config)]:
        raise ConfigError(dict.fromkeys(problems))
    line.tell()
    plans = "BasicSweeper" in line.hydra.sweeper._target_
    if folder is not None and not plans:
        raise ConfigError(["resume: only goes on with listed values; what another sweeper would try next, it alone knows."])
    if folder is None:
        # Resolved once, with the first run's name, for all runs.
        folder = Path(str(line.hydra.sweep.dir))
        if not any(override.startswith("hydra.sweep.dir=") for override in overrides):
            folder = new_folder(folder)
    started = [override for override in overrides if not override.startswith("hydra.sweep.dir=")]
    write_json(folder / SWEEP, {"program": config_name, "overrides": started} | ({"folders": [*folders]} if folders else {}))
    others: list[str] = [argument for argument in line.arguments if not argument.startswith("hydra.sweep.dir=")]
    # Hydra takes seed and ++seed for two keys: what replaces a value of a file's sweep is left as it is.
    replaced = line.hydra.sweeper.get("params") or {}
    added: list[str] = [one if one.partition("=")[0] in replaced else addable(one) for one in [*others, *_threads(line)]]
    sys.argv[1:] = ["-m", *added, f"hydra.sweep.dir={quoted(str(folder))}"]
    go_on = typed(config_name, "-m", f"resume={folder}")
    try:
        program()
    except (KeyboardInterrupt, SystemExit) as end:
        if plans and (isinstance(end, KeyboardInterrupt) or end.code == 130):
            print(f"To go on with the sweep: {go_on}", file=sys.stderr)
        raise
    runs = find_runs(folder)
    if not runs and any(folder.glob(f"*/{ERROR}")):
        raise GraphGPTError(f"No run of the sweep came so far as to begin; each says why in {folder}/*/{ERROR}.")
    show(runs, folder)
    write_page(compare(runs), folder, folder / PAGE)
    print(f"Page: {folder / PAGE}")
    if left := [one for one in runs if one.state != FINISHED]:
        failed = sum(one.state == FAILED for one in left)
        again = f" To try them again: {go_on}" if plans else ""
        print(f"{failed} of {amount(len(runs), 'run')} failed, {len(left) - failed} are unfinished.{again}", file=sys.stderr)
        sys.exit(1)


def _resumed_sweep(overrides: Sequence[str], config_name: str) -> tuple[list[str], Path | None]:
    """The command line without ``resume``, and the folder of the sweep that goes on, if one does.

    ``resume=FOLDER`` takes the command line that started the sweep; others given beside it replace and add.
    ``resume=auto`` finds the newest sweep of the same command line that is not complete.
    """
    others = [override for override in overrides if not re.match(r"(\+\+)?resume=", override)]
    wanted = next((override.partition("=")[2] for override in overrides if override not in others), None)
    if wanted is None:
        return others, None
    if wanted == AUTO:
        for file in sorted(Path("multirun").rglob(SWEEP), key=lambda path: path.parent.name, reverse=True):
            runs = find_runs(file.parent)
            complete = bool(runs) and all(one.state == FINISHED for one in runs)
            earlier = read_sweep(file.parent)
            if not complete and (earlier["program"], earlier["overrides"]) == (config_name, others):
                print(f"resume={AUTO}: going on with {file.parent}")
                return others, file.parent
        print(f"resume={AUTO}: nothing to go on with, a new sweep")
        return others, None
    folder = Path(expanded(wanted))
    started = read_sweep(folder)
    if started["program"] != config_name:
        right = (
            f"graphgpt sweep --resume {folder}" if started["program"] == "sweep" else typed(started["program"], "-m", f"resume={folder}")
        )
        raise ConfigError([f"resume: {folder} was not started by {typed(config_name, '-m')}; use {right}."])
    given = {override.partition("=")[0].lstrip("+"): override for override in others}
    first = {override.partition("=")[0].lstrip("+"): override for override in started["overrides"]}
    check_started(folder, [override for key, override in first.items() if key not in given], given.get("plugins", ""))
    return [*(first | given).values()], folder


def read_sweep(folder: Path) -> dict[str, Any]:
    """What a sweep's folder says about how it was started.

    Raises:
        GraphGPTError: it is no sweep's folder.
    """
    file = folder / SWEEP
    if not file.exists():
        known = [str(path.parent) for path in folder.parent.glob(f"*/{SWEEP}")]
        raise GraphGPTError(f"{folder} is no sweep's folder: it has no {SWEEP}. {did_you_mean(str(folder), known)}".strip())
    started = read_record(file, Started, "how a sweep was started", GraphGPTError)
    # Named by the user and not by a file: what lies there may name modules to import.
    found_here = set(map(str, own_folders()))
    if missing := [one for one in started.get("folders", []) if str(Path(one).expanduser().absolute()) not in found_here]:
        raise GraphGPTError(f"{folder} was started with --config-dir {missing[0]}; say it here too.")
    return dict(started)


def check_started(folder: Path, overrides: Sequence[str], plugins: str = "") -> None:
    """Refuse what a sweep's folder asks for and what only the user may: modules, ways to start programs, places outside of it.

    Args:
        folder: The sweep's.
        overrides: Those that come from there alone.
        plugins: The user's override of that name, if any.

    Raises:
        GraphGPTError: there is such an override; the message says how to allow it.
    """
    load_plugins(_words(plugins))
    for override in overrides:
        key, _, value = override.lstrip("+~").partition("=")
        if key == "plugins":
            check_plugins({"plugins": _words(value)}, folder / SWEEP)
        # Hydra builds launchers and callbacks of what it is told, and launchers run commands.
        counts = re.fullmatch(r"hydra\.(launcher|sweeper)\.\w+=[-+.\w]*\d", override)
        choice = key in ("hydra/launcher", "hydra/sweeper") or counts
        paths = key.startswith("runner") and leads_out(re.split(r"[\s,{}\[\]()'\"]+", value), key)
        if (key.startswith("hydra") and not choice) or paths:
            raise GraphGPTError(f"{folder / SWEEP} sets {override}, which is not done unasked; if it is meant, say it here too: {override}")


def _words(override: str) -> list[str]:
    """The modules in an override such as ``plugins=[a.b,c]``, or in its value."""
    return re.findall(r"[\w.]+", override.removeprefix("+").removeprefix("+").removeprefix("plugins="))


def _check_processes(line: CommandLine[Any]) -> None:
    """Refuse a launcher that is not here, and runs of several processes, unless the launcher starts each with so many."""
    launcher = line.hydra.launcher
    if launcher._target_.endswith(".SlurmLauncher") and shutil.which("srun") is None:
        raise ConfigError(["hydra/launcher: submitit_slurm starts jobs by SLURM, which is not here (no srun); use hydra/launcher=joblib."])
    started = "submitit" in launcher._target_
    tasks = launcher.get("tasks_per_node", 1) * launcher.get("nodes", 1) if started else 1
    for config in line.configs:
        wanted = getattr(getattr(config, "runner", None), "processes", 1)
        if wanted == tasks:
            continue
        nodes = getattr(getattr(config, "runner", None), "num_nodes", 1)
        right = f"hydra.launcher.tasks_per_node={wanted // nodes} hydra.launcher.nodes={nodes}"
        if started:
            raise ConfigError(
                [f"hydra.launcher: starts {amount(tasks, 'process', 'processes')} per run, but a run has {wanted}; use {right}."]
            )
        raise ConfigError(
            [
                f"runner.devices: a sweep (-m) cannot start {wanted} processes per run, since each of them would run the whole sweep; "
                f"use graphgpt sweep, which starts every run afresh, or hydra/launcher=submitit_slurm {right}."
            ]
        )


def _check_values(line: CommandLine[Any]) -> None:
    """Refuse an interval where Hydra tries every combination."""
    if "BasicSweeper" not in line.hydra.sweeper._target_:
        return
    if endless := [override.input_line for override in read_sweeps(line.swept) if not override.is_discrete_sweep()]:
        raise ConfigError(
            [f"'{text}': an interval has no end of values; list some, or let graphgpt sweep choose (--trials 20)." for text in endless]
        )


def _threads(line: CommandLine[Any]) -> list[str]:
    """Where a launcher runs several at once on this machine, each gets its share of the processors."""
    launcher, count = line.hydra.launcher, len(line.configs)
    if "joblib" in launcher._target_:
        jobs = launcher.n_jobs if launcher.n_jobs > 0 else max(1, processors() + 1 + launcher.n_jobs)
        at_once = min(jobs, count)
    elif "submitit" in launcher._target_ and "Local" in launcher._target_:
        at_once = min(count, line.hydra.sweeper.get("max_batch_size") or count) * launcher.tasks_per_node
    else:
        return []
    key = "runner.threads" if isinstance(line.configs[0], ExperimentConfig) else "threads"
    settings = flat(plain_settings(line.configs[0]))
    return [f"{key}={threads(at_once=at_once)}"] if key in settings and settings[key] is None else []
