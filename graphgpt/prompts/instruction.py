"""What a task asks: chat messages in which placeholders stand for modality inputs."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

Role = Literal["system", "user", "assistant"]


class ModalityInput(Protocol):
    """Anything a tower can read: a subgraph, an image."""

    @property
    def num_tokens(self) -> int:
        """How many tokens it takes in the prompt."""
        ...


def first_tokens(inputs: Sequence[ModalityInput]) -> Tensor:
    """Place of each input's first token among the tokens of all, shape ``[len(inputs)]``, int64."""
    sizes = torch.tensor([item.num_tokens for item in inputs])
    return sizes.cumsum(0) - sizes


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str


@dataclass(frozen=True, kw_only=True)
class Instruction:
    """One question with its answer.

    Args:
        id: Names the sample in predictions and in error messages.
        messages: Alternating user and assistant turns, perhaps after a system message; the last one is the answer.
        inputs: What stands behind the placeholders, in their order; empty for a text-only instruction.
        truth: Index of the right answer among the task's candidates, None where the task has none.
        meta: What the task and the report want to know later.
    """

    id: str
    messages: tuple[Message, ...]
    inputs: tuple[ModalityInput, ...] = ()
    truth: int | None = None
    meta: dict[str, Any] = field(default_factory=dict)

    @property
    def prompt(self) -> str:
        """What is asked, as one text to be shown; ``<graph: 5 tokens>`` where an input stands."""
        text = "\n\n".join(message.content for message in self.messages[:-1])
        for modality in self.inputs:
            text = text.replace("<graph>", f"<graph: {modality.num_tokens} tokens>", 1)
        return text
