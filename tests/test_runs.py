"""``graphgpt runs``: what differs between runs, means over seeds, and the files it writes."""

import csv
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from graphgpt.cli.main import main
from graphgpt.errors import GraphGPTError
from graphgpt.runs.page import duration, with_deviation
from graphgpt.runs.runs import FAILED, FINISHED, STOPPED, UNFINISHED, Run, changes, compare, find_runs, objective, sort

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """``write(name, state="finished", seed=0, projector="linear", lr=1.0, ...)``: a run folder as train.py leaves it."""

    def write(
        name: str,
        state: str = FINISHED,
        *,
        seed: int = 0,
        projector: str = "linear",
        lr: float = 1.0,
        loss: float = 2.0,
        scores: dict[str, float] | None = None,
        **more: Any,
    ) -> Path:
        folder = tmp_path / name
        folder.mkdir(parents=True)
        mlp = {"hidden": 64} if projector == "mlp" else {}
        settings = {
            "name": "stage2",
            "seed": seed,
            "model": {"projector": {"name": projector, **mlp}, "lora": {"rank": 4}},
            "runner": {"name": "lightning", "lr": {"lora": lr}, "threads": seed + 1},
            "resume": None,
            **more,
        }
        (folder / "config.yaml").write_text(yaml.safe_dump(settings))
        lines = [{"step": step, "train/loss": loss + 1 / (step + 1), "time": 100.0 + step} for step in range(3)]
        lines.append({"step": 2, "val/loss": loss, "time": 103.0})
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        if state == FINISHED:
            checkpoint = folder / "checkpoint"
            checkpoint.mkdir()
            (checkpoint / "config.yaml").write_text(yaml.safe_dump(settings))
            (checkpoint / "manifest.json").write_text("{}")
            curves = {"name": "node_classification", "steps": [], "loss": [], "val": {}}
            history = [{**curves, "seconds": 999, "facts": {}}, {**curves, "seconds": 75.0, "facts": {"Trainable parameters": "12,345"}}]
            (checkpoint / "history.json").write_text(json.dumps(history))
            if scores:
                entry = {"task": "node_classification", "graph": "toy", "split": "test", "items": 9, "metrics": scores, "evaluation": "e"}
                (checkpoint / "scores.json").write_text(json.dumps([entry]))
        if state == FAILED:
            (folder / "error.txt").write_text('Traceback (most recent call last):\n  File "a.py"\nValueError: bad [thing]\n')
        if state == STOPPED:
            (folder / "pruned.txt").write_text("val/loss 9 after step 3, worse than the median\n")
        return folder

    return write


FACTS = {"task": "t", "graph": "g", "split": "test", "items": 9, "main_metric": "accuracy"}


@pytest.fixture
def six(write: Write, tmp_path: Path) -> Path:
    """Two projectors by three seeds."""
    for number, (projector, seed) in enumerate((projector, seed) for projector in ("linear", "mlp") for seed in range(3)):
        better = 0.1 if projector == "mlp" else 0.0
        write(f"{number}", projector=projector, seed=seed, loss=2 - better, scores={"accuracy": 0.7 + better + 0.01 * seed})
    return tmp_path


def command(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    code = 0
    try:
        main(["runs", *arguments])
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else 0
    printed = capsys.readouterr()
    return code, printed.out + printed.err


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


def test_what_a_run_folder_says(write: Write, tmp_path: Path) -> None:
    write("a", scores={"accuracy": 0.5, "macro_f1": 0.4})
    [one] = find_runs(tmp_path)
    assert one.folder == tmp_path / "a"
    assert one.state == FINISHED
    assert one.scores == {"accuracy": 0.5, "macro_f1": 0.4, "val/loss": 2.0, "train/loss": pytest.approx(2 + 1 / 3)}
    assert (one.seconds, one.parameters, one.error) == (75.0, 12345, "")
    assert one.settings["model.projector.name"] == "linear"
    assert objective(one.folder) == 2.0


def test_runs_that_did_not_finish(write: Write, tmp_path: Path) -> None:
    write("a", UNFINISHED)
    write("b", FAILED)
    write("c", STOPPED)
    runs = find_runs(tmp_path)
    assert [one.state for one in runs] == [UNFINISHED, FAILED, STOPPED]
    assert [one.error for one in runs] == ["", "ValueError: bad [thing]", "val/loss 9 after step 3, worse than the median"]
    assert [one.seconds for one in runs] == [3.0, 3.0, 3.0]
    assert [one.parameters for one in runs] == [None, None, None]


def test_folders_come_in_the_order_of_their_numbers(write: Write, tmp_path: Path) -> None:
    for name in ("10", "9", "2", "1-seed0"):
        write(name)
    (tmp_path / "2" / ".hydra").mkdir()
    (tmp_path / "2" / ".hydra" / "config.yaml").write_text("seed: 0\n")
    assert [one.folder.name for one in find_runs(tmp_path)] == ["1-seed0", "2", "9", "10"]


def test_evaluations_are_compared_where_nothing_was_trained(write: Write, tmp_path: Path) -> None:
    folder = tmp_path / "evaluations" / "a"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("checkpoint: runs/a\nseed: 0\nsplit: test\n")
    rows = [{"name": "Graph tokens", "metrics": {"macro_f1": 0.5, "accuracy": 0.6}}]
    (folder / "metrics.json").write_text(json.dumps({**FACTS, "rows": rows}))
    [one] = find_runs(tmp_path)
    assert list(one.scores) == ["accuracy", "macro_f1"]
    assert one.state == FINISHED
    assert objective(folder) == 0.6
    write("b")
    assert [one.folder.name for one in find_runs(tmp_path)] == ["b"]


def test_only_what_differs_and_leads_elsewhere(six: Path) -> None:
    comparison = compare(find_runs(six))
    # The hidden width comes along with the mlp; threads, seed and names are no difference.
    assert comparison.keys == {"model.projector.name": "projector"}
    assert comparison.scores == ["accuracy", "val/loss", "train/loss"]


def test_groups_are_equal_but_for_the_seed(six: Path) -> None:
    groups = compare(find_runs(six)).groups
    assert [[one.folder.name for one in group.runs] for group in groups] == [["0", "1", "2"], ["3", "4", "5"]]
    assert groups[1].means["accuracy"] == pytest.approx(0.81)
    assert groups[1].deviations["accuracy"] == pytest.approx(0.01)
    assert with_deviation(groups[1], "accuracy") == "0.810 ± 0.010"


def test_means_are_of_finished_runs(write: Write, tmp_path: Path) -> None:
    write("a", loss=1)
    write("b", seed=1, loss=3)
    write("c", UNFINISHED, seed=2, loss=50)
    [group] = compare(find_runs(tmp_path)).groups
    assert group.means["val/loss"] == 2


def test_short_names_stay_apart() -> None:
    def one(**settings: Any) -> Run:
        return Run(folder=Path("a"), settings={key.replace("__", "."): value for key, value in settings.items()}, state=FINISHED, scores={})

    runs = [one(model__lora__rank=1, runner__lr__lora=1, runner__rank=1), one(model__lora__rank=2, runner__lr__lora=2, runner__rank=2)]
    assert compare(runs).keys == {"model.lora.rank": "lora.rank", "runner.lr.lora": "lr.lora", "runner.rank": "runner.rank"}


def test_short_names_are_those_of_no_other_setting() -> None:
    """Also of one that does not differ. A choice has its group's name, ahead of values that end so."""
    same = {"model.lora.rank": 4, "model.projector.name": "mlp", "dataset.sampler.hops": 2, "task.name": "a"}
    differing = ("runner.lr.lora", "runner.lr.projector", "runner.lr.other", "model.tower.hops", "model.tower.name", "runner.max_steps")
    runs = [Run(folder=Path("a"), settings=same | dict.fromkeys(differing, value), state=FINISHED, scores={}) for value in "xy"]
    assert [*compare(runs).keys.values()] == ["lr.lora", "lr.projector", "lr.other", "tower.hops", "tower", "max_steps"]
    projectors = [Run(folder=Path("a"), settings=runs[0].settings | {"model.projector.name": x}, state=FINISHED, scores={}) for x in "xy"]
    assert compare(projectors).keys == {"model.projector.name": "projector"}
    split = [Run(folder=Path("a"), settings={"split": x, "dataset.split.name": x}, state=FINISHED, scores={}) for x in "xy"]
    assert compare(split).keys == {"split": "split", "dataset.split.name": "dataset.split"}


@given(
    st.lists(
        st.tuples(st.sampled_from([1, 2, 3]), st.sampled_from(["x", "y"]), st.integers(0, 3), st.floats(-5, 5)), min_size=1, max_size=12
    )
)
def test_every_run_is_in_one_group_with_its_like(drawn: list[tuple[int, str, int, float]]) -> None:
    runs = [
        Run(folder=Path(str(i)), settings={"runner.name": "a", "a": a, "b": b, "seed": seed}, state=FINISHED, scores={"val/loss": loss})
        for i, (a, b, seed, loss) in enumerate(drawn)
    ]
    comparison = compare(runs)
    assert sorted(str(one.folder) for group in comparison.groups for one in group.runs) == sorted(str(one.folder) for one in runs)
    for group in comparison.groups:
        assert len({(one.settings["a"], one.settings["b"]) for one in group.runs}) == 1
        assert math.isclose(group.means["val/loss"], sum(one.scores["val/loss"] for one in group.runs) / len(group.runs), abs_tol=1e-9)
    assert len(comparison.groups) == len({(a, b) for a, b, _, _ in drawn})


def test_sorting(six: Path) -> None:
    comparison = compare(find_runs(six))

    def names(by: str, *, reverse: bool = False) -> list[str]:
        return [one.folder.name for one in sort(comparison, by, reverse=reverse).runs]

    assert names("accuracy") == ["5", "4", "3", "2", "1", "0"]
    assert names("accuracy", reverse=True) == ["0", "1", "2", "3", "4", "5"]
    assert names("val/loss") == ["3", "4", "5", "0", "1", "2"]
    assert names("projector") == names("model.projector.name") == ["0", "1", "2", "3", "4", "5"]
    assert names("seed") == ["0", "3", "1", "4", "2", "5"]
    assert [group.values["model.projector.name"] for group in sort(comparison, "accuracy").groups] == ["mlp", "linear"]
    with pytest.raises(GraphGPTError, match=r"^--sort: there is no 'acuracy' to sort by. Did you mean 'accuracy'\?$"):
        names("acuracy")


def test_what_has_no_value_comes_last(write: Write, tmp_path: Path) -> None:
    write("a", UNFINISHED)
    write("b", scores={"accuracy": 0.1})
    for reverse in (False, True):
        assert [one.folder.name for one in sort(compare(find_runs(tmp_path)), "accuracy", reverse=reverse).runs] == ["b", "a"]


def test_in_the_terminal(six: Path, capsys: pytest.CaptureFixture[str], write: Write) -> None:
    write("6", FAILED, projector="mlp", seed=3)
    code, printed = command(capsys, str(six))
    assert code == 0
    lines = printed.splitlines()
    assert lines[0].split() == ["run", "projector", "seed", "state", "accuracy", "val/loss", "train/loss", "time", "trained"]
    assert lines[1].split() == ["0", "linear", "0", "finished", "0.7", "2", "2.333", "75", "s", "12,345"]
    assert lines[7].split()[:4] == ["6", "mlp", "3", "failed"]
    assert lines[8].split()[:3] == ["projector", "runs", "accuracy"]
    assert lines[9].split() == ["linear", "3", "0.710", "±", "0.010", "2", "±", "0", "2.333", "±", "0", "75", "s"]
    assert lines[10].split()[:5] == ["mlp", "3", "of", "4", "0.810"]
    assert lines[-1] == "6 failed: ValueError: bad [thing]"


def test_a_narrow_terminal_shows_the_short_settings_and_names_the_others(
    write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, task in enumerate(("graph_matching", "node_classification")):
        write(str(number), lr=number + 1.0, task={"name": task, "wording": f"A long question about {task}. " * 9})
    monkeypatch.setenv("COLUMNS", "80")
    code, printed = command(capsys, str(tmp_path))
    lines = printed.splitlines()
    assert code == 0 and len(lines) == 4
    assert lines[0].split() == ["run", "lr.lora", "task", "state", "val/loss", "train/loss", "time", "trained"]
    assert lines[2].split()[:4] == ["1", "2", "node_classification", "finished"]
    assert all(len(line) <= 80 for line in lines[:3])
    assert lines[3] == "They also differ in task.wording: see --csv, --markdown or --html."


def test_a_narrow_terminal_gives_up_scores_before_the_last_setting_and_folds_names_alone(
    write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, task in enumerate(("graph_matching", "node_classification")):
        for seed in range(2):
            scores = {"accuracy": 0.5, "macro_f1": 0.25, "top3": 0.75}
            write(f"multirun/{task}/2026-11-25_10-00-0{number}/{seed}", seed=seed, lr=number + 1.0, task={"name": task}, scores=scores)
    monkeypatch.setenv("COLUMNS", "80")
    _, printed = command(capsys, str(tmp_path))
    lines = printed.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].split() == ["run", "lr.lora", "seed", "state", "accuracy", "time", "trained"]
    heads = next(line for line in lines if "runs" in line.split())
    assert heads.split()[:3] == ["lr.lora", "task", "runs"]


def test_runs_of_all_kinds_in_a_narrow_terminal(
    write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name is always there, and so is what tells the runs apart, rather than more scores or what is merely short."""
    scores = {"accuracy": 0.5, "macro_f1": 0.4, "top3": 0.9}
    for place, (tower, rank) in enumerate((("sgc", 4), ("graph_transformer", 4), ("graph_transformer", 8))):
        model = {"tower": {"name": tower}, "lora": {"rank": rank, "alpha": 16}}
        write(f"a_rather_long_name/2026-01-01_00-00-0{place}", scores=scores, model=model, start_from="a/" * 40)
    write("short/0", seed=1, scores=scores, model={"tower": {"name": "sgc"}}, start_from="b/" * 40)
    monkeypatch.setenv("COLUMNS", "80")
    code, printed = command(capsys, str(tmp_path))
    lines = printed.splitlines()
    assert code == 0 and all(len(line) <= 80 for line in lines[:-1])
    assert lines[0].split() == ["run", "rank", "tower", "seed", "state", "accuracy"]
    shown = [line.split() for line in lines[1:8]]
    assert [words[0] + more[0] for words, more in zip(shown[:6:2], shown[1:6:2], strict=True)] == [
        f"a_rather_long_name/2026-01-01_00-00-0{place}" for place in range(3)
    ]
    assert [words[1:3] for words in shown[::2]] == [["4", "sgc"], ["4", "graph_transformer"], ["8", "graph_transformer"], ["-", "sgc"]]
    assert lines[-1] == "They also differ in model.lora.alpha, start_from: see --csv, --markdown or --html."


def test_groups_that_the_shown_settings_do_not_tell_apart_go_by_their_first_run(
    write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for place, seed in ((0, 0), (0, 1), (1, 0)):
        write(f"{place}-{seed}", seed=seed, start_from=f"{'very/' * 20}long/{place}")
    monkeypatch.setenv("COLUMNS", "80")
    lines = command(capsys, str(tmp_path))[1].splitlines()
    assert lines[4].split()[:3] == ["first", "run", "runs"]
    assert [line.split()[:2] for line in lines[5:7]] == [["0-0", "2"], ["1-0", "1"]]


def test_files(six: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    files = [f"--csv={out}/a.csv", f"--markdown={out}/a.md", f"--html={out}/a.html"]
    code, printed = command(capsys, str(six), "--sort", "accuracy", *files)
    assert code == 0
    assert printed.splitlines()[-3:] == [f"Wrote {out}/a.csv", f"Wrote {out}/a.md", f"Wrote {out}/a.html"]

    with (out / "a.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["model.projector.name"], row["seed"], row["accuracy"][:4]) for row in (rows[0], rows[2])] == [
        ("mlp", "2", "0.82"),
        ("mlp", "0", "0.79"),
    ]
    assert {row["state"] for row in rows} == {FINISHED}
    assert rows[0]["folder"] == str(six / "5")

    tables = (out / "a.md").read_text().split("\n\n")
    assert tables[0].splitlines()[2].startswith("| mlp | 3 | 0.810 ± 0.010 |")
    assert len(tables[1].strip().splitlines()) == 8

    page = (out / "a.html").read_text()
    assert "Best accuracy: <b>0.810 ± 0.010</b> with projector = mlp" in page
    assert page.count("<svg") == 1
    assert "http" not in page.replace("http://www.w3.org/", "")  # opens without a network
    assert 'name="viewport"' in page


def test_the_page_shows_texts_as_they_are(write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write("a", dataset={"name": "<b>$x^2$</b>"}, loss=1)
    write("b", dataset={"name": "[red]"}, loss=2)
    code, printed = command(capsys, str(tmp_path), f"--html={tmp_path}/a.html")
    assert code == 0
    assert "[red]" in printed
    page = (tmp_path / "a.html").read_text()
    assert "<b>$x^2$" not in page
    assert page.count("&lt;b&gt;$x^2$&lt;/b&gt;") >= 2


@pytest.mark.parametrize("count", [1, 2, 8])
def test_many_things_that_vary_are_drawn_as_parallel_coordinates(write: Write, tmp_path: Path, count: int) -> None:
    from graphgpt.runs.page import write_page

    for i in range(count):
        lr = 10.0 ** -(i % 4)
        write(
            f"{i}",
            lr=lr,
            projector="mlp" if i % 2 else "linear",
            loss=1.0 + i,
            start_from=None if i % 3 else "a/very/long/path/to/some/run",
        )
    comparison = compare(find_runs(tmp_path))
    write_page(comparison, tmp_path, tmp_path / "a.html")
    page = (tmp_path / "a.html").read_text()
    assert page.count("<svg") == (count > 1)  # a single run varies in nothing
    assert f'"best">{"Best " if count > 1 else ""}val/loss: <b>1</b>' in page  # nor is it the best of any
    if count == 8:
        assert all(f">{name}<" in page for name in ("lr.lora", "projector", "start_from", "val/loss"))
        assert ">0.001<" in page


def test_scores_are_dots_on_an_axis_of_their_own(write: Write, tmp_path: Path) -> None:
    """Bars from 0 of 5.562 and 5.565 would look the same, and so would those of some accuracies."""
    from graphgpt.runs.page import write_page

    for i in range(2):
        write(str(i), projector="mlp" if i else "linear", loss=5.562 + 0.003 * i, scores={"accuracy": 0.5 + 0.1 * i})
    comparison = compare(find_runs(tmp_path))
    pages = {}
    for score in ("val/loss", "accuracy"):
        write_page(comparison, tmp_path, tmp_path / "a.html", score=score)
        pages[score] = (tmp_path / "a.html").read_text()
    assert all(f"{score} (the axis does not begin at 0)" in page for score, page in pages.items())
    assert ">5.562<" in pages["val/loss"]
    assert all(">projector<" in page for page in pages.values())


def test_nothing_to_compare(write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(capsys, str(tmp_path / "gone")) == (2, f"{tmp_path}/gone does not exist.\n")
    assert command(capsys, str(tmp_path)) == (
        2,
        f"{tmp_path} holds no run: there is no config.yaml of a training or an evaluation in it.\n",
    )
    folder = write("a")
    assert command(capsys, str(tmp_path), "--reverse") == (2, "--reverse: turns an order round; name one with --sort.\n")
    (folder / "checkpoint" / "history.json").write_text("[{")
    code, printed = command(capsys, str(tmp_path))
    assert code == 2
    assert printed.startswith(f"{folder}/checkpoint/history.json cannot be read as the history of a checkpoint: ")
    (folder / "config.yaml").write_text("a: [")
    code, printed = command(capsys, str(tmp_path))
    assert code == 2
    assert printed.startswith(f"{folder}/config.yaml cannot be read as a configuration: ")


def test_changes_are_those_that_lead_elsewhere() -> None:
    old = {"seed": 0, "resume": None, "name": "a", "runner": {"threads": 1, "checkpoint": {"keep": 1}, "lr": {"lora": 1.0}}, "gone": 1}
    new = {"seed": 0, "resume": "x", "name": "b", "runner": {"threads": 2, "checkpoint": {"keep": 2}, "lr": {"lora": 2.0}}}
    assert changes(old, new) == [("gone", 1, None), ("runner.lr.lora", 1.0, 2.0)]
    assert changes({"a": (1, 2)}, {"a": [1, 2]}) == []


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, "-"), (0.4, "0 s"), (119, "119 s"), (600, "10 min"), (3 * 3600 + 300, "3 h 05 min"), (7199, "2 h 00 min")]
)
def test_durations(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_which_end_of_a_score_is_the_good_one_is_what_the_run_declares(write: Write, tmp_path: Path) -> None:
    """Sorting and the best know no name of a metric; a run that declares nothing is of before, and only of losses less is better."""
    for number, distance in enumerate((3.0, 1.0, 2.0)):
        folder = write(f"{number}", seed=0, projector=("linear", "mlp", "other")[number], scores={"distance": distance})
        file = folder / "checkpoint" / "scores.json"
        [entry] = json.loads(file.read_text())
        record = {"title": "Distance", "legend": "", "less_is_better": True, "unit": "", "of a later version": 1}
        file.write_text(json.dumps([entry | {"declared": {"distance": record}}]))
    comparison = sort(compare(find_runs(tmp_path)), "distance")
    assert [one.scores["distance"] for one in comparison.runs] == [1.0, 2.0, 3.0]
    old = write("old", seed=0, projector="third", scores={"distance": 1.0})
    assert not sort(compare([one for one in find_runs(tmp_path) if one.folder == old]), "distance").declared
    (folder / "declared.json").write_text('{"val/loss": {"title": 3}}')
    with pytest.raises(GraphGPTError, match=r"declared.json cannot be read as what the metrics of a run are: 'val/loss.title'"):
        find_runs(tmp_path)
