"""Which sample comes when: a function of the seed and the step, so that a resumed run sees what it would have seen."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from graphgpt.prompts.processor import Example, Processor
from graphgpt.task import Task, generator

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


class Examples(Dataset[Example]):
    """Tokenised instructions by (epoch, item).

    Args:
        task: Makes the instructions.
        processor: Tokenises them.
        seed: Chooses neighbours, orders and what else a task leaves to chance, anew in every epoch.
        training: Whether the task regularises.
    """

    def __init__(self, task: Task, processor: Processor, seed: int, training: bool) -> None:
        self.task = task
        self.processor = processor
        self.seed = seed
        self.training = training

    def __getitem__(self, key: Key) -> Example:
        epoch, item = key
        return self.processor(self.task.instruction(item, seed=mix(self.seed, epoch, item), training=self.training))


class StepSampler(Sampler[list[Key]]):
    """The micro-batches of one process, step after step.

    Items are shuffled anew in every epoch, and the epochs follow each other without a gap; step t takes the next
    ``global_batch`` items, of which each process has its share.

    Args:
        items: What to draw from, shape ``[k]``, int64.
        steps: Optimizer steps of the whole run.
        global_batch: Samples per step, over all processes.
        micro_batch: Samples per forward pass of one process; ``global_batch`` is a multiple of ``micro_batch * world``.
        seed: Of the shuffling.
        start: First step still to be done.
        rank: This process.
        world: Number of processes.
    """

    def __init__(
        self, items: Tensor, *, steps: int, global_batch: int, micro_batch: int, seed: int, start: int = 0, rank: int = 0, world: int = 1
    ) -> None:
        self.items = items
        self.steps = steps
        self.global_batch = global_batch
        self.micro_batch = micro_batch
        self.seed = seed
        self.start = start
        self.rank = rank
        self.world = world

    def __len__(self) -> int:
        """Micro-batches of the whole run, those before ``start`` included."""
        return self.steps * self.global_batch // (self.micro_batch * self.world)

    def __iter__(self) -> Iterator[list[Key]]:
        epoch, order = -1, torch.empty(0, dtype=torch.int64)
        for step in range(self.start, self.steps):
            batch: list[Key] = []
            for place in range(step * self.global_batch, (step + 1) * self.global_batch):
                if place // len(self.items) != epoch:
                    epoch = place // len(self.items)
                    order = self.items[torch.randperm(len(self.items), generator=generator(mix(self.seed, epoch)))]
                batch.append((epoch, int(order[place % len(self.items)])))
            mine = batch[self.rank :: self.world]
            for first in range(0, len(mine), self.micro_batch):
                yield mine[first : first + self.micro_batch]


def chunks(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    """Consecutive runs of at most ``size`` items."""
    for first in range(0, len(items), size):
        yield items[first : first + size]
