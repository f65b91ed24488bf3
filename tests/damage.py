"""A checkpoint to be damaged, what can be done with it, and ways to damage it."""

import copy
import hashlib
import io
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from helpers import FEATURES, build_for, csv_overrides, make_graph, make_task
from rich.console import Console

from graphgpt.checkpoints.card import write_card
from graphgpt.checkpoints.folder import load_checkpoint, save_checkpoint, verify_checkpoint
from graphgpt.checkpoints.trained import read_trained, trained_items, write_trained
from graphgpt.config.command_line import check_command_line
from graphgpt.config.experiment import EvaluationConfig, ExperimentConfig, evaluated_experiment
from graphgpt.errors import GraphGPTError
from graphgpt.files.atomic import write_json
from graphgpt.models.tower import tower_card
from graphgpt.runs.runs import compare, find_runs
from graphgpt.weights.exporting import export_weights
from graphgpt.weights.lineage import show

SETTINGS = [
    "task=node_classification",
    "model/tower=graph_transformer",
    "model.tower.dim=16",
    "model.tower.output_dim=16",
    "model.tower.heads=2",
]
STAGE = {"name": "node_classification", "steps": [1, 2], "loss": [3.0, 2.5], "val": {"loss": [[2], [2.0]]}, "seconds": 1.5}
SCORE = {"task": "node_classification", "graph": "toy", "split": "test", "items": 9, "metrics": {"accuracy": 0.5}, "evaluation": "e"}


class Trained:
    """A run folder with a checkpoint of a model of two layers, and what can be done with it."""

    def __init__(self, folder: Path) -> None:
        self.overrides = [*csv_overrides(folder), *SETTINGS]
        self.experiment = check_command_line(ExperimentConfig, "train", self.overrides)
        self.model = build_for(self.experiment.model, FEATURES)
        self.graph = make_graph()
        self.run = folder / "run"
        self.checkpoint = self.run / "checkpoint"
        data = {"name": "toy", "fingerprint": self.graph.fingerprint, "features": FEATURES}
        history = [{**STAGE, "facts": {"Trainable parameters": "1,000"}}]
        task = make_task("node_classification", self.graph)
        seen = trained_items(task, task.items("train"))
        save_checkpoint(self.checkpoint, self.model, self.experiment, data=data, history=history, more=lambda tmp: write_trained(seen, tmp))
        write_json(self.checkpoint / "scores.json", [SCORE])
        shutil.copyfile(self.checkpoint / "config.yaml", self.run / "config.yaml")
        (self.run / "metrics.jsonl").write_text('{"step": 1, "time": 1.0, "train/loss": 2.0}\n{"step": 2, "time": 2.0, "val/loss": 2.0}\n')

    def verbs(self, run: Path) -> Iterator[Callable[[], Any]]:
        folder = run / "checkpoint"
        yield lambda: show(folder, Console(file=io.StringIO()))
        yield lambda: compare(find_runs(run))
        yield lambda: write_card(folder)
        yield lambda: verify_checkpoint(folder)
        yield lambda: read_trained(folder)
        yield lambda: tower_card(folder)
        yield lambda: load_checkpoint(self.model, folder)
        yield lambda: export_weights(folder, "graphgpt_tower", run / "exported", say=str)

    def command_lines(self, run: Path) -> Iterator[Callable[[], Any]]:
        """These take a hundred times as long."""
        folder = run / "checkpoint"
        yield lambda: evaluated_experiment(check_command_line(EvaluationConfig, "evaluate", [f"checkpoint={folder}"]))
        yield lambda: check_command_line(ExperimentConfig, "train", [*self.overrides, f"start_from={folder}"])
        yield lambda: check_command_line(ExperimentConfig, "train", [*self.overrides, f"model.tower.init_from={folder}"])

    def survives(self, run: Path, edit: object, command_lines: bool = True) -> int:
        """Run all verbs; how many refuse. Anything but a sentence fails the test."""
        refused = 0
        for verb in (*self.verbs(run), *(self.command_lines(run) if command_lines else ())):
            try:
                verb()
            except GraphGPTError as error:
                refused += 1
                assert str(error).strip()
                assert all(len(line) < 700 for line in str(error).splitlines()), str(error)
            except Exception as error:
                raise AssertionError(f"{edit}: {type(error).__name__}: {error}") from error
        return refused


def deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


GONE = object()
EDITS = {
    "gone": GONE,
    "null": None,
    "text": "x",
    "number": 10**30,
    "bool": True,
    "list": [1],
    "mapping": {"x": 1},
    "empty": {},
    "deep": deep(90),
}


def places(value: Any) -> Iterator[tuple[Any, ...]]:
    """Paths to the values of a record, of a list to its first."""
    items = value.items() if isinstance(value, dict) else list(enumerate(value))[:1] if isinstance(value, list) else ()
    for key, item in items:
        yield (key,)
        yield from ((key, *rest) for rest in places(item))


def edited(value: Any, place: tuple[Any, ...], new: Any) -> Any:
    value = copy.deepcopy(value)
    at = value
    for key in place[:-1]:
        at = at[key]
    if new is GONE:
        del at[place[-1]]
    else:
        at[place[-1]] = new
    return value


def rewritten(trained: Trained, tmp_path: Path, name: str, content: bytes) -> Path:
    """A copy of the run with another content of one file, in the run's folder, the checkpoint's or both, and a manifest that says so."""
    run = tmp_path / "run"
    shutil.rmtree(run, ignore_errors=True)
    shutil.copytree(trained.run, run)
    folder = run / "checkpoint"
    for file in (folder / name, run / name):
        if file.is_file():
            file.write_bytes(content)
    manifest = json.loads((trained.checkpoint / "manifest.json").read_text())
    if name in manifest["files"]:
        manifest["files"][name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        (folder / "manifest.json").write_text(json.dumps(manifest))
    return run
