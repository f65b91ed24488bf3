"""Vicuna's conversation form, in which GraphGPT was trained."""

from collections.abc import Sequence

from graphgpt.prompts.instruction import Message, Part
from graphgpt.prompts.template import Piece, Template
from graphgpt.registry import TEMPLATES

SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)


@TEMPLATES.register("vicuna_v1")
class VicunaV1(Template):
    """``{system} USER: {question} ASSISTANT: {answer}</s>``, repeated per turn (FastChat's ``vicuna_v1.1``).

    The end sign is the tokenizer's own end-of-sequence token, which is ``</s>`` for Vicuna.
    """

    def render(self, messages: Sequence[Message]) -> list[Piece]:
        turns = list(messages)
        own = SYSTEM if self.config.system is None else self.config.system
        first, turns = (turns[0].text, turns[1:]) if turns[0].role == "system" else (own, turns)
        pieces = [Piece(self.tokenizer.bos_token or "", literal=True), Piece(first)]
        for number, message in enumerate(turns):
            if message.role == "user":
                said = [Piece(part) for part in _after_a_space(message)]
                pieces += [Piece("USER:" if number else " USER:", literal=True), *said, Piece(" ASSISTANT:", literal=True)]
            else:
                said = [Piece(part, supervised=True) for part in _after_a_space(message)]
                pieces += [*said, Piece(self.terminator, supervised=True, literal=True)]
        return [piece for piece in pieces if piece.part != ""]

    @property
    def terminator(self) -> str:
        return str(self.tokenizer.eos_token)


def _after_a_space(message: Message) -> list[Part]:
    """The content behind ``USER:`` or ``ASSISTANT:``; the space is part of its first text."""
    first, *others = message.content or ("",)
    return [" " + first, *others] if isinstance(first, str) else [" ", first, *others]
