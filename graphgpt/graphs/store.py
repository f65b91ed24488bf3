"""From a dataset to a graph with features, each made once and found again by its fingerprint."""

import dataclasses
import logging
from collections.abc import Callable

from safetensors.torch import load_file, save_file

from graphgpt.files import atomic_folder, cache_dir, fingerprint
from graphgpt.graphs.dataset import GraphDataset
from graphgpt.graphs.graph import TextAttributedGraph
from graphgpt.graphs.text_encoder import EmbeddingSource, TextEncoder, standardize

log = logging.getLogger(__name__)


def open_graph(
    dataset: GraphDataset, encoder: TextEncoder, embeddings: EmbeddingSource, embeddings_id: Callable[[], str] = lambda: ""
) -> TextAttributedGraph:
    """The dataset's graph with its own features or standardised ones of its texts, from the cache where they are there already.

    Args:
        dataset: Where the graph comes from.
        encoder: How its texts become features; not used when the dataset brings features of its own.
        embeddings: The language model's tokenizer and embeddings, for encoders that read them.
        embeddings_id: Identifies those embeddings, so that features made with others are not found again.

    Raises:
        DataError: the data cannot be used.
    """
    folder = dataset.folder()
    if not (folder / "card.json").is_file():
        log.info("Building the graph '%s' (once) ...", dataset.config.name)
        dataset.write(folder)
    return encode_texts(TextAttributedGraph.open(folder), encoder, embeddings, embeddings_id)


def encode_texts(
    graph: TextAttributedGraph, encoder: TextEncoder, embeddings: EmbeddingSource, embeddings_id: Callable[[], str] = lambda: ""
) -> TextAttributedGraph:
    """The graph with features: its own, or standardised ones of its texts; arguments as for :func:`open_graph`."""
    if graph.x is not None:
        return graph
    source = embeddings_id() if encoder.reads_embeddings else ""
    key = f"{graph.fingerprint}-{fingerprint(dataclasses.asdict(encoder.config), source)}"
    cached = cache_dir() / "features" / key
    if not cached.is_dir():
        log.info("Encoding the texts of %s nodes with '%s' (once) ...", f"{graph.num_nodes:,}", encoder.config.name)
        texts = [f"{title}\n{body}" for title, body in zip(graph.titles.to_pylist(), graph.bodies.to_pylist(), strict=True)]
        encoded = graph.with_features(standardize(encoder.encode(texts, embeddings)))
        with atomic_folder(cached) as tmp:
            save_file({"x": encoded.features}, tmp / "x.safetensors")
    # Checked before they were written; to look at each number again would read the whole file at every start.
    return dataclasses.replace(graph, x=load_file(cached / "x.safetensors")["x"])
