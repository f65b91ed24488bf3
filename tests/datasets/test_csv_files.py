"""The ``csv`` dataset: what it reads, and what it refuses in which words."""

import csv
import gzip
import os
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graphgpt.datasets.csv_files import NO_TEXT, CsvConfig, CsvFiles
from graphgpt.errors import DataError
from graphgpt.graphs.graph import TextAttributedGraph
from graphgpt.registry import DATASETS

NODES = "id,title,body,label\na,First,About one,X\nb,Second,About two,Y\nc,Third,About three,X\n"
EDGES = "source,target\na,b\nb,c\n"


def dataset(folder: Path, nodes: str | bytes = NODES, edges: str | bytes = EDGES, **fields: Any) -> CsvFiles:
    for name, content in (("nodes.csv", nodes), ("edges.csv", edges)):
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return CsvFiles(
        CsvConfig(name="csv", text_encoder={"name": "any"}, nodes=str(folder / "nodes.csv"), edges=str(folder / "edges.csv"), **fields)
    )


def edge_set(graph: TextAttributedGraph) -> set[frozenset[str]]:
    ids = graph.ids.to_pylist()
    return {frozenset((ids[i], ids[j])) for i in range(graph.num_nodes) for j in graph.neighbors(i).tolist()}


def refuses(folder: Path, message: str, **content: Any) -> None:
    with pytest.raises(DataError, match=re.escape(message)):
        dataset(folder, **content).build()


def test_reads_texts_labels_and_edges(tmp_path: Path) -> None:
    graph = dataset(tmp_path).build()
    assert graph.ids.to_pylist() == ["a", "b", "c"]
    assert graph.titles.to_pylist() == ["First", "Second", "Third"]
    assert graph.bodies.to_pylist() == ["About one", "About two", "About three"]
    assert graph.class_names == ("X", "Y")
    assert graph.y.tolist() == [0, 1, 0]
    assert edge_set(graph) == {frozenset("ab"), frozenset("bc")}
    assert graph.split is None and graph.x is None
    assert graph.card["name"] == "csv"
    assert graph.card["files"] == ["nodes.csv", "edges.csv"]


def test_is_registered() -> None:
    assert DATASETS.get("csv") is CsvFiles


def test_given_classes_keep_their_order(tmp_path: Path) -> None:
    graph = dataset(tmp_path, classes=["Y", "Z", "X"]).build()
    assert graph.class_names == ("Y", "Z", "X")
    assert graph.y.tolist() == [2, 0, 2]


def test_columns_in_any_order_and_others_ignored(tmp_path: Path) -> None:
    graph = dataset(tmp_path, "year,body,id\n1990,One text,a\n1991,Two texts,b\n", "weight,target,source\n1,b,a\n").build()
    assert graph.titles.to_pylist() == ["One text", "Two texts"]
    assert graph.class_names == ()
    assert graph.y.tolist() == [-1, -1]
    assert edge_set(graph) == {frozenset("ab")}


def test_split(tmp_path: Path) -> None:
    graph = dataset(tmp_path, "id,title,split\na,A,train\nb,B,test\nc,C,\n").build()
    assert graph.split is not None and graph.split.tolist() == [0, 2, -1]


def test_empty_label_empty_text_loops_and_duplicates_are_kept_or_counted(tmp_path: Path) -> None:
    graph = dataset(tmp_path, "id,title,body,label\na,A,,X\nb,,,\n", "source,target\na,b\nb,a\na,a\n").build()
    assert graph.y.tolist() == [0, -1]
    assert graph.title(1) == "node b"
    assert (graph.card["unlabelled"], graph.card["without_text"]) == (1, 1)
    assert (graph.card["self_loops_dropped"], graph.card["duplicate_edges_dropped"]) == (1, 1)


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_line_ends_byte_order_mark_and_blank_lines(tmp_path: Path, newline: str) -> None:
    nodes = ("\ufeff" + NODES + "\n").replace("\n", newline)
    assert dataset(tmp_path, nodes, EDGES.replace("\n", newline)).build().fingerprint == dataset(tmp_path).build().fingerprint


def test_quoted_body_over_several_lines_and_a_very_long_one(tmp_path: Path) -> None:
    body, long = 'She said "yes",\nthen left.', "word " * 50_000
    quoted = body.replace('"', '""')
    graph = dataset(tmp_path, f'id,body\na,"{quoted}"\nb,{long}\n', "source,target\na,b\n").build()
    assert graph.bodies.to_pylist() == [body, long]


def test_spaces_around_ids_labels_and_splits_do_not_count(tmp_path: Path) -> None:
    graph = dataset(tmp_path, "id, title, label, split\n a ,A, X, val\nb,B,X,\n", "source, target\na, b\n").build()
    assert graph.ids.to_pylist() == ["a", "b"]
    assert graph.class_names == ("X",)
    assert graph.split is not None and graph.split.tolist() == [1, -1]
    assert edge_set(graph) == {frozenset("ab")}


def test_features(tmp_path: Path) -> None:
    x = np.arange(6, dtype=np.float64).reshape(3, 2)
    np.save(tmp_path / "x.npy", x)
    graph = dataset(tmp_path, features=str(tmp_path / "x.npy")).build()
    assert graph.features.dtype == torch.float32
    assert graph.features.tolist() == x.tolist()
    assert graph.card["files"] == ["nodes.csv", "edges.csv", "x.npy"]


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ("", "nodes.csv is empty, expected a header with 'id' and records below it."),
        ("id,title\n", "nodes.csv holds nothing but a header, expected records below it."),
        ("id,tite,body\na,A,B\n", "nodes.csv, line 1: the column 'tite' is unknown. Did you mean 'title'?"),
        ("ID,title\na,A\n", "nodes.csv, line 1: the column 'ID' is unknown. Did you mean 'id'?"),
        ("id;tite\na;A\n", "nodes.csv, line 1: the column 'tite' is unknown. Did you mean 'title'?"),
        ("id/title\na/A\n", "nodes.csv, line 1: expected a column 'id', found 'id/title'."),
        ("id,label\na,X\n", "nodes.csv, line 1: expected a column 'title' or 'body', found 'id', 'label'."),
        ("id,title,title\na,A,B\n", "nodes.csv, line 1: the column 'title' is there more than once."),
        ("id,title\na,A\nb,B\na,C\n", "nodes.csv, line 4: the id 'a' is taken already, by the node on line 2."),
        ('id,title\na,"A\nA"\n,B\n', "nodes.csv, line 4: the id is empty, expected one that no other node has."),
        ("id,title\na,A\n\nb,B, and more\n", "nodes.csv, line 4: 3 fields, expected 2 as in the header"),
        ("id,title,body\na,A\n", "nodes.csv, line 2: 2 fields, expected 3 as in the header"),
        ("id,title,split\na,A,trian\n", "nodes.csv, line 2: the split 'trian' is unknown. Did you mean 'train'?"),
        ("id,title,split\na,A,1\n", "nodes.csv, line 2: the split '1' is unknown. Known: test, train, val."),
        ('id,title\na,A\nb,"B\nc,C\n', "nodes.csv, line 3: the record that starts here is not CSV (unexpected end of data)"),
        (b"id,title\na,A\nb,caf\xe9\n", "nodes.csv, line 3: the byte 0xE9 is not UTF-8, expected a file saved as UTF-8."),
    ],
)
def test_refuses_nodes(tmp_path: Path, nodes: str | bytes, message: str) -> None:
    refuses(tmp_path, message, nodes=nodes)


@pytest.mark.parametrize(
    ("edges", "message"),
    [
        ("", "edges.csv is empty, expected a header with 'source', 'target' and records below it."),
        ("source,target\n", "edges.csv holds nothing but a header, expected records below it."),
        ("source,targt\na,b\n", "edges.csv, line 1: the column 'targt' is unknown. Did you mean 'target'?"),
        ("from,to\na,b\n", "edges.csv, line 1: expected a column 'source', found 'from', 'to'."),
        ("source,target\na,b\nb\n", "edges.csv, line 3: 1 field, expected 2 as in the header"),
        ("source,target\na,b\n,b\n", "edges.csv, line 3: the source '' is not an id in "),
    ],
)
def test_refuses_edges(tmp_path: Path, edges: str, message: str) -> None:
    refuses(tmp_path, message, edges=edges)


def test_refuses_an_edge_to_an_unknown_node(tmp_path: Path) -> None:
    nodes = "id,title\npaper_1,A\npaper_2,B\n"
    refuses(tmp_path, "nodes.csv. Did you mean 'paper_1'?", nodes=nodes, edges="source,target\npaper_2,papr_1\n")
    with pytest.raises(DataError, match=r"edges.csv, line 2: the target 'zzz' is not an id in \S*nodes.csv\. 1 of 1 edges "):
        dataset(tmp_path, nodes, "source,target\npaper_2,zzz\n").build()


def test_refuses_a_label_that_is_no_class(tmp_path: Path) -> None:
    nodes = "id,title,label\na,A,Theory\nb,B,Theroy\n"
    message = "nodes.csv, line 3: the label 'Theroy' is not in dataset.classes. Did you mean 'Theory'?"
    refuses(tmp_path, message, nodes=nodes, classes=["Theory", "Practice"])


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.ones((2, 4)), "x.npy: Node features have shape [2, 4], expected [3, d]"),
        (np.ones(3), "x.npy: Node features have shape [3], expected [3, d]"),
        (np.array([[0.0], [np.nan], [0.0]]), "x.npy: The features of node 'b' (row 1, column 0) are nan"),
        (np.array([[0.0], [0.0], [1e300]]), "x.npy: The features of node 'c' (row 2, column 0) are inf"),
        (np.array([["1"], ["2"], ["3"]]), "x.npy: expected one array of real numbers as numpy.save writes it, found values of type <U1."),
        (np.array([[None], [None], [None]]), "x.npy: expected numbers as numpy.save writes them, but: "),
    ],
)
def test_refuses_features(tmp_path: Path, x: np.ndarray, message: str) -> None:
    np.save(tmp_path / "x.npy", x, allow_pickle=True)
    refuses(tmp_path, message, features=str(tmp_path / "x.npy"))


def test_refuses_features_that_are_another_kind_of_file(tmp_path: Path) -> None:
    (tmp_path / "x.npy").write_text("1,2\n")
    refuses(tmp_path, "x.npy: expected numbers as numpy.save writes them", features=str(tmp_path / "x.npy"))
    np.savez(tmp_path / "x.npz", x=np.ones((3, 1)))
    refuses(tmp_path, "x.npz: expected one array of real numbers", features=str(tmp_path / "x.npz"))


def test_problems(tmp_path: Path) -> None:
    good = dataset(tmp_path)
    assert CsvFiles.problems(good.config) == []
    missing = CsvConfig(
        name="csv", text_encoder={}, nodes=str(tmp_path / "node.csv"), edges=str(tmp_path / "nowhere" / "e.csv"), classes=["A", "B", "A"]
    )
    assert CsvFiles.problems(missing) == [
        f"dataset.nodes={tmp_path / 'node.csv'}: there is no such file. Did you mean 'nodes.csv'?",
        f"dataset.edges={tmp_path / 'nowhere' / 'e.csv'}: there is no such file.",
        "dataset.classes names 'A' more than once.",
    ]


def test_fingerprint_follows_content_not_place(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    first = dataset(tmp_path / "one").fingerprint()
    assert dataset(tmp_path / "two").fingerprint() == first
    assert dataset(tmp_path / "two", classes=["X", "Y"]).fingerprint() != first
    assert dataset(tmp_path / "two", edges=EDGES + "a,c\n").fingerprint() != first


# Surrogates cannot be written as UTF-8; a carriage return counts as a space, and a title's outer spaces are not kept.
# Nor are words that stand for no text, which hypothesis finds in our source.
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30).filter(lambda text: text.strip() not in NO_TEXT)
names = texts.map(str.strip).filter(bool)


@given(data=st.data(), ids=st.lists(names, min_size=1, max_size=6, unique=True))
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_written_is_read_back(tmp_path: Path, data: st.DataObject, ids: list[str]) -> None:
    records = [(name, data.draw(names), data.draw(texts), data.draw(st.sampled_from(["", "A", "B, C", 'D "d"']))) for name in ids]
    edges = data.draw(st.lists(st.tuples(st.sampled_from(ids), st.sampled_from(ids)), min_size=1, max_size=10))
    for file_name, header, rows in (("nodes.csv", NODES.splitlines()[0], records), ("edges.csv", "source,target", edges)):
        with (tmp_path / file_name).open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([header.split(","), *rows])

    config = CsvConfig(name="csv", text_encoder={}, nodes=str(tmp_path / "nodes.csv"), edges=str(tmp_path / "edges.csv"))
    graph = CsvFiles(config).build()
    assert graph.ids.to_pylist() == ids
    assert graph.titles.to_pylist() == [title for _, title, _, _ in records]
    assert graph.bodies.to_pylist() == [body for _, _, body, _ in records]
    assert ["" if y < 0 else graph.class_names[y] for y in graph.y.tolist()] == [label for *_, label in records]
    assert edge_set(graph) == {frozenset(edge) for edge in edges if edge[0] != edge[1]}


@pytest.mark.parametrize(("separator", "name"), [(";", "semicolons"), ("\t", "tabs"), ("|", "bars")])
def test_other_separators_are_recognised_and_said(tmp_path: Path, separator: str, name: str) -> None:
    expected = dataset(tmp_path).build()
    graph = dataset(tmp_path, NODES.replace(",", separator), EDGES.replace(",", separator)).build()
    assert graph.fingerprint == expected.fingerprint and expected.card["notes"] == []
    assert graph.card["notes"] == [f"{file}.csv: the fields are separated by {name}." for file in ("nodes", "edges")]


def test_the_line_that_excel_writes_above_the_header(tmp_path: Path) -> None:
    graph = dataset(tmp_path, "\ufeffsep=;\r\n" + NODES.replace(",", ";"), "sep=,\n" + EDGES).build()
    assert graph.fingerprint == dataset(tmp_path).build().fingerprint
    refuses(tmp_path, "nodes.csv, line 4: the id 'a' is taken already, by the node on line 3.", nodes="sep=;\nid;title\na;A\na;B\n")


def test_spaces_before_quotes(tmp_path: Path) -> None:
    graph = dataset(
        tmp_path, 'id, title, body\na, "A, the first", "he said ""yes"""\nb, "B", plain\n', 'source, target\n"a", "b"\n'
    ).build()
    assert graph.titles.to_pylist() == ["A, the first", "B"] and graph.bodies.to_pylist() == ['he said "yes"', "plain"]
    assert edge_set(graph) == {frozenset("ab")}


def test_a_space_before_a_text_without_quotes_is_the_text_s_own(tmp_path: Path) -> None:
    graph = dataset(tmp_path, 'id,title,body\na,A, said ""\nb,B,"ends with, "\n', "source,target\na,b\n").build()
    assert graph.bodies.to_pylist() == [' said ""', "ends with, "]


def test_compressed_tables(tmp_path: Path) -> None:
    graph = dataset(tmp_path, gzip.compress(NODES.encode()), gzip.compress(EDGES.encode())).build()
    assert graph.fingerprint == dataset(tmp_path).build().fingerprint
    refuses(tmp_path, "nodes.csv is damaged after line ", nodes=gzip.compress(NODES.encode())[:-9])
    refuses(tmp_path, "nodes.csv, line 2: the byte 0xE9 is not UTF-8", nodes=gzip.compress(b"id,title\na,caf\xe9\n"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "nodes.csv is a Git-LFS pointer, not the file it stands for: fetch that with "),
        (
            b"<!doctype html><html>",
            "nodes.csv is a web page (HTML): what was downloaded is a page about the file; download the file itself.",
        ),
        (b"SQLite format 3\x00", "nodes.csv is an SQLite database: export its tables as CSV."),
        (b'[{"id": 1}]', "nodes.csv is JSON: write what is needed of it into tables."),
    ],
)
def test_files_of_another_kind_are_called_by_their_name(tmp_path: Path, content: bytes, message: str) -> None:
    refuses(tmp_path, message, nodes=content)


def test_parquet_is_told_by_its_content(tmp_path: Path) -> None:
    made = dataset(tmp_path)
    for name in ("nodes", "edges"):
        pq.write_table(pa.csv.read_csv(tmp_path / f"{name}.csv"), tmp_path / f"{name}.csv")
    assert made.build().class_names == ("X", "Y")


def test_an_excel_workbook(tmp_path: Path) -> None:
    made = dataset(tmp_path)
    try:
        import openpyxl
    except ImportError:
        with zipfile.ZipFile(tmp_path / "nodes.csv", "w") as archive:
            archive.writestr("xl/workbook.xml", "")
        with pytest.raises(DataError, match=r"nodes\.csv is an Excel workbook: install what reads it \(pip install openpyxl\), or"):
            made.build()
        return
    expected = made.build().fingerprint
    for name, content in (("nodes", NODES), ("edges", EDGES)):
        book = openpyxl.Workbook()
        for row in csv.reader(content.splitlines()):
            book.active.append(row)
        book.save(tmp_path / f"{name}.csv")
    assert made.build().fingerprint == expected


def test_labels_and_texts_that_say_nothing(tmp_path: Path) -> None:
    nodes = "id,title,body,label\na,nan,nan,X\nb,None,text,nan\nc,C,x,-1\nd,D,x,X\n"
    graph = dataset(tmp_path, nodes, "source,target\na,b\n").build()
    assert graph.class_names == ("X",) and graph.y.tolist() == [0, -1, -1, 0]
    assert graph.titles.to_pylist() == ["node a", "text", "C", "D"]
    assert graph.card["notes"] == [
        "nodes.csv: the label 'nan' (1 node), '-1' (1 node) was taken for unlabelled; --classes (dataset.classes) names a class that is "
        "really called so.",
        "nodes.csv: 'nan' (2 x), 'None' (1 x) as a title or a body was taken for no text.",
    ]
    assert dataset(tmp_path, nodes, "source,target\na,b\n", classes=["X", "nan", "-1"]).build().y.tolist() == [0, 1, 2, 0]


def test_labels_joined_on_request(tmp_path: Path) -> None:
    nodes = "id,title,label\na,A,Birds\nb,B,birds\nc,C,Birds\n"
    assert dataset(tmp_path, nodes).build().class_names == ("Birds", "birds")
    assert dataset(tmp_path, nodes, normalize=True).build().class_names == ("Birds",)
    assert dataset(tmp_path, nodes, normalize=True).fingerprint() != dataset(tmp_path, nodes).fingerprint()


def test_edges_to_unknown_nodes_are_counted_and_left_out_on_request(tmp_path: Path) -> None:
    edges = "source,target\na,b\na,paper 7\nb,c\nzz,zzz\n"
    refuses(
        tmp_path,
        "nodes.csv. 2 of 4 edges name a node that is not there (line 3, 5); dataset.unknown_nodes=skip leaves such edges out.",
        edges=edges,
    )
    graph = dataset(tmp_path, edges=edges, unknown_nodes="skip").build()
    assert edge_set(graph) == {frozenset("ab"), frozenset("bc")}
    assert graph.card["notes"] == ["edges.csv: 2 of 4 edges name a node that is not there (line 3, 5) and were left out."]


def test_an_empty_split_column_is_none(tmp_path: Path) -> None:
    assert dataset(tmp_path, "id,title,split\na,A,\nb,B,\n", "source,target\na,b\n").build().split is None


def test_home_folders_pipes_and_unreadable_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    dataset(tmp_path)
    read, write = os.pipe()
    config = CsvConfig(name="csv", text_encoder={}, nodes="~/nodes.csv", edges=f"/dev/fd/{read}", features="~")
    assert config.nodes == str(tmp_path / "nodes.csv")
    assert CsvFiles.problems(config) == [
        f"dataset.edges=/dev/fd/{read}: this is no regular file (a pipe can be read only once): save it as a file first.",
        f"dataset.features={tmp_path}: this is a folder, expected a file.",
    ]
    os.close(read), os.close(write)


EDITED = NODES.encode() + 'd,Ünïcode,"quoted, text",Z\n'.encode()


@given(data=st.data(), separator=st.sampled_from(",;\t|"), compress=st.booleans())
@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_an_edited_table_is_read_or_refused_in_a_sentence(tmp_path: Path, data: st.DataObject, separator: str, compress: bool) -> None:
    """Bytes put in, taken out or in another's place, anywhere, also in the compressed file."""
    content = bytearray(EDITED.replace(b",", separator.encode()))
    content = bytearray(gzip.compress(content)) if compress else content
    odd = st.sampled_from(
        [b'"', b",", b";", b"\n", b"\r", b"\x00", b"\xff", b" ", b"sep=;\n", b"\xef\xbb\xbf", b"id", b"nan", b"\xe2\x80", b"'"]
    )
    for _ in range(data.draw(st.integers(1, 4))):
        at, width = data.draw(st.integers(0, len(content))), data.draw(st.integers(0, 3))
        content[at : at + width] = data.draw(odd | st.binary(max_size=3))
    try:
        graph = dataset(tmp_path, bytes(content), "source,target\na,b\n", unknown_nodes="skip").build()
        assert graph.num_nodes == len(set(graph.ids.to_pylist()))
    except DataError as error:
        assert "nodes.csv" in str(error) and str(error).endswith((".", "?", ")"))


def test_cora() -> None:
    folder = Path(os.environ.get("GRAPHGPT_TEST_DATA", "")) / "cora"
    if not os.environ.get("GRAPHGPT_TEST_DATA") or not folder.is_dir():
        pytest.skip("GRAPHGPT_TEST_DATA names no folder with cora/nodes.csv and cora/edges.csv")
    config = CsvConfig(name="csv", text_encoder={}, nodes=str(folder / "nodes.csv"), edges=str(folder / "edges.csv"))
    graph = CsvFiles(config).build()
    assert (graph.num_nodes, graph.num_edges, len(graph.class_names)) == (2708, 5278, 7)
    assert graph.homophily() == pytest.approx(0.81, abs=0.01)
    assert (graph.y >= 0).all()
