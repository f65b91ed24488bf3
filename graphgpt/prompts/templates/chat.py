"""The tokenizer's own chat template."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from graphgpt.errors import GraphGPTError
from graphgpt.prompts.instruction import Message
from graphgpt.prompts.template import Piece, Template
from graphgpt.registry import TEMPLATES


@TEMPLATES.register("chat")
class Chat(Template):
    """Whatever form the language model was tuned on, taken from its tokenizer (``apply_chat_template``).

    The template is rendered once with marks in place of the contents and cut at the marks, so that each content's place is
    known by construction, whatever the template does around it.
    """

    def __init__(self, config: Any, tokenizer: Any) -> None:
        super().__init__(config, tokenizer)
        if not tokenizer.chat_template:
            raise GraphGPTError(
                "model.template.name: 'chat' needs a tokenizer with a chat template, and this one has none; use 'vicuna_v1'."
            )

    def render(self, messages: Sequence[Message]) -> list[Piece]:
        turns = list(messages)
        if self.config.system is not None and turns[0].role != "system":
            turns.insert(0, Message("system", self.config.system))
        rest = self.tokenizer.apply_chat_template(
            [{"role": turn.role, "content": _mark(i)} for i, turn in enumerate(turns)], tokenize=False
        )
        pieces: list[Piece] = []
        ending = False
        for i, turn in enumerate(turns):
            before, mark, rest = rest.partition(_mark(i))
            if not mark:
                raise GraphGPTError(f"The tokenizer's chat template drops the {turn.role} message; use model/template=vicuna_v1.")
            pieces += self._between(before, ending)
            ending = turn.role == "assistant"
            pieces.append(Piece(turn.content, supervised=ending))
        pieces += self._between(rest, ending)
        return [piece for piece in pieces if piece.text]

    def _between(self, text: str, ending: bool) -> list[Piece]:
        """Template text between two contents; after an answer it begins with the sign that ends the answer."""
        if not ending:
            return [Piece(text, literal=True)]
        _, found, rest = text.partition(self.terminator)
        return [Piece(self.terminator, supervised=True, literal=True), Piece(rest if found else text, literal=True)]

    @cached_property
    def terminator(self) -> str:
        """The first control token that the template writes after an answer, else the end-of-sequence token."""
        text = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": _mark(0)}, {"role": "assistant", "content": _mark(1)}], tokenize=False
        )
        after = text.partition(_mark(1))[2].lstrip()
        special = [token.content for token in self.tokenizer.added_tokens_decoder.values() if token.special]
        return next((token for token in sorted(special, key=len, reverse=True) if after.startswith(token)), str(self.tokenizer.eos_token))


def _mark(index: int) -> str:
    return f"@content{index}@"
