"""What a conversation template is: messages in, pieces of text out."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from graphgpt.prompts.instruction import Message, Part
from graphgpt.schema import configclass


@dataclass(frozen=True)
class Piece:
    """A stretch of a rendered conversation: a text, or an input between two.

    Args:
        part: What it is.
        supervised: Whether the model learns to write it (an answer with the sign that ends it).
        literal: Whether it belongs to the template, so that control tokens in it count; a user's text never makes one.
    """

    part: Part
    supervised: bool = False
    literal: bool = False


@configclass
class TemplateConfig:
    """What all templates have in common."""

    name: str
    """Name of a registered template."""
    system: str | None = None
    """System message; None takes the template's own."""


def control_tokens(tokenizer: Any) -> list[str]:
    """A tokenizer's control tokens, the longest first: one may begin or end another."""
    return sorted((token.content for token in tokenizer.added_tokens_decoder.values() if token.special), key=len, reverse=True)


class Template(ABC):
    """Base of all templates; register subclasses with ``@TEMPLATES.register(name)``."""

    Config: ClassVar[type[TemplateConfig]] = TemplateConfig

    def __init__(self, config: Any, tokenizer: Any) -> None:
        self.config = config
        self.tokenizer = tokenizer

    @abstractmethod
    def render(self, messages: Sequence[Message]) -> list[Piece]:
        """The whole conversation. Everything before the last supervised piece is the prompt, in training as in use."""

    @property
    @abstractmethod
    def terminator(self) -> str:
        """What ends an answer: one control token, or any text."""
