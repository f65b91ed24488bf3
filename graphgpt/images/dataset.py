"""What a dataset of pictures is: a recipe that yields a collection."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from graphgpt.errors import DataError, amount
from graphgpt.files.atomic import atomic_folder, cache_dir
from graphgpt.graphs.dataset import SplitConfig
from graphgpt.images.collection import Collection, Picture, built
from graphgpt.images.picture import open_picture
from graphgpt.schema import Kind, configclass

log = logging.getLogger(__name__)

#: Fields of a dataset of pictures that say what the prompts call things.
WORDS = ("domain", "picture", "category")


@configclass
class ImageDatasetConfig:
    """What all datasets of pictures have in common."""

    name: str
    """Name of a registered dataset."""
    domain: str = "collection"
    """What the prompts call the collection."""
    picture: str = "picture"
    """What the prompts call a picture, as in "drawing"."""
    category: str = "category"
    """What the prompts call a class."""
    split: SplitConfig = Field(default_factory=SplitConfig)


@configclass
class FilesConfig(ImageDatasetConfig):
    """What datasets of a user's own pictures have in common."""

    on_bad: Literal["raise", "skip"] = "raise"
    """What to do with a picture that cannot be read: stop and name it, or leave it out and count it."""


class ImageDataset(ABC):
    """Base of all datasets of pictures; register subclasses with ``@DATASETS.register(name)``."""

    kind: ClassVar[Kind] = "images"
    Config: ClassVar[type[ImageDatasetConfig]] = ImageDatasetConfig

    def __init__(self, config: Any) -> None:
        self.config = config

    @classmethod
    def problems(cls, config: Any) -> list[str]:
        """What is wrong and can be seen without reading the data, one sentence each."""
        found: list[str] = config.split.problems()
        return found

    @abstractmethod
    def fingerprint(self) -> str:
        """Identifies what :meth:`write` would read, cheaply; the collection is cached under it."""

    @abstractmethod
    def write(self, folder: Path) -> None:
        """Make the collection in a folder that is there and empty.

        Raises:
            DataError: naming the file, the record and the value.
        """

    def folder(self) -> Path:
        """Where the collection lies once it is made."""
        return cache_dir() / "images" / f"{self.config.name}-{self.fingerprint()}"

    def open(self) -> Collection:
        """The collection, made once.

        Raises:
            DataError: as :meth:`write`, or what was made is damaged.
        """
        folder = self.folder()
        if not built(folder):
            with atomic_folder(folder) as tmp:
                self.write(tmp)
        collection = Collection.open(folder)
        for note in collection.card["notes"]:
            log.info("%s: %s", collection.name, note)
        return collection


class Checked:
    """Pictures of a user's own, looked at one by one.

    Args:
        on_bad: What to do with one that cannot be read.

    Attributes:
        notes: What was left out, once all were looked at.
    """

    def __init__(self, on_bad: Literal["raise", "skip"]) -> None:
        self.on_bad = on_bad
        self._bad: list[str] = []

    def __call__(self, pictures: Iterator[tuple[str, Picture]]) -> list[Picture]:
        """Those that can be read.

        Args:
            pictures: Each with the record that it comes from, for messages; empty where its own path says enough.

        Raises:
            DataError: one cannot be read, and is not to be skipped; or none can.
        """
        kept = []
        for record, picture in pictures:
            try:
                open_picture(picture.path)
            except DataError as error:
                sentence = f"{record}: {error}" if record else str(error)
                if self.on_bad == "raise":
                    raise DataError(f"{sentence} dataset.on_bad=skip leaves such pictures out.") from error
                self._bad.append(sentence)
                continue
            kept.append(picture)
        if self._bad and not kept:
            raise DataError(f"None of {amount(len(self._bad), 'picture')} can be read; the first: {self._bad[0]}")
        return kept

    @property
    def notes(self) -> list[str]:
        left_out = amount(len(self._bad), "picture")
        return [f"left out, for they cannot be read: {left_out}; the first: {self._bad[0]}"] if self._bad else []
