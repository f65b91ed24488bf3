"""What a task is: instructions made from a graph, answers read, predictions scored."""

import string
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from graphgpt.errors import nearest
from graphgpt.graphs.dataset import DatasetConfig
from graphgpt.graphs.graph import SPLITS, TextAttributedGraph
from graphgpt.graphs.subgraph import Subgraph, sample_subgraph
from graphgpt.prompts.instruction import Instruction
from graphgpt.schema import configclass

Split = Literal["train", "val", "test"]

#: What a dataset's config calls things; every wording may use these words.
DATASET_WORDS = ("domain", "node", "category")


@configclass
class TaskConfig:
    """What all tasks have in common."""

    name: str
    """Name of a registered task."""
    wording: str
    """Which of the wordings below is used."""
    wordings: dict[str, str]
    """Prompts by name; words in braces are filled in, ``<graph>`` is where the graph tokens go."""
    max_chars: int = Field(default=300, ge=0)
    """Longest text taken from a node, cut between words."""


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What the model said about one sample.

    Args:
        id: The instruction's.
        prompt_tokens: Length of the prompt, graph tokens included.
        truth: Index of the right candidate, None without candidates.
        scores: Log-likelihood of every candidate, None without candidates.
        expected: The right answer as text.
        text: Greedy answer, None when none was generated.
    """

    id: str
    prompt_tokens: int
    truth: int | None
    scores: list[float] | None
    expected: str
    text: str | None = None

    @property
    def answer(self) -> int | None:
        """Index of the likeliest candidate."""
        return None if self.scores is None else max(range(len(self.scores)), key=self.scores.__getitem__)


class Task(ABC):
    """Base of all tasks; register subclasses with ``@TASKS.register(name)``.

    Args:
        config: The task's ``Config``.
        graph: With features.
        dataset: What the prompts call things, and how subgraphs are sampled.
        split: Index into ``SPLITS`` per node, shape ``[n]``, int8.
    """

    Config: ClassVar[type[TaskConfig]] = TaskConfig
    words: ClassVar[tuple[str, ...]]
    """What the task fills into its wordings, besides the dataset's own words."""

    @classmethod
    def problems(cls, config: Any) -> list[str]:
        """A wording that is not there, or that cannot be filled in."""
        found = [problem for name, wording in config.wordings.items() for problem in cls._wording_problems(name, wording)]
        if config.wording not in config.wordings:
            found.append(f"task.wording: '{config.wording}' is not one of task.wordings. {nearest(config.wording, config.wordings)}")
        return found

    @classmethod
    def _wording_problems(cls, name: str, wording: str) -> list[str]:
        known = [*DATASET_WORDS, *cls.words]
        try:
            fields = [field for _, field, _, _ in string.Formatter().parse(wording) if field is not None]
        except ValueError as error:
            return [f"task.wordings.{name}: {wording!r} cannot be filled in: {error}; a brace that is meant as one is doubled."]
        return [f"task.wordings.{name}: '{{{field}}}' is not known here. {nearest(field, known)}" for field in fields if field not in known]

    def __init__(self, config: Any, graph: TextAttributedGraph, dataset: DatasetConfig, split: Tensor) -> None:
        self.config = config
        self.graph = graph
        self.dataset = dataset
        self.split = split

    def items(self, split: Split) -> Tensor:
        """Nodes to ask about, ascending, shape ``[k]``, int64."""
        return (self.split == SPLITS.index(split)).nonzero().flatten()

    @property
    def candidates(self) -> list[str] | None:
        """All possible answers, where there are finitely many: they are scored by likelihood."""
        return None

    @abstractmethod
    def instruction(self, item: int, *, seed: int, training: bool) -> Instruction:
        """The question about one item. All chance in it follows from ``seed``; regularisation only when ``training``."""

    @abstractmethod
    def metrics(self, predictions: Sequence[Prediction]) -> dict[str, float]:
        """Scores of a set of predictions, as fractions."""

    def subgraph(self, centre: int, seed: int) -> Subgraph:
        """The neighbourhood of a node that becomes graph tokens."""
        sampler = self.dataset.sampler
        return sample_subgraph(self.graph, centre, hops=sampler.hops, fanout=sampler.fanout, seed=seed, max_tokens=sampler.max_tokens)

    def fill(self, **words: str) -> str:
        """The chosen wording with its words filled in."""
        names = {name: getattr(self.dataset, name) for name in DATASET_WORDS}
        wording: str = self.config.wordings[self.config.wording]
        return wording.format_map(names | words)

    def cut(self, text: str) -> str:
        """At most ``max_chars`` characters of a text, on one line, cut between words. A placeholder in it is disarmed."""
        flat = " ".join(text.replace("<graph>", "< graph >").split())
        if len(flat) <= self.config.max_chars:
            return flat
        head = flat[: self.config.max_chars + 1]
        return head[: head.rfind(" ")].rstrip() if " " in head else head[:-1]


def generator(seed: int) -> torch.Generator:
    """A source of random numbers of its own."""
    return torch.Generator().manual_seed(seed)
