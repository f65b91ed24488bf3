"""A graph from two CSV files: one of nodes, one of edges."""

import csv
import difflib
from array import array
from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np
import torch

from graphgpt.errors import DataError, nearest
from graphgpt.files import file_sha256, fingerprint
from graphgpt.graphs.dataset import DatasetConfig, GraphDataset
from graphgpt.graphs.graph import SPLITS, TextAttributedGraph, build_graph
from graphgpt.registry import DATASETS
from graphgpt.schema import configclass


@configclass
class CsvConfig(DatasetConfig):
    """The files of a graph; see ``CsvFiles`` for what they hold."""

    nodes: str
    """CSV file with the columns ``id,title,body,label`` and perhaps ``split``."""
    edges: str
    """CSV file with the columns ``source,target``."""
    classes: list[str] | None = None
    """Class names in their order; left out: the labels that occur, sorted."""
    features: str | None = None
    """``.npy`` file of node features, one row per node in the order of the nodes file; used instead of a text encoder."""


@DATASETS.register("csv")
class CsvFiles(GraphDataset):
    """Two CSV files in UTF-8 (with or without a byte order mark), each with a header; quoted fields may span lines.

    Nodes: ``id`` (unique), ``title`` and ``body`` (at least one of these columns), ``label``, ``split`` (train, val or test).
    Edges: ``source`` and ``target``, ids of nodes, in either direction. Other columns are ignored. Spaces around an id, a
    label or a split do not count. An empty label means unlabelled, an empty split none; a node without any text is kept.
    """

    Config = CsvConfig
    config: CsvConfig

    @classmethod
    def problems(cls, config: CsvConfig) -> list[str]:
        files = {"nodes": config.nodes, "edges": config.edges, "features": config.features}
        classes = config.classes or []
        return [
            f"dataset.{key}={name}: there is no such file.{_hint(Path(name).name, [other.name for other in Path(name).parent.glob('*')])}"
            for key, name in files.items()
            if name is not None and not Path(name).is_file()
        ] + [f"dataset.classes names '{name}' more than once." for name in sorted(set(classes)) if classes.count(name) > 1]

    def fingerprint(self) -> str:
        files = [self.config.nodes, self.config.edges, self.config.features]
        builder = file_sha256(Path(__file__))  # reads other things from the same files after an update
        return fingerprint(builder, [name and file_sha256(Path(name)) for name in files], self.config.classes)

    def build(self) -> TextAttributedGraph:
        csv.field_size_limit(2**31 - 1)  # a body may be longer than the 128 KiB that the module allows by itself
        nodes, edges = Path(self.config.nodes), Path(self.config.edges)
        features = None if self.config.features is None else Path(self.config.features)
        classes = self.config.classes

        line_of: dict[str, int] = {}
        titles, bodies, labels, split = [], [], [], []
        table = _Table(nodes, required=("id",), optional=("title", "body", "label", "split"))
        if not {"title", "body"} & set(table.columns):
            raise DataError(f"{nodes}, line 1: expected a column 'title' or 'body', found {_quoted(table.columns)}.")
        for line, row in table:
            name, label, part = (row.get(column, "").strip() for column in ("id", "label", "split"))
            if not name:
                raise DataError(f"{nodes}, line {line}: the id is empty, expected one that no other node has.")
            if name in line_of:
                raise DataError(f"{nodes}, line {line}: the id '{name}' is taken already, by the node on line {line_of[name]}.")
            if label and classes is not None and label not in classes:
                raise DataError(f"{nodes}, line {line}: the label '{label}' is not in dataset.classes. {nearest(label, classes)}")
            if part and part not in SPLITS:
                raise DataError(f"{nodes}, line {line}: the split '{part}' is unknown. {nearest(part, SPLITS)}")
            line_of[name] = line
            titles.append(row.get("title", ""))
            bodies.append(row.get("body", ""))
            labels.append(label)
            split.append(SPLITS.index(part) if part else -1)

        index = {name: i for i, name in enumerate(line_of)}
        ends = array("q")
        for line, row in _Table(edges, required=("source", "target")):
            for column in ("source", "target"):
                name = row[column].strip()
                if name not in index:
                    raise DataError(f"{edges}, line {line}: the {column} '{name}' is not an id in {nodes}.{_hint(name, index)}")
                ends.append(index[name])

        class_names = sorted(set(labels) - {""}) if classes is None else classes
        class_index = {"": -1} | {name: i for i, name in enumerate(class_names)}
        graph = build_graph(
            ids=list(index),
            titles=titles,
            bodies=bodies,
            labels=[class_index[label] for label in labels],
            class_names=class_names,
            edges=np.array(ends, dtype=np.int64).reshape(-1, 2),
            card={"name": "csv", "files": [path.name for path in (nodes, edges, features) if path]},
            split=split if "split" in table.columns else None,
        )
        return graph if features is None else _with_features(graph, features)


class _Table:
    """A CSV file: its columns, and by iteration the line on which each record starts and the record by column.

    Raises:
        DataError: the file is empty or no CSV in UTF-8, a column is missing, a record has too few or too many fields.
    """

    def __init__(self, path: Path, required: Collection[str], optional: Collection[str] = ()) -> None:
        self.path = path
        self._records = self._read()
        self._header, header = next(self._records, (1, []))
        self.columns = [column.strip() for column in header]
        if not header:
            raise DataError(f"{path} is empty, expected a header with {_quoted(required)} and records below it.")
        known = (*required, *optional)
        missing = [column for column in known if column not in self.columns]
        for column in self.columns:
            if column in known and self.columns.count(column) > 1:
                raise DataError(f"{path}, line {self._header}: the column '{column}' is there more than once.")
            # A misspelt optional column would otherwise be taken for one to ignore.
            if column not in known and (hint := _hint(column.lower(), missing, cutoff=0.8)):
                raise DataError(f"{path}, line {self._header}: the column '{column}' is unknown.{hint}")
        for column in missing:
            if column in required:
                raise DataError(f"{path}, line {self._header}: expected a column '{column}', found {_quoted(self.columns)}.")

    def __iter__(self) -> Iterator[tuple[int, dict[str, str]]]:
        line = self._header
        for line, fields in self._records:
            if len(fields) != len(self.columns):
                raise DataError(
                    f"{self.path}, line {line}: {len(fields)} fields, expected {len(self.columns)} as in the header "
                    "(a text with a comma in it needs quotes around it)."
                )
            yield line, dict(zip(self.columns, fields, strict=True))
        if line == self._header:
            raise DataError(f"{self.path} holds nothing but a header, expected records below it.")

    def _read(self) -> Iterator[tuple[int, list[str]]]:
        line = 1
        with self.path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            try:
                for fields in reader:
                    if fields:  # none on a blank line
                        yield line, fields
                    line = reader.line_num + 1
            except csv.Error as error:
                raise DataError(
                    f"{self.path}, line {line}: the record that starts here is not CSV ({error}): "
                    "put quotes around a whole field and double those in it."
                ) from error
            except UnicodeDecodeError as error:
                raise self._not_utf8() from error

    def _not_utf8(self) -> DataError:
        data = self.path.read_bytes()  # the text is decoded in blocks, ahead of the records: look for the place anew
        try:
            data.decode()
        except UnicodeDecodeError as error:
            line = len(data[: error.start + 1].splitlines())
            return DataError(f"{self.path}, line {line}: the byte 0x{data[error.start]:02X} is not UTF-8, expected a file saved as UTF-8.")
        return DataError(f"{self.path} changed while it was read: try again.")


def _with_features(graph: TextAttributedGraph, path: Path) -> TextAttributedGraph:
    try:
        x = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise DataError(f"{path}: expected numbers as numpy.save writes them, but: {error}") from error
    if not isinstance(x, np.ndarray) or x.dtype.kind not in "fiu":
        found = f"values of type {x.dtype}" if isinstance(x, np.ndarray) else "an archive of arrays"
        raise DataError(f"{path}: expected one array of real numbers as numpy.save writes it, found {found}.")
    try:
        with np.errstate(over="ignore"):  # becomes inf, which is refused by name
            return graph.with_features(torch.from_numpy(x.astype(np.float32)))
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def _hint(word: str, known: Collection[str], cutoff: float = 0.6) -> str:
    """`` Did you mean ...?`` where something known is near; unlike ``nearest`` silent where not, and where comparing would be slow."""
    near = difflib.get_close_matches(word, sorted(known), n=1, cutoff=cutoff) if len(known) <= 5_000 else []
    return f" Did you mean '{near[0]}'?" if near else ""


def _quoted(names: Collection[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)
