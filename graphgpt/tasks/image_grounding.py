"""Which name belongs to which picture? Stage 0 for pictures, for a tower alone: no labels are read."""

import dataclasses
from typing import Annotated, Any, Self

from torch import Tensor

from graphgpt.images.collection import Collection
from graphgpt.images.splits import split_pictures
from graphgpt.prompts.facts import TaskFacts
from graphgpt.prompts.instruction import GroundingInstruction, Message
from graphgpt.registry import TASKS, TEXT_ENCODERS
from graphgpt.schema import Registered, configclass
from graphgpt.tasks.picture_task import PictureInstruction, PictureTask
from graphgpt.tasks.task import OpenDataset
from graphgpt.tasks.worded import TaskConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class PictureGrounding(PictureInstruction, GroundingInstruction):
    """A picture with what is said of it."""


@TASKS.register("image_grounding")
class ImageGrounding(PictureTask):
    """A picture beside its title and text, to be told from all others' (CLIP, arXiv:2103.00020, section 2.3).

    Args:
        config: This class's ``Config``.
        collection: The pictures.
        dataset: What the prompts call things.
        split: Index into ``SPLITS`` per picture, shape ``[n]``, int8.
        texts: An embedding of each picture's text, shape ``[n, text_dim]``; None where the model reads the texts.
    """

    asks = False
    needs = "image"

    @configclass
    class Config(TaskConfig):
        text_encoder: Annotated[Any, Registered(TEXT_ENCODERS, "task.text_encoder")] | None = None
        """What embeds the texts, once; null gives the texts themselves to the model, cut to ``max_chars``."""

    def __init__(self, config: Any, collection: Collection, dataset: Any, split: Tensor, texts: Tensor | None = None) -> None:
        super().__init__(config, collection, dataset, split)
        self.texts = texts

    @classmethod
    def build(cls, config: Any, dataset: Any, open_dataset: OpenDataset) -> Self:
        """As for every task, but with embeddings of the texts."""
        collection = open_dataset(dataset)
        texts = None if config.text_encoder is None else open_dataset(dataset, text_encoder=config.text_encoder)
        return cls(config, collection, dataset, split_pictures(collection, dataset.split, needs_labels=False), texts)

    @classmethod
    def idle(cls, config: Any, experiment: Any) -> dict[str, str]:
        """Also the length of texts that an encoder reads whole."""
        found = super().idle(config, experiment)
        if config.text_encoder is not None:
            found["task.max_chars"] = "acts only with task.text_encoder=null: an encoder reads texts whole."
        return found

    @property
    def facts(self) -> TaskFacts:
        return dataclasses.replace(super().facts, text_dim=None if self.texts is None else self.texts.shape[1])

    def instruction(self, item: int, *, seed: int, training: bool, hide_text: bool = False) -> PictureGrounding:
        said = ". ".join(filter(None, (self.title(item), self.text(item))))
        return PictureGrounding(
            id=str(self.collection.ids[item].as_py()),
            messages=(Message("user", *self.ask(item)), Message("assistant", said)),
            picture=item,
            text=said if self.texts is None else self.texts[item],
            around=[],
        )
