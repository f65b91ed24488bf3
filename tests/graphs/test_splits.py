"""Splits: disjoint, complete, in the asked proportions, the same everywhere."""

import hashlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import make_graph, make_task
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graphgpt.errors import DataError
from graphgpt.graphs.dataset import SplitConfig
from graphgpt.graphs.graph import TextAttributedGraph, build_graph
from graphgpt.graphs.splits import nodes_of, read_split, split_nodes, write_split


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


def test_auto_takes_the_given_split_and_else_draws_one(caplog: pytest.LogCaptureFixture) -> None:
    labels, given = [0, 1] * 20, [0] * 20 + [1] * 10 + [2] * 10
    assert split_nodes(build(labels, given), SplitConfig()).tolist() == given
    assert torch.equal(split_nodes(build(labels), SplitConfig()), split_nodes(build(labels), SplitConfig(name="random")))
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
    assert split_nodes(build(labels, given), SplitConfig(name="random")).tolist() != given
    expected = "The graph 'toy' brings a split, and dataset.split.name=random draws another; given takes the one it brings."
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == [expected]


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
    with pytest.raises(DataError, match=rf"^The {name} split of the graph 'toy' is empty \({labelled} labelled nodes\)\."):
        split_nodes(build(labels, split), SplitConfig(**config))


def test_where_labels_are_not_needed_a_graph_without_any_is_split_whole() -> None:
    split = split_nodes(build([-1] * 20), SplitConfig(), needs_labels=False)
    assert torch.equal(split, split_nodes(build([0] * 20), SplitConfig()))
    some = build([0, -1] * 10)
    assert torch.equal(split_nodes(some, SplitConfig(), needs_labels=False), split_nodes(some, SplitConfig()))
    with pytest.raises(DataError, match=r"^The test split of the graph 'toy' is empty \(2 nodes\)\.$"):
        split_nodes(build([-1, -1]), SplitConfig(train=0.7, val=0.2), needs_labels=False)
    with pytest.raises(DataError, match=r"for nodes of every class, but the graph 'toy' has no labels; use 'random'\.$"):
        split_nodes(build([-1] * 20), SplitConfig(name="planetoid"), needs_labels=False)


def test_no_validation_nodes_are_allowed() -> None:
    assert split_nodes(build([0, 1, 0], [0, 2, 2]), SplitConfig(name="given")).tolist() == [0, 2, 2]


def test_shares_that_leave_nothing_for_test_are_refused() -> None:
    with pytest.raises(DataError, match=r"train 0\.6 and val 0\.4 leave nothing for test; their sum must be below 1"):
        split_nodes(build([0, 1] * 5), SplitConfig(train=0.6, val=0.4))


CLASSES = [i % 2 if i % 5 else -1 for i in range(100)]


@given(
    labels=st.lists(st.sampled_from([-1, 0, 1]), min_size=30, max_size=80).filter(
        lambda labels: min(labels.count(0), labels.count(1)) >= 8
    ),
    per_class=st.integers(1, 5),
    num_val=st.integers(0, 3),
    num_test=st.integers(1, 3),
    seed=st.integers(0, 1000),
)
def test_planetoid_split(labels: list[int], per_class: int, num_val: int, num_test: int, seed: int) -> None:
    """So many training nodes of each class, so many for the rest, all labelled, none twice."""
    graph = build(labels)
    config = SplitConfig(name="planetoid", per_class=per_class, num_val=num_val, num_test=num_test, seed=seed)
    split = split_nodes(graph, config)
    assert split.dtype == torch.int8
    assert [int(((split == 0) & (graph.y == label)).sum()) for label in (0, 1)] == [per_class] * 2
    assert [int((split == index).sum()) for index in (1, 2)] == [num_val, num_test]
    assert (split[graph.y < 0] == -1).all()
    assert torch.equal(split, split_nodes(graph, config))


def test_planetoid_split_is_the_same_on_every_machine() -> None:
    graph = build([i % 2 for i in range(2_000)])
    split = split_nodes(graph, SplitConfig(name="planetoid", seed=3))
    assert [int((split == index).sum()) for index in range(3)] == [40, 500, 1000]
    assert hashlib.sha256(split.numpy().tobytes()).hexdigest()[:16] == "fae3c491676c33e6"
    assert not torch.equal(split, split_nodes(graph, SplitConfig(name="planetoid", seed=4)))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"per_class": 41}, "the class 'a' of the graph 'toy' has 40 nodes, expected at least per_class=41; lower it."),
        (
            {"per_class": 30},
            "60 training nodes leave 20 of the graph 'toy', expected at least num_val=500 + num_test=1000; lower one of them.",
        ),
    ],
)
def test_planetoid_split_of_too_small_a_graph_is_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=re.escape(f"dataset.split: {message}")):
        split_nodes(build(CLASSES), SplitConfig(name="planetoid", **config))


@given(
    labels=st.lists(st.sampled_from([-1, 0, 1]), min_size=1, max_size=60).filter(lambda labels: sum(y >= 0 for y in labels) >= 10),
    seed=st.integers(0, 1000),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_written_split_is_read_back(tmp_path: Path, labels: list[int], seed: int) -> None:
    graph = build(labels)
    split = split_nodes(graph, SplitConfig(seed=seed))
    write_split(graph.ids, split, tmp_path / "split.csv")
    assert torch.equal(split_nodes(graph, SplitConfig(name="file", path=str(tmp_path / "split.csv"))), split)


def test_what_a_written_split_looks_like(tmp_path: Path) -> None:
    graph = build([0, 1, 0, -1], split=[2, 0, -1, 1])
    write_split(graph.ids, torch.tensor([2, 0, -1, 1]), tmp_path / "split.csv")
    assert (tmp_path / "split.csv").read_text() == "id,split\nn0,test\nn1,train\nn3,val\n"
    assert read_split(nodes_of(graph), tmp_path / "split.csv").tolist() == [2, 0, -1, 1]
    config = SplitConfig(name="file", path=str(tmp_path / "split.csv"))
    assert split_nodes(graph, config).tolist() == [2, 0, -1, -1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,split\nn0,train\nn9,test\n", "line 3: the id 'n9' is no node of the graph 'toy'."),
        ("id,split\nn0,train\nn0,test\n", "line 3: the id 'n0' is there more than once."),
        ("id,split\nn0,trian\n", "line 2: the split 'trian' is unknown. Did you mean 'train'?"),
        ("id,part\nn0,train\n", "line 1: expected a column 'split', found 'id', 'part'."),
    ],
)
def test_a_split_file_with_a_mistake_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "split.csv").write_text(text)
    with pytest.raises(DataError, match=re.escape(f"{tmp_path / 'split.csv'}, {message}")):
        split_nodes(build([0, 1, 0]), SplitConfig(name="file", path=str(tmp_path / "split.csv")))


def test_problems(tmp_path: Path) -> None:
    assert SplitConfig().problems() == []
    assert SplitConfig(name="given", train=0.9, val=0.9).problems() == []
    assert SplitConfig(name="file").problems() == ["dataset.split.path: must be given, for dataset.split.name is 'file'."]
    missing = str(tmp_path / "split.csv")
    assert SplitConfig(name="file", path=missing).problems() == [f"dataset.split.path={missing}: there is no such file."]
    with pytest.raises(DataError, match=re.escape("split.csv: there is no such file.")):
        split_nodes(build([0, 1]), SplitConfig(name="file", path=missing))


def test_a_task_writes_its_split(tmp_path: Path) -> None:
    graph = make_graph()
    task = make_task("node_classification", graph, split={"seed": 1})
    task.write_split(tmp_path)
    config = SplitConfig(name="file", path=str(tmp_path / "split.csv"))
    assert torch.equal(split_nodes(graph, config), task.split)
    assert [int((task.split == index).sum()) for index in range(3)] == [len(task.items(part)) for part in ("train", "val", "test")]
