"""A graph from two tables in CSV or Parquet files: one of nodes, one of edges."""

from array import array
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from graphgpt.errors import DataError, nearest
from graphgpt.files import atomic_folder, file_sha256, fingerprint
from graphgpt.graphs import tables
from graphgpt.graphs.dataset import DatasetConfig, GraphDataset
from graphgpt.graphs.graph import TEXT_FILE, TextAttributedGraph, TextWriter, finish_graph
from graphgpt.graphs.tables import hint, missing_files, open_table, quoted, read_features
from graphgpt.registry import DATASETS
from graphgpt.schema import SPLITS, configclass


@configclass
class CsvConfig(DatasetConfig):
    """The files of a graph; see ``CsvFiles`` for what they hold."""

    nodes: str
    """CSV or Parquet file with the columns ``id,title,body,label`` and perhaps ``split``."""
    edges: str
    """CSV or Parquet file with the columns ``source,target``."""
    classes: list[str] | None = None
    """Class names in their order; left out: the labels that occur, sorted."""
    features: str | None = None
    """``.npy`` file of node features, one row per node in the order of the nodes file; used instead of a text encoder."""


@DATASETS.register("csv")
class CsvFiles(GraphDataset):
    """Two tables: CSV in UTF-8 (with or without a byte order mark) with a header, or Parquet where the name ends in ``.parquet``.

    Nodes: ``id`` (unique), ``title`` and ``body`` (at least one of these columns), ``label``, ``split`` (train, val or test).
    Edges: ``source`` and ``target``, ids of nodes, in either direction. Other columns are ignored. Spaces around an id, a
    label or a split do not count. An empty label means unlabelled, an empty split none; a node without any text is kept.
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
        readers = [file_sha256(Path(file)) for file in (__file__, tables.__file__)]  # an update may read other things from the same files
        return fingerprint(readers, [name and file_sha256(Path(name)) for name in files], self.config.classes)

    def build(self) -> TextAttributedGraph:
        return self._read(TextWriter())

    def write(self, folder: Path, card: dict[str, Any] | None = None) -> None:
        with atomic_folder(folder) as tmp:
            graph = self._read(TextWriter(tmp / TEXT_FILE))
            replace(graph, card=graph.card | (card or {})).save_numbers(tmp)

    def _read(self, texts: TextWriter) -> TextAttributedGraph:
        nodes, edges = Path(self.config.nodes), Path(self.config.edges)
        features = None if self.config.features is None else Path(self.config.features)
        index, labels, class_names, split = self._read_nodes(nodes, texts)
        graph = finish_graph(
            texts,
            labels=labels,
            class_names=class_names,
            edges=_read_edges(edges, index, nodes),
            card={"name": "csv", "files": [path.name for path in (nodes, edges, features) if path]},
            split=split,
        )
        return graph if features is None else read_features(graph, features)

    def _read_nodes(self, path: Path, texts: TextWriter) -> tuple[dict[str, int], np.ndarray, list[str], np.ndarray | None]:
        """Number of every node by its id, and the labels, class names and splits."""
        table = open_table(path, required=("id",), optional=("title", "body", "label", "split"))
        if not {"title", "body"} & set(table.columns):
            raise DataError(f"{table.header}: expected a column 'title' or 'body', found {quoted(table.columns)}.")
        classes = self.config.classes
        class_index = {"": -1} | {name: i for i, name in enumerate(classes or ())}
        split_index = {"": -1} | {name: i for i, name in enumerate(SPLITS)}
        index: dict[str, int] = {}
        place_of, labels, split = array("q"), array("q"), array("b")
        for places, columns in table:
            ids, names, parts = ([field.strip() for field in columns[column]] for column in ("id", "label", "split"))
            for place, node, label, part in zip(places, ids, names, parts, strict=True):
                if not node:
                    raise DataError(f"{table.at(place)}: the id is empty, expected one that no other node has.")
                if node in index:
                    first = f"{table.unit} {place_of[index[node]]}"
                    raise DataError(f"{table.at(place)}: the id '{node}' is taken already, by the node on {first}.")
                if label not in class_index:
                    if classes is not None:
                        raise DataError(f"{table.at(place)}: the label '{label}' is not in dataset.classes. {nearest(label, classes)}")
                    class_index[label] = len(class_index) - 1
                if part not in split_index:
                    raise DataError(f"{table.at(place)}: the split '{part}' is unknown. {nearest(part, SPLITS)}")
                index[node] = len(index)
                place_of.append(place)
                labels.append(class_index[label])
                split.append(split_index[part])
            texts.add(ids, columns["title"], columns["body"])

        del class_index[""]
        class_names = list(class_index) if classes is not None else sorted(class_index)
        order = {name: i for i, name in enumerate(class_names)} | {"": -1}
        in_order = np.array([order[name] for name in (*class_index, "")])  # the last is where -1 points
        return index, in_order[np.array(labels)], class_names, np.array(split) if "split" in table.columns else None


def _read_edges(path: Path, index: dict[str, int], nodes: Path) -> np.ndarray:
    """Numbers of the two nodes of every edge, shape ``[e, 2]``, int64."""
    table = open_table(path, required=("source", "target"))
    found = []
    for places, columns in table:
        ends = np.empty((len(places), 2), dtype=np.int64)
        for side, column in enumerate(("source", "target")):
            ends[:, side] = [index.get(name.strip(), -1) for name in columns[column]]
        if (ends < 0).any():
            record, side = np.argwhere(ends < 0)[0]
            column = ("source", "target")[side]
            name = columns[column][record].strip()
            raise DataError(f"{table.at(places[record])}: the {column} '{name}' is not an id in {nodes}.{hint(name, index)}")
        found.append(ends)
    return np.concatenate(found)
