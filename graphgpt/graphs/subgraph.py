"""Subgraphs around a node: the recipe that makes one, and the form in which a tower reads it."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numba import njit
from torch import Tensor

from graphgpt.graphs.graph import TextAttributedGraph

Layout = Literal["sampled", "neighborhood_detail", "hop_field"]


@dataclass(frozen=True)
class Pool:
    """Tokens as weighted sums of node states: token ``t`` is the sum of ``weight[i] * state[node[i]]`` over all i with ``token[i] = t``.

    A token that no entry names is zero.

    Args:
        node: Positions in the subgraph's nodes, shape ``[p]``, int64.
        token: Shape ``[p]``, int64.
        weight: Shape ``[p]``, float32.
    """

    node: Tensor
    token: Tensor
    weight: Tensor

    def first(self, tokens: int) -> "Pool":
        """The pool of the first so many tokens alone."""
        kept = self.token < tokens
        return Pool(node=self.node[kept], token=self.token[kept], weight=self.weight[kept])


@dataclass(frozen=True)
class Subgraph:
    """A node's neighbourhood, and which graph tokens it becomes; the tower sees all of it.

    Args:
        nodes: Global node numbers, the centre first, then hop by hop, shape ``[k]``, int64.
        edge_index: Positions in ``nodes``, shape ``[2, e]``, int64; row 0 is the neighbour, row 1 the node it was sampled for
            (the direction in which GraphGPT's files store them).
        num_tokens: How many graph tokens; without a ``pool`` they are the first so many nodes.
        pool: How node states become tokens, where a token is not simply a node.
    """

    nodes: Tensor
    edge_index: Tensor
    num_tokens: int
    pool: Pool | None = None

    def input(self, graph: TextAttributedGraph) -> "GraphInput":
        """The subgraph as a tower reads it."""
        return GraphInput(x=graph.features[self.nodes], edge_index=self.edge_index, num_tokens=self.num_tokens, pool=self.pool)


@dataclass(frozen=True)
class GraphInput:
    """What stands behind one ``<graph>`` placeholder.

    Args:
        x: Node features, shape ``[k, d]``, float32.
        edge_index: Shape ``[2, e]``, int64, as in :class:`Subgraph`.
        num_tokens: As in :class:`Subgraph`.
        pool: As in :class:`Subgraph`.
        partner: The other subgraph of a question about two, for towers that compare them.
    """

    x: Tensor
    edge_index: Tensor
    num_tokens: int
    pool: Pool | None = None
    partner: "GraphInput | None" = None


def sample_subgraph(
    graph: TextAttributedGraph,
    centre: int,
    *,
    hops: int,
    fanout: int,
    seed: int,
    max_tokens: int | None = None,
    layout: Layout = "sampled",
) -> Subgraph:
    """Sample neighbours hop by hop, at most ``fanout`` per node, without replacement; nodes are listed once.

    The same arguments give the same subgraph in any process: the random numbers depend on ``seed`` and ``centre`` alone.

    Args:
        graph: To sample from.
        centre: Node number.
        hops: How far.
        fanout: Neighbours per node and hop.
        seed: Of the draw.
        max_tokens: At most so many tokens, the nearest first; None takes all.
        layout: ``sampled`` has a token per node (GraphGPT), the others are :func:`neighborhood_detail` and :func:`hop_field`.
    """
    nodes, source, target = _sample(graph.rowptr.numpy(), graph.col.numpy(), centre, hops, fanout, seed)
    edges = np.stack([source, target])
    num_tokens, pool = len(nodes), None
    if layout == "neighborhood_detail":
        num_tokens, pool = neighborhood_detail(edges, len(nodes), hops, fanout)
    elif layout == "hop_field":
        num_tokens, pool = hop_field(edges, len(nodes), hops)
    if max_tokens is not None and max_tokens < num_tokens:
        num_tokens, pool = max_tokens, pool and pool.first(max_tokens)
    return Subgraph(nodes=torch.from_numpy(nodes), edge_index=torch.from_numpy(edges), num_tokens=num_tokens, pool=pool)


def neighborhood_detail(edges: np.ndarray, num_nodes: int, hops: int, fanout: int) -> tuple[int, Pool]:
    """A tree of fixed form: the centre, its ``fanout`` neighbours, the ``fanout`` neighbours of each of those, and so on.

    A node may stand at several places; a place without a node is a zero token. Source: LLaGA (Chen et al.,
    arXiv:2402.08170), section 3.2, "Neighborhood Detail Template".

    Args:
        edges: Sampled edges, neighbour to the node it was sampled for, shape ``[2, e]``.
        num_nodes: k.
        hops: Levels below the centre.
        fanout: Children per place.

    Returns:
        ``1 + fanout + fanout**2 + ...`` and the pool.
    """
    # The last row stands for a place without a node (-1).
    neighbors = [*_neighbors(edges, num_nodes), []]
    level, places = [0], [0]
    for _ in range(hops):
        level = [child for node in level for child in [*neighbors[node], *[-1] * (fanout - len(neighbors[node]))]]
        places += level
    node = torch.tensor(places)
    token = (node >= 0).nonzero().flatten()
    return len(places), Pool(node=node[token], token=token, weight=torch.ones(len(token)))


def hop_field(edges: np.ndarray, num_nodes: int, hops: int) -> tuple[int, Pool]:
    """One token per hop: the centre, the mean over its neighbours, the mean over each one's neighbours' mean, and so on.

    Parameter-free. Source: LLaGA (arXiv:2402.08170), section 3.2, "Hop-Field Overview Template". Arguments as for
    :func:`neighborhood_detail`.

    Returns:
        ``hops + 1`` and the pool.
    """
    neighbors = _neighbors(edges, num_nodes)
    share = np.eye(1, num_nodes)[0]
    rows = [share]
    for _ in range(hops):
        spread = np.zeros(num_nodes)
        for node in share.nonzero()[0]:
            if neighbors[node]:
                np.add.at(spread, neighbors[node], share[node] / len(neighbors[node]))
        share = spread
        rows.append(share)
    weights = torch.from_numpy(np.stack(rows)).float()
    token, node = weights.nonzero(as_tuple=True)
    return hops + 1, Pool(node=node, token=token, weight=weights[token, node])


def _neighbors(edges: np.ndarray, num_nodes: int) -> list[list[int]]:
    """For every node the neighbours that were sampled for it; none for those of the last hop."""
    found: list[list[int]] = [[] for _ in range(num_nodes)]
    for source, target in edges.T.tolist():
        found[target].append(source)
    return found


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
