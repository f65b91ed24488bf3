"""What Hydra makes of a command line and the config files."""

import contextlib
import os
import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from graphgpt.errors import ConfigError, first_line, nearest
from graphgpt.files.atomic import new_folder
from graphgpt.files.configs import CONFIG_DIR, options
from graphgpt.schema import MISSING

if TYPE_CHECKING:
    from hydra.core.config_loader import ConfigLoader
    from hydra.core.override_parser.types import Override
from graphgpt.config.grammar import addable, choices, in_grammar

#: Hydra's plugins that we know, with the extra that installs each.
PLUGIN_EXTRAS = {
    "hydra/launcher": {"joblib": "joblib", "submitit_local": "slurm", "submitit_slurm": "slurm", "ray": "ray"},
    "hydra/sweeper": {"optuna": "optuna-sweeper"},
}


def compose_unchecked(config_name: str, arguments: Sequence[str]) -> DictConfig:
    """What a command line's overrides make of the config files; imports nothing that the settings name.

    Raises:
        ConfigError: a choice does not exist, or Hydra cannot read an argument.
    """
    problems: list[str] = []
    with hydra_ready():
        composed = composed_by_hydra(config_name, [*map(addable, readable_arguments(config_name, arguments, problems))], problems)
    if problems:
        raise ConfigError(dict.fromkeys(problems))
    return without_hydra(composed)


@contextlib.contextmanager
def hydra_ready() -> "Iterator[ConfigLoader]":
    """Hydra, ready to compose our config files and the user's."""
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    register_resolvers()
    state = GlobalHydra.instance()
    around, state.hydra = state.hydra, None  # of the program, if this is one of Hydra's jobs
    try:
        with initialize_config_dir(str(CONFIG_DIR.resolve()), version_base="1.3"):
            yield state.config_loader()
    finally:
        state.hydra = around


def readable_arguments(config_name: str, arguments: Sequence[str], problems: list[str]) -> list[str]:
    """The arguments in Hydra's grammar, those left out that cannot be read: of each, ``problems`` gets to know why.

    ``experiment=null`` is left out as well, with what chose an experiment before it: Hydra has no word for no choice.
    """
    defaults = OmegaConf.load(CONFIG_DIR / f"{config_name}.yaml").defaults
    optional = {group for entry in defaults if isinstance(entry, DictConfig) for group, chosen in entry.items() if chosen is None}
    found: list[str] = []
    for argument in arguments:
        try:
            readable = in_grammar(argument)
        except ConfigError as unreadable:
            problems += unreadable.problems
            continue
        group, _, value = readable.partition("=")
        if group in optional and value == "null":
            found = [other for other in found if other.partition("=")[0] != group]
        else:
            found.append(readable)
    return found


def read_sweeps(arguments: Sequence[str]) -> "list[Override]":
    """Hydra's reading of arguments that sweep, also of a glob, which asks what files there are."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    with hydra_ready() as loader:
        return OverridesParser.create(loader).parse_overrides([*arguments])


def composed_by_hydra(config_name: str, overrides: Sequence[str], problems: list[str]) -> DictConfig:
    """What Hydra composes of single-valued overrides, with its own settings; a choice that does not exist is noted and left out."""
    from hydra import compose
    from hydra.errors import HydraException, MissingConfigException

    overrides = [*overrides]
    while True:
        try:
            return compose(config_name, overrides, return_hydra_config=True)
        except MissingConfigException as error:
            missing = error.missing_cfg_file or ""
            place, group, name = _choice_of(missing, overrides)
            plugins = PLUGIN_EXTRAS.get(group, {})
            if name in plugins:
                problems.append(f"{group}: '{name}' is not installed: pip install 'graphgpt[{plugins[name]}]'.")
            else:
                below = [option for option in options(group) if option.startswith(f"{name}/")]
                hint = f"It is a folder of them: {', '.join(below)}." if below else nearest(name, [*options(group), *plugins])
                problems.append(f"{group}: there is no '{name}'. {hint}")
            if place is None:
                raise ConfigError(dict.fromkeys(problems)) from error
            others = [other for other in choices(overrides[place]) if other != name]
            overrides[place : place + 1] = [f"{group}=[{','.join(others)}]"] if others else []
        except (HydraException, ValueError) as refusal:
            raise ConfigError(dict.fromkeys([*problems, " ".join(str(refusal).split())])) from refusal


def _choice_of(option: str, overrides: Sequence[str]) -> tuple[int | None, str, str]:
    """Which override chooses an option such as ``model/tower/sgc`` (None: no override does), and the option as group and name."""
    for place, override in enumerate(overrides):
        group = override.lstrip("+~").partition("=")[0]
        if option.startswith(f"{group}/") and option.removeprefix(f"{group}/") in choices(override):
            return place, group, option.removeprefix(f"{group}/")
    group, _, name = option.rpartition("/")
    return None, group, name


def without_hydra(composed: DictConfig) -> DictConfig:
    return OmegaConf.masked_copy(composed, [key for key in composed if key != "hydra"])  # type: ignore[misc]


def plain(composed: DictConfig) -> dict[str, Any]:
    with resolving(composed):
        data = OmegaConf.to_container(composed, resolve=True, throw_on_missing=False)
    assert isinstance(data, dict)
    return {str(key): value for key, value in data.items() if key != "hydra"}


@contextlib.contextmanager
def resolving(composed: DictConfig) -> Iterator[None]:
    """Within the block, a value that refers to what is not there is told in a sentence, and what the system refuses as such.

    Raises:
        ConfigError: there is such a value.
    """
    try:
        yield
    except OmegaConfBaseException as error:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, OSError):
                raise cause from error
            cause = cause.__cause__ or cause.__context__
        raise ConfigError([_unresolved(composed, error)]) from error


def _unresolved(composed: DictConfig, error: OmegaConfBaseException) -> str:
    """The sentence about a value such as ``${foo.bar}`` that refers to nothing."""
    found: Any = OmegaConf.to_container(composed, resolve=False)
    key = error.full_key or ""
    for part in re.findall(r"[^.\[\]]+", key.removeprefix("hydra.") if "hydra" not in found else key):
        found = found[int(part) if isinstance(found, list) else part]
    literal = f"{key}={str(found).replace('${', chr(92) + '${')}"
    return (
        f"{key}: in '{found}', ${{...}} stands for the value of another key, and that cannot be found ({first_line(error)}); "
        f"for the characters themselves, type {shlex.quote(literal)}"
    )


def register_resolvers() -> None:
    """Tell Hydra about our config files, and OmegaConf about the interpolations in them."""
    from graphgpt.files.config_source import register

    register()
    # Cached by the configuration that asks: what it makes is made once.
    OmegaConf.register_new_resolver("graphgpt.run_dir", _run_dir, replace=True, use_cache=True)
    # OmegaConf's own ??? does not override a value that is there; this does.
    OmegaConf.register_new_resolver("graphgpt.must_be_given", lambda: MISSING, replace=True)


def _run_dir(resume: str | None, default: str) -> str:
    return os.environ.get("GRAPHGPT_RUN_DIR") or resume or _common(default)


def _common(folder: str) -> str:
    """A new folder, one for all processes of a run, of which each has looked at the clock itself."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        from torch.distributed import TCPStore  # type: ignore[attr-defined]

        # torchrun's own, at which its processes meet.
        store = TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
        key = f"graphgpt/run_dir/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}"
        if os.environ["RANK"] == "0":
            store.set(key, str(new_folder(Path(folder))))
        return str(store.get(key).decode())
    if int(os.environ.get("SLURM_NTASKS", 1)) > 1:
        return str(Path(folder).with_name(f"slurm-{os.environ['SLURM_JOB_ID']}.{os.environ.get('SLURM_STEP_ID', 0)}"))
    return str(new_folder(Path(folder)))
