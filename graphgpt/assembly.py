"""From a configuration to the objects that it names."""

import logging
from pathlib import Path
from typing import Any

import torch

from graphgpt.files import fingerprint
from graphgpt.graphs.graph import TextAttributedGraph
from graphgpt.graphs.store import open_graph
from graphgpt.models.llm import load_embeddings
from graphgpt.registry import DATASETS, MODELS, RUNNERS, TASKS, TEXT_ENCODERS
from graphgpt.task import Task

log = logging.getLogger(__name__)


def build_task(experiment: Any) -> Task:
    """The experiment's task on its graph.

    Raises:
        DataError: the data cannot be used.
    """
    llm = experiment.model.llm

    def graph_of(dataset: Any) -> TextAttributedGraph:
        graph = open_graph(
            DATASETS.build(dataset),
            TEXT_ENCODERS.build(dataset.text_encoder),
            embeddings=lambda: load_embeddings(llm),
            embeddings_id=lambda: fingerprint(llm.path, llm.revision or ""),
        )
        nodes, edges = f"{graph.num_nodes:,}", f"{graph.num_edges:,}"
        log.info("Graph %s: %s nodes, %s edges, %d classes.", graph.card["name"], nodes, edges, len(graph.class_names))
        return graph

    task: Task = TASKS.get(experiment.task.name).build(experiment.task, experiment.dataset, graph_of)
    return task


def build_model(experiment: Any, task: Task) -> Any:
    """The experiment's model, with the same initial weights for the same seed."""
    torch.manual_seed(experiment.seed)
    return MODELS.build(experiment.model, input_dim=task.input_dim)


def build_runner(experiment: Any) -> Any:
    """The experiment's runner."""
    return RUNNERS.build(experiment.runner)


def command_line() -> list[str]:
    """The overrides that this run was started with."""
    from hydra.core.hydra_config import HydraConfig

    return list(HydraConfig.get().overrides.task)


def run_folder() -> Path:
    """Where Hydra put this run's files."""
    from hydra.core.hydra_config import HydraConfig

    return Path(HydraConfig.get().runtime.output_dir)
