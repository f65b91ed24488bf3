"""A model's answers: candidates scored, answers written, both for many prompts at once."""

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from graphgpt.models.decoding import Decoding, Prefix, Reads, prefix_of
from graphgpt.prompts.batch import Batch, scoring_batch
from graphgpt.prompts.instruction import Instruction
from graphgpt.prompts.prediction import AnswerSettings, Prediction
from graphgpt.prompts.processor import Example, Processor

#: Choices that are scored in one pass where there is but one prompt.
AT_ONCE = 64


class Answers(Reads, Protocol):
    """What of a model answers."""

    @property
    def processor(self) -> Processor:
        """Tokenises instructions for it."""
        ...

    @property
    def ends(self) -> set[int]:
        """Ids of the tokens that end an answer."""
        ...

    def __call__(self, batch: Batch, prefix: Prefix | None = None) -> tuple[Tensor, Tensor]:
        """Log-likelihood of every answer in a token tree, and its tokens."""
        ...


@torch.inference_mode()
def score(model: Answers, prompts: Sequence[Example], candidates: Sequence[Sequence[int]], prefix: Prefix | None = None) -> Tensor:
    """Log-likelihood of every candidate answer after every prompt, shape ``[b, c]``, float32, on the CPU.

    Args:
        model: In eval mode.
        prompts: Tokenised; each begins with ``prefix``.
        candidates: Token ids.
        prefix: Of ``prefix_of``, for these prompts and others.
    """
    before = 0 if prefix is None else prefix.length
    total, _ = model(scoring_batch(prompts, candidates, model.readers, before).to(model.device), prefix)
    return total.view(len(prompts), len(candidates)).cpu()


@torch.inference_mode()
def generate(model: Answers, prompts: Sequence[Example], max_new_tokens: int, prefix: Prefix | None = None) -> list[str]:
    """Greedy answers, each as it would be alone: without special tokens and space around it.

    Args:
        model: In eval mode.
        prompts: Tokenised; each begins with ``prefix``. Their answers are written together.
        max_new_tokens: An answer is cut after so many tokens.
        prefix: Of ``prefix_of``, for these prompts and others.
    """
    written: list[list[int]] = [[] for _ in prompts]
    going = list(range(len(prompts)))
    decoding = Decoding(model, prompts, prefix)
    while True:
        tokens = decoding.logits.argmax(dim=-1).tolist()
        rows = [row for row, token in enumerate(tokens) if token not in model.ends]
        going, tokens = [going[row] for row in rows], [tokens[row] for row in rows]
        for answer, token in zip(going, tokens, strict=True):
            written[answer].append(token)
        if not going or len(written[going[0]]) == max_new_tokens:
            decoded: list[str] = model.processor.tokenizer.batch_decode(written, skip_special_tokens=True)
            return [text.strip() for text in decoded]
        decoding.write(rows, tokens)


def answers(
    model: Answers, candidates: Sequence[str] | None, instructions: Sequence[Instruction], settings: AnswerSettings
) -> Iterator[Prediction]:
    """Candidates scored where there are some, greedy answers where not or asked for; in the instructions' order.

    Args:
        model: In eval mode.
        candidates: All possible answers, None where answers are written.
        instructions: The questions.
        settings: How many at once, how long.
    """
    prompts = [model.processor.prompt(instruction) for instruction in instructions]
    possible = [model.processor.answer(name) for name in candidates or ()]
    own = [[model.processor.answer(name) for name in instruction.choices] for instruction in instructions]
    alone = _without_inputs(model, instructions, own)
    writes = settings.generate or not possible
    with torch.inference_mode():
        prefix = prefix_of(model, prompts)
    size = settings.writing_batch_size if writes else settings.batch_size
    for first in range(0, len(prompts), size):
        asked = prompts[first : first + size]
        scores: list[list[float] | None] = [None] * len(asked)
        texts: list[str | None] = [None] * len(asked)
        if possible:
            parts = (asked[at : at + settings.batch_size] for at in range(0, len(asked), settings.batch_size))
            if any(own[first : first + size]):
                pairs = zip(asked, own[first : first + size], alone[first : first + size], strict=True)
                scores = [
                    # Without inputs nothing is added to what was scored already.
                    [0.0] * len(choices)
                    if bare.ndim and not one.inputs
                    else (score(model, [one], choices or possible, prefix)[0] - bare).tolist()
                    for one, choices, bare in pairs
                ]
            else:
                scores = [row for part in parts for row in score(model, part, possible, prefix).tolist()]
        if writes:
            texts = [*generate(model, asked, settings.max_new_tokens, prefix)]
        for instruction, prompt, row, text in zip(instructions[first : first + size], asked, scores, texts, strict=True):
            yield Prediction(
                id=instruction.id,
                prompt_tokens=len(prompt.ids),
                truth=instruction.truth,
                scores=row,
                expected=instruction.messages[-1].text,
                text=text,
                references=instruction.references,
                choices=instruction.choices,
            )


def _without_inputs(model: Answers, instructions: Sequence[Instruction], own: Sequence[Sequence[Sequence[int]]]) -> list[Tensor]:
    """Log-likelihood of every question's own choices without its inputs, where they count relative to that; else 0.

    Without inputs most questions are one, and each choice is scored once after it.
    """
    bare: dict[tuple[int, ...], Example] = {}
    wanted: dict[tuple[int, ...], dict[tuple[int, ...], float]] = {}
    places: list[tuple[int, ...] | None] = []
    for instruction, mine in zip(instructions, own, strict=True):
        if not instruction.relative:
            places.append(None)
            continue
        prompt = model.processor.prompt(instruction.without())
        bare[prompt.ids] = prompt
        wanted.setdefault(prompt.ids, {}).update((tuple(choice), 0.0) for choice in mine)
        places.append(prompt.ids)
    for ids, found in wanted.items():
        choices: list[tuple[int, ...]] = [*found]
        for first in range(0, len(choices), AT_ONCE):
            some = choices[first : first + AT_ONCE]
            for choice, value in zip(some, score(model, [bare[ids]], some)[0].tolist(), strict=True):
                found[choice] = value
    return [
        torch.zeros(()) if place is None else torch.tensor([wanted[place][tuple(choice)] for choice in mine])
        for place, mine in zip(places, own, strict=True)
    ]
