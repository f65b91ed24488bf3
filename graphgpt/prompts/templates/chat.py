"""The tokenizer's own chat template."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from graphgpt.errors import GraphGPTError
from graphgpt.prompts.chat_template import render
from graphgpt.prompts.instruction import Message, Role
from graphgpt.prompts.template import Piece, Template, control_tokens
from graphgpt.registry import TEMPLATES


@TEMPLATES.register("chat")
class Chat(Template):
    """Whatever form the language model was tuned on, taken from its tokenizer's chat template.

    The template is rendered once for each sequence of roles, with marks in place of the contents, and cut at the marks, so
    that each content's place is known by construction, whatever the template does around it.
    """

    def __init__(self, config: Any, tokenizer: Any) -> None:
        super().__init__(config, tokenizer)
        if not tokenizer.chat_template:
            raise GraphGPTError(
                "model.template.name: 'chat' needs a tokenizer with a chat template, and this one has none; use model/template=vicuna_v1."
            )
        self._frames: dict[tuple[Role, ...], list[str]] = {}

    def render(self, messages: Sequence[Message]) -> list[Piece]:
        turns = list(messages)
        if self.config.system is not None and turns[0].role != "system":
            turns.insert(0, Message("system", self.config.system))
        pieces: list[Piece] = []
        ending = False
        *before, behind = self._frame(tuple(turn.role for turn in turns))
        for text, turn in zip(before, turns, strict=True):
            pieces += self._between(text, ending)
            ending = turn.role == "assistant"
            pieces += [Piece(part, supervised=ending) for part in turn.content]
        pieces += self._between(behind, ending)
        return [piece for piece in pieces if piece.part != ""]

    def _frame(self, roles: tuple[Role, ...]) -> list[str]:
        """The template's texts before each content, and behind the last."""
        if roles not in self._frames:
            marked = [{"role": role, "content": _mark(i)} for i, role in enumerate(roles)]
            rest = render(self.tokenizer, marked)
            texts = []
            for i, role in enumerate(roles):
                before, mark, rest = rest.partition(_mark(i))
                if not mark:
                    raise GraphGPTError(f"The tokenizer's chat template drops the {role} message; use model/template=vicuna_v1.")
                texts.append(before)
            self._frames[roles] = [*texts, rest]
        return self._frames[roles]

    def _between(self, text: str, ending: bool) -> list[Piece]:
        """Template text between two contents; after an answer it begins with the sign that ends the answer."""
        if not ending:
            return [Piece(text, literal=True)]
        _, found, rest = text.partition(self.terminator)
        return [Piece(self.terminator, supervised=True, literal=True), Piece(rest if found else text, literal=True)]

    @cached_property
    def terminator(self) -> str:
        """The first control token that the template writes after an answer, else the end-of-sequence token."""
        text = render(self.tokenizer, [{"role": "user", "content": _mark(0)}, {"role": "assistant", "content": _mark(1)}])
        after = text.partition(_mark(1))[2].lstrip()
        return next((token for token in control_tokens(self.tokenizer) if after.startswith(token)), str(self.tokenizer.eos_token))


def _mark(index: int) -> str:
    return f"@content{index}@"
