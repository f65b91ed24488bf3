"""Evaluation of a trained checkpoint: every number in the report follows from the predictions beside it."""

import html
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import csv_overrides
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score, top_k_accuracy_score

from graphgpt.assembly import build_model, build_runner, build_task
from graphgpt.checkpoints.folder import checkpoint_experiment, load_checkpoint
from graphgpt.config import EvaluationConfig, ExperimentConfig, check_command_line, read_config
from graphgpt.errors import DataError
from graphgpt.runners.baselines import baseline_scores
from graphgpt.runners.evaluation import evaluate
from graphgpt.task import Prediction, Task
from graphgpt.tasks.graph_matching import ANSWER, matched_titles
from graphgpt.tasks.node_classification import bootstrap_intervals, macro_f1

ROOT = Path(__file__).parents[2]
LABELS = ["Red", "Green", "Blue", "White"]


def train(folder: Path, overrides: Sequence[str]) -> None:
    """Train as train.py does."""
    experiment = check_command_line(ExperimentConfig, "train", overrides)
    task = build_task(experiment)
    model = build_model(experiment, task)
    build_runner(experiment).train(model, task, experiment, folder)


Evaluate = Callable[..., tuple[dict[str, Any], Path]]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Sixty nodes in four classes of 24, 18, 12 and 6."""
    labels = [label for label, count in zip(LABELS, (24, 18, 12, 6), strict=True) for _ in range(count)]
    return csv_overrides(tmp_path_factory.mktemp("csv"), labels, step=1)


@pytest.fixture(scope="module")
def checkpoint(data: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folder of a node classification that was trained for a moment, with adapters."""
    folder = tmp_path_factory.mktemp("trained")
    steps = ["runner.max_steps=20", "runner.global_batch_size=4", "runner.micro_batch_size=4", "runner.lr.lora=2e-2"]
    train(folder, [*data, "task=node_classification", "model/lora=default", *steps])
    return folder


@pytest.fixture(scope="module")
def matching_checkpoint(data: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folder of a graph matching."""
    folder = tmp_path_factory.mktemp("matching")
    train(folder, [*data, "experiment=stage1", "runner.max_steps=1", "runner.global_batch_size=1", "runner.micro_batch_size=1"])
    return folder


def loaded(overrides: Sequence[str]) -> tuple[Any, Task, EvaluationConfig]:
    """Model, task and settings, as evaluate.py has them."""
    config = check_command_line(EvaluationConfig, "evaluate", [*overrides, "threads=1", "accelerator=cpu"])
    asked = {"dataset": config.dataset} if config.dataset else {}
    experiment = read_config(ExperimentConfig, checkpoint_experiment(config.checkpoint) | asked)
    task = build_task(experiment)
    model = build_model(experiment, task)
    load_checkpoint(model, config.checkpoint)
    return model, task, config


@pytest.fixture
def run(tmp_path: Path) -> Evaluate:
    """``run(checkpoint, *overrides)``: the scores, and the folder with the files."""

    def run(checkpoint: Path, *overrides: str) -> tuple[dict[str, Any], Path]:
        model, task, config = loaded([f"checkpoint={checkpoint}", *overrides])
        folder = tmp_path / f"evaluation{len(list(tmp_path.iterdir()))}"
        return evaluate(model, task, config, folder), folder

    return run


@pytest.fixture(scope="module")
def evaluated(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """The test split, evaluated with all that there is."""
    model, task, config = loaded([f"checkpoint={checkpoint}", "limit=null", "bootstrap=200", "max_new_tokens=4"])
    folder = tmp_path_factory.mktemp("evaluated")
    return evaluate(model, task, config, folder), folder


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def recomputed(path: Path) -> dict[str, float]:
    """The metrics that follow from a file of predictions, by scikit-learn."""
    found = records(path)
    names = list(found[0]["scores"])
    scores = np.array([[record["scores"][name] for name in names] for record in found])
    truth = np.array([names.index(record["expected"]) for record in found])
    answers = [max(record["scores"], key=record["scores"].get) for record in found]
    expected = [record["expected"] for record in found]
    assert answers == [record["answer"] for record in found]
    return {
        "accuracy": accuracy_score(expected, answers),
        "macro_f1": f1_score(expected, answers, average="macro", labels=sorted(set(expected)), zero_division=0),
        "top3": top_k_accuracy_score(truth, scores, k=3, labels=range(len(names))),
    }


def test_every_node_of_the_split_has_a_score_for_every_class(evaluated: tuple[dict[str, Any], Path], checkpoint: Path) -> None:
    _, folder = evaluated
    task = build_task(read_config(ExperimentConfig, checkpoint_experiment(checkpoint)))
    ids = task.graph.ids.to_pylist()
    for name in ("predictions.jsonl", "predictions_removed.jsonl"):
        found = records(folder / name)
        assert [record["id"] for record in found] == [ids[node] for node in task.items("test").tolist()]
        for record in found:
            node = ids.index(record["id"])
            assert sorted(record["scores"]) == sorted(LABELS)
            assert all(score < 0 for score in record["scores"].values())
            assert record["expected"] == task.graph.class_names[int(task.graph.y[node])]
            assert record["truth"] == int(task.graph.y[node])


def test_scores_follow_from_the_predictions(evaluated: tuple[dict[str, Any], Path]) -> None:
    result, folder = evaluated
    scores = json.loads((folder / "scores.json").read_text(encoding="utf-8"))
    assert scores == json.loads(json.dumps(result))
    assert scores["nodes"] == 12
    assert (scores["task"], scores["graph"], scores["split"]) == ("node_classification", "csv", "test")
    for name, file in (("Graph tokens", "predictions.jsonl"), ("Graph tokens removed", "predictions_removed.jsonl")):
        expected = recomputed(folder / file)
        assert {key: scores["metrics"][name][key] for key in expected} == pytest.approx(expected)
        [row] = [row for row in scores["rows"] if row["name"] == name]
        assert {key: row[key] for key in expected} == pytest.approx(expected)
        assert row["is_model"] is True


def test_without_the_graph_the_predictions_differ(evaluated: tuple[dict[str, Any], Path]) -> None:
    _, folder = evaluated
    kept, removed = records(folder / "predictions.jsonl"), records(folder / "predictions_removed.jsonl")
    for one, other in zip(kept, removed, strict=True):
        assert one["id"] == other["id"]
        assert one["scores"] != other["scores"]
        assert 3 <= one["prompt_tokens"] - other["prompt_tokens"] <= 5  # start, end and up to three nodes


def test_intervals_hold_the_accuracy(evaluated: tuple[dict[str, Any], Path]) -> None:
    result, _ = evaluated
    assert [row["name"] for row in result["rows"]] == list(result["metrics"])
    assert len(result["rows"]) == 5
    for row in result["rows"]:
        metrics = result["metrics"][row["name"]]
        assert row["interval"] == metrics["intervals"]["accuracy"]
        assert set(metrics["intervals"]) == {"accuracy", "macro_f1", "top3"}
        for name, (low, high) in metrics["intervals"].items():
            assert 0 <= low <= high <= 1
            assert low < high or metrics[name] in (0, 1)
        low, high = row["interval"]
        assert low <= row["accuracy"] <= high


def test_baselines_are_what_they_say(evaluated: tuple[dict[str, Any], Path], checkpoint: Path) -> None:
    result, _ = evaluated
    task = build_task(read_config(ExperimentConfig, checkpoint_experiment(checkpoint)))
    y, train_nodes, test_nodes = task.graph.y.numpy(), task.items("train").numpy(), task.items("test").numpy()
    rows = {row["name"]: row for row in result["rows"] if not row["is_model"]}
    assert list(rows) == ["Majority class", "TF-IDF + logistic regression", "2-hop SGC"]
    majority = np.bincount(y[train_nodes]).argmax()
    assert rows["Majority class"]["accuracy"] == pytest.approx((y[test_nodes] == majority).mean())
    # A node's text names its class.
    assert rows["TF-IDF + logistic regression"]["accuracy"] > 0.9
    for name, scores in baseline_scores(task.graph, task.items("train"), task.items("test"), seed=0):
        assert scores.shape == (12, 4)
        assert (scores.argmax(axis=1) == y[test_nodes]).mean() == pytest.approx(rows[name]["accuracy"])


def test_baselines_of_a_class_that_no_training_node_has(checkpoint: Path) -> None:
    task = build_task(read_config(ExperimentConfig, checkpoint_experiment(checkpoint)))
    nodes = task.items("train")
    for kept in ({0, 1}, {0}):
        fitted_on = nodes[[int(task.graph.y[node]) in kept for node in nodes.tolist()]]
        for _, scores in baseline_scores(task.graph, fitted_on, task.items("test"), seed=0):
            assert scores.shape == (12, 4)
            assert not np.isnan(scores).any()
            assert set(scores.argmax(axis=1)) <= kept


def test_report_names_the_numbers(evaluated: tuple[dict[str, Any], Path], checkpoint: Path) -> None:
    result, folder = evaluated
    report = html.unescape((folder / "report.html").read_text(encoding="utf-8"))
    for row in result["rows"]:
        assert row["name"] in report
        assert f"{100 * row['accuracy']:.1f}" in report
        assert f"{100 * row['macro_f1']:.1f}" in report
    accuracy = result["rows"][0]["accuracy"]
    assert f"The model names the right class for {accuracy:.1%} of 12 test nodes" in report
    assert "random:tiny" in report
    assert "60 nodes, 60 edges, 4 classes" in report
    assert all(label in report for label in LABELS)
    assert str(checkpoint) in report


def test_the_screen_shows_the_scores_and_where_the_report_is(checkpoint: Path, run: Evaluate, capsys: pytest.CaptureFixture[str]) -> None:
    result, folder = run(checkpoint, "limit=4", "baselines=false", "without_graph=false", "samples=0", "bootstrap=0")
    output = capsys.readouterr().out
    assert "node_classification on 4 test nodes of csv" in output
    assert f"{100 * result['rows'][0]['accuracy']:.1f}" in output
    assert str(folder / "report.html") in output
    assert f"python evaluate.py checkpoint={checkpoint} limit=null" in output


def test_two_evaluations_agree(checkpoint: Path, run: Evaluate) -> None:
    settings = ["limit=5", "bootstrap=50", "samples=0"]
    (one, first), (other, second), (cut, third) = (run(checkpoint, *settings, f"batch_size={size}") for size in (8, 8, 2))
    assert one == other
    assert (first / "predictions.jsonl").read_bytes() == (second / "predictions.jsonl").read_bytes()
    # How the nodes are put into batches is no part of the result.
    assert [row["accuracy"] for row in cut["rows"]] == [row["accuracy"] for row in one["rows"]]
    for ours, theirs in zip(records(first / "predictions.jsonl"), records(third / "predictions.jsonl"), strict=True):
        assert list(ours["scores"].values()) == pytest.approx(list(theirs["scores"].values()), abs=1e-4)


def test_limit_draws_nodes_by_seed(checkpoint: Path, run: Evaluate) -> None:
    quick = ["baselines=false", "without_graph=false", "samples=0", "bootstrap=0"]
    drawn = {}
    for key, overrides in {"all": ["limit=null"], "0": ["limit=5"], "0 again": ["limit=5"], "1": ["limit=5", "seed=1"]}.items():
        _, folder = run(checkpoint, *quick, *overrides)
        drawn[key] = [record["id"] for record in records(folder / "predictions.jsonl")]
    assert len(drawn["0"]) == 5
    assert drawn["0"] == drawn["0 again"] != drawn["1"]
    assert set(drawn["0"]) | set(drawn["1"]) <= set(drawn["all"])


def test_a_limit_above_the_split_takes_all_of_it(checkpoint: Path, run: Evaluate) -> None:
    result, folder = run(checkpoint, "limit=1000", "split=val", "baselines=false", "without_graph=false", "samples=0", "bootstrap=0")
    assert result["nodes"] == 12
    assert len(records(folder / "predictions.jsonl")) == 12


def test_what_is_switched_off_is_left_out(checkpoint: Path, run: Evaluate) -> None:
    result, folder = run(checkpoint, "limit=3", "baselines=false", "without_graph=false", "samples=0", "bootstrap=0")
    assert {path.name for path in folder.iterdir()} == {"predictions.jsonl", "scores.json", "report.html"}
    [row] = result["rows"]
    assert row["interval"] is None


def test_another_graph(checkpoint: Path, data: list[str], run: Evaluate, tmp_path: Path) -> None:
    """The same model on half of the graph, with features of the same width."""
    lines = Path(data[1].partition("=")[2]).read_text().splitlines()
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "nodes.csv").write_text("\n".join([lines[0], *lines[1::2], ""]))
    (tmp_path / "half" / "edges.csv").write_text("source,target\nn0,n2\nn2,n4\n")
    task = build_task(read_config(ExperimentConfig, checkpoint_experiment(checkpoint)))
    features = np.random.RandomState(0).randn(30, task.graph.features.shape[1])
    np.save(tmp_path / "half" / "x.npy", features)
    other = ["dataset=csv", f"dataset.nodes={tmp_path}/half/nodes.csv", f"dataset.edges={tmp_path}/half/edges.csv"]
    result, _ = run(checkpoint, *other, f"dataset.features={tmp_path}/half/x.npy", "limit=null", "samples=0", "bootstrap=0")
    assert result["nodes"] == 6


def program(cwd: Path, *overrides: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(ROOT / "evaluate.py"), *overrides, "threads=1", "accelerator=cpu"]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=250)


def test_the_program_leaves_a_run_folder(checkpoint: Path, run: Evaluate, tmp_path: Path) -> None:
    quick = ["limit=3", "baselines=false", "without_graph=false", "samples=1", "bootstrap=9", "max_new_tokens=2"]
    expected, _ = run(checkpoint, *quick)
    cwd = tmp_path / "cwd"
    cwd.mkdir()
    done = program(cwd, f"checkpoint={checkpoint}", *quick)
    assert done.returncode == 0, done.stderr
    [folder] = cwd.glob("runs/evaluate/*")
    assert {"predictions.jsonl", "scores.json", "report.html", "run.log", ".hydra"} == {path.name for path in folder.iterdir()}
    assert json.loads((folder / "scores.json").read_text(encoding="utf-8")) == json.loads(json.dumps(expected))


def test_another_graph_where_the_first_one_is_gone(data: list[str], tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    moved.mkdir()
    train(tmp_path / "run", [*csv_overrides(moved, LABELS * 15), "task=node_classification", "runner.max_steps=1"])
    (moved / "nodes.csv").unlink()
    other = [override for override in data if override.startswith("dataset")]
    done = program(tmp_path, f"checkpoint={tmp_path}/run", *other, "limit=1", "baselines=false", "samples=0")
    assert done.returncode == 0, done.stderr


def test_a_split_without_nodes_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    model, task, config = loaded([f"checkpoint={checkpoint}", "split=val"])
    task.split[task.split == 1] = 0
    with pytest.raises(DataError, match=r"^split: the val split of the graph 'csv' has no nodes\.$"):
        evaluate(model, task, config, tmp_path)


# Intervals.


def test_bootstrap_intervals() -> None:
    truth = np.array([0] * 70 + [1] * 30)
    scores = np.tile([1.0, 0.0, 0.0, 0.0], (100, 1))  # right for the first 70
    found = bootstrap_intervals(truth, scores, resamples=500, seed=0)
    # The normal approximation: 0.7 +- 1.96 * sqrt(0.7 * 0.3 / 100).
    assert found["accuracy"] == pytest.approx((0.61, 0.79), abs=0.02)
    assert found["top3"] == (1.0, 1.0)
    low, high = found["macro_f1"]
    assert low < macro_f1(truth, scores.argmax(axis=1)) < high
    assert bootstrap_intervals(truth, scores, resamples=500, seed=0) == found
    assert bootstrap_intervals(truth, scores, resamples=500, seed=1) != found
    assert bootstrap_intervals(truth, scores, resamples=0, seed=0) == {}


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=30))
def test_macro_f1_is_that_of_sklearn(pairs: list[tuple[int, int]]) -> None:
    truth, answers = np.array(pairs).T
    expected = f1_score(truth, answers, average="macro", labels=np.unique(truth), zero_division=0)
    assert macro_f1(truth, answers) == pytest.approx(expected)


# Graph matching: answers are generated, and read.


def answer(*titles: str) -> str:
    """The right answer with these titles, in the released wording."""
    parts = " ".join(f"Graph token {i} corresponds to {title}." for i, title in enumerate(titles, start=1))
    return ANSWER.format(node="paper") + parts


def prediction(expected: str, text: str | None) -> Prediction:
    return Prediction(id="n", prompt_tokens=1, truth=None, scores=None, expected=expected, text=text)


@pytest.mark.parametrize(
    ("text", "exact", "position"),
    [
        (answer("A", "B", "C"), 1, 1),
        (answer("A", "C", "B"), 0, 1 / 3),
        (answer("C", "A", "B"), 0, 0),
        (answer("A", "B"), 0, 2 / 3),
        (answer("A", "B", "C", "D"), 0, 1),
        ("Graph token 3 corresponds to C. Graph token 1 corresponds to A.", 0, 2 / 3),
        ("no idea", 0, 0),
        ("", 0, 0),
        (None, 0, 0),
    ],
)
def test_matching_metrics(matching_checkpoint: Path, text: str | None, exact: float, position: float) -> None:
    task = build_task(read_config(ExperimentConfig, checkpoint_experiment(matching_checkpoint)))
    found = task.metrics([prediction(answer("A", "B", "C"), text)])
    assert found == pytest.approx({"exact_order": exact, "position_accuracy": position})


def test_matching_metrics_are_means(matching_checkpoint: Path) -> None:
    task = build_task(read_config(ExperimentConfig, checkpoint_experiment(matching_checkpoint)))
    right = answer("A", "B")
    found = task.metrics([prediction(right, right), prediction(right, answer("A", "X")), prediction(answer("A", "B", "C", "D"), "none")])
    assert found == pytest.approx({"exact_order": 1 / 3, "position_accuracy": (1 + 0.5 + 0) / 3})


@pytest.mark.parametrize("titles", [("Node 1", "Node 2"), ("A. B.", "C"), ("re.compile", "3. 14"), ("Ends here.", "x")])
def test_titles_are_read_back(titles: tuple[str, ...]) -> None:
    assert matched_titles(answer(*titles)) == dict(enumerate(titles, start=1))


def test_graph_matching_is_evaluated_by_generation(matching_checkpoint: Path, run: Evaluate, capsys: pytest.CaptureFixture[str]) -> None:
    result, folder = run(matching_checkpoint, "limit=3", "max_new_tokens=5")
    assert {path.name for path in folder.iterdir()} == {"predictions.jsonl", "predictions_removed.jsonl", "scores.json"}
    assert result["rows"] == []
    assert set(result["metrics"]) == {"Graph tokens", "Graph tokens removed"}
    for metrics in result["metrics"].values():
        assert set(metrics) == {"exact_order", "position_accuracy"}
    found = records(folder / "predictions.jsonl")
    assert len(found) == 3
    assert all(isinstance(record["text"], str) and record["scores"] is None for record in found)
    assert all(matched_titles(record["expected"]) for record in found)
    assert "Graph tokens: exact_order" in capsys.readouterr().out
