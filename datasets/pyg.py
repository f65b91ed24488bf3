"""A PyTorch Geometric ``Data`` that was saved together with its texts."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from graphgpt.errors import DataError, amount, first_line, with_article
from graphgpt.files.atomic import file_sha256, fingerprint
from graphgpt.graphs.dataset import DatasetConfig, GraphDataset
from graphgpt.graphs.graph import TextAttributedGraph, build_graph
from graphgpt.graphs.stored import Stored, StoredHetero, dense_tensor, edge_tensor, load_stored
from graphgpt.graphs.tables import missing_files, quoted, read_features
from graphgpt.registry import DATASETS
from graphgpt.schema import SPLITS, UserPath, configclass

#: Attributes under which texts and names are found; the first that is there counts.
TITLES = ("title", "titles")
BODIES = ("text", "texts", "raw_text", "raw_texts", "body", "bodies", "abstract", "abstracts", "abs")
CLASS_NAMES = ("class_names", "label_names", "label_name", "category_names", "label_texts", "label_text")
#: Attributes under which the edges are found; an adjacency matrix may stand for their list.
EDGES = ("edge_index", "adj_t", "adj")
MASKS = ("train_mask", "val_mask", "test_mask")


@configclass
class PygConfig(DatasetConfig):
    """A saved ``Data``; see ``PygFile`` for what it holds."""

    path: UserPath
    """File that ``torch.save(data, path)`` wrote."""
    classes: list[str] | None = None
    """Class names in the order of the labels 0, 1, ...; left out: those in the file."""
    features: UserPath | None = None
    """``.npy`` file of node features, one row per node; used instead of those in the file."""


@DATASETS.register("pyg")
class PygFile(GraphDataset):
    """``torch.save`` of a ``torch_geometric.data.Data``, or of a dictionary of its attributes. No code in the file is run.

    ``edge_index`` [2, e]; texts as lists of n strings under one of ``TITLES``, one of ``BODIES`` or both; perhaps ``y`` [n]
    (negative or NaN: unlabelled) with the class names, a list, under one of ``CLASS_NAMES`` (a name per class or per
    node), ``x`` [n, d], and the split as ``train_mask``, ``val_mask`` and ``test_mask``, of shape [n], or [n, s] of which the
    first column counts. Nodes go by their number.
    """

    Config = PygConfig
    config: PygConfig

    @classmethod
    def problems(cls, config: PygConfig) -> list[str]:
        return super().problems(config) + missing_files({"dataset.path": config.path, "dataset.features": config.features})

    def fingerprint(self) -> str:
        files = [self.config.path, self.config.features]
        return fingerprint(file_sha256(Path(__file__)), [name and file_sha256(Path(name)) for name in files], self.config.classes)

    def build(self) -> TextAttributedGraph:
        path = Path(self.config.path)
        data = load_attributes(path)
        title_key, body_key = (next((key for key in keys if key in data), None) for keys in (TITLES, BODIES))
        if title_key is None and body_key is None:
            raise DataError(f"{path}: expected texts under one of {quoted((*TITLES, *BODIES))}, found {quoted(sorted(data))}.")
        titles, bodies = ([] if key is None else _strings(path, key, data[key]) for key in (title_key, body_key))
        n = max(len(titles), len(bodies))
        if titles and bodies and len(titles) != len(bodies):
            raise DataError(
                f"{path}: {title_key} has {len(titles)} texts and {body_key} has {len(bodies)}, expected as many: one per node."
            )
        labels = _labels(path, data.get("y"), n)
        class_names = self._class_names(path, data, labels)
        graph = build_graph(
            ids=[str(node) for node in range(n)],
            titles=titles or [""] * n,
            bodies=bodies or [""] * n,
            labels=labels,
            class_names=class_names,
            edges=_edges(path, data, n),
            card={"name": "pyg", "files": [path.name, *([Path(self.config.features).name] if self.config.features else [])]},
            split=_split(path, data, n),
        )
        if self.config.features is not None:
            return read_features(graph, Path(self.config.features))
        if data.get("x") is None:
            return graph
        try:
            return graph.with_features(_tensor(path, "x", data["x"]).float())
        except DataError as error:
            raise DataError(f"{path}: {error}") from error

    def _class_names(self, path: Path, data: dict[str, Any], labels: np.ndarray) -> list[str]:
        count = int(labels.max(initial=-1)) + 1
        key = next((key for key in CLASS_NAMES if key in data), None)
        if self.config.classes is not None or key is None:
            if self.config.classes is None:
                _refuse_gaps(path, labels)
            names = self.config.classes if self.config.classes is not None else [f"class {label}" for label in range(count)]
            where = "dataset.classes"
        else:
            where = f"{path}: {key}"
            names = _strings(path, key, data[key])
            if len(names) == len(labels) > count:
                by_label: dict[int, str] = {}
                for node, (label, name) in enumerate(zip(labels.tolist(), names, strict=True)):
                    if label >= 0 and by_label.setdefault(label, name) != name:
                        raise DataError(f"{where} calls the label {label} '{by_label[label]}' and, at node {node}, '{name}'.")
                names = [by_label.get(label, f"class {label}") for label in range(count)]
        names = [name.strip() for name in names]
        if len(names) < count:
            raise DataError(f"{where} has {amount(len(names), 'name')}, expected at least {count}: the labels go up to {count - 1}.")
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise DataError(f"{where} names '{twice[0]}' more than once.")
        return names


def load_attributes(path: Path) -> dict[str, Any]:
    """The attributes of a saved ``Data``, read without running anything in the file.

    Raises:
        DataError: the file holds something else, or would have to run code of its own.
    """
    saved = load_stored(path, "a torch_geometric Data")
    if isinstance(saved, tuple | list) and len(saved) == 1 and isinstance(saved[0], Stored):
        saved = saved[0]
    fields = saved.fields if isinstance(saved, Stored) else saved
    if not isinstance(fields, dict):
        kind = with_article(type(saved).__name__)
        found = "a HeteroData, of which one kind of node must be taken" if isinstance(saved, StoredHetero) else kind
        raise DataError(f"{path}: expected a torch_geometric Data or a dictionary of its attributes, found {found}.")
    if named := [str(key) for key, value in fields.items() if isinstance(value, Stored) and "_store" in vars(value)]:
        raise DataError(
            f"{path} holds graphs by name ({quoted(named[:5])}), as the graph file of dataset=graphgpt_json does, which reads it as "
            f"dataset.graphs; to use one with its texts, save it alone: torch.save(graphs['{named[0]}'], FILE)."
        )
    return {str(key): value for key, value in fields.items()}


def _refuse_gaps(path: Path, labels: np.ndarray) -> None:
    """Labels that leave out more classes than they have: identifiers, or a number that stands for unknown.

    Raises:
        DataError: they are such.
    """
    numbers = np.unique(labels[labels >= 0])
    if len(numbers) and numbers[-1] + 1 > 2 * len(numbers):
        empty = numbers[-1] + 1 - len(numbers)
        raise DataError(
            f"{path}: y goes up to {numbers[-1]} with {len(numbers)} different numbers, which would make {empty} classes without a node: "
            "number them from 0 on (-1 for unlabelled), or name all classes."
        )


def _tensor(path: Path, key: str, value: Any) -> Tensor:
    try:
        return dense_tensor(value)
    except ValueError as error:
        raise DataError(f"{path}: {key} is {error}, expected a tensor of real numbers.") from error


def _strings(path: Path, key: str, value: Any) -> list[str]:
    items: Sequence[Any] = value.tolist() if isinstance(value, np.ndarray) else value
    if not isinstance(items, list | tuple):
        raise DataError(f"{path}: {key} is {with_article(type(value).__name__)}, expected a list of strings.")
    for place, item in enumerate(items):
        if item is not None and not isinstance(item, str):
            raise DataError(f"{path}: {key}[{place}] is {item!r}, expected a string.")
    return [item or "" for item in items]


def _edges(path: Path, data: dict[str, Any], n: int) -> np.ndarray:
    key = next((key for key in EDGES if data.get(key) is not None), None)
    if key is None:
        raise DataError(f"{path}: expected edge_index (or adj_t), found {quoted(sorted(data))}.")
    try:
        edges = edge_tensor(data[key])
    except (ValueError, RuntimeError) as error:
        raise DataError(f"{path}: {key} is {first_line(error)}, expected integers of shape [2, e], or a sparse matrix.") from error
    wrong = ((edges < 0) | (edges >= n)).nonzero()
    if len(wrong):
        row, column = wrong[0].tolist()
        raise DataError(
            f"{path}: {key}[{row}, {column}] is {edges[row, column].item()}, expected a node below {n}, the number of texts; "
            f"{len(wrong):,} such."
        )
    return edges.T.numpy()


def _labels(path: Path, y: Any, n: int) -> np.ndarray:
    if y is None:
        return np.full(n, -1)
    labels = _tensor(path, "y", y)
    if labels.shape not in ((n,), (n, 1)):
        raise DataError(f"{path}: y has shape {list(labels.shape)}, expected [{n}]: one label per node.")
    labels = labels.flatten().nan_to_num(nan=-1.0) if labels.is_floating_point() else labels.flatten()
    wrong = (labels != labels.long()).nonzero()
    if len(wrong):
        node = int(wrong[0])
        raise DataError(f"{path}: y[{node}] is {labels[node].item()}, expected the number of a class.")
    return labels.long().clamp(min=-1).numpy()


def _split(path: Path, data: dict[str, Any], n: int) -> np.ndarray | None:
    split = np.full(n, -1, dtype=np.int8)
    found = [key for key in MASKS if data.get(key) is not None]
    for key in found:
        mask = _tensor(path, key, data[key])
        if mask.dtype != torch.bool or mask.ndim not in (1, 2) or mask.shape[0] != n:
            raise DataError(f"{path}: {key} is {mask.dtype} of shape {list(mask.shape)}, expected torch.bool of shape [{n}].")
        first = mask.view(n, -1)[:, 0].numpy()
        if (taken := (first & (split >= 0)).nonzero()[0]).size:
            raise DataError(f"{path}: node {taken[0]} is in {MASKS[split[taken[0]]]} and in {key}.")
        split[first] = SPLITS.index(key.removesuffix("_mask"))
    return split if found else None
