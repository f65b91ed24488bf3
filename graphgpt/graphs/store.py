"""From a dataset to a graph with features, each made once and found again by its fingerprint."""

import dataclasses
import functools
import json
import logging
import math
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from graphgpt.errors import DataError, first_line
from graphgpt.files.atomic import atomic_folder, cache_dir, fingerprint
from graphgpt.graphs.dataset import GraphDataset
from graphgpt.graphs.graph import TextAttributedGraph
from graphgpt.graphs.text_encoder import LanguageModelSource, TextEncoder, standardize

log = logging.getLogger(__name__)

#: Texts of a larger graph are encoded so many at a time, where the encoder need not see them all, and kept in 16 bits.
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
        for note in TextAttributedGraph.open(folder).card.get("notes", []):
            log.warning("%s", note)
    return encode_texts(TextAttributedGraph.open(folder), encoder, llm, llm_id)


def encode_texts(
    graph: TextAttributedGraph, encoder: TextEncoder, llm: LanguageModelSource, llm_id: Callable[[], str] = lambda: ""
) -> TextAttributedGraph:
    """The graph with features: its own, or standardised ones of its texts; arguments as for :func:`open_graph`."""
    if graph.x is not None:
        array = next((name for name in graph.card.get("files", []) if str(name).endswith(".npy")), "the data")
        return dataclasses.replace(graph, card=graph.card | {"features_from": array})
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
    try:
        x = load_file(cached / "x.safetensors")["x"]
        if len(x) != graph.num_nodes:
            raise ValueError(f"{len(x)} rows, expected {graph.num_nodes}")
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise DataError(f"{cached} is damaged ({first_line(error)}); delete it to have it made again.") from error
    # Checked before they were written; to look at each number again would read the whole file at every start.
    return dataclasses.replace(graph, x=x, card=graph.card | {"features_from": f"the text encoder '{encoder.config.name}'"})


def _texts(graph: TextAttributedGraph, first: int, count: int) -> list[str]:
    """What encoders read of some nodes."""
    titles, bodies = (column.slice(first, count).to_pylist() for column in (graph.titles, graph.bodies))
    return [f"{title}\n{body}" for title, body in zip(titles, bodies, strict=True)]


def _write_in_parts(file: Path, graph: TextAttributedGraph, encoder: TextEncoder, llm: LanguageModelSource) -> None:
    """Standardised features of all nodes in 16 bits, of which only a part is in memory at a time.

    Raises:
        DataError: a feature is not finite.
    """
    from sklearn.preprocessing import StandardScaler  # takes a second, which only a graph's first time should

    scaler = StandardScaler()
    # Not yet standardised, they might not fit into 16 bits.
    with tempfile.TemporaryFile(dir=file.parent) as raw:
        for first in range(0, graph.num_nodes, CHUNK):
            part = encoder.encode(_texts(graph, first, CHUNK), llm).numpy()
            if not np.isfinite(part).all():
                last = first + len(part) - 1
                raise DataError(f"The text encoder '{encoder.config.name}' made features that are not finite of nodes {first} to {last}.")
            scaler.partial_fit(part)
            raw.write(part.tobytes())
        raw.seek(0)
        shape = (graph.num_nodes, scaler.n_features_in_)
        with file.open("wb") as sink:
            sink.write(_header(shape))
            for first in range(0, graph.num_nodes, CHUNK):
                rows = min(CHUNK, graph.num_nodes - first)
                part = np.frombuffer(raw.read(rows * shape[1] * part.itemsize), part.dtype).reshape(rows, shape[1])
                sink.write(scaler.transform(part).astype("<f2").tobytes())


def _header(shape: tuple[int, int]) -> bytes:
    """Beginning of a safetensors file with one tensor ``x``, float16, whose numbers follow it."""
    header = json.dumps({"x": {"dtype": "F16", "shape": shape, "data_offsets": (0, 2 * math.prod(shape))}}).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header
