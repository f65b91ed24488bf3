"""``graphgpt sweep``: what is tried, what is pruned, and that nothing which finished is repeated."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers import csv_overrides

from graphgpt.cli.main import main
from graphgpt.runs.runs import FAILED, FINISHED, STOPPED, UNFINISHED, find_runs, run_state

optuna = pytest.importorskip("optuna", reason="needs the extra 'sweep'")

#: Stands for train.py, which takes many seconds to start: the same files and signals, a loss that follows from the settings.
PROGRAM = """
import json, os, signal, sys, time
from pathlib import Path

folder = Path(os.environ["GRAPHGPT_RUN_DIR"])
given = dict(argument.split("=", 1) for argument in sys.argv[1:])
with (folder / "starts.txt").open("a") as file:
    file.write(" ".join(sys.argv[1:]) + "\\n")
start = 0
if "resume" in given:
    settings = json.loads((folder / "config.yaml").read_text())
    start = max(int(file.stem.partition("=")[2]) for file in (folder / "resume").iterdir())
else:
    runner = {"name": "lightning", "lr": float(given.get("runner.lr.lora", 1))}
    settings = {"seed": int(given.get("seed", 0)), "rank": int(given.get("model.lora.rank", 0)), "runner": runner}
    (folder / "config.yaml").write_text(json.dumps(settings))
(folder / "error.txt").unlink(missing_ok=True)
stopped = []
signal.signal(signal.SIGINT, lambda *_: stopped.append(True))
if settings["rank"] == 13 and settings["seed"] == 1 and not Path("mended").exists():
    (folder / "error.txt").write_text("CUDA: out of memory.")
    sys.exit(2)
steps = 40 if Path("long").exists() else 4
for step in range(start, steps):
    loss = settings["rank"] + settings["runner"]["lr"] + 0.1 * settings["seed"] + 1 / (step + 1)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": step, "val/loss": loss, "time": float(step)}) + "\\n")
    if stopped:
        (folder / "resume").mkdir(exist_ok=True)
        (folder / "resume" / f"step={step + 1}.ckpt").touch()
        sys.exit(130)
    time.sleep(0.05)
(folder / "checkpoint").mkdir()
history = [{"name": "t", "steps": [], "loss": [], "val": {}, "seconds": 4.0, "facts": {"Trainable parameters": "1,000"}}]
(folder / "checkpoint" / "history.json").write_text(json.dumps(history))
(folder / "checkpoint" / "manifest.json").write_text("{}")
"""

Sweep = Callable[..., tuple[int, str]]


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Sweep]:
    """``sweep(*arguments)``: exit code and what was printed. The program is that of the working folder."""
    (tmp_path / "data").mkdir()
    base = [*csv_overrides(tmp_path / "data"), "model/lora=default", "runner.val_every=1"]
    (tmp_path / "train.py").write_text(PROGRAM)
    monkeypatch.setattr("graphgpt.sweeps.sweep.program", lambda name: [sys.executable, f"{name}.py"])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr("graphgpt.sweeps.sweep._PATIENCE", 0.02)

    def sweep(*arguments: str) -> tuple[int, str]:
        code = 0
        try:
            main(["sweep", *([] if "--resume" in arguments else base), *arguments])
        except SystemExit as left:
            code = left.code if isinstance(left.code, int) else 0
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    yield sweep


def starts(folder: Path) -> dict[str, list[str]]:
    """The command lines that each run folder saw."""
    return {file.parent.name: file.read_text().splitlines() for file in sorted(folder.glob("*/starts.txt"))}


def trials(folder: Path) -> list[Any]:
    return optuna.load_study(study_name="sweep", storage=f"sqlite:///{folder}/study.db").trials


def test_every_combination_once_and_the_mean_over_seeds(sweep: Sweep) -> None:
    code, printed = sweep("model.lora.rank=choice(2,4)", "seed=0,1", "--parallel", "2", "--out", "out")
    assert code == 0, printed
    names = {f"{trial}-seed{seed}" for trial in range(2) for seed in range(2)}
    assert {one.folder.name: one.state for one in find_runs(Path("out"))} == dict.fromkeys(names, FINISHED)
    assert sorted((trial.params["model.lora.rank"], round(trial.value, 3)) for trial in trials(Path("out"))) == [("2", 3.3), ("4", 5.3)]
    assert "2 settings to train, 2 at once, in out" in printed
    assert "Best: trial 0, val/loss 3.3" in printed
    assert "model.lora.rank=2 seed=0" in printed.splitlines()[-1]
    assert "3.300 ± 0.071" in printed
    assert "<svg" in Path("out/runs.html").read_text()

    before = starts(Path("out"))
    code, printed = sweep("--resume", "out")
    assert code == 0
    assert "0 settings to train" in printed
    assert "Best: trial 0" in printed
    assert starts(Path("out")) == before


def test_an_interval_is_sampled_and_more_trials_are_other_trials(sweep: Sweep) -> None:
    code, printed = sweep("runner.lr.lora=tag(log,interval(1e-4,1e-2))", "--trials", "2", "--sampler", "random", "--out", "out")
    assert code == 0, printed
    code, printed = sweep("--resume", "out", "--trials", "4")
    assert code == 0, printed
    assert "2 settings to train" in printed
    found = [trial.params["runner.lr.lora"] for trial in trials(Path("out"))]
    assert len(set(found)) == 4
    assert all(1e-4 <= rate <= 1e-2 for rate in found)
    assert all(len(lines) == 1 for lines in starts(Path("out")).values())
    assert json.loads(Path("out/sweep.json").read_text())["trials"] == 4


def test_a_setting_that_comes_up_again_is_not_trained_again(sweep: Sweep) -> None:
    code, printed = sweep("model.lora.rank=1,2", "--trials", "4", "--out", "out")
    assert code == 0, printed
    assert "the same as trial" in printed
    assert len(trials(Path("out"))) == 4
    assert len(starts(Path("out"))) == 2


def test_ranges_are_ordered_and_integers_stay_integers(sweep: Sweep) -> None:
    code, printed = sweep("model.lora.rank=range(2,9,3)", "--out", "grid")
    assert code == 0, printed
    assert [trial.params["model.lora.rank"] for trial in trials(Path("grid"))] == [2, 5, 8]
    code, printed = sweep("model.lora.rank=int(interval(2,9))", "--trials", "2", "--out", "drawn")
    assert code == 0, printed
    assert all(isinstance(trial.params["model.lora.rank"], int) for trial in trials(Path("drawn")))


def test_pruning_stops_what_is_worse_than_the_median(sweep: Sweep) -> None:
    Path("long").touch()
    code, printed = sweep("model.lora.rank=1,2,9", "--prune", "2", "--out", "out")
    assert code == 0, printed
    states = {one.folder.name: one.state for one in find_runs(Path("out"))}
    assert states == {"0": FINISHED, "1": FINISHED, "2": STOPPED}
    assert "trial 2 model.lora.rank=9: pruned: val/loss" in printed
    assert "worse than the median" in Path("out/2/pruned.txt").read_text()
    assert len(Path("out/2/metrics.jsonl").read_text().splitlines()) < 40
    assert trials(Path("out"))[2].state.name == "PRUNED"


def test_a_failed_trial_ends_nothing_and_is_tried_again_where_it_was(sweep: Sweep) -> None:
    code, printed = sweep("model.lora.rank=13,2", "seed=0,1", "--out", "out")
    assert code == 0, printed
    assert "trial 0 model.lora.rank=13: failed: CUDA: out of memory." in printed
    assert "0-seed1 failed: CUDA: out of memory." in printed
    assert "Best: trial 1" in printed
    assert run_state(Path("out/0-seed1")) == FAILED

    Path("mended").touch()
    code, printed = sweep("--resume", "out")
    assert code == 0, printed
    assert "1 setting to train" in printed
    assert {one.state for one in find_runs(Path("out"))} == {FINISHED}
    assert {name: len(lines) for name, lines in starts(Path("out")).items()} == {"0-seed0": 1, "0-seed1": 2, "1-seed0": 1, "1-seed1": 1}


def test_when_every_run_fails(sweep: Sweep) -> None:
    code, printed = sweep("model.lora.rank=13", "seed=1,0", "--out", "out")
    assert code == 2
    assert printed.splitlines()[-1] == "No run of the sweep came to its end; each says why in out/*/output.log."


def interrupt_when(there: Callable[[], bool]) -> None:
    """Ctrl-C for this process, as soon as something is there."""

    def wait() -> None:
        until = time.monotonic() + 60
        while not there() and time.monotonic() < until:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=wait, daemon=True).start()


def test_interrupted_and_restarted_it_repeats_nothing_that_finished(sweep: Sweep) -> None:
    Path("long").touch()
    interrupt_when(lambda: Path("out/1/metrics.jsonl").exists() and len(Path("out/1/metrics.jsonl").read_text().splitlines()) > 3)
    code, printed = sweep("model.lora.rank=1,2,3", "--out", "out")
    assert code == 130
    assert printed.splitlines()[-1] == "Stopped. To go on: graphgpt sweep --resume out"
    assert [run_state(Path("out") / name) for name in "012"] == [FINISHED, UNFINISHED, UNFINISHED]
    done = len(Path("out/1/metrics.jsonl").read_text().splitlines())

    code, printed = sweep("--resume", "out")
    assert code == 0, printed
    assert "2 settings to train" in printed
    seen = starts(Path("out"))
    assert {name: len(lines) for name, lines in seen.items()} == {"0": 1, "1": 2, "2": 1}
    assert seen["1"][1].startswith("resume=out/1")
    steps = [json.loads(line)["step"] for line in Path("out/1/metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(40))
    assert 3 < done < 40
    assert [trial.state.name for trial in trials(Path("out"))] == ["COMPLETE"] * 3


def test_a_run_that_a_killed_sweep_left_going_is_not_started_twice(sweep: Sweep) -> None:
    assert sweep("model.lora.rank=1,2", "--out", "out")[0] == 0
    study = optuna.load_study(study_name="sweep", storage="sqlite:///out/study.db")
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, start_new_session=True) as left:
        study.ask().set_user_attr("pid", left.pid)
        code, printed = sweep("--resume", "out")
        left.communicate(b"\n")
    assert code == 2
    assert printed.splitlines()[-1] == f"Trial 2 is still running as process {left.pid}, left by a sweep that was killed; end it first."


def test_one_sweep_at_a_time(sweep: Sweep) -> None:
    from filelock import FileLock

    assert sweep("model.lora.rank=1,2", "--out", "out")[0] == 0
    with FileLock("out/.lock"):
        assert sweep("--resume", "out") == (2, "out is being worked on by another graphgpt sweep.\n")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "there is nothing to sweep over; give a key several values, such as model.lora.rank=4,8,16."),
        (["model.lora.rnak=1,2"], "model.lora.rnak: unknown key. Did you mean 'model.lora.rank'?"),
        (["model/projector=linear,mpl"], "model/projector: there is no 'mpl'. Did you mean 'mlp'?"),
        (["runner.lr.lora=interval(1e-4,1e-2)"], "--trials: an interval has no end of values; say how many to try, such as --trials 20."),
        (["runner.lr.lora=tag(log,interval(0,1))", "--trials", "2"], "runner.lr.lora: 0.0 does not fit: input should be greater than 0."),
        (["model.lora.rank=int(interval(8,2))", "--trials", "2"], "'model.lora.rank=int(interval(8,2))': an interval needs low <= high."),
        (["seed=interval(0,9)"], "seed: each setting is trained with every seed, so they must be listed, such as seed=0,1,2."),
        (["seed=0,1", "runner.val_every=0"], "--metric: 'val/loss' comes of validation; set runner.val_every."),
        (["seed=0,1", "--trials", "0"], "--trials: 0 does not fit: input should be greater than or equal to 1."),
        (
            ["seed=0,1", "hydra.sweep.dir=x"],
            "hydra and resume: are for graphgpt train -m; graphgpt sweep starts its runs itself, see --parallel and --resume.",
        ),
        (
            ["seed=0,1", "runner.num_nodes=2", "runner/strategy=ddp"],
            "runner.num_nodes: 2, but graphgpt sweep starts its runs on this machine alone.",
        ),
    ],
)
def test_what_cannot_work_is_said_before_anything_starts(sweep: Sweep, tmp_path: Path, arguments: list[str], sentence: str) -> None:
    code, printed = sweep(*arguments, "--out", "out")
    assert code == 2
    assert printed == f"1 problem in the configuration:\n  1. {sentence}\n"
    assert not Path("out").exists()


def test_folders_that_do_not_fit(sweep: Sweep, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    assert sweep("seed=0,1", "--out", "out") == (
        2,
        "out exists already; choose another --out, or go on with it: graphgpt sweep --resume out\n",
    )
    assert sweep("--resume", "out") == (2, "out is no sweep's folder: it has no sweep.json.\n")
    (tmp_path / "out" / "sweep.json").write_text('{"program": "train", "overrides": ["seed=0,1"]}')
    assert sweep("--resume", "out") == (2, "--resume out: was started by python train.py -m; use python train.py -m resume=out\n")
    assert sweep("--resume", "out", "seed=0,1") == (
        2,
        "--resume out: takes the command line that started the sweep; leave settings and --out out.\n",
    )


def test_a_shipped_search(sweep: Sweep) -> None:
    code, printed = sweep("sweep=lora", "--trials", "1", "--out", "out")
    assert code == 0, printed
    [trial] = trials(Path("out"))
    assert sorted(trial.params) == ["model.lora.rank", "runner.lr.lora"]
    assert trial.params["model.lora.rank"] in ("4", "8", "16", "32")


def test_a_shipped_sweep_gives_the_seeds(sweep: Sweep) -> None:
    code, printed = sweep("sweep=seeds", "--out", "out")
    assert code == 0, printed
    assert sorted(starts(Path("out"))) == ["0-seed0", "0-seed1", "0-seed2"]
    assert yaml.safe_load(Path("out/0-seed2/config.yaml").read_text())["seed"] == 2
