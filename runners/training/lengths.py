"""A look at how long samples are, before the first of them is trained on."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from graphgpt.errors import DataError, SampleTooLong, amount
from graphgpt.models.model import Reader
from graphgpt.models.multimodal_llm import PromptReader
from graphgpt.prompts.processor import lowering
from graphgpt.runners.training.data import mix, spread
from graphgpt.tasks.task import Task

#: Of more samples than this, so many are looked at, evenly spaced: it takes seconds.
MOST = 5000
#: Samples that go to the tokenizer at once.
TOGETHER = 256


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """How long the samples of a split are.

    Args:
        items: All of them, as many as there are.
        looked: How many were looked at.
        longest: Tokens of the longest.
        sample: Its name.
        limits: Its instruction's.
        too_long: The items that are longer than the model reads.
    """

    items: int
    looked: int
    longest: int
    sample: str
    limits: tuple[str, ...]
    too_long: list[int]


def measure(task: Task, reader: PromptReader, items: Tensor, seed: int, training: bool) -> Lengths:
    """Tokenise samples as the first epoch has them.

    Args:
        task: Makes them.
        reader: Of the model.
        items: To look at, or evenly spaced ones of them, shape ``[k]``.
        seed: Of training, or of validation.
        training: Whether the task regularises.
    """
    looked: Sequence[int] = spread(items, MOST).tolist()
    longest, sample, too_long = 0, "", []
    limits: tuple[str, ...] = ()
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # neighbourhoods are small: threads would wait for each other, on a busy machine for most of the time
    try:
        for first in range(0, len(looked), TOGETHER):
            part = looked[first : first + TOGETHER]
            asked = [task.instruction(item, seed=mix(seed, 0, item), training=training) for item in part]
            for item, instruction, example in zip(part, asked, reader.processor.whole(asked), strict=True):
                if len(example.ids) > longest:
                    longest, sample, limits = len(example.ids), example.id, instruction.limits
                if len(example.ids) > reader.processor.max_length:
                    too_long.append(item)
    finally:
        torch.set_num_threads(before)
    return Lengths(items=len(items), looked=len(looked), longest=longest, sample=sample, limits=limits, too_long=too_long)


def look(task: Task, reader: Reader, training: Tensor, validation: Tensor, seed: int) -> str | None:
    """What there is to say about the lengths of the samples of a run, in one line; None where a model reads samples of any length.

    Args:
        task: Makes the samples.
        reader: Of the model.
        training: Items to be trained on, shape ``[k]``.
        validation: Items to be validated on, shape ``[k]``.
        seed: Of the run.

    Raises:
        DataError: samples are too long for the model, and ``model.too_long`` says that this is a mistake, or they cannot be shortened.
    """
    if not isinstance(reader, PromptReader):
        return None
    started = time.monotonic()
    processor, found = reader.processor, []
    for kind, items, chance in (("training", training, seed), ("validation", validation, seed + 1)):
        if not len(items):
            continue
        lengths = measure(task, reader, items, chance, training=kind == "training")
        of = f" of {lengths.items:,}" if lengths.looked < lengths.items else ""
        about = f"the longest of {lengths.looked:,}{of} {kind} samples has {amount(lengths.longest, 'token')}"
        if lengths.too_long and processor.too_long == "raise":
            limit, verb = f"model.max_length={processor.max_length}", "is" if len(lengths.too_long) == 1 else "are"
            raise DataError(
                f"{len(lengths.too_long):,} of {lengths.looked:,}{of} {kind} samples {verb} longer than {limit}; the longest, "
                f"'{lengths.sample}', has {amount(lengths.longest, 'token')}. {', '.join(['Raise it', *lowering(lengths.limits)])}, "
                "or choose model.too_long=cut (texts are shortened) or model.too_long=skip (samples are left out)."
            )
        if lengths.too_long:
            about += f", {len(lengths.too_long):,} of them too long and {'left out' if processor.too_long == 'skip' else 'cut'}"
        if lengths.too_long and processor.too_long == "cut":
            for item in lengths.too_long:  # or the run would end when one that cannot be cut is drawn
                reader.read([task.instruction(item, seed=mix(chance, 0, item), training=kind == "training")])
        found.append(about)
    return f"{'; '.join(found)}; the model reads {processor.max_length:,} (looked for {time.monotonic() - started:.1f} s)"


def readable(task: Task, reader: Reader, items: Tensor, seed: int) -> Tensor:
    """Those of some validation items that a model reads, shape ``[k]``, where it is to leave out what is too long; else all.

    Raises:
        SampleTooLong: none of them is.
    """
    if not isinstance(reader, PromptReader) or reader.processor.too_long != "skip" or not len(items):
        return items
    out = set(measure(task, reader, items, seed, training=False).too_long)
    kept = items[[item not in out for item in items.tolist()]]
    if not len(kept):
        raise SampleTooLong("No validation sample is short enough for model.max_length; raise it, or set model.too_long=cut.")
    return kept
