"""Optimizers by config: learning rates by part, states in 8 bits, and what an interruption leaves of them."""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import csv_overrides
from torch import Tensor

from graphgpt.assembly import build_model, build_runner, build_task
from graphgpt.config.command_line import check_command_line
from graphgpt.config.experiment import ExperimentConfig
from graphgpt.models.multimodal_llm import MultimodalLLM
from graphgpt.runs.runs import read_metrics


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A graph on the command line, and two samples a step."""
    return [*csv_overrides(tmp_path_factory.mktemp("csv")), "runner.global_batch_size=2"]


def train(folder: Path, overrides: Sequence[str]) -> tuple[MultimodalLLM, dict[str, Tensor]]:
    """The trained model, and what of it moved as it was before."""
    experiment = check_command_line(ExperimentConfig, "train", overrides)
    task = build_task(experiment)
    model: MultimodalLLM = build_model(experiment, task)
    before = {name: p.detach().clone() for name, p in model.trainable_state().items()}
    build_runner(experiment).train(model, task, experiment, folder)
    return model, before


def losses(folder: Path) -> list[float]:
    return [line["train/loss"] for line in read_metrics(folder) if "train/loss" in line]


def test_each_part_has_its_learning_rate(data: list[str], tmp_path: Path) -> None:
    """Every parameter moves at the rate of its part: Adam's first step is that long, whatever the gradient."""
    rates = {"projector": 1e-3, "tokens": 2e-3, "lora": 3e-3, "tower": 4e-3}
    tower = {"train": "true", "layers": "1", "dim": "16", "heads": "2", "output_dim": "16"}
    overrides = [
        *data,
        "model/tower=graph_transformer",
        "model/lora=default",
        "runner.max_steps=1",
        "runner.schedule=constant",
        "runner.warmup=0",
        "runner.clip=0",
        *(f"model.tower.{key}={value}" for key, value in tower.items()),
        *(f"runner.lr.{part}={rate}" for part, rate in rates.items()),
    ]
    model, before = train(tmp_path, overrides)
    moved: dict[str, float] = {}
    for name, p in model.trainable_state().items():
        part = model.rate_of(name)
        moved[part] = max(moved.get(part, 0.0), float((p.detach() - before[name]).abs().max()))
    assert moved == pytest.approx(rates, rel=0.02)
    [line] = [line for line in read_metrics(tmp_path) if "train/loss" in line]
    assert {part: line[f"lr/{part.replace('llm', 'lora')}"] for part in rates} == pytest.approx(rates)


def flat(state: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Entries of an optimizer's state; bitsandbytes has put some of them into a dictionary below."""
    for name, value in state.items():
        yield from flat(value) if isinstance(value, dict) else [(name, value)]


def test_states_in_8_bits_on_the_processor(data: list[str], tmp_path: Path) -> None:
    """Nearly as AdamW, from a quarter of its state, and on the same trajectory after an interruption."""
    options = [*data, "model/lora=all_linear", "runner.max_steps=6", "runner.checkpoint.every_n_steps=3", "runner.checkpoint.keep=2"]
    train(tmp_path / "plain", options)
    whole, _ = train(tmp_path / "whole", [*options, "runner/optimizer=adamw_8bit"])
    sizes = {}
    for run in ("plain", "whole"):
        [optimizer] = torch.load(tmp_path / run / "resume" / "step=6.ckpt", weights_only=True)["optimizer_states"]
        entries = [value for state in optimizer["state"].values() for _, value in flat(state) if isinstance(value, Tensor)]
        sizes[run] = sum(value.nbytes for value in entries if value.numel() >= 4096)
    assert sizes["whole"] == pytest.approx(sizes["plain"] / 4, rel=0.01)
    assert losses(tmp_path / "whole") == pytest.approx(losses(tmp_path / "plain"), rel=0.02)

    # As if it had been killed after its third step.
    shutil.copytree(tmp_path / "whole", tmp_path / "cut", ignore=shutil.ignore_patterns("checkpoint", "step=6.ckpt"))
    resumed, _ = train(tmp_path / "cut", [f"resume={tmp_path / 'cut'}"])
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    for name, parameter in whole.trainable_state().items():
        torch.testing.assert_close(resumed.trainable_state()[name], parameter, atol=0, rtol=0)
