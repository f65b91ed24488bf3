"""What a run proposes to do next runs as it is printed, on that run's own data and with its model."""

import dataclasses
import shlex
from pathlib import Path
from typing import Any

import pytest
from helpers import csv_overrides, train

from graphgpt.assembly import build_model, build_task
from graphgpt.checkpoints.folder import checkpoint_experiment, load_checkpoint
from graphgpt.checkpoints.next_steps import after_evaluation, after_training, as_overrides
from graphgpt.cli.main import main
from graphgpt.config.command_line import check_command_line
from graphgpt.config.experiment import EvaluationConfig, ExperimentConfig, evaluated_experiment
from graphgpt.evaluation.evaluation import evaluate

#: Everything that asks nothing of the graph that the tables of this test have not, with what makes it small.
TRAININGS = {
    "stage0": ["experiment=stage0", "model.tower.dim=16", "model.tower.heads=2", "model.tower.layers=1"],
    "stage1": ["experiment=stage1", "model/projector=mlp", "dataset.sampler.fanout=3"],
    "described": ["task=node_description", "dataset.text_encoder.dim=8"],
    "classified": ["task=node_classification", "model/lora=default"],
    "linked": ["task=link_prediction"],
    "mixed": ["task=mixture"],
    "gnn": ["experiment=baseline/gnn", "model.tower.layers=1"],
}


def checked(command: str) -> Any:
    """The command, parsed and checked as its program would before it does anything."""
    words = shlex.split(command)
    if words[:2] in (["python", "train.py"], ["graphgpt", "train"]):
        return check_command_line(ExperimentConfig, "train", words[2:])
    if words[:2] in (["python", "evaluate.py"], ["graphgpt", "evaluate"]):
        return check_command_line(EvaluationConfig, "evaluate", words[2:])
    assert words[0] == "graphgpt"
    if words[1] == "chat":
        checkpoint_experiment(words[2])
    else:
        main(words[1:])
    return None


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module", params=[*TRAININGS])
def run(request: pytest.FixtureRequest, runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    moment = ["runner.max_steps=1", "runner.global_batch_size=2", "runner.val_every=0", "runner.val_at_start=false"]
    train(runs / request.param, [*csv_overrides(tmp_path_factory.mktemp("tables")), *TRAININGS[request.param], *moment])
    return runs / request.param


def test_every_command_of_a_training_runs_on_its_own_data(run: Path) -> None:
    trained = checkpoint_experiment(run)
    steps = after_training(trained, run)
    found = {what: checked(command) for what, command in steps}
    assert str(run) in " ".join(command for _, command in steps)
    for config in found.values():
        if isinstance(config, ExperimentConfig):
            assert dataclasses.asdict(config)["dataset"]["nodes"] == trained["dataset"]["nodes"]
            assert config.start_from == str(run) or config.model.tower.init_from == str(run)
    page, card = (run / "report.html").read_text(), (run / "checkpoint" / "README.md").read_text()
    for what, command in steps:
        assert what in page
        assert command.split()[1] in card


def test_every_command_of_an_evaluation_runs(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained = checkpoint_experiment(run)
    if trained["task"]["name"] == "grounding":
        return  # asks nothing
    config = check_command_line(EvaluationConfig, "evaluate", [f"checkpoint={run}", "limit=2"])
    wordings = len(trained["task"].get("wordings") or ()) > 1
    steps = after_evaluation(trained, config, items=9, wordings=wordings)
    assert [what for what, _ in steps if what == "Score all 9 items"]
    for _, command in steps:
        checked(command)
    done = dataclasses.replace(config, limit=None, seeds=3, ablation=("no_graph", "zeroed"), wordings="all")
    again = [what for what, _ in after_evaluation(trained, done, items=9, wordings=wordings)]
    assert not {"Score all 9 items", "See how much is chance: three seeds", "See what the answers come from"} & {*again}
    assert not {"See how much hangs on the wording"} & {*again}


def test_they_keep_the_graph_and_the_question_that_were_asked_for(runs: Path, tmp_path: Path) -> None:
    run = runs / "for another"
    run.mkdir()
    (tmp_path / "second").mkdir()
    train(run, [*csv_overrides(tmp_path), "task=node_classification", "runner.max_steps=1", "runner.global_batch_size=2"])
    other = [one for one in csv_overrides(tmp_path / "second") if one.startswith("dataset")]
    first = ["dataset.sampler.fanout=4", "task.wording=2", "split=val"]
    for asked in (first, [*other, "task=link_prediction"]):
        config = check_command_line(EvaluationConfig, "evaluate", [f"checkpoint={run}", "limit=2", *asked])
        [(_, command), *_] = after_evaluation(checkpoint_experiment(run), config, items=9, wordings=True)
        assert checked(command) == dataclasses.replace(config, limit=None)


def test_what_is_printed_after_an_evaluation_runs(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = runs / "printed"
    train(run, [*csv_overrides(tmp_path), "experiment=stage1", "runner.max_steps=1", "runner.global_batch_size=2", "runner.val_every=0"])
    small = ["limit=2", "threads=1", "accelerator=cpu", "max_new_tokens=2", "bootstrap=0", "baselines=false", "samples=0"]
    config = check_command_line(EvaluationConfig, "evaluate", [f"checkpoint={run}", *small])
    experiment = evaluated_experiment(config)
    task = build_task(experiment)
    model = build_model(experiment, task)
    load_checkpoint(model, run)
    result = evaluate(model, task, config, tmp_path / "evaluation")
    printed = capsys.readouterr().out
    assert result["next_steps"]
    for what, command in result["next_steps"]:
        assert f"  {what}:\n    {command}\n" in printed
    [command] = [command for what, command in result["next_steps"] if what == "Teach it a task"]
    train(tmp_path / "taught", [*shlex.split(command)[2:], "runner.max_steps=1", "runner.global_batch_size=2", "runner.threads=1"])
    assert checkpoint_experiment(tmp_path / "taught")["task"]["name"] == "node_classification"


def test_only_what_differs_from_the_files_is_spelled_out(tmp_path: Path) -> None:
    for overrides, expected in (
        ([], []),
        (["dataset.split.seed=3", "model/projector=mlp"], ["dataset.split.seed=3", "model/projector=mlp"]),
        (["model/llm=tiny_random", "model/tower=identity"], ["model/llm=tiny_random", "model/tower=identity"]),
    ):
        experiment = dataclasses.asdict(check_command_line(ExperimentConfig, "train", overrides))
        groups = ("dataset", "dataset/text_encoder", "model/llm", "model/tower", "model/projector", "model/template")
        assert as_overrides(experiment, groups) == expected
