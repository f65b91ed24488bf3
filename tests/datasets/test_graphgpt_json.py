"""The released files: what is read from them, in how little, and what is refused in which words."""

import gzip
import json
import logging
import os
import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from helpers import parsed
from huggingface_hub.errors import LocalEntryNotFoundError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from released_files import (
    ARXIV,
    CORA,
    FEATURES,
    LINK,
    MATCHING,
    PUBMED,
    RECORDS,
    SIZES,
    TEXT_ONLY,
    changed,
    conversation,
    graph_data,
    open_graphs,
    torch_sparse,
    write_graphs,
    write_records,
)
from torch_geometric.data import Data

from graphgpt.datasets import graphgpt_json
from graphgpt.datasets.graphgpt_json import GraphgptJson, MalformedRecord, Records, _read_record, open_records
from graphgpt.errors import DataError
from graphgpt.files import json_array
from graphgpt.files.atomic import cache_dir
from graphgpt.files.json_array import BrokenArray, elements
from graphgpt.graphs.released import GraphFile, locate, open_graph_file
from graphgpt.registry import DATASETS


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> GraphFile:
    return open_graphs(tmp_path_factory.mktemp("graphs"))


def read(folder: Path, graphs: GraphFile, records: Any, on_error: Any = "raise") -> Records:
    return open_records(write_records(folder, records), graphs, on_error)


def ids(records: Records) -> list[str]:
    return [records[i].id for i in range(len(records))]


# Records as they should be.


def test_reads_every_kind_of_record(tmp_path: Path, graphs: GraphFile) -> None:
    records = read(tmp_path, graphs, RECORDS)
    assert ids(records) == [record["id"] for record in RECORDS]
    pubmed, _, cora, link, matching, text = (records[i] for i in range(len(records)))
    assert (pubmed.key, pubmed.number) == ("pubmed", 0)
    [subgraph] = pubmed.subgraphs
    assert subgraph.nodes.tolist() == PUBMED["graph"]["node_list"]
    assert subgraph.edge_index.tolist() == PUBMED["graph"]["edge_index"]
    assert subgraph.num_tokens == 21
    assert pubmed.turns == tuple(turn["value"] for turn in PUBMED["conversations"])
    assert cora.subgraphs[0].edge_index.shape == (2, 0)
    assert [part.nodes.tolist() for part in link.subgraphs] == [[5, 6, 7], [9, 19_716]]
    assert [part.edge_index.tolist() for part in link.subgraphs] == [[[1, 2], [0, 0]], [[1], [0]]]
    assert matching.turns == tuple(turn["value"] for turn in MATCHING["conversations"][1:])
    assert text.subgraphs == () and len(text.turns) == 4
    assert records.card["kinds"] == {"pubmed": 1, "arxiv": 2, "cora": 1, "pubmed (2 graphs)": 1, "text only": 1}


def test_a_graph_named_twice_stands_there_twice(tmp_path: Path, graphs: GraphFile) -> None:
    records = read(tmp_path, graphs, [changed(CORA, conversations=conversation("<graph> and again <graph>", "one"))])
    assert [part.nodes.tolist() for part in records[0].subgraphs] == [[3], [3]]


def test_a_pair_is_known_by_its_fields_too(tmp_path: Path, graphs: GraphFile) -> None:
    assert len(read(tmp_path, graphs, [changed(LINK, id="pubmed_pair_1")])[0].subgraphs) == 2


@pytest.mark.parametrize("graph", [None, {}, {"node_list": None, "edge_index": None, "node_idx": None}, ...])
def test_text_only_in_every_form(tmp_path: Path, graphs: GraphFile, graph: Any) -> None:
    record = {name: value for name, value in {**TEXT_ONLY, "graph": graph}.items() if value is not ...}
    assert read(tmp_path, graphs, [record])[0].subgraphs == ()


def test_a_byte_order_mark_and_white_space_do_not_count(tmp_path: Path, graphs: GraphFile) -> None:
    text = "\ufeff \n" + json.dumps([CORA, TEXT_ONLY], indent=3) + " \n\n"
    assert ids(read(tmp_path, graphs, text)) == ["cora_test_3", "chat_1"]


def test_the_names_that_others_give_to_roles_and_fields(tmp_path: Path, graphs: GraphFile) -> None:
    (expected,) = read(tmp_path, graphs, [CORA])
    turns = [{"from": {"human": "user", "gpt": "assistant"}[turn["from"]], "value": turn["value"]} for turn in CORA["conversations"]]
    assert read(tmp_path, graphs, [CORA | {"conversations": turns}])[0].turns == expected.turns
    messages = [{"role": "system", "content": "Be brief."}, *({"role": turn["from"], "content": turn["value"]} for turn in turns)]
    chat = {name: value for name, value in CORA.items() if name != "conversations"} | {"messages": messages}
    assert read(tmp_path, graphs, [chat])[0].turns == expected.turns


def test_a_file_of_another_kind(tmp_path: Path, graphs: GraphFile) -> None:
    (tmp_path / "r.json").write_bytes(gzip.compress(b"[]"))
    with pytest.raises(DataError, match=r"r\.json is compressed with gzip: unpack it first; expected a JSON array of records\."):
        open_records(tmp_path / "r.json", graphs, "raise")


@given(data=st.data())
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_records_with_anything_in_any_place_are_read_or_refused_in_a_sentence(data: st.DataObject, graphs: GraphFile) -> None:
    """A value anywhere in a good record, in place of what stood there."""
    record = json.loads(json.dumps(data.draw(st.sampled_from([CORA, LINK]))))
    at, place = record, data.draw(st.sampled_from(sorted(record)))
    while isinstance(at[place], dict | list) and at[place] and data.draw(st.booleans()):
        at = at[place]
        place = data.draw(st.sampled_from(sorted(at) if isinstance(at, dict) else range(len(at))))
    leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(["<graph>", "human", "cora_1"])
    deep: Any = []
    for _ in range(900):
        deep = [deep]
    nested = st.recursive(leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner))
    at[place] = data.draw(nested | st.just(deep))
    try:
        _read_record(record, 0, graphs.sizes)
    except MalformedRecord as error:
        assert error.sentence.endswith((".", "?"))


def test_more_records_than_a_batch_holds(tmp_path: Path, graphs: GraphFile) -> None:
    many = [changed(CORA, id=f"cora_test_{i}", graph={"node_list": [i % 400]}) for i in range(2 * graphgpt_json.BATCH + 3)]
    records = read(tmp_path, graphs, many)
    assert len(records) == len(many)
    for i in (0, 1023, 1024, 2047, 2048, 2050):
        assert (records[i].id, records[i].number, records[i].subgraphs[0].nodes.tolist()) == (f"cora_test_{i}", i, [i % 400])


def test_found_again_and_read_anew_when_the_file_changes(tmp_path: Path, graphs: GraphFile, monkeypatch: pytest.MonkeyPatch) -> None:
    first = read(tmp_path, graphs, [CORA])
    with monkeypatch.context() as patch:
        patch.setattr(graphgpt_json, "elements", lambda *args: pytest.fail("read twice"))
        again = open_records(first.path, graphs, "raise")
    assert (again.folder, ids(again)) == (first.folder, ids(first))
    write_records(tmp_path, [CORA, ARXIV])
    os.utime(first.path, (1, 1))
    assert ids(open_records(first.path, graphs, "raise")) == ["cora_test_3", "arxiv_train_100"]


def test_goes_to_another_process(tmp_path: Path, graphs: GraphFile) -> None:
    assert ids(pickle.loads(pickle.dumps(read(tmp_path, graphs, RECORDS)))) == [record["id"] for record in RECORDS]


def test_progress_is_shown(tmp_path: Path, graphs: GraphFile, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(json_array, "CHUNK", 1000)
    with caplog.at_level(logging.INFO):
        read(tmp_path, graphs, [changed(CORA, id=f"cora_{i}") for i in range(100)])
    shown = [int(percent) for percent in re.findall(r"records\.json: (\d+)%", caplog.text)]
    assert len(shown) >= 10 and shown == sorted(shown) and shown[-1] == 100


# Records as they should not be. Of each: what is wrong, the reason that is counted, and the sentence after file and number.

LONG = {"node_list": [3, 4], "edge_index": [[1], [0]]}
MALFORMED: dict[str, tuple[Any, str, str]] = {
    "no placeholder": (
        changed(CORA, conversations=conversation("No graph here.", "one")),
        "<graph> missing or too many",
        "('cora_test_3'), conversations: <graph> stands 0 times in the human's turns, expected 1.",
    ),
    "one placeholder of two": (
        changed(LINK, conversations=conversation("Only one: <graph>", "yes")),
        "<graph> missing or too many",
        "('pubmed_train_5_9_LP'), conversations: <graph> stands 1 time in the human's turns, expected 2, one for each graph.",
    ),
    "no graph": (
        changed(CORA, graph=None),
        "no graph",
        "('cora_test_3'), graph: is missing, but <graph> stands 1 time in the conversation.",
    ),
    "node out of range": (
        changed(CORA, graph={"node_list": [3, 400], "edge_index": [[1], [0]]}),
        "id out of range",
        "('cora_test_3'), graph.node_list: holds 400 (place 1), but the graph 'cora' has the nodes 0 to 399.",
    ),
    "node below zero, second graph": (
        changed(LINK, graph={"node_list_2": [9, -1]}),
        "id out of range",
        "('pubmed_train_5_9_LP'), graph.node_list_2: holds -1 (place 1), but the graph 'pubmed' has the nodes 0 to 19716.",
    ),
    "local id out of range": (
        changed(CORA, graph=LONG | {"edge_index": [[1, 2], [0, 0]]}),
        "id out of range",
        "('cora_test_3'), graph.edge_index: holds 2 (place 1), but node_list has the places 0 to 1.",
    ),
    "rows of different length": (
        changed(CORA, graph=LONG | {"edge_index": [[1, 1], [0]]}),
        "edge_index",
        "('cora_test_3'), graph.edge_index: its rows have 2 and 1 ids, expected as many in both.",
    ),
    "three rows": (
        changed(CORA, graph={"edge_index": [[], [], []]}),
        "edge_index",
        "('cora_test_3'), graph.edge_index: is [[], [], []], expected two lists: sources and targets.",
    ),
    "no edges given": (
        changed(CORA, graph={"edge_index": None}),
        "missing field",
        "('cora_test_3'), graph.edge_index: is missing.",
    ),
    "empty node_list": (
        changed(CORA, graph={"node_list": []}),
        "empty node_list",
        "('cora_test_3'), graph.node_list: is empty, expected at least the centre.",
    ),
    "roles": (
        changed(CORA, conversations=[*conversation("<graph>", "one"), {"from": "gpt", "value": "two"}]),
        "roles do not alternate",
        "('cora_test_3'), conversations[2].from: is 'gpt', expected 'human': "
        "human and gpt (or user, assistant) take turns, the human first.",
    ),
    "unknown role": (
        changed(CORA, conversations=[{"from": "human", "value": "<graph>"}, {"from": "system", "value": "one"}]),
        "roles do not alternate",
        "('cora_test_3'), conversations[1].from: is 'system', expected 'gpt': "
        "human and gpt (or user, assistant) take turns, the human first.",
    ),
    "empty answer": (
        changed(CORA, conversations=conversation("<graph>", " \n")),
        "empty answer",
        "('cora_test_3'), conversations[1].value: is empty, expected an answer to learn.",
    ),
    "no answer": (
        changed(CORA, conversations=conversation("<graph>")),
        "no answer",
        "('cora_test_3'), conversations: ends with the human's turn, expected human and gpt in turn, an answer last.",
    ),
    "placeholder in an answer": (
        changed(CORA, conversations=conversation("<graph>", "It is <graph>.")),
        "<graph> in an answer",
        "('cora_test_3'), conversations[1].value: holds <graph>, which only a human's turn may.",
    ),
    "misspelt field": (
        {"id": "cora_1", "conversation": []},
        "missing field",
        "('cora_1'), conversations: is missing. Did you mean 'conversation'?",
    ),
    "empty conversations": (
        changed(CORA, conversations=[]),
        "no answer",
        "('cora_test_3'), conversations: has no human's turn, expected human and gpt in turn, an answer last.",
    ),
    "id that is no text": (changed(CORA, id=7), "wrong type", ", id: is 7, expected a text."),
    "no id": (changed(CORA, id=None), "missing field", ", id: is missing."),
    "value that is no text": (
        changed(CORA, conversations=[{"from": "human", "value": ["<graph>"]}]),
        "wrong type",
        "('cora_test_3'), conversations[0].value: is [\"<graph>\"], expected a text.",
    ),
    "turn that is no object": (
        changed(CORA, conversations=["<graph>"]),
        "wrong type",
        "('cora_test_3'), conversations[0]: is \"<graph>\", expected an object with 'from' and 'value'.",
    ),
    "graph that is no object": (
        changed(CORA, graph=[1]),
        "wrong type",
        "('cora_test_3'), graph: is [1], expected an object.",
    ),
    "node that is no number": (
        changed(CORA, graph={"node_list": [3, 4.0]}),
        "wrong type",
        "('cora_test_3'), graph.node_list: holds 4.0 (place 1), expected whole numbers.",
    ),
    "record that is no object": (["cora_test_3"], "wrong type", ': is ["cora_test_3"], expected an object.'),
    "unknown graph": (
        changed(CORA, id="coar_test_3"),
        "unknown graph",
        "('coar_test_3'), id: 'coar' names no graph of dataset.graphs. Did you mean 'cora'?",
    ),
    "half a character": (
        changed(CORA, conversations=conversation("<graph>", "half \ud83d")),
        "not UTF-8",
        "('cora_test_3'), ",
    ),
}


def with_bad(record: Any) -> str:
    """A good record, the malformed one, and one more good one."""
    return json.dumps([ARXIV, record, TEXT_ONLY])


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_record_is_refused_by_name(tmp_path: Path, graphs: GraphFile, name: str) -> None:
    record, _, sentence = MALFORMED[name]
    with pytest.raises(DataError) as caught:
        read(tmp_path, graphs, with_bad(record))
    if name == "half a character":  # which string holds it is not said
        assert r"record 1: holds \ud83d, half of a character, expected both halves." in str(caught.value)
        return
    separator = "" if sentence[0] in ",:" else " "
    assert str(caught.value) == f"{tmp_path / 'records.json'}, record 1{separator}{sentence}"


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_record_is_skipped_alone(tmp_path: Path, graphs: GraphFile, name: str, caplog: pytest.LogCaptureFixture) -> None:
    record, reason, _ = MALFORMED[name]
    with caplog.at_level(logging.WARNING):
        records = read(tmp_path, graphs, with_bad(record), "skip")
    assert ids(records) == ["arxiv_train_100", "chat_1"]
    assert [records[i].number for i in range(2)] == [0, 2]
    assert records.card["skipped"] == {reason: 1}
    assert f"Skipped 1 of 3 records in {tmp_path / 'records.json'}: 1 x {reason}. The first: " in caplog.text


def test_every_malformed_record_at_once_is_skipped_and_counted(tmp_path: Path, graphs: GraphFile) -> None:
    mixed = [item for record, _, _ in MALFORMED.values() for item in (record, CORA)]
    records = read(tmp_path, graphs, json.dumps(mixed), "skip")
    assert len(records) == len(MALFORMED)
    reasons = [reason for _, reason, _ in MALFORMED.values()]
    assert records.card["skipped"] == {reason: reasons.count(reason) for reason in reasons}


def test_bytes_that_are_not_utf8_cost_one_record(tmp_path: Path, graphs: GraphFile) -> None:
    text = with_bad(CORA).encode().replace(b"Learning rules", b"Learning r\xe9gles")
    with pytest.raises(DataError, match=r"record 1: its byte \d+, 0xE9, is not UTF-8, expected a file saved as UTF-8\.$"):
        read(tmp_path, graphs, text)
    records = read(tmp_path, graphs, text, "skip")
    assert ids(records) == ["arxiv_train_100", "chat_1"]
    assert records.card["skipped"] == {"not UTF-8": 1}


def test_bad_json_costs_one_record(tmp_path: Path, graphs: GraphFile) -> None:
    text = with_bad(CORA).replace('"node_idx": 3', '"node_idx": 3 4')
    with pytest.raises(DataError, match=r"record 1: expected a JSON object, but: Expecting ',' delimiter.*\.$"):
        read(tmp_path, graphs, text)
    assert ids(read(tmp_path, graphs, text, "skip")) == ["arxiv_train_100", "chat_1"]
    nested = with_bad(CORA).replace('"node_idx": 3', '"node_idx": ' + "[" * 200_000 + "]" * 200_000)
    assert ids(read(tmp_path, graphs, nested, "skip")) == ["arxiv_train_100", "chat_1"]


@pytest.mark.parametrize("value", ["NaN", "-Infinity", "1e400", "9" * 40, "[" * 500 + "]" * 500, r'"\u00e9\ud83d\ude00"', '"\x7f"'])
def test_what_the_standard_library_reads_is_read(tmp_path: Path, graphs: GraphFile, value: str) -> None:
    """Another library reads first."""
    text = with_bad(CORA).replace('"node_idx": 3', f'"node_idx": {value}')
    assert value in text
    assert len(read(tmp_path, graphs, text)) == 3


def test_a_number_too_large_for_a_machine_is_shown_whole(tmp_path: Path, graphs: GraphFile) -> None:
    with pytest.raises(DataError, match=f"holds {10**30} \\(place 1\\), but the graph 'cora' has the nodes 0 to 399"):
        read(tmp_path, graphs, [changed(CORA, graph={"node_list": [3, 10**30], "edge_index": [[1], [0]]})])


def test_truncated_file(tmp_path: Path, graphs: GraphFile) -> None:
    text = json.dumps([ARXIV, CORA, TEXT_ONLY])[:-40]
    message = "record 2: the file ends before the array does: it was cut off, or a quote or a bracket is missing."
    with pytest.raises(DataError, match=re.escape(f"{tmp_path / 'records.json'}, {message}")):
        read(tmp_path, graphs, text)
    records = read(tmp_path, graphs, text, "skip")
    assert ids(records) == ["arxiv_train_100", "cora_test_3"]
    assert records.card["skipped"] == {"broken file": 1}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "the file is empty, expected one JSON array of records."),
        ('{"id": 1}', "expected one JSON array of records, found an object"),
        ("hello", "expected one JSON array of records, found 'hello'"),
        ("[]".encode("utf-16"), "the file is in UTF-16, expected UTF-8"),
        ("[] []", "something stands behind the end of the array: '[]'"),
        (" [ ] ", "the array is empty."),
    ],
)
@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_file_that_holds_no_array(tmp_path: Path, graphs: GraphFile, content: Any, message: str, on_error: str) -> None:
    with pytest.raises(DataError, match=re.escape(message)):
        read(tmp_path, graphs, content, on_error)


def test_a_cache_made_by_skipping_is_refused_when_raising(tmp_path: Path, graphs: GraphFile) -> None:
    text = with_bad(MALFORMED["empty answer"][0])
    assert len(read(tmp_path, graphs, text, "skip")) == 2
    with pytest.raises(DataError, match=r"record 1 \('cora_test_3'\), conversations\[1\]\.value: is empty"):
        open_records(tmp_path / "records.json", graphs, "raise")


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_interrupted_ingestion_leaves_nothing(
    tmp_path: Path, graphs: GraphFile, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    def cut(*args: Any) -> Iterator[bytes]:
        for i in range(2000):
            yield json.dumps(changed(CORA, id=f"cora_{i}")).encode()
        raise error

    before = {path.name for path in (cache_dir() / "instructions").iterdir()}
    path = write_records(tmp_path, [CORA, ARXIV])
    with monkeypatch.context() as patch:
        patch.setattr(graphgpt_json, "elements", cut)
        with pytest.raises(error):
            open_records(path, graphs, "raise")
    assert {path.name for path in (cache_dir() / "instructions").iterdir()} == before
    assert ids(open_records(path, graphs, "raise")) == ["cora_test_3", "arxiv_train_100"]


def test_damaged_cache_is_said(tmp_path: Path, graphs: GraphFile) -> None:
    folder = read(tmp_path, graphs, [CORA]).folder
    (folder / "records.arrow").write_bytes(b"cut")
    with pytest.raises(DataError, match=r"is damaged \(.*\); delete it to have it made again\.$"):
        open_records(tmp_path / "records.json", graphs, "raise")


# The array, element by element.

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=12
)


@given(values=st.lists(JSON), indent=st.sampled_from([None, 0, 2]), ascii_only=st.booleans(), chunk=st.integers(1, 40))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_elements_are_those_of_the_array(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, values: list[Any], indent: int | None, ascii_only: bool, chunk: int
) -> None:
    monkeypatch.setattr(json_array, "CHUNK", chunk)
    path = tmp_path / "array.json"
    path.write_text(json.dumps(values, indent=indent, ensure_ascii=ascii_only), encoding="utf-8")
    counted: list[int] = []
    assert [json.loads(element) for element in elements(path, counted.append)] == values
    assert sum(counted) <= path.stat().st_size


def test_a_lost_quote_does_not_take_all_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_array, "CHUNK", 100)
    monkeypatch.setattr(json_array, "LONGEST", 1000)
    path = tmp_path / "array.json"
    path.write_text('[1, "' + "x" * 5000 + "]")
    with pytest.raises(BrokenArray, match="has no end within 1,000 bytes"):
        list(elements(path))


# The graph file.


def test_graph_file_with_a_torch_sparse_matrix(graphs: GraphFile) -> None:
    assert graphs.sizes == SIZES
    arxiv, cora = graphs.graphs["arxiv"], graphs.graphs["cora"]
    assert torch.equal(arxiv["x"], graph_data("arxiv").x) and arxiv["x"].dtype == torch.float32
    assert arxiv["edge_index"].tolist() == [[0, 0, 1], [1, 2, 0]]
    assert set(arxiv) == {"x", "y", "edge_index", "train_mask"}  # node_year is not kept
    assert torch.equal(cora["edge_index"], graph_data("cora").edge_index)
    assert cora["y"].tolist() == [i % 3 for i in range(400)]


def test_sparse_features_are_made_dense(tmp_path: Path) -> None:
    torch.save({"g": Data(x=torch.eye(3).to_sparse_csr(), edge_index=torch.eye(3).to_sparse())}, tmp_path / "g.pt")
    found = open_graph_file(tmp_path / "g.pt").graphs["g"]
    assert found["x"].tolist() == torch.eye(3).tolist() and found["edge_index"].tolist() == [[0, 1, 2]] * 2


def test_compressed_rows(tmp_path: Path) -> None:
    path = tmp_path / "graphs.pt"
    with torch_sparse() as matrix:
        torch.save({"g": Data(x=torch.ones(3, 2), edge_index=matrix(torch.tensor([0, 2, 2, 3]), None, torch.tensor([1, 2, 0])))}, path)
    assert open_graph_file(path).graphs["g"]["edge_index"].tolist() == [[0, 0, 2], [1, 2, 0]]


def test_file_of_an_older_pyg_and_an_older_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyG 1.x kept the tensors in Data itself; torch before 1.6 wrote no archive."""
    old = type("Data", (), {"__module__": "torch_geometric.data.data"})
    data = old()
    vars(data).update(x=torch.ones(3, 2, dtype=torch.float64), edge_index=None, y=torch.tensor([0, 1, 2]), pos=None)
    with monkeypatch.context() as patch:
        patch.setattr("torch_geometric.data.data.Data", old)
        torch.save({"g": data}, tmp_path / "graphs.pt", _use_new_zipfile_serialization=False)
    tensors = open_graph_file(tmp_path / "graphs.pt").graphs["g"]
    assert tensors["x"].dtype == torch.float32 and tensors["y"].tolist() == [0, 1, 2]


def test_converted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = open_graphs(tmp_path)
    monkeypatch.setattr(torch, "load", lambda *args, **kwargs: pytest.fail("read twice"))
    assert open_graphs(tmp_path).fingerprint == first.fingerprint


class Malice:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize(
    ("function", "name"), [(os.system, f"{os.name}.system"), (eval, "eval"), (__import__, "__import__"), (torch.hub.load, "torch.hub.load")]
)
def test_malicious_pickle_is_refused(tmp_path: Path, function: Any, name: str) -> None:
    path, mark = tmp_path / "evil.pt", tmp_path / "mark"
    data = graph_data("cora")
    data.extra = Malice(function, f"touch {mark}")
    torch.save({"cora": data}, path)
    safe = set(map(str, torch.serialization.get_safe_globals()))
    with pytest.raises(DataError, match=re.escape(f"{path} is refused: it names '{name}', which a file of graphs does not need")):
        open_graph_file(path)
    assert not mark.exists()
    assert set(map(str, torch.serialization.get_safe_globals())) == safe


def test_what_others_allow_is_not_allowed_here(tmp_path: Path) -> None:
    path = tmp_path / "counted.pt"
    torch.save({"cora": Malice(Path, "x")}, path)
    with torch.serialization.safe_globals([Path, (Path, "pathlib.Path")]), pytest.raises(DataError, match="is refused: it names 'pathlib"):
        open_graph_file(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"g": Data(x=torch.ones(3, 1, device="meta"))},
            "found torch.float32 of shape [3, 1] without its numbers.",
        ),
        ({"g": Data(x=torch.ones(3, 1), edge_index=torch.ones(2, 1, dtype=torch.bool))}, "found torch.bool of shape [2, 1]."),
        ({"g": Data(x=torch.ones(3, 1), edge_index=torch.tensor([[0], [-1]]))}, "edge_index names the node -1, but x has 3 rows."),
        ([1, 2], "expected a dictionary of graphs by name, as torch.save({'cora': data}, file) writes it, found a list."),
        ({}, "expected a dictionary of graphs by name"),
        (Data(x=torch.ones(3, 1)), "found one graph; its name is what stands before the first '_' in the records' ids."),
        ({"g": 3}, ", graph 'g': expected a torch_geometric Data object, found an int."),
        ({"g": Data(y=torch.ones(3))}, ", graph 'g': expected node features x of shape [nodes, features], found nothing."),
        ({"g": Data(x=torch.ones(3))}, "found torch.float32 of shape [3]."),
        ({"g": Data(x=torch.tensor([[1.0], [float("nan")]]))}, ", graph 'g': x holds nan (node 1, column 0), expected finite numbers."),
        (
            {"g": Data(x=torch.ones(3, 1), edge_index=torch.tensor([[0], [3]]))},
            ", graph 'g': edge_index names the node 3, but x has 3 rows.",
        ),
        (
            {"g": Data(x=torch.ones(3, 1), edge_index=torch.ones(3, 1))},
            "expected edge_index of shape [2, edges], of integers, or a sparse",
        ),
    ],
)
def test_graph_file_with_the_wrong_content(tmp_path: Path, content: Any, message: str) -> None:
    path = tmp_path / "graphs.pt"
    torch.save(content, path)
    with pytest.raises(DataError, match=re.escape(message)) as caught:
        open_graph_file(path)
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04 cut", pickle.dumps({"g": 1}, protocol=2)[:4]])
def test_graph_file_that_is_damaged(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "graphs.pt"
    path.write_bytes(content)
    with pytest.raises(DataError, match=re.escape(str(path))):
        open_graph_file(path)
    assert not [folder for folder in (cache_dir() / "released_graphs").glob("graphs-*") if not (folder / "card.json").is_file()]


def test_graph_file_cut_short(tmp_path: Path) -> None:
    path = write_graphs(tmp_path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match=re.escape(f"{path} is ")):
        open_graph_file(path)


# The config, and files on the hub.


def problems(tmp_path: Path, **fields: Any) -> list[str]:
    files = {"graphs": str(write_graphs(tmp_path)), "instructions": str(write_records(tmp_path, [CORA]))}
    return GraphgptJson.problems(parsed(GraphgptJson.Config, {"name": "graphgpt_json", **files, **fields}))


def test_config_says_what_cannot_work(tmp_path: Path) -> None:
    assert DATASETS.get("graphgpt_json") is GraphgptJson
    assert problems(tmp_path) == []
    assert problems(tmp_path, instructions=f"{tmp_path}/record.json") == [
        f"dataset.instructions={tmp_path}/record.json: there is no such file. Did you mean 'records.json'?"
    ]
    assert problems(tmp_path, graphs="hub:Jiabin99/file.pt") == [
        "dataset.graphs=hub:Jiabin99/file.pt: expected hub:OWNER/REPOSITORY/FILE, a file of a dataset on the hub."
    ]
    assert problems(tmp_path, instructions=None) == [
        "dataset.instructions: must be given (or dataset.eval_instructions, to evaluate alone)."
    ]
    assert problems(tmp_path, split={"val": 0.5, "test": 0.5}) == [
        "dataset.split: val 0.5 and test 0.5 leave nothing to train on; their sum must be below 1."
    ]
    [problem] = problems(tmp_path, split={"test": 0.5}, eval_instructions=f"{tmp_path}/records.json")
    assert problem.startswith("dataset.split.test: 0.5 holds records out for test, and dataset.eval_instructions is for test too")


def test_hub_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*args: Any, **kwargs: Any) -> str:
        raise LocalEntryNotFoundError("Cannot find the requested files in the disk cache.\nMore.")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", unreachable)
    with pytest.raises(DataError) as caught:
        locate("hub:Jiabin99/graph-matching/train_instruct_graphmatch.json", "dataset.instructions")
    assert str(caught.value) == (
        "dataset.instructions: the hub does not give hub:Jiabin99/graph-matching/train_instruct_graphmatch.json (Cannot find the requested "
        f"files in the disk cache); get train_instruct_graphmatch.json from {huggingface_hub.constants.ENDPOINT}/datasets/Jiabin99/"
        "graph-matching and set dataset.instructions to the path where it lies."
    )


def test_hub_that_can(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[Any] = []

    def download(repository: str, file: str, **options: Any) -> str:
        asked.append((repository, file, options))
        return str(tmp_path / file)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    assert locate("hub:a/b/c/d.json", "dataset.instructions") == tmp_path / "c/d.json"
    assert asked == [("a/b", "c/d.json", {"repo_type": "dataset"})]


def test_features_of_different_width(tmp_path: Path) -> None:
    torch.save({"a": Data(x=torch.ones(3, 2)), "b": Data(x=torch.ones(3, 4))}, tmp_path / "graphs.pt")
    one = changed(CORA, id="a_1", graph={"node_list": [0]})
    files = {"graphs": str(tmp_path / "graphs.pt"), "instructions": str(write_records(tmp_path, [one]))}
    config = parsed(GraphgptJson.Config, {"name": "graphgpt_json", **files})
    assert GraphgptJson(config).open().features["features"] == 2
    write_records(tmp_path, [one, changed(one, id="b_1")])
    with pytest.raises(DataError, match=r"the graphs differ in their number of node features \(a 2, b 4\)"):
        _ = GraphgptJson(config).open().features
    assert FEATURES == 8
