"""From an instruction to token ids and labels."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from graphgpt.errors import DataError
from graphgpt.prompts.instruction import Instruction, Message, ModalityInput
from graphgpt.prompts.template import Piece, Template

#: Label of a token that the model does not learn to write.
IGNORE = -100

# Modality tokens are ids below zero: they cannot clash with any vocabulary, and the language model's stays as it is.
PATCH, START, END, BLANK = -1, -2, -3, -4


@dataclass(frozen=True)
class Modality:
    """How inputs of one kind appear in prompts.

    Args:
        placeholder: Stands in a message where an input goes.
        last_only: Of several inputs, only the last is read; the others leave ``BLANK`` where their tokens would be.
    """

    placeholder: str = "<graph>"
    last_only: bool = False


@dataclass(frozen=True, kw_only=True)
class Example:
    """A tokenised instruction.

    Args:
        id: The instruction's.
        ids: Token ids; ``PATCH`` where a tower's token goes (``BLANK`` where none shall), ``START`` and ``END`` around each input.
        labels: As long as ``ids``: the id where supervised, else ``IGNORE``.
        inputs: In the order of their patches.
    """

    id: str
    ids: tuple[int, ...]
    labels: tuple[int, ...]
    inputs: tuple[ModalityInput, ...]


class Processor:
    """Renders, tokenises and labels instructions.

    Labels follow from how the sequence is put together: every piece of the template is tokenised on its own and carries
    its label with it, so the tokens of a prompt are the same with and without the answer behind it.

    Args:
        tokenizer: Of the language model.
        template: Conversation template.
        max_length: Longest sequence, in tokens.
        modality: How inputs appear in prompts.
    """

    def __init__(self, tokenizer: Any, template: Template, max_length: int, modality: Modality | None = None) -> None:
        self.tokenizer = tokenizer
        self.template = template
        self.max_length = max_length
        self.modality = modality or Modality()

    def __call__(self, instruction: Instruction) -> Example:
        """Tokenise a conversation whose answers are known.

        Raises:
            DataError: placeholders and inputs differ in number, nothing is supervised, or the sequence is too long; the
                message names the sample.
        """
        last = instruction.messages[-1]
        if last.role != "assistant" or not last.content.strip():
            raise DataError(
                f"Sample '{instruction.id}' has no answer to learn from: its last message must be the assistant's, and not empty."
            )
        return self._assemble(instruction, self.template.render(instruction.messages))

    def prompt(self, instruction: Instruction) -> Example:
        """Tokenise up to where the last answer begins; what stands there as the answer does not matter."""
        messages = instruction.messages
        if messages[-1].role != "assistant":
            messages = (*messages, Message("assistant", ""))
        # A mark keeps the place of the answer even where it is empty.
        pieces = self.template.render((*messages[:-1], Message("assistant", "@")))
        last = max(i for i, piece in enumerate(pieces) if piece.supervised and not piece.literal)
        example = self._assemble(instruction, pieces[:last])
        return replace(example, labels=(IGNORE,) * len(example.ids))

    def answer(self, text: str) -> tuple[int, ...]:
        """Token ids of an answer with the sign that ends it, exactly as in training."""
        pieces = self.template.render((Message("user", ""), Message("assistant", text)))
        return tuple(i for piece in pieces if piece.supervised for i in self._encode(piece))

    def _assemble(self, instruction: Instruction, pieces: Sequence[Piece]) -> Example:
        placeholder = self.modality.placeholder
        inputs = instruction.inputs
        found = sum(piece.text.count(placeholder) for piece in pieces if not piece.literal)
        if found != len(inputs):
            raise DataError(
                f"Sample '{instruction.id}' has {found} {placeholder} in its messages and {len(inputs)} inputs; each needs the other."
            )
        ids: list[int] = []
        labels: list[int] = []
        read = inputs[-1:] if self.modality.last_only else inputs
        upcoming = zip(inputs, [BLANK] * (len(inputs) - len(read)) + [PATCH] * len(read), strict=True)
        for piece in self._merge(pieces):
            for i, text in enumerate(piece.text.split(placeholder)):
                if i > 0:
                    item, token = next(upcoming)
                    ids += [START, *[token] * item.num_tokens, END]
                    labels += [IGNORE] * (item.num_tokens + 2)
                new = self._encode(replace(piece, text=text))
                ids += new
                labels += new if piece.supervised else [IGNORE] * len(new)
        if len(ids) > self.max_length:
            raise DataError(
                f"Sample '{instruction.id}' has {len(ids)} tokens, more than model.max_length={self.max_length}; "
                "raise it, or lower task.max_chars or dataset.sampler.fanout."
            )
        return Example(id=instruction.id, ids=tuple(ids), labels=tuple(labels), inputs=read)

    def _merge(self, pieces: Sequence[Piece]) -> list[Piece]:
        """Join neighbouring prompt pieces, so that tokens form across them as they do in the whole text.

        A text that spells a control token stays on its own: joined to the template it would become that token.
        """
        merged: list[Piece] = []
        for piece in pieces:
            alone = piece.supervised or (not piece.literal and self._spells_control_token(piece.text))
            if merged and not alone and not merged[-1].supervised and merged[-1].literal:
                merged[-1] = replace(merged[-1], text=merged[-1].text + piece.text)
            else:
                merged.append(piece if alone else replace(piece, literal=True))
        return merged

    def _encode(self, piece: Piece) -> list[int]:
        text = piece.text
        if self._adds_space and text.startswith(" "):
            text = text[1:]
        if not text:
            return []
        return list(self.tokenizer(text, add_special_tokens=False, split_special_tokens=not piece.literal)["input_ids"])

    def _spells_control_token(self, text: str) -> bool:
        return any(token in text for token in self._control_tokens)

    @cached_property
    def _control_tokens(self) -> list[str]:
        return [token.content for token in self.tokenizer.added_tokens_decoder.values() if token.special]

    @cached_property
    def _adds_space(self) -> bool:
        """Whether the tokenizer puts a space before every text (SentencePiece's dummy prefix), so that ours must go."""
        tokens = self.tokenizer.convert_ids_to_tokens(self.tokenizer("a", add_special_tokens=False)["input_ids"])
        return bool(tokens) and tokens[0].startswith("▁")
