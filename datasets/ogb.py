"""A node-property dataset of the Open Graph Benchmark as it is unpacked on disk, such as ogbn-arxiv."""

import gzip
import io
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from pyarrow import csv as arrow_csv

from graphgpt.errors import DataError, amount
from graphgpt.files.atomic import fingerprint
from graphgpt.graphs.dataset import DatasetConfig, GraphDataset
from graphgpt.graphs.graph import TextAttributedGraph, build_graph
from graphgpt.graphs.tables import hint, missing_files, quoted, read_features, with_progress
from graphgpt.registry import DATASETS
from graphgpt.schema import SPLITS, UserPath, configclass

INT64 = np.dtype(np.int64)
#: OGB's names of the splits, in the order of ``SPLITS``.
FILES_OF_SPLITS = dict(zip(("train", "valid", "test"), SPLITS, strict=True))


@configclass
class OgbConfig(DatasetConfig):
    """An unpacked OGB folder; see ``OgbFolder`` for what it holds."""

    path: UserPath
    """The folder that has ``raw/``, ``mapping/`` and ``split/`` in it, such as ``dataset/ogbn_arxiv``."""
    texts: UserPath | None = None
    """Tab-separated file of external id, title and text; left out: ``titleabs.tsv`` or ``titleabs.tsv.gz`` in the folder."""
    classes: list[str] | None = None
    """Class names in the order of the labels 0, 1, ...; left out: ``mapping/labelidx2*``."""
    features: UserPath | None = None
    """``.npy`` file of node features, one row per node; used instead of ``raw/node-feat``."""


@DATASETS.register("ogb")
class OgbFolder(GraphDataset):
    """OGB's CSV layout (Hu et al., arXiv:2005.00687); every file may be gzipped or not.

    ``raw/edge.csv``, ``raw/num-node-list.csv``, ``raw/node-label.csv`` and perhaps ``raw/node-feat.csv``, all without a
    header; ``split/<scheme>/{train,valid,test}.csv``, node numbers; ``mapping/nodeidx2*.csv``, from node number to the
    external id under which the texts go, and ``mapping/labelidx2*.csv``, from label to class name, both with a header. The
    texts are a file of their own (for ogbn-arxiv ``titleabs.tsv.gz``). A node without a text there is kept.
    """

    Config = OgbConfig
    config: OgbConfig

    @classmethod
    def problems(cls, config: OgbConfig) -> list[str]:
        found = super().problems(config)
        path = Path(config.path)
        if not path.is_dir():
            near = hint(path.name, [other.name for other in path.parent.glob("*") if other.is_dir()])
            found.append(f"dataset.path={config.path}: there is no such folder.{near}")
        return found + missing_files({"dataset.texts": config.texts, "dataset.features": config.features})

    @staticmethod
    def has_features(config: Any) -> bool:
        return config.features is not None or _find(Path(config.path) / "raw", "node-feat.csv") is not None

    def fingerprint(self) -> str:
        """By names, sizes and times: hashing gigabytes would take longer than opening the graph."""
        files = sorted(path for path in Path(self.config.path).rglob("*") if path.is_file())
        files += [Path(name) for name in (self.config.texts, self.config.features, __file__) if name is not None]
        return fingerprint([[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in files], self.config.classes)

    def build(self) -> TextAttributedGraph:
        folder = Path(self.config.path)
        node_counts = _numbers(_file(folder / "raw", "num-node-list.csv"))
        if node_counts.size != 1:
            raise DataError(f"{folder / 'raw'}: num-node-list.csv lists {node_counts.size} graphs, expected one.")
        n = int(node_counts[0, 0])
        edge_file = _file(folder / "raw", "edge.csv")
        edges = _numbers(edge_file)
        if edges.shape[1] != 2:
            raise DataError(f"{edge_file}: {amount(edges.shape[1], 'column')}, expected 2: source and target.")
        _check_range(edge_file, edges, n, "node")
        label_file = _file(folder / "raw", "node-label.csv")
        labels = _labels(label_file, n)
        class_names = self._class_names(folder, int(labels.max(initial=-1)) + 1)
        ids = _mapping(_file(folder / "mapping", "nodeidx2*.csv"), n)
        text_file = self._text_file(folder)
        titles, bodies = _texts(text_file, ids)
        graph = build_graph(
            ids=ids,
            titles=titles,
            bodies=bodies,
            labels=labels,
            class_names=class_names,
            edges=edges,
            card={"name": "ogb", "files": [folder.absolute().name, text_file.name]},
            split=_split(folder / "split", n),
        )
        if self.config.features is not None:
            return read_features(graph, Path(self.config.features))
        feature_file = _find(folder / "raw", "node-feat.csv")
        if feature_file is None:
            return graph
        try:
            return graph.with_features(torch.from_numpy(_numbers(feature_file, np.dtype(np.float32))))
        except DataError as error:
            raise DataError(f"{feature_file}: {error}") from error

    def _class_names(self, folder: Path, count: int) -> list[str]:
        if self.config.classes is None:
            return _mapping(_file(folder / "mapping", "labelidx2*.csv"), count)
        if len(self.config.classes) < count:
            raise DataError(
                f"dataset.classes has {amount(len(self.config.classes), 'name')}, expected at least {count}: "
                f"the labels go up to {count - 1}."
            )
        return self.config.classes

    def _text_file(self, folder: Path) -> Path:
        if self.config.texts is not None:
            return Path(self.config.texts)
        found = next(filter(None, (_find(place, "titleabs.tsv") for place in (folder, folder / "mapping"))), None)
        if found is None:
            raise DataError(
                f"{folder} has no texts: expected titleabs.tsv or titleabs.tsv.gz in it (OGB offers that of ogbn-arxiv beside the "
                "dataset), or dataset.texts."
            )
        return found


def _find(folder: Path, pattern: str) -> Path | None:
    """The file, gzipped or not."""
    return next((path for name in (pattern, f"{pattern}.gz") for path in sorted(folder.glob(name))), None)


def _file(folder: Path, pattern: str) -> Path:
    found = _find(folder, pattern)
    if found is None:
        there = sorted(path.name for path in folder.glob("*"))
        raise DataError(f"{folder}: expected {pattern} or {pattern}.gz, found {quoted(there) or 'nothing'}.")
    return found


def _numbers(path: Path, dtype: np.dtype[Any] = INT64) -> np.ndarray:
    """A CSV file of numbers without a header, shape ``[lines, columns]``, read batch by batch."""
    blocks = []
    try:
        with _open_text(path) as lines:
            columns = lines.readline().count(",") + 1
        with arrow_csv.open_csv(
            path,
            read_options=arrow_csv.ReadOptions(autogenerate_column_names=True, block_size=1 << 24),
            convert_options=arrow_csv.ConvertOptions(column_types={f"f{i}": pa.from_numpy_dtype(dtype) for i in range(columns)}),
        ) as reader:
            for batch in with_progress(reader, path):
                blocks.append(np.stack([column.to_numpy(zero_copy_only=False) for column in batch.columns], axis=1))
    except (pa.ArrowException, OSError, EOFError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: expected numbers separated by commas, but: {error}") from error
    numbers = np.concatenate(blocks)
    if numbers.dtype != dtype:  # an empty field turns integers into floats with gaps
        raise DataError(f"{path}: a field is empty, expected a number in each.")
    return numbers


def _check_range(path: Path, numbers: np.ndarray, end: int, what: str) -> None:
    wrong = np.argwhere((numbers < 0) | (numbers >= end))
    if len(wrong):
        line, column = wrong[0]
        raise DataError(f"{path}, line {line + 1}: {numbers[line, column]} is no {what}, expected a number from 0 to {end - 1}.")


def _labels(path: Path, n: int) -> np.ndarray:
    """Labels, -1 where the file has none (OGB writes nan), shape ``[n]``."""
    labels = _numbers(path, np.dtype(np.float64))
    if labels.shape != (n, 1):
        raise DataError(
            f"{path}: {labels.shape[0]} lines of {labels.shape[1]} labels, expected {n} lines of one: every node has one class."
        )
    labels = np.nan_to_num(labels[:, 0], nan=-1)
    whole: np.ndarray = labels.astype(np.int64)
    wrong = (labels != whole).nonzero()[0]
    if wrong.size:
        raise DataError(f"{path}, line {wrong[0] + 1}: the label {labels[wrong[0]]} is no whole number.")
    whole[whole < 0] = -1
    return whole


def _mapping(path: Path, count: int) -> list[str]:
    """The second column by the first, which counts from 0; a header stands above."""
    try:
        table = arrow_csv.read_csv(path)
        numbers = table.column(0).cast(pa.int64()).to_pylist()
        names = [str(name).strip() for name in table.column(1).cast(pa.string()).to_pylist()]
    except (pa.ArrowException, IndexError, OSError) as error:
        raise DataError(f"{path}: expected a header and two columns, a number and what it stands for, but: {error}") from error
    of = dict(zip(numbers, names, strict=True))
    missing = next((number for number in range(count) if number not in of), None)
    if missing is not None:
        raise DataError(f"{path}: {missing} is missing, expected all from 0 to {count - 1}.")
    return [of[number] for number in range(count)]


def _split(folder: Path, n: int) -> np.ndarray | None:
    """The split by the only scheme in the folder, None where there is none."""
    schemes = sorted(path for path in folder.glob("*") if path.is_dir())
    if not schemes:
        return None
    if len(schemes) > 1:
        raise DataError(f"{folder}: expected one scheme, found {quoted([path.name for path in schemes])}; leave the one to be used.")
    split = np.full(n, -1, dtype=np.int8)
    for name, part in FILES_OF_SPLITS.items():
        path = _file(schemes[0], f"{name}.csv")
        nodes = _numbers(path)
        _check_range(path, nodes, n, "node")
        taken = (split[nodes[:, 0]] >= 0).nonzero()[0]
        if taken.size:
            node = nodes[taken[0], 0]
            raise DataError(f"{path}, line {taken[0] + 1}: node {node} is in the {SPLITS[split[node]]} split already.")
        split[nodes[:, 0]] = SPLITS.index(part)
    return split


def _texts(path: Path, ids: list[str]) -> tuple[list[str], list[str]]:
    """Title and body of every node; lines about other ids are left out."""
    node_of = {name: node for node, name in enumerate(ids)}
    if len(node_of) < len(ids):
        raise DataError(f"{path}: cannot be matched, for mapping/ gives {amount(len(ids) - len(node_of), 'node')} an id that another has.")
    titles, bodies = [""] * len(ids), [""] * len(ids)
    found = 0
    try:
        with _open_text(path) as lines:
            for line in with_progress(lines, path):
                name, _, text = line.rstrip("\r\n").partition("\t")
                node = node_of.get(name.strip())
                if node is not None:
                    titles[node], _, bodies[node] = text.partition("\t")
                    found += 1
    except (OSError, EOFError, UnicodeDecodeError, tarfile.TarError) as error:
        raise DataError(f"{path}: expected lines of id, title and text separated by tabs, in UTF-8, but: {error}") from error
    if not found:
        raise DataError(f"{path}: no line begins with the id of a node (such as '{ids[0]}') and a tab.")
    return titles, bodies


@contextmanager
def _open_text(path: Path) -> Iterator[io.TextIOBase]:
    """A text file, gzipped or not; OGB's titleabs.tsv.gz is a tar archive with the one file in it."""
    if tarfile.is_tarfile(path):
        with tarfile.open(path) as archive:
            member = next((member for member in archive if member.isfile()), None)
            if member is None:
                raise DataError(f"{path} is an archive without a file in it.")
            file = archive.extractfile(member)
            assert file is not None
            yield io.TextIOWrapper(file, encoding="utf-8")
    elif path.suffix == ".gz":
        with gzip.open(path, "rt", encoding="utf-8") as text:
            yield text
    else:
        with path.open(encoding="utf-8") as text:
            yield text
