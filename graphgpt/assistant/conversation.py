"""A conversation with a trained model: it remembers what was said."""

from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, overload

from graphgpt.errors import DataError, GraphGPTError, amount
from graphgpt.images.picture import ImageInput
from graphgpt.prompts.instruction import Message, ModalityInput, Part
from graphgpt.prompts.processor import Example
from graphgpt.prompts.wording import count_places, placed
from graphgpt.schema import placeholder

if TYPE_CHECKING:
    from graphgpt.assistant.assistant import Assistant

Answer = Generator[str, None, None]
"""The pieces of an answer. Closed early, no more of it is written."""


class Conversation:
    """Questions, each with all that was said before it; made by :meth:`Assistant.conversation`.

    Args:
        assistant: Answers.
        system: System message; None takes that of the checkpoint's template.
        opening: What the first question begins with; its inputs may instead stand where that question has their placeholder.

    Attributes:
        messages: What was said so far. Of an answer that nobody heard to its end, as much as was heard.
    """

    def __init__(self, assistant: "Assistant", system: str | None = None, opening: Sequence[Part] = ()) -> None:
        self.assistant = assistant
        self.messages: list[Message] = [] if system is None else [Message("system", system)]
        self._opening = tuple(opening)
        self._last: Example | None = None

    @overload
    def ask(
        self,
        question: str,
        *,
        images: Sequence[str | Path] = (),
        stream: Literal[False] = False,
        max_new_tokens: int = 256,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> str: ...

    @overload
    def ask(
        self,
        question: str,
        *,
        images: Sequence[str | Path] = (),
        stream: Literal[True],
        max_new_tokens: int = 256,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> Answer: ...

    def ask(
        self,
        question: str,
        *,
        images: Sequence[str | Path] = (),
        stream: bool = False,
        max_new_tokens: int = 256,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> str | Answer:
        """Ask, and remember question and answer.

        Args:
            question: Any text. Where a conversation is about something, such as a node of a graph, the model is told what it is before the
                first question, unless that says with a placeholder (``<graph>``) itself where the tokens go.
            images: Files of pictures. Each goes where an ``<image>`` stands in the question; without any, all go before it.
            stream: Return an iterator over the pieces of the answer, each written when it is asked for.
            max_new_tokens: The answer is cut after so many tokens.
            temperature: 0 takes the likeliest token each time; above that, tokens are drawn.
            seed: Of the draw.

        Returns:
            The answer without space around it, or its pieces, which are the same when joined.

        Raises:
            DataError: the conversation is longer than ``model.max_length``, a picture cannot be read or the model reads none, or a
                placeholder stands where nothing can go.
            GraphGPTError: ``max_new_tokens`` or ``temperature`` is out of range.
        """
        if max_new_tokens < 1 or temperature < 0:
            raise GraphGPTError(
                f"ask: max_new_tokens must be at least 1 and temperature at least 0; found {max_new_tokens} and {temperature}."
            )
        message = self._turn(question, [self.assistant.picture(path) for path in images])
        prompt = self._last = self._read(message)
        pieces = self.assistant.written(prompt, max_new_tokens, temperature, seed)
        answer = self._remembered(message, pieces)
        return answer if stream else "".join(answer)

    def prompt(self) -> str:
        """What the model read for the last answer (before the first: what it will read, without the question), as text."""
        return self.assistant.shown(self._last or self._read(self._turn("", [])))

    def _turn(self, question: str, images: Sequence[ImageInput]) -> Message:
        begins = bool(self._opening) and all(message.role == "system" for message in self.messages)
        places = count_places(question, "graph")
        if places > begins:
            stands = amount(places, "time")
            raise DataError(f"ask: {placeholder('graph')} may stand once, in the first question about a node; here it stands {stands}.")
        inputs: dict[str, Iterator[ModalityInput]] = {}
        if places:
            inputs["graph"] = iter(part for part in self._opening if not isinstance(part, str))
        if images and (holes := count_places(question, "image")):
            if holes != len(images):
                raise DataError(f"ask: the question has {amount(holes, placeholder('image'))} for {amount(len(images), 'picture')}.")
            inputs["image"] = iter(images)
        first, *rest = placed(question, inputs)
        if images and "image" not in inputs:
            shown: list[Part] = [part for image in images for part in (image, "\n")]
            first, rest = "", [*shown[:-1], f"\n{first}", *rest]
        if begins and not places:
            *before, last = self._opening
            return Message("user", *before, f"{last}{first}", *rest)
        return Message("user", first, *rest)

    def _read(self, message: Message) -> Example:
        try:
            return self.assistant.read([*self.messages, message])
        except DataError as error:
            raise DataError(f"{error} A new conversation begins short." if self.messages else str(error)) from error

    def _remembered(self, message: Message, pieces: Iterator[str]) -> Answer:
        """Passes the pieces on; what was heard so far is in the history at any time, so that a stream may be left open."""
        before, heard = [*self.messages], ""
        for piece in pieces:
            heard += piece
            self.messages = [*before, message, Message("assistant", heard)]
            yield piece
        self.messages = [*before, message, Message("assistant", heard)]
