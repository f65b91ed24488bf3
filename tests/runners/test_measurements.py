"""What is logged beside the loss: speed, waiting, memory, the tasks of a mixture, and what the model writes."""

import io
import itertools
import json
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import csv_overrides
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from test_training import Trained, finish, run, tensors

from graphgpt.assembly import build_task
from graphgpt.checkpoints.folder import read_history
from graphgpt.config.compatibility import logged_metrics
from graphgpt.config.experiment import EvaluationConfig
from graphgpt.errors import GraphGPTError
from graphgpt.files.records import read_lines
from graphgpt.runners.training.data import Examples, mix, spread
from graphgpt.runners.training.progress import progress_bar
from graphgpt.runs.runs import SampleLine, read_metrics

Train = Callable[..., Trained]
MIXTURE = ["experiment=stage2/mixture", "start_from=null", "runner.max_steps=4", "runner.global_batch_size=4"]
VALIDATED = ["runner.val_every=2", "runner.val_samples=6", "runner.val_answers=3"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return csv_overrides(tmp_path_factory.mktemp("csv"))


@pytest.fixture(scope="module")
def mixture(data: list[str], tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return run(tmp_path_factory.mktemp("mixture"), [*data, *MIXTURE, *VALIDATED])


def test_speed_and_memory_stand_in_every_line_of_training(mixture: Trained) -> None:
    lines = [line for line in mixture.lines if "train/loss" in line]
    assert len(lines) == 4
    for line in lines:
        assert 0 < line["speed/samples_per_s"] < line["speed/tokens_per_s"]
        assert 0 < line["speed/data_wait"] < 1
        assert 0.05 < line["memory/peak_gb"] < 64
        assert line["grad_norm"] > 0
    wall = [later["time"] - earlier["time"] for earlier, later in itertools.pairwise(lines)]
    # Without a validation in between, the time of four samples is the time between two lines.
    assert 4 / lines[1]["speed/samples_per_s"] == pytest.approx(wall[0], rel=0.3, abs=0.2)
    assert 4 / lines[2]["speed/samples_per_s"] < wall[1], "validation counts as training"


def test_slow_data_show(data: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make = Examples.__getitems__

    def slow(self: Examples, keys: Any) -> Any:
        time.sleep(0.3 * len(keys))
        return make(self, keys)

    monkeypatch.setattr(Examples, "__getitems__", slow)
    done = run(tmp_path, [*data, "runner.max_steps=3", "runner.global_batch_size=2", "runner.log_every=3"])
    [line] = done.lines
    assert line["step"] == 2
    seconds = 6 / line["speed/samples_per_s"]
    assert 6 * 0.3 < line["speed/data_wait"] * seconds < seconds


def test_a_mixture_has_a_loss_for_each_task(mixture: Trained) -> None:
    for line in mixture.lines:
        kind = "train" if "train/loss" in line else "val"
        parts = [line[f"{kind}/loss/{name}"] for name in ("nodes", "links") if f"{kind}/loss/{name}" in line]
        assert min(parts) - 1e-5 <= line[f"{kind}/loss"] <= max(parts) + 1e-5
    items = spread(mixture_items(mixture), 6)
    nodes = int((items < mixture_items(mixture)[0] + count(mixture, "nodes")).sum())
    for line in mixture.lines:
        if "val/loss" in line:
            mean = (nodes * line["val/loss/nodes"] + (6 - nodes) * line["val/loss/links"]) / 6
            assert line["val/loss"] == pytest.approx(mean, rel=1e-5)
    assert 0 < nodes < 6
    curves = read_history(mixture.folder / "checkpoint")[-1]["val"]
    assert set(curves) >= {"loss", "loss of links", "loss of nodes", "accuracy of nodes", "auc of links"}
    assert curves["loss of nodes"][0] == [2, 4]


def mixture_items(done: Trained) -> torch.Tensor:
    from graphgpt.assembly import build_task

    return build_task(done.experiment).items("val")


def count(done: Trained, part: str) -> int:
    from graphgpt.assembly import build_task

    return len(build_task(done.experiment).parts[part].items("val"))  # type: ignore[attr-defined]


def test_a_plain_task_has_one_loss(data: list[str], tmp_path: Path) -> None:
    done = run(tmp_path, [*data, "runner.max_steps=1", "runner.global_batch_size=2", "runner.val_every=1", "runner.val_samples=2"])
    assert {key for line in done.lines for key in line if "loss" in key} == {"train/loss", "val/loss"}


# What the model writes.


def test_answers_of_every_validation_are_kept(mixture: Trained) -> None:
    lines = read_lines(mixture.folder / "samples.jsonl", SampleLine, "answers")
    assert [line["step"] for line in lines] == [2, 2, 2, 4, 4, 4]
    assert [line["id"] for line in lines[:3]] == [line["id"] for line in lines[3:]]
    assert {line["id"].split("/")[0] for line in lines} == {"nodes", "links"}
    for line in lines:
        assert "<graph: 3 tokens>" in line["prompt"]
        assert line["right"] == (line["answer"] == line["expected"])


def test_answers_are_those_of_the_model_and_resumed_ones_come_once(data: list[str], tmp_path: Path) -> None:
    short = ["runner.max_steps=4", "runner.global_batch_size=2", *VALIDATED, "runner.checkpoint.every_n_steps=3"]
    first = run(tmp_path, [*data, *short])
    whole = (first.folder / "samples.jsonl").read_text()
    with (first.folder / "samples.jsonl").open("a") as file:
        file.write('{"step": 4, "torn')
    shutil.rmtree(tmp_path / "checkpoint")
    run(tmp_path, [f"resume={tmp_path}"])
    assert (first.folder / "samples.jsonl").read_text() == whole
    assert [line["step"] for line in map(json.loads, whole.splitlines())] == [2, 2, 2, 4, 4, 4]


def test_without_validation_there_are_no_answers(data: list[str], tmp_path: Path) -> None:
    done = run(tmp_path, [*data, "runner.max_steps=1", "runner.global_batch_size=2"])
    assert not (done.folder / "samples.jsonl").exists()


@given(st.integers(1, 200), st.integers(1, 250))
def test_spread_items_are_different_and_even(items: int, count: int) -> None:
    found = spread(torch.arange(items), count).tolist()
    assert len(found) == min(items, count) == len(set(found))
    assert found == sorted(found)
    assert found[0] == 0
    gaps = [later - earlier for earlier, later in itertools.pairwise(found)]
    assert max(gaps, default=0) - min(gaps, default=0) <= 1


# The report.


def test_the_report_shows_curves_speed_and_answers(mixture: Trained) -> None:
    page = (mixture.folder / "report.html").read_text()
    for words in (
        "Training stage2 on csv",
        "Validation: loss of nodes",
        "Training loss of links",
        "Gradient norm, before clipping",
        "Samples per second",
        "Waiting for data",
        "Peak memory",
        "After 2 steps",
        "After 4 steps",
        "&lt;graph: 3 tokens&gt;",
        f"python evaluate.py checkpoint={mixture.folder}",
    ):
        assert words in page, words


def test_the_report_needs_no_network_and_fits_a_phone(mixture: Trained) -> None:
    from test_report import Page

    html = (mixture.folder / "report.html").read_text()
    page = Page(html)
    assert page.open == []
    loaded = [
        value or "" for _, attrs in page.tags for key, value in attrs.items() if key in ("src", "href", "xlink:href", "srcset", "data")
    ]
    assert loaded and all(link.startswith("#") for link in loaded)
    assert "@import" not in html and "url(http" not in html
    assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in page.tags
    assert not [attrs for tag, attrs in page.tags if tag in ("svg", "table") and "px" in (attrs.get("width") or "")]


def test_a_report_of_an_unvalidated_run(data: list[str], tmp_path: Path) -> None:
    done = run(tmp_path, [*data, "runner.max_steps=1", "runner.global_batch_size=2"])
    page = (done.folder / "report.html").read_text()
    assert "1 step; the training loss went" in page
    assert "Samples" not in page.split("<nav")[1].split("</nav>")[0]


# Several processes.


def test_two_processes_log_what_one_does(data: list[str], mixture: Trained, tmp_path: Path) -> None:
    # Adam divides by the gradient's own size: where that is a rounding error, so is the step's direction.
    plain = ["runner.optimizer._target_=torch.optim.SGD", "runner.lr.projector=0.1", "runner.lr.tokens=0.1", "callbacks=ema"]
    two = ["runner/strategy=ddp", "runner.devices=2", *plain]
    folder = tmp_path / "two"
    finish(tmp_path, *data, *MIXTURE, *VALIDATED, *two, f"hydra.run.dir={folder}")
    alone = run(tmp_path / "alone", [*data, *MIXTURE, *VALIDATED, *plain])
    lines = read_metrics(folder)
    assert [line["step"] for line in lines] == [line["step"] for line in alone.lines]
    for line, other in zip(lines, alone.lines, strict=True):
        assert {key for key in line if "loss" in key} == {key for key in other if "loss" in key}
        for key in line:
            if "loss" in key:
                assert line[key] == pytest.approx(other[key], rel=1e-4), key
        assert line.keys() == other.keys()
    expected = tensors(alone.folder)
    for name, tensor in tensors(folder).items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-4, atol=1e-5)
    assert len(read_lines(folder / "samples.jsonl", SampleLine, "answers")) == 6


def test_a_run_tells_its_story(data: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings = [
        "task=node_classification",
        "runner.max_steps=9",
        "runner.global_batch_size=2",
        "runner.val_every=1",
        "runner.val_samples=6",
    ]
    settings += ["callbacks=early_stopping", "runner.callbacks.early_stopping={monitor: val/accuracy, patience: 2}"]
    with caplog.at_level("INFO", logger="graphgpt.runners"):
        done = run(tmp_path, [*data, *settings, "runner.checkpoint.monitor=val/accuracy", "runner.lr={projector: 1e-9, tokens: 1e-9}"])
    story = [record.message for record in caplog.records]
    assert [line for line in story if line.startswith("Data: csv, 42 nodes")] and [line for line in story if line.startswith("Trains: ")]
    validated = [line for line in done.lines if "val/accuracy" in line]
    assert [set(line) >= {"val/loss", "val/accuracy", "val/macro_f1"} for line in validated] == [True] * 3
    assert not any("val/top3" in line for line in validated)  # of three classes
    told = [line for line in story if line.startswith("Step ")]
    assert told[0].startswith(f"Step 1 of 9: val/loss {validated[0]['val/loss']:.4g}, val/accuracy ")
    assert ["best so far" in line for line in told] == [True, False, False]
    [end] = [line for line in story if line.startswith("Stopped early, after step 3 of 9: ")]
    assert "val/accuracy did not improve" in end
    assert story[-1] == f"Saved {tmp_path}/checkpoint and {tmp_path}/best"


def test_what_is_watched_and_not_defined_here_is_said(data: list[str], tmp_path: Path) -> None:
    settings = ["task=node_classification", "runner.max_steps=1", "runner.val_every=1", "runner.val_samples=1"]
    sentence = (
        r"^'val/top3' is watched, but not defined on 1 validation sample: the right answers are all alike, "
        r"or the top three are all there are; raise runner.val_samples, or watch val/loss\.$"
    )
    with pytest.raises(GraphGPTError, match=sentence):
        run(tmp_path, [*data, *settings, "runner.checkpoint.monitor=val/top3"])


def test_validation_scores_are_those_of_an_evaluation(data: list[str], tmp_path: Path) -> None:
    done = run(tmp_path, [*data, "task=link_prediction", "runner.max_steps=1", "runner.val_every=1", "runner.val_samples=12"])
    [line] = [line for line in done.lines if "val/auc" in line]
    task = build_task(done.experiment)
    items = spread(task.items("val"), 12).tolist()
    asked = [task.instruction(item, seed=mix(done.experiment.seed + 1, 0, item), training=False) for item in items]
    settings = EvaluationConfig(name="evaluate", checkpoint="")
    expected = task.metrics([*done.model.eval().predictions(task.candidates, asked, settings)])
    assert {name: line[f"val/{name}"] for name in expected} == pytest.approx(expected)
    assert set(expected) == {metric.name for metric in task.measures(task.config)}


def test_parts_of_a_mixture_are_scored_by_themselves(data: list[str], tmp_path: Path) -> None:
    done = run(tmp_path, [*data, *MIXTURE, *VALIDATED, "runner.max_steps=2", "runner.val_samples=20"])
    known = logged_metrics(done.experiment.model, done.experiment.task, done.experiment.runner)
    logged = {name for line in done.lines for name in line if name.startswith("val/")}
    assert {"val/accuracy/nodes", "val/auc/links"} <= logged
    three = {"val/top3/nodes"}  # of three classes it is not defined
    assert logged == {name for name in known if name.startswith("val/")} - three


@pytest.mark.parametrize("width", [60, 80, 140])
def test_the_counters_fit_into_any_terminal(width: int) -> None:
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    bar = progress_bar(console)
    figures = "loss 5.646 (running mean)  123.4 samples/s  12,345 tokens/s"
    with bar:
        bar.add_task("node_classification", total=280, completed=140, figures=figures)
    line = re.sub(r"\x1b\[[^a-zA-Z]*[a-zA-Z]", "", console.file.getvalue()).splitlines()[-1]  # type: ignore[attr-defined]
    assert "node_classification" in line and "140/280" in line and "left" in line and len(line) <= width
    assert (figures in line) == (width == 140)


def test_lines_do_not_wrap_in_a_pipe(data: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path, [*data, "task=node_classification", "runner.max_steps=1", "runner.global_batch_size=2"])
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("node_classification 1/1")]
    assert "(running mean)" in line and line.rstrip().endswith(" s")
