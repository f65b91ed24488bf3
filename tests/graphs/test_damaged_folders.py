"""Graph folders that were damaged, on the disk or by hand: each is refused in a sentence, and no verb ends in a traceback."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from helpers import make_graph
from safetensors.torch import load_file, save_file

from graphgpt.cli.main import main
from graphgpt.datasets.folder import FolderConfig
from graphgpt.errors import DataError
from graphgpt.graphs.graph import TEXT_FILE, TEXT_SCHEMA, TextAttributedGraph
from graphgpt.graphs.subgraph import sample_subgraph

Edit = Callable[[Path], None]
CARD, NUMBERS, FEATURES = "card.json", "graph.safetensors", "x.safetensors"


def in_card(**fields: Any) -> Edit:
    def edit(folder: Path) -> None:
        card = json.loads((folder / CARD).read_text(encoding="utf-8"))
        (folder / CARD).write_text(json.dumps(card | fields), encoding="utf-8")

    return edit


def without_field(name: str) -> Edit:
    def edit(folder: Path) -> None:
        card = json.loads((folder / CARD).read_text(encoding="utf-8"))
        del card[name]
        (folder / CARD).write_text(json.dumps(card), encoding="utf-8")

    return edit


def content(name: str, data: bytes) -> Edit:
    return lambda folder: (folder / name).write_bytes(data) and None


def tensors(file: str, change: Callable[[dict[str, torch.Tensor]], dict[str, Any]]) -> Edit:
    """Replace some of a file's tensors; None takes one away."""

    def edit(folder: Path) -> None:
        old = {name: tensor.clone() for name, tensor in load_file(folder / file).items()}
        new = {name: tensor for name, tensor in (old | change(old)).items() if tensor is not None}
        save_file({name: tensor.contiguous() for name, tensor in new.items()}, folder / file)

    return edit


def entry(name: str, place: int, value: int) -> Edit:
    def change(old: dict[str, torch.Tensor]) -> dict[str, Any]:
        old[name][place] = value
        return {}

    return tensors(NUMBERS, change)


def texts(*columns: Any, schema: pa.Schema = TEXT_SCHEMA) -> Edit:
    def edit(folder: Path) -> None:
        (folder / TEXT_FILE).unlink()
        with pa.OSFile(str(folder / TEXT_FILE), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
            writer.write_table(
                pa.table([pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)], schema=schema)
            )

    return edit


def cut(name: str, share: float) -> Edit:
    return lambda folder: (folder / name).write_bytes((data := (folder / name).read_bytes())[: int(share * len(data))]) and None


def flipped(name: str, share: float) -> Edit:
    """One byte in place of another, at some share of the file's length."""

    def edit(folder: Path) -> None:
        data = bytearray((folder / name).read_bytes())
        data[int(share * (len(data) - 1))] ^= 0xFF
        (folder / name).write_bytes(data)

    return edit


def removed(name: str) -> Edit:
    return lambda folder: (folder / name).unlink()


def a_folder_instead(name: str) -> Edit:
    def edit(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).mkdir()

    return edit


def offsets(place: int, value: int) -> Edit:
    """Where a title begins, changed in the file itself."""

    def edit(folder: Path) -> None:
        with pa.memory_map(str(folder / TEXT_FILE)) as file:
            starts = pa.ipc.open_file(file).read_all()["title"].chunk(0).buffers()[1].to_pybytes()
        data = (folder / TEXT_FILE).read_bytes()
        changed = np.frombuffer(starts, np.int64).copy()
        changed[place] = value
        (folder / TEXT_FILE).write_bytes(data.replace(starts, changed.tobytes(), 1))

    return edit


N = 60
IDS = [f"n{i}" for i in range(N)]
#: By what is done: the edit, and what the sentence about it says; None where the folder may still be sound enough to be opened.
EDITS: dict[str, tuple[Edit, str | None]] = {
    **{f"{name} is empty": (content(name, b""), name) for name in (CARD, NUMBERS, FEATURES, TEXT_FILE)},
    **{f"{name} is missing": (removed(name), f"{name} is missing") for name in (CARD, NUMBERS, TEXT_FILE)},
    **{f"{name} is a folder": (a_folder_instead(name), f"{name} is missing") for name in (CARD, NUMBERS, TEXT_FILE)},
    **{f"{name} is noise": (content(name, bytes(range(256)) * 4), name) for name in (CARD, NUMBERS, FEATURES, TEXT_FILE)},
    **{f"{name} cut at {share}": (cut(name, share), name) for name in (CARD, NUMBERS, FEATURES, TEXT_FILE) for share in (0.3, 0.9)},
    **{
        f"{name} flipped at {share}": (flipped(name, share), None)
        for name in (CARD, NUMBERS, FEATURES, TEXT_FILE)
        for share in (0.0, 0.02, 0.1, 0.3, 0.6, 0.9)
    },
    "a card that is a list": (content(CARD, b"[]"), "expected an object with 'format'"),
    "a card that is null": (content(CARD, b"null"), "expected an object with 'format'"),
    "a very deep card": (content(CARD, b'{"a":' * 100_000 + b"1" + b"}" * 100_000), "card.json is damaged"),
    "a very deep list": (content(CARD, b"[" * 100_000 + b"]" * 100_000), "card.json is damaged"),
    "a card with an endless number": (content(CARD, b'{"format": ' + b"9" * 10_000 + b"}"), "card.json is damaged"),
    "a card in another encoding": (content(CARD, '{"name": "thème"}'.encode("utf-16")), "card.json is damaged"),
    **{
        f"no {name} in the card": (without_field(name), "expected an object with")
        for name in ("format", "name", "fingerprint", "class_names")
    },
    "format is a text": (in_card(format="1"), "its 'format' is '1', expected int"),
    "format is true": (in_card(format=True), "its 'format' is True, expected int"),
    "format is newer": (in_card(format=99), "has format 99; this version reads up to 1: update graphgpt."),
    "name is a number": (in_card(name=3), "its 'name' is 3, expected str"),
    "fingerprint is null": (in_card(fingerprint=None), "its 'fingerprint' is None, expected str"),
    "class_names is a text": (in_card(class_names="abc"), "its 'class_names' is 'abc', expected list"),
    "class_names holds a number": (in_card(class_names=["Art", 2, "C"]), "its 'class_names' holds 2 at 1, expected a text"),
    "class_names holds null": (in_card(class_names=["Art", None, "C"]), "its 'class_names' holds None at 1, expected a text"),
    "class_names holds half a character": (in_card(class_names=["\ud800", "B", "C"]), r"it holds \ud800, half of a character"),
    "class_names is short": (in_card(class_names=["Art"]), "expected -1 to 0"),
    "words is a list": (in_card(words=["node"]), "its 'words' is a list, expected dict"),
    "words holds a number": (in_card(words={"node": 3}), "its 'words' holds 3 at node, expected a text"),
    "homophily is a text": (in_card(homophily="high"), "its 'homophily' is 'high', expected a number"),
    "without_text is a text": (in_card(without_text="many"), "its 'without_text' is 'many', expected int"),
    "nodes is wrong": (in_card(nodes=59), "it says 59 nodes, found 60."),
    "rowptr decreases": (entry("rowptr", 5, 9_999), "without a step down"),
    "rowptr begins below 0": (entry("rowptr", 0, -1), "rowptr runs from -1 to"),
    "rowptr ends early": (entry("rowptr", -1, 3), "without a step down"),
    "rowptr is short": (tensors(NUMBERS, lambda old: {"rowptr": old["rowptr"][:-4]}), "is damaged"),
    "rowptr is empty": (tensors(NUMBERS, lambda old: {"rowptr": old["rowptr"][:0]}), "is damaged"),
    "rowptr has two dimensions": (
        tensors(NUMBERS, lambda old: {"rowptr": old["rowptr"].view(1, -1)}),
        "rowptr is torch.int64 of shape [1, 61]",
    ),
    "rowptr is a float": (tensors(NUMBERS, lambda old: {"rowptr": old["rowptr"].double()}), "rowptr is torch.float64"),
    "col is too large": (entry("col", 2, N), "col[2] is 60, expected 0 to 59; 1 such"),
    "col is negative": (entry("col", 2, -7), "col[2] is -7, expected 0 to 59; 1 such"),
    "col is short": (tensors(NUMBERS, lambda old: {"col": old["col"][:-1]}), "the length of col"),
    "col is bool": (tensors(NUMBERS, lambda old: {"col": old["col"] > 3}), "col is torch.bool"),
    "col is one-sided": (entry("col", 0, 59), "neighbour"),
    "y is short": (
        tensors(NUMBERS, lambda old: {"y": old["y"][:-1]}),
        "y is torch.int64 of shape [59], expected torch.int64 of shape [60]",
    ),
    "y is too large": (entry("y", 4, 3), "y[4] is 3, expected -1 to 2; 1 such"),
    "y is too small": (entry("y", 4, -2), "y[4] is -2, expected -1 to 2; 1 such"),
    "y is missing": (tensors(NUMBERS, lambda old: {"y": None}), "it holds no y"),
    "split is short": (tensors(NUMBERS, lambda old: {"split": torch.zeros(3, dtype=torch.int8)}), "split is torch.int8 of shape [3]"),
    "split is too large": (
        tensors(NUMBERS, lambda old: {"split": torch.full((N,), 3, dtype=torch.int8)}),
        "split[0] is 3, expected -1 to 2",
    ),
    "features of fewer rows": (tensors(FEATURES, lambda old: {"x": old["x"][:-1]}), "x is torch.float32 of shape [59, 8], expected floats"),
    "features of one dimension": (tensors(FEATURES, lambda old: {"x": old["x"][:, 0]}), "one row per node"),
    "features are integers": (tensors(FEATURES, lambda old: {"x": old["x"].long()}), "x is torch.int64"),
    "features are not finite": (tensors(FEATURES, lambda old: {"x": old["x"] / 0}), "values are not finite."),
    "features of another name": (tensors(FEATURES, lambda old: {"x": None, "h": old["x"]}), "it holds no x"),
    "fewer texts": (texts(IDS[:-1], IDS[:-1], IDS[:-1]), "it holds the texts of 59 nodes, expected 60 as rowptr says"),
    "no texts": (texts([], [], []), "it holds the texts of 0 nodes, expected 60"),
    "texts that are numbers": (
        texts(range(N), range(N), range(N), schema=pa.schema([(name, pa.int64()) for name in TEXT_SCHEMA.names])),
        "expected texts, found int64",
    ),
    "texts of other columns": (texts(IDS, schema=pa.schema([("name", pa.large_string())])), "expected the columns ['id', 'title', 'body']"),
    "texts that are null": (texts([None] * N, IDS, IDS), "its texts do not follow one another"),
    "a title that begins behind the file": (offsets(5, 2**40), "its texts do not follow one another"),
    "a title that begins before the file": (offsets(0, -5), "text.arrow is damaged"),
    "a title that ends behind the file": (offsets(N, 2**40), "text.arrow is damaged"),
    "the same id twice": (texts(["a"] * N, IDS, IDS), "node 1 has the id 'a', expected one that no other node has."),
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a sound graph."""
    folder = tmp_path_factory.mktemp("sound") / "graph"
    make_graph().save(folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def verb(name: str, folder: Path) -> int | str | None:
    try:
        main(["data", name, str(folder)])
    except SystemExit as left:
        return left.code
    return 0


@pytest.mark.parametrize("name", EDITS)
def test_an_edited_folder_is_read_or_refused_in_a_sentence(
    name: str, sound: dict[str, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "graph"
    folder.mkdir()
    for file, data in sound.items():
        (folder / file).write_bytes(data)
    edit, sentence = EDITS[name]
    edit(folder)

    FolderConfig(name="folder", text_encoder={"name": "tfidf_svd"}, path=str(folder))
    code = verb("check", folder)
    said = capsys.readouterr().out
    assert code == (2 if "failed" in said else 0), said
    if sentence is not None:
        (failed, *_) = [line for line in said.splitlines() if "failed" in line]
        assert re.search(re.escape(sentence), said.replace("\n", "")), said
        assert "Error" not in failed or "safetensors" in failed
    assert verb("show", folder) in (0, 2)
    try:
        graph = TextAttributedGraph.open(folder)
        for node in range(0, graph.num_nodes, 7):
            graph.title(node), graph.body(node)
            sample_subgraph(graph, node, hops=2, fanout=3, seed=0)
    except DataError as error:
        assert str(folder) in str(error) or "is damaged" in str(error)


def test_many_edits() -> None:
    assert len(EDITS) >= 80
