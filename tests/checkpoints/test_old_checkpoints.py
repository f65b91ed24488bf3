"""Checkpoints that earlier versions wrote, by format: what they scored, resumed to and handed over then, they do now.

Each folder holds runs of ``random:tiny`` on the graph beside them (stage 0, stage 1, stage 2 with adapters, a mixture, each with a state to
go on from), and ``expected.json``, the numbers of the version that wrote them.
"""

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from safetensors.torch import load_file

from graphgpt.cli import evaluate, train
from graphgpt.cli.main import main

OLD = Path(__file__).parents[1] / "old_checkpoints"
FORMATS = sorted(path.name for path in OLD.iterdir())
FEW = ["limit=4", "baselines=false", "bootstrap=0", "samples=0", "threads=1", "accelerator=cpu", "ablation=none"]
DATA = ["dataset=csv", "dataset.nodes=graph/nodes.csv", "dataset.edges=graph/edges.csv", "dataset.text_encoder.dim=16"]
ONE_STEP = [
    *(*DATA, "dataset.sampler.max_tokens=3", "runner.threads=1", "runner.accelerator=cpu", "logger=none", "model/llm=tiny_random"),
    *("runner.global_batch_size=4", "runner.max_steps=1", "runner.val_every=0"),
]
TOWER = ["model/tower=graph_transformer", "model.tower.dim=16", "model.tower.output_dim=16", "model.tower.heads=2", "model.tower.layers=1"]

Program = Callable[..., None]


@pytest.fixture(params=FORMATS)
def expected(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The numbers of one format; its runs lie in the working directory."""
    shutil.copytree(OLD / request.param, tmp_path / "old")
    monkeypatch.chdir(tmp_path / "old")
    found: dict[str, Any] = json.loads(Path("expected.json").read_text())
    return found


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> Iterator[Program]:
    """``program(train, *settings)``: what train.py and evaluate.py do, in this process."""

    def program(of: Any, *settings: str) -> None:
        monkeypatch.setattr(sys, "argv", [f"{of.__name__.rpartition('.')[2]}.py", *settings])
        of.main()
        GlobalHydra.instance().clear()

    yield program
    GlobalHydra.instance().clear()
    HydraConfig.instance().cfg = None


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def logged(run: str, after: int = -1) -> list[dict[str, float]]:
    """Step, losses and validation of the lines behind a step, steps counted from 0."""
    found = [line for line in lines(Path(run, "metrics.jsonl")) if line["step"] > after]
    kept = [
        {name: value for name, value in line.items() if name == "step" or name.endswith("loss") or name.startswith("val/")}
        for line in found
    ]
    return [line for line in kept if len(line) > 1]


def same(found: Any, wanted: Any) -> None:
    """Equal, numbers but for what another processor rounds otherwise."""
    if isinstance(wanted, dict):
        assert found.keys() == wanted.keys()
        for name in wanted:
            same(found[name], wanted[name])
    elif isinstance(wanted, list):
        assert len(found) == len(wanted)
        for one, other in zip(found, wanted, strict=True):
            same(one, other)
    else:
        assert found == (pytest.approx(wanted, rel=1e-4) if isinstance(wanted, float) else wanted)


@pytest.mark.parametrize("run", ["stage1", "stage2", "mixture"])
def test_scores(expected: dict[str, Any], program: Program, run: str) -> None:
    program(evaluate, f"checkpoint={run}", *FEW, *(["max_new_tokens=8"] if run == "stage1" else []), "hydra.run.dir=scored")
    for part, wanted in expected["scores"][run].items():
        found = lines(Path("scored", part, "predictions.jsonl"))
        same([{name: line[name] for name in one} for line, one in zip(found, wanted, strict=True)], wanted)


@pytest.mark.parametrize("run", ["stage0", "stage1", "stage2", "mixture"])
def test_goes_on(expected: dict[str, Any], program: Program, run: str) -> None:
    program(train, f"resume={run}", "runner.max_steps=6")
    found = logged(run, after=3)
    assert len(found) == 3  # two steps and a validation
    same(found, expected["resumed"][run])


@pytest.mark.parametrize(
    ("run", "settings"),
    [
        ("stage0", ["experiment=stage1", *TOWER, "model.tower.init_from=stage0"]),
        ("stage1", ["experiment=stage2/link_prediction", "start_from=stage1"]),
        ("stage2", ["experiment=stage2/node_classification", "start_from=stage2", "model.lora.rank=2"]),
    ],
)
def test_is_started_from(expected: dict[str, Any], program: Program, run: str, settings: list[str]) -> None:
    program(train, *settings, *ONE_STEP, "hydra.run.dir=started")
    found = logged("started")
    assert found
    same(found, expected["handed_over"][run])


def test_is_exported(expected: dict[str, Any]) -> None:
    for run in ("stage1", "stage2"):
        main(["weights", "export", run, "--to", "graphgpt_projector", "--out", f"{run}.bin"])
        exported = torch.load(f"{run}.bin", weights_only=True)
        own = load_file(f"{run}/checkpoint/projector.safetensors") | load_file(f"{run}/checkpoint/modality_tokens.safetensors")
        values = sorted((tensor.flatten().tolist() for tensor in exported.values()), key=len)
        assert [row for row in values if len(row) > 64] == [
            row for row in sorted((t.flatten().tolist() for t in own.values()), key=len) if len(row) > 64
        ]
