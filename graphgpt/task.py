"""What a task is: instructions made from a graph, answers read, predictions scored."""

import string
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import torch
from pydantic import Field
from torch import Tensor

from graphgpt.errors import amount, nearest
from graphgpt.graphs.dataset import DatasetConfig
from graphgpt.graphs.graph import TextAttributedGraph
from graphgpt.graphs.splits import split_nodes, write_split
from graphgpt.graphs.subgraph import Subgraph, sample_subgraph
from graphgpt.metrics import Metric
from graphgpt.prompts.instruction import Instruction, ModalityInput, Part
from graphgpt.prompts.wording import content
from graphgpt.schema import PLACEHOLDER, SPLITS, Baseline, Split, configclass

#: What a dataset's config calls things; every wording may use these words.
DATASET_WORDS = ("domain", "node", "relation", "category")


@configclass
class TaskConfig:
    """What all tasks have in common."""

    name: str
    """Name of a registered task."""
    wording: str
    """Which of the wordings below is used: its name, or its number from 1."""
    wordings: dict[str, str]
    """Prompts by name; words in braces are filled in, ``<graph>`` is where the graph tokens go."""
    max_chars: int = Field(default=300, ge=0)
    """Longest text taken from a node, cut between words."""

    @property
    def chosen(self) -> str | None:
        """The chosen wording, None where there is none of that name or number."""
        names = [*self.wordings]
        if self.wording.isdecimal() and self.wording not in names and 0 < int(self.wording) <= len(names):
            return self.wordings[names[int(self.wording) - 1]]
        return self.wordings.get(self.wording)


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


@dataclass(frozen=True, kw_only=True)
class GraphInstruction(Instruction):
    """A question about nodes of a graph.

    Args:
        nodes: Those that it is about, numbered in the task's graph: one, or a pair.
        subgraphs: Of each, what was sampled around it.
    """

    nodes: tuple[int, ...]
    subgraphs: tuple[Subgraph, ...]


@dataclass(frozen=True, kw_only=True)
class GroundingInstruction(GraphInstruction):
    """A node with what is said of it and around it.

    Args:
        text: What the model's text side reads of the node: an embedding, shape ``[text_dim]``, or the text.
        around: The same of some neighbours.
    """

    text: Tensor | str
    around: list[Tensor | str]


class Task(ABC):
    """Base of all tasks; register subclasses with ``@TASKS.register(name)``.

    A task's *items* are what can be asked about, as numbers: nodes in most tasks, places in a list of pairs in link prediction.

    Args:
        config: The task's ``Config``.
        graph: With features.
        dataset: What the prompts call things, and how subgraphs are sampled.
        split: Index into ``SPLITS`` per node, shape ``[n]``, int8.
    """

    Config: ClassVar[type[TaskConfig]] = TaskConfig
    words: ClassVar[tuple[str, ...]] = ()
    """What the task fills into its wordings, besides the dataset's own words."""
    text_words: ClassVar[tuple[str, ...]] = ()
    """Those of ``words`` that hold texts of nodes, where the answers hold none."""
    num_graphs: ClassVar[int] = 1
    """How many subgraphs an item has, and so how often ``<graph>`` stands in a wording; a wording without any is text only."""
    needs_graph: ClassVar[bool] = False
    """Whether a wording without ``<graph>`` asks for nothing, since the answer is about the graph tokens themselves."""
    asks: ClassVar[bool] = True
    """Whether its samples are questions with answers, or something to be learned without words."""
    needs_labels: ClassVar[bool] = True
    """Whether it asks for a node's label; if not, nodes without one train too, and a graph without any will do."""
    reveals: ClassVar[str | None] = None
    """What its answers tell of an item, where other tasks ask the same: the ``class`` of a node. None: what no other task asks."""
    known_baselines: ClassVar[tuple[Baseline, ...]] = ()
    """Simple methods that :meth:`baselines` has."""

    @classmethod
    def problems(cls, config: Any) -> list[str]:
        """A wording that is not there, or that cannot be filled in."""
        found = [problem for name, wording in config.wordings.items() for problem in cls._wording_problems(name, wording)]
        if config.chosen is None:
            found.append(f"task.wording: '{config.wording}' is not one of task.wordings. {nearest(config.wording, config.wordings)}")
        return found

    @classmethod
    def idle(cls, config: Any, experiment: Any) -> dict[str, str]:
        """What the chosen wording has no place for. Not the sampler where no token is: such a run is another's control."""
        has, found = _fields(config.chosen), {}
        if "relation" not in has:
            found["dataset.relation"] = f"acts only in a wording with {{relation}}, and task.wording={config.wording} has none."
        if not cls._has_texts(config):
            why = f"changes nothing, for the prompts of task.wording={config.wording} hold no text."
            found |= dict.fromkeys(("task.max_chars", "task.text_dropout"), why)
        return found

    @classmethod
    def _has_texts(cls, config: Any) -> bool:
        """Whether prompts in the chosen wording, or their answers, hold texts of nodes."""
        return not cls.text_words or bool(_fields(config.chosen) & set(cls.text_words))

    @classmethod
    def scores(cls, config: Any) -> bool:
        """Whether an answer is chosen among candidates, or else written."""
        return cls.candidates is not Task.candidates

    @classmethod
    def measures(cls, config: Any) -> tuple[Metric, ...]:
        """What :meth:`metrics` holds for tasks of a ``Config``; a report puts the first one first."""
        return ()

    @classmethod
    def data_problems(cls, config: Any, dataset: Any) -> list[str]:
        """What keeps the task from being asked about the data of a dataset's ``Config``, seen without reading them."""
        if isinstance(dataset, DatasetConfig):
            return []
        return [f"task.name: '{config.name}' asks about a graph with texts, which dataset.name={dataset.name} has not."]

    @classmethod
    def _wording_problems(cls, name: str, wording: str) -> list[str]:
        known = [*DATASET_WORDS, *cls.words]
        try:
            fields = _fields(wording)
        except ValueError as error:
            return [f"task.wordings.{name}: {wording!r} cannot be filled in: {error}; a brace that is meant as one is doubled."]
        found = [
            f"task.wordings.{name}: '{{{field}}}' is not known here. {nearest(field, known)}"
            for field in sorted(fields)
            if field not in known
        ]
        graphs, or_none = wording.count(PLACEHOLDER), "" if cls.needs_graph else " (or none, for text alone)"
        if graphs != cls.num_graphs and (graphs or cls.needs_graph):
            found.append(f"task.wordings.{name}: has <graph> {amount(graphs, 'time')}, expected {cls.num_graphs}{or_none}.")
        return found

    def __init__(self, config: Any, graph: TextAttributedGraph, dataset: DatasetConfig, split: Tensor) -> None:
        self.config = config
        self.graph = graph
        self.dataset = dataset
        self.split = split

    @classmethod
    def build(cls, config: Any, dataset: Any, open_graph: Callable[[Any], TextAttributedGraph]) -> "Task":
        """The task on the data that a dataset config names.

        Args:
            config: The task's ``Config``.
            dataset: A dataset's ``Config``.
            open_graph: Opens the graph of a dataset config, with features.

        Raises:
            DataError: the data cannot be used.
        """
        graph = open_graph(dataset)
        return cls(config, graph, dataset, split_nodes(graph, dataset.split, needs_labels=cls.needs_labels))

    @property
    def input_dim(self) -> int:
        """Width of the node features that a tower will read."""
        return self.graph.features.shape[1]

    @property
    def data(self) -> dict[str, Any]:
        """Name and fingerprint of what the task asks about, width and source of its features, for the checkpoint and for messages."""
        card = self.graph.card
        source = {"features_from": card["features_from"]} if "features_from" in card else {}
        return {"name": card["name"], "fingerprint": self.graph.fingerprint, "features": self.input_dim, **source}

    @property
    def summary(self) -> str:
        """What the task asks about, in a few words."""
        graph = self.graph
        return f"{graph.card['name']}, {amount(graph.num_nodes, 'node')}, {amount(graph.num_edges, 'edge')}, " + amount(
            self.input_dim, "feature"
        )

    def items(self, split: Split) -> Tensor:
        """Items of a split, ascending, shape ``[k]``, int64; nodes unless the task says otherwise."""
        chosen = self.split == SPLITS.index(split)
        if split == "train" and not self.needs_labels:
            chosen |= self.split == -1
        return chosen.nonzero().flatten()

    def by_part(self, items: Tensor) -> "list[tuple[Task, Tensor]]":
        """The tasks that items are of, each with its own items; several for a mixture."""
        return [(self, items)]

    def identities(self, items: Tensor) -> tuple[list[str], list[str]]:
        """What each item is called and what it says, by which it is found again in another opening or another version of the data."""
        return node_identities(self.graph, items)

    def write_split(self, folder: Path) -> None:
        """Write into ``split.csv`` which node is for what; a task whose items are no nodes has none, or writes its own."""
        graph: TextAttributedGraph | None = getattr(self, "graph", None)
        if graph is not None and bool((self.split >= 0).any()):
            write_split(graph, self.split, folder / "split.csv")

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
            hide_text: Leave the texts of the items themselves out, to see what the graph tokens say alone.
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

    def baselines(self, items: Tensor, seed: int, names: Collection[str] | None = None) -> Iterator[tuple[str, np.ndarray]]:
        """Simple methods to be held against, each with a score for every candidate of every item, shape ``[k, c]``.

        Args:
            items: To score, shape ``[k]``.
            seed: Of what the methods leave to chance.
            names: Keys of ``graphgpt.baselines.NAMES``; None is all that the task has.
        """
        yield from ()

    def subgraph(self, centre: int, seed: int, graph: TextAttributedGraph | None = None) -> Subgraph:
        """The neighbourhood of a node that becomes graph tokens, in the task's graph or another with the same nodes."""
        sampler = self.dataset.sampler
        return sample_subgraph(
            graph or self.graph,
            centre,
            hops=sampler.hops,
            fanout=sampler.fanout,
            seed=seed,
            max_tokens=sampler.max_tokens,
            layout=sampler.layout,
        )

    def limits(self, inputs: Sequence[ModalityInput]) -> tuple[str, ...]:
        """What keeps a prompt with these inputs from being longer, for ``Instruction.limits``."""
        sampler = self.dataset.sampler
        texts = ("task.max_chars",) if self._has_texts(self.config) else ()
        if not inputs:
            return texts
        if sampler.max_tokens is not None and max(item.num_tokens for item in inputs) >= sampler.max_tokens:
            return (*texts, "dataset.sampler.max_tokens")
        return (*texts, f"dataset.sampler.{'hops' if sampler.layout == 'hop_field' else 'fanout'}")

    def fill(self, *subgraphs: Subgraph, **words: str) -> tuple[Part, ...]:
        """The chosen wording with its words filled in, and subgraphs where ``<graph>`` stood; without that it is text alone."""
        inputs = self.inputs(subgraphs) if PLACEHOLDER in self.config.chosen else ()
        return content(self.config.chosen, self.dataset_words | words, inputs)

    def inputs(self, subgraphs: Sequence[Subgraph]) -> tuple[ModalityInput, ...]:
        """What a tower reads of an item's subgraphs."""
        return tuple(subgraph.input(self.graph) for subgraph in subgraphs)

    @property
    def dataset_words(self) -> dict[str, str]:
        """What the dataset calls things."""
        return {name: getattr(self.dataset, name) for name in DATASET_WORDS}

    def cut(self, text: str) -> str:
        """At most ``max_chars`` characters of a text, on one line, cut between words."""
        flat = " ".join(text.split())
        if len(flat) <= self.config.max_chars:
            return flat
        head = flat[: self.config.max_chars + 1]
        return head[: head.rfind(" ")].rstrip() if " " in head else head[:-1]


def node_identities(graph: TextAttributedGraph, nodes: Tensor) -> tuple[list[str], list[str]]:
    """Ids of nodes, and their texts; of those without any, their class and how many neighbours they have."""
    place = pa.array(nodes.numpy())
    ids, titles, bodies = (column.take(place).to_pylist() for column in (graph.ids, graph.titles, graph.bodies))
    degrees, names = graph.rowptr.diff()[nodes].tolist(), (*graph.class_names, "")
    says = [
        body or title if title != f"node {name}" or body else f"{names[label]} {degree}"
        for name, title, body, label, degree in zip(ids, titles, bodies, graph.y[nodes].tolist(), degrees, strict=True)
    ]
    return ids, says


def _fields(wording: str) -> set[str]:
    """The words in braces of a wording.

    Raises:
        ValueError: a brace is left open.
    """
    return {field for _, field, _, _ in string.Formatter().parse(wording) if field is not None}


def generator(seed: int) -> torch.Generator:
    """A source of random numbers of its own."""
    return torch.Generator().manual_seed(seed)
