"""``train.py -m``: what is refused before it starts, one folder per run, and that a restarted sweep repeats nothing."""

import contextlib
import importlib.util
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from helpers import csv_overrides
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from graphgpt.checkpoints.card import read_scores
from graphgpt.cli.train import main
from graphgpt.config.composition import register_resolvers
from graphgpt.config.experiment import ExperimentConfig
from graphgpt.config.grammar import quoted
from graphgpt.launch.program import launch
from graphgpt.machine.processors import processors
from graphgpt.runs.runs import FAILED, FINISHED, UNFINISHED, find_runs, run_state

ROOT = Path(__file__).parents[1]
WAIT = 400  # seconds that a process may take on a busy machine

Train = Callable[..., tuple[int, str]]


def installed(package: str) -> bool:
    return importlib.util.find_spec(f"hydra_plugins.{package}") is not None if importlib.util.find_spec("hydra_plugins") else False


@pytest.fixture
def base(tmp_path: Path) -> list[str]:
    """A run of four steps, saved after every one."""
    (tmp_path / "data").mkdir()
    short = ["runner.max_steps=4", "runner.global_batch_size=2", "runner.val_every=2", "runner.val_samples=4"]
    return [*csv_overrides(tmp_path / "data"), *short, "runner.checkpoint.every_n_steps=1", "runner.loggers={}"]


@pytest.fixture
def train(base: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[Train]:
    """``train(*arguments)``: train.py in this process; exit code and what was printed. Logging is as before afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    root = logging.getLogger()
    before = root.handlers[:], root.level

    def train(*arguments: str) -> tuple[int, str]:
        started_anew = any(argument.startswith("resume=multirun") for argument in arguments)
        monkeypatch.setattr(sys, "argv", ["train.py", "-m", *([] if started_anew else base), *arguments])
        code = 0
        try:
            main()
        except SystemExit as left:
            code = left.code if isinstance(left.code, int) else 0
        finally:
            GlobalHydra.instance().clear()
            HydraConfig.instance().cfg = None
            root.handlers[:], root.level = before
        printed = capfd.readouterr()
        return code, printed.out + printed.err

    yield train


def the_sweep() -> Path:
    """The only sweep's folder."""
    [file] = Path("multirun").rglob("sweep.json")
    return file.parent


def written(folder: Path) -> dict[str, int]:
    """When each finished run below a folder wrote its checkpoint."""
    return {
        one.folder.name: (one.folder / "checkpoint/manifest.json").stat().st_mtime_ns for one in find_runs(folder) if one.state == FINISHED
    }


def interrupt_when(there: Callable[[], bool]) -> None:
    """Ctrl-C for this process, as soon as something is there."""

    def wait() -> None:
        until = time.monotonic() + WAIT
        while not there() and time.monotonic() < until:
            time.sleep(0.002)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=wait, daemon=True).start()


def test_interrupted_and_restarted_a_sweep_repeats_nothing_that_finished(train: Train) -> None:
    interrupt_when(lambda: any(len(file.read_text().splitlines()) > 2 for file in Path().glob("multirun/*/*/1/metrics.jsonl")))
    code, printed = train("seed=0,1,2")
    assert code == 130, printed
    folder = the_sweep()
    assert f"To go on with the sweep: python train.py -m resume={folder}" in printed
    assert [run_state(folder / name) for name in "012"] == [FINISHED, UNFINISHED, UNFINISHED]
    before = written(folder)
    begun = [json.loads(line) for line in (folder / "1" / "metrics.jsonl").read_text().splitlines()]

    code, printed = train("seed=0,1,2", "resume=auto")
    assert code == 0, printed
    assert f"resume=auto: going on with {folder}" in printed
    assert f"{folder.absolute() / '0'}: done already" in printed
    after = written(folder)
    assert after.keys() == {"0", "1", "2"}
    assert after["0"] == before["0"]
    lines = [json.loads(line) for line in (folder / "1" / "metrics.jsonl").read_text().splitlines()]
    assert lines[0] == begun[0]  # with its time: it was not trained again
    assert [line["step"] for line in lines if "train/loss" in line] == [0, 1, 2, 3]
    assert "± is the standard deviation over seeds." in printed
    assert "<svg" in (folder / "runs.html").read_text()

    code, printed = train(f"resume={folder}")
    assert code == 0, printed
    assert written(folder) == after
    assert train("seed=0,1,2", "resume=auto", "runner.max_steps=0")[0] == 2  # nothing to go on with, and wrong


def test_a_run_that_fails_ends_no_other(train: Train, base: list[str]) -> None:
    [nodes] = [override.partition("=")[2] for override in base if override.startswith("dataset.nodes=")]
    broken = Path(nodes).with_name("broken.csv")
    broken.write_text("id,title\nn1\n")
    code, printed = train(f"dataset.nodes={broken},{nodes}")
    assert code == 1
    folder = the_sweep()
    assert [run_state(folder / name) for name in "01"] == [FAILED, FINISHED]
    sentence = (folder / "0" / "error.txt").read_text()
    assert str(broken) in sentence and "Traceback" not in sentence
    assert f"1 of 2 runs failed, 0 are unfinished. To try them again: python train.py -m resume={folder}" in printed
    assert "0 failed:" in printed

    broken.write_text(Path(nodes).read_text())
    before = written(folder)
    code, printed = train(f"resume={folder}")
    assert code == 0, printed
    assert [run_state(folder / name) for name in "01"] == [FINISHED, FINISHED]
    assert written(folder)["1"] == before["1"]
    assert not (folder / "0" / "error.txt").exists()


def test_a_folder_with_another_sweep_is_left_alone(train: Train) -> None:
    assert train("seed=1", "runner.max_steps=1", "hydra.sweep.dir=mine")[0] == 0
    before = written(Path("mine"))
    code, printed = train("seed=5", "runner.max_steps=1", "hydra.sweep.dir=mine")
    assert code == 2
    assert "mine/0 holds a run with seed=1, not 5; choose another folder for this sweep (hydra.sweep.dir)." in printed
    assert written(Path("mine"))["0"] == before["0"]


def test_a_value_given_replaces_that_of_a_shipped_sweep(base: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = launched(monkeypatch, *base, "sweep=seeds", "seed=7", "name=mine")
    assert "seed=7" in arguments and "++seed=7" not in arguments
    assert "++name=mine" in arguments


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["seed=0,x"], "seed: 'x' does not fit: input should be a valid integer, unable to parse string as an integer."),
        (["model/projector=linear,mpl"], "model/projector: there is no 'mpl'. Did you mean 'mlp'?"),
        (
            ["model/projector=linear,mlp", "runner.max_steps=1,0"],
            "runner.max_steps: 0 does not fit: input should be greater than or equal to 1.",
        ),
        (
            ["sweep=lora"],
            "'runner.lr.lora=tag(log, interval(1e-4, 5e-3))': an interval has no end of values; "
            "list some, or let graphgpt sweep choose (--trials 20).",
        ),
        (["sweep=seeds", "hydra/launcher=jobib"], "hydra/launcher: there is no 'jobib'. Did you mean 'joblib'?"),
        (
            ["seed=0,1", "runner/strategy=ddp", "runner.devices=2"],
            "runner.devices: a sweep (-m) cannot start 2 processes per run, since each of them would run the whole sweep; "
            "use graphgpt sweep, which starts every run afresh, "
            "or hydra/launcher=submitit_slurm hydra.launcher.tasks_per_node=2 hydra.launcher.nodes=1.",
        ),
    ],
)
def test_every_value_is_checked_before_the_first_run(train: Train, arguments: list[str], sentence: str) -> None:
    assert train(*arguments) == (2, f"1 problem in the configuration:\n  1. {sentence}\n")
    assert not Path("multirun").exists()


@pytest.mark.parametrize(
    ("group", "plugin", "extra", "package"),
    [
        ("hydra/launcher", "joblib", "joblib", "hydra_joblib_launcher"),
        ("hydra/launcher", "submitit_local", "slurm", "hydra_submitit_launcher"),
        ("hydra/launcher", "ray", "ray", "hydra_ray_launcher"),
        ("hydra/sweeper", "optuna", "optuna-sweeper", "hydra_optuna_sweeper"),
    ],
)
def test_a_plugin_that_is_missing(train: Train, group: str, plugin: str, extra: str, package: str) -> None:
    if installed(package):
        pytest.skip(f"{package} is installed")
    assert train("seed=0,1", f"{group}={plugin}") == (
        2,
        f"1 problem in the configuration:\n  1. {group}: '{plugin}' is not installed: pip install 'graphgpt[{extra}]'.\n",
    )


def test_several_values_without_m(base: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py", *base, "seed=0,1"])
    with pytest.raises(SystemExit) as left:
        launch(lambda: pytest.fail("it ran"), ExperimentConfig, "train")
    assert left.value.code == 2
    assert capsys.readouterr().err == "1 problem in the configuration:\n  1. seed=0,1: several values make a sweep; start it with -m.\n"


def test_resuming_what_is_no_sweep(train: Train, tmp_path: Path) -> None:
    (tmp_path / "multirun/a").mkdir(parents=True)
    assert train("resume=multirun/a") == (2, "multirun/a is no sweep's folder: it has no sweep.json.\n")
    (tmp_path / "multirun/a/sweep.json").write_text('{"program": "sweep", "overrides": []}')
    code, printed = train("resume=multirun/a")
    assert code == 2
    assert "resume: multirun/a was not started by python train.py -m; use graphgpt sweep --resume multirun/a." in printed


def launched(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> list[str]:
    """The command line that Hydra gets."""
    seen: list[str] = []
    monkeypatch.setattr(sys, "argv", ["train.py", "-m", *arguments])
    with pytest.raises(SystemExit):  # for nothing ran
        launch(lambda: seen.extend(sys.argv) or sys.exit(0), ExperimentConfig, "train")
    return seen


@pytest.mark.skipif(not installed("hydra_joblib_launcher"), reason="needs the extra 'joblib'")
def test_runs_at_once_share_the_processors(base: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    base = [override for override in base if override != "runner.threads=1"]
    wanted = f"++runner.threads={max(1, processors() // 2)}"
    assert wanted in launched(monkeypatch, *base, "seed=0,1,2", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    mine = launched(monkeypatch, *base, "seed=0,1,2", "hydra/launcher=joblib", "runner.threads=3")
    assert [override for override in mine if "threads" in override] == ["++runner.threads=3"]
    assert not [override for override in launched(monkeypatch, *base, "seed=0,1,2") if "threads" in override]


@pytest.mark.skipif(not installed("hydra_submitit_launcher"), reason="needs the extra 'slurm'")
def test_a_scheduler_starts_as_many_processes_as_a_run_has(
    base: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert launched(monkeypatch, *base, "seed=0,1", "hydra/launcher=submitit_slurm") == []
    assert "hydra/launcher: submitit_slurm starts jobs by SLURM, which is not here (no srun)" in capsys.readouterr().err
    monkeypatch.setattr("shutil.which", lambda name: f"/bin/{name}")
    two = [*base, "seed=0,1", "hydra/launcher=submitit_slurm", "runner/strategy=ddp", "runner.devices=2"]
    assert launched(monkeypatch, *two, "hydra.launcher.tasks_per_node=2")
    assert launched(monkeypatch, *two) == []
    assert (
        "hydra.launcher: starts 1 process per run, but a run has 2; use hydra.launcher.tasks_per_node=2 hydra.launcher.nodes=1."
        in capsys.readouterr().err
    )


@pytest.mark.parametrize("path", ["runs/a-1.b", "a b", "it's", "a=b,c", "x{y}[z]", "back\\slash", "end\\", "\\'"])
def test_any_folder_can_be_named(path: str) -> None:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    assert OverridesParser.create().parse_override(f"a={quoted(path)}").value() == path


# Launchers at work, each in a process of its own.


def sweep_with(launcher: list[str], base: list[str], cwd: Path, *swept: str) -> str:
    command = [sys.executable, str(ROOT / "train.py"), "-m", *base, *swept, *launcher]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=WAIT, env=os.environ | {"COLUMNS": "200"})
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.skipif(not installed("hydra_joblib_launcher"), reason="needs the extra 'joblib'")
def test_joblib(base: list[str], tmp_path: Path) -> None:
    output = sweep_with(
        ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"],
        [*base, "runner.max_steps=1"],
        tmp_path,
        "model/projector=linear,mlp",
        "seed=0,1,2",
    )
    [folder] = (tmp_path / "multirun" / "graph_matching").iterdir()
    runs = find_runs(folder)
    assert [(one.folder.name, one.state) for one in runs] == [(str(number), FINISHED) for number in range(6)]
    assert [(one.settings["model.projector.name"], one.settings["seed"]) for one in runs] == [
        (projector, seed) for projector in ("linear", "mlp") for seed in range(3)
    ]
    table = output[output.index("projector  runs") :].splitlines()
    assert [line.split()[:2] for line in table[1:3]] == [["linear", "3"], ["mlp", "3"]]


@pytest.mark.skipif(not installed("hydra_submitit_launcher"), reason="needs the extra 'slurm'")
def test_submitit_with_two_processes_per_run(base: list[str], tmp_path: Path) -> None:
    launcher = ["hydra/launcher=submitit_local", "hydra.launcher.tasks_per_node=2", "runner/strategy=ddp", "runner.devices=2"]
    sweep_with(launcher, [*base, "runner.max_steps=2"], tmp_path, "seed=3")
    [folder] = (tmp_path / "multirun" / "graph_matching").iterdir()
    [one] = find_runs(folder)
    assert one.state == FINISHED
    assert yaml.safe_load((one.folder / "config.yaml").read_text())["runner"]["devices"] == 2
    lines = [json.loads(line) for line in (one.folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "train/loss" in line] == [0, 1]  # once each: the two were one run


@pytest.mark.skipif(not installed("hydra_ray_launcher"), reason="needs the extra 'ray'")
def test_ray(base: list[str], tmp_path: Path) -> None:
    sweep_with(["hydra/launcher=ray"], [*base, "runner.max_steps=1"], tmp_path, "seed=0,1")
    [folder] = (tmp_path / "multirun" / "graph_matching").iterdir()
    assert [one.state for one in find_runs(folder)] == [FINISHED, FINISHED]


def test_a_run_folder_is_made_once_and_by_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    register_resolvers()
    text = "${graphgpt.run_dir:null,runs/same/second}"
    one, other = (OmegaConf.create({"dir": text, "again": "${dir}"}) for _ in range(2))
    assert [one.dir, one.again, other.dir] == ["runs/same/second", "runs/same/second", "runs/same/second-2"]
    assert Path("runs/same/second-2").is_dir()


def test_a_given_folder_that_holds_a_run_is_refused(
    base: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    started: list[str] = []

    def start(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["train.py", *base, *arguments])
        with contextlib.suppress(SystemExit):
            launch(lambda: started.append("yes"), ExperimentConfig, "train")
        return capsys.readouterr().err

    Path("mine").mkdir()
    Path("mine/config.yaml").write_text("seed: 0")
    assert start("hydra.run.dir=mine") == "" and len(started) == 1  # nothing in it that took time
    Path("mine/resume").mkdir()
    Path("mine/resume/step=2.ckpt").touch()
    rest = "mine holds a run already, which would be overwritten; go on with it (resume=mine), choose another folder or delete it."
    assert f"hydra.run.dir: {rest}" in start("hydra.run.dir=mine")
    monkeypatch.setenv("GRAPHGPT_RUN_DIR", "mine")
    assert f"GRAPHGPT_RUN_DIR: {rest}" in start()
    assert len(started) == 1


def test_two_sweeps_of_one_second_have_two_folders(base: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    same = ["name=both", "hydra.sweep.subdir=x"]
    for _ in range(2):
        launched(monkeypatch, *base, *same)
    assert len([*Path("multirun").rglob("sweep.json")]) == 2


def test_a_run_may_be_evaluated_at_its_end(base: list[str], train: Train) -> None:
    """Also those of a sweep, one after the other, each as evaluate.py would do it."""
    code, printed = train("task=node_classification", "runner.max_steps=1", "seed=0,1", "test=true")
    assert code == 0, printed
    for name in "01":
        folder = the_sweep() / name
        result = json.loads((folder / "test" / "metrics.json").read_text())
        assert result["split"] == "test" and result["checkpoint"] == str(folder.absolute() / "checkpoint")
        [score] = read_scores(folder / "checkpoint")
        assert score["metrics"]["accuracy"] == result["rows"][0]["metrics"]["accuracy"]
    assert printed.count("What to try next") == 2
