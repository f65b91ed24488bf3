"""Which pairs of nodes are asked about, and the graph without the answers."""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from graphgpt.errors import DataError
from graphgpt.graphs.graph import TextAttributedGraph
from graphgpt.schema import configclass


@configclass
class EdgeSplitConfig:
    """Which edges become questions."""

    train: float = Field(default=0.25, gt=0, lt=1)
    """Share of the edges that training asks about; hidden while it does, known at evaluation."""
    val: float = Field(default=0.05, ge=0, lt=1)
    """Share for validation; never in any subgraph."""
    test: float = Field(default=0.1, gt=0, lt=1)
    """Share for test; never in any subgraph."""
    negatives: Literal["random", "hard"] = "random"
    """Pairs without an edge, as many as with one: any pair, or ``hard``: two hops apart in the graph."""
    seed: int = 0
    """Same seed, same pairs, on every machine."""


@dataclass(frozen=True)
class EdgeSplit:
    """Pairs to ask about, and the graphs to sample from.

    Args:
        pairs: Node numbers, shape ``[p, 2]``, int64; first those with an edge, then as many without, within each split.
        linked: Whether there is an edge, shape ``[p]``, bool.
        split: Index into ``SPLITS``, shape ``[p]``, int8.
        training: The graph without the edges of any pair.
        evaluation: The graph without the edges of the validation and test pairs.
    """

    pairs: Tensor
    linked: Tensor
    split: Tensor
    training: TextAttributedGraph
    evaluation: TextAttributedGraph


def split_edges(graph: TextAttributedGraph, config: EdgeSplitConfig) -> EdgeSplit:
    """Draw target edges and as many pairs without an edge; target edges leave the graph in both directions.

    Raises:
        DataError: the shares leave no edge in the graph, a split would be empty, or there are too few pairs without an edge.
    """
    name = graph.card["name"]
    if config.train + config.val + config.test >= 1:
        raise DataError(f"task.split: train {config.train}, val {config.val} and test {config.test} leave no edge in the graph '{name}'.")
    random = np.random.RandomState(config.seed)
    edges = random.permutation(undirected_edges(graph))
    bounds = np.round(np.cumsum([config.train, config.val, config.test]) * len(edges)).astype(int)
    positive = np.split(edges[: bounds[-1]], bounds[:-1])
    for part, key in zip(positive, ("train", "val", "test"), strict=True):
        if not len(part) and key != "val":
            raise DataError(f"task.split.{key}: {getattr(config, key)} of the {len(edges):,} edges of the graph '{name}' is none.")
    negative = np.split(non_edges(graph, bounds[-1], config.negatives, random), bounds[:-1])

    pairs = np.concatenate([half for part in zip(positive, negative, strict=True) for half in part])
    swapped = random.rand(len(pairs)) < 0.5  # either end may come first in a prompt
    pairs[swapped] = pairs[swapped][:, ::-1]
    sizes = np.array([len(part) for part in positive])
    return EdgeSplit(
        pairs=torch.from_numpy(pairs),
        linked=torch.from_numpy(np.concatenate([np.repeat([True, False], size) for size in sizes])),
        split=torch.from_numpy(np.repeat(np.arange(3, dtype=np.int8), 2 * sizes)),
        training=without_edges(graph, np.concatenate(positive)),
        evaluation=without_edges(graph, np.concatenate(positive[1:])),
    )


def undirected_edges(graph: TextAttributedGraph) -> np.ndarray:
    """Every edge once, the smaller node first, shape ``[m, 2]``, int64."""
    row, col = _rows(graph), graph.col.numpy()
    once = row < col
    return np.stack([row[once], col[once]], axis=1)


def without_edges(graph: TextAttributedGraph, pairs: np.ndarray) -> TextAttributedGraph:
    """The graph without some edges, in both directions; pairs of shape ``[p, 2]`` that are no edges do not matter."""
    n, row, col = graph.num_nodes, _rows(graph), graph.col.numpy()
    gone = np.concatenate([pairs[:, 0] * n + pairs[:, 1], pairs[:, 1] * n + pairs[:, 0]])
    kept = ~np.isin(row * n + col, gone)
    rowptr = np.concatenate([[0], np.cumsum(np.bincount(row[kept], minlength=n))])
    return replace(graph, rowptr=torch.from_numpy(rowptr.astype(np.int64)), col=torch.from_numpy(col[kept]))


def non_edges(graph: TextAttributedGraph, count: int, kind: Literal["random", "hard"], random: np.random.RandomState) -> np.ndarray:
    """Distinct pairs of different nodes without an edge, the smaller first, shape ``[count, 2]``, int64.

    Raises:
        DataError: there are not so many, or too few to be found by drawing.
    """
    n, row, rowptr, col = graph.num_nodes, _rows(graph), graph.rowptr.numpy(), graph.col.numpy()
    edges = row * n + col  # ascending, as rows and neighbours are sorted
    found = np.empty(0, dtype=np.int64)
    for _ in range(100):
        draws = 2 * (count - len(found)) + 64
        if kind == "random":
            pairs = random.randint(0, n, size=(draws, 2))
        else:
            # From a random edge one step on: a pair with a common neighbour.
            first = random.randint(0, len(col), size=draws)
            middle = col[first]
            step = (random.rand(draws) * (rowptr[middle + 1] - rowptr[middle])).astype(np.int64)
            pairs = np.stack([row[first], col[rowptr[middle] + step]], axis=1)
        pairs = np.sort(pairs[pairs[:, 0] != pairs[:, 1]], axis=1)
        keys = pairs[:, 0] * n + pairs[:, 1]
        place = np.searchsorted(edges, keys).clip(max=len(edges) - 1)
        keys = np.concatenate([found, keys[edges[place] != keys]])
        # The first of equal draws stays, in the order of drawing.
        found = keys[np.sort(np.unique(keys, return_index=True)[1])]
        if len(found) >= count:
            return np.stack([found[:count] // n, found[:count] % n], axis=1)
    raise DataError(
        f"task.split.negatives: the graph '{graph.card['name']}' has too few {'pairs two hops apart' if kind == 'hard' else 'pairs'} "
        f"without an edge: found {len(found):,}, needed {count:,}."
    )


def _rows(graph: TextAttributedGraph) -> np.ndarray:
    return np.repeat(np.arange(graph.num_nodes), graph.rowptr.diff().numpy())
