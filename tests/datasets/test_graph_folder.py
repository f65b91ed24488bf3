"""The ``folder`` dataset: a built graph used where it lies."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import csv_overrides, make_graph

from graphgpt.assembly import build_task
from graphgpt.config.command_line import check_command_line
from graphgpt.config.experiment import ExperimentConfig
from graphgpt.datasets.folder import Folder, FolderConfig
from graphgpt.errors import ConfigError, DataError
from graphgpt.files.atomic import cache_dir
from graphgpt.registry import DATASETS


def saved(folder: Path, words: Any = None) -> Path:
    make_graph().save(folder)
    card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    (folder / "card.json").write_text(json.dumps(card | ({} if words is None else {"words": words})), encoding="utf-8")
    return folder


def config(path: Path, **fields: Any) -> FolderConfig:
    return FolderConfig(name="folder", text_encoder={"name": "tfidf_svd"}, path=str(path), **fields)


def test_is_registered() -> None:
    assert DATASETS.get("folder") is Folder


def test_words_are_those_of_the_card_unless_given(tmp_path: Path) -> None:
    path = saved(tmp_path / "graph", {"domain": "citation", "node": "paper", "relation": "cites", "extra": 1})
    made = config(path)
    assert (made.domain, made.node, made.relation, made.category) == ("citation", "paper", "cites", "category")
    made = config(path, node="article")
    assert (made.domain, made.node) == ("citation", "article")


@pytest.mark.parametrize("words", [None, [], "words", 3])
def test_a_card_without_words(tmp_path: Path, words: Any) -> None:
    assert config(saved(tmp_path / "graph", words)).node == "node"


def test_opened_in_place(tmp_path: Path) -> None:
    path = saved(tmp_path / "graph")
    dataset = Folder(config(path))
    assert dataset.folder() == path
    assert dataset.fingerprint() == make_graph().fingerprint
    assert torch.equal(dataset.build().features, make_graph().features)


def test_problems(tmp_path: Path) -> None:
    path = saved(tmp_path / "graph")
    assert Folder.problems(config(path)) == []
    assert Folder.problems(config(tmp_path / "grap")) == [
        f"dataset.path={tmp_path / 'grap'}: there is no such folder; 'graphgpt data build' makes one. Did you mean 'graph'?"
    ]
    assert Folder.problems(config(path / "card.json")) == [
        f"dataset.path={path / 'card.json'} is a file, expected a graph folder; 'graphgpt data build' makes one of it."
    ]
    assert Folder.problems(config(tmp_path)) == [
        f"dataset.path={tmp_path} is not a graph folder: card.json is missing; 'graphgpt data build' makes one."
    ]
    assert Folder.problems(config(path, split={"name": "file"})) == ["dataset.split.path: must be given, for dataset.split.name is 'file'."]


def overrides(tmp_path: Path, path: Path) -> list[str]:
    return [*csv_overrides(tmp_path)[4:], "dataset=folder", f"dataset.path={path}", "experiment=stage1"]


def test_a_task_on_a_folder_with_features_of_its_own(tmp_path: Path) -> None:
    path = saved(tmp_path / "graph", {"node": "paper"})
    experiment = check_command_line(ExperimentConfig, "train", overrides(tmp_path, path))
    assert experiment.dataset.node == "paper"
    task = build_task(experiment)
    assert torch.equal(task.graph.features, make_graph().features)
    assert not any(found.name.startswith("folder-") for found in (cache_dir() / "graphs").glob("*"))


def test_a_task_on_a_folder_without_features_encodes_its_texts(tmp_path: Path) -> None:
    path = saved(tmp_path / "graph")
    (path / "x.safetensors").unlink()
    task = build_task(check_command_line(ExperimentConfig, "train", [*overrides(tmp_path, path), "dataset.text_encoder.dim=5"]))
    assert task.graph.features.shape == (60, 5)


def test_a_missing_folder_is_a_problem_of_the_configuration(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"dataset\.path=.*nowhere: there is no such folder"):
        check_command_line(ExperimentConfig, "train", overrides(tmp_path, tmp_path / "nowhere"))


def test_a_damaged_folder_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "graph")
    (path / "text.arrow").unlink()
    with pytest.raises(DataError, match=r"is not a graph folder: text\.arrow is missing"):
        Folder(config(path)).build()
