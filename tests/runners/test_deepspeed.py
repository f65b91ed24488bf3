"""DeepSpeed, where it is installed: Lightning lets it run on CUDA alone, so its look at the device is lifted here."""

import shutil
from pathlib import Path

import pytest
import torch
from helpers import csv_overrides
from test_training import assert_same, run, tensors

pytest.importorskip("deepspeed", reason="needs the extra 'deepspeed'")


@pytest.fixture
def on_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy

    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    monkeypatch.setattr(DeepSpeedStrategy, "setup_environment", lambda self: DDPStrategy.setup_environment(self))
    monkeypatch.setattr(DeepSpeedStrategy, "root_device", property(lambda self: torch.device("cpu", 0)))
    monkeypatch.setattr("lightning.pytorch.strategies.deepspeed._validate_device_index_selection", lambda devices: None)
    monkeypatch.setattr("graphgpt.assembly.run_problems", lambda experiment: [])


@pytest.mark.usefixtures("on_the_processor")
@pytest.mark.parametrize("trained", [["model/lora=default"], ["model/lora=none", "model.llm.train=true", "runner.lr.llm=1e-3"]])
@pytest.mark.parametrize("strategy", ["deepspeed_2", "deepspeed_3", "deepspeed_3_offload"])
def test_it_trains_and_resumes_like_one_process(strategy: str, trained: list[str], tmp_path: Path) -> None:
    (tmp_path / "csv").mkdir()
    settings = [*csv_overrides(tmp_path / "csv"), "task=node_classification", *trained, "runner.max_steps=4"]
    settings += ["runner.global_batch_size=4", "runner.checkpoint.every_n_steps=2", "runner.checkpoint.keep=5"]
    alone = run(tmp_path / "alone", settings)
    folder = run(tmp_path / "run", [*settings, f"runner/strategy={strategy}"]).folder
    assert_same(tensors(folder), tensors(alone.folder), tolerance=1e-5)
    shutil.rmtree(folder / "checkpoint")
    shutil.rmtree(folder / "resume" / "step=4.ckpt")
    resumed = run(folder, [f"resume={folder}"])
    assert [line["train/loss"] for line in resumed.lines] == pytest.approx([line["train/loss"] for line in alone.lines], abs=1e-5)
    assert_same(tensors(folder), tensors(alone.folder), tolerance=1e-5)
