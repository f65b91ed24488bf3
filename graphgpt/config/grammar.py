"""How one argument of a command line is read: Hydra's grammar, and what people type instead."""

import os
import re
import shlex
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from graphgpt.checkpoints.folder import (
    LATEST,
    named_checkpoint,
)
from graphgpt.errors import ConfigError, first_line, nearest
from graphgpt.files.configs import config_groups, is_group, options, respelled

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override


def respelled_by_hydra(override: "Override") -> dict[str, str]:
    """What an argument holds that looks like a number and that we spell otherwise."""
    typed = (override.input_line or "").partition("=")[2].strip()
    value = getattr(override.value(), "list", override.value())  # of a sweep, its choices
    return respelled(value, re.sub(r"^\w*[\[(]|[\])]$", "", typed).split(",") if isinstance(value, list) else [typed])


def parsed(argument: str) -> "Override":
    """Hydra's reading of an argument.

    Raises:
        HydraException: it is none.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser

    return OverridesParser.create().parse_override(argument)


#: Keys of folders that are looked at before a configuration is typed.
FOLDERS = ("resume", "start_from", "checkpoint", "hydra.run.dir", "hydra.sweep.dir")


def expanded(folder: str) -> str:
    """A path without the ``~`` that stands for the user's home; as it is where there is no such user."""
    return os.path.expanduser(folder)  # noqa: PTH111  # pathlib's raises instead


def with_latest(overrides: Sequence[str]) -> list[str]:
    """A command line in which folders stand where the user said ``latest``; it is said which.

    Raises:
        CheckpointError: there is no checkpoint.
    """
    found = []
    for override in overrides:
        key, _, value = override.partition("=")
        values = value.split(",")
        if key.lstrip("+") in ("start_from", "checkpoint") and LATEST in values:
            override = f"{key}={','.join(quoted(str(named_checkpoint(one))) if one == LATEST else one for one in values)}"
        found.append(override)
    return found


#: A value that begins so is meant for Hydra: a list, a mapping, a text in quotes, a function.
_STRUCTURED = re.compile(
    r"""\s*(?:[\[{'"]|(?:choice|range|interval|glob|sort|shuffle|tag|extend_list|json_str|int|float|str|bool)\()|.*(?<!\\)\$\{"""
)


def in_grammar(argument: str) -> str:
    """An argument in Hydra's grammar, which wants quotes around much that is plain to people: ``dataset.category=thème``.

    What Hydra reads is left as it is, but for Python's word ``None``, which is null.

    Raises:
        ConfigError: it cannot be read; the message says what to type.
    """
    from hydra.errors import HydraException

    key, equals, value = argument.partition("=")
    if value == "None":
        return f"{key}={'none' if 'none' in options(key.lstrip('+')) else 'null'}"
    if key.lstrip("+") in FOLDERS and "~" in value:
        value = ",".join(expanded(folder) for folder in value.split(","))
        argument = f"{key}={value}"
    try:
        parsed(argument)
        return argument
    except HydraException as error:
        refusal = first_line(error)
    if not equals or not re.fullmatch(r"[\w.@/+~-]+", key, re.ASCII):
        raise ConfigError([f"'{argument}': cannot be read as key=value ({refusal})."])
    text = f"{key}={quoted(value)}"
    if _STRUCTURED.match(value):
        raise ConfigError([f"'{argument}': cannot be read as key=value ({refusal}); if it is all one text, type {in_shell(text)}"])
    if "," in value:
        several = f"{key}={','.join(quoted(part) for part in value.split(','))}"
        choice = f"type {in_shell(text)} for one text, {in_shell(several)} for several"
        raise ConfigError([f"'{argument}': a comma stands between values of a sweep; {choice}."])
    try:
        parsed(text)
    except HydraException:  # what is wrong is the key, such as runner.0x
        raise ConfigError([f"'{argument}': cannot be read as key=value ({refusal})."]) from None
    return text


def quoted(value: str) -> str:
    """A text as a value of Hydra's command line, whatever is in it."""
    if re.fullmatch(r"[\w./-]+", value, re.ASCII):
        return value
    escaped = re.sub(r"(\\*)'", r"\1\1\\'", value)  # only those backslashes are special that stand before a quote
    trailing = escaped[len(escaped.rstrip("\\")) :]
    return f"'{escaped}{trailing}'"


def in_shell(argument: str) -> str:
    """An argument as it is typed into a shell."""
    return f'"{argument}"' if not re.search(r"[\"$`\\!]", argument) else shlex.quote(argument)


def misplaced(argument: str, override: "Override") -> str | None:
    """What is wrong with where an argument puts its value: a group that is none, a choice that is written as a value, ..."""
    key, value = override.key_or_group, override.value()
    groups = config_groups()
    if not key or (is_group(key) and not override.is_sweep_override() and not is_choice(value)):
        return f"'{argument}': cannot be read as key=value or group=option."
    if "/" in key and not key.startswith("hydra/") and key not in groups and not override.is_delete():
        return f"{key}: there is no such group of configs. {nearest(key, groups)}"
    if is_group(key) and isinstance(value, str) and "${" in value:
        return f"{key}: '{value}' is no option. Known: {', '.join(options(key))}."
    path = key.replace(".", "/")
    if path in groups and "." in key and isinstance(value, str):
        return f"{key}: is chosen with a slash, {path}={value}."
    if value is None and key in groups and key not in ("logger", "callbacks") and not override.is_delete():
        return f"{key}: needs one of {', '.join(path.stem for path in groups[key])}; null is none of them."
    return None


def swept_values(override: "Override") -> list[str]:
    """The values of a sweep, of an interval its ends, as the command line would give each alone."""
    from hydra.core.override_parser.types import IntervalSweep

    if isinstance(interval := override.value(), IntervalSweep):
        return [str(interval.start), str(interval.end)]
    return list(override.sweep_string_iterator())


def choices(override: str) -> list[str]:
    """The options that an override such as ``logger=[csv,wandb]`` chooses."""
    return [name.strip() for name in override.partition("=")[2].strip("[]").split(",")]


def is_choice(value: Any) -> bool:
    """Whether a value can choose from a group: an option, none, or a list of options where several go together."""
    return isinstance(value, str | None) or (isinstance(value, list) and all(isinstance(name, str) for name in value))


def addable(override: str) -> str:
    """An override of a value so that Hydra takes it even where no file spells the key; whether it exists, the schema says."""
    key, _, value = override.partition("=")
    if key in ("logger", "callbacks") and value == "null":
        return f"{key}=[]"  # Hydra reads no null where several can be chosen
    return override if key.startswith(("+", "~", "hydra.")) or is_group(key) else f"++{override}"


def given_keys(overrides: Iterable[str]) -> list[str]:
    """The keys whose values a command line sets, without those that choose a file."""
    keys = [override.lstrip("+").partition("=")[0] for override in overrides if not override.startswith("~")]
    return [key for key in keys if not is_group(key)]
