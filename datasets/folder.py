"""A graph folder that ``graphgpt data build`` wrote."""

import json
from pathlib import Path
from typing import Any

from pydantic import model_validator
from pydantic_core import ArgsKwargs

from graphgpt.graphs.dataset import WORDS, DatasetConfig, GraphDataset
from graphgpt.graphs.graph import TextAttributedGraph
from graphgpt.graphs.tables import hint
from graphgpt.registry import DATASETS
from graphgpt.schema import UserPath, configclass


@configclass
class FolderConfig(DatasetConfig):
    """A built graph. What the prompts call things is what its card says, unless it is given here."""

    path: UserPath
    """The folder."""

    @model_validator(mode="before")
    @classmethod
    def _take_words_from_the_card(cls, given: Any) -> Any:
        """A card that cannot be read is left to ``problems`` and to opening, which say so in words."""
        fields = dict(given.kwargs or {}) if isinstance(given, ArgsKwargs) else given
        try:
            words = json.loads((Path(fields["path"]).expanduser() / "card.json").read_text(encoding="utf-8")).get("words", {})
            return {word: words[word] for word in WORDS if word in words} | fields
        except (KeyError, TypeError, AttributeError, OSError, ValueError, RecursionError, RuntimeError):
            return fields


@DATASETS.register("folder")
class Folder(GraphDataset):
    """A folder with ``graph.safetensors``, ``text.arrow``, ``card.json`` and perhaps ``x.safetensors``, used where it lies.

    Without ``x.safetensors`` a text encoder makes the features.
    """

    Config = FolderConfig
    config: FolderConfig

    @classmethod
    def problems(cls, config: FolderConfig) -> list[str]:
        found = super().problems(config)
        path = Path(config.path)
        if path.is_file():
            found.append(f"dataset.path={config.path} is a file, expected a graph folder; 'graphgpt data build' makes one of it.")
        elif not path.is_dir():
            near = hint(path.name, [other.name for other in path.parent.glob("*") if other.is_dir()])
            found.append(f"dataset.path={config.path}: there is no such folder; 'graphgpt data build' makes one.{near}")
        elif not (path / "card.json").is_file():
            found.append(f"dataset.path={config.path} is not a graph folder: card.json is missing; 'graphgpt data build' makes one.")
        return found

    @staticmethod
    def has_features(config: Any) -> bool:
        return (Path(config.path) / "x.safetensors").is_file()

    def fingerprint(self) -> str:
        return self.build().fingerprint

    def build(self) -> TextAttributedGraph:
        return TextAttributedGraph.open(self.folder())

    def folder(self) -> Path:
        return Path(self.config.path)
