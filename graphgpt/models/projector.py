"""What a projector is: tower states into the language model's embedding space."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from pydantic import Field
from torch import Tensor, nn

from graphgpt.schema import configclass


@configclass
class ProjectorConfig:
    """What all projectors have in common."""

    name: str
    """Name of a registered projector."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of the tower's state that is dropped in training, so that no single feature is relied on."""


class Projector(nn.Module, ABC):
    """Base of all projectors; register subclasses with ``@PROJECTORS.register(name)``.

    Args:
        config: The projector's ``Config``.
        input_dim: Width of the tower's states.
        output_dim: Hidden size of the language model.
        target_rms: Root mean square of the language model's token embeddings. A projector starts so that states of unit
            RMS come out with this one: much smaller, and the graph tokens drown in the text's.
    """

    Config: ClassVar[type[ProjectorConfig]] = ProjectorConfig

    def __init__(self, config: Any, input_dim: int, output_dim: int, target_rms: float) -> None:
        super().__init__()
        self.config = config
        self.dropout = nn.Dropout(config.dropout)

    @classmethod
    def num_tokens(cls, config: Any, states: int) -> int:
        """How many tokens it makes of an input of so many states."""
        return states

    @abstractmethod
    def forward(self, states: Tensor, lengths: Sequence[int]) -> Tensor:
        """Tower states ``[N, input_dim]`` to tokens ``[M, output_dim]``; ``lengths`` is how many states each input has."""
