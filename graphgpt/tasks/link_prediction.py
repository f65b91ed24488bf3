"""Are two nodes connected?"""

import csv
import io
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from graphgpt.files.atomic import write_text
from graphgpt.graphs.edge_splits import EdgeSplitConfig, split_edges
from graphgpt.graphs.graph import TextAttributedGraph
from graphgpt.graphs.subgraph import GraphInput, Subgraph
from graphgpt.metrics import ACCURACY, Metric
from graphgpt.prompts.instruction import Message
from graphgpt.registry import TASKS
from graphgpt.schema import SPLITS, Split, configclass
from graphgpt.tasks.graph_task import GraphInstruction, GraphTask, node_identities
from graphgpt.tasks.task import OpenDataset, generator
from graphgpt.tasks.worded import TaskConfig

YES, NO = 0, 1


def partners(first: GraphInput, second: GraphInput) -> tuple[GraphInput, GraphInput]:
    """Two subgraphs, each with the other as its partner."""
    return replace(first, partner=replace(second, partner=None)), replace(second, partner=replace(first, partner=None))


@TASKS.register("link_prediction")
class LinkPrediction(GraphTask):
    """Two subgraphs in one prompt, the answer is yes or no (GraphGPT, arXiv:2310.13023, table 9). Items are pairs of nodes.

    The edges asked about leave the graph, in both directions, before anything is sampled. Edges that only training asks about
    are back at evaluation, where they are known.
    """

    words = ("title", "text", "other_title", "other_text")
    text_words = words
    places = {"graph": 2}
    known_baselines = ("text_cosine", "two_hop_cosine", "common_neighbors")

    @configclass
    class Config(TaskConfig):
        split: EdgeSplitConfig = Field(default_factory=EdgeSplitConfig)
        """Which edges become questions, and which pairs without an edge beside them."""
        text_dropout: float = Field(default=0.0, ge=0, le=1)
        """Share of training prompts without the nodes' own texts, so that the model learns to read the graph tokens."""

    @classmethod
    def idle(cls, config: Any, experiment: Any) -> dict[str, str]:
        """Also the split of nodes."""
        return super().idle(config, experiment) | {
            "dataset.split": f"changes nothing, for task.name={config.name} splits edges; task.split says how."
        }

    def __init__(self, config: Any, graph: TextAttributedGraph, dataset: Any, split: Tensor) -> None:
        super().__init__(config, graph, dataset, split)
        self.edges = split_edges(graph, config.split)

    @classmethod
    def build(cls, config: Any, dataset: Any, open_dataset: OpenDataset) -> Self:
        """As for every task, but no labels are needed, for nodes are not split."""
        graph = open_dataset(dataset)
        return cls(config, graph, dataset, torch.full((graph.num_nodes,), -1, dtype=torch.int8))

    def items(self, split: Split) -> Tensor:
        """Places in ``edges.pairs``, ascending, shape ``[k]``, int64."""
        return (self.edges.split == SPLITS.index(split)).nonzero().flatten()

    def identities(self, items: Tensor) -> tuple[list[str], list[str]]:
        """Of pairs, whichever node comes first."""
        ids, texts = node_identities(self.graph, self.edges.pairs[items].flatten())
        ends = list(zip(ids, texts, strict=True))
        pairs = [sorted(pair) for pair in zip(ends[::2], ends[1::2], strict=True)]
        return ["\t".join(name for name, _ in pair) for pair in pairs], ["\n".join(text for _, text in pair) for pair in pairs]

    def write_split(self, folder: Path) -> None:
        """The pairs, into ``split.csv``: source, target, whether there is an edge, and the split."""
        ids, edges, text = self.graph.ids, self.edges, io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(("source", "target", "linked", "split"))
        for (a, b), linked, part in zip(edges.pairs.tolist(), edges.linked.tolist(), edges.split.tolist(), strict=True):
            writer.writerow((ids[a].as_py(), ids[b].as_py(), int(linked), SPLITS[part]))
        write_text(folder / "split.csv", text.getvalue())

    @property
    def candidates(self) -> list[str]:
        return ["yes", "no"]

    def instruction(self, item: int, *, seed: int, training: bool, hide_text: bool = False) -> GraphInstruction:
        chance = float(torch.rand((), generator=generator(seed)))
        hidden = hide_text or (training and chance < self.config.text_dropout)
        pair = self.edges.pairs[item].tolist()
        titles = ["(hidden)" if hidden else self.cut(self.graph.title(node)) for node in pair]
        texts = ["(hidden)" if hidden else self.cut(self.graph.body(node)) for node in pair]
        graph = self.edges.training if self.edges.split[item] == SPLITS.index("train") else self.edges.evaluation
        subgraphs = [self.subgraph(node, seed, graph) for node in pair]
        truth = YES if self.edges.linked[item] else NO
        words = {"title": titles[0], "text": texts[0], "other_title": titles[1], "other_text": texts[1]}
        asked = Message("user", *self.ask(*subgraphs, **words))
        return GraphInstruction(
            id="-".join(str(self.graph.ids[node].as_py()) for node in pair),
            messages=(asked, Message("assistant", self.candidates[truth])),
            truth=truth,
            texts=(*titles, *texts),
            limits=self.limits(asked.inputs),
            nodes=tuple(pair),
            subgraphs=tuple(subgraphs),
        )

    def inputs(self, subgraphs: Sequence[Subgraph]) -> tuple[GraphInput, ...]:
        """Each with the other beside it, for towers that compare them."""
        return partners(*(subgraph.input(self.graph) for subgraph in subgraphs))

    @classmethod
    def measures(cls, config: Any) -> tuple[Metric, ...]:
        return (
            Metric(name="auc", title="AUC", legend="AUC: area under the ROC curve"),
            Metric(name="average_precision", title="AP", legend="AP: average precision"),
            ACCURACY,
            Metric(name="hard_auc", title="Hard AUC", legend="Hard AUC: area for answers without their probabilities"),
        )

    def rank_metrics(self, truth: np.ndarray, scores: np.ndarray) -> dict[str, float]:
        """By P(yes) against P(no): area under the ROC curve, average precision, accuracy at 0.5.

        ``hard_auc`` is the area for answers without their probabilities, which is how GraphGPT's figures were made; it
        equals the balanced accuracy. NaN where all pairs are of one kind.
        """
        from sklearn.metrics import average_precision_score, roc_auc_score

        linked, margin = truth == YES, scores[:, YES] - scores[:, NO]
        both = 0 < linked.sum() < len(linked)
        return {
            "auc": float(roc_auc_score(linked, margin)) if both else float("nan"),
            "average_precision": float(average_precision_score(linked, margin)) if both else float("nan"),
            "accuracy": float(((margin > 0) == linked).mean()),
            "hard_auc": float(roc_auc_score(linked, margin > 0)) if both else float("nan"),
        }

    def baselines(self, items: Tensor, seed: int, names: Collection[str] | None = None, **others: Any) -> Iterator[tuple[str, np.ndarray]]:
        from graphgpt.tasks.baselines import link_scores

        yield from link_scores(self.edges, self.items("train"), items, seed, names=names)
