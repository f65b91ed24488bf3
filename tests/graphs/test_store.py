"""Graphs with features: built once, found again, never half there."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import make_dataset_config, make_graph
from safetensors.torch import save_file
from torch import Tensor

from graphgpt.errors import DataError
from graphgpt.graphs import graph as graph_module
from graphgpt.graphs import store
from graphgpt.graphs.dataset import GraphDataset
from graphgpt.graphs.graph import TextAttributedGraph
from graphgpt.graphs.store import open_graph
from graphgpt.graphs.text_encoder import LanguageModelSource, TextEncoder, TextEncoderConfig, standardize


class Toy(GraphDataset):
    """The toy graph; counts how often it is built."""

    def __init__(self, version: str = "1", x: Tensor | None = None, card: dict[str, Any] | None = None) -> None:
        super().__init__(make_dataset_config())
        self.version, self.x, self.card = version, x, card or {}
        self.built = 0

    def fingerprint(self) -> str:
        return self.version

    def build(self) -> TextAttributedGraph:
        self.built += 1
        graph = make_graph()
        return replace(graph, x=self.x, card=graph.card | self.card)


class Lengths(TextEncoder):
    """Length and number of words; counts how often it runs."""

    runs = 0

    def encode(self, texts: Sequence[str], llm: LanguageModelSource) -> Tensor:
        self.runs += 1
        self.texts = list(texts)
        return torch.tensor([[len(text), len(text.split())] for text in texts], dtype=torch.float32)


class Reading(Lengths):
    """As if it read the language model's embeddings."""

    reads_llm = True


def no_llm() -> tuple[Any, Tensor]:
    raise AssertionError("nobody asked for the language model")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    monkeypatch.setenv("GRAPHGPT_CACHE", str(tmp_path))
    return tmp_path


def lengths(name: str = "lengths") -> Lengths:
    return Lengths(TextEncoderConfig(name=name))


def contents(cache: Path) -> list[str]:
    """Everything in the cache, hidden leftovers included."""
    return sorted(str(path.relative_to(cache)) for path in cache.rglob("*") if path.parent != cache)


def test_built_and_encoded_once(cache: Path) -> None:
    dataset, encoder = Toy(), lengths()
    first = open_graph(dataset, encoder, no_llm)
    again = open_graph(Toy(), lengths(), no_llm)
    second = open_graph(dataset, encoder, no_llm)
    assert (dataset.built, encoder.runs) == (1, 1)
    assert torch.equal(first.features, second.features) and torch.equal(first.features, again.features)
    assert first.titles.to_pylist() == second.titles.to_pylist() == make_graph().titles.to_pylist()


def test_features_are_the_encoders_standardised(cache: Path) -> None:
    encoder, graph = lengths(), make_graph()
    x = open_graph(Toy(), encoder, no_llm).features
    assert encoder.texts[3] == f"{graph.title(3)}\n{graph.body(3)}" and len(encoder.texts) == graph.num_nodes
    expected = torch.tensor([[len(text), len(text.split())] for text in encoder.texts], dtype=torch.float32)
    torch.testing.assert_close(x, standardize(expected))


def test_a_large_graph_is_encoded_in_parts(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = open_graph(Toy(), lengths("whole"), no_llm).features
    monkeypatch.setattr(store, "CHUNK", 16)
    encoder, fitted = lengths("parts"), lengths("fitted")
    fitted.fitted = True
    in_parts = open_graph(Toy(), encoder, no_llm).features
    assert encoder.runs == 4 and in_parts.dtype == torch.float16
    torch.testing.assert_close(in_parts, whole.half())
    assert torch.equal(open_graph(Toy(), fitted, no_llm).features, whole) and fitted.runs == 1
    assert torch.equal(open_graph(Toy(), encoder, no_llm).features, open_graph(Toy(), lengths("parts"), no_llm).features)
    large = lengths("large")
    monkeypatch.setattr(large, "encode", lambda texts, llm: torch.tensor([[1e6 * len(text), 3.0] for text in texts]))
    found = open_graph(Toy(), large, no_llm).features  # too large for 16 bits until they are standardised
    torch.testing.assert_close(found, torch.stack([whole[:, 0], torch.zeros(len(whole))], dim=1).half())
    bad = lengths("bad")
    monkeypatch.setattr(bad, "encode", lambda texts, llm: torch.full((len(texts), 2), float("nan")))
    with pytest.raises(DataError, match=r"^The text encoder 'bad' made features that are not finite of nodes 0 to 15\.$"):
        open_graph(Toy(), bad, no_llm)
    assert not any("tmp" in path for path in contents(cache))


def test_another_encoder_or_its_settings_encode_again_without_building_again(cache: Path) -> None:
    dataset = Toy()
    for name in ("lengths", "other"):
        encoder = lengths(name)
        open_graph(dataset, encoder, no_llm)
        assert encoder.runs == 1
    assert dataset.built == 1


def test_other_embeddings_encode_again_where_they_are_read(cache: Path) -> None:
    for cls, expected in ((Reading, 2), (Lengths, 1)):
        encoder = cls(TextEncoderConfig(name=cls.__name__))
        for source in ("one", "two", "one"):
            open_graph(Toy(), encoder, no_llm, lambda source=source: source)
        assert encoder.runs == expected


def test_other_data_are_built_again(cache: Path) -> None:
    for version in ("1", "2"):
        dataset = Toy(version)
        open_graph(dataset, lengths(), no_llm)
        assert dataset.built == 1


def test_features_of_the_data_win_over_the_encoder(cache: Path) -> None:
    x = torch.randn(60, 3, dtype=torch.float64)
    dataset, encoder = Toy(x=x), lengths()
    for _ in range(2):
        graph = open_graph(dataset, encoder, no_llm)
        assert torch.equal(graph.features, x.float())
    assert (dataset.built, encoder.runs) == (1, 0)


def test_features_of_the_data_that_are_not_finite_are_refused_and_nothing_stays(cache: Path) -> None:
    x = torch.zeros(60, 3)
    x[5, 1] = float("nan")
    with pytest.raises(DataError, match=re.escape("The features of node 'n5' (row 5, column 1) are nan")):
        open_graph(Toy(x=x), lengths(), no_llm)
    assert contents(cache) == []


def test_interrupted_build_leaves_nothing(cache: Path) -> None:
    with pytest.raises(TypeError):
        open_graph(Toy(card={"not json": object()}), lengths(), no_llm)
    assert contents(cache) == []
    dataset = Toy()
    assert open_graph(dataset, lengths(), no_llm).num_nodes == 60 and dataset.built == 1


def test_interrupted_encoding_leaves_no_features(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(tensors: dict[str, Tensor], path: Path) -> None:
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(store, "save_file", interrupted)
        with pytest.raises(KeyboardInterrupt):
            open_graph(Toy(), lengths(), no_llm)
    assert not [path for path in contents(cache) if path.startswith("features")]
    dataset, encoder = Toy(), lengths()
    open_graph(dataset, encoder, no_llm)
    assert (dataset.built, encoder.runs) == (0, 1)


def test_interrupted_saving_of_the_datas_own_features_leaves_nothing(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(tensors: dict[str, Tensor], path: Path) -> None:
        if path.name == "x.safetensors":
            raise KeyboardInterrupt
        save_file(tensors, path)

    x = torch.randn(60, 3)
    with monkeypatch.context() as patch:
        patch.setattr(graph_module, "save_file", interrupted)
        with pytest.raises(KeyboardInterrupt):
            open_graph(Toy(x=x), lengths(), no_llm)
    assert contents(cache) == []
    assert torch.equal(open_graph(Toy(x=x), lengths(), no_llm).features, x)
