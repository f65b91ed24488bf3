"""Third-party leaves of the config (optimizer, callbacks, loggers), instantiated by Hydra behind an allow-list."""

import importlib.util
import pkgutil
import sys
from collections.abc import Iterator
from typing import Any

from graphgpt.errors import GraphGPTError, did_you_mean, first_line

#: Where the classes are defined that a config may instantiate.
ALLOWED = ("graphgpt.", "torch.optim.", "lightning.pytorch.", "bitsandbytes.optim.")

#: Packages that a class needs beyond those that are always there; the extra that installs one has its name.
EXTRAS = {
    "graphgpt.runners.loggers.WandbRun": "wandb",
    "graphgpt.runners.loggers.MlflowRun": "mlflow",
    "graphgpt.runners.loggers.TrackioLogger": "trackio",
    "lightning.pytorch.loggers.WandbLogger": "wandb",
    "lightning.pytorch.loggers.MLFlowLogger": "mlflow",
}


def target_problems(node: Any, key: str) -> list[str]:
    """What is wrong with the targets in a leaf, however deep: one sentence each. Imports nothing."""
    targets = list(_targets(node, key))
    if f"{key}._target_" not in dict(targets):
        targets.insert(0, (f"{key}._target_", ""))
    found = [
        f"{at}: '{target}' is not allowed; it must begin with one of {', '.join(ALLOWED)}."
        for at, target in targets
        if not target.startswith(ALLOWED) or not _names_a_class(target)
    ]
    missing = dict.fromkeys(EXTRAS[target] for _, target in targets if target in EXTRAS and not _installed(EXTRAS[target]))
    return found + [f"{key}: the package '{name}' is not installed: pip install 'graphgpt[{name}]'." for name in missing]


def _installed(package: str) -> bool:
    """Whether a package is there, and not merely a folder of that name, such as wandb leaves behind."""
    spec = importlib.util.find_spec(package)
    return spec is not None and spec.origin is not None


def find_targets(node: Any, key: str) -> None:
    """Import every class that a leaf names.

    Raises:
        GraphGPTError: a target is outside the allow-list, does not exist, or is not a class defined there.
    """
    for problem in target_problems(node, key):
        raise GraphGPTError(problem)
    for at, target in _targets(node, key):
        try:
            found = pkgutil.resolve_name(target)
        except (ImportError, AttributeError) as error:
            module, _, name = target.rpartition(".")
            raise GraphGPTError(f"{at}: there is no '{target}'. {did_you_mean(name, dir(sys.modules.get(module)))}".strip()) from error
        if not isinstance(found, type) or not f"{found.__module__}.".startswith(ALLOWED):
            raise GraphGPTError(f"{at}: '{target}' is not a class of an allowed package.")


def build_leaf(node: dict[str, Any], key: str, **arguments: Any) -> Any:
    """Instantiate a leaf.

    Raises:
        GraphGPTError: as ``find_targets``, or the class refuses its arguments.
    """
    from hydra.utils import instantiate

    find_targets(node, key)
    try:
        # The arguments are given to what Hydra made, not to Hydra, which would copy them.
        return instantiate({**node, "_partial_": True}, _convert_="all")(**arguments)
    except Exception as error:
        raise GraphGPTError(f"{key}: cannot build '{node['_target_']}': {first_line(error)}") from error


def _targets(node: Any, key: str) -> Iterator[tuple[str, str]]:
    """Every ``_target_`` at or below a node, with its config key."""
    if isinstance(node, dict):
        for name, value in node.items():
            if name == "_target_":
                yield f"{key}._target_", str(value)
            else:
                yield from _targets(value, f"{key}.{name}")
    elif isinstance(node, list):
        for i, value in enumerate(node):
            yield from _targets(value, f"{key}.{i}")


def _names_a_class(target: str) -> bool:
    """Whether the last part looks like a class and no part before it like anything but a module."""
    *modules, name = target.split(".")
    return name[:1].isupper() and all(part.islower() for part in modules)
