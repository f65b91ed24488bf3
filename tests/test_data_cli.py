"""``graphgpt data``: graphs of one's own built, shown and checked."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.csv
import pyarrow.parquet
import pytest
import torch
from torch_geometric.data import Data

from graphgpt.cli.main import main
from graphgpt.graphs.graph import TextAttributedGraph

Run = Callable[..., tuple[int, str, str]]
LABELS = ["Red", "Green", "Blue"] * 14


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """``run(*arguments)`` after ``graphgpt data``, in a folder of its own: exit code, output, errors."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        code = 0
        try:
            main(["data", *arguments])
        except SystemExit as left:
            code = left.code if isinstance(left.code, int) else 1
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def tables(tmp_path: Path) -> list[str]:
    """The options that name two tables of 42 nodes in a ring."""
    nodes = [f"n{i},{label} {i},Of {label} things {i % 5},{label},{('train', 'val', 'test')[i // 14]}" for i, label in enumerate(LABELS)]
    (tmp_path / "nodes.csv").write_text("\n".join(["id,title,body,label,split", *nodes, ""]))
    (tmp_path / "edges.csv").write_text("\n".join(["source,target", *(f"n{i},n{(i + 3) % 42}" for i in range(42)), ""]))
    return ["--nodes", "nodes.csv", "--edges", "edges.csv"]


def test_build_from_csv(run: Run, tables: list[str]) -> None:
    code, out, err = run("build", *tables, "--out", "my_graph", "--domain", "colour", "--node", "thing", "--category", "colour")
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "Wrote my_graph: 42 nodes, 42 edges, 3 classes.",
        "Look at it:    graphgpt data show my_graph",
        "Train on it:   python train.py dataset=folder dataset.path=my_graph ...",
    ]
    graph = TextAttributedGraph.open(Path("my_graph"))
    assert graph.class_names == ("Blue", "Green", "Red")
    assert graph.split is not None and torch.bincount(graph.split).tolist() == [14, 14, 14]
    assert graph.card["name"] == "my_graph"
    assert graph.card["words"] == {"domain": "colour", "node": "thing", "category": "colour"}
    assert sorted(path.name for path in Path("my_graph").iterdir()) == ["card.json", "graph.safetensors", "text.arrow"]
    assert run("check", "my_graph")[0] == 0


def test_every_source_makes_the_same_graph(run: Run, tables: list[str], tmp_path: Path) -> None:
    assert run("build", *tables, "--out", "a", "--classes", "Red", "Green", "Blue")[0] == 0
    for name in ("nodes", "edges"):
        pyarrow.parquet.write_table(pyarrow.csv.read_csv(f"{name}.csv"), f"{name}.parquet")
    assert run("build", "--nodes", "nodes.parquet", "--edges", "edges.parquet", "--out", "b", "--classes", "Red", "Green", "Blue")[0] == 0
    first = TextAttributedGraph.open(Path("a"))
    i = torch.arange(42)
    texts = {"title": first.titles.to_pylist(), "body": first.bodies.to_pylist()}
    torch.save(Data(edge_index=torch.stack([i, (i + 3) % 42]), y=i % 3, label_names=["Red", "Green", "Blue"], **texts), "data.pt")
    assert run("build", "--pyg", "data.pt", "--out", "c", "--name", "Colours")[0] == 0
    assert {TextAttributedGraph.open(Path(name)).fingerprint for name in "abc"} == {first.fingerprint}
    assert TextAttributedGraph.open(Path("c")).card["name"] == "Colours"


def test_features_are_kept(run: Run, tables: list[str]) -> None:
    np.save("x.npy", np.arange(84.0).reshape(42, 2))
    assert run("build", *tables, "--features", "x.npy", "--out", "my_graph")[0] == 0
    assert TextAttributedGraph.open(Path("my_graph")).features[41].tolist() == [82, 83]
    np.save("x.npy", np.full((42, 2), np.nan))
    code, _, err = run("build", *tables, "--features", "x.npy", "--out", "other")
    assert (code, err) == (2, "x.npy: The features of node 'n0' (row 0, column 0) are nan; 84 of 84 values are not finite.\n")
    assert not Path("other").exists()


def test_what_was_decided_in_reading_is_said_at_once_and_by_show(run: Run, tables: list[str]) -> None:
    text = Path("nodes.csv").read_text().replace(",Red,", ",nan,").replace(",Green,", ",green,", 1)
    Path("nodes.csv").write_text(text)
    with Path("edges.csv").open("a") as file:
        file.write("n0,nobody\n")
    code, _, err = run("build", *tables, "--out", "my_graph")
    assert (code, err) == (
        2,
        "edges.csv, line 44: the target 'nobody' is not an id in nodes.csv. 1 of 43 edges names a node that is not there (line 44); "
        "--unknown-nodes=skip leaves such edges out.\n",
    )
    code, out, _ = run("build", *tables, "--out", "my_graph", "--unknown-nodes=skip")
    notes = [
        "! nodes.csv: the label 'nan' (14 nodes) was taken for unlabelled; --classes (dataset.classes) names a class that is really called "
        "so.",
        "! nodes.csv: the classes 'Green' and 'green' differ only in case or spaces: --normalize (dataset.normalize=true) makes them one.",
        "! edges.csv: 1 of 43 edges names a node that is not there (line 44) and was left out.",
    ]
    assert code == 0 and out.splitlines()[1:4] == notes
    shown = run("show", "my_graph")[1].splitlines()
    assert [line for line in shown if line.startswith("!")][:3] == notes
    assert "Split: 9 train, 9 val, 10 test; 14 without a label left out" in [line.strip() for line in shown]
    assert "3 classes" not in run("build", *tables, "--out", "other", "--unknown-nodes=skip", "--normalize")[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "graphgpt data build needs one source: --nodes with --edges, --pyg or --ogb; found none."),
        (["--nodes", "nodes.csv"], "graphgpt data build needs one source: --nodes with --edges, --pyg or --ogb; found --nodes."),
        (
            ["--pyg", "a", "--ogb", "b"],
            "graphgpt data build needs one source: --nodes with --edges, --pyg or --ogb; found --pyg and --ogb.",
        ),
        (["--nodes", "nods.csv", "--edges", "edges.csv"], "--nodes=nods.csv: there is no such file. Did you mean 'nodes.csv'?"),
        (
            ["--nodes", "a.csv", "--edges", "b.csv", "--classes", "A", "A"],
            "--nodes=a.csv: there is no such file.\n--edges=b.csv: there is no such file.\n--classes names 'A' more than once.",
        ),
        (["--pyg", "data.pt"], "--pyg=data.pt: there is no such file."),
        (["--ogb", "ogbn"], "--ogb=ogbn: there is no such folder."),
        (["--pyg", "nodes.csv", "--texts", "edges.csv"], "--texts goes with --ogb alone."),
        (
            ["--nodes", "nodes.csv", "--edges", "edges.csv", "--classes", "Red", "Green"],
            "nodes.csv, line 4: the label 'Blue' is not in --classes. Known: Green, Red.",
        ),
    ],
)
def test_build_refuses_in_words_and_leaves_nothing(run: Run, tables: list[str], options: list[str], message: str, tmp_path: Path) -> None:
    before = sorted(tmp_path.iterdir())
    assert run("build", *options, "--out", "my_graph") == (2, "", f"{message}\n")
    assert sorted(tmp_path.iterdir()) == before


def test_build_overwrites_only_a_graph_and_only_when_told(run: Run, tables: list[str]) -> None:
    assert run("build", *tables, "--out", "my_graph")[0] == 0
    first = TextAttributedGraph.open(Path("my_graph")).fingerprint
    Path("edges.csv").write_text("source,target\nn0,n1\n")
    message = "my_graph exists already; choose another name, or replace it with --force.\n"
    assert run("build", *tables, "--out", "my_graph") == (2, "", message)
    assert TextAttributedGraph.open(Path("my_graph")).fingerprint == first
    assert run("build", *tables, "--out", "my_graph", "--force")[0] == 0
    assert TextAttributedGraph.open(Path("my_graph")).num_edges == 1
    Path("precious").mkdir()
    Path("precious/letter").write_text("Dear")
    for name in ("precious", "nodes.csv"):
        message = f"{name} exists already and is no graph folder; choose another name.\n"
        assert run("build", *tables, "--out", name, "--force") == (2, "", message)
    assert Path("precious/letter").read_text() == "Dear"


def test_show(run: Run, tables: list[str]) -> None:
    run("build", *tables, "--out", "my_graph", "--node", "[b]thing")
    code, out, err = run("show", "my_graph")
    assert (code, err) == (0, "")
    for line in (
        r"nodes +42",
        r"edges +42",
        r"labelled +42 \(100\.0%\)",
        r"isolated +0 \(0\.0%\)",
        r"homophily +1\.000",
        r"features +none of its own",
        r"prompts call it \(node\) +\[b\]thing",
        r"degree +2 +2 +2 +2\.0 +2 +2",
        r"2 +42 +█{30}",
        r"Red +14 +33\.3% +5 +5 +4 +█{10}",
        r"Split: 14 train, 14 val, 14 test",
        r"! The class name stands in the text of 100% of the labelled nodes: reading it is enough there\.",
    ):
        assert re.search(rf"^{line}\s*$", out, re.MULTILINE), line


def test_show_of_what_is_no_graph(run: Run) -> None:
    assert run("show", "nowhere") == (2, "", "nowhere is not a graph folder: card.json is missing.\n")


def test_check_numbers_its_lines_and_fails_with_code_2(run: Run, tables: list[str]) -> None:
    run("build", *tables, "--out", "my_graph")
    code, out, _ = run("check", "my_graph")
    assert code == 0
    assert [line.split()[:2] for line in out.splitlines()] == [[f"{i}.", "ok"] for i in range(1, 9)]

    card = json.loads(Path("my_graph/card.json").read_text())
    Path("my_graph/card.json").write_text(json.dumps(card | {"class_names": ["A", "A", "B"]}))
    code, out, _ = run("check", "my_graph")
    assert code == 2
    assert "4. failed labels: the class name 'A' is empty or there more than once." in out
    assert "5. ok texts: " in out
    assert run("check", "nowhere") == (2, "1. failed files: nowhere is not a graph folder: card.json is missing.\n", "")
