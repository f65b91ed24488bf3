"""What a text side is: the texts that contrastive grounding holds a tower's states against, as vectors of the tower's width."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

from torch import Tensor, nn

from graphgpt.models.llm import LLMConfig
from graphgpt.schema import configclass


class TextReader(Protocol):
    """Turns texts, or what stands for them, into what a text side's forward takes. Light: every process that prepares data gets a copy."""

    def read(self, texts: Sequence[Any]) -> Any:
        """The texts of one sample."""
        ...

    def collate(self, samples: Sequence[Any]) -> Any:
        """Samples of equally many texts, joined into one object with a ``to(device)``."""
        ...


@configclass
class TextSideConfig:
    """What all text sides have in common."""

    name: str
    """Name of a registered text side."""


class TextSide(nn.Module, ABC):
    """Base of all text sides; register subclasses with ``@TEXT_SIDES.register(name)``.

    Args:
        config: The text side's ``Config``.
        text_dim: Width of the embeddings that the task has instead of texts, None where it has the texts.
        output_dim: Width of the tower's states.
        llm: The language model whose tokenizer it may use.
    """

    Config: ClassVar[type[TextSideConfig]] = TextSideConfig
    reads_embeddings: ClassVar[bool]
    """Whether it reads what ``task.text_encoder`` makes, or the texts."""

    def __init__(self, config: Any, text_dim: int | None, output_dim: int, llm: LLMConfig) -> None:
        super().__init__()
        self.config = config

    @abstractmethod
    def reader(self) -> TextReader:
        """How it reads texts."""

    @abstractmethod
    def forward(self, texts: Any) -> Tensor:
        """Vectors of b samples of n texts each, shape ``[b, n, output_dim]``; of any length, for means are taken of them."""
