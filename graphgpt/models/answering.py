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
    processor = model.processor
    written: list[list[int]] = [[] for _ in prompts]
    going = list(range(len(prompts)))
    decoding = Decoding(model, prompts, prefix)
    while True:
        tokens = decoding.logits.argmax(dim=-1).tolist()
        rows = [row for row, token in enumerate(tokens) if token not in processor.ends]
        for row in rows:
            written[going[row]].append(tokens[row])
        if processor.stop is not None:
            rows = [row for row in rows if not processor.written(written[going[row]])[1]]
        going, tokens = [going[row] for row in rows], [tokens[row] for row in rows]
        if not going or len(written[going[0]]) == max_new_tokens:
            return [processor.written(ids)[0] for ids in written]
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
                scores = [_chosen(model, one, choices or possible, bare, prefix) for one, choices, bare in pairs]
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


def _chosen(model: Answers, prompt: Example, choices: Sequence[Sequence[int]], bare: Tensor | None, prefix: Prefix | None) -> list[float]:
    """What a question's own choices score: their log-likelihood, less that without inputs where they count relative to it."""
    if bare is not None and not prompt.inputs:
        return [0.0] * len(choices)
    found = score(model, [prompt], choices, prefix)[0]
    values: list[float] = (found if bare is None else found - bare).tolist()
    return values


def _without_inputs(model: Answers, instructions: Sequence[Instruction], own: Sequence[Sequence[Sequence[int]]]) -> list[Tensor | None]:
    """Log-likelihood of every question's own choices without its inputs; None where they do not count relative to that.

    Without inputs most questions are one, and each choice is scored once after it.
    """
    bare = [model.processor.prompt(instruction.without()) if instruction.relative else None for instruction in instructions]
    asked: dict[tuple[int, ...], Example] = {}
    wanted: dict[tuple[int, ...], list[tuple[int, ...]]] = {}
    for prompt, choices in zip(bare, own, strict=True):
        if prompt is not None:
            asked[prompt.ids] = prompt
            wanted.setdefault(prompt.ids, []).extend(map(tuple, choices))
    known: dict[tuple[tuple[int, ...], tuple[int, ...]], float] = {}
    for ids, every in wanted.items():
        once = [*dict.fromkeys(every)]
        for first in range(0, len(once), AT_ONCE):
            some = once[first : first + AT_ONCE]
            scores = score(model, [asked[ids]], some)[0].tolist()
            known |= {(ids, choice): value for choice, value in zip(some, scores, strict=True)}
    return [
        None if prompt is None else torch.tensor([known[prompt.ids, tuple(choice)] for choice in choices])
        for prompt, choices in zip(bare, own, strict=True)
    ]
