"""A tower with a linear head: trained by the same runner, evaluated by the same report."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import parsed, train, uneven_overrides

from graphgpt.assembly import build_model, build_task
from graphgpt.checkpoints.folder import load_checkpoint
from graphgpt.config.command_line import check_command_line
from graphgpt.config.experiment import EvaluationConfig, ExperimentConfig, evaluated_experiment
from graphgpt.errors import CheckpointError, ConfigError, GraphGPTError
from graphgpt.evaluation.evaluation import evaluate
from graphgpt.registry import MODELS

SHORT = [
    "experiment=baseline/gnn",
    "model/tower=gcn",
    "runner.max_steps=40",
    "runner.global_batch_size=16",
    "runner.val_every=20",
    "runner.lr.tower=1e-2",
]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A graph whose nodes say their class."""
    return uneven_overrides(tmp_path_factory.mktemp("csv"))


@pytest.fixture(scope="module")
def run(base: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    folder = tmp_path_factory.mktemp("run")
    train(folder, [*base, *SHORT])
    return folder


def opened(base: list[str], *overrides: str) -> tuple[Any, Any]:
    experiment = check_command_line(ExperimentConfig, "train", [*base, *SHORT, *overrides])
    task = build_task(experiment)
    return task, build_model(experiment, task)


def evaluated(run: Path, folder: Path, *overrides: str) -> dict[str, Any]:
    config = check_command_line(EvaluationConfig, "evaluate", [f"checkpoint={run}", "accelerator=cpu", "threads=1", *overrides])
    experiment = evaluated_experiment(config)
    task = build_task(experiment)
    model = build_model(experiment, task)
    load_checkpoint(model, run)
    return evaluate(model, task, config, folder)


def test_it_learns_and_is_reported_beside_the_baselines(run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    validated = [line["val/accuracy"] for line in lines if "val/accuracy" in line]
    assert len(validated) == 2 and validated[-1] > 0.5
    assert "Trainable parameters" in (run / "report.html").read_text()
    with caplog.at_level("INFO"):
        result = evaluated(run, tmp_path, "ablation=all", "baselines=[majority,gcn]")
    assert "ablation: no_graph and no_text is left out, for model.name=gnn reads no words." in caplog.text
    rows = {row["name"]: row["metrics"] for row in result["rows"]}
    assert [*rows] == [
        "Graph neural network",
        "Inputs zeroed",
        "Inputs shuffled",
        "Another item's inputs",
        "Majority class",
        "GCN",
    ]
    assert rows["Graph neural network"]["accuracy"] > rows["Inputs zeroed"]["accuracy"]
    assert result["leakage"] is None
    compared = evaluated(run, tmp_path / "again", f"compare.gnn={tmp_path}", "ablation=none", "baselines=false")
    assert compared["rows"][0]["metrics"] == compared["rows"][1]["metrics"]
    assert "Graph neural network" in (tmp_path / "report.html").read_text()
    assert "Tower" in (run / "checkpoint" / "README.md").read_text()


def test_links_are_told_from_both_ends(base: list[str], tmp_path: Path) -> None:
    train(tmp_path / "run", [*base, *SHORT, "task=link_prediction", "runner.val_samples=20"])
    result = evaluated(tmp_path / "run", tmp_path / "evaluation", "baselines=false")
    assert result["main_metric"] == "auc" and 0 <= result["rows"][0]["metrics"]["auc"] <= 1
    task, model = opened(base, "task=link_prediction")
    reader = model.eval().reader()
    asked = [task.instruction(item, seed=0, training=False) for item in task.items("val")[:3].tolist()]
    batch = reader.collate(reader.read(asked))
    states = model.tower.summary(model.tower(batch.inputs.joined), batch.inputs.lengths).view(len(batch.ids), 2, -1)
    both = torch.cat([states[:, 0], states[:, 1], states[:, 0] * states[:, 1]], dim=1)
    torch.testing.assert_close(model(batch), model.head(both))


def test_answers_alone_are_those_in_a_batch(base: list[str]) -> None:
    task, model = opened(base, "dataset.sampler.max_tokens=3")
    reader = model.eval().reader()
    asked = [task.instruction(item, seed=item, training=False) for item in task.items("val")[:5].tolist()]
    together = model(reader.collate(reader.read(asked)))
    alone = torch.cat([model(reader.collate(reader.read([question]))) for question in asked])
    torch.testing.assert_close(together, alone)


def test_its_tower_starts_another_model(base: list[str], run: Path) -> None:
    tower = ["model/tower=gcn", f"model.tower.init_from={run}", "dataset.sampler.max_tokens=3"]
    experiment = check_command_line(ExperimentConfig, "train", [*base, *tower])
    model = build_model(experiment, build_task(experiment))
    _, trained = opened(base)
    load_checkpoint(trained, run)
    assert all(
        torch.equal(tensor, model.modalities["graph"].tower.state_dict()[name]) for name, tensor in trained.tower.state_dict().items()
    )
    with pytest.raises(ConfigError) as caught:
        check_command_line(ExperimentConfig, "train", [*base, *tower, "model.tower.layers=1"])
    assert caught.value.problems == [f"model.tower.layers=1: the weights of {run} are for layers=2."]


def test_a_frozen_tower_is_a_probe(base: list[str], tmp_path: Path) -> None:
    _, model = opened(base, "model.tower.train=false", "runner.lr.tower=1e-4")
    assert {name.split(".")[0] for name in model.trainable_state()} == {"head"}
    assert not model.train().tower.training


def test_what_does_not_go_together_is_said(base: list[str], run: Path, tmp_path: Path) -> None:
    def problems(*overrides: str) -> list[str]:
        with pytest.raises(ConfigError) as caught:
            check_command_line(ExperimentConfig, "train", [*base, *overrides])
        return caught.value.problems

    assert problems("experiment=baseline/gnn", "runner/strategy=fsdp") == [
        "runner.strategy.name: 'fsdp' cuts large models among processes, and model.name=gnn is small; use runner/strategy=ddp."
    ]
    assert problems("experiment=stage1", f"start_from={run}") == [
        f"start_from: {run} is a 'gnn', not a 'multimodal_llm'; model.tower.init_from={run} takes its tower alone."
    ]
    assert problems("experiment=baseline/gnn", f"start_from={run}") == [
        f"start_from: a 'gnn' has one stage; model.tower.init_from={run} starts with the tower of that run."
    ]
    with pytest.raises(GraphGPTError, match=r"^task\.name: 'graph_matching' has no candidates for model\.name=gnn to choose from\.$"):
        opened(base, "task=graph_matching")
    task, model = opened(base)
    question = task.instruction(0, seed=0, training=False)
    with pytest.raises(GraphGPTError, match=r"^Sample 'n0' has no graph or no class to choose, and model\.name=gnn reads nothing else\.$"):
        model.reader().read([question.without()])
    from graphgpt import GraphAssistant

    with pytest.raises(CheckpointError, match=rf"^{run}/checkpoint is a 'gnn', with which one cannot talk; score it: python evaluate\.py"):
        GraphAssistant.from_pretrained(run)
    config = parsed(
        MODELS.get("gnn").Config, {"name": "gnn", "tower": {"name": "gcn", "init_from": str(tmp_path)}, "llm": {"path": "random:tiny"}}
    )
    [problem] = MODELS.get("gnn").problems(config)
    assert problem.startswith(
        f"model.tower.init_from: {tmp_path} holds no weights of a tower: it has no tower.json "
        "(python train.py experiment=stage0 and graphgpt weights import make one)"
    )
