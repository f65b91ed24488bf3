"""From a configuration to the objects that it names."""

import dataclasses
import functools
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from graphgpt.config.compatibility import run_problems
from graphgpt.errors import ConfigError, GraphGPTError, first_line
from graphgpt.files.atomic import fingerprint
from graphgpt.graphs import store
from graphgpt.graphs.graph import TextAttributedGraph
from graphgpt.graphs.text_encoder import LanguageModelSource, standardize
from graphgpt.images.collection import Collection
from graphgpt.models.llm import load_llm, load_tokenizer
from graphgpt.registry import DATASETS, MODELS, RUNNERS, TASKS, TEXT_ENCODERS
from graphgpt.tasks.task import Task

log = logging.getLogger(__name__)


def build_task(experiment: Any) -> Task:
    """The experiment's task on its data.

    Raises:
        DataError: the data cannot be used.
    """
    opened = functools.partial(open_dataset, llm=experiment.model.llm)
    task: Task = TASKS.get(experiment.task.name).build(experiment.task, experiment.dataset, opened)
    return task


def open_dataset(dataset: Any, llm: Any, text_encoder: Any = None) -> Any:
    """Open the data of a dataset's config: a graph with features, or whatever its kind has; of pictures with a text encoder, what that
    makes of their texts.

    Args:
        dataset: The config.
        llm: Config of the language model that a text encoder may read.
        text_encoder: Config of one whose features are wanted, whatever others the graph has; None takes its own or those of ``dataset``.

    Raises:
        DataError: the data cannot be used.
    """
    source = DATASETS.build(dataset)
    if source.kind != "graph":
        opened = source.open()
        return opened if text_encoder is None else encode_titles(opened, text_encoder, llm)
    graph = store.open_graph(source, TEXT_ENCODERS.build(dataset.text_encoder), *_source(llm))
    if text_encoder is not None:
        return encode_texts(dataclasses.replace(graph, x=None), text_encoder, llm)
    nodes, edges = f"{graph.num_nodes:,}", f"{graph.num_edges:,}"
    log.info("Graph %s: %s nodes, %s edges, %d classes.", graph.card["name"], nodes, edges, len(graph.class_names))
    return graph


def encode_titles(collection: Collection, text_encoder: Any, llm: Any) -> Tensor:
    """What a text encoder makes of the pictures' texts, standardised, shape ``[n, d]``, float32."""
    texts = [f"{title}\n{body}" for title, body in zip(collection.titles.to_pylist(), collection.bodies.to_pylist(), strict=True)]
    return standardize(TEXT_ENCODERS.build(text_encoder).encode(texts, _source(llm)[0]))


def encode_texts(graph: TextAttributedGraph, text_encoder: Any, llm: Any) -> TextAttributedGraph:
    """A graph with its own features, or with those that a text encoder makes; both given as configs, as in :func:`open_dataset`."""
    return store.encode_texts(graph, TEXT_ENCODERS.build(text_encoder), *_source(llm))


def _source(llm: Any) -> tuple[LanguageModelSource, Callable[[], str]]:
    return lambda: (load_tokenizer(llm), load_llm(llm)), lambda: fingerprint(llm.path, llm.revision or "")


def build_model(experiment: Any, task: Task) -> Any:
    """The experiment's model, with the same initial weights for the same seed.

    Raises:
        GraphGPTError: it cannot learn the task, or does not fit into memory.
    """
    torch.manual_seed(experiment.seed)
    try:
        return MODELS.get(experiment.model.name).build(experiment.model, task.facts)
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, MemoryError) or "allocate" in str(error) or "Storage size calculation overflowed" in str(error):
            raise GraphGPTError(f"The model is too large for the memory of this machine: {first_line(error)}") from error
        raise


def build_runner(experiment: Any) -> Any:
    """The experiment's runner.

    Raises:
        ConfigError: the experiment cannot be run on this machine.
    """
    if problems := run_problems(experiment):
        raise ConfigError(problems)
    return RUNNERS.build(experiment.runner)


def command_line() -> list[str]:
    """The overrides that this run was started with."""
    from hydra.core.hydra_config import HydraConfig

    return list(HydraConfig.get().overrides.task)


def run_folder() -> Path:
    """Where Hydra put this run's files."""
    from hydra.core.hydra_config import HydraConfig

    return Path(HydraConfig.get().runtime.output_dir)
