"""Conversations in files: every form read, what is wrong said by record and field, pictures where they stood; and a run on each."""

import gzip
import json
import pickle
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers import parsed, train, written
from PIL import Image

from graphgpt.assembly import build_model, build_task
from graphgpt.config.command_line import check_command_line
from graphgpt.config.experiment import ExperimentConfig
from graphgpt.errors import ConfigError, DataError
from graphgpt.prompts.processor import IGNORE
from graphgpt.registry import DATASETS


def turn(role: str, text: str) -> dict[str, str]:
    return {"from": role, "value": text}


TALK = {"id": "a", "conversations": [turn("human", "Who?"), turn("gpt", "Me."), turn("human", "Why?"), turn("gpt", "So.")]}
SEEN = {"id": "b", "image": "red.png", "conversations": [turn("human", "<image>\nWhat is it?"), turn("gpt", "Red.")]}
BOTH = {
    "id": "c",
    "image": ["red.png", "blue.png"],
    "conversations": [turn("human", "Is <image> like <image>?"), turn("gpt", "No."), turn("human", "Sure?"), turn("gpt", "Yes.")],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("red", "blue"):
        Image.new("RGB", (8, 8), name).save(tmp_path / f"{name}.png")
    return tmp_path


def write(folder: Path, records: Any, name: str = "records.json") -> Path:
    text = json.dumps(records) if name.endswith((".json", ".json.gz")) else "".join(json.dumps(record) + "\n" for record in records)
    path = folder / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return path


def opened(kind: str, path: Path, **fields: Any) -> Any:
    cls = DATASETS.get(kind)
    return cls(parsed(cls.Config, {"name": kind, "path": str(path), **fields})).open()


def said(records: Any, item: int) -> list[tuple[str, str]]:
    return [(message.role, written(message)) for message in records.messages(item, str)]


@pytest.mark.parametrize("name", ["records.json", "records.jsonl", "records.jsonl.gz"])
def test_pictures_stand_where_they_stood(name: str, folder: Path) -> None:
    records = pickle.loads(pickle.dumps(opened("conversations", write(folder, [TALK, SEEN, BOTH], name), images=str(folder))))
    assert len(records) == 3 and records.counts == {"text only": 1, "1 picture": 1, "2 pictures": 1}
    assert said(records, 0) == [("user", "Who?"), ("assistant", "Me."), ("user", "Why?"), ("assistant", "So.")]
    assert said(records, 1) == [("user", "<image>\nWhat is it?"), ("assistant", "Red.")]
    assert [item.path.name for item in records.messages(2, str)[0].inputs] == ["red.png", "blue.png"]
    assert records.id(2) == "c" and records.place(2).endswith(f"{name}, record 2 ('c')")


def changed(record: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {key: value for key, value in {**record, **fields}.items() if value is not None}


@pytest.mark.parametrize(
    ("record", "sentence"),
    [
        (changed(TALK, conversations=TALK["conversations"][:3]), ", record 1 ('a'), conversations: ends with the human's turn, expected"),
        (changed(TALK, conversations=TALK["conversations"][1:]), ", record 1 ('a'), conversations[0].from: is the model's turn, expected"),
        (changed(TALK, conversations=[]), "conversations: has no turn, expected human and gpt in turn, an answer last."),
        (changed(TALK, conversations=None), "conversations: is missing."),
        (
            changed(TALK, conversations=[turn("human", "a"), turn("gpt", " ")]),
            "conversations[1].value: is empty, expected an answer to learn.",
        ),
        (
            changed(TALK, conversations=[turn("human", "a"), turn("bot", "b")]),
            "conversations[1].from: is 'bot', expected one of human, user,",
        ),
        (changed(TALK, conversations=[turn("human", "a"), {"from": "gpt"}]), "conversations[1].value: is missing."),
        (changed(TALK, conversations=["a"]), "conversations[0]: is \"a\", expected an object with 'from' and 'value'."),
        (changed(SEEN, conversations=SEEN["conversations"] * 2), "<image> stands 2 times in the human's turns, expected 1, one for each."),
        (changed(SEEN, image=None), "<image> stands 1 time in the human's turns, expected 0, one for each."),
        (changed(SEEN, image="gone.png"), "image: 'gone.png' is not in {folder}."),
        (changed(SEEN, image="../red.png"), "image: '../red.png' lies outside of {folder}."),
        (changed(SEEN, image=7), "image: is 7, expected a file's name or a list of them."),
        ("text", ', record 1: is "text", expected an object.'),
    ],
)
def test_what_is_wrong_is_said_and_may_be_skipped(record: Any, sentence: str, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(folder, [SEEN, record])
    with pytest.raises(DataError) as caught:
        opened("conversations", path, images=str(folder))
    assert sentence.format(folder=folder) in str(caught.value)
    records = opened("conversations", path, images=str(folder), on_bad="skip")
    assert len(records) == 1 and f"Skipped 1 of 2 records in {path}" in caplog.text


def test_pictures_without_a_folder(folder: Path) -> None:
    with pytest.raises(DataError, match=r"image: is 'red\.png', and dataset\.images names no folder of pictures\.$"):
        opened("conversations", write(folder, [SEEN]))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b'[{"id": "a"', "record 0: "),
        (b"", "record 0: "),
        (b'{"id": 1, "conversations": [}\n', "record 0: expected a JSON object, but: "),
        (gzip.compress(b"[1, 2]", mtime=0), "record 0: is compressed and holds no JSON Lines: unpack it."),
        (gzip.compress(b'{"a": 1}\n' * 200, mtime=0)[:12], "record 0: cannot be unpacked"),
    ],
    ids=["array cut", "empty", "line cut", "array compressed", "archive cut"],
)
def test_a_file_that_is_broken(content: bytes, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "records.json").write_bytes(content)
    with pytest.raises(DataError) as caught:
        opened("conversations", tmp_path / "records.json")
    assert sentence in str(caught.value)


def test_other_forms(tmp_path: Path) -> None:
    alpaca = [{"instruction": "Add.", "input": "1 2", "output": "3"}, {"instruction": "Greet.", "input": "", "output": "Hi"}]
    records = opened("alpaca", write(tmp_path, alpaca, "a.json"), wording="Do: {instruction}")
    assert [said(records, item)[0][1] for item in (0, 1)] == ["Add.\n\n1 2", "Do: Greet."]
    assert said(opened("alpaca", write(tmp_path, alpaca, "b.json"), with_input="{input}: {instruction}"), 0)[0][1] == "1 2: Add."
    dolly = [{"instruction": "Who?", "context": "He.", "response": "He", "category": "closed_qa"}]
    assert said(opened("dolly", write(tmp_path, dolly, "d.jsonl")), 0) == [("user", "Who?\n\nHe."), ("assistant", "He")]
    shared = [{"messages": [{"role": "system", "content": "Be."}, {"role": "user", "content": "A"}, {"role": "assistant", "content": "B"}]}]
    records = opened("sharegpt", write(tmp_path, shared, "s.json"))
    assert said(records, 0) == [("system", "Be."), ("user", "A"), ("assistant", "B")] and records.id(0) == "0"
    with pytest.raises(DataError, match=r"a\.jsonl, record 0, response: is missing\. Did you mean 'respons'\?$"):
        opened("dolly", write(tmp_path, [{"instruction": "a", "respons": "b"}], "a.jsonl"))
    cls = DATASETS.get("alpaca")
    config = parsed(cls.Config, {"name": "alpaca", "path": str(tmp_path / "a.json"), "wording": "{instruct}"})
    assert cls.problems(config) == ["dataset.wording: '{instruct}' cannot be filled in ('instruct'); it has instruction."]


def test_shares_are_held_out(tmp_path: Path) -> None:
    path = write(tmp_path, [changed(TALK, id=str(i)) for i in range(40)])
    split = opened("sharegpt", path, split={"val": 0.1, "test": 0.25, "seed": 3}).split.tolist()
    assert [split.count(part) for part in (0, 1, 2)] == [26, 4, 10]


def test_a_damaged_cache_is_a_sentence(tmp_path: Path) -> None:
    records = opened("sharegpt", write(tmp_path, [TALK]))
    (records.folder / "conversations.arrow").write_bytes(b"x")
    with pytest.raises(DataError, match="is damaged"):
        opened("sharegpt", tmp_path / "records.json")


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    """Of twenty megabytes no more than a few batches are in Python's memory at once."""
    with (tmp_path / "long.jsonl").open("w") as file:
        for i in range(20_000):
            file.write(json.dumps(changed(TALK, id=str(i), conversations=[turn("human", "x" * 900), turn("gpt", "y" * 50)])) + "\n")
    tracemalloc.start()
    records = opened("sharegpt", tmp_path / "long.jsonl")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(records) == 20_000 and peak < 12e6


# Runs.


def command(folder: Path, *overrides: str) -> list[str]:
    short = ["runner.max_steps=1", "runner.global_batch_size=2", "runner.checkpoint.every_n_steps=0", "logger=none"]
    return ["task=conversations", "model/llm=tiny_random", "runner.threads=1", "runner.accelerator=cpu", *short, *overrides]


def test_every_answer_is_learned(folder: Path) -> None:
    path = write(folder, [BOTH])
    pictures = ["model=image", "model/tower=pixels", "dataset=conversations", f"dataset.images={folder}"]
    experiment = check_command_line(ExperimentConfig, "train", command(folder, *pictures, f"dataset.path={path}"))
    task = build_task(experiment)
    model = build_model(experiment, task)
    [example] = model.reader().read([task.instruction(0, seed=0, training=True)])
    learned = model.tokenizer.decode([label for label in example.labels if label != IGNORE])
    assert "No." in learned and "Yes." in learned and "Sure" not in learned and len(example.inputs) == 2


@pytest.mark.parametrize("kind", ["conversations", "sharegpt", "alpaca", "dolly"])
def test_a_plain_adapter_is_trained(kind: str, tmp_path: Path) -> None:
    records: dict[str, Callable[[int], dict[str, Any]]] = {
        "alpaca": lambda i: {"instruction": f"Do {i}", "input": "", "output": "Done"},
        "dolly": lambda i: {"instruction": f"Do {i}", "context": "", "response": "Done"},
    }
    make = records.get(kind, lambda i: changed(TALK, id=str(i)))
    path = write(tmp_path, [make(i) for i in range(4)], "records.jsonl")
    train(tmp_path / "run", command(tmp_path, "model=text", f"dataset={kind}", f"dataset.path={path}"))
    files = {str(file.relative_to(tmp_path / "run/checkpoint")) for file in (tmp_path / "run/checkpoint").rglob("*.safetensors")}
    assert files == {"lora/adapter_model.safetensors"}


def test_a_model_that_sees_nothing_is_told_so(folder: Path) -> None:
    path = write(folder, [SEEN, SEEN])
    settings = command(folder, "model=text", "dataset=conversations", f"dataset.path={path}", f"dataset.images={folder}")
    with pytest.raises(DataError, match=r"^Sample 'b' has a image, and this model reads words alone: choose a model that reads it\."):
        train(folder / "run", settings)
    with pytest.raises(ConfigError, match=r"dataset\.path=/gone\.json: there is no such file\."):
        check_command_line(ExperimentConfig, "train", command(folder, "model=text", "dataset=sharegpt", "dataset.path=/gone.json"))
