"""What a fusion is: how projected inputs come to the language model."""

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from graphgpt.prompts.tokens import Token
from graphgpt.schema import configclass


@configclass
class FusionConfig:
    """What all fusions have in common."""

    name: str
    """Name of a registered fusion."""


class Fusion(nn.Module, ABC):
    """Base of all fusions; register subclasses with ``@FUSIONS.register(name)``.

    Args:
        config: The fusion's ``Config``.
        number: Of the modality, from 0 in the order of the model's config: its tokens' ids follow from it.
        dim: Hidden size of the language model.
        rms: Root mean square of its token embeddings, which rows of the fusion's own start with.
        blank: Whether there are inputs that are not read, whose place needs a vector.
    """

    Config: ClassVar[type[FusionConfig]] = FusionConfig
    looks: ClassVar[bool] = False
    """Whether layers of the language model look at the inputs, of which ``Token.MEDIA`` tells the place (see :meth:`looking`)."""

    def __init__(self, config: Any, number: int, dim: int, rms: float, blank: bool = False) -> None:
        super().__init__()
        self.config = config
        self.number = number

    @classmethod
    @abstractmethod
    def layout(cls, config: Any, num_tokens: int) -> tuple[Token, ...]:
        """What stands in the sequence for an input that the projector made so many tokens of."""

    @abstractmethod
    def embed(self, embedded: Tensor, ids: Tensor, projected: Tensor | None) -> Tensor:
        """Embeddings with the vectors of the modality's own tokens in their places.

        Args:
            embedded: Shape ``[*, d]``.
            ids: Shape ``[*]``, int64.
            projected: The projector's tokens of all inputs, one after the other, shape ``[N, d]``; None where there are none.
        """

    def attach(self, llm: nn.Module) -> None:
        """Prepare the layers of the language model that are to look at inputs."""
        return

    def looking(self, sees: Tensor, projected: Tensor, lengths: Sequence[int]) -> contextlib.AbstractContextManager[object]:
        """Within it, layers of the language model look at inputs.

        Args:
            sees: Which token of the sequence has which input before it on its path, shape ``[t, k]``, bool.
            projected: The projector's tokens of all inputs, one after the other, shape ``[N, d]``.
            lengths: How many of them each input has.
        """
        return contextlib.nullcontext()
