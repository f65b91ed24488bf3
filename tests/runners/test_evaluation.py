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
import torch
from helpers import csv_overrides, train, uneven_overrides
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score, top_k_accuracy_score

from graphgpt.assembly import build_model, build_task
from graphgpt.checkpoints.folder import checkpoint_experiment, load_checkpoint
from graphgpt.cli.main import main
from graphgpt.config.command_line import check_command_line
from graphgpt.config.experiment import EvaluationConfig, ExperimentConfig, evaluated_experiment, plain_settings, read_config
from graphgpt.errors import ConfigError, DataError, GraphGPTError
from graphgpt.evaluation.evaluation import evaluate
from graphgpt.evaluation.gather import gather
from graphgpt.launch.program import launch
from graphgpt.prompts.prediction import Prediction
from graphgpt.tasks.baselines import baseline_scores
from graphgpt.tasks.graph_matching import ANSWER, matched_titles
from graphgpt.tasks.node_classification import NodeClassification, macro_f1
from graphgpt.tasks.task import Task

ROOT = Path(__file__).parents[2]
LABELS = ["Red", "Green", "Blue", "White"]


Evaluate = Callable[..., tuple[dict[str, Any], Path]]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return uneven_overrides(tmp_path_factory.mktemp("csv"))


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
    experiment = evaluated_experiment(config)
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


def records(folder: Path, **passes: Any) -> list[dict[str, Any]]:
    """The lines of predictions.jsonl of certain passes, of the plain one unless told."""
    lines = [json.loads(line) for line in (folder / "predictions.jsonl").read_text(encoding="utf-8").splitlines()]
    wanted = {"variant": "none", "wording": None, "seed": 0} | passes
    return [line for line in lines if all(line[key] == value for key, value in wanted.items())]


def rows_of(result: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in result["rows"]}


def recomputed(found: list[dict[str, Any]]) -> dict[str, float]:
    """The metrics that follow from predictions, by scikit-learn."""
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


def test_what_a_task_measures_without_declaring_it_is_reported(checkpoint: Path, run: Evaluate, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a task of a plugin may, that was written before there were declarations."""
    monkeypatch.setattr(NodeClassification, "measures", Task.measures)
    result, folder = run(checkpoint, "limit=4", "bootstrap=0", "samples=0", "ablation=none", "baselines=[majority]")
    assert (result["main_metric"], result["declared"]) == ("accuracy", {})
    assert "Macro f1 %" in (folder / "report.html").read_text(encoding="utf-8")


def test_every_node_of_the_split_has_a_score_for_every_class(evaluated: tuple[dict[str, Any], Path], checkpoint: Path) -> None:
    _, folder = evaluated
    task = build_task(read_config(ExperimentConfig, checkpoint_experiment(checkpoint)))
    ids = task.graph.ids.to_pylist()
    for variant in ("none", "no_graph"):
        found = records(folder, variant=variant)
        assert [record["id"] for record in found] == [ids[node] for node in task.items("test").tolist()]
        for record in found:
            node = ids.index(record["id"])
            assert sorted(record["scores"]) == sorted(LABELS)
            assert all(score < 0 for score in record["scores"].values())
            assert record["expected"] == task.graph.class_names[int(task.graph.y[node])]
            assert record["truth"] == int(task.graph.y[node])


def test_scores_follow_from_the_predictions(evaluated: tuple[dict[str, Any], Path]) -> None:
    result, folder = evaluated
    scores = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    assert scores == json.loads(json.dumps(result))
    assert scores["items"] == 12
    assert (scores["task"], scores["graph"], scores["split"]) == ("node_classification", "csv", "test")
    for name, variant in (("Graph tokens", "none"), ("Graph tokens removed", "no_graph")):
        [row] = [row for row in scores["rows"] if row["name"] == name]
        assert row["metrics"] == pytest.approx(recomputed(records(folder, variant=variant)))
        assert row["is_model"] is True


def test_without_the_graph_the_predictions_differ(evaluated: tuple[dict[str, Any], Path]) -> None:
    _, folder = evaluated
    kept, removed = records(folder), records(folder, variant="no_graph")
    for one, other in zip(kept, removed, strict=True):
        assert one["id"] == other["id"]
        assert one["scores"] != other["scores"]
        assert 3 <= one["prompt_tokens"] - other["prompt_tokens"] <= 5  # start, end and up to three nodes


def test_intervals_hold_the_accuracy(evaluated: tuple[dict[str, Any], Path]) -> None:
    result, _ = evaluated
    assert len(result["rows"]) == 7
    for row in result["rows"]:
        assert set(row["intervals"]) == {"accuracy", "macro_f1", "top3"}
        assert row["deviations"] == {}
        for name, (low, high) in row["intervals"].items():
            assert 0 <= low <= high <= 1
            assert low < high or row["metrics"][name] in (0, 1)
        low, high = row["intervals"]["accuracy"]
        assert low <= row["metrics"]["accuracy"] <= high


def test_baselines_are_what_they_say(evaluated: tuple[dict[str, Any], Path], checkpoint: Path) -> None:
    result, _ = evaluated
    task = build_task(read_config(ExperimentConfig, checkpoint_experiment(checkpoint)))
    y, train_nodes, test_nodes = task.graph.y.numpy(), task.items("train").numpy(), task.items("test").numpy()
    rows = {row["name"]: row for row in result["rows"] if not row["is_model"]}
    assert list(rows) == ["Majority class", "TF-IDF + logistic regression", "2-hop SGC", "GCN", "GraphSAGE"]
    majority = np.bincount(y[train_nodes]).argmax()
    assert rows["Majority class"]["metrics"]["accuracy"] == pytest.approx((y[test_nodes] == majority).mean())
    # A node's text names its class.
    assert rows["TF-IDF + logistic regression"]["metrics"]["accuracy"] > 0.9
    for name, scores in task.baselines(task.items("test"), seed=0):
        assert scores.shape == (12, 4)
        assert (scores.argmax(axis=1) == y[test_nodes]).mean() == pytest.approx(rows[name]["metrics"]["accuracy"])


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
        assert f"{100 * row['metrics']['accuracy']:.1f}" in report
        assert f"{100 * row['metrics']['macro_f1']:.1f}" in report
    accuracy = result["rows"][0]["metrics"]["accuracy"]
    assert f"Accuracy is {accuracy:.1%} on 12 test items" in report
    assert "random:tiny" in report
    assert "60 nodes, 60 edges" in report
    assert all(label in report for label in LABELS)
    assert str(checkpoint) in report


def test_the_screen_shows_the_scores_and_where_the_report_is(checkpoint: Path, run: Evaluate, capsys: pytest.CaptureFixture[str]) -> None:
    result, folder = run(checkpoint, "limit=4", "baselines=false", "ablation=none", "samples=0", "bootstrap=0")
    output = capsys.readouterr().out
    assert "node_classification on 4 test items of csv" in output
    assert f"{100 * result['rows'][0]['metrics']['accuracy']:.1f}" in output
    assert str(folder / "report.html") in output
    assert f"python evaluate.py checkpoint={checkpoint} limit=null" in output


def test_two_evaluations_agree(checkpoint: Path, run: Evaluate) -> None:
    settings = ["limit=5", "bootstrap=50", "samples=0", "baselines=[majority]"]
    (one, first), (other, second), (cut, third) = (run(checkpoint, *settings, f"batch_size={size}") for size in (8, 8, 2))
    assert one == other
    assert (first / "predictions.jsonl").read_bytes() == (second / "predictions.jsonl").read_bytes()
    # How the nodes are put into batches is no part of the result.
    assert [row["metrics"]["accuracy"] for row in cut["rows"]] == [row["metrics"]["accuracy"] for row in one["rows"]]
    for ours, theirs in zip(records(first), records(third), strict=True):
        assert list(ours["scores"].values()) == pytest.approx(list(theirs["scores"].values()), abs=1e-4)


def test_limit_draws_nodes_by_seed(checkpoint: Path, run: Evaluate) -> None:
    quick = ["baselines=false", "ablation=none", "samples=0", "bootstrap=0"]
    drawn = {}
    for key, overrides in {"all": ["limit=null"], "0": ["limit=5"], "0 again": ["limit=5"], "1": ["limit=5", "seed=1"]}.items():
        result, folder = run(checkpoint, *quick, *overrides)
        drawn[key] = [record["id"] for record in records(folder, seed=result["seeds"][0])]
    assert len(drawn["0"]) == 5
    assert drawn["0"] == drawn["0 again"] != drawn["1"]
    assert set(drawn["0"]) | set(drawn["1"]) <= set(drawn["all"])


def test_a_limit_above_the_split_takes_all_of_it(checkpoint: Path, run: Evaluate) -> None:
    result, folder = run(checkpoint, "limit=1000", "split=val", "baselines=false", "ablation=none", "samples=0", "bootstrap=0")
    assert result["items"] == 12
    assert len(records(folder)) == 12


def test_what_is_switched_off_is_left_out(checkpoint: Path, run: Evaluate) -> None:
    result, folder = run(checkpoint, "limit=3", "baselines=false", "ablation=none", "samples=0", "bootstrap=0")
    assert {path.name for path in folder.iterdir()} == {"predictions.jsonl", "metrics.json", "report.html", "config.yaml"}
    [row] = result["rows"]
    assert row["intervals"] == {}


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
    assert (result["items"], result["trained_on"]["left_out"]) == (3, 3)  # half of these nodes have been learned from


def program(cwd: Path, *overrides: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(ROOT / "evaluate.py"), *overrides, "threads=1", "accelerator=cpu"]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=250)


def test_the_program_leaves_a_run_folder(checkpoint: Path, run: Evaluate, tmp_path: Path) -> None:
    quick = ["limit=3", "baselines=false", "ablation=none", "samples=1", "bootstrap=9", "max_new_tokens=2"]
    expected, _ = run(checkpoint, *quick)
    cwd = tmp_path / "cwd"
    cwd.mkdir()
    done = program(cwd, f"checkpoint={checkpoint}", *quick)
    assert done.returncode == 0, done.stderr
    [folder] = cwd.glob("runs/evaluate/*")
    assert {"predictions.jsonl", "metrics.json", "report.html", "config.yaml", "run.log", ".hydra"} == {
        path.name for path in folder.iterdir()
    }
    assert json.loads((folder / "metrics.json").read_text(encoding="utf-8")) == json.loads(json.dumps(expected))


def test_two_processes_find_what_one_does(checkpoint: Path, run: Evaluate, tmp_path: Path) -> None:
    quick = ["limit=5", "baselines=[tfidf]", "samples=0", "bootstrap=9", "ablation=none"]
    expected, one = run(checkpoint, *quick)
    done = program(tmp_path, f"checkpoint={checkpoint}", *quick, "devices=2")
    assert done.returncode == 0, done.stderr
    [folder] = tmp_path.glob("runs/evaluate/*")
    assert {"predictions.jsonl", "metrics.json", "report.html", "config.yaml", "shards"} <= {path.name for path in folder.iterdir()}
    assert [record["item"] for record in records(folder)] == [record["item"] for record in records(one)]
    found = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    assert [(row["name"], row["metrics"]) for row in found["rows"]] == [(row["name"], row["metrics"]) for row in expected["rows"]]
    assert "TF-IDF" in done.stdout


def test_a_process_that_fails(checkpoint: Path, data: list[str], tmp_path: Path) -> None:
    """Its shard has no item to ask about."""
    done = program(tmp_path, f"checkpoint={checkpoint}", "limit=1", "baselines=false", "samples=0", "ablation=none", "devices=2")
    assert done.returncode == 2
    assert "failed with exit code 2; what it said is in " in done.stderr
    assert not list(tmp_path.glob("runs/evaluate/*/metrics.json"))


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
    with pytest.raises(DataError, match=r"^split: the val split of 'csv' has no items for 'node_classification'\.$"):
        evaluate(model, task, config, tmp_path)


# Metrics.


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
    result, folder = run(matching_checkpoint, "limit=3", "max_new_tokens=5", "ablation=[no_graph,no_text]", "bootstrap=20", "samples=1")
    # Hiding the items' texts would change nothing: the titles are the question.
    assert list(rows_of(result)) == ["Graph tokens", "Graph tokens removed"]
    for row in result["rows"]:
        assert set(row["metrics"]) == set(row["intervals"]) == {"exact_order", "position_accuracy"}
    found = records(folder)
    assert len(found) == 3
    assert all(isinstance(record["text"], str) and record["scores"] is None for record in found)
    assert all(matched_titles(record["expected"]) for record in found)
    assert "Exact order" in capsys.readouterr().out
    report = html.unescape((folder / "report.html").read_text(encoding="utf-8"))
    assert "Exact order is 0.0% on 3 test items" in report
    assert result["confusion"] is None and result["calibration"] is None
    assert sum(group["items"] for group in result["by_degree"]) == 3


# Ablations.


def test_all_ablations(checkpoint: Path, run: Evaluate) -> None:
    quick = ["limit=4", "baselines=[llm]", "samples=0", "bootstrap=0"]
    result, folder = run(checkpoint, *quick, "ablation=all")
    assert list(rows_of(result)) == [
        "Graph tokens",
        "Graph tokens removed",
        "Inputs zeroed",
        "Inputs shuffled",
        "Another item's inputs",
        "Own text hidden",
        "Language model alone",
    ]
    assert rows_of(result)["Language model alone"]["is_model"] is False
    scores = {}
    for variant in ("none", "no_graph", "zeroed", "shuffled", "other_node", "no_text", "llm"):
        found = records(folder, variant=variant)
        assert [record["id"] for record in found] == [record["id"] for record in records(folder)]
        scores[variant] = [tuple(record["scores"].values()) for record in found]
    assert len({tuple(values) for values in scores.values()}) == 7
    again, _ = run(checkpoint, *quick, "ablation=[shuffled,other_node]")
    for name, row in rows_of(again).items():
        assert row == rows_of(result)[name]


def test_the_language_model_alone_is_the_base_model(checkpoint: Path, run: Evaluate, tmp_path: Path) -> None:
    """With the adapters taken off by hand, the pass without graph tokens says the same."""
    model, task, config = loaded([f"checkpoint={checkpoint}", "limit=3", "baselines=false", "samples=0", "bootstrap=0"])
    model.llm = model.llm.unload()
    folder = tmp_path / "unloaded"
    evaluate(model, task, config, folder)
    _, other = run(checkpoint, "limit=3", "baselines=[llm]", "samples=0", "bootstrap=0")
    for ours, theirs in zip(records(other, variant="llm"), records(folder, variant="no_graph"), strict=True):
        assert list(ours["scores"].values()) == pytest.approx(list(theirs["scores"].values()), abs=1e-5)


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        (
            "ablation=zerod",
            "ablation: 'zerod' is not one of none, no_graph, no_image, zeroed, shuffled, other_node, no_text, all. Did you mean 'zeroed'?",
        ),
        ("ablation=[zerod]", "'zerod' is not one of"),
        ("baselines=gcnn", "Did you mean 'gcn'?"),
        ("shard=5", "shard: '5' is no part of a whole; expected i/n, such as 2/4."),
        ("shard=5/4", "shard: '5/4' does not exist; the last of 4 is 4/4."),
        ("wordings=some", "wordings: 'some' is not one of all"),
        ("leakage=eror", "Did you mean 'error'?"),
        (
            "baselines=text_cosine",
            "there is no text_cosine for task.name=node_classification and model.name=multimodal_llm; it has ",
        ),
        ("resume=foo", "resume: an evaluation does not go on; leave resume=foo out (only a sweep goes on: -m resume=FOLDER)."),
    ],
)
def test_settings_that_do_not_exist(checkpoint: Path, override: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_command_line(EvaluationConfig, "evaluate", [f"checkpoint={checkpoint}", *override.split(",")])
    assert sentence in str(caught.value)


def test_settings_of_an_earlier_version_are_read(checkpoint: Path) -> None:
    config = check_command_line(EvaluationConfig, "evaluate", [f"checkpoint={checkpoint}"])
    assert read_config(EvaluationConfig, plain_settings(config) | {"resume": None}) == config


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_a_device_that_is_not_here_is_said_before_anything_is_read(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "argv", ["evaluate.py", f"checkpoint={checkpoint}", "accelerator=cuda", f"hydra.run.dir={tmp_path}/run"])
    with pytest.raises(SystemExit) as left:
        launch(lambda: pytest.fail("it went on"), EvaluationConfig, "evaluate")
    assert left.value.code == 2
    assert (
        "accelerator: this machine has no cuda device that torch can use; use accelerator=auto, which is cpu here."
        in capsys.readouterr().err
    )
    assert not (tmp_path / "run").exists()


# Written answers beside scored ones.


def test_written_answers_are_read_exactly(checkpoint: Path, run: Evaluate, monkeypatch: pytest.MonkeyPatch) -> None:
    said = {"n": 0}
    texts = ["red.", " GREEN ", "Blue", "White.", "Red or Green", "not Red", "", "Whit", "Red", "Red", "Red", "Red"]

    def generate(model: Any, prompts: Sequence[Any], max_new_tokens: int, prefix: Any) -> list[str]:
        found = texts[said["n"] : said["n"] + len(prompts)]
        said["n"] += len(prompts)
        return found

    monkeypatch.setattr("graphgpt.models.answering.generate", generate)
    result, folder = run(checkpoint, "limit=null", "generate=true", "ablation=none", "baselines=false", "bootstrap=30", "batch_size=12")
    found = records(folder)
    expected = {"red.": "Red", " GREEN ": "Green", "Blue": "Blue", "White.": "White", "Red": "Red"}
    assert sorted(record["text"] for record in found) == sorted(texts)
    assert all(record["written"] == expected.get(record["text"], "invalid") for record in found)
    metrics = result["rows"][0]["metrics"]
    assert metrics["invalid"] == pytest.approx(4 / 12)
    assert metrics["generated_accuracy"] == pytest.approx(np.mean([record["written"] == record["expected"] for record in found]))
    assert set(result["rows"][0]["intervals"]) == {"accuracy", "macro_f1", "top3", "generated_accuracy", "invalid"}


# Seeds and wordings.


def test_several_seeds(checkpoint: Path, run: Evaluate) -> None:
    quick = ["limit=5", "samples=0", "baselines=[majority]", "ablation=none", "bootstrap=20"]
    result, folder = run(checkpoint, *quick, "seeds=3")
    assert result["seeds"] == [0, 1, 2]
    alone = [run(checkpoint, *quick, f"seed={seed}")[0] for seed in range(3)]
    for name, row in rows_of(result).items():
        for metric, value in row["metrics"].items():
            values = [rows_of(one)[name]["metrics"][metric] for one in alone]
            assert value == pytest.approx(np.mean(values))
            assert row["deviations"][metric] == pytest.approx(np.std(values, ddof=1))
    assert [record["id"] for record in records(folder, seed=0)] != [record["id"] for record in records(folder, seed=1)]
    assert "± over seeds" in (folder / "report.html").read_text(encoding="utf-8")


def test_all_wordings(checkpoint: Path, run: Evaluate, capsys: pytest.CaptureFixture[str]) -> None:
    quick = ["limit=6", "samples=0", "baselines=false", "ablation=none", "bootstrap=0"]
    result, folder = run(checkpoint, *quick, "wordings=all")
    found = result["wordings"]
    task = build_task(read_config(ExperimentConfig, checkpoint_experiment(checkpoint)))
    assert set(found["metrics"]) == {name for name, text in task.config.wordings.items() if "<graph>" in text} != set(task.config.wordings)
    for name, metrics in found["metrics"].items():
        alone, _ = run(checkpoint, *quick, f"task.wording={name}")
        assert rows_of(alone)["Graph tokens"]["metrics"] == pytest.approx(metrics)
    values = [metrics["accuracy"] for metrics in found["metrics"].values()]
    assert found["mean"]["accuracy"] == pytest.approx(np.mean(values))
    assert found["spread"]["accuracy"] == pytest.approx(max(values) - min(values))
    assert f"Over {len(values)} wordings: Accuracy" in capsys.readouterr().out
    assert "By wording" in (folder / "report.html").read_text(encoding="utf-8")


def test_another_task_and_one_setting_of_it(checkpoint: Path, run: Evaluate) -> None:
    """Zero-shot: a checkpoint of one task is asked another; a task or dataset setting alone changes the checkpoint's own."""
    quick = ["limit=4", "samples=1", "baselines=[two_hop_cosine]", "ablation=none", "bootstrap=10"]
    result, folder = run(checkpoint, *quick, "task=link_prediction", "task.split.test=0.2")
    assert result["task"] == "link_prediction"
    assert result["main_metric"] in ("auc", "accuracy")
    assert list(rows_of(result)) == ["Graph tokens", "2-hop cosine"]
    assert result["by_homophily"] is None and result["answer_in_own_text"] is None
    assert html.unescape((folder / "report.html").read_text(encoding="utf-8")).count("in words (") == 2
    config = check_command_line(EvaluationConfig, "evaluate", [f"checkpoint={checkpoint}", "task.max_chars=9", "dataset.sampler.hops=1"])
    experiment = evaluated_experiment(config)
    own = checkpoint_experiment(checkpoint)
    assert experiment.task.max_chars == 9 and experiment.task.wordings == own["task"]["wordings"]
    assert experiment.dataset.sampler.hops == 1 and experiment.dataset.nodes == own["dataset"]["nodes"]


# What metrics.json says of the answers.


def test_analysis_follows_from_the_predictions(evaluated: tuple[dict[str, Any], Path], checkpoint: Path) -> None:
    result, folder = evaluated
    task = build_task(read_config(ExperimentConfig, checkpoint_experiment(checkpoint)))
    graph, found = task.graph, records(folder)
    right = {record["item"]: record["answer"] == record["expected"] for record in found}
    assert result["confusion"]["classes"] == sorted(LABELS)
    for i, truth in enumerate(sorted(LABELS)):
        for j, said in enumerate(sorted(LABELS)):
            expected = sum(record["expected"] == truth and record["answer"] == said for record in found)
            assert result["confusion"]["counts"][i][j] == expected
    # Every node of a ring has two neighbours.
    assert result["by_degree"] == [{"label": "2", "items": 12, "value": pytest.approx(np.mean(list(right.values())))}]
    shares = {item: np.mean([int(graph.y[n]) == int(graph.y[item]) for n in graph.neighbors(item).tolist()]) for item in right}
    groups = {"0–20 %": (0, 0.2), "40–60 %": (0.4, 0.6), "80–100 %": (0.8, 1.01)}  # noqa: RUF001
    expected = {label: [right[i] for i, share in shares.items() if low <= share < high] for label, (low, high) in groups.items()}
    assert {group["label"]: (group["items"], group["value"]) for group in result["by_homophily"]} == {
        label: (len(values), pytest.approx(np.mean(values))) for label, values in expected.items() if values
    }
    # The text of every node names its class.
    assert result["answer_in_own_text"] == 1.0
    assert result["leakage"] == {"checked": 12, "findings": []}


def test_leaks_are_reported_or_refused(checkpoint: Path, run: Evaluate, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    from graphgpt.prompts.instruction import Message
    from graphgpt.tasks.node_classification import NodeClassification

    honest = NodeClassification.instruction

    def leaky(self: NodeClassification, item: int, **arguments: Any) -> Any:
        found = honest(self, item, **arguments)
        question, answer = found.messages
        return replace(found, messages=(Message("user", *question.content, f" A neighbor is {answer.text.upper()}!"), answer))

    monkeypatch.setattr(NodeClassification, "instruction", leaky)
    quick = ["limit=null", "samples=0", "baselines=false", "ablation=none", "bootstrap=0"]
    result, folder = run(checkpoint, *quick)
    [finding] = result["leakage"]["findings"]
    assert finding["kind"] == "answer"
    assert finding["ids"] == [record["id"] for record in records(folder)]
    assert "in 12 of 12 samples" in finding["sentence"]
    assert "Leakage: The answer stands in the prompt" in html.unescape((folder / "report.html").read_text(encoding="utf-8"))
    with pytest.raises(DataError, match=r"^leakage: The answer stands in the prompt.* in 12 of 12 samples, the first is 'n\d+'\.$"):
        run(checkpoint, *quick, "leakage=error")
    assert run(checkpoint, *quick, "leakage=off")[0]["leakage"] is None


# Shards.


@pytest.fixture(scope="module")
def shards(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """An evaluation in three shards."""
    folder = tmp_path_factory.mktemp("shards")
    settings = ["limit=11", "samples=2", "max_new_tokens=3", "bootstrap=30", "baselines=[majority,sgc]", "seeds=2"]
    for i in (1, 2, 3):
        model, task, config = loaded([f"checkpoint={checkpoint}", *settings, f"shard={i}/3"])
        evaluate(model, task, config, folder / f"s{i}")
    model, task, config = loaded([f"checkpoint={checkpoint}", *settings])
    evaluate(model, task, config, folder / "whole")
    return [folder / f"s{i}" for i in (1, 2, 3)]


def test_gathered_shards_are_the_whole(shards: list[Path]) -> None:
    out = shards[0].parent / "joined"
    main(["gather", str(shards[2]), str(shards[0]), str(shards[1]), "--out", str(out)])
    assert {path.name for path in out.iterdir()} == {"predictions.jsonl", "metrics.json", "report.html", "config.yaml"}
    joined, whole = (json.loads((folder / "metrics.json").read_text()) for folder in (out, shards[0].parent / "whole"))
    for ours, theirs in zip(joined["rows"], whole["rows"], strict=True):
        assert ours["name"] == theirs["name"]
        assert ours["metrics"] == pytest.approx(theirs["metrics"])
        assert ours["deviations"] == pytest.approx(theirs["deviations"])
    assert joined["shard"] is None
    for variant in ("none", "no_graph"):
        assert [r["id"] for r in records(out, variant=variant)] == [r["id"] for r in records(out.parent / "whole", variant=variant)]
    with pytest.raises(GraphGPTError, match=r"joined exists already; choose another name with --out\.$"):
        gather(shards, out)


def test_shards_that_do_not_make_a_whole(shards: list[Path], tmp_path: Path) -> None:
    import shutil

    one, two, three = shards
    copied = Path(shutil.copytree(two, tmp_path / "copied"))

    def refused(folders: list[Path], sentence: str) -> None:
        with pytest.raises(GraphGPTError, match=sentence):
            gather(folders, tmp_path / "out")
        assert not (tmp_path / "out").exists()

    refused([one, three], r"^Shard 2/3 is missing \(1 of 3 are\)\.$")
    refused([one, two, three, copied], r"^Shard 2/3 is given twice: .*s2 and .*copied\.$")
    refused([one.parent / "whole"], r"whole holds a whole evaluation, not a shard")
    (tmp_path / "empty").mkdir()
    refused([tmp_path / "empty"], r"is no run folder of an evaluation: it has no config\.yaml\.$")
    lines = (copied / "predictions.jsonl").read_text().splitlines(keepends=True)
    (copied / "predictions.jsonl").write_text("".join(lines[1:]))
    refused([one, copied, three], r"^Sample 'n\d+' \(Graph tokens, seed 0\) is missing; 1 of 11 are in no shard\.$")
    (copied / "predictions.jsonl").write_text("".join([*lines, lines[0]]))
    refused([one, copied, three], rf"line {len(lines) + 1}: sample 'n\d+' \(Graph tokens, seed 0\) was there already, in .*line 1\.$")
    (copied / "predictions.jsonl").write_text("".join([lines[0][:40] + "\n", *lines[1:]]))
    refused([one, copied, three], r"predictions\.jsonl, line 1: cannot be read as a prediction")
    (copied / "predictions.jsonl").write_text((one / "predictions.jsonl").read_text())
    refused([one, copied, three], r"was there already")
    (copied / "config.yaml").write_text((two / "config.yaml").read_text().replace("limit: 11", "limit: 10"))
    refused([one, copied, three], r"^.*copied does not belong to .*s1: it has limit=10, not 11\.$")


# Other models in the same table.


def test_another_model_on_the_same_items(data: list[str], checkpoint: Path, run: Evaluate, tmp_path: Path) -> None:
    """Such as one that learned from text alone: its row is that of its own evaluation."""
    quick = ["limit=8", "samples=0", "baselines=false", "ablation=none"]
    folder = tmp_path / "text_only"
    steps = ["runner.max_steps=2", "runner.global_batch_size=4", "runner.micro_batch_size=4"]
    train(folder, [*data, "task=node_classification", "task.wording=text_only", "model/lora=default", *steps])
    alone, evaluation = run(folder, *quick)
    result, _ = run(checkpoint, *quick, f"compare={{Text only: {evaluation}}}")
    row, expected = rows_of(result)["Text only"], json.loads(json.dumps(alone["rows"][0]))
    assert (row["metrics"], row["intervals"]) == (expected["metrics"], expected["intervals"])
    assert (row["note"], row["is_model"]) == (f"evaluated in {evaluation}", False)


def test_what_cannot_be_compared(checkpoint: Path, matching_checkpoint: Path, run: Evaluate, tmp_path: Path) -> None:
    quick = ["samples=1", "baselines=false", "ablation=none", "max_new_tokens=1"]
    _, other_items = run(checkpoint, *quick, "limit=4")
    _, other_task = run(matching_checkpoint, *quick, "limit=4")
    with pytest.raises(DataError, match=r"^compare.a: .* has task='graph_matching', expected 'node_classification' as here\.$"):
        run(checkpoint, *quick, f"compare.a={other_task}")
    with pytest.raises(DataError, match=r"^compare.a: .* asked about 4 items, 4 of them among the 8 of this evaluation; give both"):
        run(checkpoint, *quick, "limit=8", f"compare.a={other_items}")
    with pytest.raises(ConfigError, match=r"compare.a: .* is no run folder of an evaluation: it has no predictions.jsonl\."):
        run(checkpoint, *quick, f"compare.a={tmp_path / 'nowhere'}")
