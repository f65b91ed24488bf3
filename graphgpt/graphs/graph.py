"""A graph whose nodes carry text, as it lies in memory and on disk."""

import contextlib
import json
from collections.abc import Iterable, Iterator, Sequence
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
from graphgpt.files import atomic_folder, fingerprint_of

FORMAT = 1
TEXT_FILE = "text.arrow"
TEXT_SCHEMA = pa.schema([(name, pa.large_string()) for name in ("id", "title", "body")])


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
        x: Node features, shape ``[n, d]``, float32 (float16 if made of the texts of a large graph), finite; None where a text encoder
            is still to make them.
        split: Split given with the data, shape ``[n]``, int8: index into ``SPLITS``, -1 for none; None when the data has none.
    """

    rowptr: Tensor
    col: Tensor
    y: Tensor
    ids: pa.ChunkedArray
    titles: pa.ChunkedArray
    bodies: pa.ChunkedArray
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
        """Write the graph folder (``text.arrow`` and what :meth:`save_numbers` writes), all or nothing."""
        table = pa.table([self.ids, self.titles, self.bodies], schema=TEXT_SCHEMA)
        with atomic_folder(folder) as tmp:
            with pa.OSFile(str(tmp / TEXT_FILE), "wb") as sink, pa.ipc.new_file(sink, TEXT_SCHEMA) as writer:
                writer.write_table(table)
            self.save_numbers(tmp)

    def save_numbers(self, folder: Path) -> None:
        """Write everything but the texts: ``graph.safetensors``, ``card.json`` and, where there are features, ``x.safetensors``."""
        tensors = {"rowptr": self.rowptr, "col": self.col, "y": self.y}
        if self.split is not None:
            tensors["split"] = self.split
        save_file({k: v.contiguous() for k, v in tensors.items()}, folder / "graph.safetensors")
        if self.x is not None:
            save_file({"x": self.x.contiguous()}, folder / "x.safetensors")
        card = {**self.card, "format": FORMAT, "class_names": list(self.class_names)}
        (folder / "card.json").write_text(json.dumps(card, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    @classmethod
    def open(cls, folder: Path) -> "TextAttributedGraph":
        """Open a saved graph, memory-mapped: the time does not grow with the graph.

        Raises:
            DataError: a file is missing or damaged, or was written by a newer version.
        """
        for name in ("card.json", "graph.safetensors", TEXT_FILE):
            if not (folder / name).is_file():
                raise DataError(f"{folder} is not a graph folder: {name} is missing.")
        with _reading(folder / "card.json") as path:
            card = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(card, dict) or not {"format", "name", "fingerprint", "class_names"} <= card.keys():
                raise ValueError("expected an object with 'format', 'name', 'fingerprint' and 'class_names'")
        if card["format"] > FORMAT:
            raise DataError(f"{folder / 'card.json'} has format {card['format']}; this version reads up to {FORMAT}: update graphgpt.")
        with _reading(folder / "graph.safetensors") as path:
            tensors = load_file(path)
            if missing := {"rowptr", "col", "y"} - tensors.keys():
                raise ValueError(f"it holds no {', '.join(sorted(missing))}")
        x = None
        if (folder / "x.safetensors").is_file():
            with _reading(folder / "x.safetensors") as path:
                x = load_file(path).get("x")
                if x is None:
                    raise ValueError("it holds no x")
        with _reading(folder / TEXT_FILE) as path:
            texts = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
            if texts.schema.names != TEXT_SCHEMA.names:
                raise ValueError(f"expected the columns {TEXT_SCHEMA.names}, found {texts.schema.names}")
        return cls(
            rowptr=tensors["rowptr"],
            col=tensors["col"],
            y=tensors["y"],
            ids=texts["id"],
            titles=texts["title"],
            bodies=texts["body"],
            class_names=tuple(card["class_names"]),
            card=card,
            x=x,
            split=tensors.get("split"),
        )


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[Path]:
    """Says which file it was that could not be read."""
    try:
        yield path
    except (ValueError, SafetensorError, pa.ArrowInvalid) as error:
        raise DataError(f"{path} is damaged ({error}); delete {path.parent} to have it made again.") from error


class TextWriter:
    """Node texts on their way into an Arrow file, batch by batch, so that they need not be in memory all at once.

    A node without a title gets the first words of its body, one without any text its id, so that every node can be named
    in a prompt.

    Args:
        path: File to write; None keeps the texts in memory.

    Attributes:
        without_title: Nodes that came without a title so far.
        without_text: Those of them that came without a body as well.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self.without_title = 0
        self.without_text = 0
        self._sink = pa.BufferOutputStream() if path is None else pa.OSFile(str(path), "wb")
        self._writer = pa.ipc.new_file(self._sink, TEXT_SCHEMA)

    def add(self, ids: Sequence[str], titles: Sequence[str], bodies: Sequence[str]) -> None:
        """Append nodes; the three have the same length, and may hold empty titles and bodies."""
        named = []
        for name, title, body in zip(ids, titles, bodies, strict=True):
            title = title.strip()
            if not title:
                title = " ".join(body.split()[:8])
                self.without_title += 1
                self.without_text += not title
            named.append(title or f"node {name}")
        if named:
            self._writer.write_batch(
                pa.record_batch([pa.array(column, pa.large_string()) for column in (ids, named, bodies)], schema=TEXT_SCHEMA)
            )

    def close(self) -> pa.Table:
        """All that was added; when it was written to a file, mapped from there."""
        self._writer.close()
        if self.path is None:
            return pa.ipc.open_file(self._sink.getvalue()).read_all()
        self._sink.close()
        return pa.ipc.open_file(pa.memory_map(str(self.path))).read_all()


def build_graph(
    *,
    ids: Sequence[str],
    titles: Sequence[str],
    bodies: Sequence[str],
    labels: Sequence[int] | np.ndarray,
    class_names: Sequence[str],
    edges: np.ndarray,
    card: dict[str, Any],
    split: Sequence[int] | np.ndarray | None = None,
) -> TextAttributedGraph:
    """Assemble a graph from records that a dataset builder has read and checked; see :func:`finish_graph`.

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
    texts = TextWriter()
    texts.add(ids, titles, bodies)
    return finish_graph(texts, labels=labels, class_names=class_names, edges=edges, card=card, split=split)


def finish_graph(
    texts: TextWriter,
    *,
    labels: Sequence[int] | np.ndarray,
    class_names: Sequence[str],
    edges: np.ndarray,
    card: dict[str, Any],
    split: Sequence[int] | np.ndarray | None = None,
) -> TextAttributedGraph:
    """Assemble a graph whose texts have been written.

    Edges are made undirected; duplicates and self-loops are dropped and counted in the card.

    Args:
        texts: All texts of all nodes; closed here.
        labels: As for :func:`build_graph`, like the rest.
    """
    table = texts.close()
    n = table.num_rows
    edges = np.asarray(edges, dtype=np.int64).reshape(-1, 2)
    rowptr, col, loops = _symmetric(edges, n)
    graph = TextAttributedGraph(
        rowptr=torch.from_numpy(rowptr),
        col=torch.from_numpy(col),
        y=torch.tensor(labels, dtype=torch.int64),
        ids=table["id"],
        titles=table["title"],
        bodies=table["body"],
        class_names=tuple(class_names),
        split=None if split is None else torch.tensor(split, dtype=torch.int8),
    )
    counts = {
        "nodes": n,
        "edges": graph.num_edges,
        "classes": len(class_names),
        "unlabelled": int((graph.y < 0).sum()),
        "isolated": int((graph.rowptr.diff() == 0).sum()),
        "homophily": None if np.isnan(h := graph.homophily()) else round(h, 4),
        "self_loops_dropped": loops,
        "duplicate_edges_dropped": len(edges) - loops - graph.num_edges,
        "without_title": texts.without_title,
        "without_text": texts.without_text,
    }
    return replace(graph, card={**card, **counts, "fingerprint": identity(graph)})


def _symmetric(edges: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray, int]:
    """``rowptr`` and ``col`` of the undirected graph, and how many self-loops were left out."""
    base = max(n, 1)
    low, high = np.minimum(edges[:, 0], edges[:, 1]), np.maximum(edges[:, 0], edges[:, 1])
    loops = int((low == high).sum())
    once = np.unique((low * base + high)[low != high])
    del low, high
    # One sort of the keys (row, col) orders the rows and the neighbours within them.
    both = np.concatenate([once, once % base * base + once // base])
    both.sort()
    rowptr = np.concatenate([[0], np.cumsum(np.bincount(both // base, minlength=n))]).astype(np.int64)
    return rowptr, both % base, loops


def identity(graph: TextAttributedGraph) -> str:
    """The fingerprint of structure, labels and texts, read batch by batch."""
    return fingerprint_of(_identifying(graph))


def _identifying(graph: TextAttributedGraph) -> Iterator[bytes | str]:
    for tensor in (graph.rowptr, graph.col, graph.y):
        yield tensor.numpy().tobytes()
    yield from graph.class_names
    for column in (graph.titles, graph.bodies):
        yield from strings(column)


def strings(column: pa.ChunkedArray) -> Iterable[str]:
    """The strings of a column, made one chunk at a time."""
    return (value for chunk in column.chunks for value in chunk.to_pylist())
