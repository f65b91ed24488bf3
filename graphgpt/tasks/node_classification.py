"""Which class does the centre of the subgraph belong to?"""

import math
from collections.abc import Collection, Iterator
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from graphgpt.metrics import ACCURACY, Metric
from graphgpt.prompts.instruction import Message
from graphgpt.registry import TASKS
from graphgpt.schema import configclass
from graphgpt.tasks.graph_task import GraphInstruction, GraphTask
from graphgpt.tasks.task import generator
from graphgpt.tasks.worded import TaskConfig


@TASKS.register("node_classification")
class NodeClassification(GraphTask):
    """The answer is a class name; every class name is a candidate (GraphGPT, arXiv:2310.13023, section 3.3)."""

    words = ("classes", "numbered", "title", "text")
    places = {"graph": 1, "image": 1}
    reveals = "class"
    text_words = ("title", "text")
    known_baselines = ("majority", "tfidf", "sgc", "gcn", "graphsage")

    @configclass
    class Config(TaskConfig):
        text_dropout: float = Field(default=0.0, ge=0, le=1)
        """Share of training prompts without the node's own text, so that the model learns to read the graph tokens."""

    @property
    def candidates(self) -> list[str]:
        return list(self.graph.class_names)

    def instruction(self, item: int, *, seed: int, training: bool, hide_text: bool = False) -> GraphInstruction:
        chance = float(torch.rand((), generator=generator(seed)))
        hidden = hide_text or (training and chance < self.config.text_dropout)
        names = self.graph.class_names
        title, text = ("(hidden)",) * 2 if hidden else (self.cut(self.graph.title(item)), self.cut(self.graph.body(item)))
        subgraph = self.subgraph(item, seed)
        asked = Message(
            "user",
            *self.fill(
                self.shown(item, subgraph),
                classes="; ".join(names),
                numbered=". ".join(f"{i}. {name}" for i, name in enumerate(names, start=1)),
                title=title,
                text=text,
            ),
        )
        truth = int(self.graph.y[item])
        return GraphInstruction(
            id=str(self.graph.ids[item].as_py()),
            messages=(asked, Message("assistant", names[truth])),
            truth=truth,
            texts=(title, text),
            limits=self.limits([item for item in asked.inputs if item.modality == "graph"]),
            nodes=(item,),
            subgraphs=(subgraph,),
        )

    def baselines(self, items: Tensor, seed: int, names: Collection[str] | None = None, **others: Any) -> Iterator[tuple[str, np.ndarray]]:
        from graphgpt.tasks.baselines import baseline_scores

        yield from baseline_scores(self.graph, self.items("train"), items, seed, val=self.items("val"), names=names)

    @classmethod
    def measures(cls, config: Any) -> tuple[Metric, ...]:
        return CLASSIFICATION

    def rank_metrics(self, truth: np.ndarray, scores: np.ndarray) -> dict[str, float]:
        """Accuracy, macro-F1 over the classes that occur, and whether the truth is among the three likeliest."""
        return classification_metrics(truth, scores)


#: What :func:`classification_metrics` finds.
CLASSIFICATION = (ACCURACY, Metric(name="macro_f1", title="Macro-F1"), Metric(name="top3", title="Top-3"))


def classification_metrics(truth: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    """Accuracy, macro-F1 and top-3 accuracy, which is not defined (nan) where any three classes are all there are.

    Args:
        truth: Right classes, shape ``[n]``, int.
        scores: Any score that ranks, shape ``[n, c]``.
    """
    best = scores.argmax(axis=1)
    top3 = np.argsort(-scores, axis=1, kind="stable")[:, :3]
    return {
        "accuracy": float((best == truth).mean()),
        "macro_f1": macro_f1(truth, best),
        "top3": float((top3 == truth[:, None]).any(axis=1).mean()) if scores.shape[1] > 3 else math.nan,
    }


def macro_f1(truth: np.ndarray, answer: np.ndarray) -> float:
    """Mean over the classes that occur in ``truth`` of 2 TP / (2 TP + FP + FN); both of shape ``[n]``, int.

    As scikit-learn's, without the checks that would make a thousand resamples take seconds.
    """
    classes = max(truth.max(), answer.max()) + 1
    there, said, right = (np.bincount(values, minlength=classes) for values in (truth, answer, truth[truth == answer]))
    occurs = there > 0
    return float((2 * right[occurs] / (there + said)[occurs]).mean())
