"""From an instruction to token ids and labels."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

from graphgpt.errors import DataError, SampleTooLong
from graphgpt.prompts.instruction import Instruction, Message, ModalityInput
from graphgpt.prompts.reader import ModalityReader, Readers
from graphgpt.prompts.template import Piece, Template, control_tokens

#: Label of a token that the model does not learn to write.
IGNORE = -100

#: A text with fewer characters is left as it is.
SHORTEST = 16

#: What becomes of a sample that is longer than a model's ``max_length``: it ends the run, is left out of training and validation (and
#: cut where its answer is waited for), or has its longest texts cut until it fits.
TooLong = Literal["raise", "skip", "cut"]

#: Token ids by text and whether control tokens in it count.
Encoded = dict[tuple[str, bool], list[int]]


def lowering(limits: Sequence[str]) -> list[str]:
    """What to do about the ``limits`` of an instruction that is too long, as part of a sentence; nothing where it has none."""
    return [f"lower {' or '.join(limits)}"] if limits else []


@dataclass(frozen=True, kw_only=True)
class Example:
    """A tokenised instruction.

    Args:
        id: The instruction's.
        ids: Token ids, below zero where an input stands (see ``graphgpt.prompts.tokens``).
        labels: As long as ``ids``: the id where supervised, else ``IGNORE``.
        inputs: Those that are read, in their order.
        spans: Where each of them stands in ``ids``: its first token, and the one behind its last.
    """

    id: str
    ids: tuple[int, ...]
    labels: tuple[int, ...]
    inputs: tuple[ModalityInput, ...]
    spans: tuple[tuple[int, int], ...]

    def first(self, length: int) -> "Example":
        """The first so many tokens, with the inputs in them; no input may be cut."""
        read = sum(end <= length for _, end in self.spans)
        return replace(self, ids=self.ids[:length], labels=self.labels[:length], inputs=self.inputs[:read], spans=self.spans[:read])

    @property
    def num_tokens(self) -> int:
        return len(self.ids)


class Processor:
    """Renders, tokenises and labels instructions.

    Labels follow from how the sequence is put together: every piece of the template is tokenised on its own and carries
    its label with it, so the tokens of a prompt are the same with and without the answer behind it.

    Args:
        tokenizer: Of the language model.
        template: Conversation template.
        max_length: Longest sequence, in tokens.
        readers: How inputs appear in prompts, by modality.
        too_long: What becomes of a longer sample, see ``TooLong``.
    """

    def __init__(
        self, tokenizer: Any, template: Template, max_length: int, readers: Readers | None = None, too_long: TooLong = "raise"
    ) -> None:
        self.tokenizer = tokenizer
        self.template = template
        self.max_length = max_length
        self.too_long = too_long
        self.readers = readers or {}

    def __call__(self, instruction: Instruction) -> Example:
        """Tokenise a conversation whose answers are known.

        Raises:
            DataError: nothing is supervised, or the sequence is too long; the message names the sample.
        """
        return self.several([instruction])[0]

    def several(self, instructions: Sequence[Instruction]) -> list[Example]:
        """What calling it with each would give, in less time: the texts of all go to the tokenizer at once, which takes every core.

        Raises:
            DataError: as for one.
        """
        made = self.whole(instructions)
        return [
            self._fitting(example, instruction, self._all, self.too_long) for example, instruction in zip(made, instructions, strict=True)
        ]

    def whole(self, instructions: Sequence[Instruction]) -> list[Example]:
        """As :meth:`several`, however long they are.

        Raises:
            DataError: as for one, but for their length.
        """
        for instruction in instructions:
            last = instruction.messages[-1]
            if last.role != "assistant" or not last.text.strip():
                raise DataError(
                    f"Sample '{instruction.id}' has no answer to learn from: its last message must be the assistant's, and not empty."
                )
        return self._assemble(instructions, [self._all(instruction) for instruction in instructions])

    def prompt(self, instruction: Instruction) -> Example:
        """Tokenise up to where the last answer begins; what stands there as the answer does not matter.

        Raises:
            SampleTooLong: it is longer than ``max_length`` and is not to be cut, or cannot be.
        """
        if instruction.messages[-1].role != "assistant":
            instruction = replace(instruction, messages=(*instruction.messages, Message("assistant", "")))
        [example] = self._assemble([instruction], [self._asked(instruction)])
        # What is asked is not left out as in training, for someone waits for the answer.
        example = self._fitting(example, instruction, self._asked, "raise" if self.too_long == "raise" else "cut")
        return replace(example, labels=(IGNORE,) * len(example.ids))

    def _all(self, instruction: Instruction) -> list[Piece]:
        """The pieces of a conversation with its answer."""
        return self.template.render(instruction.messages)

    def _asked(self, instruction: Instruction) -> list[Piece]:
        """The pieces of a conversation before its last answer."""
        # A mark keeps the place of the answer even where it is empty.
        pieces = self.template.render((*instruction.messages[:-1], Message("assistant", "@")))
        last = max(i for i, piece in enumerate(pieces) if piece.supervised and not piece.literal)
        return pieces[:last]

    def _fitting(
        self, example: Example, instruction: Instruction, render: Callable[[Instruction], list[Piece]], too_long: TooLong
    ) -> Example:
        """An example that is not longer than ``max_length``: as it is, or its longest texts cut until it fits.

        Raises:
            SampleTooLong: it is, and is not to be cut, or has no text left to cut.
        """
        length = len(example.ids)
        while len(example.ids) > self.max_length:
            text = max(instruction.texts, key=len, default="")
            if too_long != "cut" or len(text) < SHORTEST:
                ways = "".join(f", {way}" for way in lowering(instruction.limits))
                found = f"Sample '{instruction.id}' has {length} tokens, more than model.max_length={self.max_length}"
                if too_long == "cut":
                    raise SampleTooLong(f"{found}, and no text left to cut; raise it{ways}.")
                raise SampleTooLong(f"{found}; raise it{ways}, or set model.too_long=cut.")
            tokens = max(1, len(self.tokenizer(text, add_special_tokens=False)["input_ids"]))
            excess = math.ceil((len(example.ids) - self.max_length) * len(text) / tokens)
            instruction = instruction.shortened(text, max(0, min(len(text) - excess, len(text) - SHORTEST)))
            [example] = self._assemble([instruction], [render(instruction)])
        return example

    def answer(self, text: str) -> tuple[int, ...]:
        """Token ids of an answer with the sign that ends it, exactly as in training."""
        pieces = self.template.render((Message("user", ""), Message("assistant", text)))
        supervised = [piece for piece in pieces if piece.supervised]
        ids = self._encode(supervised)
        return tuple(i for piece in supervised if isinstance(piece.part, str) for i in ids[piece.part, piece.literal])

    @cached_property
    def ends(self) -> frozenset[int]:
        """Ids of the tokens that end an answer."""
        control = self.tokenizer.added_tokens_encoder.get(self.template.terminator)
        return frozenset({self.tokenizer.eos_token_id} if control is None else {self.tokenizer.eos_token_id, control})

    @cached_property
    def stop(self) -> str | None:
        """The text that ends an answer, where no token does."""
        return None if self.template.terminator in self.tokenizer.added_tokens_encoder else self.template.terminator

    def written(self, ids: Sequence[int], *, more: bool = False) -> tuple[str, bool]:
        """What an answer's ids say, without special tokens and space around it, and whether the text that ends answers was among it.

        Args:
            ids: As the model wrote them.
            more: Others are to come: what may yet become that text is left out.
        """
        text = self.tokenizer.decode(ids, skip_special_tokens=True)
        if self.stop is None:
            return text.strip(), False
        said, ended, _ = text.partition(self.stop)
        if more and not ended:
            begun = next((n for n in range(len(self.stop) - 1, 0, -1) if said.endswith(self.stop[:n])), 0)
            said = said[: len(said) - begun]
        return said.strip(), bool(ended)

    def _assemble(self, instructions: Sequence[Instruction], rendered: Sequence[Sequence[Piece]]) -> list[Example]:
        """Examples of instructions and the pieces they were rendered to."""
        merged = [self._merge(pieces) for pieces in rendered]
        ids = self._encode([piece for pieces in merged for piece in pieces])
        return [self._join(instruction, pieces, ids) for instruction, pieces in zip(instructions, merged, strict=True)]

    def _join(self, instruction: Instruction, pieces: Sequence[Piece], encoded: Encoded) -> Example:
        ids: list[int] = []
        labels: list[int] = []
        inputs: list[ModalityInput] = []
        spans: list[tuple[int, int]] = []
        to_come = Counter(part.modality for piece in pieces if not isinstance(part := piece.part, str))
        for piece in pieces:
            part = piece.part
            if isinstance(part, str):
                new = encoded[part, piece.literal]
            else:
                to_come[part.modality] -= 1
                reader = self._reader(part, instruction)
                read = not (reader.last_only and to_come[part.modality])
                new = reader.ids(part, read)
                if read:
                    inputs.append(part)
                    spans.append((len(ids), len(ids) + len(new)))
            ids += new
            labels += new if piece.supervised else [IGNORE] * len(new)
        return Example(id=instruction.id, ids=tuple(ids), labels=tuple(labels), inputs=tuple(inputs), spans=tuple(spans))

    def _reader(self, part: ModalityInput, instruction: Instruction) -> ModalityReader:
        if (reader := self.readers.get(part.modality)) is None:
            reads = ", ".join(self.readers) or "words alone"
            raise DataError(f"Sample '{instruction.id}' has a {part.modality}, and this model reads {reads}: choose a model that reads it.")
        return reader

    def _merge(self, pieces: Sequence[Piece]) -> list[Piece]:
        """Join neighbouring prompt texts, so that tokens form across them as they do in the whole text.

        A text that spells a control token stays on its own: joined to the template it would become that token.
        """
        merged: list[Piece] = []
        for piece in pieces:
            text = piece.part
            if not isinstance(text, str) or piece.supervised or (not piece.literal and self._spells_control_token(text)):
                merged.append(piece)
            elif merged and isinstance(before := merged[-1].part, str) and merged[-1].literal and not merged[-1].supervised:
                merged[-1] = replace(merged[-1], part=before + text)
            else:
                merged.append(replace(piece, literal=True))
        return merged

    def _encode(self, pieces: Sequence[Piece]) -> Encoded:
        """Token ids of every different text, each tokenised on its own."""
        encoded: Encoded = {}
        for literal in (False, True):
            texts = {piece.part: self._bare(piece.part) for piece in pieces if piece.literal == literal and isinstance(piece.part, str)}
            asked = [text for text in texts.values() if text]
            ids = iter(self.tokenizer(asked, add_special_tokens=False, split_special_tokens=not literal)["input_ids"] if asked else ())
            encoded |= {(text, literal): next(ids) if bare else [] for text, bare in texts.items()}
        return encoded

    def _bare(self, text: str) -> str:
        """A text without the space that the tokenizer adds itself."""
        return text.removeprefix(" ") if self._adds_space else text

    def _spells_control_token(self, text: str) -> bool:
        return any(token in text for token in self._control_tokens)

    @cached_property
    def _control_tokens(self) -> list[str]:
        return control_tokens(self.tokenizer)

    @cached_property
    def _adds_space(self) -> bool:
        """Whether the tokenizer puts a space before every text (SentencePiece's dummy prefix), so that ours must go."""
        tokens = self.tokenizer.convert_ids_to_tokens(self.tokenizer("a", add_special_tokens=False)["input_ids"])
        return bool(tokens) and tokens[0].startswith("▁")
