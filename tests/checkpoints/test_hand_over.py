"""What a second stage takes of the run that it starts from, and what it says of that."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers import make_graph

from graphgpt.checkpoints.folder import write_checkpoint
from graphgpt.cli.main import main
from graphgpt.config.command_line import CommandLine, check_command_line, read_command_line
from graphgpt.config.experiment import ExperimentConfig
from graphgpt.errors import ConfigError

TINY = ["model/llm=tiny_random"]


@pytest.fixture
def first(tmp_path: Path) -> Callable[..., Path]:
    """``first(*overrides)``: the run folder of a first stage on a graph folder, with a checkpoint without weights."""
    make_graph().save(tmp_path / "graph")

    def first(*overrides: str, **facts: Any) -> Path:
        data = ["dataset=folder", f"dataset.path={tmp_path}/graph", "dataset.split.seed=7"]
        config = check_command_line(ExperimentConfig, "train", ["experiment=stage1", *TINY, *data, *overrides])
        llm = {"type": "llama", "hidden_size": 64, "vocabulary": 512, "fingerprint": "0" * 16}
        graph = {"name": "graph", "fingerprint": "0" * 16, "features": 8}
        write_checkpoint(tmp_path / "run" / "checkpoint", {}, config, llm=llm, data=graph, history=[], facts=facts)
        return tmp_path / "run"

    return first


def second(run: Path, *overrides: str) -> CommandLine[ExperimentConfig]:
    return read_command_line(ExperimentConfig, "train", ["experiment=stage2/node_classification", f"start_from={run}", *overrides])


def problems(run: Path, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        second(run, *overrides)
    return caught.value.problems


def test_what_is_not_given_is_as_in_stage_1(first: Callable[..., Path], tmp_path: Path) -> None:
    run = first("model/tower=gcn", "model.tower.layers=3", "model/projector=mlp", "model.compat.last_input_only=true")
    line = second(run)
    [config] = line.configs
    assert (config.model.tower.name, config.model.tower.layers, config.model.projector.name) == ("gcn", 3, "mlp")
    assert (config.model.llm.path, config.model.compat.last_input_only) == ("random:tiny", True)
    assert (config.dataset.name, config.dataset.path, config.dataset.split.seed) == ("folder", f"{tmp_path}/graph", 7)
    assert (config.task.name, config.model.lora.rank) == ("node_classification", 16)  # the experiment's own
    assert line.notes == [
        "start_from: takes model/tower=gcn, model/projector=mlp, model.compat.last_input_only=true, model.llm.path=random:tiny "
        f"and dataset=folder from {run}"
    ]


def test_what_is_given_stays(first: Callable[..., Path]) -> None:
    """Single values change what is taken, with the value of a default too; how a stage trains is its own."""
    run = first("model/tower=gcn", "model.projector.dropout=0.5", "dataset.sampler.fanout=3", "dataset.sampler.hops=1")
    [config] = second(run, "model.tower.train=true", "dataset.sampler.fanout=30", "model.llm.dtype=bfloat16").configs
    assert (config.model.tower.name, config.model.tower.train, config.model.llm.dtype) == ("gcn", True, "bfloat16")
    assert (config.dataset.sampler.fanout, config.dataset.sampler.hops) == (30, 1)
    assert config.model.projector.dropout == 0
    [config] = second(run, "dataset=stdlib_docs").configs
    assert (config.dataset.name, config.dataset.sampler.hops, config.model.tower.name) == ("stdlib_docs", 2, "gcn")
    [config] = second(run, "dataset/text_encoder=llm_states").configs
    assert (config.dataset.name, config.dataset.text_encoder.name) == ("folder", "llm_states")


def test_an_experiment_chooses_too(first: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = first("model/tower=sage")
    monkeypatch.chdir(tmp_path)
    mine = tmp_path / "graphgpt_configs" / "experiment" / "mine.yaml"
    mine.parent.mkdir(parents=True)
    mine.write_text(f"defaults: [override /task: node_classification]\nstart_from: {run}\ndataset: {{sampler: {{fanout: 4}}}}\n")
    line = read_command_line(ExperimentConfig, "train", ["experiment=mine"])
    assert (line.configs[0].dataset.name, line.configs[0].dataset.sampler.fanout) == ("folder", 4)
    mine.write_text(f"defaults: [override /model/tower: gat]\nstart_from: {run}\n")
    with pytest.raises(ConfigError) as caught:
        read_command_line(ExperimentConfig, "train", ["experiment=mine"])
    sentence = f"start_from: {run} has tower.name='sage', but model.tower.name='gat'; choose model/tower=sage."
    assert caught.value.problems == [f"{sentence} It stands in {mine}."]


def test_what_contradicts_is_refused(first: Callable[..., Path], tmp_path: Path) -> None:
    run = first("model/tower=gcn")
    sentence = f"start_from: {run} has tower.name='gcn', but model.tower.name='sgc'; choose model/tower=gcn."
    assert problems(run, "model/tower=sgc") == [sentence]  # a default, but a chosen one
    assert problems(run, "model.tower.layers=5") == [f"start_from: {run} has tower.layers=2, but model.tower.layers=5."]
    shutil.rmtree(tmp_path / "graph")
    assert problems(run) == [f"dataset.path={tmp_path}/graph: there is no such folder; 'graphgpt data build' makes one."]


def test_a_sweep_takes_the_same_and_nothing_is_said_where_nothing_is_taken(first: Callable[..., Path]) -> None:
    run = first()
    line = second(run, "seed=0,1", "runner.lr.lora=1e-4,1e-3")
    assert [config.dataset.name for config in line.configs] == ["folder"] * 4
    assert len(line.notes) == 1
    given = [*TINY, "dataset=folder", f"dataset.path={run.parent}/graph"]
    assert second(run, *given).notes == []


def test_imported_weights_bring_no_dataset(first: Callable[..., Path]) -> None:
    """What stands in their config is nobody's."""
    imported = {"path": "projector.bin", "kind": "projector", "sha256": "0" * 64}
    [config] = second(first("model/tower=gcn", imported=imported)).configs
    assert (config.model.tower.name, config.dataset.name) == ("gcn", "stdlib_docs")


def test_check_says_it(first: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    run = first()
    with pytest.raises(SystemExit):
        main(["check", "experiment=stage2/node_classification", f"start_from={run}"])
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"start_from: takes model.llm.path=random:tiny and dataset=folder from {run}"
    assert said[2].startswith("2. ok data: toy, 60 nodes")
