"""Checkpoints with a fact missing, of another type, or out of all bounds: every verb that reads them says one sentence, or needs it not."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from damage import EDITS, Trained, edited, places, rewritten
from safetensors.torch import load_file, save_file

from graphgpt import GraphAssistant
from graphgpt.checkpoints.folder import load_checkpoint, read_manifest, verify_checkpoint
from graphgpt.config.command_line import check_command_line
from graphgpt.config.experiment import ExperimentConfig
from graphgpt.errors import CheckpointError, ConfigError, GraphGPTError
from graphgpt.weights.exporting import export_weights


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return Trained(tmp_path_factory.mktemp("damaged"))


def test_a_whole_one_is_refused_by_nobody(trained: Trained, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained.run, run)
    assert trained.survives(run, "nothing") == 0
    assert GraphAssistant.from_pretrained(run, trained.graph, device="cpu").classify(1).answer


RECORDS = ["manifest.json", "history.json", "scores.json", "graph/tower.json"]


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
        (("model", "lora"), "gone", "it has no 'model.lora', though it has an 'llm'."),
        (("llm",), "empty", "its 'llm' is empty, though it has a 'model.lora'."),
        (("model", "tower"), "text", "'model.tower' is 'x': input should be a valid dictionary."),
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
    ("place", "kind", "sentence"),
    [
        (("runner",), "list", "'runner' is [1]: input should be a valid dictionary."),
        (("runner", "max_steps"), "null", "'runner.max_steps' is None: input should be a valid integer."),
        (("plugins",), "mapping", "'plugins' is {'x': 1}: input should be a valid list."),
        (("task",), "gone", "it has no 'task'."),
    ],
)
def test_a_run_to_go_on_in(trained: Trained, tmp_path: Path, place: tuple[str, ...], kind: str, sentence: str) -> None:
    whole = yaml.safe_load((trained.checkpoint / "config.yaml").read_text())
    run = rewritten(trained, tmp_path, "config.yaml", json.dumps(edited(whole, place, EDITS[kind])).encode())
    with pytest.raises(ConfigError) as caught:
        check_command_line(ExperimentConfig, "train", [f"resume={run}"])
    assert caught.value.problems == [f"resume: {run}/config.yaml cannot be read as the configuration of a training: {sentence}"]


def test_modules_that_are_no_names(trained: Trained, tmp_path: Path) -> None:
    whole = yaml.safe_load((trained.checkpoint / "config.yaml").read_text())
    for plugins in ([[]], [{"x": 1}], [None], {"x": 1}, "evil", 3):
        run = rewritten(trained, tmp_path, "config.yaml", json.dumps(whole | {"plugins": plugins}).encode())
        assert trained.survives(run, plugins)


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


@pytest.mark.parametrize("name", ["graph/projector.safetensors", "graph/tower.safetensors", "graph/fusion.safetensors"])
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
