"""How a program starts: its command line checked as a whole, its run in a folder that says how it went."""

import dataclasses
import functools
import logging
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from graphgpt.checkpoints.folder import read_settings
from graphgpt.config.command_line import CommandLine, check_command_line, read_command_line
from graphgpt.config.compatibility import accelerator_problems, run_problems
from graphgpt.config.composition import register_resolvers, resolving
from graphgpt.config.experiment import C, EvaluationConfig, ExperimentConfig, plain_settings
from graphgpt.config.grammar import addable, quoted, with_latest
from graphgpt.config.other_runs import AUTO
from graphgpt.errors import ConfigError, GraphGPTError, Interrupted
from graphgpt.files.atomic import write_text
from graphgpt.files.configs import with_folders
from graphgpt.launch.arguments import HELP, MULTIRUN, help_text, read_arguments
from graphgpt.launch.outermost import user_errors
from graphgpt.launch.sweep import launch_sweep
from graphgpt.runs.runs import ERROR, FINISHED, changes, holds_results, objective, run_state

log = logging.getLogger(__name__)


#: The configuration of the one run that this process was started for; of a sweep, each run reads its own command line.
_checked: list[Any] = []


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
                launch_sweep(program, cls, config_name, overrides, arguments.folders)
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
