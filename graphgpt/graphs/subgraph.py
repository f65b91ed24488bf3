"""Subgraphs around a node: the recipe that makes one, and the form in which a tower reads it."""

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from graphgpt.errors import amount
from graphgpt.files.atomic import fingerprint
from graphgpt.graphs.graph import TextAttributedGraph
from graphgpt.machine.compiled import compiled

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
        return GraphInput(x=graph.features[self.nodes].float(), edge_index=self.edge_index, num_tokens=self.num_tokens, pool=self.pool)


@dataclass(frozen=True, eq=False)  # tensors are not simply equal
class GraphInput:
    """What stands where ``<graph>`` stood in a wording.

    Args:
        x: Node features, shape ``[k, d]``, float32.
        edge_index: Shape ``[2, e]``, int64, as in :class:`Subgraph`.
        num_tokens: As in :class:`Subgraph`.
        pool: As in :class:`Subgraph`.
        partner: The other subgraph of a question about two, for towers that compare them.
    """

    modality: ClassVar[str] = "graph"

    x: Tensor
    edge_index: Tensor
    num_tokens: int
    pool: Pool | None = None
    partner: "GraphInput | None" = None

    @cached_property
    def key(self) -> str:
        """Identifies nodes, edges, tokens and partner."""
        pool = () if self.pool is None else (self.pool.node, self.pool.token, self.pool.weight)
        tensors = [tensor.contiguous().numpy().tobytes() for tensor in (self.x, self.edge_index, *pool)]
        return fingerprint(*tensors, [self.num_tokens, *self.x.shape], "" if self.partner is None else self.partner.key)

    @property
    def shown(self) -> str:
        return f"<graph: {amount(self.num_tokens, 'token')}>"


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
    nodes, edges = _sample(graph.rowptr.numpy(), graph.col.numpy(), centre, hops, fanout, seed)
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
        edges: Sampled edges, neighbour to the node it was sampled for, in the order of these, shape ``[2, e]``.
        num_nodes: k.
        hops: Levels below the centre.
        fanout: Children per place.

    Returns:
        ``1 + fanout + fanout**2 + ...`` and the pool.
    """
    source, target = edges
    # A row per node; the last stands for a place without a node (-1).
    children = np.full((num_nodes + 1, fanout), -1)
    children[target, np.arange(len(target)) - np.searchsorted(target, target)] = source
    levels = [np.zeros(1, dtype=np.int64)]
    for _ in range(hops):
        levels.append(children[levels[-1]].ravel())
    places = np.concatenate(levels)
    token = (places >= 0).nonzero()[0]
    return len(places), Pool(node=torch.from_numpy(places[token]), token=torch.from_numpy(token), weight=torch.ones(len(token)))


def hop_field(edges: np.ndarray, num_nodes: int, hops: int) -> tuple[int, Pool]:
    """One token per hop: the centre, the mean over its neighbours, the mean over each one's neighbours' mean, and so on.

    Parameter-free. Source: LLaGA (arXiv:2402.08170), section 3.2, "Hop-Field Overview Template". Arguments as for
    :func:`neighborhood_detail`.

    Returns:
        ``hops + 1`` and the pool.
    """
    source, target = edges
    degree = np.bincount(target, minlength=num_nodes)
    rows = [np.eye(1, num_nodes)[0]]
    for _ in range(hops):
        rows.append(np.bincount(source, weights=rows[-1][target] / degree[target], minlength=num_nodes))
    weights = np.stack(rows).astype(np.float32)
    token, node = weights.nonzero()
    return hops + 1, Pool(node=torch.from_numpy(node), token=torch.from_numpy(token), weight=torch.from_numpy(weights[token, node]))


@compiled
def _next(state: np.uint64) -> tuple[np.uint64, np.uint64]:
    """One step of SplitMix64 (Steele et al., 2014): new state and 64 random bits."""
    state = state + np.uint64(0x9E3779B97F4A7C15)
    z = state
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state, z ^ (z >> np.uint64(31))


@compiled
def _slot(table: np.ndarray, nodes: np.ndarray, node: int) -> np.int64:
    """Where ``table``, whose length is a power of two and which holds places in ``nodes`` or -1, has ``node`` or room for it."""
    slot = np.uint64(node) * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(32)
    last = np.uint64(len(table) - 1)
    slot &= last
    while table[slot] >= 0 and nodes[table[slot]] != node:
        slot = (slot + np.uint64(1)) & last
    return np.int64(slot)


@compiled
def _sample(rowptr: np.ndarray, col: np.ndarray, centre: int, hops: int, fanout: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    # The mixed bits: neighbouring seeds must not give shifted copies of one stream.
    _, state = _next(np.uint64(seed) * np.uint64(0x9E3779B97F4A7C15) ^ np.uint64(centre))
    nodes = np.full(1, centre, dtype=np.int64)
    edges = np.empty((2, 0), dtype=np.int64)
    picks = np.empty(fanout, dtype=np.int64)
    start, end = 0, 1
    for _ in range(hops):
        # How many edges a hop has is known before they are drawn: no array has to grow, and a table of places has room for all.
        more = 0
        for i in range(start, end):
            more += min(rowptr[nodes[i] + 1] - rowptr[nodes[i]], fanout)
        edge = edges.shape[1]
        edges = np.concatenate((edges, np.empty((2, more), dtype=np.int64)), axis=1)
        nodes = np.concatenate((nodes[:end], np.empty(more, dtype=np.int64)))
        size = 4
        while size < 2 * len(nodes):
            size *= 2
        table = np.full(size, -1, dtype=np.int64)
        for i in range(end):
            table[_slot(table, nodes, nodes[i])] = i
        found = end
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
                slot = _slot(table, nodes, neighbor)
                if table[slot] < 0:
                    table[slot] = found
                    nodes[found] = neighbor
                    found += 1
                edges[0, edge] = table[slot]
                edges[1, edge] = i
                edge += 1
        start, end = end, found
    return nodes[:end], edges
