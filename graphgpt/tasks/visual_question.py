"""Questions about pictures that the collection brings: yes or no, how many, what."""

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field
from torch import Tensor

from graphgpt.errors import DataError, amount, nearest
from graphgpt.images.collection import Collection
from graphgpt.metrics import ACCURACY, Metric
from graphgpt.prompts.instruction import Message
from graphgpt.prompts.prediction import Prediction
from graphgpt.registry import TASKS
from graphgpt.schema import SPLITS, Split, configclass
from graphgpt.tasks.picture_task import PictureInstruction, PictureTask
from graphgpt.tasks.text_metrics import NO, YES, exact_match, iou, normal_answer, vqa_score, yes_no
from graphgpt.tasks.worded import TaskConfig

#: Kinds of questions that are asked; a caption is a task of its own.
Asked = Literal["yes_no", "count", "short", "box"]


@TASKS.register("visual_question")
class VisualQuestion(PictureTask):
    """An item is a question with its answer. Yes or no are chosen by likelihood where nothing else is asked; other answers are written."""

    words = ("question",)
    known_baselines = ("majority",)

    @configclass
    class Config(TaskConfig):
        kinds: list[Asked] = Field(default=["yes_no"], min_length=1)
        """Which of the collection's questions are asked."""

    def __init__(self, config: Any, collection: Collection, dataset: Any, split: Tensor) -> None:
        super().__init__(config, collection, dataset, split)
        kinds = collection.questions["kind"].to_pylist()
        self._rows = np.array([row for row, kind in enumerate(kinds) if kind in config.kinds], dtype=np.int64)
        if not len(self._rows):
            there = sorted(set(kinds) - {"caption"})
            which = f" {nearest('', there)}" if there else ""
            raise DataError(f"task.kinds: the collection '{collection.name}' has no questions of kind {', '.join(config.kinds)}.{which}")
        self._picture = np.array(collection.questions["picture"].to_pylist(), dtype=np.int64)[self._rows]

    @classmethod
    def scores(cls, config: Any) -> bool:
        return list(config.kinds) == ["yes_no"]

    @property
    def candidates(self) -> list[str] | None:
        return [YES, NO] if self.scores(self.config) else None

    @property
    def summary(self) -> str:
        return f"{super().summary}, {amount(len(self._rows), 'question')}"

    def items(self, split: Split) -> Tensor:
        """Places in the list of questions, of the pictures of a split, ascending, shape ``[k]``, int64."""
        import torch

        return (self.split[torch.from_numpy(self._picture)] == SPLITS.index(split)).nonzero().flatten()

    def picture(self, item: int) -> int:
        return int(self._picture[item])

    def identities(self, items: Tensor) -> tuple[list[str], list[str]]:
        """Ids of questions, which are those of their pictures with the questions' words, and the words."""
        rows = pa.array(self._rows[items.numpy()])
        asked = self.collection.questions["question"].take(rows).to_pylist()
        pictures = [str(self.collection.ids[self.picture(item)].as_py()) for item in items.tolist()]
        return [f"{picture}: {words}" for picture, words in zip(pictures, asked, strict=True)], asked

    def instruction(self, item: int, *, seed: int, training: bool, hide_text: bool = False) -> PictureInstruction:
        row = int(self._rows[item])
        question = {name: self.collection.questions[name][row].as_py() for name in ("question", "answers")}
        picture, answers = self.picture(item), tuple(question["answers"])
        truth = None
        if self.candidates is not None:
            truth = next((place for place, name in enumerate(self.candidates) if normal_answer(answers[0]) == name), None)
            if truth is None:
                raise DataError(f"{self.collection.name}: the answer '{answers[0]}' to '{question['question']}' is neither yes nor no.")
        return PictureInstruction(
            id=f"{self.collection.ids[picture].as_py()}:{row}",
            messages=(Message("user", *self.ask(picture, question=self.cut(question["question"]))), Message("assistant", answers[0])),
            truth=truth,
            references=answers if len(answers) > 1 else (),
            picture=picture,
        )

    def baselines(self, items: Tensor, seed: int, names: Any = None, **others: Any) -> Iterator[tuple[str, np.ndarray]]:
        """The commoner answer of training, to every question."""
        from graphgpt.tasks.baselines import NAMES

        if self.candidates is not None and (names is None or "majority" in names):
            truths = [self.instruction(item, seed=0, training=False).truth for item in self.items("train").tolist()]
            yield NAMES["majority"], np.tile(np.bincount(np.array(truths), minlength=2).astype(float), (len(items), 1))

    @classmethod
    def measures(cls, config: Any) -> tuple[Metric, ...]:
        if cls.scores(config):
            return (
                Metric(name="f1", title="F1", legend="F1: of yes"),
                ACCURACY,
                Metric(name="precision", title="Precision"),
                Metric(name="recall", title="Recall"),
                Metric(name="yes_rate", title="Yes", legend="Yes: how often it is said; half of the questions are answered so"),
            )
        box = (Metric(name="iou", title="IoU", legend="IoU: shared over joint area of boxes"),) if "box" in config.kinds else ()
        return (Metric(name="exact_match", title="Exact match"), Metric(name="vqa", title="VQA score"), *box)

    def rank_metrics(self, truth: np.ndarray, scores: np.ndarray) -> dict[str, float]:
        """Figures of yes, see ``yes_no``."""
        return yes_no(truth == 0, scores.argmax(axis=1) == 0)

    def answer_metrics(self, prediction: Prediction) -> dict[str, float]:
        """Whether the answer is right, and VQA's score; of boxes also how far they are the same."""
        said, right = prediction.text or "", prediction.right
        found = {"exact_match": exact_match(right, said), "vqa": vqa_score(right, said)}
        if "box" in self.config.kinds:
            found["iou"] = iou(right[0], said) if right[0].startswith("[") else float("nan")
        return found

    def metrics(self, predictions: Any) -> dict[str, float]:
        """Means; of boxes over those questions that ask for one."""
        if self.candidates is not None:
            return super().metrics(predictions)
        each = [self.answer_metrics(prediction) for prediction in predictions]
        return {name: float(np.nanmean([metrics[name] for metrics in each])) for name in each[0]}
