"""The experiment that benchmarks take their model and their samples from: real documentation, the shipped small language model."""

from typing import Any

from graphgpt.assembly import build_model, build_task
from graphgpt.command_line import check_command_line
from graphgpt.config import ExperimentConfig
from graphgpt.models.graph_llm import GraphLLM
from graphgpt.prompts.processor import Example
from graphgpt.runners.data import Examples
from graphgpt.task import Task

#: A random model of two layers, if no other sizes are given.
RANDOM = ("model.llm.path=random:tiny", "model.max_length=65536")
#: A few nodes to a graph, the beginning of their texts: what a benchmark asserts does not depend on how long samples are.
SHORT = ("task.max_chars=100", "dataset.sampler.max_tokens=6")


def compose(*overrides: str, small: bool = False) -> Any:
    """The ``ExperimentConfig`` of ``train.py``'s command line; with ``small``, short samples and a random model of two layers."""
    return check_command_line(ExperimentConfig, "train", [*overrides, *(RANDOM + SHORT if small else ())])


def build(experiment: Any) -> tuple[GraphLLM, Task]:
    """Model, in training mode, and task."""
    task = build_task(experiment)
    model: GraphLLM = build_model(experiment, task).train()
    return model, task


def training_examples(model: GraphLLM, task: Task, count: int) -> list[Example]:
    """The first samples of an epoch, tokenised."""
    examples = Examples(task, model.reader(), seed=0, training=True)
    return [examples[0, item] for item in task.items("train")[:count].tolist()]
