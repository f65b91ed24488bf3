"""What a task asks: chat messages made of texts and of inputs that are no text, each where it is read."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Protocol

from torch import Tensor

#: Stands where a text was cut.
GAP = " ... "

Role = Literal["system", "user", "assistant"]


class ModalityInput(Protocol):
    """Anything a tower can read: a subgraph, an image."""

    modality: ClassVar[str]
    """What it is, in one word: ``graph``."""

    @property
    def key(self) -> str:
        """Identifies its content: equal inputs have equal keys."""
        ...

    @property
    def shown(self) -> str:
        """What stands for it where a prompt is shown to people, such as ``<graph: 5 tokens>``."""
        ...


#: What a message is made of.
Part = str | ModalityInput


@dataclass(frozen=True, init=False)
class Message:
    """One turn of a conversation: ``Message("user", "Look at ", graph, " and say what it is.")``.

    Args:
        role: Whose turn it is.
        content: Texts, and inputs where they stand between them. Nothing in a text is looked for: ``<graph>`` in it is five letters and
            two signs.
    """

    role: Role
    content: tuple[Part, ...]

    def __init__(self, role: Role, *content: Part) -> None:
        object.__setattr__(self, "role", role)
        object.__setattr__(self, "content", content)

    @property
    def inputs(self) -> tuple[ModalityInput, ...]:
        """What of the content is no text, in its order."""
        return tuple(part for part in self.content if not isinstance(part, str))

    @property
    def text(self) -> str:
        """What of the content is text, as if nothing stood between."""
        return "".join(part for part in self.content if isinstance(part, str))

    @property
    def shown(self) -> str:
        """The content as one text for people; ``<graph: 5 tokens>`` where an input stands."""
        return "".join(piece for piece, _ in self.pieces)

    @property
    def pieces(self) -> list[tuple[str, bool]]:
        """The same in pieces, each with whether it stands for an input."""
        return [(part, False) if isinstance(part, str) else (part.shown, True) for part in self.content]


@dataclass(frozen=True, kw_only=True)
class Instruction:
    """One question with its answer. What a task or the report wants to know of it later is a field of a subclass.

    Args:
        id: Names the sample in predictions and in error messages.
        messages: Alternating user and assistant turns, perhaps after a system message; the last one is the answer.
        truth: Index of the right answer among the task's candidates, None where the task has none.
        references: All right answers where there are several, of which the last message is one.
        choices: The candidates, where each question has its own.
        relative: Whether a choice counts by how much likelier the inputs make it, and not by how likely it is: where choices are texts that
            differ in that by themselves (Holtzman et al., arXiv:2104.08315, section 3).
        texts: What of the messages, literally, a prompt that is too long may be shortened by: texts that say less when they are cut, not
            the question. None of the answer.
        limits: Config keys of what keeps it from being longer still, so that lower values make it shorter.
    """

    id: str
    messages: tuple[Message, ...]
    truth: int | None = None
    references: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    relative: bool = False
    texts: tuple[str, ...] = ()
    limits: tuple[str, ...] = ()

    @property
    def inputs(self) -> tuple[ModalityInput, ...]:
        """All that is no text, in the order in which it is read."""
        return tuple(item for message in self.messages for item in message.inputs)

    def with_inputs(self, inputs: Sequence[ModalityInput]) -> "Instruction":
        """The same words around others of as many inputs, in their order."""
        upcoming = iter(inputs)
        messages = (
            Message(one.role, *(part if isinstance(part, str) else next(upcoming) for part in one.content)) for one in self.messages
        )
        return replace(self, messages=tuple(messages))

    def without(self, modality: str | None = None) -> "Instruction":
        """The same words without the inputs of a modality; None leaves all out."""

        def kept(part: Part) -> bool:
            return isinstance(part, str) or (modality is not None and part.modality != modality)

        return replace(self, messages=tuple(Message(one.role, *filter(kept, one.content)) for one in self.messages))

    def shortened(self, text: str, length: int) -> "Instruction":
        """The same with one of its ``texts`` cut to so many characters, out of its middle: a beginning and an end say most."""
        tail = max(0, (length - len(GAP)) // 3)
        cut = f"{text[: max(0, length - len(GAP) - tail)].rstrip()}{GAP}{text[len(text) - tail :].lstrip()}"

        def asked(message: Message) -> Message:
            parts = (part.replace(text, cut) if isinstance(part, str) else part for part in message.content)
            return Message(message.role, *parts) if message.role == "user" else message

        messages = (*map(asked, self.messages[:-1]), self.messages[-1])
        return replace(self, messages=messages, texts=tuple(cut if one == text else one for one in self.texts))

    @property
    def prompt(self) -> str:
        """What is asked, as one text to be shown; ``<graph: 5 tokens>`` where an input stands."""
        return "".join(piece for piece, _ in self.pieces)

    @property
    def pieces(self) -> list[tuple[str, bool]]:
        """The same in pieces, each with whether it stands for an input."""
        between = ("\n\n", False)
        found = [piece for message in self.messages[:-1] for piece in (between, *message.pieces)]
        return [piece for piece in found[1:] if piece[0]]


@dataclass(frozen=True, kw_only=True)
class GroundingInstruction(Instruction):
    """An input with what is said of it and around it.

    Args:
        text: What the model's text side reads of the input: an embedding, shape ``[text_dim]``, or the text.
        around: The same of some neighbours; none where inputs have no neighbours.
    """

    text: Tensor | str
    around: list[Tensor | str]
