"""Steps and epochs, learning rates over time, weight decay by part, and what a sample counts in a step."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers import csv_overrides, train

from graphgpt.config.command_line import check_command_line
from graphgpt.config.experiment import ExperimentConfig
from graphgpt.errors import ConfigError
from graphgpt.runners.training.module import ModelModule, warmup_steps


@pytest.fixture
def data(tmp_path: Path) -> list[str]:
    return [*csv_overrides(tmp_path), "experiment=stage1", "runner.val_every=0", "runner.checkpoint.every_n_steps=0"]


def lines(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_epochs_become_steps(data: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Forty-two nodes, of which stage 1 trains on those that are not held out."""
    with caplog.at_level("INFO"):
        train(tmp_path / "run", [*data, "runner.epochs=1.5", "runner.global_batch_size=5", "dataset.split.train=0.5"])
    [said] = [message for message in caplog.messages if " epochs of " in message]
    samples = int(said.split(" epochs of ")[1].split(" ")[0])
    steps = round(1.5 * samples / 5)
    assert said == f"1.5 epochs of {samples} samples: {steps} steps of 5."
    assert len(lines(tmp_path / "run")) == steps
    assert f"max_steps: {steps}" in (tmp_path / "run" / "config.yaml").read_text()


def test_steps_and_epochs_are_not_given_together(data: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        check_command_line(ExperimentConfig, "train", [*data, "runner.epochs=3", "runner.max_steps=7"])
    assert caught.value.problems == ["runner.max_steps=7: changes nothing beside runner.epochs=3, from which the steps are worked out."]


def rates(**fields: Any) -> list[float]:
    config = SimpleNamespace(**({"max_steps": 10, "warmup": 0.0, "schedule": "cosine", "min_lr": 0.1} | fields))
    return [ModelModule._rate(SimpleNamespace(config=config), step) for step in range(config.max_steps + 1)]  # type: ignore[arg-type]


def test_schedules() -> None:
    assert rates(schedule="constant") == [1.0] * 11
    assert rates(schedule="linear") == pytest.approx([1 - step / 10 for step in range(11)])
    half = rates(schedule="cosine")
    assert (half[0], half[5], half[10]) == pytest.approx((1, 0.5, 0), abs=1e-6)
    lowest = rates(schedule="cosine_to_min", min_lr=0.2)
    assert (lowest[0], lowest[5], lowest[10]) == pytest.approx((1, 0.6, 0.2), abs=1e-6)
    assert rates(warmup=4, schedule="constant")[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1])
    assert rates(warmup=0.4, schedule="constant") == rates(warmup=4, schedule="constant")
    assert warmup_steps(SimpleNamespace(warmup=100.0, max_steps=10)) == 100


def test_a_warmup_that_is_neither(data: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        check_command_line(ExperimentConfig, "train", [*data, "runner.warmup=2.5"])
    assert caught.value.problems == ["runner.warmup: 2.5 is neither a share of the steps, below 1, nor a whole number of them."]


def test_each_part_has_its_decay(data: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    groups: list[dict[str, float]] = []
    make = torch.optim.AdamW.__init__

    def watched(self: Any, params: Any, **more: Any) -> None:
        groups.append({group["name"]: group.get("weight_decay", more["weight_decay"]) for group in params})
        make(self, params, **more)

    monkeypatch.setattr(torch.optim.AdamW, "__init__", watched)
    decays = ["runner.weight_decay.projector=0.1", "runner.optimizer.weight_decay=0.01"]
    train(tmp_path / "run", [*data, "runner.max_steps=1", *decays])
    assert groups == [{"projector": 0.1, "tokens": 0.01}]
    with pytest.raises(ConfigError, match=r"runner\.weight_decay\.lora=0\.1: acts only with model\.lora\.rank above 0, and that is 0\."):
        check_command_line(ExperimentConfig, "train", [*data, "runner.weight_decay.lora=0.1"])
    for part in ("tower", "llm"):
        with pytest.raises(ConfigError, match=rf"runner\.weight_decay\.{part}=0\.1: acts only with model\.{part}\.train=true"):
            check_command_line(ExperimentConfig, "train", [*data, f"runner.weight_decay.{part}=0.1"])


def test_tokens_count_alike_however_a_step_is_cut(data: list[str], tmp_path: Path) -> None:
    """A step of six samples in one pass, and in passes of one and of two: the same loss and the same steps, another than by samples."""
    settings = [*data, "task=node_description", "runner.max_steps=2", "runner.global_batch_size=6", "runner.schedule=constant"]
    found = {}
    for name, more in {
        "whole": ["runner.loss=token_mean"],
        "ones": ["runner.loss=token_mean", "runner.micro_batch_size=1"],
        "twos": ["runner.loss=token_mean", "runner.micro_batch_size=2"],
        "samples": [],
    }.items():
        train(tmp_path / name, [*settings, *more])
        found[name] = [line["train/loss"] for line in lines(tmp_path / name)]
    assert found["ones"] == pytest.approx(found["whole"], rel=1e-5)
    assert found["twos"] == pytest.approx(found["whole"], rel=1e-5)
    assert found["samples"] != pytest.approx(found["whole"], rel=1e-4)


def test_tokens_of_a_model_that_writes_none(data: list[str]) -> None:
    settings = [*data[:-3], "experiment=baseline/gnn", "runner.loss=token_mean"]
    with pytest.raises(ConfigError, match=r"runner\.loss: 'token_mean' weighs tokens, and model\.name=gnn writes none; use sample_mean\."):
        check_command_line(ExperimentConfig, "train", settings)
