"""Combinations that cannot work are refused before anything is loaded, each in one sentence with the way out."""

import re
from collections.abc import Sequence

import pytest
import torch
from helpers import csv_overrides

from graphgpt.assembly import build_runner
from graphgpt.command_line import check_command_line
from graphgpt.compatibility import combination_problems
from graphgpt.config import ExperimentConfig
from graphgpt.errors import ConfigError

SHARDED = ["runner/strategy=fsdp", "runner.devices=2", "runner.global_batch_size=4"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A graph on the command line."""
    return csv_overrides(tmp_path_factory.mktemp("csv"))


@pytest.fixture(params=["cpu", "mps", "cuda"])
def machine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What this machine seems to have."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: request.param == "cuda")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: request.param == "mps")
    return str(request.param)


def problems(overrides: Sequence[str]) -> list[str]:
    """What the command line, or else the runner, refuses."""
    try:
        build_runner(check_command_line(ExperimentConfig, "train", overrides))
    except ConfigError as error:
        return error.problems
    return []


@pytest.mark.parametrize("bits", ["int8", "nf4"])
def test_weights_in_few_bits_are_not_cut_among_processes(bits: str, data: list[str]) -> None:
    assert problems([*data, *SHARDED, f"model/quantization={bits}"]) == [
        f"model.quantization: {bits} weights cannot be cut among processes, as runner.strategy.name=fsdp would; "
        "use runner/strategy=ddp, a whole copy in each, or model/quantization=none."
    ]
    assert problems([*data, *SHARDED]) == []
    assert problems([*data, "runner/strategy=ddp", *SHARDED[1:], f"model/quantization={bits}"]) == []


def test_deepspeed_cuts_weights_in_stage_3(data: list[str]) -> None:
    config = check_command_line(ExperimentConfig, "train", [*data, "model/quantization=nf4"])
    strategy = type(config.runner.strategy)
    for stage, count in ((2, 0), (3, 1)):
        runner = type("Runner", (), {"strategy": strategy(name="deepspeed", stage=stage), "optimizer": config.runner.optimizer})
        assert len(combination_problems(config.model, runner)) == count


def test_optimizers_in_8_bits_are_not_for_cut_weights(data: list[str]) -> None:
    assert problems([*data, *SHARDED, "runner/optimizer=adamw_8bit"]) == [
        "runner.optimizer: bitsandbytes.optim.AdamW8bit knows no weights that are cut among processes (fsdp); use runner/optimizer=adamw."
    ]


def test_what_a_machine_lacks(machine: str, data: list[str]) -> None:
    auto = [*data, "runner.accelerator=auto"]
    expected = {
        "model/quantization=nf4": {"mps": r"^model\.quantization: nf4 does not run on mps; use runner\.accelerator=cpu, or "},
        "runner/optimizer=adamw_8bit": {"mps": r"^runner\.optimizer: bitsandbytes\.optim\.AdamW8bit does not run on mps; "},
        "runner/optimizer=paged_adamw_8bit": {
            "mps": r"^runner\.optimizer: bitsandbytes\.optim\.PagedAdamW8bit does not run on mps; use runner/optimizer=adamw\.$",
            "cpu": r"PagedAdamW8bit needs CUDA, and this run is on cpu; use runner/optimizer=adamw_8bit\.$",
        },
    }
    for option in ("runner/strategy=deepspeed_2", "runner/strategy=deepspeed_3_offload"):
        expected[option] = dict.fromkeys(("mps", "cpu", "cuda"), r"^runner/strategy: DeepSpeed is not installed: pip install 'graphgpt")
    expected["runner.precision=16-mixed"] = {
        other: rf"^runner\.precision: 16-mixed needs CUDA, and this run is on {other}; use bf16-mixed\.$" for other in ("mps", "cpu")
    }
    for option, sentences in expected.items():
        found = problems([*auto, option])
        assert len(found) == (machine in sentences), (option, found)
        assert all(re.search(sentences[machine], problem) for problem in found)
    assert bool(problems([*data, "runner.accelerator=cpu", "model/quantization=nf4"])) is False


def test_a_chosen_device_counts_and_not_what_is_there(data: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    [problem] = problems([*data, "runner.accelerator=cpu", "runner/optimizer=paged_adamw_8bit"])
    assert "this run is on cpu" in problem
    [problem] = problems([*data, "runner.accelerator=mps", "model/quantization=int8"])
    assert "int8 does not run on mps" in problem


def test_settings_of_another_machine_can_be_read(data: list[str]) -> None:
    """A checkpoint that was trained where there is CUDA is evaluated where there is none."""
    config = check_command_line(ExperimentConfig, "train", [*data, "runner/optimizer=paged_adamw_8bit"])
    assert config.runner.optimizer["_target_"] == "bitsandbytes.optim.PagedAdamW8bit"


def test_torchrun_and_the_settings_agree_on_the_number_of_processes(data: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert problems(data) == ["runner.devices: torchrun started 2 process(es) on this machine, but runner.devices=1."]
    assert problems([*data, "runner/strategy=ddp", "runner.devices=2"]) == []
