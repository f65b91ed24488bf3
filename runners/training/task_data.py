"""Lightning's view of a task: a share of a global batch per step, a fixed set of validation batches."""

from functools import cached_property
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from graphgpt.errors import GraphGPTError
from graphgpt.models.model import Model, Reader
from graphgpt.models.multimodal_llm import PromptReader
from graphgpt.runners.training.data import Examples, Key, MicroBatches, StepSampler, chunks, mix, spread
from graphgpt.runners.training.lengths import look, readable
from graphgpt.runners.training.memory import tokens_that_fit
from graphgpt.tasks.task import Task, generator


class TaskData(LightningDataModule):
    """Training and validation batches of a task.

    Args:
        task: Makes the samples.
        model: Reads them.
        experiment: The ``ExperimentConfig``.
    """

    def __init__(self, task: Task, model: Model, experiment: Any) -> None:
        super().__init__()
        self.task = task
        self.model = model
        self.reader = model.reader()
        self.seed = experiment.seed
        self.config = experiment.runner

    def train_dataloader(self) -> Any:
        trainer, config = self.trainer, self.config
        assert trainer is not None
        items = training_items(self.task, config.train_samples, self.seed)
        sampler = StepSampler(
            items,
            redraw=config.train_samples is None,
            steps=config.max_steps,
            global_batch=config.global_batch_size,
            seed=self.seed,
            start=trainer.global_step,
            rank=trainer.global_rank,
            world=trainer.world_size,
        )
        skips = isinstance(self.reader, PromptReader) and self.reader.processor.too_long == "skip"
        examples = Examples(self.task, self.reader, self.seed, training=True, instead=items.sort().values if skips else None)
        tokens = config.micro_batch_tokens
        if tokens == "auto":
            tokens = tokens_that_fit(self.model, self.reader, [examples[key] for key in next(iter(sampler))])
        return DataLoader(
            examples,
            batch_sampler=sampler,
            collate_fn=MicroBatches(self.reader, config.micro_batch_size, tokens),
            num_workers=config.workers,
        )

    def val_dataloader(self) -> Any:
        if not self.config.val_every:
            return []
        return DataLoader(
            Examples(self.task, self.reader, self.seed + 1, training=False),
            batch_sampler=self._own_chunks(),
            collate_fn=self.reader.collate,
        )

    @cached_property
    def _chunks(self) -> list[list[Key]]:
        items = validation_items(self.task, self.reader, self.config.val_samples, self.seed).tolist()
        return [list(chunk) for chunk in chunks([(0, item) for item in items], self.config.samples_per_pass)]

    def _own_chunks(self) -> list[list[Key]]:
        """This process's chunks; as many as every other has, for they gather weights together. What is too much does not count."""
        trainer, whole = self.trainer, self._chunks
        assert trainer is not None
        rounds = -(-len(whole) // trainer.world_size)
        return [whole[(number * trainer.world_size + trainer.global_rank) % len(whole)] for number in range(rounds)]

    def counts(self, batch: int, rank: int) -> bool:
        """Whether a validation batch of this process is one of the set, and not one too much."""
        assert self.trainer is not None
        return batch * self.trainer.world_size + rank < len(self._chunks)


def validation_items(task: Task, reader: Reader, count: int, seed: int) -> Tensor:
    """The items to validate on, shape ``[k]``, int64: at most ``count``, evenly spaced, that the model reads.

    Raises:
        SampleTooLong: it reads none of them.
    """
    return readable(task, reader, spread(task.items("val"), count), seed + 1)


def look_at_lengths(task: Task, reader: Reader, config: Any, seed: int) -> str | None:
    """What there is to say about the lengths of a run's samples (see :func:`graphgpt.runners.training.lengths.look`), one line or None.

    Raises:
        DataError: some are too long.
    """
    training = training_items(task, getattr(config, "train_samples", None), seed)
    validation = spread(task.items("val"), config.val_samples if getattr(config, "val_every", 0) else 0)
    return look(task, reader, training, validation, seed)


def check_answers(task: Task) -> None:
    """Look whether there is anything to tell apart.

    Raises:
        GraphGPTError: there is one answer to every question.
    """
    for one in task.parts.values():
        if one.candidates is not None and len(one.candidates) < 2:
            raise GraphGPTError(
                f"task.name: '{one.config.name}' has nothing to tell apart in '{one.data['name']}', for all that is labelled there is "
                f"'{one.candidates[0] if one.candidates else ''}'; take data of two or more classes, or task=node_description."
            )


def training_items(task: Task, count: int | None = None, seed: int = 0) -> Tensor:
    """The items to train on, shape ``[k]``, int64; at most ``count`` of them, drawn with ``seed``.

    Raises:
        GraphGPTError: there are none.
    """
    items = task.items("train")
    if not len(items):
        raise GraphGPTError(f"The graph '{task.data['name']}' has no training nodes for the task '{task.config.name}'.")
    return items if count is None else items[torch.randperm(len(items), generator=generator(mix(seed, -1)))[:count]]
