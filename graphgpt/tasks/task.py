"""What a task is: instructions made from data, answers read, predictions scored."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from graphgpt.metrics import Metric
from graphgpt.prompts.facts import TaskFacts
from graphgpt.prompts.instruction import Instruction
from graphgpt.prompts.prediction import Prediction
from graphgpt.registry import DATASETS
from graphgpt.schema import Baseline, Kind, Split

#: Opens the data of a dataset's config, which are a graph with features, pictures or records, by the dataset's kind.
OpenDataset = Callable[..., Any]


class Task(ABC):
    """Base of all tasks; register subclasses with ``@TASKS.register(name)``.

    A task's *items* are what can be asked about, as numbers: nodes, pictures, places in a list of pairs or of records.

    Args:
        config: The task's ``Config``.
        dataset: The config of its data: what the prompts call things.
        split: Index into ``SPLITS`` per thing that items are drawn from, -1 for none, shape ``[n]``, int8.
    """

    Config: ClassVar[type]
    reads: ClassVar[Kind]
    """The kind of dataset that it asks about."""
    asks: ClassVar[bool] = True
    """Whether its samples are questions with answers, or something to be learned without words."""
    needs_labels: ClassVar[bool] = False
    """Whether it asks for a label; if not, what has none trains too."""
    reveals: ClassVar[str | None] = None
    """What its answers tell of an item, where other tasks ask the same: the ``class`` of a node. None: what no other task asks."""
    known_baselines: ClassVar[tuple[Baseline, ...]] = ()
    """Simple methods that :meth:`baselines` has."""

    @classmethod
    def problems(cls, config: Any) -> list[str]:
        """What is wrong with a ``Config`` and can be seen without data, one sentence each."""
        return []

    @classmethod
    def idle(cls, config: Any, experiment: Any) -> dict[str, str]:
        """What of an experiment changes nothing for a task of this ``Config``, by key, with the reason (see ``schema.ActsWith``)."""
        return {}

    @classmethod
    def part_configs(cls, config: Any) -> dict[str, Any]:
        """Configs of the tasks that a task of this ``Config`` is made of, by name; of an undivided one itself, under no name."""
        return {"": config}

    @classmethod
    def scores(cls, config: Any) -> bool:
        """Whether an answer is chosen among candidates, or else written."""
        return cls.candidates is not Task.candidates

    @classmethod
    def measures(cls, config: Any) -> tuple[Metric, ...]:
        """What :meth:`metrics` holds for tasks of a ``Config``; a report puts the first one first."""
        return ()

    @classmethod
    def modalities(cls, config: Any) -> Collection[str] | None:
        """Modalities of the inputs that prompts in the chosen wording have, None where only the data tell."""
        return None

    @classmethod
    def data_problems(cls, config: Any, dataset: Any) -> list[str]:
        """What keeps the task from being asked about the data of a dataset's ``Config``, seen without reading them."""
        if DATASETS.get(dataset.name).kind == cls.reads:
            return []
        fitting = [name for name in DATASETS.names() if DATASETS.get(name).kind == cls.reads]
        asks = {
            "graph": "asks about a graph with texts",
            "images": "asks about pictures",
            "records": "asks what a file of records brings",
        }[cls.reads]
        return [f"task.name: '{config.name}' {asks}, which dataset.name={dataset.name} has not; choose one of: {', '.join(fitting)}."]

    def __init__(self, config: Any, dataset: Any, split: Tensor) -> None:
        self.config = config
        self.dataset = dataset
        self.split = split

    @classmethod
    @abstractmethod
    def build(cls, config: Any, dataset: Any, open_dataset: OpenDataset) -> Self:
        """The task on the data that a dataset config names.

        Args:
            config: The task's ``Config``.
            dataset: A dataset's ``Config``.
            open_dataset: Opens the data of a dataset config.

        Raises:
            DataError: the data cannot be used.
        """

    @property
    @abstractmethod
    def facts(self) -> TaskFacts:
        """What a model has to know of the task before it is built."""

    @property
    @abstractmethod
    def data(self) -> dict[str, Any]:
        """Name and fingerprint of what the task asks about, width and source of its features, for the checkpoint and for messages."""

    @property
    @abstractmethod
    def summary(self) -> str:
        """What the task asks about, in a few words."""

    @property
    def parts(self) -> "Mapping[str, Task]":
        """The tasks that it is made of, by name; of an undivided one itself, under no name."""
        return {"": self}

    @abstractmethod
    def items(self, split: Split) -> Tensor:
        """Items of a split, ascending, shape ``[k]``, int64."""

    def by_part(self, items: Tensor) -> "list[tuple[Task, Tensor]]":
        """The tasks that items are of, each with its own items; several for a mixture."""
        return [(self, items)]

    @abstractmethod
    def identities(self, items: Tensor) -> tuple[list[str], list[str]]:
        """What each item is called and what it says, by which it is found again in another opening or another version of the data."""

    def write_split(self, folder: Path) -> None:
        """Write into ``split.csv`` which item is for what; nothing where the data say so themselves."""
        return

    def other_wordings(self) -> list[str]:
        """Names of the wordings that ask the same of the same inputs as the chosen one."""
        return []

    @property
    def candidates(self) -> list[str] | None:
        """All possible answers, where there are finitely many: they are scored by likelihood."""
        return None

    @abstractmethod
    def instruction(self, item: int, *, seed: int, training: bool, hide_text: bool = False) -> Instruction:
        """The question about one item. All chance in it follows from ``seed``; regularisation only when ``training``.

        Args:
            item: One of ``items``.
            seed: Draws neighbours, orders and the like.
            training: Whether the task may regularise.
            hide_text: Leave the texts of the items themselves out, to see what the other inputs say alone.
        """

    def rank_metrics(self, truth: np.ndarray, scores: np.ndarray) -> dict[str, float]:
        """Metrics of a task with candidates, as fractions.

        Args:
            truth: Right candidates, shape ``[n]``, int.
            scores: Any score that ranks, shape ``[n, c]``.
        """
        raise NotImplementedError(f"{type(self).__name__} has candidates and no rank_metrics.")

    def answer_metrics(self, prediction: Prediction) -> dict[str, float]:
        """Metrics of one written answer, as fractions; a task without candidates reports their means."""
        raise NotImplementedError(f"{type(self).__name__} has no candidates and no answer_metrics.")

    def metrics(self, predictions: Sequence[Prediction]) -> dict[str, float]:
        """Scores of a set of predictions, as fractions."""
        if self.candidates is not None:
            return self.rank_metrics(np.array([p.truth for p in predictions]), np.array([p.scores for p in predictions]))
        each = [self.answer_metrics(prediction) for prediction in predictions]
        return {name: float(np.mean([metrics[name] for metrics in each])) for name in each[0]}

    def baselines(
        self,
        items: Tensor,
        seed: int,
        names: Collection[str] | None = None,
        *,
        pooled: Callable[[Tensor], np.ndarray] | None = None,
        asked: Sequence[Instruction] = (),
    ) -> Iterator[tuple[str, np.ndarray]]:
        """Simple methods to be held against, each with a score for every candidate of every item, shape ``[k, c]``.

        Args:
            items: To score, shape ``[k]``.
            seed: Of what the methods leave to chance.
            names: Keys of ``graphgpt.tasks.baselines.NAMES``; None is all that the task has.
            pooled: What the model's tower makes of items, one vector of each, shape ``[k, d]``; None where there is no model.
            asked: The questions about the items, for tasks in which chance has a say.
        """
        yield from ()


def generator(seed: int) -> torch.Generator:
    """A source of random numbers of its own."""
    return torch.Generator().manual_seed(seed)
