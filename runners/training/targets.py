"""Third-party leaves of the config (optimizer, callbacks, loggers): classes from a reviewed list, built with named arguments."""

import importlib.util
import inspect
import pkgutil
import typing
from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

from graphgpt.errors import GraphGPTError, did_you_mean, first_line, nearest
from graphgpt.registry import of_plugin

_TORCH = ("ASGD", "Adadelta", "Adafactor", "Adagrad", "Adam", "AdamW", "Adamax", "NAdam", "RAdam", "RMSprop", "Rprop", "SGD")
_BITS_AND_BYTES = ("AdEMAMix", "Adagrad", "Adam", "AdamW", "LAMB", "Lion", "RMSprop", "SGD")
_PAGED = ("AdEMAMix", "Adam", "AdamW", "Lion")

#: The classes that a config may name, by what it names them for. Each was looked at: it does what it says, runs in our training
#: loop, writes nowhere but in the run folder unless its arguments say so, and takes plain values as arguments. A config may have
#: been sent by anyone, so whole packages are not in here; what is missing comes in through the user's own plugin.
ALLOWED: dict[str, tuple[str, ...]] = {
    "optimizer": (
        *(f"torch.optim.{name}" for name in _TORCH),
        *(f"bitsandbytes.optim.{name}{bits}" for name in _BITS_AND_BYTES for bits in ("", "8bit", "32bit")),
        *(f"bitsandbytes.optim.Paged{name}{bits}" for name in _PAGED for bits in ("", "8bit", "32bit")),
    ),
    "callbacks": (
        "graphgpt.runners.averaging.MovingAverage",
        "graphgpt.runners.profiling.StepProfiler",
        "lightning.pytorch.callbacks.DeviceStatsMonitor",
        "lightning.pytorch.callbacks.EarlyStopping",
        "lightning.pytorch.callbacks.LearningRateMonitor",
        "lightning.pytorch.callbacks.ModelSummary",
        "lightning.pytorch.callbacks.RichModelSummary",
        "lightning.pytorch.callbacks.Timer",
    ),
    "loggers": (
        "graphgpt.runners.loggers.CsvFile",
        "graphgpt.runners.loggers.MlflowRun",
        "graphgpt.runners.loggers.TrackioLogger",
        "graphgpt.runners.loggers.WandbRun",
        "lightning.pytorch.loggers.CSVLogger",
        "lightning.pytorch.loggers.MLFlowLogger",
        "lightning.pytorch.loggers.TensorBoardLogger",
        "lightning.pytorch.loggers.WandbLogger",
    ),
}

#: Packages that a class needs beyond those that are always there; the extra that installs one has its name.
EXTRAS = {
    "graphgpt.runners.loggers.WandbRun": "wandb",
    "graphgpt.runners.loggers.MlflowRun": "mlflow",
    "graphgpt.runners.loggers.TrackioLogger": "trackio",
    "lightning.pytorch.loggers.WandbLogger": "wandb",
    "lightning.pytorch.loggers.MLFlowLogger": "mlflow",
}

#: What an argument takes, where its class would not notice anything else.
_BOUNDS: dict[str, dict[str, Any]] = {"lightning.pytorch.callbacks.EarlyStopping": {"patience": Annotated[int, Field(ge=0)]}}


def target_problems(node: Any, key: str) -> list[str]:
    """What is wrong with the targets in a leaf, however deep: one sentence each. Imports nothing.

    Args:
        node: The leaf.
        key: ``runner.optimizer``, or below ``runner.callbacks`` or ``runner.loggers``.
    """
    if not isinstance(node, dict) or not isinstance(node.get("_target_"), str):
        return [f"{key}._target_: must be given, the full name of a class. {_known('', key)}"]
    targets = [(at, str(one["_target_"])) for at, one in _nodes(node, key)]
    found = [
        f"{at}._target_: '{target}' is not allowed; a class of your own is, of a module that plugins=[...] names. {_known(target, key)}"
        for at, target in targets
        if target not in _allowed(key) and not of_plugin(target)
    ]
    found += [f"{at}: is none of the class's arguments; give them by name." for at in _hydra_words(node, key)]
    missing = dict.fromkeys(EXTRAS[target] for _, target in targets if target in EXTRAS and not _installed(EXTRAS[target]))
    return found + [f"{key}: the package '{name}' is not installed: pip install 'graphgpt[{name}]'." for name in missing]


def _allowed(key: str) -> tuple[str, ...]:
    return ALLOWED[key.split(".")[1]]


def _known(target: str, key: str) -> str:
    """The nearest allowed class, else those that need no further package."""
    allowed = _allowed(key)
    return did_you_mean(target, allowed) or nearest("", [name for name in allowed if not name.startswith("bitsandbytes.")])


def _installed(package: str) -> bool:
    """Whether a package is there, and not merely a folder of that name, such as wandb leaves behind."""
    spec = importlib.util.find_spec(package)
    return spec is not None and spec.origin is not None


def find_targets(node: Any, key: str) -> None:
    """Import every class that a leaf names, and look whether it takes the arguments given.

    Raises:
        GraphGPTError: a target is not allowed, does not exist, or is not a class defined where it says; or it has no such argument,
            or one of another type.
    """
    for problem in target_problems(node, key):
        raise GraphGPTError(problem)
    for at, one in _nodes(node, key):
        _check_arguments(_find(str(one["_target_"]), f"{at}._target_"), one, at)


def _find(target: str, at: str) -> Any:
    try:
        found = pkgutil.resolve_name(target)
    except (ImportError, AttributeError) as error:
        raise GraphGPTError(f"{at}: there is no '{target}' here ({first_line(error)}).") from error
    # What a plugin only imports from elsewhere is not the plugin's.
    if not isinstance(found, type) or (of_plugin(target) and not of_plugin(f"{found.__module__}.{found.__qualname__}")):
        raise GraphGPTError(f"{at}: '{target}' is not a class of that module.")
    return found


def _check_arguments(cls: Any, node: dict[str, Any], at: str) -> None:
    """Compare what is given with the signature: many classes take anything, and fail at step 1,000 or never."""
    taken = inspect.signature(cls).parameters
    try:
        types = typing.get_type_hints(cls.__init__)
    except (NameError, TypeError):  # of names that only a type checker imports
        types = {}
    types |= _BOUNDS.get(node["_target_"], {})
    for name, value in node.items():
        if name == "_target_":
            continue
        if name not in taken and all(one.kind is not inspect.Parameter.VAR_KEYWORD for one in taken.values()):
            raise GraphGPTError(f"{at}.{name}: '{node['_target_']}' has no such argument. {nearest(name, sorted(taken))}")
        if name in types and not any(_nodes(value, name)) and (reason := _refusal(value, types[name])):
            raise GraphGPTError(f"{at}.{name}: {value!r} does not fit: {reason}.")


def _refusal(value: Any, kind: Any) -> str | None:
    """Why a value is not of a type, in lower case; None where it is, or where nobody can tell."""
    try:
        adapter = TypeAdapter(kind, config=ConfigDict(arbitrary_types_allowed=True))
    except (PydanticUserError, TypeError):
        return None
    try:
        read = adapter.validate_python(value)
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        return reason[:1].lower() + reason[1:]
    return "input should be a number" if isinstance(value, str) and isinstance(read, int | float) else None


def build_leaf(node: dict[str, Any], key: str, **arguments: Any) -> Any:
    """Build what a leaf names, with the leaf's arguments and those given here, which go before.

    Raises:
        GraphGPTError: as ``find_targets``, or the class refuses its arguments.
    """
    find_targets(node, key)
    try:
        return _build(node, **arguments)
    except Exception as error:
        raise GraphGPTError(f"{key}: cannot build '{node['_target_']}': {first_line(error)}") from error


def _build(value: Any, **arguments: Any) -> Any:
    if isinstance(value, dict):
        built = {name: _build(item) for name, item in value.items() if name != "_target_"}
        return _find(value["_target_"], "_target_")(**(built | arguments)) if "_target_" in value else built
    return [_build(item) for item in value] if isinstance(value, list) else value


def _nodes(node: Any, key: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every part that names a class, at or below a node, with its config key."""
    if isinstance(node, dict) and "_target_" in node:
        yield key, node
    for name, value in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        yield from _nodes(value, f"{key}.{name}")


def _hydra_words(node: dict[str, Any], key: str) -> Iterator[str]:
    """Keys such as ``_args_``, which Hydra has for building objects and we have not."""
    yield from (f"{key}.{name}" for name in node if name != "_target_" and str(name).startswith("_") and str(name).endswith("_"))
