"""The tutorial on a modality of one's own, followed word by word."""

import json
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "another_modality.md").read_text(encoding="utf-8")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What the page has one write, and a file of series that rise or fall, each by its own much and with its own noise."""
    [source] = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    [settings] = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
    names = re.findall(r"^`([\w./]+\.(?:py|yaml))`", TEXT, re.MULTILINE)
    assert names == ["series.py", "graphgpt_configs/experiment/series.yaml"]
    for name, content in zip(names, (source, settings), strict=True):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    random = np.random.RandomState(0)
    rows = []
    for i in range(80):
        slope = (1 if i % 2 else -1) * (1 + random.rand())
        values = slope * np.linspace(-1, 1, 16 + 3 * (i % 4)) + 0.3 * random.randn(16 + 3 * (i % 4))
        rows.append(",".join(["rises" if i % 2 else "falls", *(f"{value:.3f}" for value in values)]))
    (tmp_path / "series.csv").write_text("\n".join([*rows, ""]))
    return tmp_path


def test_it_is_trained_and_evaluated(folder: Path) -> None:
    """On a random language model of two layers, which learns its first words along: none of its own is there to be stirred."""
    commands = re.findall(r"^    python (.*)$", TEXT, re.MULTILINE)
    assert len(commands) == 2
    learns = ["model.llm.train=true", "model/lora=none", "runner.lr.llm=3e-3"]
    small = [*learns, "model/llm=tiny_random", "runner.threads=1", "runner.accelerator=cpu", "logger=none", "hydra.run.dir=runs/series/x"]

    def run(command: str, *more: str) -> str:
        program, *settings = command.replace("runs/series/...", "runs/series/x").split()
        done = subprocess.run([sys.executable, ROOT / program, *settings, *more], cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    run(commands[0], *small)
    losses = [line["train/loss"] for line in map(json.loads, (folder / "runs/series/x/metrics.jsonl").read_text().splitlines())]
    assert all(map(math.isfinite, losses)) and np.mean(losses[-5:]) < 0.5 * losses[0]
    assert (folder / "runs/series/x/checkpoint/series/tower.safetensors").is_file()
    run(commands[1], "accelerator=cpu", "threads=1", "hydra.run.dir=runs/e", "bootstrap=0", "max_new_tokens=2", "batch_size=8")
    rows = json.loads((folder / "runs/e/metrics.json").read_text())["rows"]
    assert rows[0]["name"] == "Series tokens" and rows[0]["metrics"]["accuracy"] > 0.75
    [page] = (folder / "runs/e").glob("report.html")
    assert "&lt;series: " in page.read_text()
