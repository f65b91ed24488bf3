"""Neighbourhood sampling: what every sample respects, that a recipe always gives the same, that choice is fair."""

import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import HUB, ISOLATED, NUM_NODES
from hypothesis import given
from hypothesis import strategies as st

from graphgpt.graphs.graph import TextAttributedGraph, build_graph
from graphgpt.graphs.subgraph import Subgraph, sample_subgraph


def star(leaves: int) -> TextAttributedGraph:
    """Node 0 in the middle."""
    n = leaves + 1
    edges = np.stack([np.zeros(leaves, dtype=np.int64), np.arange(1, n)], axis=1)
    names = [f"n{i}" for i in range(n)]
    return build_graph(ids=names, titles=names, bodies=names, labels=[0] * n, class_names=["x"], edges=edges, card={"name": "star"})


def distances(subgraph: Subgraph) -> list[int]:
    """Steps from the centre over sampled edges, from the node that an edge was sampled for to its neighbour."""
    found, frontier = {0: 0}, [0]
    for node in frontier:
        for neighbor, sampled_for in subgraph.edge_index.T.tolist():
            if sampled_for == node and neighbor not in found:
                found[neighbor] = found[node] + 1
                frontier.append(neighbor)
    return [found[node] for node in range(len(subgraph.nodes))]


@given(
    centre=st.integers(0, NUM_NODES - 1),
    hops=st.integers(0, 3),
    fanout=st.integers(1, 6),
    seed=st.integers(0, 2**63 - 1),
    max_tokens=st.none() | st.integers(1, 12),
)
def test_every_sample(graph: TextAttributedGraph, centre: int, hops: int, fanout: int, seed: int, max_tokens: int | None) -> None:
    """Centre first and hop by hop, nodes once, edges of the graph, as many neighbours per node as asked for and there are."""
    subgraph = sample_subgraph(graph, centre, hops=hops, fanout=fanout, seed=seed, max_tokens=max_tokens)
    nodes = subgraph.nodes.tolist()
    assert nodes[0] == centre and len(set(nodes)) == len(nodes)
    assert subgraph.nodes.dtype == subgraph.edge_index.dtype == torch.int64 and subgraph.edge_index.shape[0] == 2
    assert subgraph.num_tokens == min(len(nodes), max_tokens or len(nodes))

    edges = [tuple(edge) for edge in subgraph.edge_index.T.tolist()]
    assert len(set(edges)) == len(edges)
    assert all(nodes[a] in graph.neighbors(nodes[b]) for a, b in edges)

    steps = distances(subgraph)
    assert steps == sorted(steps) and steps[-1] <= hops
    degree = graph.rowptr.diff()
    sampled_for = Counter(b for _, b in edges)
    for node, step in enumerate(steps):
        assert sampled_for[node] == (min(int(degree[nodes[node]]), fanout) if step < hops else 0)


def test_same_recipe_same_sample_and_other_seed_another(graph: TextAttributedGraph) -> None:
    samples = [sample_subgraph(graph, HUB, hops=2, fanout=3, seed=seed) for seed in (1, 1, 2)]
    assert torch.equal(samples[0].nodes, samples[1].nodes) and torch.equal(samples[0].edge_index, samples[1].edge_index)
    assert not torch.equal(samples[0].nodes, samples[2].nodes)


RECIPES = [(HUB, 2, 3, 0), (HUB, 2, 3, 2**63 - 1), (7, 3, 2, 12345), (20, 1, 1, 99), (ISOLATED, 2, 3, 5)]
SCRIPT = """
import json, sys
from pathlib import Path
from graphgpt.graphs.graph import TextAttributedGraph
from graphgpt.graphs.subgraph import sample_subgraph
graph = TextAttributedGraph.open(Path(sys.argv[1]))
samples = [sample_subgraph(graph, c, hops=h, fanout=f, seed=s) for c, h, f, s in json.loads(sys.argv[2])]
print(json.dumps([[s.nodes.tolist(), s.edge_index.tolist()] for s in samples]))
"""


def test_same_recipe_same_sample_in_another_process(graph: TextAttributedGraph, tmp_path: Path) -> None:
    graph.save(tmp_path / "graph")
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "graph"), json.dumps(RECIPES)]
    output = subprocess.run(
        command, env=os.environ | {"PYTHONHASHSEED": "7"}, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=True
    )
    here = [sample_subgraph(graph, c, hops=h, fanout=f, seed=s) for c, h, f, s in RECIPES]
    assert json.loads(output.stdout) == [[sample.nodes.tolist(), sample.edge_index.tolist()] for sample in here]


def test_samples_stay_the_same_across_versions() -> None:
    """A changed stream of random numbers would silently change every stored recipe."""
    samples = [sample_subgraph(star(50), 0, hops=1, fanout=5, seed=seed).nodes.tolist() for seed in (0, 1, 12345)]
    assert samples == [[0, 14, 42, 24, 31, 50], [0, 19, 43, 9, 29, 38], [0, 44, 19, 27, 10, 20]]


@pytest.mark.parametrize(("leaves", "fanout"), [(20, 3), (20, 19), (7, 1)])
def test_choice_is_uniform(leaves: int, fanout: int) -> None:
    """Every neighbour is as likely as any other: the statistic of 2,000 draws stays within six standard deviations."""
    graph, draws = star(leaves), 2000
    counts = Counter[int]()
    for seed in range(draws):
        counts.update(sample_subgraph(graph, 0, hops=1, fanout=fanout, seed=seed).nodes[1:].tolist())
    expected = draws * fanout / leaves
    variance = expected * (1 - fanout / leaves)
    statistic = sum((counts[leaf] - expected) ** 2 for leaf in range(1, leaves + 1)) / variance * (leaves - 1) / leaves
    assert statistic < (leaves - 1) + 6 * (2 * (leaves - 1)) ** 0.5


@pytest.mark.parametrize("centre", [0, 1])
def test_choices_with_neighbouring_seeds_are_independent(centre: int) -> None:
    """What one seed draws says nothing about what the next one does."""
    n, fanout, draws = 42, 4, 3000
    edges = np.array([[centre, other] for other in range(n) if other != centre])
    names = [f"n{i}" for i in range(n)]
    graph = build_graph(ids=names, titles=names, bodies=names, labels=[0] * n, class_names=["x"], edges=edges, card={"name": "star"})
    chosen = [set(sample_subgraph(graph, centre, hops=1, fanout=fanout, seed=seed).nodes[1:].tolist()) for seed in range(draws)]
    common = sum(len(a & b) for a, b in pairwise(chosen)) / (draws - 1)
    assert common == pytest.approx(fanout * fanout / (n - 1), abs=0.08)


@pytest.mark.parametrize("fanout", [15, 17, 1000])
def test_fanout_of_at_least_the_degree_takes_all_neighbours(graph: TextAttributedGraph, fanout: int) -> None:
    for centre in (3, 20, 40):
        subgraph = sample_subgraph(graph, centre, hops=1, fanout=fanout, seed=0)
        assert sorted(subgraph.nodes[1:].tolist()) == graph.neighbors(centre).tolist()


def test_isolated_node_and_no_hops(graph: TextAttributedGraph) -> None:
    for centre, hops in ((ISOLATED, 2), (HUB, 0)):
        subgraph = sample_subgraph(graph, centre, hops=hops, fanout=3, seed=0)
        assert subgraph.nodes.tolist() == [centre]
        assert subgraph.edge_index.shape == (2, 0) and subgraph.num_tokens == 1


def test_input_holds_the_features_of_all_nodes(graph: TextAttributedGraph) -> None:
    subgraph = sample_subgraph(graph, HUB, hops=1, fanout=4, seed=0, max_tokens=2)
    item = subgraph.input(graph)
    assert torch.equal(item.x, graph.features[subgraph.nodes]) and len(item.x) == 5
    assert torch.equal(item.edge_index, subgraph.edge_index)
    assert item.num_tokens == 2
    halved = subgraph.input(replace(graph, x=graph.features.half()))  # as large graphs keep them
    assert halved.x.dtype == torch.float32
    torch.testing.assert_close(halved.x, item.x, rtol=1e-3, atol=1e-3)
