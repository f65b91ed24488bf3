"""The experiment that benchmarks take their model and their samples from: real documentation, the shipped small language model."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from graphgpt.assembly import build_model, build_task
from graphgpt.config.command_line import check_command_line
from graphgpt.config.experiment import ExperimentConfig
from graphgpt.models.multimodal_llm import MultimodalLLM
from graphgpt.prompts.instruction import ModalityInput
from graphgpt.prompts.processor import Example
from graphgpt.prompts.reader import collate_inputs
from graphgpt.runners.training.data import Examples
from graphgpt.tasks.task import Task

#: A random model of two layers, if no other sizes are given.
RANDOM = ("model.llm.path=random:tiny", "model.max_length=65536")
#: A few nodes to a graph, the beginning of their texts: what a benchmark asserts does not depend on how long samples are.
SHORT = ("task.max_chars=100", "dataset.sampler.max_tokens=6")


def compose(*overrides: str, small: bool = False) -> Any:
    """The ``ExperimentConfig`` of ``train.py``'s command line; with ``small``, short samples and a random model of two layers."""
    return check_command_line(ExperimentConfig, "train", [*overrides, *(RANDOM + SHORT if small else ())])


def build(experiment: Any) -> tuple[MultimodalLLM, Task]:
    """Model, in training mode, and task."""
    task = build_task(experiment)
    model: MultimodalLLM = build_model(experiment, task).train()
    return model, task


def embedded(model: MultimodalLLM, ids: Sequence[int], inputs: Sequence[ModalityInput]) -> Tensor:
    """Embeddings of one sequence, shape ``[1, n, d]``."""
    joined = {name: own.to(model.device) for name, own in collate_inputs(model.readers, inputs).items()}
    return model.embed(torch.tensor([ids], device=model.device), model.project(joined))


def training_examples(model: MultimodalLLM, task: Task, count: int) -> list[Example]:
    """The first samples of an epoch, tokenised."""
    examples = Examples(task, model.reader(), seed=0, training=True)
    return [examples[0, item] for item in task.items("train")[:count].tolist()]
