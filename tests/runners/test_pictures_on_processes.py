"""Pictures and words over several processes, of which one often has no picture: nobody waits for ever, and all learn the same."""

import json
from pathlib import Path

import pytest
from PIL import Image
from test_strategies import assert_like
from test_training import Trained, finish, run

STEPS = 6
SETTINGS = [
    *("model=image", "model/tower=pixels", "model.tower.train=true", "model/llm=tiny_random", "model/lora=default"),
    *("task=conversations", "dataset=conversations", "runner.threads=1", "runner.accelerator=cpu", "logger=none"),
    *(f"runner.max_steps={STEPS}", "runner.global_batch_size=2", "runner.checkpoint.every_n_steps=0"),
]


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command line of a run on conversations, every second one with a picture."""
    folder = tmp_path_factory.mktemp("conversations")
    records = []
    for number in range(8):
        turns = [{"from": "human", "value": f"Say {number}."}, {"from": "gpt", "value": f"{number}."}]
        record = {"id": str(number), "conversations": turns}
        if number % 2:
            Image.new("RGB", (20, 20), (30 * number, 100, 0)).save(folder / f"{number}.png")
            turns[0]["value"] = f"<image>\nWhat is it, {number}?"
            record["image"] = f"{number}.png"
        records.append(record)
    (folder / "data.json").write_text(json.dumps(records))
    return [*SETTINGS, f"dataset.path={folder / 'data.json'}", f"dataset.images={folder}"]


@pytest.fixture(scope="module")
def alone(settings: list[str], tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return run(tmp_path_factory.mktemp("alone") / "run", settings)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_a_process_without_a_picture_keeps_nobody_waiting(strategy: str, settings: list[str], alone: Trained, tmp_path: Path) -> None:
    """The tower trains, whole in each process or cut among them."""
    finish(tmp_path, *settings, f"runner/strategy={strategy}", "runner.devices=2", f"hydra.run.dir={tmp_path / 'two'}")
    assert_like(tmp_path / "two", alone)
