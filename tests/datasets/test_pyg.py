"""The ``pyg`` dataset: a saved ``Data`` with texts; nothing in the file runs."""

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch_geometric.data import Data, HeteroData

from graphgpt.datasets.pyg import PygConfig, PygFile
from graphgpt.errors import DataError
from graphgpt.graphs import stored
from graphgpt.registry import DATASETS

ATTRIBUTES: dict[str, Any] = {
    "x": torch.arange(8.0).view(4, 2),
    "edge_index": torch.tensor([[0, 1, 1, 2], [1, 0, 2, 3]]),
    "y": torch.tensor([0, 1, 1, -1]),
    "title": ["A", "B", "C", ""],
    "raw_texts": ["About a", "About b", "About c", "One two"],
    "label_names": ["Zoology", "Botany"],
    "train_mask": torch.tensor([True, False, False, False]),
    "val_mask": torch.tensor([False, False, False, False]),
    "test_mask": torch.tensor([False, True, True, False]),
}


def dataset(folder: Path, saved: Any, **fields: Any) -> PygFile:
    torch.save(saved, folder / "data.pt")
    return PygFile(PygConfig(name="pyg", text_encoder={}, path=str(folder / "data.pt"), **fields))


def without(*keys: str, **changed: Any) -> dict[str, Any]:
    return {key: value for key, value in (ATTRIBUTES | changed).items() if key not in keys}


def test_is_registered() -> None:
    assert DATASETS.get("pyg") is PygFile


@pytest.mark.parametrize("form", [lambda attributes: Data(**attributes), dict])
def test_reads_all_of_it(tmp_path: Path, form: Any) -> None:
    graph = dataset(tmp_path, form(ATTRIBUTES)).build()
    assert graph.ids.to_pylist() == ["0", "1", "2", "3"]
    assert graph.titles.to_pylist() == ["A", "B", "C", "One two"]
    assert graph.bodies.to_pylist() == ATTRIBUTES["raw_texts"]
    assert [graph.neighbors(i).tolist() for i in range(4)] == [[1], [0, 2], [1, 3], [2]]
    assert graph.class_names == ("Zoology", "Botany") and graph.y.tolist() == [0, 1, 1, -1]
    assert graph.features.tolist() == ATTRIBUTES["x"].tolist()
    assert graph.split is not None and graph.split.tolist() == [0, 2, 2, -1]
    assert (graph.card["name"], graph.card["files"]) == ("pyg", ["data.pt"])


def test_the_least_that_is_enough(tmp_path: Path) -> None:
    graph = dataset(tmp_path, Data(edge_index=ATTRIBUTES["edge_index"], text=list("abcd"))).build()
    assert graph.titles.to_pylist() == list("abcd")
    assert graph.x is None and graph.split is None and graph.class_names == () and graph.y.tolist() == [-1] * 4


def test_other_forms(tmp_path: Path) -> None:
    saved = without(
        "label_names",
        y=torch.tensor([[0.0], [1.0], [1.0], [float("nan")]]),
        x=np.eye(4),
        category_names=["Art", "Physics", "Physics", "?"],
        title=np.array(["A", "B", "C", "D"]),
        **{key: ATTRIBUTES[key].unsqueeze(1).repeat(1, 3) for key in ("train_mask", "val_mask", "test_mask")},
    )
    graph = dataset(tmp_path, Data(**saved)).build()
    assert graph.class_names == ("Art", "Physics") and graph.y.tolist() == [0, 1, 1, -1]
    assert graph.features.dtype == torch.float32 and graph.features.tolist() == np.eye(4).tolist()
    assert graph.title(3) == "D"
    assert graph.split is not None and graph.split.tolist() == [0, 2, 2, -1]


def test_given_classes_and_features_win(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.ones((4, 3)))
    graph = dataset(tmp_path, Data(**ATTRIBUTES), classes=["One", "Two"], features=str(tmp_path / "x.npy")).build()
    assert graph.class_names == ("One", "Two")
    assert graph.features.shape == (4, 3)
    assert graph.card["files"] == ["data.pt", "x.npy"]


def test_classes_without_names_are_numbered(tmp_path: Path) -> None:
    assert dataset(tmp_path, Data(**without("label_names"))).build().class_names == ("class 0", "class 1")


@pytest.mark.parametrize(
    ("saved", "message"),
    [
        (without("title", "raw_texts"), "expected texts under one of 'title', 'titles', 'text', "),
        (without("edge_index"), "expected edge_index (or adj_t), found 'label_names', "),
        (
            without(edge_index=torch.zeros(3, 2, dtype=torch.long)),
            "edge_index is torch.int64 of shape [3, 2], expected integers of shape [2, e]",
        ),
        (without(edge_index=torch.zeros(2, 2)), "edge_index is torch.float32 of shape [2, 2], expected integers"),
        (
            without(edge_index=torch.tensor([[0, 1], [1, 4]])),
            "edge_index[1, 1] is 4, expected a node below 4, the number of texts; 1 ",
        ),
        (without(edge_index=[[0], [1]]), "edge_index is a list, expected integers of shape [2, e], or a sparse matrix."),
        (without(title=["A"]), "title has 1 texts and raw_texts has 4, expected as many: one per node."),
        (without(title="ABCD"), "title is a str, expected a list of strings."),
        (without(title=["A", "B", 3, "D"]), "title[2] is 3, expected a string."),
        (without(y=torch.tensor([0, 1])), "y has shape [2], expected [4]: one label per node."),
        (without(y=torch.tensor([0, 0.5, 1, 1])), "y[1] is 0.5, expected the number of a class."),
        (without(y=torch.tensor([0, 1, 2, 2])), "label_names has 2 names, expected at least 3: the labels go up to 2."),
        (without(label_names=["A", "A"]), "label_names names 'A' more than once."),
        (
            without("label_names", category_names=["Art", "Physics", "Maths", "?"]),
            "category_names calls the label 1 'Physics' and, at node 2, 'Maths'.",
        ),
        (without(x=torch.zeros(3, 2)), "Node features have shape [3, 2], expected [4, d]: one row per node."),
        (without(x=torch.full((4, 1), float("nan"))), "The features of node '0' (row 0, column 0) are nan"),
        (without(train_mask=torch.ones(4)), "train_mask is torch.float32 of shape [4], expected torch.bool of shape [4]."),
        (without(val_mask=torch.tensor([True] * 4)), "node 0 is in train_mask and in val_mask."),
    ],
)
def test_refuses_in_words(tmp_path: Path, saved: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=re.escape(message)) as caught:
        dataset(tmp_path, saved).build()
    assert str(tmp_path / "data.pt") in str(caught.value)


@pytest.mark.parametrize("form", ["coo", "csr", "csc"])
def test_sparse_features_are_made_dense(tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x = {"coo": torch.eye(4).to_sparse(), "csr": torch.eye(4).to_sparse_csr(), "csc": torch.eye(4).to_sparse_csc()}[form]
    assert dataset(tmp_path, Data(**without(x=x))).build().features.tolist() == np.eye(4).tolist()
    monkeypatch.setattr(stored, "LARGEST_DENSE", 15)
    with pytest.raises(DataError, match="x is sparse, and 4 x 4 = 16 numbers when made dense; make it smaller first"):
        dataset(tmp_path, Data(**without(x=x))).build()


def test_adjacency_matrices_are_edges(tmp_path: Path) -> None:
    expected = dataset(tmp_path, Data(**ATTRIBUTES)).build().fingerprint
    matrix = torch.sparse_coo_tensor(ATTRIBUTES["edge_index"], torch.ones(4), (4, 4))
    for saved in ({"adj_t": matrix.to_sparse_csr()}, {"adj": matrix}, {"edge_index": matrix}):
        assert dataset(tmp_path, Data(**(without("edge_index") | saved))).build().fingerprint == expected


def test_sparse_tensors_that_point_elsewhere_are_refused(tmp_path: Path) -> None:
    with torch.sparse.check_sparse_tensor_invariants(False):
        matrix = torch.sparse_coo_tensor(torch.tensor([[0, 9], [1, 1]]), torch.ones(2), (4, 4), check_invariants=False)
        made = dataset(tmp_path, without(edge_index=matrix))
    with pytest.raises(DataError, match=r"data\.pt"):
        made.build()


def test_texts_and_names_from_numpy(tmp_path: Path) -> None:
    names = [np.str_("Zoology"), np.str_("Botany")]
    saved = without(raw_texts=list(np.array(ATTRIBUTES["raw_texts"])), label_names=names, train_mask=ATTRIBUTES["train_mask"])
    graph = dataset(tmp_path, Data(**saved)).build()
    assert graph.fingerprint == dataset(tmp_path, Data(**ATTRIBUTES)).build().fingerprint


@pytest.mark.parametrize(("key", "what"), [("raw_texts", "A text of the node '1'"), ("label_names", "A class name")])
def test_half_of_a_character(tmp_path: Path, key: str, what: str) -> None:
    broken = [*ATTRIBUTES[key]]
    broken[1] = "cut in half \ud83d"
    with pytest.raises(DataError, match=re.escape(f"{what} holds \\ud83d, half of a character, expected both halves.")):
        dataset(tmp_path, Data(**without(**{key: broken}))).build()


def test_graphs_by_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds graphs by name \('cora', 'pubmed'\), as the graph file of dataset=graphgpt_json does"):
        dataset(tmp_path, {"cora": Data(**ATTRIBUTES), "pubmed": Data(**ATTRIBUTES)}).build()


def test_numbers_of_classes_that_leave_most_out(tmp_path: Path) -> None:
    y = torch.tensor([0, 1, 20_000, -1])
    message = "y goes up to 20000 with 3 different numbers, which would make 19998 classes without a node: number them from 0 on"
    with pytest.raises(DataError, match=re.escape(message)):
        dataset(tmp_path, Data(**without("label_names", y=y))).build()
    assert len(dataset(tmp_path, Data(**without("label_names", y=y.clamp(max=3)))).build().class_names) == 4


@pytest.mark.parametrize("edges", [torch.ones(2, 2, dtype=torch.bool), torch.ones(2, 2, dtype=torch.complex64)])
def test_edges_that_are_no_integers(tmp_path: Path, edges: torch.Tensor) -> None:
    with pytest.raises(DataError, match=re.escape(f"edge_index is {edges.dtype} of shape [2, 2], expected integers of shape [2, e]")):
        dataset(tmp_path, without(edge_index=edges)).build()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1",
            "is a Git-LFS pointer, not the file it stands for: fetch that with 'git lfs pull'",
        ),
        (
            b"<!DOCTYPE html>",
            "is a web page (HTML): what was downloaded is a page about the file; download the file itself; ",
        ),
        (b"<?xml?><graphml>", "is GraphML: write its nodes and edges into two tables (networkx reads it); expected a torch_"),
    ],
)
def test_files_of_another_kind_are_called_by_their_name(tmp_path: Path, content: bytes, message: str) -> None:
    made = dataset(tmp_path, {})
    (tmp_path / "data.pt").write_bytes(content)
    with pytest.raises(DataError, match=re.escape(message)):
        made.build()


ODD: list[Any] = [
    *(None, True, 3, 1.5, "text", "", [], {}, (), [None], [[1]], [1, 2, 3, 4], {"a": 1}, ["a", "b", "c", "d"], b"bytes"),
    *(torch.tensor(1), torch.zeros(0), torch.zeros(4), torch.zeros(4, 0), torch.zeros(2, 2, 2), torch.ones(4, 4, dtype=torch.bool)),
    *(torch.full((4,), 2**62), torch.full((2, 2), -1), torch.full((4, 2), float("inf")), torch.zeros(4, dtype=torch.complex64)),
    *(torch.eye(4).to_sparse(), torch.eye(4).to_sparse_csr(), torch.zeros(4, 2, dtype=torch.bfloat16), torch.ones(4, 2).to_sparse()),
    *(
        torch.ones(2, 3, device="meta"),
        torch.nn.Parameter(torch.ones(4, 2)),
    ),
    *(np.zeros(4), np.array(["a"] * 4), np.array([1j] * 4), np.float64(1), np.str_("a"), np.array([[0, 1], [1, 2]]), np.array(3)),
]


@pytest.mark.parametrize("key", [*ATTRIBUTES, "adj_t"])
def test_any_value_under_any_key_is_read_or_refused_in_a_sentence(tmp_path: Path, key: str) -> None:
    for value in ODD:
        made = dataset(tmp_path, without(**{key: value}))
        try:
            made.build()
        except DataError as error:
            assert str(tmp_path / "data.pt") in str(error) or "half of a character" in str(error), (key, value)


class Malicious:
    """Would make a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("place", ["alone", "among the attributes"])
def test_a_malicious_file_is_refused_and_does_nothing(tmp_path: Path, place: str) -> None:
    bomb = Malicious(tmp_path / "boom")
    made = dataset(tmp_path, bomb if place == "alone" else Data(**ATTRIBUTES, bomb=bomb))
    expected = re.escape(f"{tmp_path / 'data.pt'} is refused: it names '{os.system.__module__}.system', which ")
    with pytest.raises(DataError, match=expected):
        made.build()
    assert not (tmp_path / "boom").exists()


@pytest.mark.parametrize("saved", [[1, 2], torch.zeros(3), HeteroData()])
def test_refuses_other_objects(tmp_path: Path, saved: Any) -> None:
    with pytest.raises(DataError, match="expected a torch_geometric Data or a dictionary of its attributes, found a"):
        dataset(tmp_path, saved).build()


@pytest.mark.parametrize("content", [b"", b"id,title\n", b"PK\x03\x04 and no more"])
def test_refuses_other_files(tmp_path: Path, content: bytes) -> None:
    made = dataset(tmp_path, {})
    (tmp_path / "data.pt").write_bytes(content)
    with pytest.raises(DataError, match=r"data\.pt is (refused: it is no file of tensors|damaged, )"):
        made.build()


def test_problems_and_fingerprint(tmp_path: Path) -> None:
    made = dataset(tmp_path, Data(**ATTRIBUTES))
    assert PygFile.problems(made.config) == []
    missing = PygConfig(name="pyg", text_encoder={}, path=str(tmp_path / "date.pt"))
    assert PygFile.problems(missing) == [f"dataset.path={tmp_path / 'date.pt'}: there is no such file. Did you mean 'data.pt'?"]
    first = made.fingerprint()
    assert dataset(tmp_path, Data(**ATTRIBUTES), classes=["A", "B"]).fingerprint() != first
    assert dataset(tmp_path, Data(**without(y=torch.tensor([1, 1, 1, 1])))).fingerprint() != first
