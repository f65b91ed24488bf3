"""Vicuna's conversation form, in which GraphGPT was trained."""

from collections.abc import Sequence

from graphgpt.prompts.instruction import Message
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
        system = turns.pop(0).content if turns[0].role == "system" else own
        pieces = [Piece(self.tokenizer.bos_token or "", literal=True), Piece(system)]
        for message in turns:
            if message.role == "user":
                pieces += [
                    Piece(" USER:" if len(pieces) == 2 else "USER:", literal=True),
                    Piece(" " + message.content),
                    Piece(" ASSISTANT:", literal=True),
                ]
            else:
                pieces += [Piece(" " + message.content, supervised=True), Piece(self.terminator, supervised=True, literal=True)]
        return [piece for piece in pieces if piece.text]

    @property
    def terminator(self) -> str:
        return str(self.tokenizer.eos_token)
