"""A graph from two tables in CSV or Parquet files: one of nodes, one of edges."""

from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from graphgpt.errors import DataError, nearest
from graphgpt.files.atomic import atomic_folder, file_sha256, fingerprint
from graphgpt.graphs import labels as label_words
from graphgpt.graphs import tables
from graphgpt.graphs.dataset import DatasetConfig, GraphDataset
from graphgpt.graphs.graph import TEXT_FILE, TextAttributedGraph, TextWriter, finish_graph
from graphgpt.graphs.labels import classes_of
from graphgpt.graphs.tables import hint, missing_files, open_table, quoted, read_features
from graphgpt.registry import DATASETS
from graphgpt.schema import SPLITS, UserPath, configclass


@configclass
class CsvConfig(DatasetConfig):
    """The files of a graph; see ``CsvFiles`` for what they hold."""

    nodes: UserPath
    """CSV, Parquet or Excel file with the columns ``id,title,body,label`` and perhaps ``split``."""
    edges: UserPath
    """CSV, Parquet or Excel file with the columns ``source,target``."""
    classes: list[str] | None = None
    """Class names in their order; left out: the labels that occur, sorted."""
    normalize: bool = False
    """Whether labels that differ only in case and spaces are one class, called as most of its nodes have it."""
    unknown_nodes: Literal["raise", "skip"] = "raise"
    """What to do with an edge to a node that is not there: stop and name it, or leave it out and count it."""
    features: UserPath | None = None
    """``.npy`` file of node features, one row per node in the order of the nodes file; used instead of a text encoder."""


#: Titles and bodies that pandas, R, Python and databases write where there is none.
NO_TEXT = {"nan", "NaN", "NA", "<NA>", "None", "NULL", "null"}


@DATASETS.register("csv")
class CsvFiles(GraphDataset):
    """Two tables, each in CSV in UTF-8 with a header (compressed by gzip or not), Parquet or Excel, told by its content.

    Nodes: ``id`` (unique), ``title`` and ``body`` (at least one of these columns), ``label``, ``split`` (train, val or test).
    Edges: ``source`` and ``target``, ids of nodes, in either direction. Other columns are ignored. Spaces around an id, a
    label or a split do not count. An empty label, or such a word as ``nan``, means unlabelled, an empty split none; a node without
    any text is kept. The card's ``notes`` say what was decided so, a sentence each.
    Both are read in batches, and texts are written as they are read, so that they need not fit into memory.
    """

    Config = CsvConfig
    config: CsvConfig

    @classmethod
    def problems(cls, config: CsvConfig) -> list[str]:
        classes = config.classes or []
        return [
            *super().problems(config),
            *missing_files({"dataset.nodes": config.nodes, "dataset.edges": config.edges, "dataset.features": config.features}),
            *(f"dataset.classes names '{name}' more than once." for name in sorted(set(classes)) if classes.count(name) > 1),
        ]

    def fingerprint(self) -> str:
        files = [self.config.nodes, self.config.edges, self.config.features]
        # An update may read other things from the same files.
        readers = [file_sha256(Path(file)) for file in (__file__, tables.__file__, label_words.__file__)]
        choices = [self.config.classes, self.config.normalize, self.config.unknown_nodes]
        return fingerprint(readers, [name and file_sha256(Path(name)) for name in files], choices)

    def build(self) -> TextAttributedGraph:
        return self._read(TextWriter())

    def write(self, folder: Path, card: dict[str, Any] | None = None) -> None:
        with atomic_folder(folder) as tmp:
            graph = self._read(TextWriter(tmp / TEXT_FILE))
            replace(graph, card=graph.card | (card or {})).save_numbers(tmp)

    def _read(self, texts: TextWriter) -> TextAttributedGraph:
        nodes, edges = Path(self.config.nodes), Path(self.config.edges)
        features = None if self.config.features is None else Path(self.config.features)
        notes: list[str] = []
        index, labels, class_names, split = self._read_nodes(nodes, texts, notes)
        graph = finish_graph(
            texts,
            labels=labels,
            class_names=class_names,
            edges=_read_edges(edges, index, nodes, self.config.unknown_nodes, notes),
            card={"name": "csv", "files": [path.name for path in (nodes, edges, features) if path], "notes": notes},
            split=split,
        )
        return graph if features is None else read_features(graph, features)

    def _read_nodes(
        self, path: Path, texts: TextWriter, notes: list[str]
    ) -> tuple[dict[str, int], np.ndarray, list[str], np.ndarray | None]:
        """Number of every node by its id, and the labels, class names and splits."""
        table = open_table(path, required=("id",), optional=("title", "body", "label", "split"))
        if not {"title", "body"} & set(table.columns):
            raise DataError(f"{table.header}: expected a column 'title' or 'body', found {quoted(table.columns)}.")
        split_index = {"": -1} | {name: i for i, name in enumerate(SPLITS)}
        index: dict[str, int] = {}
        place_of, written, split = array("q"), array("q"), array("b")
        first_of: dict[str, int] = {}  # by label as it is written, in the order in which ``written`` counts
        no_text: Counter[str] = Counter()
        for places, columns in table:
            ids, labels, parts = ([field.strip() for field in columns[column]] for column in ("id", "label", "split"))
            number = {label: i for i, label in enumerate(first_of)}
            for place, node, label, part in zip(places, ids, labels, parts, strict=True):
                if not node:
                    raise DataError(f"{table.at(place)}: the id is empty, expected one that no other node has.")
                if node in index:
                    first = f"{table.unit} {place_of[index[node]]}"
                    raise DataError(f"{table.at(place)}: the id '{node}' is taken already, by the node on {first}.")
                if part not in split_index:
                    raise DataError(f"{table.at(place)}: the split '{part}' is unknown. {nearest(part, SPLITS)}")
                if label not in number:
                    number[label] = len(number)
                    first_of[label] = place
                index[node] = len(index)
                place_of.append(place)
                written.append(number[label])
                split.append(split_index[part])
            texts.add(ids, *(_without_words(columns[column], no_text) for column in ("title", "body")))

        sizes = np.bincount(np.array(written), minlength=len(first_of)).tolist()
        given = self.config.classes or []
        classes, decided = classes_of(dict(zip(first_of, sizes, strict=True)), given, self.config.normalize)
        for label, name in classes.items():
            if name and name not in given and self.config.classes is not None:
                where = table.at(first_of[label])
                raise DataError(f"{where}: the label '{label}' is not in dataset.classes. {nearest(label, given)}")
        notes += [*table.notes, *(f"{path.name}: {sentence[0].lower()}{sentence[1:]}" for sentence in decided)]
        if no_text:
            words = ", ".join(f"'{word}' ({count:,} x)" for word, count in no_text.items())
            notes.append(f"{path.name}: {words} as a title or a body was taken for no text.")
        class_names = given or sorted({*classes.values()} - {""})
        order = {name: i for i, name in enumerate(class_names)} | {"": -1}
        class_of = np.array([order[classes[label]] for label in first_of])
        return index, class_of[np.array(written)], class_names, np.array(split) if max(split) >= 0 else None


def _without_words(texts: Sequence[str], found: Counter[str]) -> list[str]:
    """The texts, empty for words that stand for none, which are counted."""
    words = [text.strip() if len(text) < 32 else text for text in texts]
    found.update(word for word in words if word in NO_TEXT)
    return ["" if word in NO_TEXT else text for word, text in zip(words, texts, strict=True)]


def _read_edges(path: Path, index: dict[str, int], nodes: Path, unknown: Literal["raise", "skip"], notes: list[str]) -> np.ndarray:
    """Numbers of the two nodes of every edge, shape ``[e, 2]``, int64.

    Raises:
        DataError: an edge names an unknown node, where ``unknown`` is ``raise``; says how many do.
    """
    table = open_table(path, required=("source", "target"))
    found = []
    lost: list[int] = []
    first = ""
    for places, columns in table:
        ends = np.empty((len(places), 2), dtype=np.int64)
        for side, column in enumerate(("source", "target")):
            ends[:, side] = [index.get(name.strip(), -1) for name in columns[column]]
        wrong = np.any(ends < 0, axis=1)
        if wrong.any() and not lost:
            record, side = np.argwhere(ends < 0)[0]
            column = ("source", "target")[side]
            name = columns[column][record].strip()
            first = f"{table.at(places[record])}: the {column} '{name}' is not an id in {nodes}.{hint(name, index)}"
        lost += [places[record] for record in wrong.nonzero()[0].tolist()]
        found.append(ends[~wrong])
    edges = np.concatenate(found)
    if lost:
        at = ", ".join(f"{place}" for place in lost[:5]) + (", ..." if len(lost) > 5 else "")
        name = "names" if len(lost) == 1 else "name"
        some = f"{len(lost):,} of {len(edges) + len(lost):,} edges {name} a node that is not there ({table.unit} {at})"
        if unknown == "raise":
            raise DataError(f"{first} {some}; dataset.unknown_nodes=skip leaves such edges out.")
        notes.append(f"{path.name}: {some} and {'was' if len(lost) == 1 else 'were'} left out.")
    notes += table.notes
    return edges
