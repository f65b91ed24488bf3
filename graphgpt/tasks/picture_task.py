"""Tasks about the pictures of a collection."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import pyarrow as pa
from torch import Tensor

from graphgpt.errors import amount
from graphgpt.graphs.splits import write_split
from graphgpt.images.collection import Collection
from graphgpt.images.dataset import WORDS
from graphgpt.images.splits import split_pictures
from graphgpt.prompts.facts import TaskFacts
from graphgpt.prompts.instruction import Instruction, Part
from graphgpt.schema import SPLITS, Kind, Split
from graphgpt.tasks.task import OpenDataset
from graphgpt.tasks.worded import WordedTask


@dataclass(frozen=True, kw_only=True)
class PictureInstruction(Instruction):
    """A question about a picture.

    Args:
        picture: Which one, numbered in the task's collection.
    """

    picture: int


class PictureTask(WordedTask):
    """Base of tasks about pictures.

    Args:
        config: The task's ``Config``.
        collection: The pictures.
        dataset: What the prompts call things.
        split: Index into ``SPLITS`` per picture, shape ``[n]``, int8.
    """

    reads: ClassVar[Kind] = "images"
    dataset_words = WORDS
    places: ClassVar[Mapping[str, int]] = {"image": 1}

    def __init__(self, config: Any, collection: Collection, dataset: Any, split: Tensor) -> None:
        super().__init__(config, dataset, split)
        self.collection = collection

    @classmethod
    def build(cls, config: Any, dataset: Any, open_dataset: OpenDataset) -> Self:
        collection = open_dataset(dataset)
        return cls(config, collection, dataset, split_pictures(collection, dataset.split, needs_labels=cls.needs_labels))

    @property
    def facts(self) -> TaskFacts:
        return TaskFacts(task=self.config.name, candidates=None if self.candidates is None else len(self.candidates))

    @property
    def data(self) -> dict[str, Any]:
        return {"name": self.collection.name, "fingerprint": self.collection.fingerprint}

    @property
    def summary(self) -> str:
        classes = len(self.collection.class_names)
        of = f", {amount(classes, 'class', 'classes')}" if classes else ""
        return f"{self.collection.name}, {amount(len(self.collection), 'picture')}{of}"

    def items(self, split: Split) -> Tensor:
        """Pictures of a split, ascending, shape ``[k]``, int64."""
        return (self.split == SPLITS.index(split)).nonzero().flatten()

    def picture(self, item: int) -> int:
        """The number of the picture that an item is about."""
        return item

    def identities(self, items: Tensor) -> tuple[list[str], list[str]]:
        """Ids of pictures and what they show."""
        place = pa.array(items.numpy())
        ids, titles = (column.take(place).to_pylist() for column in (self.collection.ids, self.collection.titles))
        return ids, titles

    def write_split(self, folder: Path) -> None:
        """Write into ``split.csv`` which picture is for what."""
        if bool((self.split >= 0).any()):
            write_split(self.collection.ids, self.split, folder / "split.csv")

    def ask(self, picture: int, **words: str) -> tuple[Part, ...]:
        """The chosen wording filled in with words, and with the picture where it has a place for it."""
        return self.fill({"image": (self.collection.image(picture),)}, **words)

    def title(self, picture: int) -> str:
        """What a picture shows, in a few words."""
        return self.cut(str(self.collection.titles[picture].as_py()))

    def text(self, picture: int) -> str:
        """More about it, may be empty."""
        return self.cut(str(self.collection.bodies[picture].as_py()))
