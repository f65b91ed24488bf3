"""The whole language model trained over several processes: the losses and the weights of one."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file
from test_strategies import curve
from test_training import assert_same, finish

SETTINGS = [
    *("model=text", "model/llm=tiny_random", "model/lora=none", "model.llm.train=true", "runner.lr.llm=1e-3"),
    *("task=conversations", "dataset=alpaca", "dataset.path=data.json", "dataset.split.val=0", "dataset.split.test=0"),
    *("runner.max_steps=3", "runner.global_batch_size=2", "runner.checkpoint.every_n_steps=0"),
    *("runner.threads=1", "runner.accelerator=cpu", "logger=none"),
]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the data and the run of one process."""
    folder = tmp_path_factory.mktemp("alone")
    records = [{"instruction": f"Say {word}.", "output": f"{word.title()}."} for word in ("hello", "bye", "yes", "no")]
    (folder / "data.json").write_text(json.dumps(records))
    finish(folder, *SETTINGS, f"hydra.run.dir={folder / 'run'}")
    return folder


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_all_learn_the_same(strategy: str, alone: Path, tmp_path: Path) -> None:
    finish(alone, *SETTINGS, f"runner/strategy={strategy}", "runner.devices=2", f"hydra.run.dir={tmp_path}")
    assert curve(tmp_path) == pytest.approx(curve(alone / "run"), abs=1e-4) and len(curve(tmp_path)) == 3
    ours, theirs = (load_file(run / "checkpoint" / "llm" / "model.safetensors") for run in (tmp_path, alone / "run"))
    assert_same(ours, theirs, tolerance=1e-4)
