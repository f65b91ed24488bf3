"""Checkpoints with a fact missing, of another type, or out of all bounds: every verb that reads them says one sentence, or needs it not."""

import copy
import hashlib
import io
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from helpers import FEATURES, csv_overrides, make_graph
from rich.console import Console
from safetensors.torch import load_file, save_file

from graphgpt import GraphAssistant
from graphgpt.checkpoints.card import write_card
from graphgpt.checkpoints.folder import load_checkpoint, read_manifest, save_checkpoint, verify_checkpoint
from graphgpt.checkpoints.trained import read_trained
from graphgpt.command_line import check_command_line
from graphgpt.config import EvaluationConfig, ExperimentConfig, evaluated_experiment
from graphgpt.errors import CheckpointError, GraphGPTError
from graphgpt.files import write_json
from graphgpt.models.tower import tower_card
from graphgpt.registry import MODELS
from graphgpt.runs import compare, find_runs
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
        self.model = MODELS.build(self.experiment.model, input_dim=FEATURES)
        self.graph = make_graph()
        self.run = folder / "run"
        self.checkpoint = self.run / "checkpoint"
        data = {"name": "toy", "fingerprint": self.graph.fingerprint, "features": FEATURES}
        history = [{**STAGE, "facts": {"Trainable parameters": "1,000"}}]
        save_checkpoint(self.checkpoint, self.model, self.experiment, data=data, history=history)
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
        yield lambda: check_command_line(ExperimentConfig, "train", [*self.overrides, f"stage1={folder}"])
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


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return Trained(tmp_path_factory.mktemp("damaged"))


def deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


GONE = object()
EDITS = {"gone": GONE, "null": None, "text": "x", "number": 10**30, "bool": True, "list": [1], "mapping": {"x": 1}, "deep": deep(90)}


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
    """A copy of the run with another content of one file, and a manifest that says so."""
    run = tmp_path / "run"
    shutil.rmtree(run, ignore_errors=True)
    shutil.copytree(trained.run, run)
    folder = run / "checkpoint"
    (folder / name).write_bytes(content)
    manifest = json.loads((trained.checkpoint / "manifest.json").read_text())
    if name in manifest["files"]:
        manifest["files"][name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        (folder / "manifest.json").write_text(json.dumps(manifest))
    if name == "config.yaml":
        (run / name).write_bytes(content)
    return run


def test_a_whole_one_is_refused_by_nobody(trained: Trained, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained.run, run)
    assert trained.survives(run, "nothing") == 0
    assert GraphAssistant.from_pretrained(run, trained.graph, device="cpu").classify(1).answer


RECORDS = ["manifest.json", "history.json", "scores.json", "tower.json"]


@pytest.mark.parametrize("name", RECORDS)
def test_a_record_with_one_thing_wrong(trained: Trained, tmp_path: Path, name: str) -> None:
    whole = json.loads((trained.checkpoint / name).read_text())
    # The settings of a model are checked by the model's own class, key by key: of those some will do.
    found = [place for place in places(whole) if len(place) < 4 and place[:2] != ("model", "lora") and place[0] != "environment"]
    refused = 0
    # Every place and every edit, not all pairs: those are some hundreds, of a quarter of a second each.
    for turn in range(max(len(found), len(EDITS))):
        place, kind = found[turn % len(found)], list(EDITS)[turn % len(EDITS)]
        run = rewritten(trained, tmp_path, name, json.dumps(edited(whole, place, EDITS[kind])).encode())
        refused += trained.survives(run, (name, place, kind), command_lines=turn % 8 == 0) > 0
    assert refused


@pytest.mark.parametrize(
    ("place", "kind", "sentence"),
    [
        (("task",), "gone", "it has no 'task'."),
        (("format",), "text", "'format' is 'x': input should be a valid integer."),
        (("model", "llm"), "gone", "it has no 'model.llm', though it has an 'llm'."),
        (("model", "tower"), "null", "'model.tower' is None: input should be a valid dictionary."),
        (("created",), "deep", "it is nested deeper than 64 levels."),
    ],
)
def test_the_sentences_of_a_manifest(trained: Trained, tmp_path: Path, place: tuple[str, ...], kind: str, sentence: str) -> None:
    whole = json.loads((trained.checkpoint / "manifest.json").read_text())
    run = rewritten(trained, tmp_path, "manifest.json", json.dumps(edited(whole, place, EDITS[kind])).encode())
    with pytest.raises(CheckpointError) as caught:
        read_manifest(run / "checkpoint")
    assert str(caught.value) == f"{run}/checkpoint/manifest.json cannot be read as a manifest: {sentence}"


def test_a_tower_of_odd_settings_is_not_exported(trained: Trained, tmp_path: Path) -> None:
    whole = json.loads((trained.checkpoint / "manifest.json").read_text())
    for place in ("position", "layers", "heads"):
        for kind in ("null", "text", "list", "bool"):
            content = json.dumps(edited(whole, ("model", "tower", place), EDITS[kind])).encode()
            run = rewritten(trained, tmp_path, "manifest.json", content)
            with pytest.raises(CheckpointError, match=rf"its tower cannot be written as the original's: '{place}' is "):
                export_weights(run, "graphgpt_tower", tmp_path / "exported", say=str)
    assert not (tmp_path / "exported").exists()


WHOLE = {
    "empty": b"",
    "open": b"[{",
    "null": b"null",
    "list": b"[]",
    "mapping": b"{}",
    "text": b'"x"',
    "latin-1": b'{"task": "caf\xe9"}',
    "half a character": rb'{"task": "\ud800"}',
    "very deep": b"[" * 10**5,
    "digits": b"1" * 10**5,
    "zeros": bytes(64),
}


@pytest.mark.parametrize("name", [*RECORDS, "config.yaml"])
def test_a_record_that_is_none(trained: Trained, tmp_path: Path, name: str) -> None:
    for kind, content in WHOLE.items():
        run = rewritten(trained, tmp_path, name, content)
        # A checkpoint may have no history (it was imported) and no scores.
        assert trained.survives(run, (name, kind), command_lines=kind in ("mapping", "very deep")) or (
            kind == "list" and name in ("history.json", "scores.json")
        )


def test_a_config_with_one_thing_wrong(trained: Trained, tmp_path: Path) -> None:
    whole = yaml.safe_load((trained.checkpoint / "config.yaml").read_text())
    tops = [(key,) for key in whole] + [(key, "name") for key in ("model", "dataset", "task", "runner")]
    found = [*tops, ("model", "tower"), ("model", "llm", "path"), ("runner", "optimizer"), ("dataset", "sampler")]
    for turn, place in enumerate(found):
        kind, new = list(EDITS.items())[turn % len(EDITS)]
        # No pyyaml aliases; its dumper is as deep as ours.
        run = rewritten(trained, tmp_path, "config.yaml", json.dumps(edited(whole, place, new)).encode())
        trained.survives(run, (place, kind))


@pytest.mark.parametrize(
    "text",
    [
        "c0: &c0 [x, x]\n" + "".join(f"c{i}: &c{i} [*c{i - 1}, *c{i - 1}]\n" for i in range(1, 42)),
        "a: &a [*a]\n",
        "created: 2026-01-01\n",
        "a: !!int ''\n",
        "a: !!timestamp x\n",
        "a: !!set {x}\n",
        "a: !!binary aGk=\n",
        "? [a]\n: 1\n",
    ],
)
def test_yaml_that_is_more_than_settings(trained: Trained, tmp_path: Path, text: str) -> None:
    assert trained.survives(rewritten(trained, tmp_path, "config.yaml", text.encode()), text)


def test_paths_out_of_the_folder_are_no_files_of_it(trained: Trained, tmp_path: Path) -> None:
    manifest = read_manifest(trained.checkpoint)
    for name in ("/etc/passwd", "../config.yaml", "a/../../b", "C:\\x", ""):
        files = {**manifest["files"], name: {"bytes": 1, "sha256": "0"}}
        run = rewritten(trained, tmp_path, "manifest.json", json.dumps({**manifest, "files": files}).encode())
        with pytest.raises(GraphGPTError, match=r"manifest\.json cannot be read as a manifest: .*names no file of its folder\.$"):
            verify_checkpoint(run)


@pytest.mark.parametrize("name", ["projector.safetensors", "tower.safetensors", "modality_tokens.safetensors"])
def test_tensors_that_are_none(trained: Trained, tmp_path: Path, name: str) -> None:
    whole = (trained.checkpoint / name).read_bytes()
    tensors = load_file(trained.checkpoint / name)
    first = next(iter(tensors))
    cases = {"half": whole[: len(whole) // 2], "header": whole[:20], "empty": b"", "zeros": bytes(len(whole))}
    for dtype in (torch.int64, torch.bool, torch.complex64):
        cases[str(dtype)] = _saved(tensors | {first: tensors[first].to(dtype)}, tmp_path)
    for value in ("nan", "inf"):
        cases[value] = _saved(tensors | {first: torch.full_like(tensors[first], float(value))}, tmp_path)
    for kind, content in cases.items():
        run = rewritten(trained, tmp_path, name, content)
        trained.survives(run, (name, kind))
        with pytest.raises(GraphGPTError):
            load_checkpoint(trained.model, run)


def _saved(tensors: dict[str, torch.Tensor], folder: Path) -> bytes:
    save_file(tensors, folder / "x.safetensors")
    return (folder / "x.safetensors").read_bytes()
