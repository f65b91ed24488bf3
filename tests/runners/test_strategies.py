"""One experiment over several processes: the same curve, the same checkpoint, interruptions that cost nothing."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import psutil
import pytest
from lightning.fabric.plugins.environments import LightningEnvironment
from lightning.fabric.strategies.launchers.subprocess_script import _ChildProcessObserver
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher
from released_files import RECORDS, TEXT_ONLY, write_graphs, write_records
from test_training import ROOT, WAIT, Trained, assert_same, finish, run, start, tensors

from graphgpt.errors import Interrupted
from graphgpt.runners.lightning import newest_resumable
from graphgpt.runners.training.interruption import Interruption
from graphgpt.runs.runs import read_metrics

#: Each process has one sample per step, which is often text alone while the other has graphs.
STEPS = 6
SETTINGS = [
    *("task=instructions", "dataset=graphgpt_json", "model/llm=tiny_random", "model/lora=default", "model.max_length=4096"),
    *(
        "model/tower=graph_transformer",
        "model.tower.train=true",
        "model.tower.dropout=0",
        "runner.threads=1",
        "runner.accelerator=cpu",
        "logger=none",
    ),
    *(f"runner.max_steps={STEPS}", "runner.global_batch_size=2", "runner.checkpoint.every_n_steps=1", "runner.checkpoint.keep=10"),
]


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command line of a run on records of every kind, half of them text alone."""
    folder = tmp_path_factory.mktemp("records")
    records = [*RECORDS, *({**TEXT_ONLY, "id": f"chat_{i}"} for i in range(2, 6))]
    return [*SETTINGS, f"dataset.instructions={write_records(folder, records)}", f"dataset.graphs={write_graphs(folder)}"]


@pytest.fixture(scope="module")
def alone(settings: list[str], tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """One process, one pass per step."""
    return run(tmp_path_factory.mktemp("alone") / "run", settings)


def curve(folder: Path, name: str = "train/loss") -> list[float]:
    return [line[name] for line in read_metrics(folder) if name in line]


def assert_like(folder: Path, expected: Trained) -> None:
    """The same losses at every step, and the same weights at the end."""
    assert curve(folder) == pytest.approx(curve(expected.folder), abs=1e-4)
    assert curve(folder, "grad_norm") == pytest.approx(curve(expected.folder, "grad_norm"), rel=1e-3)
    assert len(curve(folder)) == STEPS
    assert_same(tensors(folder), tensors(expected.folder), tolerance=1e-4)


def stopped_after(folder: Path, source: Path, step: int) -> Path:
    """A run folder as a run that was stopped after a step leaves it."""
    shutil.copytree(source, folder)
    shutil.rmtree(folder / "checkpoint")
    for path in (folder / "resume").glob("*.ckpt"):
        if path.stem != f"step={step}":
            path.unlink()
    return folder


def test_the_batch_is_cut_as_told_and_nothing_changes(settings: list[str], alone: Trained, tmp_path: Path) -> None:
    for number, limit in enumerate(("runner.micro_batch_size=1", "runner.micro_batch_tokens=1", "runner.micro_batch_tokens=auto")):
        assert_like(run(tmp_path / str(number), [*settings, limit]).folder, alone)


def test_weights_cut_among_processes_that_torchrun_starts(settings: list[str], alone: Trained, tmp_path: Path) -> None:
    """One folder for both, and a checkpoint that one process goes on with."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(ROOT / "train.py")]
    done = subprocess.run(
        [*command, *settings, "name=two", "runner/strategy=fsdp", "runner.devices=2"],
        cwd=tmp_path, capture_output=True, text=True, timeout=WAIT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    [folder] = (tmp_path / "runs" / "two").iterdir()
    assert_like(folder, alone)
    again = stopped_after(tmp_path / "again", folder, step=3)
    run(again, [f"resume={again}", "runner.strategy.name=single", "runner.devices=1"])
    assert_like(again, alone)


def test_a_process_that_dies_ends_the_run_which_goes_on_with_another_strategy(settings: list[str], alone: Trained, tmp_path: Path) -> None:
    """Copies of the model until one process is killed, cut weights from there on."""
    folder = tmp_path / "run"
    process = start(tmp_path, *settings, "runner/strategy=ddp", "runner.devices=2", f"hydra.run.dir={folder}")
    try:
        waited = time.monotonic()
        while len(curve(folder)) < 2 and process.poll() is None and time.monotonic() - waited < WAIT:
            time.sleep(0.002)
        others = [child for child in psutil.Process(process.pid).children() if "train.py" in " ".join(child.cmdline())]
        others[0].send_signal(signal.SIGKILL)
        output, _ = process.communicate(timeout=60)
    finally:
        os.killpg(process.pid, signal.SIGKILL) if process.poll() is None else None
    assert process.returncode == 1
    assert f"Process 1 of 2 died with exit code -9: the run ends. To go on: python train.py resume={folder}" in output
    assert newest_resumable(folder) is not None and not (folder / "checkpoint").exists()
    finish(tmp_path, f"resume={folder}", "runner.strategy.name=fsdp")
    assert_like(folder, alone)


def test_the_word_on_a_dead_process_is_ours(tmp_path: Path) -> None:
    """Lightning's observer, which kills without one, lets go when training starts."""
    with subprocess.Popen(["sleep", "2"]) as other:
        launcher = _SubprocessScriptLauncher(LightningEnvironment(), num_processes=2, num_nodes=1)
        launcher.procs = [other]
        observer = _ChildProcessObserver(os.getpid(), launcher.procs, sleep_period=0)
        observer.start()
        interruption = Interruption(tmp_path)
        interruption.on_train_start(Mock(strategy=Mock(launcher=launcher)), Mock())
        observer.join(timeout=1)
        assert other.poll() is None and not observer.is_alive()
        interruption.on_train_end(Mock(), Mock())


def test_asked_to_stop_it_saves_and_says_how_to_go_on(settings: list[str], alone: Trained, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    process = start(tmp_path, *settings, "runner.checkpoint.every_n_steps=0", "runner.checkpoint.keep=1", f"hydra.run.dir={folder}")
    waited = time.monotonic()
    while len(curve(folder)) < 2 and process.poll() is None and time.monotonic() - waited < WAIT:
        time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    step = len(curve(folder))
    assert "Traceback" not in output
    assert f"Stopped after step {step} of {STEPS}. To go on: python train.py resume={folder}" in output
    assert [path.name for path in (folder / "resume").iterdir()] == [f"step={step}.ckpt"]
    run(folder, [f"resume={folder}"])
    assert_like(folder, alone)


class Asks:
    """Sends this process a signal while a sample is made."""

    def __init__(self, number: int) -> None:
        self.left = number

    def __call__(self, *arguments: Any) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGTERM)


def test_a_scheduler_is_obeyed_like_a_user(
    settings: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr("graphgpt.runners.training.module.ModelModule.on_before_optimizer_step", Asks(3))
    with pytest.raises(Interrupted, match=rf"^Stopped after step 3 of {STEPS}\. To go on: python train\.py resume={tmp_path}/run$"):
        run(tmp_path / "run", settings)
    assert json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])["step"] == 2
    assert signal.getsignal(signal.SIGTERM) is before
    assert "weights_only" not in caplog.text  # what Lightning says of its own defaults is not about the user's run
