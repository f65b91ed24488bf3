"""Tasks about the nodes of a graph whose nodes have texts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import pyarrow as pa
import torch
from torch import Tensor

from graphgpt.errors import DataError, amount
from graphgpt.graphs.dataset import WORDS, DatasetConfig
from graphgpt.graphs.graph import TextAttributedGraph
from graphgpt.graphs.splits import split_nodes, write_split
from graphgpt.graphs.subgraph import GraphInput, Subgraph, sample_subgraph
from graphgpt.prompts.facts import TaskFacts
from graphgpt.prompts.instruction import GroundingInstruction, Instruction, ModalityInput, Part
from graphgpt.schema import SPLITS, Kind, Split
from graphgpt.tasks.task import OpenDataset
from graphgpt.tasks.worded import WordedTask


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
class NodeGrounding(GraphInstruction, GroundingInstruction):
    """A node's surroundings with its text and those of some neighbours."""


class GraphTask(WordedTask):
    """Base of tasks about nodes, or pairs of them; each has a subgraph sampled around it.

    Args:
        config: The task's ``Config``.
        graph: With features.
        dataset: What the prompts call things, and how subgraphs are sampled.
        split: Index into ``SPLITS`` per node, shape ``[n]``, int8; None where nodes are asked about that nobody has split.
    """

    reads: ClassVar[Kind] = "graph"
    needs_labels = True
    dataset_words = WORDS
    places: ClassVar[Mapping[str, int]] = {"graph": 1}

    def __init__(self, config: Any, graph: TextAttributedGraph, dataset: DatasetConfig, split: Tensor | None = None) -> None:
        super().__init__(config, dataset, torch.full((graph.num_nodes,), -1, dtype=torch.int8) if split is None else split)
        self.graph = graph

    @classmethod
    def build(cls, config: Any, dataset: Any, open_dataset: OpenDataset) -> Self:
        graph = open_dataset(dataset)
        if "image" in (cls.modalities(config) or ()) and graph.pictures is None:
            raise DataError(
                f"task.wording: '{config.wording}' has an <image>, and the nodes of the graph '{graph.card['name']}' have no pictures; "
                "choose another wording, or a graph whose nodes have some, such as dataset=emoji_graph."
            )
        return cls(config, graph, dataset, split_nodes(graph, dataset.split, needs_labels=cls.needs_labels))

    @property
    def facts(self) -> TaskFacts:
        return TaskFacts(
            task=self.config.name,
            widths={"graph": self.graph.features.shape[1]},
            inputs=self.places["graph"],
            candidates=None if self.candidates is None else len(self.candidates),
        )

    @property
    def data(self) -> dict[str, Any]:
        card = self.graph.card
        source = {"features_from": card["features_from"]} if "features_from" in card else {}
        width = self.graph.features.shape[1]
        return {"name": card["name"], "fingerprint": self.graph.fingerprint, "features": width, **source}

    @property
    def summary(self) -> str:
        graph = self.graph
        width = amount(graph.features.shape[1], "feature")
        return f"{graph.card['name']}, {amount(graph.num_nodes, 'node')}, {amount(graph.num_edges, 'edge')}, {width}"

    def items(self, split: Split) -> Tensor:
        """Nodes of a split, ascending, shape ``[k]``, int64."""
        chosen = self.split == SPLITS.index(split)
        if split == "train" and not self.needs_labels:
            chosen |= self.split == -1
        return chosen.nonzero().flatten()

    def identities(self, items: Tensor) -> tuple[list[str], list[str]]:
        return node_identities(self.graph, items)

    def write_split(self, folder: Path) -> None:
        """Write into ``split.csv`` which node is for what."""
        if bool((self.split >= 0).any()):
            write_split(self.graph.ids, self.split, folder / "split.csv")

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

    def limits(self, inputs: Sequence[Any]) -> tuple[str, ...]:
        """What keeps a prompt with these inputs from being longer, for ``Instruction.limits``."""
        sampler = self.dataset.sampler
        texts = ("task.max_chars",) if self.has_texts(self.config) else ()
        if not inputs:
            return texts
        if sampler.max_tokens is not None and max(item.num_tokens for item in inputs) >= sampler.max_tokens:
            return (*texts, "dataset.sampler.max_tokens")
        return (*texts, f"dataset.sampler.{'hops' if sampler.layout == 'hop_field' else 'fanout'}")

    def ask(self, *subgraphs: Subgraph, **words: str) -> tuple[Part, ...]:
        """The chosen wording filled in with words, and with the subgraphs where it has places for them."""
        return self.fill({"graph": self.inputs(subgraphs)}, **words)

    def shown(self, node: int, subgraph: Subgraph) -> dict[str, Sequence[ModalityInput]]:
        """All that a prompt may show of a node, by modality: the subgraph around it, and its picture if it has one."""
        pictures = {} if self.graph.pictures is None else {"image": (self.graph.picture(node),)}
        return {"graph": self.inputs((subgraph,)), **pictures}

    def inputs(self, subgraphs: Sequence[Subgraph]) -> tuple[GraphInput, ...]:
        """What a tower reads of an item's subgraphs."""
        return tuple(subgraph.input(self.graph) for subgraph in subgraphs)


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
