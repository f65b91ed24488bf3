"""Every benchmark runs, and sees that both of its ways compute the same. Never a time."""

import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]

#: What each benchmark measures, in its order.
WHAT = {
    "start": ["seconds"] * 3,
    "sample": ["subgraphs/s"] * 2,
    "open": ["seconds", "MiB more than of 1,024", "seconds", "MiB more than of 100"],
    "overhead": ["ms of a step"],
    "score": [
        "nodes/s against a pass per candidate, 29 of them",
        "nodes/s against an answer written, 16 tokens",
        "nodes/s against an answer written, as long as the true one",
    ],
    "generate": ["answers/s of 4 tokens at most, 16 at once"],
    "train_step": ["samples/s", "MiB of a step"] * 3,
    "scaling": [
        "samples/s at 2x the samples",
        "MiB of the process at 2x the samples",
        "tokens/s at 256 tokens a prompt",
        "MiB per token at 256 tokens a prompt",
    ],
    "ingest": ["records/s, JSON to token ids", "MiB at most, against a tenth of them"],
    "gpu": ["samples/s", "TFLOP/s, of a matrix product's"] * 3,
}


@pytest.mark.parametrize("name", WHAT)
def test_it_checks_and_measures(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process, which has imported what they need: for ten of them that takes half of their time."""
    program, found = ROOT / "benchmarks" / f"{name}.py", tmp_path / "rows.json"
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(program.parent)
    monkeypatch.setattr(sys, "argv", [str(program), "--small", "--json", str(found)])
    monkeypatch.setenv("GRAPHGPT_CACHE", os.environ["GRAPHGPT_CACHE"])  # as it was, whatever they set
    runpy.run_path(str(program), run_name="__main__")
    rows: list[dict[str, Any]] = json.loads(found.read_text(encoding="utf-8"))
    assert [row["what"] for row in rows] == WHAT[name]
    assert name == "scaling" or all(row["same"] for row in rows)


def test_a_profile_names_operations() -> None:
    command = [sys.executable, "benchmarks/profile_text.py", "--small"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    assert len(re.findall(r"aten::mm$", done.stdout, re.MULTILINE)) == 2


def test_all_are_known_to_make_bench() -> None:
    [names] = re.findall(r"^NAMES = \((.*)\)$", (ROOT / "benchmarks" / "all.py").read_text(encoding="utf-8"), re.MULTILINE)
    assert {*re.findall(r'"(\w+)"', names), "gpu"} == WHAT.keys()
