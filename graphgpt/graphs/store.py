"""From a dataset to a graph with features, each made once and found again by its fingerprint."""

import dataclasses
import functools
import json
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from graphgpt.errors import DataError
from graphgpt.files import atomic_folder, cache_dir, fingerprint
from graphgpt.graphs.dataset import GraphDataset
from graphgpt.graphs.graph import TextAttributedGraph
from graphgpt.graphs.text_encoder import LanguageModelSource, TextEncoder, standardize

log = logging.getLogger(__name__)

#: Texts of a larger graph are encoded so many at a time, where the encoder need not see them all.
CHUNK = 2**16


def open_graph(
    dataset: GraphDataset, encoder: TextEncoder, llm: LanguageModelSource, llm_id: Callable[[], str] = lambda: ""
) -> TextAttributedGraph:
    """The dataset's graph with its own features or standardised ones of its texts, from the cache where they are there already.

    Args:
        dataset: Where the graph comes from.
        encoder: How its texts become features; not used when the dataset brings features of its own.
        llm: Tokenizer and language model, for encoders that read them.
        llm_id: Identifies the language model, so that features made with another are not found again.

    Raises:
        DataError: the data cannot be used.
    """
    folder = dataset.folder()
    if not (folder / "card.json").is_file():
        log.info("Building the graph '%s' (once) ...", dataset.config.name)
        dataset.write(folder)
    return encode_texts(TextAttributedGraph.open(folder), encoder, llm, llm_id)


def encode_texts(
    graph: TextAttributedGraph, encoder: TextEncoder, llm: LanguageModelSource, llm_id: Callable[[], str] = lambda: ""
) -> TextAttributedGraph:
    """The graph with features: its own, or standardised ones of its texts; arguments as for :func:`open_graph`."""
    if graph.x is not None:
        return graph
    source = llm_id() if encoder.reads_llm else ""
    key = f"{graph.fingerprint}-{fingerprint(dataclasses.asdict(encoder.config), source)}"
    cached = cache_dir() / "features" / key
    if not cached.is_dir():
        log.info("Encoding the texts of %s nodes with '%s' (once) ...", f"{graph.num_nodes:,}", encoder.config.name)
        with atomic_folder(cached) as tmp:
            if encoder.fitted or graph.num_nodes <= CHUNK:
                encoded = graph.with_features(standardize(encoder.encode(_texts(graph, 0, graph.num_nodes), llm)))
                save_file({"x": encoded.features}, tmp / "x.safetensors")
            else:
                _write_in_parts(tmp / "x.safetensors", graph, encoder, functools.cache(llm))
    # Checked before they were written; to look at each number again would read the whole file at every start.
    return dataclasses.replace(graph, x=load_file(cached / "x.safetensors")["x"])


def _texts(graph: TextAttributedGraph, first: int, count: int) -> list[str]:
    """What encoders read of some nodes."""
    titles, bodies = (column.slice(first, count).to_pylist() for column in (graph.titles, graph.bodies))
    return [f"{title}\n{body}" for title, body in zip(titles, bodies, strict=True)]


def _write_in_parts(file: Path, graph: TextAttributedGraph, encoder: TextEncoder, llm: LanguageModelSource) -> None:
    """Standardised features of all nodes, of which only a part is in memory at a time; the file is what they are put together in.

    Raises:
        DataError: a feature is not finite.
    """
    starts = range(0, graph.num_nodes, CHUNK)
    x: Any = None
    for first in starts:
        texts = _texts(graph, first, CHUNK)
        part = encoder.encode(texts, llm)
        if not bool(torch.isfinite(part).all()):
            raise DataError(
                f"The text encoder '{encoder.config.name}' made features that are not finite of nodes {first} to {first + len(texts) - 1}."
            )
        if x is None:
            x = _mapped(file, (graph.num_nodes, part.shape[1]))
        x[first : first + len(part)] = part.numpy()
    slices = [slice(first, first + CHUNK) for first in starts]
    mean = sum(x[rows].sum(axis=0, dtype=np.float64) for rows in slices) / graph.num_nodes
    scale = np.sqrt(sum(((x[rows] - mean) ** 2).sum(axis=0) for rows in slices) / graph.num_nodes)
    for rows in slices:
        x[rows] = (x[rows] - mean) / np.where(scale > 1e-8, scale, 1)
    x.flush()


def _mapped(file: Path, shape: tuple[int, int]) -> Any:
    """The one tensor ``x``, float32, of a new safetensors file, to be written into."""
    size = 4 * math.prod(shape)
    header = json.dumps({"x": {"dtype": "F32", "shape": shape, "data_offsets": (0, size)}}).encode()
    header += b" " * (-len(header) % 8)
    with file.open("wb") as sink:
        sink.write(len(header).to_bytes(8, "little") + header)
        sink.truncate(8 + len(header) + size)
    return np.memmap(file, dtype="<f4", mode="r+", offset=8 + len(header), shape=shape)
