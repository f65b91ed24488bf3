"""What settings there are: every field of every configuration with its type, its default and the string under it."""

import ast
import dataclasses
import functools
import inspect
import itertools
import textwrap
import types
import typing
from collections.abc import Iterator
from typing import Any

from graphgpt.config.experiment import EvaluationConfig, ExperimentConfig
from graphgpt.registry import REGISTRIES
from graphgpt.schema import MISSING, ActsWith, registry_of, shown

ROOTS: dict[str, type] = {"train": ExperimentConfig, "evaluate": EvaluationConfig}

_TYPES = {int: "whole number", float: "number", bool: "true or false", str: "text", type(None): "null"}
_BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}


@dataclasses.dataclass(frozen=True)
class Setting:
    """One key.

    Args:
        key: Below the node that was asked about.
        type: What it takes, with its bounds.
        default: What it is unless given.
        about: What it is for.
    """

    key: str
    type: str
    default: str
    about: str


def settings(cls: type, prefix: str = "", values: Any = None) -> Iterator[Setting]:
    """The settings of a config class, those of the nodes below it by dotted keys.

    Args:
        cls: A ``configclass``.
        prefix: Of the keys, with its dot.
        values: An instance whose values are the defaults, where another config's default says so.
    """
    about = _documentation(cls)
    for name, field in cls.__pydantic_fields__.items():  # type: ignore[attr-defined]
        default = MISSING if field.is_required() else field.get_default(call_default_factory=True)
        default = getattr(values, name) if values is not None else default
        nested = nested_config(field)
        if registry := registry_of(field):
            takes, unless = f"name and settings of a {registry.kind}", "null" if default is None else "must be given"
            yield Setting(f"{prefix}{name}", takes, unless, about.get(name, ""))
        elif nested is not None:
            yield from settings(nested, f"{prefix}{name}.", default if dataclasses.is_dataclass(default) else None)
        else:
            takes = ", ".join([_takes(field.annotation), *_bounds(field.metadata)])
            acts = "".join(f" Acts only with {mark}." for mark in field.metadata if isinstance(mark, ActsWith))
            yield Setting(f"{prefix}{name}", takes, "must be given" if default == MISSING else shown(default), about.get(name, "") + acts)


def nested_config(field: Any) -> type | None:
    """The config class of a field that is a node of one class."""
    options = (field.annotation, *typing.get_args(field.annotation))
    return next((option for option in options if isinstance(option, type) and dataclasses.is_dataclass(option)), None)


def classes_at(key: str) -> dict[str, type]:
    """The config classes that can stand at a dotted key such as ``model.tower``, by the names that choose them (empty for one alone)."""
    found: dict[str, type] = {"": ExperimentConfig, " ": EvaluationConfig}
    for part in key.split("."):
        below: dict[str, type] = {}
        for cls in found.values():
            field = cls.__pydantic_fields__.get(part)  # type: ignore[attr-defined]
            if field is None:
                continue
            if registry := registry_of(field):
                below |= {name: registry.get(name).Config for name in registry.names()}
            elif (nested := nested_config(field)) is not None:
                below.setdefault("", nested)
        found = below
    return found


def settings_at(key: str) -> list[Setting]:
    """What there is at a dotted key: the settings of its node, or the one setting that it names; none where there is no such key."""
    parent, _, name = key.rpartition(".")
    holders = classes_at(parent).values() if parent else ROOTS.values()
    found = dict.fromkeys(one for cls in holders for one in settings(cls, f"{parent}." if parent else ""))
    return [one for one in found if one.key == key or one.key.startswith(f"{key}.")] if name else []


def keys() -> set[str]:
    """All dotted keys of a training, whatever is chosen, and those of the nodes that hold them."""
    found: set[str] = set()
    waiting = {"model", "dataset", "task", "runner"}
    while waiting:
        key = waiting.pop()
        for cls in classes_at(key).values():
            for one in settings(cls, f"{key}."):
                found |= {one.key, one.key.rpartition(".")[0]}
                path = one.key.split(".")
                if one.type.startswith("name and settings of") and len(path) == len(set(path)):  # a mixture's parts are tasks again
                    waiting.add(one.key)
    return found


def first_sentence(cls: type) -> str:
    """The first line of a class's own documentation."""
    return (cls.__doc__ or "").strip().partition("\n")[0].replace("``", "")


def reference() -> str:
    """All settings as a page in Markdown."""
    lines = [
        "# Reference",
        "",
        "Every setting there is, made of the code by `graphgpt reference > docs/reference.md`. In the terminal `graphgpt ls tower/gat` and",
        "`graphgpt ls runner.checkpoint` show a part. Defaults are those of the code; what a shipped file sets instead, `--cfg job` shows.",
        "",
    ]
    for program, cls in ROOTS.items():
        lines += [f"## {program}", "", *_table(cls), ""]
    for kind, registry in REGISTRIES.items():
        lines += [f"## {kind.replace('_', ' ')}", ""]
        for name in registry.names():
            found = registry.get(name)
            if found.__module__.startswith("graphgpt."):
                lines += [f"### {name}", "", first_sentence(found), "", *_table(found.Config), ""]
    return "\n".join(lines).rstrip() + "\n"


def _table(cls: type) -> list[str]:
    rows = [
        [f"`{one.key}`", one.type, f"`{one.default}`" if one.default != "must be given" else one.default, one.about.replace("``", "`")]
        for one in settings(cls)
    ]
    return ["| key | takes | default | what it is |", "| --- | --- | --- | --- |"] + [
        f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows
    ]


@functools.cache
def _documentation(cls: type) -> dict[str, str]:
    """The strings under the fields of a class and of those that it inherits from, each as one line."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if not dataclasses.is_dataclass(base):
            continue
        [tree] = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        body = tree.body if isinstance(tree, ast.ClassDef) else []
        for field, after in itertools.pairwise(body):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(after, ast.Expr):
                found[field.target.id] = " ".join(ast.literal_eval(after.value).split())
    return found


def _takes(annotation: Any) -> str:
    """A type in words."""
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return ", ".join([_takes(inner[0]), *_bounds(inner[1:])])
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_takes(option) for option in inner)
    if origin is typing.Literal:
        return ", ".join(shown(value) for value in inner)
    if origin in (list, tuple, set, frozenset):
        return f"list of {_takes(inner[0])}" if inner else "list"
    if origin is dict or annotation is dict:
        return "mapping"
    return _TYPES.get(annotation, getattr(annotation, "__name__", "any"))


def _bounds(metadata: Any) -> list[str]:
    """Limits of a value in words."""
    return [
        f"{word} {shown(limit)}" for mark in metadata for name, word in _BOUNDS.items() if (limit := getattr(mark, name, None)) is not None
    ]
