"""What does a picture show?"""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow.compute as pc

from graphgpt.metrics import Metric
from graphgpt.prompts.instruction import Message
from graphgpt.prompts.prediction import Prediction
from graphgpt.registry import TASKS
from graphgpt.schema import configclass
from graphgpt.tasks.picture_task import PictureInstruction, PictureTask
from graphgpt.tasks.text_metrics import cider_d, rouge_l
from graphgpt.tasks.worded import TaskConfig


@TASKS.register("image_caption")
class ImageCaption(PictureTask):
    """The answer is a caption of the picture, one of those that the collection brings, else its title."""

    @configclass
    class Config(TaskConfig):
        pass

    @cached_property
    def captions(self) -> dict[int, tuple[str, ...]]:
        """By picture, where the collection brings some."""
        own = self.collection.questions
        own = own.filter(pc.equal(own["kind"], "caption"))
        return {row["picture"]: tuple(map(self.cut, row["answers"])) for row in own.to_pylist()}

    def instruction(self, item: int, *, seed: int, training: bool, hide_text: bool = False) -> PictureInstruction:
        captions = self.captions.get(item) or (self.title(item),)
        return PictureInstruction(
            id=str(self.collection.ids[item].as_py()),
            messages=(Message("user", *self.ask(item)), Message("assistant", captions[0])),
            references=captions if len(captions) > 1 else (),
            picture=item,
        )

    @classmethod
    def measures(cls, config: Any) -> tuple[Metric, ...]:
        return (Metric(name="rouge_l", title="ROUGE-L"), Metric(name="cider_d", title="CIDEr-D", unit=""))

    def answer_metrics(self, prediction: Prediction) -> dict[str, float]:
        """ROUGE-L against the right caption that is nearest."""
        return {"rouge_l": max(rouge_l(right, prediction.text or "") for right in prediction.right)}

    def metrics(self, predictions: Sequence[Prediction]) -> dict[str, float]:
        """Also CIDEr-D, which weighs words by how rare they are among all captions."""
        found = cider_d([prediction.right for prediction in predictions], [prediction.text or "" for prediction in predictions])
        return super().metrics(predictions) | {"cider_d": float(np.mean(found))}
