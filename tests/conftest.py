"""Fixtures for all tests; the functions behind them are in helpers.py."""

from collections.abc import Callable, Iterator

import pytest
import torch
from helpers import make_graph, make_model, make_task
from hypothesis import settings

from graphgpt.graphs.graph import TextAttributedGraph
from graphgpt.models.multimodal_llm import MultimodalLLM
from graphgpt.tasks.task import Task

# Same examples in every run, however slow the machine.
settings.register_profile("repeatable", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("repeatable")


@pytest.fixture(scope="session", autouse=True)
def surroundings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One thread, and a cache of the tests' own: the user's is never touched."""
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRAPHGPT_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("TRACKIO_DIR", str(tmp_path_factory.mktemp("trackio")))  # read once, when it is imported
        yield


@pytest.fixture(scope="session")
def graph() -> TextAttributedGraph:
    """Sixty nodes, three classes, features; see ``helpers.make_graph``."""
    return make_graph()


@pytest.fixture(scope="session")
def tiny_model() -> Callable[..., MultimodalLLM]:
    """``tiny_model(lora_rank=0, projector="linear", tower="sgc", template="chat", ...)``; see ``helpers.model_config``."""
    return make_model


@pytest.fixture(scope="session", name="make_task")
def make_task_fixture() -> Callable[..., Task]:
    """``make_task(name, graph, sampler={...}, split={...}, **task_fields)``, in the shipped wordings."""
    return make_task
