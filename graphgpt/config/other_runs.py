"""What a command line leaves to runs that it names: one to begin with, one to go on in, one to evaluate."""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from graphgpt.checkpoints.folder import (
    checkpoint_experiment,
    checkpoint_problems,
    find_checkpoint,
    read_experiment,
)
from graphgpt.checkpoints.hand_over import TAKEN, handed_over
from graphgpt.config.experiment import ExperimentConfig, plain_settings, read_config
from graphgpt.errors import CheckpointError, ConfigError, GraphGPTError, amount
from graphgpt.files.atomic import RUNS
from graphgpt.files.configs import is_group
from graphgpt.files.untrusted import leads_out
from graphgpt.registry import check_plugins
from graphgpt.runs.runs import FINISHED, run_state
from graphgpt.schema import MISSING, flat, parse, shown

if TYPE_CHECKING:
    pass
from graphgpt.config.composition import compose_unchecked, plain

#: The value of ``resume`` that looks for the run to go on in.
AUTO = "auto"


def begun(data: dict[str, Any], overrides: Sequence[str], notes: list[str]) -> dict[str, Any]:
    """Settings of a run that may start where another ended: what nobody has chosen is as it was there.

    Raises:
        ConfigError: that run's config cannot be used.
    """
    folder = data.get("start_from")
    if not isinstance(folder, str) or folder == MISSING or checkpoint_problems(folder, "start_from"):
        return data
    chosen = {override.lstrip("+~").partition("=")[0].replace("/", ".") for override in overrides}
    problems: list[str] = []
    try:
        found = handed_over(folder, data, plain(compose_unchecked("train", [])), chosen)
        after = parse(ExperimentConfig, found, problems)
        if problems:  # perhaps for want of a class of the user's own
            check_plugins(read_experiment(find_checkpoint(folder) / "config.yaml"), folder)
    except GraphGPTError as error:
        raise ConfigError([f"start_from: {error}"]) from error
    before = parse(ExperimentConfig, data, problems)
    if found != data and not problems and (taken := _taken(plain_settings(before), plain_settings(after))):
        listed = " and ".join(filter(None, [", ".join(taken[:-1]), taken[-1]]))
        notes.append(f"start_from: takes {listed} from {folder}")
    return found


def _taken(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """What a hand-over changed, as it would be typed: a choice, or single values where the choice is the same."""
    found = []
    for key in TAKEN:
        ours, theirs = ({**settings, **settings["model"]}[key.rpartition(".")[2]] for settings in (before, after))
        if ours.get("name") != theirs.get("name"):
            found.append(f"{key.replace('.', '/')}={theirs['name']}")
        else:
            values = flat(ours)
            found += [f"{key}.{name}={shown(value)}" for name, value in flat(theirs).items() if values.get(name, MISSING) != value]
    return found


def completed(data: dict[str, Any]) -> dict[str, Any]:
    """Settings such as ``task.wording=2`` that name no task change the checkpoint's own; likewise ``dataset``."""
    partial = {key: node for key in ("dataset", "task") if isinstance(node := data.get(key), dict) and "name" not in node}
    if not partial or checkpoint_problems(str(data.get("checkpoint")), "checkpoint"):
        return data
    own = checkpoint_experiment(data["checkpoint"])
    merged = {key: OmegaConf.to_container(OmegaConf.merge(own[key], node)) for key, node in partial.items()}
    return data | merged


def interrupted(data: dict[str, Any]) -> str | None:
    """The newest run with exactly these settings that was stopped after its first resumable checkpoint and before its end."""
    wanted = plain_settings(read_config(ExperimentConfig, {**data, "resume": None}))
    for folder in sorted((RUNS / wanted["name"]).glob("*"), reverse=True):
        if (folder / "checkpoint").exists() or not any((folder / "resume").glob("*.ckpt")):
            continue
        with contextlib.suppress(CheckpointError):
            if read_experiment(folder / "config.yaml") == wanted:
                return str(folder)
    return None


def resumed(folder: str, overrides: Sequence[str]) -> dict[str, Any]:
    """The settings of a run that goes on, with single values changed."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    path = Path(folder) / "config.yaml"
    if not path.is_file():
        interrupted = f"resume={AUTO} finds the newest that was interrupted"
        raise ConfigError([f"resume: {folder} is not a run folder: it has no config.yaml ({interrupted})."])
    try:
        own = read_experiment(path)
        check_plugins(own, folder)
    except GraphGPTError as error:
        raise ConfigError([f"resume: {error}"]) from error
    settings = OmegaConf.create(own)
    before, epochs = (OmegaConf.select(settings, f"runner.{name}") for name in ("max_steps", "epochs"))
    given = OverridesParser.create().parse_overrides([*overrides])
    if found := leads_out(own.get("runner"), "runner", {override.key_or_group for override in given}):
        raise ConfigError(
            f"resume: {folder} has {key}={value}, which leads out of the run folder; if that is meant, say it here too: {key}={value}"
            for key, value in found
        )
    for override in given:
        key = override.key_or_group
        if key == "resume" or key.startswith("hydra"):
            continue
        if is_group(key) or override.is_delete():
            raise ConfigError(
                [f"resume: goes on with the choices of {folder}; drop {override.input_line}. Values such as runner.threads=1 may change."]
            )
        OmegaConf.update(settings, key, override.value(), force_add=True)
    if run_state(path.parent) == FINISHED:
        now, wanted = (OmegaConf.select(settings, f"runner.{name}") for name in ("max_steps", "epochs"))
        if wanted and epochs:
            now = round(before * wanted / epochs)
        _can_be_longer(path.parent, before, now)
    data = OmegaConf.to_container(settings)
    assert isinstance(data, dict)
    return {**data, "resume": folder}


def _can_be_longer(folder: Path, before: Any, now: Any) -> None:
    """Refuse to go on in a finished run unless more steps are asked for and there is a state to begin with.

    Raises:
        ConfigError: there is nothing to do, or nothing to go on from; its checkpoint and scores stay as they are.
    """
    done = f"resume: {folder} is finished, its {amount(before, 'step')} {'is' if before == 1 else 'are'} trained"
    if not (isinstance(before, int) and isinstance(now, int) and now > before):
        raise ConfigError([f"{done}: nothing is left to do. More of them are asked for by runner.max_steps, above {before}."])
    if not any((folder / "resume").glob("*.ckpt")):
        raise ConfigError(
            [
                f"{done}, and it kept no state to go on from (runner.checkpoint.every_n_steps); "
                f"train {amount(now, 'step')} in a new run instead, without resume."
            ]
        )
