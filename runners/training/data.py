"""Which sample comes when: a function of the seed and the step, so that a resumed run sees what it would have seen."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from graphgpt.errors import SampleTooLong
from graphgpt.models.model import AnyBatch, AnyExample, Reader
from graphgpt.tasks.task import Task, generator

Key = tuple[int, int]
"""Epoch and item: together they fix a training sample."""


def mix(*numbers: int) -> int:
    """One seed from several numbers, below 2**63; close ones give unrelated seeds (SplitMix64's finaliser)."""
    state = 0
    for number in numbers:
        state = (state ^ (number & (2**64 - 1))) + 0x9E3779B97F4A7C15
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & (2**64 - 1)
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & (2**64 - 1)
    return state >> 1


class Examples(Dataset[AnyExample]):
    """Samples as a model reads them, by (epoch, item).

    Args:
        task: Makes the instructions.
        reader: Of the model.
        seed: Chooses neighbours, orders and what else a task leaves to chance, anew in every epoch.
        training: Whether the task regularises.
        instead: Where a sample that the model cannot read is to be left out: the items, ascending, of which the next one takes its place.
    """

    def __init__(self, task: Task, reader: Reader, seed: int, training: bool, instead: Tensor | None = None) -> None:
        self.task = task
        self.reader = reader
        self.seed = seed
        self.training = training
        self.instead = instead

    def __getitem__(self, key: Key) -> AnyExample:
        return self.__getitems__([key])[0]

    def __getitems__(self, keys: Sequence[Key]) -> list[AnyExample]:
        """Those of a step, for which the loader asks together."""
        instructions = [self.task.instruction(item, seed=mix(self.seed, epoch, item), training=self.training) for epoch, item in keys]
        try:
            return self.reader.read(instructions)
        except SampleTooLong:
            if self.instead is None:
                raise
            if len(keys) > 1:
                return [example for key in keys for example in self.__getitems__([key])]
            return [self._next(*keys[0])]

    def _next(self, epoch: int, item: int) -> AnyExample:
        """The sample of the first item after ``item`` that can be read; of none, its own error."""
        assert self.instead is not None
        start = int(torch.searchsorted(self.instead, item, right=True))
        for place in range(start, start + len(self.instead)):
            other = int(self.instead[place % len(self.instead)])
            instruction = self.task.instruction(other, seed=mix(self.seed, epoch, other), training=self.training)
            with contextlib.suppress(SampleTooLong):
                example: AnyExample = self.reader.read([instruction])[0]
                return example
        raise SampleTooLong("No training sample is short enough for model.max_length; raise it, or set model.too_long=cut.")


class StepSampler(Sampler[list[Key]]):
    """What one process has to do with each step.

    Items are shuffled anew in every epoch, and the epochs follow each other without a gap; step t takes the next
    ``global_batch`` items, of which each process has its share.

    Args:
        items: What to draw from, shape ``[k]``, int64.
        steps: Optimizer steps of the whole run.
        global_batch: Samples per step, over all processes; a multiple of ``world``.
        seed: Of the shuffling.
        start: First step still to be done.
        rank: This process.
        world: Number of processes.
        redraw: Whether an item becomes another sample in every epoch, with other neighbours; else it stays that of the first.
    """

    def __init__(
        self, items: Tensor, *, steps: int, global_batch: int, seed: int, start: int = 0, rank: int = 0, world: int = 1, redraw: bool = True
    ) -> None:
        self.items = items
        self.steps = steps
        self.global_batch = global_batch
        self.seed = seed
        self.start = start
        self.rank = rank
        self.world = world
        self.redraw = redraw

    def __len__(self) -> int:
        """Steps of the whole run, those before ``start`` included."""
        return self.steps

    def __iter__(self) -> Iterator[list[Key]]:
        epoch, order = -1, torch.empty(0, dtype=torch.int64)
        for step in range(self.start, self.steps):
            batch: list[Key] = []
            for place in range(step * self.global_batch, (step + 1) * self.global_batch):
                if place // len(self.items) != epoch:
                    epoch = place // len(self.items)
                    order = self.items[torch.randperm(len(self.items), generator=generator(mix(self.seed, epoch)))]
                batch.append((epoch if self.redraw else 0, int(order[place % len(self.items)])))
            yield batch[self.rank :: self.world]


@dataclass(frozen=True)
class MicroBatches:
    """Makes the micro-batches of a step of its samples, those of like length together.

    Args:
        reader: Of the model.
        size: Samples in each at most; None for any number.
        tokens: Tokens of all samples in each at most, but at least one sample; None for any number.
    """

    reader: Reader
    size: int | None = None
    tokens: int | None = None

    def __call__(self, examples: Sequence[AnyExample]) -> list[AnyBatch]:
        parts: list[list[AnyExample]] = []
        for example in sorted(examples, key=lambda example: -example.num_tokens):
            full = not parts or len(parts[-1]) == self.size
            if full or (self.tokens is not None and sum(other.num_tokens for other in [*parts[-1], example]) > self.tokens):
                parts.append([])
            parts[-1].append(example)
        return [self.reader.collate(part) for part in parts]


def spread(items: Tensor, count: int) -> Tensor:
    """At most ``count`` of the items, shape ``[k]``, evenly spaced, so that each part of a mixture has its share."""
    return items if count >= len(items) else items[torch.arange(count) * len(items) // count]


def chunks(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    """Consecutive runs of at most ``size`` items."""
    for first in range(0, len(items), size):
        yield items[first : first + size]
