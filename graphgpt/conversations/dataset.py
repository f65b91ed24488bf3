"""What a dataset of conversations is: a file, and how a record of it is read."""

import functools
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar, Literal

from graphgpt.conversations.reading import MalformedRecord, RecordSplit, idle_split, shown_json, split_problems, split_records
from graphgpt.conversations.store import Conversation, Conversations, open_conversations
from graphgpt.errors import did_you_mean
from graphgpt.graphs.tables import missing_files
from graphgpt.schema import Kind, UserPath, configclass


@configclass
class ConversationsConfig:
    """What all datasets of conversations have in common."""

    name: str
    """Name of a registered dataset."""
    path: UserPath
    """JSON array or JSON Lines, compressed by gzip or not."""
    on_bad: Literal["raise", "skip"] = "raise"
    """What to do with a record that cannot be used: stop and name it, or leave it out and count it."""
    split: RecordSplit = RecordSplit()


class ConversationDataset(ABC):
    """Base of all datasets of conversations; register subclasses with ``@DATASETS.register(name)``."""

    kind: ClassVar[Kind] = "records"
    Config: ClassVar[type[ConversationsConfig]] = ConversationsConfig

    def __init__(self, config: Any) -> None:
        self.config = config

    @classmethod
    def problems(cls, config: Any) -> list[str]:
        """A missing file, and shares that leave nothing."""
        return [*missing_files({"dataset.path": config.path}), *split_problems(config.split)]

    @staticmethod
    def idle(config: Any, experiment: Any) -> dict[str, str]:
        """A seed where nothing is drawn."""
        return idle_split(config.split)

    @abstractmethod
    def read(self, record: Any, number: int) -> Conversation:
        """A conversation of a record.

        Raises:
            MalformedRecord: it cannot be used.
        """

    @property
    def images(self) -> Path | None:
        """Folder that pictures are named from."""
        return None

    def open(self) -> Conversations:
        """The conversations, read once.

        Raises:
            DataError: the file cannot be used, or ``on_bad`` is ``raise`` and a record cannot.
        """
        config = self.config
        kind = f"{config.name} {sorted((key, str(value)) for key, value in vars(config).items() if key not in ('path', 'split', 'on_bad'))}"
        split = functools.partial(split_records, config=config.split)
        return open_conversations(Path(config.path), self.read, images=self.images, on_bad=config.on_bad, kind=kind, split=split)


def text_field(record: Any, name: str, *, optional: bool = False) -> str:
    """A text of a record.

    Raises:
        MalformedRecord: the record is no object, or has no such text.
    """
    if not isinstance(record, dict):
        raise MalformedRecord("wrong type", "", f"is {shown_json(record)}, expected an object.")
    value = record.get(name)
    if value is None and optional:
        return ""
    if value is None:
        raise MalformedRecord("missing field", name, f"is missing. {did_you_mean(name, record)}".strip())
    if not isinstance(value, str):
        raise MalformedRecord("wrong type", name, f"is {shown_json(value)}, expected a text.")
    return value
