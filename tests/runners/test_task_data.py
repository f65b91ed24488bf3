"""What Lightning is given: validation that any number of processes can share, and passes that fit into memory."""

from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers import make_model
from hypothesis import given
from hypothesis import strategies as st

from graphgpt.graphs.graph import TextAttributedGraph
from graphgpt.runners.training.data import Examples
from graphgpt.runners.training.memory import tokens_that_fit
from graphgpt.runners.training.task_data import TaskData


def task_data(items: int, world: int, rank: int, per_pass: int) -> TaskData:
    """Of a task that is its validation items alone."""
    task: Any = SimpleNamespace(items=lambda split: torch.arange(items))
    runner = SimpleNamespace(val_every=1, val_samples=items, samples_per_pass=per_pass)
    model: Any = make_model()
    data = TaskData(task, model, SimpleNamespace(seed=0, runner=runner))
    data.trainer = SimpleNamespace(world_size=world, global_rank=rank)  # type: ignore[assignment]
    return data


@given(st.integers(1, 30), st.integers(1, 5), st.integers(1, 8))
def test_processes_validate_every_item_once_and_keep_in_step(items: int, world: int, per_pass: int) -> None:
    counted: Counter[int] = Counter()
    rounds = set()
    for rank in range(world):
        data = task_data(items, world, rank, per_pass)
        own = data._own_chunks()
        rounds.add(len(own))
        for number, chunk in enumerate(own):
            assert 1 <= len(chunk) <= per_pass
            if data.counts(number, rank):
                counted.update(item for _, item in chunk)
    assert counted == Counter(range(items))
    assert len(rounds) == 1


def test_tokens_that_fit_follow_the_free_memory(graph: TextAttributedGraph, make_task: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model(lora_rank=4).train()
    examples = Examples(make_task("node_classification", graph), model.reader(), seed=0, training=True)
    samples = sorted((examples[0, item] for item in range(16)), key=lambda example: -len(example.ids))
    found = []
    for free in (0, 3e6, 1e7, 1e12):
        monkeypatch.setattr("psutil.virtual_memory", lambda free=free: SimpleNamespace(available=free))
        found.append(tokens_that_fit(model, model.reader(), samples[::-1]))
    sizes = [sum(len(example.ids) for example in samples[:count]) for count in (1, 2, 4, 8, 16)]
    assert found == sorted(found)
    assert (found[0], found[-1]) == (sizes[0], sizes[-1])
    assert set(found) <= set(sizes) and len(set(found)) >= 3
    assert all(parameter.grad is None for parameter in model.parameters())
