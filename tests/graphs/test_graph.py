"""The graph container: assembled from records, saved, opened, refused when damaged."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from graphgpt.errors import DataError
from graphgpt.graphs.graph import TextAttributedGraph, TextWriter, build_graph, finish_graph, identity


def build(n: int = 4, edges: Any = ((0, 1), (1, 2)), **fields: Any) -> TextAttributedGraph:
    records: dict[str, Any] = {
        "ids": [f"n{i}" for i in range(n)],
        "titles": [f"Title {i}" for i in range(n)],
        "bodies": [f"Body {i}" for i in range(n)],
        "labels": [i % 2 for i in range(n)],
        "class_names": ["even", "odd"],
        "edges": np.array(edges, dtype=np.int64).reshape(-1, 2),
        "card": {"name": "toy"},
    }
    return build_graph(**(records | fields))


def test_edges_become_undirected_without_loops_and_duplicates() -> None:
    graph = build(edges=[(1, 0), (0, 1), (2, 2), (1, 2), (1, 2), (3, 3)])
    assert [graph.neighbors(i).tolist() for i in range(4)] == [[1], [0, 2], [1], []]
    assert (graph.num_nodes, graph.num_edges) == (4, 2)
    counts = {key: graph.card[key] for key in ("nodes", "edges", "self_loops_dropped", "duplicate_edges_dropped", "isolated", "classes")}
    assert counts == {"nodes": 4, "edges": 2, "self_loops_dropped": 2, "duplicate_edges_dropped": 2, "isolated": 1, "classes": 2}


@given(st.integers(1, 12).flatmap(lambda n: st.tuples(st.just(n), st.lists(st.tuples(*[st.integers(0, n - 1)] * 2), max_size=30))))
def test_any_edges(records: tuple[int, list[tuple[int, int]]]) -> None:
    """Neighbours are those of the records read without direction: sorted, symmetric, each once."""
    n, edges = records
    graph = build(n, edges)
    expected: list[set[int]] = [set() for _ in range(n)]
    for a, b in edges:
        if a != b:
            expected[a].add(b)
            expected[b].add(a)
    assert [graph.neighbors(i).tolist() for i in range(n)] == [sorted(neighbors) for neighbors in expected]
    pairs = {frozenset(edge) for edge in edges if edge[0] != edge[1]}
    assert graph.card["edges"] == graph.num_edges == len(pairs)
    loops = sum(a == b for a, b in edges)
    assert graph.card["self_loops_dropped"] == loops
    assert graph.card["duplicate_edges_dropped"] == len(edges) - loops - len(pairs)
    assert graph.card["isolated"] == sum(not neighbors for neighbors in expected)
    assert graph.rowptr.dtype == graph.col.dtype == graph.y.dtype == torch.int64


def test_a_node_without_title_gets_its_first_words_or_its_id() -> None:
    graph = build(titles=["A", " ", "", "D "], bodies=["", "one two three four five six seven eight nine", "", ""])
    assert graph.titles.to_pylist() == ["A", "one two three four five six seven eight", "node n2", "D"]
    assert (graph.card["without_title"], graph.card["without_text"]) == (2, 1)
    assert graph.title(1).endswith("eight") and graph.body(1).endswith("nine")


def test_homophily_counts_edges_between_labelled_nodes() -> None:
    graph = build(5, [(0, 2), (0, 1), (1, 3), (3, 4)], labels=[0, 1, 0, 1, -1])
    assert graph.card["homophily"] == pytest.approx(2 / 3, abs=1e-4)
    assert graph.card["unlabelled"] == 1
    assert build(2, [], labels=[0, 1]).card["homophily"] is None


def test_empty_graph_and_single_node() -> None:
    assert build(1, []).num_edges == 0
    empty = build(0, [])
    assert (empty.num_nodes, empty.num_edges) == (0, 0)


CHANGES: list[dict[str, Any]] = [
    {"edges": np.array([[0, 1], [1, 3]])},
    {"labels": [0, 1, 1, 1]},
    {"titles": ["Title 0", "Title 1", "Title 2", "Another"]},
    {"bodies": ["Body 0", "Body 1", "Body 2", "Another"]},
    {"class_names": ["even", "uneven"]},
]


@pytest.mark.parametrize("change", CHANGES)
def test_fingerprint_changes_with_structure_texts_and_labels(change: dict[str, Any]) -> None:
    assert build(**change).fingerprint != build().fingerprint


def test_fingerprint_does_not_change_with_the_way_edges_are_written() -> None:
    assert build(edges=[(2, 1), (0, 1), (1, 0)]).fingerprint == build().fingerprint


def test_features_are_kept_as_float32() -> None:
    graph = build().with_features(torch.arange(8, dtype=torch.float64).view(2, 4).T)
    assert graph.features.dtype == torch.float32 and graph.features.is_contiguous()
    assert graph.features.tolist() == [[0, 4], [1, 5], [2, 6], [3, 7]]


@pytest.mark.parametrize("shape", [(3, 2), (5, 2), (4,), (4, 2, 2)])
def test_features_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match=re.escape(f"Node features have shape {list(shape)}, expected [4, d]: one row per node.")):
        build().with_features(torch.zeros(shape))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_features_that_are_not_finite_are_refused_with_the_node(value: float) -> None:
    x = torch.zeros(4, 3)
    x[2, 1] = x[3, 0] = value
    with pytest.raises(
        DataError, match=re.escape(f"The features of node 'n2' (row 2, column 1) are {value}; 2 of 12 values are not finite.")
    ):
        build().with_features(x)


def test_features_that_are_not_there_are_missed_in_words() -> None:
    with pytest.raises(DataError, match="The graph 'toy' has no node features yet"):
        _ = build().features


SAVED: list[Callable[[], TextAttributedGraph]] = [
    build,
    lambda: build(split=[0, 1, 2, -1], titles=["Ünï", "漢字", "a\nb", "🙂"], bodies=["", "x" * 10_000, '"quoted"', "\t"]),
    lambda: build(1, [], class_names=[], labels=[-1]),
    lambda: build(0, []),
]


@pytest.mark.parametrize("make", SAVED)
def test_saved_and_opened_again(make: Callable[[], TextAttributedGraph], tmp_path: Path) -> None:
    graph = make()
    graph.save(tmp_path / "graph")
    opened = TextAttributedGraph.open(tmp_path / "graph")
    for name in ("rowptr", "col", "y", "split"):
        before, after = getattr(graph, name), getattr(opened, name)
        assert (before is None and after is None) or (torch.equal(before, after) and before.dtype == after.dtype)
    for name in ("ids", "titles", "bodies"):
        assert getattr(opened, name).to_pylist() == getattr(graph, name).to_pylist()
    assert opened.class_names == graph.class_names
    assert opened.x is None
    assert opened.fingerprint == graph.fingerprint == identity(opened)
    assert opened.card.items() >= graph.card.items()


def test_saving_replaces_an_older_graph_and_leaves_nothing_else(tmp_path: Path) -> None:
    build().save(tmp_path / "graph")
    build(6).save(tmp_path / "graph")
    assert TextAttributedGraph.open(tmp_path / "graph").num_nodes == 6
    assert [path.name for path in tmp_path.iterdir()] == ["graph"]
    assert sorted(path.name for path in (tmp_path / "graph").iterdir()) == ["card.json", "graph.safetensors", "text.arrow"]


def test_interrupted_saving_leaves_the_older_graph(tmp_path: Path) -> None:
    build().save(tmp_path / "graph")
    with pytest.raises(TypeError):
        build(6, card={"name": "toy", "not json": object()}).save(tmp_path / "graph")
    assert TextAttributedGraph.open(tmp_path / "graph").num_nodes == 4
    assert [path.name for path in tmp_path.iterdir()] == ["graph"]


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=re.escape(f"{tmp_path / 'none'} is not a graph folder: card.json is missing.")):
        TextAttributedGraph.open(tmp_path / "none")


@pytest.mark.parametrize("name", ["card.json", "graph.safetensors", "text.arrow"])
def test_a_folder_with_a_missing_file_is_refused(name: str, tmp_path: Path) -> None:
    build().save(tmp_path / "graph")
    (tmp_path / "graph" / name).unlink()
    with pytest.raises(DataError, match=re.escape(f"{tmp_path / 'graph'} is not a graph folder: {name} is missing.")):
        TextAttributedGraph.open(tmp_path / "graph")


@pytest.mark.parametrize("name", ["card.json", "graph.safetensors", "text.arrow"])
def test_a_folder_with_a_truncated_file_is_refused(name: str, tmp_path: Path) -> None:
    build().save(tmp_path / "graph")
    path = tmp_path / "graph" / name
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(DataError, match=re.escape(str(path))):
        TextAttributedGraph.open(tmp_path / "graph")


def test_a_folder_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    build().save(tmp_path / "graph")
    path = tmp_path / "graph" / "card.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | {"format": 7}), encoding="utf-8")
    with pytest.raises(DataError, match=re.escape(f"{path} has format 7; this version reads up to 1: update graphgpt.")):
        TextAttributedGraph.open(tmp_path / "graph")


def test_features_of_its_own_are_saved_and_opened(tmp_path: Path) -> None:
    build().with_features(torch.arange(8.0).view(4, 2)).save(tmp_path / "graph")
    opened = TextAttributedGraph.open(tmp_path / "graph")
    assert opened.features.tolist() == [[0, 1], [2, 3], [4, 5], [6, 7]]
    (tmp_path / "graph" / "x.safetensors").write_bytes(b"x")
    with pytest.raises(DataError, match=r"x\.safetensors is damaged"):
        TextAttributedGraph.open(tmp_path / "graph")


@pytest.mark.parametrize("card", ["[]", "{}", '{"format": 1}'])
def test_a_folder_whose_card_says_too_little_is_refused(card: str, tmp_path: Path) -> None:
    build().save(tmp_path / "graph")
    (tmp_path / "graph" / "card.json").write_text(card)
    with pytest.raises(DataError, match=r"card\.json is damaged \(expected an object with 'format', 'name', 'fingerprint'"):
        TextAttributedGraph.open(tmp_path / "graph")


def batched(path: Path | None, sizes: list[int]) -> TextAttributedGraph:
    """The graph of ``build``, its texts written in batches."""
    writer, start = TextWriter(path), 0
    for size in sizes:
        nodes = range(start, start + size)
        writer.add([f"n{i}" for i in nodes], [f"Title {i}" for i in nodes], [f"Body {i}" for i in nodes])
        start += size
    return finish_graph(
        writer, labels=np.arange(start) % 2, class_names=["even", "odd"], edges=np.array([[0, 1], [1, 2]]), card={"name": "toy"}
    )


@pytest.mark.parametrize("sizes", [[4], [1, 3], [0, 2, 1, 1]])
def test_batches_make_the_same_graph_in_memory_and_in_a_file(sizes: list[int], tmp_path: Path) -> None:
    expected = build()
    for path in (None, tmp_path / "text.arrow"):
        graph = batched(path, sizes)
        assert graph.fingerprint == expected.fingerprint and graph.card == expected.card
        assert graph.titles.to_pylist() == expected.titles.to_pylist()
        assert [graph.title(i) for i in range(4)] == [f"Title {i}" for i in range(4)]
    assert (tmp_path / "text.arrow").is_file()


def test_a_graph_of_many_batches_is_saved_and_opened(tmp_path: Path) -> None:
    graph = batched(None, [3, 2, 4])
    graph.save(tmp_path / "graph")
    opened = TextAttributedGraph.open(tmp_path / "graph")
    assert opened.bodies.to_pylist() == graph.bodies.to_pylist()
    assert opened.body(7) == "Body 7"


def test_opening_reads_no_more_than_is_asked_for(tmp_path: Path) -> None:
    """Sixteen megabytes of edges and as much text; a fresh process that opens them must not hold them."""
    n, e = 2_000, 1_000_000
    ends = np.random.RandomState(0).randint(0, n, (e, 2))
    big = build_graph(
        ids=[str(i) for i in range(n)],
        titles=["t"] * n,
        bodies=["word " * 2_000] * n,
        labels=[-1] * n,
        class_names=[],
        edges=ends,
        card={"name": "big"},
    )
    big.save(tmp_path / "graph")
    program = """
import sys, psutil
from pathlib import Path
from graphgpt.graphs.graph import TextAttributedGraph
TextAttributedGraph.open(Path(sys.argv[1] + "/small"))
own = lambda: (memory := psutil.Process().memory_info()).rss - memory.shared
before = own()
graph = TextAttributedGraph.open(Path(sys.argv[1] + "/graph"))
graph.title(1000), graph.neighbors(1000)
print(own() - before)
"""
    build().save(tmp_path / "small")
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True)
    stored = sum(path.stat().st_size for path in (tmp_path / "graph").iterdir())
    assert stored > 30_000_000
    assert int(done.stdout) < 8_000_000
