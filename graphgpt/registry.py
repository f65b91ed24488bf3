"""Names to classes: one registry per kind, so that a config can say ``name: sgc``.

A class registers itself with ``@TOWERS.register("sgc")`` and carries its own ``Config``. A file dropped into the kind's
package is found by itself; code elsewhere comes in through ``plugins: [my_package.my_module]`` in the user's config or the
entry point group ``graphgpt.plugins``. The config of a checkpoint imports nothing.
"""

import importlib
import importlib.metadata
import pkgutil
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

from graphgpt.errors import GraphGPTError, nearest

T = TypeVar("T")
C = TypeVar("C", bound=type)


class Registry(Generic[T]):
    """The classes of one kind. Each has a ``Config`` and, if it wants, ``problems(config)`` (see ``schema.Registered``).

    Args:
        kind: What users call the kind; also its config key, as in ``model.tower.name``.
        package: The package whose modules are imported on the first look-up.
    """

    def __init__(self, kind: str, package: str) -> None:
        self.kind = kind
        self.package = package
        self._classes: dict[str, type[T]] = {}
        self._discovered = False

    def register(self, name: str) -> Callable[[C], C]:
        """Class decorator that makes a class known as ``name``.

        Raises:
            GraphGPTError: another class has the name already, or the class carries no ``Config``.
        """

        def decorate(cls: C) -> C:
            other = self._classes.get(name)
            if other is not None and (other.__module__, other.__qualname__) != (cls.__module__, cls.__qualname__):
                raise GraphGPTError(
                    f"The {self.kind} '{name}' of {cls.__module__} is registered already, by {other.__module__}.{other.__qualname__}."
                )
            if not isinstance(getattr(cls, "Config", None), type):
                raise GraphGPTError(f"The {self.kind} '{name}' ({cls.__module__}.{cls.__qualname__}) has no Config class.")
            if not hasattr(cls, "problems"):
                cls.problems = staticmethod(lambda config: [])  # type: ignore[attr-defined]
            self._classes[name] = cls
            return cls

        return decorate

    def get(self, name: str) -> type[T]:
        """The class registered as ``name``.

        Raises:
            GraphGPTError: no such name; the message holds the nearest one, or all of them.
        """
        if name not in self._classes:
            # The file of that name first: importing all of a kind takes seconds that a look-up should not cost.
            self._import_module(name)
        if name not in self._classes:
            self._discover()
        if name not in self._classes:
            raise GraphGPTError(f"Unknown {self.kind} '{name}'. {nearest(name, self._classes)}")
        return self._classes[name]

    def names(self) -> list[str]:
        """All known names, sorted."""
        self._discover()
        return sorted(self._classes)

    def registered(self) -> dict[str, type[T]]:
        """The classes that are there by now; imports nothing."""
        return dict(self._classes)

    def build(self, config: Any, *args: Any, **kwargs: Any) -> T:
        """An instance of the class that ``config.name`` names: ``cls(config, *args, **kwargs)``."""
        cls: Any = self.get(config.name)
        built: T = cls(config, *args, **kwargs)
        return built

    def _modules(self) -> list[str]:
        return [module.name for module in pkgutil.iter_modules(importlib.import_module(self.package).__path__)]

    def _import_module(self, name: str) -> None:
        if name in self._modules():
            importlib.import_module(f"{self.package}.{name}")

    def _discover(self) -> None:
        if not self._discovered:
            for name in self._modules():
                self._import_module(name)
            self._discovered = True


MODELS: Registry[Any] = Registry("model", "graphgpt.models")
TOWERS: Registry[Any] = Registry("tower", "graphgpt.models.towers")
PROJECTORS: Registry[Any] = Registry("projector", "graphgpt.models.projectors")
FUSIONS: Registry[Any] = Registry("fusion", "graphgpt.models.fusions")
TEXT_SIDES: Registry[Any] = Registry("text", "graphgpt.models.text_sides")
DATASETS: Registry[Any] = Registry("dataset", "graphgpt.datasets")
TEXT_ENCODERS: Registry[Any] = Registry("text_encoder", "graphgpt.graphs.text_encoders")
TASKS: Registry[Any] = Registry("task", "graphgpt.tasks")
TEMPLATES: Registry[Any] = Registry("template", "graphgpt.prompts.templates")
RUNNERS: Registry[Any] = Registry("runner", "graphgpt.runners")

REGISTRIES: dict[str, Registry[Any]] = {
    registry.kind: registry
    for registry in (MODELS, TOWERS, PROJECTORS, FUSIONS, TEXT_SIDES, DATASETS, TEXT_ENCODERS, TASKS, TEMPLATES, RUNNERS)
}


#: The modules that were imported because the user names them, or because somebody installed them as an entry point.
_named: set[str] = set()


def load_plugins(modules: Iterable[str] = ()) -> None:
    """Import the modules that the user names, and those of installed entry points, which register classes.

    A folder's config is data and names no module by itself: see :func:`check_plugins`.

    Raises:
        GraphGPTError: a module cannot be imported; the message names it and the reason.
    """
    installed = [entry.value for entry in importlib.metadata.entry_points(group="graphgpt.plugins")]
    named = list(modules)
    if named and not {"", str(Path.cwd())} & set(sys.path):
        sys.path.append(str(Path.cwd()))  # a module beside the user; behind all others, so that it hides none
    for module in [*named, *installed]:
        try:
            importlib.import_module(module)
        except Exception as error:
            raise GraphGPTError(f"plugins: cannot import '{module}': {error}") from error
        _named.add(module)


def check_plugins(experiment: Mapping[str, Any], where: object) -> None:
    """Refuse the config of a folder that needs modules which the user has not named; imports no module of its choice.

    Args:
        experiment: The config as plain data.
        where: Its file or folder, for the message.

    Raises:
        GraphGPTError: there is such a module; the message says how to allow it.
    """
    load_plugins()
    modules = experiment.get("plugins") or []
    wanted = [one for one in modules if not (isinstance(one, str) and one in _named)] if isinstance(modules, list) else [modules]
    if wanted:
        names = ",".join(map(str, wanted))
        raise GraphGPTError(
            f"{where} asks to import '{names}', and what a folder asks for is not run: if you trust that code, name it yourself, "
            f"as plugins=[{names}] among settings and in Python, or as --plugins {names.replace(',', ' ')} after graphgpt's other commands."
        )


def of_plugin(name: str) -> bool:
    """Whether the full name of a class lies in a module that the user named, or below it."""
    return any(name.startswith(f"{module}.") for module in _named)


def add_plugins_option(parser: Any) -> None:
    """Add ``--plugins`` to the parser of a command that reads a checkpoint and takes no settings."""
    parser.add_argument("--plugins", metavar="MODULE", nargs="+", default=[], help="modules with classes of your own that it needs")
