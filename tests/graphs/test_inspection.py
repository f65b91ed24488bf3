"""What ``graphgpt data show`` counts and warns of, and what ``graphgpt data check`` finds."""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from helpers import make_graph
from hypothesis import given
from hypothesis import strategies as st

from graphgpt.graphs.graph import TextAttributedGraph, build_graph
from graphgpt.graphs.inspection import by_degree, check, summarize, warnings


def build(n: int = 30, **fields: Any) -> TextAttributedGraph:
    """A ring of nodes in two blocks, one class each."""
    records: dict[str, Any] = {
        "ids": [f"n{i}" for i in range(n)],
        "titles": [f"Title {i}" for i in range(n)],
        "bodies": [f"Body {i}" for i in range(n)],
        "labels": [int(i >= n // 2) for i in range(n)],
        "class_names": ["Art", "Maths"],
        "edges": np.array([(i, (i + 1) % n) for i in range(n)]),
        "card": {"name": "ring"},
        "split": [0] * 10 + [1] * 10 + [2] * (n - 20),
    }
    return build_graph(**(records | fields))


def warned(graph: TextAttributedGraph) -> list[str]:
    return list(warnings(graph, summarize(graph)))


def test_summary_counts() -> None:
    titles = ["Art one", "two", "two", "ART", "five"] + [f"t{i}" for i in range(25)]
    bodies = ["x", "same", "same", "y" * 7, "on maths"] + [""] * 25
    graph = build(titles=titles, bodies=bodies, labels=[0] * 4 + [1] + [-1] * 25)
    summary = summarize(graph)
    assert summary.degrees.tolist() == [2] * 30
    assert summary.lengths.tolist() == [len(title) + len(body) for title, body in zip(titles, bodies, strict=True)]
    assert summary.class_sizes.tolist() == [4, 1]
    assert (summary.same_title, summary.same_text, summary.naming) == (2, 2, 3)
    assert summary.split_sizes is not None
    assert summary.split_sizes.tolist() == [[4, 1, 5], [0, 0, 10], [0, 0, 10]]


def test_the_same_title_over_another_body_is_no_copy() -> None:
    summary = summarize(build(titles=["Same"] * 3 + [f"t{i}" for i in range(27)]))
    assert (summary.same_title, summary.same_text) == (3, 0)


@given(st.lists(st.integers(0, 3000), max_size=50))
def test_every_degree_is_in_the_bin_that_says_so(degrees: list[int]) -> None:
    bins = by_degree(np.array(degrees, dtype=np.int64))
    assert sum(count for _, count in bins) == len(degrees)
    for label, count in bins:
        low, _, high = label.replace(",", "").partition("-")
        assert count == sum(int(low) <= degree <= int(high or low) for degree in degrees)


def test_nothing_to_warn_of() -> None:
    assert warned(build()) == []


@pytest.mark.parametrize(
    ("fields", "warning"),
    [
        ({"labels": [-1] * 30, "class_names": []}, "No node has a label: only tasks that need none"),
        ({"labels": [0] * 12 + [1] * 12 + [-1] * 6}, "20% of the nodes have no label: they are neighbours, and in no split."),
        ({"labels": [0] * 25 + [1] * 5}, "1 class has fewer than 10 nodes: 'Maths'."),
        ({"class_names": ["0", "class 1"]}, "2 classes are named by a number ('0'): a prompt needs words."),
        ({"bodies": ["On art"] * 30}, "The class name stands in the text of 50% of the labelled nodes"),
        ({"edges": np.array([(i, i + 1) for i in range(26)])}, "10% of the nodes have no neighbour: the graph says nothing about them."),
        ({"titles": [""] * 30, "bodies": [""] * 6 + ["text"] * 24}, "20% of the nodes came without any text: they go by their id."),
        ({"titles": ["Same"] * 15 + [f"t{i}" for i in range(15)]}, "50% of the nodes share their title with another"),
        ({"titles": ["Same"] * 30, "bodies": ["Same"] * 30}, "100% of the nodes share all of their text with another"),
        ({"labels": [i % 2 for i in range(30)]}, "Homophily is 0.00, no more than chance would give"),
        ({"labels": [1] * 30}, "All labelled nodes are of one class, 'Maths': there is nothing to tell apart."),
        ({"labels": [1] * 30}, "1 class has no node: 'Art'."),
        ({"split": None}, "The data bring no split: training draws one (dataset.split.name=random, planetoid or file)."),
        ({"split": [0] * 30}, "The test split has no labelled node."),
        ({"edges": np.array([(i, (i + 1) % 30) for i in range(30)] + [(3, 3), (0, 1), (1, 0)])}, "1 self-loops were dropped."),
        (
            {"edges": np.array([(i, (i + 1) % 30) for i in range(30)] + [(3, 3), (0, 1), (1, 0)])},
            "2 edges that were there already (in either direction) were dropped.",
        ),
    ],
)
def test_warnings(fields: dict[str, Any], warning: str) -> None:
    found = warned(build(**fields))
    assert any(sentence.startswith(warning) for sentence in found), found


def results(graph: TextAttributedGraph, folder: Path) -> dict[str, str | None]:
    """What each check of the saved graph says where it failed, None where it passed."""
    graph.save(folder)
    return {text.partition(": ")[0]: None if passed else text.partition(": ")[2] for text, passed in check(folder)}


@pytest.mark.parametrize("graph", [build(), make_graph(), build(split=None, labels=[-1] * 30, class_names=[])])
def test_a_sound_graph_passes(graph: TextAttributedGraph, tmp_path: Path) -> None:
    found = results(graph, tmp_path / "graph")
    assert list(found) == ["files", "neighbours", "symmetry", "labels", "texts", "features", "split", "card"]
    assert set(found.values()) == {None}


def changed(tensor: torch.Tensor, place: int, value: float) -> torch.Tensor:
    tensor = tensor.clone()
    tensor[place] = value
    return tensor


def column(values: list[str]) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(values, pa.large_string())])


Change = Callable[[TextAttributedGraph], dict[str, Any]]

NUMBERS = "graph.safetensors is damaged ("
DAMAGES: list[tuple[Change, dict[str, str]]] = [
    (
        lambda g: {"y": g.y[:-1]},
        {"files": "(y is torch.int64 of shape [29], expected torch.int64 of shape [30], as rowptr says);"},
    ),
    (
        lambda g: {"rowptr": changed(g.rowptr, 30, 59)},
        {"files": NUMBERS + "rowptr runs from 0 to 59, expected 0 to 60, "},
    ),
    (lambda g: {"rowptr": changed(g.rowptr, 3, 70)}, {"files": "the length of col, without a step down);"}),
    (lambda g: {"y": g.y.int()}, {"files": NUMBERS + "y is torch.int32 of shape [30], expected torch.int64 of shape [30]"}),
    (lambda g: {"col": changed(g.col, 3, 30)}, {"files": NUMBERS + "col[3] is 30, expected 0 to 29; 1 such);"}),
    (lambda g: {"y": changed(g.y, 4, 2)}, {"files": NUMBERS + "y[4] is 2, expected -1 to 1; 1 such);"}),
    (
        lambda g: {"x": torch.zeros(29, 2)},
        {"files": "x.safetensors is damaged (x is torch.float32 of shape [29, 2], expected "},
    ),
    (lambda g: {"split": changed(g.split, 3, 3)}, {"files": NUMBERS + "split[3] is 3, expected -1 to 2; 1 such);"}),  # type: ignore[arg-type]
    (
        lambda g: {"col": changed(g.col, 3, 1)},
        {"neighbours": "the neighbour 1 of node 1 (entry 3 of col) is the node itself; 1 such.", "symmetry": "", "card": ""},
    ),
    (
        lambda g: {"col": g.col[[1, 0, *range(2, 60)]]},
        {"neighbours": "the neighbour 1 of node 0 (entry 1 of col) is not above the one before it; 1 such.", "card": ""},
    ),
    (
        lambda g: {"col": changed(g.col, 3, 9)},
        {"symmetry": "node 1 has the neighbour 9, but not the other way round; 2 such.", "card": "its fingerprint is "},
    ),
    (lambda g: {"class_names": ("Art", "Art")}, {"labels": "the class name 'Art' is empty or there more than once.", "card": ""}),
    (lambda g: {"ids": column(["a"] * 30)}, {"texts": "node 1 has the id 'a', expected one that no other node has."}),
    (lambda g: {"titles": column(["a", " ", *"b" * 28])}, {"texts": "node 1 ('n1') has an empty title.", "card": ""}),
    (
        lambda g: {"x": changed(torch.zeros(30, 2), 3, float("inf"))},
        {"features": "The features of node 'n3' (row 3, column 0) are inf; 2 of 60 values are not finite."},
    ),
    (lambda g: {"split": torch.ones(30, dtype=torch.int8)}, {"split": "no node is in train or test."}),
    (lambda g: {"card": g.card | {"edges": 31}}, {"card": "it says 31 edges, found 30."}),
    (lambda g: {"bodies": column(["changed"] * 30)}, {"card": "its fingerprint is "}),
]


@pytest.mark.parametrize(("change", "expected"), DAMAGES)
def test_a_damaged_graph_fails_where_it_is_damaged(change: Change, expected: dict[str, str], tmp_path: Path) -> None:
    graph = build()
    found = results(replace(graph, **change(graph)), tmp_path / "graph")
    failed = {name: message for name, message in found.items() if message is not None}
    assert failed.keys() == expected.keys()
    for name, message in expected.items():
        assert message in (failed[name] or ""), failed[name]


def test_what_cannot_be_opened_fails_the_first_check(tmp_path: Path) -> None:
    build().save(tmp_path / "graph")
    (tmp_path / "graph" / "graph.safetensors").write_bytes(b"")
    (result,) = check(tmp_path / "graph")
    assert result[0].startswith(f"files: {tmp_path / 'graph' / 'graph.safetensors'} is damaged") and not result[1]


def test_degrees_of_a_real_graph() -> None:
    degrees = make_graph().rowptr.diff().numpy()
    bins = dict(by_degree(degrees))
    assert bins["0"] == Counter(degrees.tolist())[0]
    assert json.dumps(bins)
