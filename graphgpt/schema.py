"""How configurations are declared and checked: ``@configclass``, ``Registered``, ``parse``."""

import dataclasses
import os
import typing
from collections.abc import Iterator
from typing import Any, Protocol, TypeVar, cast, dataclass_transform

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError, ValidationInfo
from pydantic.dataclasses import dataclass
from pydantic_core import CoreSchema, core_schema

from graphgpt.errors import GraphGPTError, did_you_mean, nearest

T = TypeVar("T")

#: A file or folder that a user names; ``~`` at its beginning is their home.
UserPath = typing.Annotated[str, AfterValidator(os.path.expanduser)]

#: What OmegaConf puts where a value must be given.
MISSING = "???"

#: The largest whole number that a config may have, for it ends up as one of 32 bits somewhere: a seed, a size, a number of threads.
LARGEST = 2**31 - 1
#: The largest number that is not whole: of 32 bits, too.
LARGEST_FRACTION = 3e38
#: Most processes or threads that are meant; more of them would keep a machine from answering.
MOST_PROCESSES = 4096

# Words that the configs and what they set up share. They stand here so that a config can be read without any of the latter's libraries.

#: Where tensors live, for training and evaluation alike.
Accelerator = typing.Literal["auto", "cpu", "cuda", "mps"]

#: Which of a task's items.
Split = typing.Literal["train", "val", "test"]

#: In the order in which numbers stand for them.
SPLITS: tuple[Split, ...] = typing.get_args(Split)

#: What an evaluation can take away from a question.
Ablation = typing.Literal["none", "no_graph", "zeroed", "shuffled", "other_node", "no_text"]

#: Simple methods that an evaluation can set beside the model.
Baseline = typing.Literal["majority", "tfidf", "sgc", "gcn", "graphsage", "text_cosine", "two_hop_cosine", "common_neighbors", "llm"]


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(Field,))
def configclass(cls: type[T]) -> type[T]:
    """A frozen, keyword-only dataclass whose values are checked against their annotations and that knows no extra keys.

    The string under a field documents it; ``Literal`` and ``Field(gt=0)`` constrain it.
    """
    config = ConfigDict(extra="forbid", coerce_numbers_to_str=True, allow_inf_nan=False)
    return cast(type[T], dataclass(kw_only=True, frozen=True, config=config)(cls))


class _Registry(Protocol):
    kind: str

    def get(self, name: str) -> Any: ...

    def names(self) -> list[str]: ...


class Registered:
    """Annotation of a config node ``{name: ..., **fields}``: its fields are those of the registered class's ``Config``.

    The class may say more about a config than its types do, in a class method ``problems(config)``: one sentence for
    everything that cannot work and can be seen without work, such as a missing file.

    Args:
        registry: Where ``name`` is looked up.
        key: The node's own config key, for messages.
    """

    def __init__(self, registry: _Registry, key: str) -> None:
        self.registry = registry
        self.key = key

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> CoreSchema:
        return core_schema.with_info_plain_validator_function(self._parse)

    def _parse(self, value: Any, info: ValidationInfo) -> Any:
        problems: list[str] = info.context if info.context is not None else []
        if dataclasses.is_dataclass(value):
            return value
        if not isinstance(value, dict) or not isinstance(value.get("name"), str) or value["name"] == MISSING:
            known = nearest("", self.registry.names())
            problems.append(f"{self.key}: expected 'name' and the fields of one {self.registry.kind}, found {value!r}. {known}")
            return None
        try:
            cls = self.registry.get(value["name"])
        except GraphGPTError as error:
            problems.append(f"{self.key}.name: {error}")
            return None
        config = parse(cls.Config, value, problems, self.key)
        if config is not None:
            problems += cls.problems(config)
        return config


def parse(cls: type[T], data: dict[str, Any], problems: list[str], key: str = "") -> T | None:
    """Build ``cls`` from plain data, adding one sentence to ``problems`` for everything that is wrong.

    Args:
        cls: A ``configclass``.
        data: Nested plain containers; a value ``???`` counts as not given.
        problems: Sentences are appended here, in the user's spelling of keys.
        key: Config key at which ``data`` stands.

    Returns:
        The instance, or None when ``data`` itself could not be read. Use it only if ``problems`` stayed empty.
    """
    missing: list[str] = []
    found: list[str] = []
    given = _without_missing(data, key, missing)
    try:
        config = TypeAdapter(cls).validate_python(given, context=problems)
    except ValidationError as error:
        config = None
        found = [_sentence(cls, dict(detail), key) for detail in error.errors()]
    if not key:
        found += [sentence for at, sentence in _too_large(data) if not any(one.startswith(f"{at}: ") for one in [*problems, *found])]
    # A key that must be given may have a default all the same, of which only the config file knows better.
    problems += [sentence for sentence in dict.fromkeys([*missing, *found]) if sentence not in problems]
    return None if missing else config


def _without_missing(value: Any, key: str, missing: list[str]) -> Any:
    if not isinstance(value, dict):
        return value
    at = {name: f"{key}.{name}" if key else str(name) for name in value}
    missing += [_must_be_given(at[name]) for name, item in value.items() if item == MISSING]
    return {name: _without_missing(item, at[name], missing) for name, item in value.items() if item != MISSING}


def _too_large(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Numbers at or below a node that no tensor, generator or thread count takes: key and sentence of each."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _too_large(item, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list | tuple):
        for place, item in enumerate(value):
            yield from _too_large(item, f"{key}.{place}")
    elif isinstance(value, int | float) and not abs(value) <= (LARGEST if isinstance(value, int) else LARGEST_FRACTION):
        limit = f"{LARGEST:,}" if isinstance(value, int) else f"{LARGEST_FRACTION:g}"
        yield key, f"{key}: {value} does not fit: no number here may be beyond {limit}."


def _must_be_given(key: str) -> str:
    return f"{key}: must be given ({key}=...)."


def _sentence(cls: type, detail: dict[str, Any], key: str) -> str:
    loc = [str(part) for part in detail["loc"]]
    at = ".".join(filter(None, [key, *loc]))
    kind, value = detail["type"], detail["input"]
    if kind in ("unexpected_keyword_argument", "extra_forbidden"):
        return f"{at}: unknown key. {nearest(loc[-1], _field_names(cls, loc[:-1]), at.removesuffix(loc[-1]))}"
    if kind in ("missing", "missing_argument", "missing_keyword_only_argument"):
        return _must_be_given(at)
    if kind == "literal_error":
        known = [word.strip(" '") for word in detail["ctx"]["expected"].replace(" or ", ", ").split(",")]
        return f"{at}: '{value}' is not one of {', '.join(known)}. {did_you_mean(str(value), known)}".strip()
    return f"{at}: {value!r} does not fit: {detail['msg'][0].lower()}{detail['msg'][1:]}."


def _field_names(cls: type, loc: list[str]) -> list[str]:
    """Names of the fields of the dataclass found by walking ``loc`` from ``cls``."""
    for part in loc:
        hint = typing.get_type_hints(cls).get(part)
        options = [hint, *typing.get_args(hint)]
        found = next((option for option in options if dataclasses.is_dataclass(option)), None)
        if not isinstance(found, type):
            return []
        cls = found
    return [field.name for field in dataclasses.fields(cls)]


def flat(settings: Any, prefix: str = "") -> dict[str, Any]:
    """Values of nested mappings by their keys joined with dots; tuples as lists, for that is what YAML gives back."""
    if not isinstance(settings, dict) or not settings:
        return {prefix.removesuffix("."): list(settings) if isinstance(settings, tuple) else settings}
    return {key: value for name, node in settings.items() for key, value in flat(node, f"{prefix}{name}.").items()}
