"""What a task asks: chat messages in which placeholders stand for modality inputs."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

#: Stands where a text was cut.
GAP = " ... "

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
        texts: What of the messages, literally, a prompt that is too long may be shortened by: texts that say less when they are cut, not
            the question. None of the answer.
        limits: Config keys of what keeps it from being longer still, so that lower values make it shorter.
        meta: What the task and the report want to know later.
    """

    id: str
    messages: tuple[Message, ...]
    inputs: tuple[ModalityInput, ...] = ()
    truth: int | None = None
    texts: tuple[str, ...] = ()
    limits: tuple[str, ...] = ()
    meta: dict[str, Any] = field(default_factory=dict)

    def shortened(self, text: str, length: int) -> "Instruction":
        """The same with one of its ``texts`` cut to so many characters, out of its middle: a beginning and an end say most."""
        tail = max(0, (length - len(GAP)) // 3)
        cut = f"{text[: max(0, length - len(GAP) - tail)].rstrip()}{GAP}{text[len(text) - tail :].lstrip()}"
        asked = (replace(one, content=one.content.replace(text, cut)) if one.role == "user" else one for one in self.messages[:-1])
        return replace(self, messages=(*asked, self.messages[-1]), texts=tuple(cut if one == text else one for one in self.texts))

    @property
    def prompt(self) -> str:
        """What is asked, as one text to be shown; ``<graph: 5 tokens>`` where an input stands."""
        text = "\n\n".join(message.content for message in self.messages[:-1])
        for modality in self.inputs:
            text = text.replace("<graph>", f"<graph: {modality.num_tokens} tokens>", 1)
        return text
