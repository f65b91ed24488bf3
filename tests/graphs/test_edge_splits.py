"""Pairs to ask about: what is an edge, what is none, and what the graphs still hold."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from graphgpt.errors import DataError
from graphgpt.graphs.edge_splits import EdgeSplitConfig, non_edges, split_edges, undirected_edges, without_edges
from graphgpt.graphs.graph import TextAttributedGraph, build_graph


def random_graph(nodes: int, edges: int, seed: int = 0) -> TextAttributedGraph:
    pairs = np.random.RandomState(seed).randint(0, nodes, size=(edges, 2))
    names = [f"n{i}" for i in range(nodes)]
    return build_graph(ids=names, titles=names, bodies=names, labels=[-1] * nodes, class_names=[], edges=pairs, card={"name": "random"})


def edge_set(graph: TextAttributedGraph) -> set[tuple[int, int]]:
    row = torch.repeat_interleave(torch.arange(graph.num_nodes), graph.rowptr.diff())
    return set(zip(row.tolist(), graph.col.tolist(), strict=True))


@given(
    nodes=st.integers(30, 60),
    edges=st.integers(40, 120),
    seed=st.integers(0, 1000),
    negatives=st.sampled_from(["random", "hard"]),
    train=st.sampled_from([0.1, 0.25, 0.5]),
)
def test_targets_are_gone_in_both_directions(nodes: int, edges: int, seed: int, negatives: Any, train: float) -> None:
    graph = random_graph(nodes, edges, seed)
    config = EdgeSplitConfig(train=train, val=0.1, test=0.2, negatives=negatives, seed=seed)
    found = split_edges(graph, config)
    everything, training, evaluation = edge_set(graph), edge_set(found.training), edge_set(found.evaluation)
    pairs = [tuple(pair) for pair in found.pairs.tolist()]
    for pair, linked, split in zip(pairs, found.linked.tolist(), found.split.tolist(), strict=True):
        assert (pair in everything) == linked
        for direction in (pair, pair[::-1]):
            assert direction not in training
            assert (direction in evaluation) == (linked and split == 0)
    assert len({frozenset(pair) for pair in pairs}) == len(pairs)  # nothing is asked twice
    for split in range(3):
        assert found.linked[found.split == split].float().mean() == 0.5
    asked = {direction for pair, linked in zip(pairs, found.linked.tolist(), strict=True) if linked for direction in (pair, pair[::-1])}
    assert training == everything - asked
    if negatives == "hard":
        near = {(a, c) for a, b in everything for b2, c in everything if b == b2 and a != c}
        assert all(pair in near for pair, linked in zip(pairs, found.linked.tolist(), strict=True) if not linked)


def test_same_seed_same_pairs() -> None:
    graph = random_graph(80, 200)
    first, second, other = (split_edges(graph, EdgeSplitConfig(seed=seed)) for seed in (3, 3, 4))
    assert torch.equal(first.pairs, second.pairs)
    assert not torch.equal(first.pairs, other.pairs)
    # The same on every machine: numpy keeps RandomState's stream.
    assert first.pairs[:2].tolist() == split_edges(random_graph(80, 200), EdgeSplitConfig(seed=3)).pairs[:2].tolist()


def test_without_edges_keeps_the_rest_in_order() -> None:
    graph = random_graph(20, 60)
    edges = undirected_edges(graph)
    smaller = without_edges(graph, edges[:5, ::-1])
    assert edge_set(smaller) == edge_set(graph) - {(a, b) for x, y in edges[:5].tolist() for a, b in ((x, y), (y, x))}
    for node in range(20):
        neighbors = smaller.neighbors(node).tolist()
        assert neighbors == sorted(neighbors)


def test_random_pairs_are_uniform() -> None:
    graph = random_graph(12, 14)
    counts: dict[tuple[int, int], int] = {}
    for seed in range(600):
        for pair in non_edges(graph, 5, "random", np.random.RandomState(seed)).tolist():
            counts[tuple(pair)] = counts.get(tuple(pair), 0) + 1
    possible = 12 * 11 // 2 - graph.num_edges
    assert len(counts) == possible
    expected = 3000 / possible
    assert sum((count - expected) ** 2 / expected for count in counts.values()) < 2 * possible


def test_shares_that_leave_nothing() -> None:
    graph = random_graph(30, 50)
    with pytest.raises(DataError, match=r"task\.split: train 0\.6, val 0\.2 and test 0\.2 leave no edge in the graph 'random'\."):
        split_edges(graph, EdgeSplitConfig(train=0.6, val=0.2, test=0.2))
    with pytest.raises(DataError, match=r"task\.split\.test: 0\.001 of the \d+ edges of the graph 'random' is none\."):
        split_edges(graph, EdgeSplitConfig(test=0.001))


def test_too_few_pairs_without_an_edge() -> None:
    n = 6
    complete = np.array([(a, b) for a in range(n) for b in range(a)])
    names = [str(i) for i in range(n)]
    graph = build_graph(ids=names, titles=names, bodies=names, labels=[-1] * n, class_names=[], edges=complete, card={"name": "clique"})
    with pytest.raises(DataError, match=r"too few pairs without an edge: found 0, needed \d+\."):
        split_edges(graph, EdgeSplitConfig())
