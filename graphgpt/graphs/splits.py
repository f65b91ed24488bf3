"""Which nodes, or pictures, are for training, validation and test."""

import csv
import io
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from graphgpt.errors import DataError, amount, nearest
from graphgpt.files.atomic import write_text
from graphgpt.graphs.dataset import SplitConfig
from graphgpt.graphs.graph import TextAttributedGraph, strings
from graphgpt.graphs.tables import Table, open_table
from graphgpt.schema import SPLITS

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Things that are divided between splits: the nodes of a graph, the pictures of a collection.

    Args:
        noun: What they make up, as in "graph".
        thing: What one is called, as in "node".
        name: Of the whole.
        ids: The user's names of them, length n.
        y: Class of each, shape ``[n]``, int64, -1 where unknown.
        class_names: Names of the classes.
        split: Given with the data, shape ``[n]``, int8; None where there is none.
    """

    noun: str
    thing: str
    name: str
    ids: pa.ChunkedArray
    y: Tensor
    class_names: tuple[str, ...]
    split: Tensor | None


def split_nodes(graph: TextAttributedGraph, config: SplitConfig, *, needs_labels: bool = True) -> Tensor:
    """Assign the labelled nodes of a graph to splits, as :func:`split_items`."""
    return split_items(nodes_of(graph), config, needs_labels=needs_labels)


def nodes_of(graph: TextAttributedGraph) -> Parts:
    """The nodes of a graph, to be split."""
    own: dict[str, Any] = {"ids": graph.ids, "y": graph.y, "class_names": graph.class_names, "split": graph.split}
    return Parts(noun="graph", thing="node", name=graph.card["name"], **own)


def split_items(whole: Parts, config: SplitConfig, *, needs_labels: bool = True) -> Tensor:
    """Assign the labelled things to splits.

    Args:
        whole: What is split.
        config: How.
        needs_labels: Whether the others are of no use. If they are, they are split too where nothing has a label.

    Returns:
        Index into ``SPLITS`` per thing, -1 for none, shape ``[n]``, int8.

    Raises:
        DataError: the split cannot be made of these data, or the training or test split would be empty.
    """
    for problem in config.problems():
        raise DataError(problem)
    name, noun, way = f"{whole.noun} '{whole.name}'", whole.thing, config.name
    if way == "auto":
        way = "random" if whole.split is None else "given"
        log.info("Split of the %s: %s (dataset.split.name).", name, way)
        for key in ("seed", "train", "val") if way == "given" else ():
            if (value := getattr(config, key)) != getattr(SplitConfig(), key):
                log.warning("dataset.split.%s=%s: changes nothing, for the %s brings a split.", key, value, name)
    elif way in ("random", "planetoid") and whole.split is not None:
        log.warning("The %s brings a split, and dataset.split.name=%s draws another; given takes the one it brings.", name, way)
    labelled, kind = (whole.y >= 0).numpy(), f"labelled {noun}s"
    if not needs_labels and not labelled.any():
        labelled, kind = np.ones_like(labelled), f"{noun}s"
    # RandomState's stream is frozen by numpy's policy, so a split is the same under every version.
    random = np.random.RandomState(config.seed)
    if way == "random":
        order = random.permutation(labelled.nonzero()[0])
        train, val = round(config.train * len(order)), round((config.train + config.val) * len(order))
        split = _assigned(whole, (order[:train], order[train:val], order[val:]))
    elif way == "planetoid":
        split = _planetoid(whole, config, random)
    elif way == "file":
        split = read_split(whole, Path(str(config.path)))
    elif whole.split is None:
        raise DataError(f"dataset.split.name is 'given', but the {name} brings no split; use 'random'.")
    else:
        split = whole.split.numpy()
    split = np.where(labelled, split, np.int8(-1))
    for index, part in enumerate(SPLITS):
        if part != "val" and not (split == index).any():
            advice = " The data bring it so; dataset.split.name=random draws one." if way == "given" else ""
            raise DataError(f"The {part} split of the {name} is empty ({int(labelled.sum())} {kind}).{advice}")
    return torch.from_numpy(split)


def _assigned(whole: Parts, parts: Sequence[np.ndarray]) -> np.ndarray:
    split = np.full(len(whole.y), -1, dtype=np.int8)
    for index, nodes in enumerate(parts):
        split[nodes] = index
    return split


def _planetoid(whole: Parts, config: SplitConfig, random: np.random.RandomState) -> np.ndarray:
    """As many training nodes of every class, and validation and test nodes from the rest (Yang et al., arXiv:1603.08861, section 5)."""
    y = whole.y.numpy()
    if not (y >= 0).any():
        raise DataError(
            f"dataset.split.name is 'planetoid', for {whole.thing}s of every class, but the {whole.noun} '{whole.name}' has no labels; "
            "use 'random'."
        )
    train = []
    for label in np.unique(y[y >= 0]):
        of_class = (y == label).nonzero()[0]
        if len(of_class) < config.per_class:
            raise DataError(
                f"dataset.split: the class '{whole.class_names[label]}' of the {whole.noun} '{whole.name}' "
                f"has {amount(len(of_class), whole.thing)}, "
                f"expected at least per_class={config.per_class}; lower it."
            )
        train.append(random.permutation(of_class)[: config.per_class])
    nodes = np.concatenate([np.zeros(0, dtype=np.int64), *train])
    rest = random.permutation(np.setdiff1d((y >= 0).nonzero()[0], nodes))
    if len(rest) < config.num_val + config.num_test:
        raise DataError(
            f"dataset.split: {len(nodes)} training {whole.thing}s leave {len(rest)} of the {whole.noun} '{whole.name}', "
            f"expected at least num_val={config.num_val} + num_test={config.num_test}; lower one of them."
        )
    return _assigned(whole, (nodes, rest[: config.num_val], rest[config.num_val :][: config.num_test]))


def read_split(whole: Parts, path: Path) -> np.ndarray:
    """The split that a table with the columns ``id`` and ``split`` gives; what it leaves out is in none.

    Returns:
        Index into ``SPLITS`` per node, -1 for none, shape ``[n]``, int8.

    Raises:
        DataError: an id is no node or comes twice, a split is unknown, or the file is no table.
    """
    table: Table = open_table(path, required=("id", "split"))
    index = {name: node for node, name in enumerate(strings(whole.ids))}
    split = np.full(len(whole.y), -1, dtype=np.int8)
    seen = set()
    for places, columns in table:
        for place, name, part in zip(places, map(str.strip, columns["id"]), map(str.strip, columns["split"]), strict=True):
            if name not in index:
                raise DataError(f"{table.at(place)}: the id '{name}' is no {whole.thing} of the {whole.noun} '{whole.name}'.")
            if name in seen:
                raise DataError(f"{table.at(place)}: the id '{name}' is there more than once.")
            if part not in SPLITS:
                raise DataError(f"{table.at(place)}: the split '{part}' is unknown. {nearest(part, SPLITS)}")
            seen.add(name)
            split[index[name]] = SPLITS.index(part)
    return split


def write_split(ids: pa.ChunkedArray, split: Tensor, path: Path) -> None:
    """Write what is in which split as CSV with the columns ``id`` and ``split``, in the order of the ids.

    Args:
        ids: Names of nodes or pictures, length n.
        split: Index into ``SPLITS`` for each, -1 for none (left out of the file), shape ``[n]``.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("id", "split"))
    writer.writerows((name, SPLITS[part]) for name, part in zip(strings(ids), split.tolist(), strict=True) if part >= 0)
    write_text(path, text.getvalue())
