"""How configurations are declared and checked: ``@configclass``, ``Registered``, ``ActsWith``, ``parse``."""

import dataclasses
import os
import typing
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, Protocol, TypeVar, cast, dataclass_transform

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError, ValidationInfo
from pydantic.dataclasses import dataclass
from pydantic_core import CoreSchema, core_schema

from graphgpt.errors import GraphGPTError, cut, did_you_mean, nearest
from graphgpt.words import our_word

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

#: What a dataset yields: a graph whose nodes have texts, pictures with texts, or ready-made conversations.
Kind = typing.Literal["graph", "images", "records"]

#: What an evaluation can take away from a question.
Ablation = typing.Literal["none", "no_graph", "no_image", "zeroed", "shuffled", "other_node", "no_text"]

#: Simple methods that an evaluation can set beside the model.
Baseline = typing.Literal[
    "majority", "tfidf", "sgc", "gcn", "graphsage", "probe", "neighbor", "text_cosine", "two_hop_cosine", "common_neighbors", "llm"
]


#: Those of them that train a network on the whole graph at once.
NETWORKS: tuple[Baseline, ...] = ("gcn", "graphsage")


def placeholder(modality: str) -> str:
    """What stands in a wording, and in the files of others, where an input of a modality goes: ``<graph>``."""
    return f"<{modality}>"


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(Field,))
def configclass(cls: type[T]) -> type[T]:
    """A frozen, keyword-only dataclass whose values are checked against their annotations and that knows no extra keys.

    The string under a field documents it; ``Literal`` and ``Field(gt=0)`` constrain it.
    """
    config = ConfigDict(extra="forbid", coerce_numbers_to_str=True, allow_inf_nan=False)
    return cast(type[T], dataclass(kw_only=True, frozen=True, config=config)(cls))


@dataclasses.dataclass(frozen=True)
class Condition:
    """What is asked of a value.

    Args:
        words: Behind a key, such as ``above 0``.
        holds: Whether a value is so.
    """

    words: str
    holds: Callable[[Any], bool]


POSITIVE = Condition(" above 0", lambda value: value > 0)
GIVEN = Condition(" given", lambda value: value is not None)


class ActsWith:
    """Annotation of a field that acts only beside certain values of its neighbours: ``Annotated[int, ActsWith(name="planetoid")]``.

    Where it cannot act it may not be given, which :func:`idle_problems` says. A condition that no neighbour can tell is declared by the
    class of a registered node instead, in a class method ``idle(config, experiment)``: the keys, from the root, that do nothing beside it
    (of a node, all that is below it), and why.

    Args:
        conditions: By a neighbour's name the value that it must have, a tuple of several, or a :class:`Condition`; all of them count.
    """

    def __init__(self, **conditions: Any) -> None:
        self.conditions = {name: wanted if isinstance(wanted, Condition) else _one_of(wanted) for name, wanted in conditions.items()}

    def __str__(self) -> str:
        return " and ".join(f"{name}{wanted.words}" for name, wanted in self.conditions.items())

    def unmet(self, config: Any, prefix: str) -> str | None:
        """Why the field does not act in a config whose keys begin with ``prefix``; None where it does."""
        for name, wanted in self.conditions.items():
            if not wanted.holds(found := getattr(config, name)):
                return f"acts only with {prefix}{name}{wanted.words}, and that is {shown(found)}."
        return None


def _one_of(wanted: Any) -> Condition:
    values = wanted if isinstance(wanted, tuple) else (wanted,)
    return Condition(f"={' or '.join(map(shown, values))}", lambda value: value in values)


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


class EachOf:
    """Annotation of a mapping from names to configs of one class.

    Args:
        cls: A ``configclass``.
        key: The mapping's own config key, for messages.
        respelled: Puts a name into a message about its config, whose nodes speak of themselves as if there were but one.
    """

    def __init__(self, cls: type, key: str, respelled: Callable[[str, str], str]) -> None:
        self.cls = cls
        self.key = key
        self.respelled = respelled

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> CoreSchema:
        return core_schema.with_info_plain_validator_function(self._parse)

    def _parse(self, value: Any, info: ValidationInfo) -> Any:
        problems: list[str] = info.context if info.context is not None else []
        if not isinstance(value, dict):
            problems.append(f"{self.key}: expected configs by name, found {value!r}.")
            return {}
        found: dict[str, Any] = {}
        for name, item in value.items():
            own: list[str] = []
            if dataclasses.is_dataclass(item):
                found[name] = item
            elif isinstance(item, dict):
                found[name] = parse(self.cls, item, own, f"{self.key}.{name}")
            else:
                own.append(f"{self.key}.{name}: expected a config, found {item!r}.")
            problems += [self.respelled(problem, name) for problem in own]
        return {name: config for name, config in found.items() if config is not None}


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
    found += _truths_as_numbers(given, config, key)
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


def _truths_as_numbers(given: Any, config: Any, key: str) -> Iterator[str]:
    """A sentence for every ``true`` or ``false`` that became 1 or 0."""
    if isinstance(given, dict):
        for name, item in given.items():
            found = config.get(name) if isinstance(config, dict) else getattr(config, str(name), None)
            yield from _truths_as_numbers(item, found, f"{key}.{name}" if key else str(name))
    elif isinstance(given, list | tuple) and isinstance(config, list | tuple):
        for place, (item, found) in enumerate(zip(given, config, strict=False)):
            yield from _truths_as_numbers(item, found, f"{key}.{place}")
    elif isinstance(given, bool) and isinstance(config, int | float) and not isinstance(config, bool):
        yield f"{key}: {given} does not fit: input should be a number."


def _must_be_given(key: str) -> str:
    return f"{key}: must be given ({key}=...)."


def _sentence(cls: type, detail: dict[str, Any], key: str) -> str:
    loc = [str(part) for part in detail["loc"]]
    at = ".".join(filter(None, [key, *loc]))
    kind, value = detail["type"], detail["input"]
    if kind in ("unexpected_keyword_argument", "extra_forbidden"):
        names = _field_names(cls, loc[:-1])
        ours = our_word(at, evaluation=not key and "checkpoint" in names and not loc[:-1])
        return f"{at}: unknown key. {ours or nearest(loc[-1], names, at.removesuffix(loc[-1]))}"
    if kind in ("missing", "missing_argument", "missing_keyword_only_argument"):
        return _must_be_given(at)
    if kind == "literal_error":
        known = [word.strip(" '") for word in detail["ctx"]["expected"].replace(" or ", ", ").split(",")]
        return f"{at}: '{value}' is not one of {', '.join(known)}. {did_you_mean(str(value), known)}".strip()
    why = detail["msg"].removeprefix("Value error, ")
    return f"{at}: {cut(repr(value))} does not fit: {why[0].lower()}{why[1:]}."


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


def idle_problems(config: Any, given: Collection[str], idle: Mapping[str, str] | None = None) -> list[str]:
    """One sentence for every value that somebody gave and that cannot act beside the others.

    What differs from its default and was not given is no mistake: a recipe sets things for parts that a run may not have.

    Args:
        config: The root.
        given: Keys that were given, perhaps of whole nodes.
        idle: What does nothing for other reasons than its neighbours, by key, as the class methods ``idle`` say it.
    """
    found = []
    for leaf in leaves(config):
        why = leaf.why or next((why for key, why in (idle or {}).items() if _within(leaf.key, key)), None)
        if why and leaf.value != leaf.default and any(_within(leaf.key, key) or _within(key, leaf.key) for key in given):
            found.append(f"{leaf.key}={shown(leaf.value)}: {why}")
    return found


def declared_idle(experiment: Any, config: Any = None) -> dict[str, str]:
    """What the registered classes of an experiment say does nothing beside them: keys, each with the reason."""
    found: dict[str, str] = {}
    config = experiment if config is None else config
    for field in dataclasses.fields(config):
        value: Any = getattr(config, field.name)
        info = type(config).__pydantic_fields__[field.name]
        if each := next((mark for mark in info.metadata if isinstance(mark, EachOf)), None):
            for name, one in value.items():
                found |= {each.respelled(key, name): each.respelled(why, name) for key, why in declared_idle(experiment, one).items()}
        if not hasattr(value, "__dataclass_fields__"):
            continue
        registry = registry_of(info)
        if registry is not None and (says := getattr(registry.get(value.name), "idle", None)) is not None:
            found |= says(value, experiment)
        found |= declared_idle(experiment, value)
    return found


@dataclasses.dataclass(frozen=True)
class Leaf:
    """A value of a configuration.

    Args:
        key: From the root.
        value: What it is.
        default: What it is by default; ``MISSING`` where it must be given.
        why: Why it does not act beside its neighbours, None where it does.
    """

    key: str
    value: Any
    default: Any
    why: str | None


def leaves(config: Any, prefix: str = "", why: str | None = None) -> Iterator[Leaf]:
    """All values of a config, those in mappings too."""
    for name, info in type(config).__pydantic_fields__.items():
        value = getattr(config, name)
        default = MISSING if info.is_required() else info.get_default(call_default_factory=True)
        acts = next((mark for mark in info.metadata if isinstance(mark, ActsWith)), None)
        unmet = acts.unmet(config, prefix) if acts is not None and why is None else why
        yield from _below(f"{prefix}{name}", value, default, unmet)


def _below(key: str, value: Any, default: Any, why: str | None) -> Iterator[Leaf]:
    if dataclasses.is_dataclass(value):
        yield from leaves(value, f"{key}.", why)
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from _below(f"{key}.{name}", item, default.get(name, MISSING) if isinstance(default, dict) else MISSING, why)
    else:
        yield Leaf(key, value, default, why)


def _within(key: str, node: str) -> bool:
    return key == node or key.startswith(f"{node}.")


def registry_of(field: Any) -> "_Registry | None":
    """Where the class of a field's node is registered, None for a node of one class."""
    marks = [*field.metadata, *(mark for option in typing.get_args(field.annotation) for mark in typing.get_args(option)[1:])]
    return next((mark.registry for mark in marks if isinstance(mark, Registered)), None)


def shown(value: Any) -> str:
    """A value as YAML and the command line have it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(shown, value))}]"
    return str(value)


def flat(settings: Any, prefix: str = "") -> dict[str, Any]:
    """Values of nested mappings by their keys joined with dots; tuples as lists, for that is what YAML gives back."""
    if not isinstance(settings, dict) or not settings:
        return {prefix.removesuffix("."): list(settings) if isinstance(settings, tuple) else settings}
    return {key: value for name, node in settings.items() for key, value in flat(node, f"{prefix}{name}.").items()}
