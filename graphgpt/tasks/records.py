"""Tasks whose questions and answers come ready-made, record by record, with any inputs or none."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Protocol, Self

from torch import Tensor

from graphgpt.errors import amount
from graphgpt.files.atomic import fingerprint
from graphgpt.prompts.facts import TaskFacts
from graphgpt.prompts.instruction import Instruction, Message
from graphgpt.schema import SPLITS, Kind, Split
from graphgpt.tasks.task import OpenDataset, Task


class Records(Protocol):
    """Conversations in one or several files, numbered through; what a dataset of the kind ``records`` opens."""

    @property
    def split(self) -> Tensor:
        """Index into ``SPLITS`` per record, shape ``[n]``, int8."""
        ...

    @property
    def name(self) -> str:
        """The files' names without their endings."""
        ...

    @property
    def fingerprint(self) -> str:
        """Of the content of all files."""
        ...

    @property
    def counts(self) -> Mapping[str, int]:
        """How many records of which kind, such as ``text only``."""
        ...

    @property
    def features(self) -> Mapping[str, Any]:
        """Width of node features as ``features``, the file that they are of as ``features_from``; empty where there are none."""
        ...

    def __len__(self) -> int: ...

    def id(self, item: int) -> str:
        """What a record calls itself."""
        ...

    def place(self, item: int) -> str:
        """File and number of a record, for messages."""
        ...

    def said(self, item: int) -> Sequence[str]:
        """The texts of a record's turns, one after the other."""
        ...

    def messages(self, item: int, seen: Callable[[str], str]) -> tuple[Message, ...]:
        """A record's turns, the answer last.

        Args:
            item: Its number.
            seen: What a model sees of the text of a human's turn; it is asked before inputs come where their placeholders stand.

        Raises:
            DataError: ``seen`` takes placeholders away.
        """
        ...


class RecordTask(Task):
    """Base of tasks whose items are records.

    Args:
        config: The task's ``Config``.
        records: What is asked.
        dataset: The dataset's config.
    """

    reads: ClassVar[Kind] = "records"

    def __init__(self, config: Any, records: Records, dataset: Any) -> None:
        super().__init__(config, dataset, records.split)
        self.records = records

    @classmethod
    def build(cls, config: Any, dataset: Any, open_dataset: OpenDataset) -> Self:
        return cls(config, open_dataset(dataset), dataset)

    @property
    def facts(self) -> TaskFacts:
        chosen = None if self.candidates is None else len(self.candidates)
        widths = {"graph": self.records.features["features"]} if self.records.features else {}
        return TaskFacts(task=self.config.name, widths=widths, inputs=0, candidates=chosen)

    @property
    def data(self) -> dict[str, Any]:
        return {"name": self.records.name, "fingerprint": self.records.fingerprint, **self.records.features}

    @property
    def summary(self) -> str:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in sorted(self.records.counts.items()))
        features = f", {self.records.features['features']} features" if self.records.features else ""
        return f"{self.records.name}, {amount(len(self.records), 'record')} ({kinds}){features}"

    def items(self, split: Split) -> Tensor:
        """Numbers of a split's records, ascending, shape ``[k]``, int64."""
        return (self.split == SPLITS.index(split)).nonzero().flatten()

    def identities(self, items: Tensor) -> tuple[list[str], list[str]]:
        """Of records: the same turns under the same id, wherever in a file they stand."""
        texts = ["\n".join(self.records.said(item)) for item in items.tolist()]
        return [f"{self.records.id(item)} {fingerprint(text)}" for item, text in zip(items.tolist(), texts, strict=True)], texts

    def truth(self, item: int, answer: str) -> int | None:
        """Index of a record's answer among the candidates, None without candidates.

        Raises:
            DataError: it is none of them.
        """
        return None

    def instruction(self, item: int, *, seed: int, training: bool, hide_text: bool = False) -> Instruction:
        """A record as it stands; nothing in it is left to chance.

        Raises:
            DataError: the record cannot be used; the message names it.
        """
        messages = self.records.messages(item, self.hidden if hide_text else str)
        return Instruction(
            id=self.records.id(item),
            messages=messages,
            truth=self.truth(item, messages[-1].text),
            texts=tuple(part for message in messages if message.role == "user" for part in message.content if isinstance(part, str)),
        )

    def hidden(self, turn: str) -> str:
        """A human's turn without the texts of the items themselves; as it is, where those cannot be told from the question."""
        return turn
