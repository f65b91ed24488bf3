"""Which class does a picture belong to?"""

from collections.abc import Callable, Collection, Iterator
from typing import Any

import numpy as np
from torch import Tensor

from graphgpt.metrics import Metric
from graphgpt.prompts.instruction import Message
from graphgpt.registry import TASKS
from graphgpt.schema import configclass
from graphgpt.tasks.node_classification import CLASSIFICATION, classification_metrics
from graphgpt.tasks.picture_task import PictureInstruction, PictureTask
from graphgpt.tasks.worded import TaskConfig

#: One vector of each item, shape ``[k, d]``.
Pooled = Callable[[Tensor], np.ndarray]


@TASKS.register("image_classification")
class ImageClassification(PictureTask):
    """The answer is a class name; every class name is a candidate."""

    words = ("classes", "numbered", "title", "text")
    text_words = ("title", "text")
    reveals = "class"
    needs_labels = True
    known_baselines = ("majority", "probe", "neighbor")

    @configclass
    class Config(TaskConfig):
        pass

    @property
    def candidates(self) -> list[str]:
        return list(self.collection.class_names)

    def instruction(self, item: int, *, seed: int, training: bool, hide_text: bool = False) -> PictureInstruction:
        names = self.collection.class_names
        title, text = ("(hidden)",) * 2 if hide_text else (self.title(item), self.text(item))
        numbered = ". ".join(f"{i}. {name}" for i, name in enumerate(names, start=1))
        asked = Message("user", *self.ask(item, classes="; ".join(names), numbered=numbered, title=title, text=text))
        truth = int(self.collection.table["label"][item].as_py())
        return PictureInstruction(
            id=str(self.collection.ids[item].as_py()),
            messages=(asked, Message("assistant", names[truth])),
            truth=truth,
            texts=(title, text) if self.has_texts(self.config) else (),
            picture=item,
        )

    def baselines(
        self, items: Tensor, seed: int, names: Collection[str] | None = None, *, pooled: Pooled | None = None, **others: Any
    ) -> Iterator[tuple[str, np.ndarray]]:
        from graphgpt.tasks.baselines import state_scores

        yield from state_scores(self.collection.y, self.items("train"), self.items("val"), items, len(self.candidates), pooled, names)

    @classmethod
    def measures(cls, config: Any) -> tuple[Metric, ...]:
        return CLASSIFICATION

    def rank_metrics(self, truth: np.ndarray, scores: np.ndarray) -> dict[str, float]:
        """Accuracy, macro-F1 over the classes that occur, and whether the truth is among the three likeliest."""
        return classification_metrics(truth, scores)
