"""The config files that a command line can choose from: the user's own, then those that are shipped."""

import contextlib
import io
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, ListConfig, OmegaConf

from graphgpt.errors import ConfigError
from graphgpt.machine.installation import CHECKOUT, PACKAGE

CONFIG_DIR = (CHECKOUT or PACKAGE) / "configs"

#: The user's own config files, beside them: found without being asked for.
OWN = "graphgpt_configs"
#: More folders of theirs, as ``--config-dir`` names them; an environment variable, so that the processes of a run know them too.
VARIABLE = "GRAPHGPT_CONFIG_DIR"

#: Where the files of a group go in the configuration, if not where the group's name says.
PACKAGES = {
    "callbacks": "runner.callbacks",
    "debug": "_global_",
    "experiment": "_global_",
    "local": "_global_",
    "logger": "runner.loggers",
    "sweep": "_global_",
}


def own_folders() -> list[Path]:
    """The folders with config files of the user's own; one that comes earlier counts first, and all of them before the shipped files."""
    named = [folder for folder in os.environ.get(VARIABLE, "").split(os.pathsep) if folder]
    return [folder for folder in dict.fromkeys(Path(one).expanduser().absolute() for one in (*named, OWN)) if folder.is_dir()]


@contextlib.contextmanager
def with_folders(folders: Sequence[str]) -> Iterator[None]:
    """Within the block, these folders count as the user's own too, here and in the processes that are started.

    Raises:
        ConfigError: one is not there.
    """
    if missing := [folder for folder in folders if not Path(folder).expanduser().is_dir()]:
        raise ConfigError([f"--config-dir: {folder} is no folder." for folder in missing])
    before = os.environ.get(VARIABLE)
    if folders:
        added = [str(Path(folder).expanduser().absolute()) for folder in folders]
        os.environ[VARIABLE] = os.pathsep.join([*added, *filter(None, [before])])
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(VARIABLE, None)
        else:
            os.environ[VARIABLE] = before


def add_config_dir_option(parser: Any) -> None:
    """Add ``--config-dir`` to the parser of a command that composes configs; its values are for :func:`with_folders`."""
    parser.add_argument(
        "--config-dir", metavar="DIR", action="append", default=[], help=f"config files of your own, as in {OWN}/ beside you"
    )


def config_groups() -> dict[str, list[Path]]:
    """The groups that a command line can choose from, such as ``model/tower``, each with its files; the user's replace shipped ones."""
    found: dict[str, dict[str, Path]] = {}
    for folder in (CONFIG_DIR, *reversed(own_folders())):
        for path in sorted(folder.rglob("*.yaml")):
            group = path.parent.relative_to(folder).as_posix()
            if group not in (".", "hydra"):
                found.setdefault(group, {})[path.stem] = path
    return {group: [files[name] for name in sorted(files)] for group, files in sorted(found.items())}


def own_plugins() -> list[str]:
    """The modules that the user's own config files name as ``plugins``.

    Raises:
        ConfigError: a file cannot be read.
    """
    found: list[str] = []
    for folder in own_folders():
        for path in sorted(folder.rglob("*.yaml")):
            named = read_config_file(path)[1].get("plugins")
            found += [str(module) for module in named] if isinstance(named, ListConfig) else []
    return list(dict.fromkeys(found))


def own_file(group: str, option: str) -> Path | None:
    """The user's own file of an option, None where it is a shipped one."""
    return next((file for folder in own_folders() if (file := folder / group / f"{option}.yaml").is_file()), None)


def keys_of(group: str, path: Path) -> dict[str, dict[str, str]]:
    """The dotted keys that a file of a group sets, those of whole nodes too, each with the numbers there that we spell otherwise.

    Returns:
        By key, and by our spelling, as :func:`respelled` gives it, the file's.
    """
    place = PACKAGES.get(group.partition("/")[0], group.replace("/", "."))
    text, content = read_config_file(path)
    waiting: list[tuple[str, Any, Any]] = [
        ("" if place == "_global_" else place, OmegaConf.to_container(content), yaml.compose(text, yaml.SafeLoader))
    ]
    found: dict[str, dict[str, str]] = {}
    while waiting:
        key, value, node = waiting.pop()
        written = node.value if isinstance(node, yaml.SequenceNode) else [node]
        found[key] = respelled(value, [getattr(one, "value", "") for one in written])
        if isinstance(value, dict):
            nodes = {name.value: below for name, below in node.value} if isinstance(node, yaml.MappingNode) else {}
            waiting += [(f"{key}.{name}".lstrip("."), below, nodes.get(str(name))) for name, below in value.items()]
    return found


def respelled(read: Any, typed: Sequence[Any]) -> dict[str, str]:
    """What was typed and read as a number that we spell otherwise, such as ``1_000``: were it meant as a text, that would be another.

    Args:
        read: A value, or a list of values.
        typed: What stands there for each.

    Returns:
        What was typed, by our spelling.
    """
    pairs = zip(read if isinstance(read, list) else [read], typed, strict=False)
    numbers = [(str(value), str(text).strip()) for value, text in pairs if isinstance(value, int | float) and not isinstance(value, bool)]
    return {ours: theirs for ours, theirs in numbers if ours != theirs and re.fullmatch(r"[-+.:\w]+", theirs)}


def is_own(path: Path) -> bool:
    """Whether a config file is the user's."""
    return not path.is_relative_to(CONFIG_DIR)


def is_group(key: str) -> bool:
    """Whether a key of the command line chooses a file and is no value."""
    return "/" in key or "@" in key or any((folder / key).is_dir() for folder in (CONFIG_DIR, *own_folders()))


def options(group: str) -> list[str]:
    """Names of a config group's files, with their sub-folders."""
    below = {sub.removeprefix(group).lstrip("/"): files for sub, files in config_groups().items() if f"{sub}/".startswith(f"{group}/")}
    return sorted(f"{sub}/{path.stem}".lstrip("/") for sub, files in below.items() for path in files)


def describe(path: Path) -> str:
    """The first comment line of a config file that is neither a directive nor a command."""
    for line in path.read_text(encoding="utf-8-sig", errors="replace").splitlines():
        text = line.lstrip("# ").strip()
        if line.startswith("#") and not text.startswith(("@package", "python ", "graphgpt ")):
            return text
    return ""


def read_config_file(file: Path) -> tuple[str, DictConfig]:
    """A config file's text and its content.

    Raises:
        ConfigError: it is no text in UTF-8, no YAML, or no mapping; with its line.
    """
    data = file.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ConfigError(
            [f"{file}, line {line}: the byte {data[error.start]:#04x} is no UTF-8; save the file in that encoding."]
        ) from error
    try:
        content = OmegaConf.load(io.StringIO(text))
    except yaml.YAMLError as error:
        raise ConfigError([f"{file}{_yaml_problem(error)}"]) from error
    except (OSError, ValueError) as error:  # how OmegaConf refuses what is neither mapping nor list
        raise ConfigError([f"{file}: is no mapping of config keys."]) from error
    if not isinstance(content, DictConfig):
        raise ConfigError([f"{file}: is a list, expected a mapping of config keys."])
    return text, content


def _yaml_problem(error: yaml.YAMLError) -> str:
    """The place in a file, and what is wrong there."""
    mark, problem = getattr(error, "problem_mark", None), str(getattr(error, "problem", None) or error)
    context = getattr(error, "context_mark", None)
    if problem.startswith("found duplicate key"):
        what = f"the key '{problem.removeprefix('found duplicate key ')}' stands there a second time."
    elif "'\\t'" in problem:
        what = "a tab, where YAML takes spaces only."
    elif context is not None and mark is not None and context.line != mark.line:
        what = f"is no YAML: {problem} ({error.context}, begun in line {context.line + 1})."  # type: ignore[attr-defined]
    else:
        what = f"is no YAML: {problem}."
    return f", line {mark.line + 1}: {what}" if mark is not None else f": {what}"
