"""What is on a picture, of a few names?"""

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np
from pydantic import Field
from torch import Tensor

from graphgpt.metrics import ACCURACY, Metric
from graphgpt.prompts.instruction import Instruction, Message
from graphgpt.registry import TASKS
from graphgpt.schema import configclass
from graphgpt.tasks.image_classification import Pooled
from graphgpt.tasks.picture_task import PictureInstruction, PictureTask
from graphgpt.tasks.worded import TaskConfig


@TASKS.register("image_naming")
class ImageNaming(PictureTask):
    """The answer is a picture's title; an evaluation chooses by likelihood among it and those of others of its split.

    The question does not list them, so that training on titles is training for it. Each counts by how much likelier the picture makes it.
    """

    known_baselines = ("probe", "neighbor")

    @configclass
    class Config(TaskConfig):
        choices: int = Field(default=20, ge=2)
        """How many titles an evaluation chooses among."""
        with_class: bool = False
        """Whether an answer says the picture's class before its title."""

    @property
    def candidates(self) -> list[str]:
        """Places in a question's own list."""
        return [f"choice {place}" for place in range(1, self.config.choices + 1)]

    def named(self, picture: int) -> str:
        """What a picture is called; with its class before that where that is asked for and it has one."""
        label = self.collection.table["label"][picture].as_py() if self.config.with_class else -1
        return self.title(picture) if label < 0 else f"{self.collection.class_names[label]}: {self.title(picture)}"

    def choices(self, item: int, seed: int) -> list[str]:
        """Different titles of the picture's split, its own among them, in an order of chance; fewer where there are not so many."""
        random = np.random.RandomState(seed % 2**32)
        same = (self.split == self.split[item]).nonzero().flatten().numpy()
        titles = dict.fromkeys([self.named(item), *(self.named(other) for other in random.permutation(same)[: 4 * self.config.choices])])
        chosen = [*titles][: self.config.choices]
        return [chosen[place] for place in random.permutation(len(chosen))]

    def instruction(self, item: int, *, seed: int, training: bool, hide_text: bool = False) -> PictureInstruction:
        title = self.named(item)
        choices = () if training else tuple(self.choices(item, seed))
        return PictureInstruction(
            id=str(self.collection.ids[item].as_py()),
            messages=(Message("user", *self.ask(item)), Message("assistant", title)),
            truth=choices.index(title) if choices else None,
            choices=choices,
            relative=True,
            picture=item,
        )

    def baselines(
        self,
        items: Tensor,
        seed: int,
        names: Collection[str] | None = None,
        *,
        pooled: Pooled | None = None,
        asked: Sequence[Instruction] = (),
        **others: Any,
    ) -> Iterator[tuple[str, np.ndarray]]:
        """A title is as likely as the class of the picture that it is of: what a classifier can say about names that it has never seen."""
        from graphgpt.tasks.baselines import NAMES, state_scores

        y = self.collection.y
        label = {self.named(picture): label for picture, label in enumerate(y.tolist())}
        classes = len(self.collection.class_names)
        for name, scores in state_scores(y, self.items("train"), self.items("val"), items, classes, pooled, names):
            if name != NAMES["majority"]:
                rows = zip(scores, asked, strict=True)
                yield name, np.array([[row[label[title]] for title in question.choices] for row, question in rows])

    @classmethod
    def measures(cls, config: Any) -> tuple[Metric, ...]:
        return (ACCURACY,)

    def rank_metrics(self, truth: np.ndarray, scores: np.ndarray) -> dict[str, float]:
        """Share of pictures whose own title is the likeliest."""
        return {"accuracy": float((scores.argmax(axis=1) == truth).mean())}
