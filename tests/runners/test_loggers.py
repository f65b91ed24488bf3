"""Loggers: each is really written and read back, several at once, and goes on where a resumed run does."""

import csv
import dataclasses
import json
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers import csv_overrides
from test_training import Trained, run

from graphgpt.config.command_line import check_command_line
from graphgpt.config.experiment import ExperimentConfig
from graphgpt.errors import ConfigError, GraphGPTError
from graphgpt.runners.loggers import WandbRun, as_markdown
from graphgpt.runners.training import targets
from graphgpt.runs.runs import read_metrics

SERVICES = [name for name in ("wandb", "mlflow", "trackio") if targets._installed(name)]
NOT_INSTALLED = "the extra '{}' is not installed"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return csv_overrides(tmp_path_factory.mktemp("csv"))


@pytest.fixture(scope="module")
def logged(data: list[str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trained]:
    """Three steps into every logger there is, and then once more from the second on."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{home}/mlflow.db")
        patch.setenv("WANDB_SILENT", "true")
        folder = home / "runs" / "stage1" / "today"
        loggers = ",".join(["csv", "tensorboard", *SERVICES])
        offline = ["runner.loggers.wandb.offline=true"] if "wandb" in SERVICES else []
        steps = ["runner.max_steps=3", "runner.global_batch_size=2", "runner.val_every=2", "runner.val_samples=2", "runner.val_answers=2"]
        first = run(folder, [*data, *steps, f"logger=[{loggers}]", *offline, "runner.checkpoint.every_n_steps=2"])
        assert (folder / "resume" / "step=2.ckpt").is_file()
        shutil.rmtree(folder / "checkpoint")  # as if it had been cut off
        again = run(folder, [f"resume={folder}"])
        yield dataclasses.replace(first, model=again.model)


def expected(trained: Trained, key: str) -> dict[int, float]:
    return {line["step"]: line[key] for line in read_metrics(trained.folder) if key in line}


def test_the_table_is_what_the_lines_are(logged: Trained) -> None:
    with (logged.folder / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    lines = logged.lines
    assert len(rows) == len(lines) == 4
    for row, line in zip(rows, lines, strict=True):
        assert {name: float(value) for name, value in row.items() if value} == {name: line[name] for name in line if name != "time"}
    assert {"step", "train/loss", "val/loss", "grad_norm", "lr/projector", "speed/tokens_per_s"} <= rows[0].keys()


def test_tensorboard_holds_figures_text_and_settings(logged: Trained) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(logged.folder / "tensorboard"))
    events.Reload()
    found = {event.step: event.value for event in events.Scalars("train/loss")}
    assert found == pytest.approx(expected(logged, "train/loss"), rel=1e-5)
    [text] = events.Tensors("val/answers/text_summary")[:1]
    assert "**prompt**" in text.tensor_proto.string_val[0].decode()
    assert yaml.safe_load((logged.folder / "tensorboard" / "hparams.yaml").read_text())["task"]["name"] == "graph_matching"


def test_wandb_is_written_without_a_network(logged: Trained) -> None:
    pytest.importorskip("wandb", reason=NOT_INSTALLED.format("wandb"))
    files = sorted(logged.folder.glob("wandb/offline-run-*/run-*.wandb"))
    assert len({file.name for file in files}) == 1, "a resumed run is another run"
    found = {}
    for file in files:
        for row in wandb_history(file):
            if "train/loss" in row:
                found[int(row["trainer/global_step"])] = row["train/loss"]
    assert found == pytest.approx(expected(logged, "train/loss"), rel=1e-5)


def wandb_history(file: Path) -> Iterator[dict[str, Any]]:
    """The logged rows of an offline run. wandb's log is cut as LevelDB's is: blocks of 32 KiB with records, whole or in pieces."""
    from wandb.proto import wandb_internal_pb2

    data, place, piece = file.read_bytes(), 7, b""
    while place + 7 <= len(data):
        if 32768 - place % 32768 < 7:  # no room for a record's head: the block ends here
            place += 32768 - place % 32768
            continue
        length, kind = struct.unpack("<4xHB", data[place : place + 7])
        piece += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(piece)
            piece = b""
            if record.WhichOneof("record_type") == "history":
                yield {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}


def test_mlflow_holds_one_run_with_its_settings_and_texts(logged: Trained) -> None:
    pytest.importorskip("mlflow", reason=NOT_INSTALLED.format("mlflow"))
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{logged.folder.parents[2]}/mlflow.db")
    experiment = client.get_experiment_by_name("graphgpt")
    assert experiment is not None
    [found] = client.search_runs([experiment.experiment_id])
    assert (found.info.run_name, found.info.status) == ("stage1-today", "FINISHED")
    assert found.data.params["runner/max_steps"] == "3"
    history = {metric.step: metric.value for metric in client.get_metric_history(found.info.run_id, "train/loss")}
    assert history == pytest.approx(expected(logged, "train/loss"))
    assert [file.path for file in client.list_artifacts(found.info.run_id, "val/answers")] == ["val/answers/step_2.md"]


def test_trackio_holds_one_run(logged: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("trackio", reason=NOT_INSTALLED.format("trackio"))
    from trackio.sqlite_storage import SQLiteStorage

    assert SQLiteStorage.get_runs("graphgpt").count("stage1-today") == 1
    rows = SQLiteStorage.get_logs("graphgpt", "stage1-today")
    found = {row["step"]: row["train/loss"] for row in rows if "train/loss" in row}
    assert found == pytest.approx(expected(logged, "train/loss"))


@pytest.mark.skipif("wandb" not in SERVICES, reason=NOT_INSTALLED.format("wandb"))
def test_wandb_without_a_login_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    logger = WandbRun(save_dir=str(tmp_path), project="graphgpt")
    with pytest.raises(GraphGPTError, match=r"^runner\.loggers\.wandb: .*[Nn]o API key.*runner\.loggers\.wandb\.offline=true\.$"):
        logger.log_metrics({"a": 1.0}, step=0)


# On the command line.


def problems(overrides: list[str]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        check_command_line(ExperimentConfig, "train", overrides)
    return caught.value.problems


def test_csv_and_tensorboard_unless_told_otherwise(data: list[str]) -> None:
    plain = [override for override in data if override != "logger=none"]

    def loggers(*overrides: str) -> list[str]:
        runner = check_command_line(ExperimentConfig, "train", [*plain, *overrides]).runner
        return [name for name, node in runner.loggers.items() if node is not None]

    assert loggers() == ["csv", "tensorboard"]
    assert loggers("runner.loggers.tensorboard=null") == ["csv"]
    assert loggers("logger=tensorboard") == ["tensorboard"]
    assert loggers("logger=none") == loggers("logger=null") == loggers("logger=[]") == []


@pytest.mark.parametrize(
    ("override", "found"),
    [
        ("logger=wandbb", ["logger: there is no 'wandbb'. Did you mean 'wandb'?"]),
        (
            "logger=[csv,wandbb,tensorbord]",
            ["logger: there is no 'tensorbord'. Did you mean 'tensorboard'?", "logger: there is no 'wandbb'. Did you mean 'wandb'?"],
        ),
        ("callbacks=[emma]", ["callbacks: there is no 'emma'. Did you mean 'ema'?"]),
        ("logger=[csv,3]", ["'logger=[csv,3]': cannot be read as key=value or group=option."]),
    ],
)
def test_an_option_that_does_not_exist(data: list[str], override: str, found: list[str]) -> None:
    assert sorted(problems([*data, override])) == found


@pytest.mark.parametrize("name", ["wandb", "mlflow", "trackio"])
def test_a_missing_package_is_said_before_anything_loads(data: list[str], name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(targets, "_installed", lambda package: False)
    assert problems([*data, f"logger=[csv,{name}]"]) == [
        f"runner.loggers.{name}: the package '{name}' is not installed: pip install 'graphgpt[{name}]'."
    ]


def test_a_folder_is_no_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "left_behind").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    assert not targets._installed("left_behind")
    assert targets._installed("yaml")


def test_text_keeps_its_lines() -> None:
    assert as_markdown(["prompt", "answer"], [["a\n# b", ""]]) == "**prompt**\n\n    a\n    # b\n\n**answer**\n\n    "
