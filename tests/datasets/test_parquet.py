"""The ``csv`` dataset on Parquet files: the same graph as from CSV, and what is refused."""

import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from graphgpt.datasets.csv_files import CsvConfig, CsvFiles
from graphgpt.errors import DataError
from graphgpt.graphs import tables

NODES: dict[str, Any] = {
    "id": [1, 2, 3],
    "title": ["First", "Second", None],
    "body": ["About one", None, "About three"],
    "label": ["X", "Y", None],
    "split": ["train", "test", None],
}
EDGES: dict[str, Any] = {"source": [1, 2], "target": [2, 3]}


def dataset(folder: Path, nodes: Any = NODES, edges: Any = EDGES) -> CsvFiles:
    for name, table in (("nodes", nodes), ("edges", edges)):
        pq.write_table(table if isinstance(table, pa.Table) else pa.table(table), folder / f"{name}.parquet")
    return CsvFiles(CsvConfig(name="csv", text_encoder={}, nodes=str(folder / "nodes.parquet"), edges=str(folder / "edges.parquet")))


def test_the_same_graph_as_from_csv(tmp_path: Path) -> None:
    (tmp_path / "nodes.csv").write_text("id,title,body,label,split\n1,First,About one,X,train\n2,Second,,Y,test\n3,,About three,,\n")
    (tmp_path / "edges.csv").write_text("source,target\n1,2\n2,3\n")
    config = CsvConfig(name="csv", text_encoder={}, nodes=str(tmp_path / "nodes.csv"), edges=str(tmp_path / "edges.csv"))
    expected, graph = CsvFiles(config).build(), dataset(tmp_path).build()
    assert graph.fingerprint == expected.fingerprint
    assert graph.ids.to_pylist() == expected.ids.to_pylist() == ["1", "2", "3"]
    assert graph.split is not None and graph.split.tolist() == [0, 2, -1]
    assert graph.class_names == ("X", "Y") and graph.y.tolist() == [0, 1, -1]


def test_dictionaries_large_strings_and_other_columns(tmp_path: Path) -> None:
    nodes = pa.table(
        {
            "id": pa.array(["a", "b"], pa.large_string()),
            "title": pa.array(["A", "B"]).dictionary_encode(),
            "label": pa.array([10, None], pa.int8()),
            "year": pa.array([1.5, 2.5]),
        }
    )
    graph = dataset(tmp_path, nodes, {"source": ["a"], "target": ["b"], "weight": [0.5]}).build()
    assert graph.titles.to_pylist() == ["A", "B"]
    assert graph.class_names == ("10",) and graph.y.tolist() == [0, -1]


@pytest.mark.parametrize("size", [1, 2, 3])
def test_batches_make_no_difference(tmp_path: Path, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = dataset(tmp_path).build().fingerprint
    monkeypatch.setattr(tables, "BATCH", size)
    assert dataset(tmp_path).build().fingerprint == expected
    with pytest.raises(DataError, match=re.escape("nodes.parquet, row 3: the id '1' is taken already, by the node on row 1.")):
        dataset(tmp_path, NODES | {"id": [1, 2, 1]}).build()


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        (NODES | {"id": [1, 2, None]}, "nodes.parquet, row 3: the id is empty, expected one that no other node has."),
        (
            NODES | {"id": [1.0, 2.0, 3.0]},
            "nodes.parquet: the column 'id' has the type double, expected strings or integers (pandas turns integers with gaps into floats",
        ),
        (NODES | {"body": [["a"], ["b"], ["c"]]}, "nodes.parquet: the column 'body' has the type list<"),
        ({"ids": [1], "title": ["A"]}, "nodes.parquet: the column 'ids' is unknown. Did you mean 'id'?"),
        ({"title": ["A"]}, "nodes.parquet: expected a column 'id', found 'title'."),
        ({"id": [1], "label": ["A"]}, "nodes.parquet: expected a column 'title' or 'body', found 'id', 'label'."),
        (NODES | {"split": ["train", "valid", None]}, "nodes.parquet, row 2: the split 'valid' is unknown. Did you mean 'val'?"),
        (pa.table({"id": pa.array([], pa.string()), "title": pa.array([], pa.string())}), "nodes.parquet holds no rows."),
    ],
)
def test_refuses_nodes(tmp_path: Path, nodes: Any, message: str) -> None:
    with pytest.raises(DataError, match=re.escape(message)):
        dataset(tmp_path, nodes).build()


def test_refuses_an_edge_to_an_unknown_node(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=re.escape("edges.parquet, row 2: the target '9' is not an id in ")):
        dataset(tmp_path, edges={"source": [1, 2], "target": [2, 9]}).build()


def test_refuses_another_kind_of_file(tmp_path: Path) -> None:
    made = dataset(tmp_path)
    (tmp_path / "nodes.parquet").write_text("id,title\na,A\n")
    with pytest.raises(DataError, match=r"nodes\.parquet: expected a Parquet file, but: "):
        made.build()
