"""What a text encoder is: node texts in, node features out."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from graphgpt.schema import configclass

#: Tokenizer and frozen language model, as transformers has them; called only by encoders that need them.
LanguageModelSource = Callable[[], tuple[Any, Any]]


@configclass
class TextEncoderConfig:
    """What all text encoders have in common."""

    name: str
    """Name of a registered text encoder."""


class TextEncoder(ABC):
    """Base of all text encoders; register subclasses with ``@TEXT_ENCODERS.register(name)``."""

    Config: ClassVar[type[TextEncoderConfig]] = TextEncoderConfig
    reads_llm: ClassVar[bool] = False
    """Whether the features depend on the language model, and so must be made again for another one."""
    fitted: ClassVar[bool] = False
    """Whether the features depend on the other texts of the graph, and so mean something else in another graph."""

    def __init__(self, config: Any) -> None:
        self.config = config

    @abstractmethod
    def encode(self, texts: Sequence[str], llm: LanguageModelSource) -> Tensor:
        """Turn n texts into features ``[n, d]``, float32. Sees texts only, never labels or splits."""


def standardize(x: Tensor) -> Tensor:
    """Zero mean and unit variance per column; a constant column becomes zero. Shape ``[n, d]`` in and out."""
    centred = x - x.mean(dim=0, keepdim=True)
    scale = centred.std(dim=0, correction=0, keepdim=True)
    return (centred / torch.where(scale > 1e-8, scale, torch.ones_like(scale))).float()
