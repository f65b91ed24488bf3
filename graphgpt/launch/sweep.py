"""A sweep by Hydra's sweeper (-m): its command line, its folder, what goes on."""

import re
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NotRequired

from typing_extensions import TypedDict

from graphgpt.config.command_line import CommandLine, read_command_line
from graphgpt.config.compatibility import metric_problems
from graphgpt.config.composition import read_sweeps
from graphgpt.config.experiment import C, ExperimentConfig, plain_settings
from graphgpt.config.grammar import addable, expanded, quoted
from graphgpt.config.other_runs import AUTO
from graphgpt.errors import ConfigError, GraphGPTError, amount, did_you_mean
from graphgpt.files.atomic import new_folder, write_json
from graphgpt.files.configs import own_folders
from graphgpt.files.records import read_record
from graphgpt.files.untrusted import leads_out
from graphgpt.machine.installation import typed
from graphgpt.machine.processors import processors, threads
from graphgpt.registry import check_plugins, load_plugins
from graphgpt.runs.runs import ERROR, FAILED, FINISHED, compare, find_runs
from graphgpt.schema import flat

#: In a sweep's folder: the command line that it was started with.
SWEEP = "sweep.json"


class Started(TypedDict):
    """``sweep.json``."""

    program: str
    overrides: list[str]
    folders: NotRequired[list[str]]


def launch_sweep(program: Callable[[], None], cls: type[C], config_name: str, overrides: Sequence[str], folders: Sequence[str]) -> None:
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
