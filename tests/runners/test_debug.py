"""Callbacks and debug configurations: each does what it is for."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import csv_overrides
from test_training import STAGE2, Trained, run

from graphgpt.checkpoints.folder import read_history
from graphgpt.models.projectors.linear import Linear
from graphgpt.runners.training.task_data import TaskData

Train = Callable[..., Trained]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return csv_overrides(tmp_path_factory.mktemp("csv"))


@pytest.fixture
def train(data: list[str], tmp_path: Path) -> Train:
    return lambda *overrides: run(tmp_path / "run", [*data, "runner.global_batch_size=2", *overrides])


def test_fdr_goes_through_everything_once(train: Train) -> None:
    done = train("debug=fdr")
    train_line, val_line = done.lines
    assert (train_line["step"], val_line["step"]) == (0, 0)
    assert "val/loss" in val_line
    assert [path.name for path in (done.folder / "resume").iterdir()] == ["step=1.ckpt"]
    names = {path.name for path in done.folder.iterdir()}
    assert {"config.yaml", "environment.json", "samples.jsonl", "report.html", "split.csv", "checkpoint"} <= names


def test_limit_sees_few_samples(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = drawn(monkeypatch)
    train("debug=limit", "runner.max_steps=4", "runner.train_samples=3", "runner.val_every=0")
    assert len(seen) == 8
    assert len(set(seen)) == 3
    assert {epoch for epoch, _ in seen} == {0}


def drawn(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """What the training samples are drawn from, as it is drawn."""
    seen: list[tuple[int, int]] = []
    make = TaskData.train_dataloader

    def noting(self: TaskData) -> Any:
        loader = make(self)
        seen.extend(key for batch in loader.batch_sampler for key in batch)
        return loader

    monkeypatch.setattr(TaskData, "train_dataloader", noting)
    return seen


def test_overfit_ends_when_the_samples_are_known(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two layers of random weights never know them well, so the threshold is one that they can reach."""
    seen = drawn(monkeypatch)
    fast = "runner.lr={projector: 0.01, tokens: 0.01, lora: 0.02}"
    threshold = "runner.callbacks.learnt.stopping_threshold=5.3"
    done = train("debug=overfit", "runner.global_batch_size=4", "runner.val_answers=0", *STAGE2, fast, threshold)
    losses = [line["train/loss"] for line in done.lines if "train/loss" in line]
    assert losses[-1] < 5.3 < losses[0]
    assert len(losses) < 300
    assert len(losses) % 10 == 0, "it is looked at every ten steps"
    assert len(set(seen)) == 4
    assert read_history(done.folder / "checkpoint")[-1]["facts"]["Samples seen"] == f"{4 * len(losses):,}"


def test_early_stopping_ends_a_run_that_does_not_get_better(train: Train) -> None:
    still = "runner.lr={projector: 1e-20, tokens: 1e-20}"
    done = train(
        "callbacks=early_stopping", "runner.max_steps=20", "runner.val_every=1", "runner.val_samples=2", "runner.val_answers=0", still
    )
    assert sum("val/loss" in line for line in done.lines) == 1 + 3


def test_anomaly_names_the_operation(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    forward = Linear.forward
    # The root of 0 has no gradient: 0 times infinity.
    monkeypatch.setattr(Linear, "forward", lambda self, *given: forward(self, *given) + (forward(self, *given) * 0).sqrt() * 0)
    with pytest.raises(RuntimeError, match=r"Function 'SqrtBackward0' returned nan values"):
        train("debug=anomaly", "runner.max_steps=2")
    assert not torch.is_anomaly_enabled()


def test_profiler_writes_a_trace_and_a_text(train: Train) -> None:
    done = train("debug=profiler")
    with gzip.open(done.folder / "profile" / "trace.json.gz", "rt") as file:
        events = json.load(file)["traceEvents"]
    assert sum(event.get("name", "").startswith("ProfilerStep#") and event.get("ph") == "X" for event in events) == 3
    text = (done.folder / "profile" / "operations.txt").read_text()
    assert text.startswith("3 steps, the operations that took longest by their own time.")
    assert "aten::" in text
