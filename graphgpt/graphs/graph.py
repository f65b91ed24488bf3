"""A graph whose nodes carry text, as it lies in memory and on disk."""

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from graphgpt.errors import DataError
from graphgpt.files import atomic_folder, fingerprint

FORMAT = 1
SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class TextAttributedGraph:
    """An undirected graph with a title, a body text and perhaps a class for every node.

    Shapes: n nodes, m directed edges (each undirected edge counts twice), d features.

    Args:
        rowptr: Start of every node's neighbours in ``col``, shape ``[n + 1]``, int64.
        col: Neighbours, sorted within a node, no self-loops, no duplicates, symmetric, shape ``[m]``, int64.
        y: Class of every node, shape ``[n]``, int64, -1 where unknown.
        ids: The user's node names, length n.
        titles: Short names, never empty, length n.
        bodies: Longer texts, may be empty, length n.
        class_names: Names of the classes that ``y`` counts.
        card: Where the graph came from: name, fingerprint, counts, warnings, what the builder adds.
        x: Node features, shape ``[n, d]``, float32, finite; None before a text encoder has run.
        split: Split given with the data, shape ``[n]``, int8: index into ``SPLITS``, -1 for none; None when the data has none.
    """

    rowptr: Tensor
    col: Tensor
    y: Tensor
    ids: pa.Array
    titles: pa.Array
    bodies: pa.Array
    class_names: tuple[str, ...]
    card: dict[str, Any] = field(default_factory=dict)
    x: Tensor | None = None
    split: Tensor | None = None

    @property
    def num_nodes(self) -> int:
        return self.rowptr.numel() - 1

    @property
    def num_edges(self) -> int:
        """Undirected edges."""
        return self.col.numel() // 2

    @property
    def fingerprint(self) -> str:
        """Identifies structure, texts and labels; changes when any of them does."""
        return str(self.card["fingerprint"])

    @property
    def features(self) -> Tensor:
        """``x``, for code that needs it to be there."""
        if self.x is None:
            raise DataError(f"The graph '{self.card.get('name')}' has no node features yet: run a text encoder first.")
        return self.x

    def title(self, node: int) -> str:
        return str(self.titles[node].as_py())

    def body(self, node: int) -> str:
        return str(self.bodies[node].as_py())

    def neighbors(self, node: int) -> Tensor:
        return self.col[self.rowptr[node] : self.rowptr[node + 1]]

    def homophily(self) -> float:
        """Share of edges whose two ends have the same class, among edges with both classes known (nan if none)."""
        row = torch.repeat_interleave(torch.arange(self.num_nodes), self.rowptr.diff())
        known = (self.y[row] >= 0) & (self.y[self.col] >= 0)
        return float((self.y[row] == self.y[self.col])[known].float().mean())

    def with_features(self, x: Tensor) -> "TextAttributedGraph":
        """The same graph with node features.

        Raises:
            DataError: ``x`` is not ``[n, d]`` or holds a value that is not finite; the message names the first.
        """
        if x.ndim != 2 or x.shape[0] != self.num_nodes:
            raise DataError(f"Node features have shape {list(x.shape)}, expected [{self.num_nodes}, d]: one row per node.")
        bad = (~torch.isfinite(x)).nonzero()
        if len(bad):
            node, column = bad[0].tolist()
            raise DataError(
                f"The features of node '{self.ids[node].as_py()}' (row {node}, column {column}) are {x[node, column].item()}; "
                f"{len(bad)} of {x.numel()} values are not finite."
            )
        return replace(self, x=x.float().contiguous())

    def save(self, folder: Path) -> None:
        """Write ``graph.safetensors``, ``text.arrow`` and ``card.json``, all or nothing. Features are not part of it."""
        tensors = {"rowptr": self.rowptr, "col": self.col, "y": self.y}
        if self.split is not None:
            tensors["split"] = self.split
        table = pa.table({"id": self.ids, "title": self.titles, "body": self.bodies})
        card = {**self.card, "format": FORMAT, "class_names": list(self.class_names)}
        with atomic_folder(folder) as tmp:
            save_file({k: v.contiguous() for k, v in tensors.items()}, tmp / "graph.safetensors")
            with pa.OSFile(str(tmp / "text.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
                writer.write_table(table)
            (tmp / "card.json").write_text(json.dumps(card, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    @classmethod
    def open(cls, folder: Path) -> "TextAttributedGraph":
        """Open a saved graph, memory-mapped: the time does not grow with the graph.

        Raises:
            DataError: a file is missing or damaged, or was written by a newer version.
        """
        for name in ("card.json", "graph.safetensors", "text.arrow"):
            if not (folder / name).is_file():
                raise DataError(f"{folder} is not a graph folder: {name} is missing.")
        with _reading(folder / "card.json") as path:
            card = json.loads(path.read_text(encoding="utf-8"))
        with _reading(folder / "graph.safetensors") as path:
            tensors = load_file(path)
        with _reading(folder / "text.arrow") as path:
            table = pa.ipc.open_file(pa.memory_map(str(path))).read_all().combine_chunks()
        if card["format"] > FORMAT:
            raise DataError(f"{folder / 'card.json'} has format {card['format']}; this version reads up to {FORMAT}: update graphgpt.")
        ids, titles, bodies = (
            column.chunk(0) if column.num_chunks else pa.array([], pa.large_string())
            for column in (table["id"], table["title"], table["body"])
        )
        return cls(
            rowptr=tensors["rowptr"],
            col=tensors["col"],
            y=tensors["y"],
            ids=ids,
            titles=titles,
            bodies=bodies,
            class_names=tuple(card["class_names"]),
            card=card,
            split=tensors.get("split"),
        )


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[Path]:
    """Says which file it was that could not be read."""
    try:
        yield path
    except (ValueError, SafetensorError, pa.ArrowInvalid) as error:
        raise DataError(f"{path} is damaged ({error}); delete {path.parent} to have it made again.") from error


def build_graph(
    *,
    ids: Sequence[str],
    titles: Sequence[str],
    bodies: Sequence[str],
    labels: Sequence[int],
    class_names: Sequence[str],
    edges: np.ndarray,
    card: dict[str, Any],
    split: Sequence[int] | None = None,
) -> TextAttributedGraph:
    """Assemble a graph from records that a dataset builder has read and checked.

    Edges are made undirected; duplicates and self-loops are dropped and counted in the card. A node without a title gets
    the first words of its body, one without any text its id, so that every node can be named in a prompt.

    Args:
        ids: Unique node names, length n.
        titles: Length n, may hold empty strings.
        bodies: Length n, may hold empty strings.
        labels: Index into ``class_names`` or -1, length n.
        class_names: Class names, in the order that ``labels`` counts.
        edges: Node indices, shape ``[e, 2]``, int64, in either or both directions.
        card: What the builder knows about the origin; at least ``name``.
        split: Index into ``SPLITS`` or -1 per node, when the data brings a split.
    """
    n = len(ids)
    no_title = [i for i in range(n) if not titles[i].strip()]
    no_text = [i for i in no_title if not bodies[i].strip()]
    titles = [title.strip() or " ".join(body.split()[:8]) or f"node {name}" for title, body, name in zip(titles, bodies, ids, strict=True)]

    edges = np.asarray(edges, dtype=np.int64).reshape(-1, 2)
    loops = int((edges[:, 0] == edges[:, 1]).sum())
    pairs = np.sort(edges[edges[:, 0] != edges[:, 1]], axis=1)
    unique = np.unique(pairs[:, 0] * max(n, 1) + pairs[:, 1])
    source, target = unique // max(n, 1), unique % max(n, 1)
    both = np.sort(np.concatenate([source * max(n, 1) + target, target * max(n, 1) + source]))
    row, col = both // max(n, 1), both % max(n, 1)
    rowptr = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=n))]).astype(np.int64)

    graph = TextAttributedGraph(
        rowptr=torch.from_numpy(rowptr),
        col=torch.from_numpy(col),
        y=torch.tensor(labels, dtype=torch.int64),
        ids=pa.array(ids, pa.large_string()),
        titles=pa.array(titles, pa.large_string()),
        bodies=pa.array(bodies, pa.large_string()),
        class_names=tuple(class_names),
        split=None if split is None else torch.tensor(split, dtype=torch.int8),
    )
    counts = {
        "nodes": n,
        "edges": len(unique),
        "classes": len(class_names),
        "unlabelled": int((graph.y < 0).sum()),
        "isolated": int((graph.rowptr.diff() == 0).sum()),
        "homophily": None if np.isnan(h := graph.homophily()) else round(h, 4),
        "self_loops_dropped": loops,
        "duplicate_edges_dropped": len(pairs) - len(unique),
        "without_title": len(no_title),
        "without_text": len(no_text),
    }
    identity = [rowptr.tobytes(), col.tobytes(), graph.y.numpy().tobytes(), *class_names, *titles, *bodies]
    return replace(graph, card={**card, **counts, "fingerprint": fingerprint(*identity)})
