"""Training as a whole: what moves, what is handed over, what an interruption or a second process changes (nothing)."""

import dataclasses
import errno
import json
import math
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from helpers import csv_overrides
from safetensors.torch import load_file
from torch import Tensor

from graphgpt.assembly import build_model, build_runner, build_task
from graphgpt.checkpoints.folder import model_state, read_history, read_manifest
from graphgpt.config.command_line import check_command_line
from graphgpt.config.experiment import ExperimentConfig, read_config
from graphgpt.errors import CheckpointError, ConfigError, DataError, GraphGPTError
from graphgpt.files.atomic import file_sha256
from graphgpt.models.multimodal_llm import MultimodalLLM
from graphgpt.runners.lightning import newest_resumable
from graphgpt.runs.runs import read_metrics

ROOT = Path(__file__).parents[2]
WAIT = 250  # seconds that a process may take on a busy machine
STAGE2 = ["task=node_classification", "model/lora=default"]


@dataclasses.dataclass(frozen=True)
class Trained:
    """A finished run."""

    folder: Path
    experiment: ExperimentConfig
    model: MultimodalLLM
    before: dict[str, Tensor]
    """State of the model when it was built."""
    first: dict[str, Tensor]
    """State of the model when its first step began."""

    @property
    def after(self) -> dict[str, Tensor]:
        return state(self.model)

    @property
    def lines(self) -> list[dict[str, Any]]:
        return read_metrics(self.folder)


def state(model: MultimodalLLM) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def run(folder: Path, overrides: Sequence[str]) -> Trained:
    """Train as train.py does, in this process."""
    experiment = check_command_line(ExperimentConfig, "train", overrides)
    task = build_task(experiment)
    model = build_model(experiment, task)
    before, first = state(model), dict[str, Tensor]()
    hook = next(iter(model.modalities.values())).projector.register_forward_pre_hook(lambda *_: first.update(first or state(model)))
    build_runner(experiment).train(model, task, experiment, folder)
    hook.remove()
    return Trained(folder, experiment, model, before, first)


Train = Callable[..., Trained]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The graph on the command line."""
    return csv_overrides(tmp_path_factory.mktemp("csv"))


@pytest.fixture
def train(data: list[str], tmp_path: Path) -> Train:
    """``train(*overrides)``: three steps of two samples in a run folder of its own."""

    def train(*overrides: str) -> Trained:
        number = len(list(tmp_path.glob("run*")))
        short = ["runner.max_steps=3", "runner.global_batch_size=2", "runner.micro_batch_size=2"]
        return run(tmp_path / f"run{number}", [*data, *short, *overrides])

    return train


def tensors(run_folder: Path, checkpoint: str = "checkpoint") -> dict[str, Tensor]:
    """Everything that a run's checkpoint holds."""
    found = {}
    for path in sorted((run_folder / checkpoint).rglob("*.safetensors")):
        found.update({f"{path.stem}.{name}": tensor for name, tensor in load_file(path).items()})
    assert found
    return found


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 0.0) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=tolerance, atol=tolerance, msg=lambda text, name=name: f"{name}: {text}")


def start(cwd: Path, *overrides: str) -> "subprocess.Popen[str]":
    command = [sys.executable, str(ROOT / "train.py"), *overrides]
    return subprocess.Popen(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)


def finish(cwd: Path, *overrides: str) -> str:
    """Run train.py to its end."""
    process = start(cwd, *overrides)
    try:
        output, _ = process.communicate(timeout=WAIT)
    finally:
        process.kill()
    assert process.returncode == 0, output
    return output


def kill(process: "subprocess.Popen[str]", folder: Path, when: int) -> None:
    """Kill train.py, and with it the processes that it started, when so many steps are logged."""
    waited = time.monotonic()
    while len(read_metrics(folder)) < when and process.poll() is None and time.monotonic() - waited < WAIT:
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGKILL)
    output, _ = process.communicate(timeout=WAIT)
    assert process.returncode == -signal.SIGKILL, output


# What a run leaves behind.


def test_run_folder(train: Train) -> None:
    board = "{_target_: lightning.pytorch.loggers.TensorBoardLogger, name: tensorboard, version: ''}"
    done = train("experiment=stage1", f"runner.loggers.tensorboard={board}", "seed=3")
    names = {path.name for path in done.folder.iterdir()}
    assert names == {
        "config.yaml",
        "environment.json",
        "metrics.jsonl",
        "declared.json",
        "split.csv",
        "report.html",
        "tensorboard",
        "checkpoint",
    }
    assert any(path.name.startswith("events.out.tfevents") for path in (done.folder / "tensorboard").iterdir())

    config = yaml.safe_load((done.folder / "config.yaml").read_text())
    assert read_config(ExperimentConfig, config) == done.experiment
    assert config["seed"] == 3
    environment = json.loads((done.folder / "environment.json").read_text())
    assert {"graphgpt", "python", "platform", "torch", "transformers", "lightning", "git"} <= environment.keys()

    assert [line["step"] for line in done.lines] == [0, 1, 2]
    assert all({"train/loss", "lr/projector", "lr/tokens", "time"} <= line.keys() for line in done.lines)
    assert all(0 < line["train/loss"] < 20 for line in done.lines)

    manifest = read_manifest(done.folder / "checkpoint")
    assert manifest["task"] == "graph_matching"
    assert manifest["parent"] is None
    assert manifest["data"]["name"] == "csv"
    assert set(manifest["files"]) == {
        "config.yaml",
        "history.json",
        "graph/projector.safetensors",
        "graph/fusion.safetensors",
        "trained.parquet",
    }


def test_without_resumable_checkpoints_there_are_none(train: Train) -> None:
    assert list(train("runner.checkpoint.every_n_steps=0").folder.rglob("*.ckpt")) == []


def test_metrics_hold_the_schedule(train: Train) -> None:
    steps = [*STAGE2, "runner.max_steps=8", "runner.warmup=0.5", "runner.lr.projector=1e-3", "runner.lr.tokens=2e-3"]
    rising = [0.2, 0.4, 0.6, 0.8]
    cosine = [0.5 * (1 + math.cos(math.pi * done / 4)) for done in range(4)]
    for schedule, falling in (("cosine", cosine), ("constant", [1.0] * 4)):
        lines = train(*steps, f"runner.schedule={schedule}").lines
        assert [line["lr/projector"] for line in lines] == pytest.approx([1e-3 * share for share in [*rising, *falling]])
        assert [line["lr/tokens"] for line in lines] == pytest.approx([2e-3 * share for share in [*rising, *falling]])


def test_validation_comes_when_asked_and_changes_nothing(train: Train) -> None:
    steps = [*STAGE2, "runner.max_steps=4", "runner.micro_batch_size=1", "model.lora.dropout=0.2"]
    plain = train(*steps)
    validated = train(*steps, "runner.val_every=2", "runner.val_samples=3")
    assert [line["step"] for line in validated.lines if "val/loss" in line] == [1, 3]
    assert [line["step"] for line in validated.lines if "train/loss" in line] == [0, 1, 2, 3]
    assert_same(tensors(validated.folder), tensors(plain.folder))
    [stage] = read_history(validated.folder / "checkpoint")
    assert stage["steps"] == [1, 2, 3, 4]
    assert stage["val"]["loss"][0] == [2, 4]


def test_it_learns(train: Train) -> None:
    losses = [line["train/loss"] for line in train(*STAGE2, "runner.max_steps=40", "runner.lr.lora=3e-2", "runner.schedule=constant").lines]
    assert sum(losses[-10:]) / 10 < 0.95 * losses[0]


def test_the_seed_fixes_the_run(train: Train) -> None:
    one, same, other = (train(*STAGE2, "task.text_dropout=0.5", "model.lora.dropout=0.2", f"seed={seed}") for seed in (1, 1, 2))
    assert_same(tensors(same.folder), tensors(one.folder))
    assert [line["train/loss"] for line in same.lines] == [line["train/loss"] for line in one.lines]
    assert [line["train/loss"] for line in other.lines] != [line["train/loss"] for line in one.lines]


def test_accumulating_gives_what_a_large_batch_gives(train: Train) -> None:
    large, small = (train(*STAGE2, "runner.global_batch_size=4", f"runner.micro_batch_size={size}") for size in (4, 1))
    assert_same(tensors(small.folder), tensors(large.folder), tolerance=1e-5)
    assert [line["train/loss"] for line in small.lines] == pytest.approx([line["train/loss"] for line in large.lines], rel=1e-5)


# From one stage to the next.


@pytest.mark.parametrize("tower", ["sgc", "graph_transformer"])
def test_stage2_begins_with_what_stage1_left(train: Train, tower: str) -> None:
    parts = [f"model/tower={tower}", "model/projector=mlp"]
    stage1 = train("experiment=stage1", *parts)
    stage2 = train("experiment=stage2/node_classification", *parts, f"start_from={stage1.folder}", "seed=5")
    handed = {
        part: load_file(stage1.folder / "checkpoint" / f"{part}.safetensors")
        for part in ("graph/projector", "graph/fusion", *(["graph/tower"] if tower == "graph_transformer" else []))
    }
    for part, files in handed.items():
        within = f"modalities.{part.replace('/', '.')}."
        now = {name.removeprefix(within): tensor for name, tensor in stage2.first.items() if name.startswith(within)}
        assert_same(now, files)
        fresh = {name: stage2.before[f"{within}{name}"] for name in files}
        assert any(not torch.equal(fresh[name], tensor) for name, tensor in files.items()), f"{part} was the same anyway"
    assert (stage1.folder / "checkpoint" / "graph/tower.safetensors").is_file() == (tower == "graph_transformer")

    manifest = read_manifest(stage2.folder / "checkpoint")
    assert manifest["parent"]["task"] == "graph_matching"
    assert manifest["parent"]["sha256"] == file_sha256(stage1.folder / "checkpoint" / "manifest.json")
    history = read_history(stage2.folder / "checkpoint")
    assert [stage["name"] for stage in history] == ["graph_matching", "node_classification"]
    assert history[0] == read_history(stage1.folder / "checkpoint")[0]


@pytest.mark.parametrize(
    ("overrides", "moving"),
    [
        (["experiment=stage1"], ["graph.projector.", "graph.fusion."]),
        (["experiment=stage1", "model/tower=graph_transformer"], ["graph.projector.", "graph.fusion."]),
        (["experiment=stage2/node_classification", "start_from=null", "model/lora=none"], ["graph.projector.", "graph.fusion."]),
        (["experiment=stage2/node_classification", "start_from=null"], ["graph.projector.", "graph.fusion.", "lora_"]),
        (
            ["experiment=stage1", "model/tower=graph_transformer", "model.tower.train=true"],
            ["graph.projector.", "graph.fusion.", "graph.tower.W_P.", "graph.tower.gtLayers.", "graph.tower.inverW_P."],
        ),
    ],
    ids=["stage1", "stage1 with a frozen tower", "stage2 frozen", "stage2 with adapters", "stage1 with the tower"],
)
def test_what_shall_move_moves_and_nothing_else(train: Train, overrides: list[str], moving: list[str]) -> None:
    done = train(*overrides, "dataset.sampler.hops=1")
    after = done.after
    assert after.keys() == done.before.keys()
    moved = {name for name, tensor in after.items() if not torch.equal(tensor, done.before[name])}
    assert moved == {name for name in after if any(part in name for part in moving)}
    assert len(moved) < len(after)
    for part in moving:
        assert any(part in name for name in moved)


# Interruptions.


def test_killed_and_resumed_is_as_if_never_stopped(data: list[str], tmp_path: Path) -> None:
    steps, last = 16, random.randint(3, 8)
    overrides = [
        *data,
        *STAGE2,
        "seed=3",
        "model/tower=graph_transformer",
        "model.projector.dropout=0.2",
        "model.lora.dropout=0.2",
        "task.text_dropout=0.5",
        f"runner.max_steps={steps}",
        "runner.global_batch_size=4",
        "runner.micro_batch_size=2",
        "runner.checkpoint.every_n_steps=2",
    ]
    whole = run(tmp_path / "whole", overrides)

    killed = tmp_path / "killed"
    kill(start(tmp_path, *overrides, f"hydra.run.dir={killed}"), killed, when=last)
    assert not (killed / "checkpoint").exists()
    assert newest_resumable(killed) is not None
    before = read_metrics(killed)
    assert last <= len(before) < steps

    finish(tmp_path, f"resume={killed}")
    context = f"killed when {last} steps were logged"
    assert [line["step"] for line in read_metrics(killed)] == list(range(steps)), context
    assert [line["train/loss"] for line in read_metrics(killed)] == pytest.approx([line["train/loss"] for line in whole.lines], abs=1e-6), (
        context
    )
    assert_same(tensors(killed), tensors(whole.folder), tolerance=1e-6)
    assert list(tmp_path.glob("killed/.*.ckpt")) == []
    assert read_history(killed / "checkpoint")[0]["steps"] == list(range(1, steps + 1))


def resumed(folder: Path, *overrides: str) -> Trained:
    """Go on in a run as if it had been cut off before its end."""
    shutil.rmtree(folder / "checkpoint")
    return run(folder, [f"resume={folder}", *overrides])


def test_a_finished_run_is_resumed_with_more_steps(train: Train) -> None:
    done = train(*STAGE2, "runner.schedule=constant", "runner.warmup=0", "runner.checkpoint.every_n_steps=3", "model.lora.dropout=0.2")
    longer = run(done.folder, [f"resume={done.folder}", "runner.max_steps=5"])
    whole = train(*STAGE2, "runner.schedule=constant", "runner.warmup=0", "runner.max_steps=5", "model.lora.dropout=0.2")
    assert [line["step"] for line in longer.lines] == [0, 1, 2, 3, 4]
    assert_same(tensors(done.folder), tensors(whole.folder))


def test_a_finished_run_is_said_to_be_finished_and_left_alone(train: Train) -> None:
    """With the state it kept, without one, and asked for more steps without one."""
    without, with_state = train(*STAGE2).folder, train(*STAGE2, "runner.checkpoint.every_n_steps=3").folder
    for folder in (without, with_state):
        (folder / "checkpoint" / "scores.json").write_text("[]")
    before = {path: path.stat().st_mtime_ns for folder in (without, with_state) for path in folder.rglob("*")}
    for folder in (without, with_state):
        nothing = f"resume: {folder} is finished, its 3 steps are trained: nothing is left to do. "
        with pytest.raises(ConfigError) as caught:
            run(folder, [f"resume={folder}"])
        assert caught.value.problems == [f"{nothing}More of them are asked for by runner.max_steps, above 3."]
    with pytest.raises(ConfigError) as caught:
        run(without, [f"resume={without}", "runner.max_steps=9"])
    assert caught.value.problems == [
        f"resume: {without} is finished, its 3 steps are trained, and it kept no state to go on from (runner.checkpoint.every_n_steps); "
        "train 9 steps in a new run instead, without resume."
    ]
    assert {path: path.stat().st_mtime_ns for folder in (without, with_state) for path in folder.rglob("*")} == before


def test_resuming_before_the_first_resumable_checkpoint_starts_anew(train: Train) -> None:
    done = train(*STAGE2)
    expected = tensors(done.folder)
    assert newest_resumable(done.folder) is None
    assert_same(tensors(resumed(done.folder).folder), expected)


@pytest.mark.parametrize("torn", ["", '{"step": 3, "train/lo'], ids=["whole lines", "a torn line"])
def test_starting_anew_forgets_the_old_metrics(train: Train, torn: str) -> None:
    done = train(*STAGE2)
    with (done.folder / "metrics.jsonl").open("a") as file:
        file.write(torn)
    assert [line["step"] for line in resumed(done.folder).lines] == [0, 1, 2]


def test_resuming_forgets_a_torn_line(train: Train) -> None:
    done = train(*STAGE2, "runner.checkpoint.every_n_steps=2")
    expected = done.lines
    with (done.folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "train/lo')
    lines = resumed(done.folder).lines
    assert [line["step"] for line in lines] == [0, 1, 2]
    assert [line["train/loss"] for line in lines] == [line["train/loss"] for line in expected]


def test_only_the_newest_resumable_checkpoint_is_kept(train: Train) -> None:
    done = train("runner.max_steps=5", "runner.checkpoint.every_n_steps=2")
    assert [path.name for path in (done.folder / "resume").iterdir()] == ["step=4.ckpt"]


def test_as_many_resumable_checkpoints_as_asked_for(train: Train) -> None:
    done = train("runner.max_steps=5", "runner.checkpoint={every_n_steps: 1, keep: 2}")
    assert {path.name for path in (done.folder / "resume").iterdir()} == {"step=4.ckpt", "step=5.ckpt"}


def test_the_best_state_is_kept_beside_the_last(train: Train) -> None:
    """With a learning rate that spoils the model, the best is an early one."""
    wild = ["runner.lr={projector: 1.0, tokens: 1.0}", "runner.max_steps=6", "runner.schedule=constant"]
    done = train(*wild, "runner.val_every=1", "runner.val_samples=4", "runner.checkpoint={every_n_steps: 0, monitor: val/loss}")
    losses = {line["step"] + 1: line["val/loss"] for line in read_metrics(done.folder) if "val/loss" in line}
    best = min(losses, key=losses.__getitem__)
    assert (done.folder / "best" / "manifest.json").is_file() and (done.folder / "checkpoint" / "manifest.json").is_file()
    assert not list((done.folder / "best").glob("*.ckpt"))
    last, kept = tensors(done.folder), tensors(done.folder, "best")
    assert last.keys() == kept.keys()
    assert all(torch.equal(last[name], kept[name]) for name in last) == (best == 6)
    plain = train(*wild, "runner.checkpoint.every_n_steps=0")
    assert_same(last, tensors(plain.folder))  # bit by bit: the last weights, whatever is kept beside them


def test_a_state_is_a_copy(train: Train) -> None:
    """Of every part, also where model and state are both on the processor."""
    model = train(*STAGE2, "model/tower=graph_transformer", "runner.max_steps=1").model
    kept = model_state(model)
    before = {(part, name): tensor.clone() for part, state in kept.items() for name, tensor in state.items()}
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.zero_()
    assert all(torch.equal(kept[part][name], tensor) for (part, name), tensor in before.items())
    assert {part for part, _ in before} == {"graph/projector", "graph/fusion", "graph/tower", "lora"}


def test_a_full_disk_leaves_the_checkpoint_before(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    from graphgpt.runners.training import checkpoint_io

    save = torch.save

    def full(checkpoint: Any, file: Any) -> None:
        save(checkpoint, file)
        if checkpoint["global_step"] == 4:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint_io.torch, "save", full)
    with pytest.raises(CheckpointError) as caught:
        train("runner.max_steps=5", "runner.checkpoint.every_n_steps=2")
    message = str(caught.value)
    assert message.endswith("step=4.ckpt could not be written (No space left on device); step=2.ckpt is intact and can be resumed.")
    folder = Path(message.split(" could not")[0]).parent
    assert [path.name for path in folder.iterdir()] == ["step=2.ckpt"]


def test_settings_that_lead_elsewhere_are_named_on_resuming(train: Train, caplog: pytest.LogCaptureFixture) -> None:
    done = train(*STAGE2, "runner.checkpoint.every_n_steps=2", "runner.log_every=1")
    with caplog.at_level("WARNING"):
        resumed(done.folder, "runner.clip=0.5", "runner.log_every=2", "seed=5")
    found = [record.message for record in caplog.records if record.message.startswith("resume: ")]
    rest = "the run does not end as it would have without the interruption."
    assert found == [f"resume: runner.clip was 1.0 and is 0.5 now; {rest}", f"resume: seed was 0 and is 5 now; {rest}"]


def test_a_resumable_checkpoint_holds_what_trains_and_loads_as_data(train: Train) -> None:
    done = train(*STAGE2, "runner.checkpoint.every_n_steps=3")
    path = newest_resumable(done.folder)
    assert path is not None
    content = torch.load(path, weights_only=True)
    assert content["global_step"] == 3
    assert content["state_dict"].keys() == {f"model.{name}" for name in done.model.trainable_state()}
    for name, parameter in done.model.trainable_state().items():
        assert torch.equal(content["state_dict"][f"model.{name}"], parameter)


def test_resuming_keeps_the_tower_of_stage1(train: Train) -> None:
    tower = "model/tower=graph_transformer"
    stage1 = train("experiment=stage1", tower, "seed=1")
    stage2 = train(
        "experiment=stage2/node_classification", tower, f"start_from={stage1.folder}", "seed=2", "runner.checkpoint.every_n_steps=2"
    )
    expected = tensors(stage2.folder)
    assert_same(tensors(resumed(stage2.folder).folder), expected)


def test_resuming_with_another_model_is_refused(train: Train) -> None:
    done = train(*STAGE2, "runner.checkpoint.every_n_steps=2")
    path = done.folder / "config.yaml"
    config = yaml.safe_load(path.read_text())
    config["model"]["lora"] = {"rank": 0}
    path.write_text(yaml.safe_dump(config))
    with pytest.raises(CheckpointError, match=r"The checkpoint to resume does not fit this configuration: '.*lora.*' is in only one"):
        resumed(done.folder)


def test_a_second_process_may_resume_too(train: Train) -> None:
    """Lightning starts the processes of a DDP run with these arguments at the end."""
    folder = train().folder
    shutil.rmtree(folder / "checkpoint")
    added = [f'hydra.run.dir="{folder}"', "hydra.job.name=train_ddp_process_1", "hydra.output_subdir=null"]
    assert check_command_line(ExperimentConfig, "train", [f"resume={folder}", *added])


def test_data_files_that_vanish_in_the_middle_of_an_epoch_are_not_missed(
    tmp_path: Path, train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are mapped into memory; and a run that is resumed without them says which it misses."""
    monkeypatch.setenv("GRAPHGPT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "csv").mkdir()
    settings = [*csv_overrides(tmp_path / "csv"), *STAGE2, "runner.max_steps=4", "runner.checkpoint.every_n_steps=1"]
    whole = train(*settings)

    def lose(*arguments: Any) -> None:
        shutil.rmtree(tmp_path / "cache", ignore_errors=True)
        shutil.rmtree(tmp_path / "csv", ignore_errors=True)

    monkeypatch.setattr("graphgpt.runners.training.module.ModelModule.on_train_batch_start", lose, raising=False)
    lost = train(*settings)
    assert not (tmp_path / "csv").exists()
    assert_same(tensors(lost.folder), tensors(whole.folder))
    shutil.rmtree(lost.folder / "checkpoint")
    with pytest.raises(ConfigError, match=rf"dataset\.nodes={tmp_path}/csv/nodes\.csv: there is no such file\."):
        check_command_line(ExperimentConfig, "train", [f"resume={lost.folder}"])


def test_every_trained_weight_gets_a_gradient(train: Train) -> None:
    """One without stops a run of several processes at its second step: they wait for it."""
    done = train("model/tower=graph_transformer", "model.tower.train=true", "runner.max_steps=1")
    assert [name for name, parameter in done.model.trainable_state().items() if parameter.grad is None] == []


def test_before_the_first_step_a_run_is_validated_as_at_any_other(train: Train, caplog: pytest.LogCaptureFixture) -> None:
    """With the task's own metrics, and without a trace in what is trained."""
    settings = ["task=node_classification", "runner.val_every=3", "runner.val_samples=4", "runner.val_answers=0"]
    with caplog.at_level("INFO", logger="graphgpt.runners"):
        plain, looked = train(*settings), train(*settings, "runner.val_at_start=true")
    before, after = [{key for key in line if key.startswith("val/")} for line in looked.lines if "val/loss" in line]
    assert before == after >= {"val/loss", "val/accuracy"}
    told = [record.message for record in caplog.records if record.message.startswith("Before the first step: ")]
    assert len(told) == 1 and all(f"{key} " in told[0] for key in before)
    assert_same(tensors(looked.folder), tensors(plain.folder))


# What goes wrong while it runs.


def test_a_loss_that_is_not_finite_stops_the_run(train: Train) -> None:
    with pytest.raises(GraphGPTError, match=r"^The loss is not finite at step 1, samples n\d+, n\d+: lower runner\.lr\.$"):
        train("runner.lr.projector=3e37", "runner.warmup=0")


def test_samples_that_are_too_long_are_said_before_the_first_step(train: Train) -> None:
    sentence = (
        r"^\d+ of 25 training samples are longer than model\.max_length=64; the longest, 'n\d+', has \d+ tokens\. Raise it, lower task\."
        r"max_chars or dataset\.sampler\.max_tokens, or choose model\.too_long=cut \(texts .*\) or model\.too_long=skip \(samples .*\)\.$"
    )
    with pytest.raises(DataError, match=sentence):
        train("model.max_length=64")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_later_sample_that_is_too_long_stops_the_run(train: Train, workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As neighbours drawn anew may make it; also in a worker, without its traceback."""
    monkeypatch.setattr("graphgpt.runners.training.task_data.look_at_lengths", lambda *_: None)
    sentence = r"^Sample 'n\d+' has \d+ tokens, more than model\.max_length=64; raise it, .*, or set model\.too_long=cut\.$"
    with pytest.raises(DataError, match=sentence) as caught:
        train("model.max_length=64", f"runner.workers={workers}")
    assert "Traceback" not in str(caught.value)


LONG = [*STAGE2, "task.wording=constant_first", "runner.val_every=3", "runner.val_samples=4"]


@pytest.fixture(scope="module")
def uneven(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Forty-two nodes; every third one has a text ten times as long as the others."""
    folder = tmp_path_factory.mktemp("uneven")
    given = csv_overrides(folder)
    lines = (folder / "nodes.csv").read_text().splitlines()
    lines[1:] = [line.replace("Of ", "About all sorts of " * (10 if i % 3 == 0 else 1), 1) for i, line in enumerate(lines[1:])]
    (folder / "nodes.csv").write_text("\n".join([*lines, ""]))
    return given


def read_lengths(experiment: ExperimentConfig) -> list[int]:
    """Tokens of every training sample, however long."""
    task = build_task(experiment)
    model = build_model(experiment, task)
    items = task.items("train").tolist()
    return [len(one.ids) for one in model.processor.whole([task.instruction(item, seed=0, training=False) for item in items])]


def test_long_texts_are_cut_or_samples_left_out(
    train: Train, uneven: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    lengths = read_lengths(check_command_line(ExperimentConfig, "train", [*uneven, *LONG]))
    limit = (min(lengths) + max(lengths)) // 2
    long = sum(length > limit for length in lengths)
    assert 0 < long < len(lengths)
    seen: list[Any] = []
    losses = MultimodalLLM.losses
    monkeypatch.setattr(MultimodalLLM, "losses", lambda self, batch: seen.append(batch) or losses(self, batch))
    for choice, word in (("cut", "cut"), ("skip", "left out")):
        seen.clear()
        with caplog.at_level("INFO", logger="graphgpt.runners"):
            done = train(*uneven, *LONG, f"model.max_length={limit}", f"model.too_long={choice}", "runner.max_steps=12")
        [told] = [record.message for record in caplog.records if record.message.startswith("Lengths: ")]
        assert re.search(rf"the longest of 25 training samples has \d+ tokens, [1-9]\d* of them too long and {word}; ", told), told
        assert len(done.lines) == 12 + 4
        assert {len(batch.ids) for batch in seen[:3]} == {2}
        assert all(done.model.processor.max_length == limit and batch.num_tokens <= 2 * limit for batch in seen[:3])
        caplog.clear()


def test_workers_change_nothing(train: Train) -> None:
    alone, with_worker = train(*STAGE2), train(*STAGE2, "runner.workers=1")
    assert_same(tensors(with_worker.folder), tensors(alone.folder))


def test_an_optimizer_that_does_not_exist_is_a_users_mistake(train: Train) -> None:
    with pytest.raises(GraphGPTError, match=r"'torch\.optim\.AdamWW' is not allowed; .* Did you mean 'torch\.optim\.AdamW'\?$"):
        train("runner.optimizer._target_=torch.optim.AdamWW")


def test_an_argument_that_the_optimizer_does_not_know_is_a_users_mistake(train: Train) -> None:
    with pytest.raises(GraphGPTError, match=r"runner\.optimizer.*weight_decy"):
        train("runner.optimizer.weight_decy=0.1")


def test_another_optimizer(train: Train) -> None:
    done = train("runner.optimizer={_target_: torch.optim.SGD, weight_decay: 0.1}", "runner.optimizer.momentum=0.5")
    assert len(done.lines) == 3


def test_a_graph_without_training_nodes_is_refused(train: Train, tmp_path: Path) -> None:
    (tmp_path / "nodes.csv").write_text("id,title,label,split\n" + "".join(f"n{i},T {i},A,test\n" for i in range(9)))
    (tmp_path / "edges.csv").write_text("source,target\nn0,n1\n")
    given = [f"dataset.nodes={tmp_path}/nodes.csv", f"dataset.edges={tmp_path}/edges.csv", "dataset.split.name=given"]
    with pytest.raises(DataError, match=r"^The train split of the graph 'csv' is empty"):
        train(*given)


def test_a_graph_without_labels_trains_what_needs_none(train: Train, tmp_path: Path) -> None:
    (tmp_path / "nodes.csv").write_text("id,title\n" + "".join(f"n{i},T {i}\n" for i in range(20)))
    (tmp_path / "edges.csv").write_text("source,target\nn0,n1\n")
    done = train(f"dataset.nodes={tmp_path}/nodes.csv", f"dataset.edges={tmp_path}/edges.csv", "runner.val_every=1", "runner.val_samples=2")
    assert [line["val/loss"] for line in done.lines if "val/loss" in line]


def test_a_packed_validation_loss_is_that_of_single_samples(train: Train) -> None:
    steps = [*STAGE2, "runner.max_steps=1", "runner.val_every=1", "runner.val_samples=7"]
    packed, single = (train(*steps, f"runner.micro_batch_size={size}") for size in ("null", "1"))
    [one], [other] = ([line["val/loss"] for line in run.lines if "val/loss" in line] for run in (packed, single))
    assert one == pytest.approx(other, abs=1e-5)


@pytest.mark.parametrize("precision", ["bf16", "bf16-mixed"])
def test_adapters_train_in_sixteen_bits(train: Train, precision: str) -> None:
    steps = [*STAGE2, "model.lora.rank=2", "runner.max_steps=2"]
    [whole, half] = [[line["train/loss"] for line in train(*steps, f"runner.precision={name}").lines] for name in ("32", precision)]
    assert half == pytest.approx(whole, rel=0.02)
