"""Folders that somebody else made: nothing that they ask for is run or written, and one sentence says so."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers import csv_overrides

from graphgpt import GraphAssistant
from graphgpt.checkpoints.folder import save_checkpoint
from graphgpt.cli import main
from graphgpt.command_line import check_command_line
from graphgpt.config import EvaluationConfig, ExperimentConfig, evaluated_experiment
from graphgpt.errors import ConfigError, GraphGPTError
from graphgpt.files import write_json
from graphgpt.launch import SWEEP, check_started
from graphgpt.registry import MODELS
from graphgpt.runners.lightning import write_run_files

FEATURES = 128


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with a checkpoint of a model of two layers, untrained."""
    folder = tmp_path_factory.mktemp("trained")
    experiment = check_command_line(ExperimentConfig, "train", [*csv_overrides(folder), "task=node_classification", "model/tower=sgc"])
    model = MODELS.build(experiment.model, input_dim=FEATURES)
    data = {"name": "csv", "fingerprint": "0" * 16, "features": FEATURES}
    save_checkpoint(folder / "run" / "checkpoint", model, experiment, data=data, history=[])
    write_run_files(folder / "run", experiment)
    return folder / "run"


@pytest.fixture
def canary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Stands where a module's code, if it ever runs, writes; the module ``evil`` lies in the folder itself, which one has gone into."""
    file = tmp_path / "canary"
    home = tmp_path / "folder"
    home.mkdir()
    (home / "evil.py").write_text(f"open({str(file)!r}, 'w').close()\n\nclass Evil:\n    def __init__(self, **_): pass\n")
    monkeypatch.chdir(home)
    monkeypatch.setattr(sys, "path", ["", *sys.path])  # as python -m has it
    monkeypatch.setattr("graphgpt.registry._named", set[str]())
    yield file
    sys.modules.pop("evil", None)


def edited(source: Path, target: Path, edit: Callable[[dict[str, Any]], None]) -> Path:
    """A copy of a run's settings, changed, with no checksum to tell: its author would have made it fit."""
    data = yaml.safe_load((source / "config.yaml").read_text())
    edit(data)
    target.mkdir(exist_ok=True)
    for file in source.iterdir():
        if file.is_file():
            (target / file.name).write_bytes(file.read_bytes())
    (target / "config.yaml").write_text(yaml.safe_dump(data))
    return target


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What the command says when it refuses."""
    with pytest.raises(SystemExit) as end:
        main([*map(str, arguments)])
    assert end.value.code == 2
    return capsys.readouterr().err.strip()


# Modules that a folder names.

ASKS = (
    "asks to import 'evil', and what a folder asks for is not run: if you trust that code, name it yourself, "
    "as plugins=[evil] among settings and in Python, or as --plugins evil after graphgpt's other commands."
)


def test_plugins_of_a_checkpoint_are_not_imported(
    trained: Path, canary: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = edited(trained / "checkpoint", Path.cwd(), lambda data: data.update(plugins=["evil"]))
    asks = f"{folder} {ASKS}"
    for verb in (["chat", folder], ["weights", "merge-lora", folder, "--out", "merged"]):
        monkeypatch.setattr("graphgpt.checkpoints.folder.verify_files", lambda *_: None)
        monkeypatch.setattr("graphgpt.weights.exporting.verify_files", lambda *_: None)
        assert said(capsys, *verb) == asks
    for read in (
        lambda: GraphAssistant.from_pretrained(folder),
        lambda: evaluated_experiment(check_command_line(EvaluationConfig, "evaluate", [f"checkpoint={folder}"])),
        lambda: check_command_line(EvaluationConfig, "evaluate", [f"checkpoint={folder}", "task.wording=2"]),
    ):
        with pytest.raises(GraphGPTError) as refused:
            read()
        assert str(refused.value).endswith(asks)
    run = edited(trained, canary.parent / "run", lambda data: data.update(plugins=["evil"]))
    with pytest.raises(ConfigError) as again:
        check_command_line(ExperimentConfig, "train", [f"resume={run}"])
    assert again.value.problems == [f"resume: {run} {ASKS}"]
    assert not canary.exists()
    # The tower's card and sizes are data, and shown.
    main(["weights", "show", str(folder)])
    main(["runs", str(run)])
    assert not canary.exists()


def test_plugins_that_the_user_names_too_are(trained: Path, canary: Path) -> None:
    folder = edited(trained / "checkpoint", Path.cwd(), lambda data: data.update(plugins=["evil"]))
    config = check_command_line(EvaluationConfig, "evaluate", [f"checkpoint={folder}", "plugins=[evil]"])
    assert evaluated_experiment(config).plugins == ["evil"]
    assert canary.exists()


# Classes that a folder names.


@pytest.mark.parametrize(
    ("group", "target"),
    [
        ("callbacks", "lightning.pytorch.callbacks.ModelCheckpoint"),
        ("loggers", "lightning.pytorch.loggers.logger.DummyLogger"),
        ("callbacks", "graphgpt.runners.interruption.Interruption"),
        ("callbacks", "evil.Evil"),
    ],
)
def test_classes_of_a_resumed_run_are_of_the_list(trained: Path, canary: Path, group: str, target: str) -> None:
    run = edited(
        trained, canary.parent / "run", lambda data: data["runner"].update({group: {"mine": {"_target_": target, "dirpath": str(canary)}}})
    )
    with pytest.raises(ConfigError) as refused:
        check_command_line(ExperimentConfig, "train", [f"resume={run}", f"runner.{group}.mine.dirpath=here"])
    [problem] = refused.value.problems
    assert problem.startswith(f"runner.{group}.mine._target_: '{target}' is not allowed; ")
    assert not canary.exists()


def test_classes_of_a_plugin_that_the_user_names_are_allowed(trained: Path, canary: Path) -> None:
    given = [*csv_overrides(canary.parent), "runner.callbacks.mine={_target_: evil.Evil}"]
    assert check_command_line(ExperimentConfig, "train", [*given, "plugins=[evil]"]).plugins == ["evil"]


@pytest.mark.parametrize(
    "value", ["/etc/cron.d", "../../elsewhere", "~/elsewhere", "file:/etc", "sqlite:////etc/x", "https://example.org", "C:\\x"]
)
def test_a_resumed_run_writes_nowhere_else(trained: Path, tmp_path: Path, value: str) -> None:
    logger = {"_target_": "lightning.pytorch.loggers.TensorBoardLogger", "name": value}
    run = edited(trained, tmp_path / "run", lambda data: data["runner"].update(loggers={"mine": logger}))
    key = "runner.loggers.mine.name"
    with pytest.raises(ConfigError) as refused:
        check_command_line(ExperimentConfig, "train", [f"resume={run}"])
    assert refused.value.problems == [
        f"resume: {run} has {key}={value}, which leads out of the run folder; if that is meant, say it here too: {key}={value}"
    ]
    config = check_command_line(ExperimentConfig, "train", [f"resume={run}", f"{key}='{value}'"])
    assert config.runner.loggers["mine"]["name"] == value


@pytest.mark.parametrize(
    "override",
    [
        "plugins=[evil]",
        "hydra.launcher._target_=os.system",
        "hydra.launcher.setup=[id]",
        "++hydra.callbacks.x._target_=evil.Evil",
        "hydra.searchpath=[file:///tmp]",
        "hydra.sweep.dir=/etc",
        "runner.loggers.mine={_target_: lightning.pytorch.loggers.CSVLogger, name: ../../x}",
    ],
)
def test_a_sweep_that_goes_on_asks_for_no_more_than_settings(canary: Path, override: str) -> None:
    with pytest.raises(GraphGPTError, match=r"sweep\.json (sets .* if it is meant, say it here too: |asks to import 'evil', )"):
        check_started(Path("sweep"), ["seed=0,1", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", override])
    check_started(Path("sweep"), ["seed=0,1", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "dataset.path=/data/x"])
    assert not canary.exists()


def test_a_sweeps_own_plugin_is_named_again(canary: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = canary.parent / "sweep"
    folder.mkdir()
    write_json(folder / SWEEP, {"program": "sweep", "overrides": ["plugins=[evil]", "seed=0,1"]})
    assert said(capsys, "sweep", "--resume", str(folder)) == f"{folder / SWEEP} {ASKS}"
    assert not canary.exists()
