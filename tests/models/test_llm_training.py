"""The whole language model trained: what moves, what is kept, and that it stands on nothing else afterwards."""

import json
from pathlib import Path

import pytest
import torch
from helpers import csv_overrides, train

from graphgpt.assembly import build_model, build_task
from graphgpt.checkpoints.folder import checkpoint_experiment, load_checkpoint, read_manifest
from graphgpt.config.command_line import check_command_line
from graphgpt.config.experiment import ExperimentConfig, read_config
from graphgpt.errors import ConfigError
from graphgpt.models.llm import load_llm
from graphgpt.models.multimodal_llm import MultimodalLLM

STEPS = ["runner.max_steps=2", "runner.global_batch_size=4", "runner.val_every=0", "runner.lr.llm=1e-3", "runner.schedule=constant"]


@pytest.fixture
def data(tmp_path: Path) -> list[str]:
    return [*csv_overrides(tmp_path), *STEPS]


def opened(folder: Path) -> MultimodalLLM:
    experiment = read_config(ExperimentConfig, checkpoint_experiment(folder))
    model: MultimodalLLM = build_model(experiment, build_task(experiment))
    load_checkpoint(model, folder)
    return model.eval()


def test_all_of_it_moves_and_is_found_again(data: list[str], tmp_path: Path) -> None:
    """Every tensor of the language model learns at its own rate; the checkpoint alone gives it back, without the base."""
    train(tmp_path / "run", [*data, "experiment=stage1", "model.llm.train=true"])
    checkpoint = tmp_path / "run" / "checkpoint"
    manifest = read_manifest(checkpoint)
    assert {"llm/config.json", "llm/model.safetensors", "llm/tokenizer.json"} <= set(manifest["files"])
    assert not (checkpoint / "lora").exists()
    line = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[0])
    assert line["lr/llm"] == pytest.approx(1e-3)
    model = opened(tmp_path / "run")
    assert model.config.llm.path == str(checkpoint / "llm")
    base = load_llm(check_command_line(ExperimentConfig, "train", [*data[: -len(STEPS)], "experiment=stage1"]).model.llm)
    before, after = base.state_dict(), model.llm.state_dict()
    assert before.keys() == after.keys()
    assert all(not torch.equal(before[name], after[name]) for name in before)
    assert manifest["llm"]["fingerprint"] == model.llm_fingerprint


def test_it_goes_on_from_where_it_was(data: list[str], tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    train(first, [*data, "experiment=stage1", "model.llm.train=true"])
    stage2 = ["experiment=stage2/node_classification", f"start_from={first}", "model/lora=none"]
    with pytest.raises(ConfigError) as caught:
        check_command_line(ExperimentConfig, "train", [*data[: -len(STEPS)], *stage2])
    assert caught.value.problems == [
        f"start_from: {first} has trained its language model: go on with it by model.llm.train=true, or stand on it by "
        f"model.llm.path={first}/checkpoint/llm."
    ]
    train(second, [*data, *stage2, "model.llm.train=true", "runner.lr.llm=1e-12", "runner.max_steps=1"])
    one, two = (opened(folder).llm.state_dict() for folder in (first, second))
    assert all(torch.allclose(one[name], two[name], atol=1e-6) for name in one)
    train(
        tmp_path / "third",
        [
            *data[: -len(STEPS)],
            "runner.max_steps=1",
            "runner.val_every=0",
            *stage2[:2],
            f"model.llm.path={first}/checkpoint/llm",
            "model/lora=default",
        ],
    )
    assert (tmp_path / "third" / "checkpoint" / "lora").is_dir() and not (tmp_path / "third" / "checkpoint" / "llm").exists()


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ("model/lora=default", "model.lora.rank=16: adapters are for a frozen language model"),
        ("model/quantization=nf4", "model.quantization: nf4: such weights do not learn"),
    ],
)
def test_what_does_not_go_with_it(data: list[str], settings: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_command_line(ExperimentConfig, "train", [*data, "experiment=stage1", "model.llm.train=true", settings])
    instead = f"{settings.split('=')[0]}=none"
    assert f"{problem}, and model.llm.train=true; use {instead}." in caught.value.problems


def test_frozen_is_the_default_and_stays_bit_identical(data: list[str], tmp_path: Path) -> None:
    train(tmp_path / "run", [*data[: -len(STEPS)], *STEPS[:3], "experiment=stage1"])
    assert not (tmp_path / "run" / "checkpoint" / "llm").exists()
    with pytest.raises(ConfigError, match=r"runner\.lr\.llm=0\.001: acts only with model\.llm\.train=true, and that is false\."):
        check_command_line(ExperimentConfig, "train", [*data, "experiment=stage1"])
