"""Token layouts: which nodes a token stands for, recomputed by hand from the sampled edges."""

from typing import Any

import numpy as np
import pytest
import torch
from helpers import HUB, ISOLATED, NUM_NODES
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from graphgpt.graphs.graph import TextAttributedGraph
from graphgpt.graphs.subgraph import Subgraph, sample_subgraph
from graphgpt.models.tower import GraphTower
from graphgpt.models.towers.identity import Identity

HOW = {"centre": st.integers(0, NUM_NODES - 1), "hops": st.integers(0, 3), "fanout": st.integers(1, 4), "seed": st.integers(0, 10**6)}


def tokens(*subgraphs: Subgraph, graph: TextAttributedGraph) -> Tensor:
    """What a tower that changes nothing makes of subgraphs."""
    tower: GraphTower = Identity(Identity.Config(name="identity"), graph.features.shape[1])
    return tower(tower.reader().collate([subgraph.input(graph) for subgraph in subgraphs]))


def children(subgraph: Subgraph, node: int) -> list[int]:
    return [a for a, b in subgraph.edge_index.T.tolist() if b == node]


@given(**HOW)
def test_neighborhood_detail_is_a_fixed_tree(graph: TextAttributedGraph, centre: int, hops: int, fanout: int, seed: int) -> None:
    """LLaGA's template: 1 + k + k² tokens; a place has its node's own neighbours below it, or zeros."""
    subgraph = sample_subgraph(graph, centre, hops=hops, fanout=fanout, seed=seed, layout="neighborhood_detail")
    assert subgraph.num_tokens == sum(fanout**level for level in range(hops + 1))

    def tree(node: int | None, level: int) -> list[list[int | None]]:
        if level == hops:
            return [[node]]
        below: list[int | None] = [] if node is None else list(children(subgraph, node))
        parts = [tree(child, level + 1) for child in (below + [None] * fanout)[:fanout]]
        return [[node], *[[place for part in parts for place in part[depth]] for depth in range(hops - level)]]

    places = [place for level in tree(0, 0) for place in level]
    expected = torch.stack([torch.zeros(8) if place is None else graph.features[subgraph.nodes[place]] for place in places])
    torch.testing.assert_close(tokens(subgraph, graph=graph), expected)


@given(**HOW)
def test_hop_field_is_a_mean_of_means(graph: TextAttributedGraph, centre: int, hops: int, fanout: int, seed: int) -> None:
    subgraph = sample_subgraph(graph, centre, hops=hops, fanout=fanout, seed=seed, layout="hop_field")

    def mean(node: int, steps: int) -> np.ndarray:
        if steps == 0:
            return graph.features[subgraph.nodes[node]].numpy().astype(float)
        below = children(subgraph, node)
        return np.mean([mean(child, steps - 1) for child in below], axis=0) if below else np.zeros(8)

    expected = np.stack([mean(0, steps) for steps in range(hops + 1)])
    np.testing.assert_allclose(tokens(subgraph, graph=graph).numpy(), expected, atol=1e-5)


@given(**HOW, limit=st.integers(1, 9))
@pytest.mark.parametrize("layout", ["sampled", "neighborhood_detail", "hop_field"])
def test_fewer_tokens_are_the_first_ones(
    graph: TextAttributedGraph, layout: Any, centre: int, hops: int, fanout: int, seed: int, limit: int
) -> None:
    whole, cut = (
        sample_subgraph(graph, centre, hops=hops, fanout=fanout, seed=seed, layout=layout, max_tokens=most) for most in (None, limit)
    )
    assert cut.num_tokens == min(limit, whole.num_tokens)
    assert torch.equal(whole.nodes, cut.nodes)
    torch.testing.assert_close(tokens(cut, graph=graph), tokens(whole, graph=graph)[:limit])


def test_layouts_mix_in_a_batch(graph: TextAttributedGraph) -> None:
    layouts: list[Any] = ["sampled", "hop_field", "neighborhood_detail", "sampled"]
    subgraphs = [sample_subgraph(graph, HUB, hops=2, fanout=3, seed=i, layout=layout) for i, layout in enumerate(layouts)]
    together = tokens(*subgraphs, graph=graph)
    alone = torch.cat([tokens(subgraph, graph=graph) for subgraph in subgraphs])
    torch.testing.assert_close(together, alone)


@pytest.mark.parametrize(("layout", "count"), [("sampled", 1), ("neighborhood_detail", 13), ("hop_field", 3)])
def test_an_isolated_node(graph: TextAttributedGraph, layout: Any, count: int) -> None:
    subgraph = sample_subgraph(graph, ISOLATED, hops=2, fanout=3, seed=0, layout=layout)
    found = tokens(subgraph, graph=graph)
    assert len(found) == count
    torch.testing.assert_close(found[0], graph.features[ISOLATED])
    assert not found[1:].any()
