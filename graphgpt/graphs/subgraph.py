"""Subgraphs around a node: the recipe that makes one, and the form in which a tower reads it."""

from dataclasses import dataclass

import numpy as np
import torch
from numba import njit
from torch import Tensor

from graphgpt.graphs.graph import TextAttributedGraph


@dataclass(frozen=True)
class Subgraph:
    """A node's neighbourhood. Its first ``num_tokens`` nodes become graph tokens, in this order; the tower sees all of it.

    Args:
        nodes: Global node numbers, the centre first, then hop by hop, shape ``[k]``, int64.
        edge_index: Positions in ``nodes``, shape ``[2, e]``, int64; row 0 is the neighbour, row 1 the node it was sampled for
            (the direction in which GraphGPT's files store them).
        num_tokens: 1 to k.
    """

    nodes: Tensor
    edge_index: Tensor
    num_tokens: int

    def input(self, graph: TextAttributedGraph) -> "GraphInput":
        """The subgraph as a tower reads it."""
        return GraphInput(x=graph.features[self.nodes], edge_index=self.edge_index, num_tokens=self.num_tokens)


@dataclass(frozen=True)
class GraphInput:
    """What stands behind one ``<graph>`` placeholder.

    Args:
        x: Node features, shape ``[k, d]``, float32.
        edge_index: Shape ``[2, e]``, int64, as in :class:`Subgraph`.
        num_tokens: The first so many nodes become tokens.
    """

    x: Tensor
    edge_index: Tensor
    num_tokens: int


def sample_subgraph(
    graph: TextAttributedGraph, centre: int, *, hops: int, fanout: int, seed: int, max_tokens: int | None = None
) -> Subgraph:
    """Sample neighbours hop by hop, at most ``fanout`` per node, without replacement; nodes are listed once.

    The same arguments give the same subgraph in any process: the random numbers depend on ``seed`` and ``centre`` alone.
    """
    nodes, source, target = _sample(graph.rowptr.numpy(), graph.col.numpy(), centre, hops, fanout, seed)
    return Subgraph(
        nodes=torch.from_numpy(nodes),
        edge_index=torch.from_numpy(np.stack([source, target])),
        num_tokens=min(len(nodes), max_tokens or len(nodes)),
    )


@njit(cache=True)
def _next(state: np.uint64) -> tuple[np.uint64, np.uint64]:
    """One step of SplitMix64 (Steele et al., 2014): new state and 64 random bits."""
    state = state + np.uint64(0x9E3779B97F4A7C15)
    z = state
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state, z ^ (z >> np.uint64(31))


@njit(cache=True)
def _sample(
    rowptr: np.ndarray, col: np.ndarray, centre: int, hops: int, fanout: int, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    # The mixed bits: neighbouring seeds must not give shifted copies of one stream.
    _, state = _next(np.uint64(seed) * np.uint64(0x9E3779B97F4A7C15) ^ np.uint64(centre))
    nodes = [np.int64(centre)]
    place = {np.int64(centre): np.int64(0)}
    source = [np.int64(0) for _ in range(0)]
    target = [np.int64(0) for _ in range(0)]
    picks = np.empty(fanout, dtype=np.int64)
    start = 0
    for _ in range(hops):
        end = len(nodes)
        for i in range(start, end):
            first = rowptr[nodes[i]]
            degree = rowptr[nodes[i] + 1] - first
            count = min(degree, fanout)
            for j in range(count):
                pick = np.int64(j)
                if degree > fanout:
                    # Floyd's sampling without replacement: `count` draws, whatever the degree.
                    last = degree - count + j
                    state, bits = _next(state)
                    pick = np.int64(bits % np.uint64(last + 1))
                    for earlier in range(j):
                        if picks[earlier] == pick:
                            pick = last
                            break
                picks[j] = pick
                neighbor = col[first + pick]
                if neighbor not in place:
                    place[neighbor] = np.int64(len(nodes))
                    nodes.append(neighbor)
                source.append(place[neighbor])
                target.append(np.int64(i))
        start = end
    return np.array(nodes), np.array(source, dtype=np.int64), np.array(target, dtype=np.int64)
