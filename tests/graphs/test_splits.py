"""Splits: disjoint, complete, in the asked proportions, the same everywhere."""

import hashlib
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from graphgpt.errors import DataError
from graphgpt.graphs.dataset import SplitConfig
from graphgpt.graphs.graph import TextAttributedGraph, build_graph
from graphgpt.graphs.splits import split_nodes


def build(labels: list[int], split: list[int] | None = None) -> TextAttributedGraph:
    names = [f"n{i}" for i in range(len(labels))]
    return build_graph(
        ids=names,
        titles=names,
        bodies=names,
        labels=labels,
        class_names=["a", "b"],
        edges=np.zeros((0, 2), dtype=np.int64),
        card={"name": "toy"},
        split=split,
    )


@given(
    labels=st.lists(st.sampled_from([-1, 0, 1]), min_size=1, max_size=60).filter(lambda labels: sum(y >= 0 for y in labels) >= 10),
    shares=st.sampled_from([(0.6, 0.2), (0.5, 0.25), (0.1, 0.0), (0.8, 0.1)]),
    seed=st.integers(0, 1000),
)
def test_random_split(labels: list[int], shares: tuple[float, float], seed: int) -> None:
    """Exactly the labelled nodes, each in one part, in the asked proportions up to rounding."""
    graph = build(labels)
    config = SplitConfig(train=shares[0], val=shares[1], seed=seed)
    split = split_nodes(graph, config)
    assert split.shape == (len(labels),) and split.dtype == torch.int8
    assert ((split >= 0) == (graph.y >= 0)).all()
    labelled = int((graph.y >= 0).sum())
    for index, share in enumerate((*shares, 1 - sum(shares))):
        assert abs(int((split == index).sum()) - share * labelled) <= 1
    assert torch.equal(split, split_nodes(graph, config))


def test_random_split_is_the_same_on_every_machine() -> None:
    split = split_nodes(build([i % 3 - 1 for i in range(300)]), SplitConfig(seed=3))
    assert [int((split == index).sum()) for index in (-1, 0, 1, 2)] == [100, 120, 40, 40]
    assert hashlib.sha256(split.numpy().tobytes()).hexdigest()[:16] == "7f2b626f572d51ae"


def test_another_seed_gives_another_split() -> None:
    graph = build([0, 1] * 50)
    assert not torch.equal(split_nodes(graph, SplitConfig(seed=0)), split_nodes(graph, SplitConfig(seed=1)))


def test_given_split_holds_for_labelled_nodes_only() -> None:
    graph = build([0, 1, 0, -1, 1], split=[0, 2, 1, 0, -1])
    assert split_nodes(graph, SplitConfig(name="given")).tolist() == [0, 2, 1, -1, -1]


def test_given_split_that_is_not_there_is_refused() -> None:
    with pytest.raises(DataError, match=r"^dataset\.split\.name is 'given', but the graph 'toy' brings no split; use 'random'\.$"):
        split_nodes(build([0, 1] * 5), SplitConfig(name="given"))


@pytest.mark.parametrize(
    ("labels", "split", "config", "name", "labelled"),
    [
        ([0, 1], None, {"train": 0.1}, "train", 2),
        ([0, 1], None, {"train": 0.7, "val": 0.2}, "test", 2),
        ([-1] * 5, None, {}, "train", 0),
        ([0, 1, 0], [0, 0, 1], {"name": "given"}, "test", 3),
        ([0, 1, -1], [2, 1, 0], {"name": "given"}, "train", 2),
    ],
)
def test_an_empty_part_is_refused(labels: list[int], split: list[int] | None, config: dict[str, Any], name: str, labelled: int) -> None:
    with pytest.raises(DataError, match=rf"^The {name} split of the graph 'toy' is empty \({labelled} labelled nodes\)\.$"):
        split_nodes(build(labels, split), SplitConfig(**config))


def test_no_validation_nodes_are_allowed() -> None:
    assert split_nodes(build([0, 1, 0], [0, 2, 2]), SplitConfig(name="given")).tolist() == [0, 2, 2]


def test_shares_that_leave_nothing_for_test_are_refused() -> None:
    with pytest.raises(DataError, match=r"train 0\.6 and val 0\.4 leave nothing for test; their sum must be below 1"):
        split_nodes(build([0, 1] * 5), SplitConfig(train=0.6, val=0.4))
