"""Combinations that cannot work are refused before anything is loaded, each in one sentence with the way out."""

import re
from collections.abc import Sequence

import pytest
import torch
from helpers import csv_overrides

from graphgpt.assembly import build_runner
from graphgpt.config.command_line import check_command_line
from graphgpt.config.compatibility import combination_problems
from graphgpt.config.experiment import ExperimentConfig
from graphgpt.errors import ConfigError
from graphgpt.machine.processors import threads
from graphgpt.metrics import Declared, Metric
from graphgpt.runners.lightning import OTHERS, with_mode

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
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
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
    assert problems(data) == ["runner.devices: torchrun started 2 processes on this machine, but runner.devices=1."]
    assert problems([*data, "runner/strategy=ddp", "runner.devices=2"]) == []


def test_metrics_that_will_not_be_logged_are_said_before_anything_is_read(data: list[str]) -> None:
    nodes = [*data, "task=node_classification", "runner.val_every=1"]
    nearest = "a run of task.name=node_classification logs no 'val_loss'. Did you mean 'val/loss'?"
    assert problems([*nodes, "runner.checkpoint.monitor=val_loss"]) == [f"runner.checkpoint.monitor: {nearest}"]
    stops = ["callbacks=early_stopping", "runner.callbacks.early_stopping.monitor=val_loss"]
    assert problems([*nodes, *stops]) == [f"runner.callbacks.early_stopping.monitor: {nearest}"]
    for known in ("val/accuracy", "val/macro_f1", "train/loss", "lr/projector"):
        assert problems([*nodes, f"runner.checkpoint.monitor={known}"]) == []
    assert problems([*data, "task=node_classification", "runner.checkpoint.monitor=val/accuracy"]) == [
        "runner.checkpoint.monitor: 'val/accuracy' comes of validation; set runner.val_every."
    ]
    # Those of the task: links have no macro-F1, and what is written is scored by the answers that validation writes.
    assert len(problems([*data, "task=link_prediction", "runner.val_every=1", "runner.checkpoint.monitor=val/macro_f1"])) == 1
    written = [*data, "task=node_description", "runner.val_every=1", "runner.checkpoint.monitor=val/rouge_l"]
    assert problems(written) == []
    assert len(problems([*written, "runner.val_answers=0"])) == 1


def test_the_best_of_a_metric_follows_from_it(data: list[str]) -> None:
    nodes = [*data, "task=node_classification", "runner.val_every=1", "runner.checkpoint.monitor=val/accuracy"]
    assert problems([*nodes, "runner.checkpoint.mode=max"]) == []
    assert problems([*nodes, "runner.checkpoint.mode=min"]) == [
        "runner.checkpoint.mode: 'min' takes the worst 'val/accuracy' for the best; leave it out, or set it to 'max'."
    ]
    stop = {"_target_": "lightning.pytorch.callbacks.EarlyStopping", "monitor": "val/auc"}
    declared = Declared.of([Metric(name="val/distance", title="Distance", less_is_better=True)])
    monitors = (stop, stop | {"monitor": "val/loss"}, stop | {"mode": "min"}, stop | {"monitor": "val/distance"})
    assert [with_mode(node, declared)["mode"] for node in monitors] == ["max", "min", "min", "min"]


@pytest.mark.parametrize("name", sorted(OTHERS))
def test_callbacks_that_do_not_go_with_our_optimization_are_named(name: str, data: list[str]) -> None:
    target = f"lightning.pytorch.callbacks.{name}"
    assert problems([*data, f"runner.callbacks.mine={{_target_: {target}}}"]) == [
        f"runner.callbacks.mine: {target} does not go with this runner; {OTHERS[name]}."
    ]


@pytest.mark.parametrize("wanted", ["cuda", "mps"])
def test_an_accelerator_that_is_not_there(wanted: str, machine: str, data: list[str]) -> None:
    sentence = (
        f"runner.accelerator: this machine has no {wanted} device that torch can use; use runner.accelerator=auto, which is {machine} here."
    )
    assert problems([*data, f"runner.accelerator={wanted}"]) == ([] if wanted == machine else [sentence])


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ("runner.max_steps=9223372036854775808", "9223372036854775808 does not fit: no number here may be beyond 2,147,483,647."),
        ("seed=4294967296", "4294967296 does not fit: no number here may be beyond 2,147,483,647."),
        ("dataset.sampler.fanout=99999999999", "99999999999 does not fit: no number here may be beyond 2,147,483,647."),
        ("runner.optimizer.weight_decay=1e400", "inf does not fit: no number here may be beyond 3e+38."),
        ("runner.lr.projector=1e300", "1e+300 does not fit: no number here may be beyond 3e+38."),
        ("runner.threads=100000", "100000 does not fit: input should be less than or equal to 4096."),
        ("runner.workers=100000", "100000 does not fit: input should be less than or equal to 4096."),
    ],
)
def test_numbers_beyond_what_numbers_hold(given: str, sentence: str, data: list[str]) -> None:
    data = [one for one in data if not one.startswith("runner.threads")]
    assert problems([*data, given]) == [f"{given.partition('=')[0]}: {sentence}"]


def test_omp_num_threads_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graphgpt.machine.processors.processors", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert [threads(), threads(at_once=3), threads(5, 3)] == [8, 2, 5]
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert [threads(), threads(at_once=4), threads(5)] == [3, 2, 5]
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert threads() == 1
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")  # torchrun's own doing
    assert threads(at_once=2) == 4
