"""A graph whose nodes carry text, as it lies in memory and on disk."""

import contextlib
import json
import reprlib
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

from graphgpt.errors import DataError, amount, first_line, with_article
from graphgpt.files.atomic import atomic_folder, fingerprint_of
from graphgpt.images.picture import ImageInput, content_key
from graphgpt.schema import SPLITS

FORMAT = 1
TEXT_FILE, PICTURE_FILE = "text.arrow", "pictures.arrow"
PICTURE_SCHEMA = pa.schema([(name, pa.large_string()) for name in ("file", "key")])
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
        card: Where the graph came from: name, fingerprint, counts, ``notes`` on what was decided in reading, what the builder adds;
            once there are features, where they come from (``features_from``).
        x: Node features, shape ``[n, d]``, float32 (float16 if made of the texts of a large graph), finite; None where a text encoder
            is still to make them.
        pictures: Of every node the ``file`` of a picture and the ``key`` of its content, length n; None where nodes have none.
        home: Folder that the files are named from, where they are not absolute.
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
    pictures: pa.Table | None = None
    home: Path | None = None

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

    def picture(self, node: int) -> ImageInput:
        """A node's picture.

        Raises:
            DataError: nodes have none.
        """
        if self.pictures is None:
            raise DataError(f"The nodes of the graph '{self.card.get('name')}' have no pictures.")
        file, key = (str(self.pictures[name][node].as_py()) for name in PICTURE_SCHEMA.names)
        return ImageInput(path=(self.home or Path()) / file, title=self.title(node), known=key)

    def title(self, node: int) -> str:
        return self._text(self.titles, node)

    def body(self, node: int) -> str:
        return self._text(self.bodies, node)

    def _text(self, column: pa.ChunkedArray, node: int) -> str:
        try:
            return str(column[node].as_py())
        except UnicodeDecodeError as error:
            raise _not_utf8(error) from error

    def neighbors(self, node: int) -> Tensor:
        return self.col[self.rowptr[node] : self.rowptr[node + 1]]

    def homophily(self) -> float:
        """Share of edges whose two ends have the same class, among edges with both classes known (nan if none)."""
        row = torch.repeat_interleave(torch.arange(self.num_nodes), self.rowptr.diff())
        known = (self.y[row] >= 0) & (self.y[self.col] >= 0)
        return float((self.y[row] == self.y[self.col])[known].float().mean())

    def with_features(self, x: Tensor | np.ndarray) -> "TextAttributedGraph":
        """The same graph with node features, a tensor or an array.

        Raises:
            DataError: ``x`` is not ``[n, d]`` or holds a value that is not finite; the message names the first.
        """
        x = torch.as_tensor(x)
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
        if self.pictures is not None:
            with pa.OSFile(str(folder / PICTURE_FILE), "wb") as sink, pa.ipc.new_file(sink, PICTURE_SCHEMA) as writer:
                writer.write_table(self.pictures)
        card = {**self.card, "format": FORMAT, "class_names": list(self.class_names)}
        card.pop("features_from", None)  # true of a graph in memory
        (folder / "card.json").write_text(json.dumps(card, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    @classmethod
    def open(cls, folder: Path) -> "TextAttributedGraph":
        """Open a saved graph, memory-mapped. The numbers are looked through once, the texts and features are not.

        Raises:
            DataError: a file is missing or damaged, or was written by a newer version; or shapes, types or ranges do not fit together.
        """
        for name in ("card.json", "graph.safetensors", TEXT_FILE):
            if not (folder / name).is_file():
                raise DataError(f"{folder} is not a graph folder: {name} is missing.")
        with _reading(folder / "card.json") as path:
            card = json.loads(path.read_text(encoding="utf-8"))
            _check_card(card)
        if card["format"] > FORMAT:
            raise DataError(f"{folder / 'card.json'} has format {card['format']}; this version reads up to {FORMAT}: update graphgpt.")
        with _reading(folder / "graph.safetensors") as path:
            tensors = load_file(path)
            _check_numbers(tensors, len(card["class_names"]))
        nodes = len(tensors["y"])
        x = None
        if (folder / "x.safetensors").is_file():
            with _reading(folder / "x.safetensors") as path:
                x = load_file(path).get("x")
                if x is None:
                    raise ValueError("it holds no x")
                if x.ndim != 2 or len(x) != nodes or x.dtype not in (torch.float32, torch.float16):
                    raise ValueError(f"x is {x.dtype} of shape {list(x.shape)}, expected floats of shape [{nodes}, d]: one row per node")
        with _reading(folder / TEXT_FILE) as path:
            texts = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
            _check_texts(texts, nodes)
        pictures = None
        if (folder / PICTURE_FILE).is_file():
            with _reading(folder / PICTURE_FILE) as path:
                pictures = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
                if pictures.schema != PICTURE_SCHEMA or pictures.num_rows != nodes:
                    raise ValueError(
                        f"it has {pictures.num_rows} rows of {', '.join(pictures.schema.names)}, expected {nodes} of file, key"
                    )
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
            pictures=pictures,
            home=folder,
        )


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[Path]:
    """Says which file it was that could not be read."""
    try:
        yield path
    except (ValueError, RecursionError, SafetensorError, pa.ArrowException, OSError) as error:
        raise DataError(f"{path} is damaged ({first_line(error)}); delete {path.parent} to have it made again.") from error


def _check_card(card: Any) -> None:
    """That a card has what the toolkit reads of it, each of the right type.

    Raises:
        ValueError: it has not.
    """
    if not isinstance(card, dict) or not {"format", "name", "fingerprint", "class_names"} <= card.keys():
        raise ValueError("expected an object with 'format', 'name', 'fingerprint' and 'class_names'")
    if found := half_character(json.dumps(card, ensure_ascii=False)):
        raise ValueError(f"it holds {found}, half of a character")
    types: dict[str, Any] = {
        **dict.fromkeys(("name", "fingerprint"), str),
        **dict.fromkeys(("format", "nodes", "edges", "without_text", "self_loops_dropped", "duplicate_edges_dropped"), int),
        "homophily": float | int | None,
        "words": dict,
        **dict.fromkeys(("class_names", "notes"), list),
    }
    for key, kind in types.items():
        if key in card and (not isinstance(card[key], kind) or isinstance(card[key], bool)):
            raise ValueError(f"its '{key}' is {_shown(card[key])}, expected {getattr(kind, '__name__', 'a number')}")
    for key in ("class_names", "notes", "words"):
        values = card.get(key, [])
        for place, value in values.items() if isinstance(values, dict) else enumerate(values):
            if not isinstance(value, str):
                raise ValueError(f"its '{key}' holds {_shown(value)} at {place}, expected a text")


def _shown(value: Any) -> str:
    return reprlib.repr(value) if isinstance(value, str | int | float | None) else with_article(type(value).__name__)


def _check_numbers(tensors: dict[str, Tensor], classes: int) -> None:
    """That shapes, types and ranges of a graph's tensors are such that no reader goes astray in them; what they say is not looked at.

    Raises:
        ValueError: they are not.
    """
    if missing := {"rowptr", "col", "y"} - tensors.keys():
        raise ValueError(f"it holds no {', '.join(sorted(missing))}")
    nodes = tensors["rowptr"].numel() - 1
    lengths = {"rowptr": nodes + 1, "col": tensors["col"].numel(), "y": nodes, "split": nodes}
    for name, length in lengths.items():
        tensor, dtype = tensors.get(name), torch.int8 if name == "split" else torch.int64
        if tensor is not None and (tensor.dtype != dtype or list(tensor.shape) != [length]):
            expected = f"{dtype} of shape [{length}]" + (", as rowptr says" if name in ("y", "split") else "")
            raise ValueError(f"{name} is {tensor.dtype} of shape {list(tensor.shape)}, expected {expected}")
    rowptr, col = tensors["rowptr"], tensors["col"]
    if nodes < 0 or int(rowptr[0]) != 0 or int(rowptr[-1]) != len(col) or bool((rowptr[1:] < rowptr[:-1]).any()):
        found = f"from {int(rowptr[0])} to {int(rowptr[-1])}" if nodes >= 0 else "over nothing"
        raise ValueError(f"rowptr runs {found}, expected 0 to {len(col)}, the length of col, without a step down")
    ranges = {"col": (0, nodes - 1), "y": (-1, classes - 1), "split": (-1, len(SPLITS) - 1)}
    for name, (low, high) in ranges.items():
        tensor = tensors.get(name)
        if tensor is not None and len(tensor) and not low <= int(tensor.min()) <= int(tensor.max()) <= high:
            wrong = ((tensor < low) | (tensor > high)).nonzero()
            place = int(wrong[0])
            raise ValueError(f"{name}[{place}] is {int(tensor[place])}, expected {low} to {high}; {len(wrong)} such")


def _check_texts(texts: pa.Table, nodes: int) -> None:
    """That the texts are as many as the nodes, and that each begins where the one before it ends; they themselves are not read.

    Raises:
        ValueError: they are not.
    """
    if texts.schema.names != TEXT_SCHEMA.names:
        raise ValueError(f"expected the columns {TEXT_SCHEMA.names}, found {texts.schema.names}")
    if texts.schema.types != TEXT_SCHEMA.types:
        raise ValueError(f"expected texts, found {', '.join(map(str, texts.schema.types))}")
    if texts.num_rows != nodes:
        raise ValueError(f"it holds the texts of {amount(texts.num_rows, 'node')}, expected {nodes} as rowptr says")
    texts.validate()
    for column in texts.columns:
        for chunk in column.chunks:
            starts = np.frombuffer(chunk.buffers()[1] or b"", np.int64)[chunk.offset : chunk.offset + len(chunk) + 1]
            end = chunk.buffers()[2].size if chunk.buffers()[2] is not None else 0
            if chunk.null_count or (len(starts) and (starts[0] < 0 or starts[-1] > end or (starts[1:] < starts[:-1]).any())):
                raise ValueError("its texts do not follow one another")


def _not_utf8(error: UnicodeDecodeError) -> DataError:
    return DataError(f"{TEXT_FILE} of a graph is damaged: a text in it is not UTF-8 ({error.reason}); 'graphgpt data check' says where.")


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
        if not named:
            return
        try:
            columns = [pa.array(column, pa.large_string()) for column in (ids, named, bodies)]
        except UnicodeEncodeError as error:
            broken = next(node for node, texts in enumerate(zip(ids, named, bodies, strict=True)) if half_character(*texts))
            found = half_character(ids[broken], named[broken], bodies[broken])
            raise DataError(f"A text of the node '{ids[broken]}' holds {found}, half of a character, expected both halves.") from error
        self._writer.write_batch(pa.record_batch(columns, schema=TEXT_SCHEMA))

    def close(self) -> pa.Table:
        """All that was added; when it was written to a file, mapped from there."""
        self._writer.close()
        if self.path is None:
            return pa.ipc.open_file(self._sink.getvalue()).read_all()
        self._sink.close()
        return pa.ipc.open_file(pa.memory_map(str(self.path))).read_all()


def half_character(*texts: str) -> str | None:
    """The first half of a character (a lone surrogate) in some texts, in visible form; None where all can be written as UTF-8."""
    try:
        "".join(texts).encode()
    except UnicodeEncodeError as error:
        return error.object[error.start].encode("unicode_escape").decode()
    return None


def picture_table(files: Sequence[Path], folder: Path) -> pa.Table:
    """The ``pictures`` of a graph, a file for each node, named from the folder that the graph is saved in.

    Raises:
        DataError: a file cannot be read.
    """
    columns = [[file.relative_to(folder).as_posix() for file in files], [content_key(file) for file in files]]
    return pa.table(columns, schema=PICTURE_SCHEMA)


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
    if found := half_character(*class_names):
        raise DataError(f"A class name holds {found}, half of a character, expected both halves.")
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


def strings(column: pa.ChunkedArray) -> Iterator[str]:
    """The strings of a column, made one chunk at a time.

    Raises:
        DataError: one is not UTF-8, in a damaged file.
    """
    try:
        for chunk in column.chunks:
            yield from chunk.to_pylist()
    except UnicodeDecodeError as error:
        raise _not_utf8(error) from error
