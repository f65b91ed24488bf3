"""Conversation forms that are written down in a config: what stands around each turn."""

from collections.abc import Iterator, Sequence
from functools import cached_property

from pydantic import Field, field_validator

from graphgpt.prompts.instruction import Message, Part
from graphgpt.prompts.template import Piece, Template, TemplateConfig, control_tokens
from graphgpt.registry import TEMPLATES
from graphgpt.schema import configclass

CONTENT, INPUTS, SYSTEM = "{content}", "{inputs}", "{system}"


def _one_of(text: str, *places: str) -> str:
    if sum(text.count(place) for place in places) != 1:
        raise ValueError(f"must have {' or '.join(places)} once")
    return text


@TEMPLATES.register("turns")
class Turns(Template):
    """Says a conversation in any form that is the same for every turn: Vicuna's, Llama 2's, ChatML, and LLaVA's (arXiv:2304.08485).

    A space before ``{content}`` belongs to the content, whose first word is one token with it. What the answers and their end are is
    known from how the text is put together, so no tokenizer can shift the labels.
    """

    @configclass
    class Config(TemplateConfig):
        opening: str = "{bos}{system}"
        """What a conversation begins with; ``{bos}`` and ``{eos}`` are the tokenizer's, here and below."""
        system_form: str = "{content} "
        """The system message, put in place of ``{system}``: in the opening, or in the first user turn. Nothing, where there is none."""
        user: str
        """A user's turn; ``{inputs}`` instead of ``{content}`` leaves its words out."""
        assistant: str
        """An answer, without what ends it."""
        end: str = "{eos}"
        """What ends an answer and is learned with it; a text need not be a control token."""
        between: str = ""
        """Behind an answer that another turn follows."""
        around: dict[str, str] = Field(default_factory=dict)
        """By modality what an input stands in, such as ``image: "<Image>{content}</Image>"``."""

        @field_validator("user")
        @classmethod
        def _user(cls, text: str) -> str:
            return _one_of(text, CONTENT, INPUTS)

        @field_validator("system_form")
        @classmethod
        def _content(cls, text: str) -> str:
            return _one_of(text, CONTENT)

        @field_validator("assistant")
        @classmethod
        def _assistant(cls, text: str) -> str:
            if not text.endswith(CONTENT):
                raise ValueError(f"must end with {CONTENT}; what follows an answer is 'end'")
            return _one_of(text, CONTENT)

        @field_validator("around")
        @classmethod
        def _around(cls, forms: dict[str, str]) -> dict[str, str]:
            return {modality: _one_of(form, CONTENT) for modality, form in forms.items()}

        @field_validator("end")
        @classmethod
        def _end(cls, text: str) -> str:
            if not text.strip(" "):
                raise ValueError("must not be empty, or no answer would ever end")
            return text

    config: Config

    def render(self, messages: Sequence[Message]) -> list[Piece]:
        turns = list(messages)
        system = turns.pop(0) if turns and turns[0].role == "system" else Message("system", self.config.system or "")
        pieces = [*self._frame(self.config.opening, system)]
        for number, turn in enumerate(turns):
            first = system if number == 0 else None
            if turn.role == "assistant":
                pieces += self._said(self.config.assistant, turn, supervised=True)
                pieces.append(Piece(self._control, supervised=True, literal=True))
                if number < len(turns) - 1:
                    pieces += self._frame(self.config.between)
            else:
                pieces += self._said(self.config.user, turn, system=first)
        return [piece for piece in pieces if piece.part != ""]

    @cached_property
    def terminator(self) -> str:
        return self._control or self._closing

    @cached_property
    def _control(self) -> str:
        """The control token that ``end`` ends with; empty where it is a text."""
        end = self._filled(self.config.end)
        return next((token for token in control_tokens(self.tokenizer) if end.endswith(token)), "")

    @cached_property
    def _closing(self) -> str:
        """The text of ``end`` before its control token."""
        return self._filled(self.config.end).removesuffix(self._control)

    def _filled(self, text: str) -> str:
        return text.replace("{bos}", self.tokenizer.bos_token or "").replace("{eos}", self.tokenizer.eos_token or "")

    def _frame(self, form: str, system: Message | None = None) -> Iterator[Piece]:
        """A text of the template, perhaps with the system message in it."""
        before, found, behind = form.partition(SYSTEM)
        yield Piece(self._filled(before), literal=True)
        if found and system is not None and system.content not in ((), ("",)):
            yield from self._said(self.config.system_form, system)
        yield Piece(self._filled(behind), literal=True)

    def _said(self, form: str, message: Message, *, system: Message | None = None, supervised: bool = False) -> Iterator[Piece]:
        """A message in its form; of an answer, what ends it belongs to its text."""
        place = CONTENT if CONTENT in form else INPUTS
        before, _, behind = form.partition(place)
        parts: Sequence[Part] = message.content if place == CONTENT else message.inputs
        stripped = before.removesuffix(" ")
        yield from self._frame(stripped, system)
        texts = [*self._surrounded(parts)] or [""]
        if stripped != before:
            texts = [" " + texts[0], *texts[1:]] if isinstance(texts[0], str) else [" ", *texts]
        if supervised and self._closing:
            texts = [*texts[:-1], texts[-1] + self._closing] if isinstance(texts[-1], str) else [*texts, self._closing]
        yield from (Piece(text, supervised=supervised) for text in texts)
        yield Piece(self._filled(behind), literal=True)

    def _surrounded(self, parts: Sequence[Part]) -> Iterator[Part]:
        """Contents, with what an input of its modality stands in; neighbouring texts are one."""
        text = ""
        for part in parts:
            if isinstance(part, str):
                text += part
                continue
            before, _, behind = self.config.around.get(part.modality, CONTENT).partition(CONTENT)
            if text + before:
                yield text + before
            yield part
            text = behind
        if text:
            yield text
