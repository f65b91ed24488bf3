"""Subgraphs per second of the product's sampler and of plain Python, on one core.

    python benchmarks/sample.py

Two hops of ten neighbours each, in a graph of ogbn-arxiv's size whose degrees follow a power law. Plain Python walks the same two
arrays (CSR) and draws with ``random.sample``.
"""

import argparse
import random
import statistics
from collections.abc import Iterator

import numpy as np
import torch
from common import Row, alternate, faster, run
from torch import Tensor

from graphgpt.graphs.graph import TextAttributedGraph, build_graph
from graphgpt.graphs.subgraph import sample_subgraph

HOPS, FANOUT = 2, 10


def power_law(nodes: int, edges: int) -> TextAttributedGraph:
    """A random graph in which the k-th node's degree falls as 1 / sqrt(k): few have thousands of neighbours, half of them about ten."""
    ends = (nodes * np.random.RandomState(0).rand(edges, 2) ** 2).astype(np.int64)
    names = [f"n{i}" for i in range(nodes)]
    card = {"name": "power law"}
    return build_graph(ids=names, titles=names, bodies=names, labels=[0] * nodes, class_names=["x"], edges=ends, card=card)


def plain(rowptr: np.ndarray, col: np.ndarray, centre: int, fanout: int, draw: random.Random) -> tuple[Tensor, Tensor]:
    """Nodes and edges of a subgraph, as ``sample_subgraph`` gives them, from other random numbers."""
    nodes, place = [centre], {centre: 0}
    source: list[int] = []
    target: list[int] = []
    start = 0
    for _ in range(HOPS):
        end = len(nodes)
        for i in range(start, end):
            neighbors = col[rowptr[nodes[i]] : rowptr[nodes[i] + 1]].tolist()
            if len(neighbors) > fanout:
                neighbors = draw.sample(neighbors, fanout)
            for neighbor in neighbors:
                if neighbor not in place:
                    place[neighbor] = len(nodes)
                    nodes.append(neighbor)
                source.append(place[neighbor])
                target.append(i)
        start = end
    return torch.tensor(nodes), torch.tensor([source, target])


def check(graph: TextAttributedGraph, centres: list[int]) -> str:
    """That both draw subgraphs of one kind; how that was seen.

    Raises:
        SystemExit: they do not.
    """
    rowptr, col = graph.rowptr.numpy(), graph.col.numpy()
    degree, draw = graph.rowptr.diff(), random.Random(1)
    whole = int(degree.max())
    for centre in centres[:20]:  # where every neighbour is taken, nothing is left to chance
        ours = sample_subgraph(graph, centre, hops=HOPS, fanout=whole, seed=0)
        nodes, edges = plain(rowptr, col, centre, whole, draw)
        if not torch.equal(ours.nodes, nodes) or not torch.equal(ours.edge_index, edges):
            raise SystemExit(f"sample: the whole neighbourhood of node {centre} is not the same.")
    sizes = []
    for centre in centres:
        ours = sample_subgraph(graph, centre, hops=HOPS, fanout=FANOUT, seed=0)
        nodes, edges = plain(rowptr, col, centre, FANOUT, draw)
        for found, between in ((ours.nodes, ours.edge_index), (nodes, edges)):
            drawn_for, counts = between[1].unique(return_counts=True)
            pairs = {*zip(found[between[0]].tolist(), found[between[1]].tolist(), strict=True)}
            if not torch.equal(counts, degree[found[drawn_for]].clamp(max=FANOUT)) or len(pairs) != between.shape[1]:
                raise SystemExit(f"sample: around node {centre} not all nodes have min(degree, {FANOUT}) different edges.")
            if not all(a in col[rowptr[b] : rowptr[b + 1]] for a, b in pairs):
                raise SystemExit(f"sample: around node {centre} an edge was drawn that the graph has not.")
        sizes.append([len(ours.nodes), ours.edge_index.shape[1], len(nodes), edges.shape[1]])
    mean = np.mean(sizes, axis=0)
    apart = float(np.abs(mean[:2] / mean[2:] - 1).max())
    if apart > 0.05:
        raise SystemExit(f"sample: {mean[0]:.1f} nodes and {mean[1]:.1f} edges on average, expected {mean[2]:.1f} and {mean[3]:.1f}.")
    return f"whole neighbourhoods exactly; drawn ones: edges and fan-outs, mean sizes to {apart:.1%}"


def check_fair(graph: TextAttributedGraph) -> str:
    """That each neighbour of the node with most of them is drawn as often as any other.

    Raises:
        SystemExit: it is not.
    """
    from scipy.stats import chi2

    hub = int(graph.rowptr.diff().argmax())
    degree = len(graph.neighbors(hub))
    draws = 20 * degree // FANOUT
    drawn = torch.cat([sample_subgraph(graph, hub, hops=1, fanout=FANOUT, seed=seed).nodes[1:] for seed in range(draws)])
    counts = torch.bincount(drawn, minlength=graph.num_nodes)[graph.neighbors(hub)].numpy()
    expected = draws * FANOUT / degree
    chance = float(chi2.sf(((counts - expected) ** 2 / expected).sum(), degree - 1))
    if chance < 1e-6:
        raise SystemExit(
            f"sample: the neighbours of node {hub} are drawn {counts.min()} to {counts.max()} times, too far from {expected:.0f}."
        )
    return f"a hub's neighbours equally often (chi-squared, p = {chance:.2f})"


def measure(options: argparse.Namespace) -> Iterator[Row]:
    torch.set_num_threads(1)
    graph = power_law(2_000, 14_000) if options.small else power_law(170_000, 1_250_000)
    centres = np.random.RandomState(1).randint(0, graph.num_nodes, 100 if options.small else 2_000).tolist()
    same = f"{check(graph, centres)}; {check_fair(graph)}"
    rowptr, col = graph.rowptr.numpy(), graph.col.numpy()
    draw = random.Random(0)

    def ours() -> None:
        for centre in centres:
            sample_subgraph(graph, centre, hops=HOPS, fanout=FANOUT, seed=0)

    def python() -> None:
        for centre in centres:
            plain(rowptr, col, centre, FANOUT, draw)

    seconds = alternate(ours, python, rounds=1 if options.small else 5)
    rates = [len(centres) / statistics.median(taken) for taken in seconds]
    what = {"benchmark": "sample", "what": "subgraphs/s", "ours": rates[0], "reference": rates[1], "same": same}
    yield Row(**what, measured=faster(*seconds), target=100)
    yield Row(**what | {"reference": None}, measured=rates[0], target=20_000)


if __name__ == "__main__":
    run(measure, __doc__)
