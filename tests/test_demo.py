"""``make demo``: what is done already is found and shown, not done again."""

import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from helpers import csv_overrides
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig

from graphgpt.cli import demo, evaluate, train


def test_a_second_time_shows_what_the_first_has_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    started = []

    def run(name: str, overrides: Sequence[str]) -> None:
        started.append(name)
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *overrides])
        {"train": train, "evaluate": evaluate}[name].main()
        GlobalHydra.instance().clear()
        HydraConfig.instance().cfg = None

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo, "ROOT", tmp_path)
    monkeypatch.setattr(demo, "run", run)
    overrides = [*csv_overrides(tmp_path), "task=node_classification", "runner.max_steps=1", "runner.global_batch_size=2", "name=small"]
    for _ in range(2):
        folder = demo.train(overrides)
        demo.evaluate(folder)
    assert started == ["train", "evaluate"]
    [evaluation] = Path("runs/evaluate").iterdir()
    first, _, second = capsys.readouterr().out.partition(f"(done already: {folder})")
    assert f"(done already: {evaluation})" in second
    for line in (" test items of csv\n", "\n Graph tokens removed ", "/report.html\n", "\n    graphgpt ls\n"):
        assert line in first and line in second
