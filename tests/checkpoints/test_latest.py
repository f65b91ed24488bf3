"""The newest checkpoint by its short name, and what is listed where a path holds none."""

import json
import os
import re
import sys
from pathlib import Path

import pytest
import yaml
from helpers import build_for, csv_overrides

from graphgpt.checkpoints.folder import find_checkpoint, named_checkpoint, save_checkpoint
from graphgpt.cli.evaluate import main as evaluate
from graphgpt.cli.train import main as train
from graphgpt.config.command_line import check_command_line
from graphgpt.config.experiment import ExperimentConfig
from graphgpt.config.grammar import with_latest
from graphgpt.errors import CheckpointError, ConfigError
from graphgpt.models.tower import find_tower


@pytest.fixture(autouse=True)
def beside_the_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder with three runs that have checkpoints, one that has none, and what is no checkpoint of a run's."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for age, name in enumerate(("stage2/c/checkpoint", "stage1/a/checkpoint", "stage2/b/checkpoint")):
        made(Path("runs") / name, age=age)
    made(Path("runs/stage2/b/best"))
    made(Path("runs/stage2/b/.checkpoint.x1"))
    Path("runs/stage2/cut_off").mkdir()


def made(folder: Path, *, age: int = 0, name: str = "manifest.json") -> None:
    folder.mkdir(parents=True)
    (folder / name).write_text(json.dumps({"format": 1}))
    os.utime(folder / name, (1e9 - age, 1e9 - age))


def refused(path: str) -> str:
    with pytest.raises(CheckpointError) as caught:
        find_checkpoint(path)
    return str(caught.value)


def test_latest_is_the_newest_run_with_a_checkpoint(capsys: pytest.CaptureFixture[str]) -> None:
    assert named_checkpoint("latest") == Path("runs/stage2/c")
    assert capsys.readouterr() == ("", "latest: runs/stage2/c\n")
    made(Path("runs/mine/checkpoint"), age=-1)
    assert named_checkpoint(Path("latest")) == Path("runs/mine")
    capsys.readouterr()
    assert named_checkpoint("runs/latest") == Path("runs/latest")
    Path("latest").mkdir()
    assert named_checkpoint("latest") == Path("latest")  # a folder of the user's own
    assert capsys.readouterr() == ("", "")


def test_latest_on_a_command_line() -> None:
    others = ["seed=1", "name=latest", "resume=auto", "checkpoint=runs/latest"]
    assert with_latest(others) == others
    assert with_latest(["start_from=latest", "++checkpoint=runs/stage1/a,latest"]) == [
        "start_from=runs/stage2/c",
        "++checkpoint=runs/stage1/a,runs/stage2/c",
    ]


def test_no_checkpoint_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["evaluate.py", "checkpoint=latest"])
    with pytest.raises(SystemExit) as left:
        evaluate()
    assert left.value.code == 2
    assert "latest: there is no checkpoint in the folder runs yet." in capsys.readouterr().err


def test_programs_take_latest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    base = [*csv_overrides(tmp_path), "task=node_classification"]
    experiment = check_command_line(ExperimentConfig, "train", base)
    data = {"name": "csv", "fingerprint": "0" * 16, "features": 8}
    save_checkpoint(Path("runs/real/now/checkpoint"), build_for(experiment.model, 8), experiment, data=data, history=[])
    for program, key, others in ((evaluate, "checkpoint", []), (train, "start_from", base)):
        monkeypatch.setattr(sys, "argv", ["program.py", f"{key}=latest", *others, "--cfg", "job"])
        program()
        out, err = capsys.readouterr()
        assert yaml.safe_load(out)[key] == "runs/real/now"
        assert err == "latest: runs/real/now\n"


def test_a_path_that_holds_no_checkpoint_lists_what_is_there(tmp_path: Path) -> None:
    both = "there are, newest first, runs/stage2/c, runs/stage2/b"
    every = "there are, newest first, runs/stage2/c, runs/stage1/a, runs/stage2/b"
    assert refused("runs/stage2") == f"runs/stage2 holds no checkpoint itself; {both}."
    assert refused("runs") == f"runs holds no checkpoint itself; {every}."
    assert refused("runs/stage2/cut_off") == f"runs/stage2/cut_off holds no checkpoint itself; {both}."
    assert refused("runs/stage2/gone") == f"runs/stage2/gone does not exist; {both}."
    assert refused("runs/gone/gone") == f"runs/gone/gone does not exist; {every}."
    assert refused("gone") == f"gone does not exist; {every}."
    assert refused(f"{tmp_path}/away/gone") == f"{tmp_path}/away/gone does not exist."
    with pytest.raises(ConfigError, match=re.escape(f"start_from: runs/stage2 holds no checkpoint itself; {both}.")):
        check_command_line(ExperimentConfig, "train", [*csv_overrides(tmp_path), "start_from=runs/stage2"])


def test_at_most_ten_are_listed() -> None:
    for age in range(12):
        made(Path(f"runs/many/{age:02}"), age=age)
    listed = ", ".join(f"runs/many/{age:02}" for age in range(10))
    assert refused("runs/many") == f"runs/many holds no checkpoint itself; there are, newest first, {listed} and 2 more."


def test_towers_are_listed_too() -> None:
    made(Path("runs/stage0/a/checkpoint"), name="tower.json")
    with pytest.raises(CheckpointError, match=re.escape("; there are, newest first, runs/stage0/a.") + "$"):
        find_tower("runs/stage0")
