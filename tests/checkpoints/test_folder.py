"""The checkpoint folder: what goes in comes out, and what does not fit is refused in one sentence."""

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from helpers import build_for
from safetensors.torch import load_file, save_file
from torch import Tensor

from graphgpt.checkpoints.folder import (
    FORMAT,
    checkpoint_experiment,
    checkpoint_problems,
    find_checkpoint,
    load_checkpoint,
    read_history,
    read_manifest,
    save_checkpoint,
)
from graphgpt.config.command_line import check_command_line
from graphgpt.config.experiment import ExperimentConfig, read_config
from graphgpt.errors import CheckpointError, ConfigError
from graphgpt.models.multimodal_llm import MultimodalLLM

FEATURES = 8
HISTORY = [{"name": "graph_matching", "steps": [1, 2], "loss": [3.0, 2.5], "val": {}, "seconds": 1.5, "facts": {}}]
ADAPTED = ["model/lora=default", "model.lora.rank=4"]
FULL = [*ADAPTED, "model/tower=graph_transformer", "model/projector=mlp"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Command line for data that nothing here reads, and a model of two layers."""
    folder = tmp_path_factory.mktemp("csv")
    for name in ("nodes.csv", "edges.csv"):
        (folder / name).touch()
    data = ["dataset=csv", f"dataset.nodes={folder}/nodes.csv", f"dataset.edges={folder}/edges.csv"]
    return [*data, "model/llm=tiny_random", "model/tower=sgc"]


Build = Callable[..., tuple[ExperimentConfig, MultimodalLLM]]


@pytest.fixture
def build(base: list[str]) -> Build:
    """``build(*overrides)``: an experiment, and its model with all weights beside the language model's drawn by the seed."""

    def build(*overrides: str) -> tuple[ExperimentConfig, MultimodalLLM]:
        experiment = check_command_line(ExperimentConfig, "train", [*base, *overrides])
        torch.manual_seed(experiment.seed)
        model = build_for(experiment.model, FEATURES)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_" in name or not name.startswith("llm."):
                    parameter.copy_(torch.randn_like(parameter))
        return experiment, model

    return build


@pytest.fixture
def saved(build: Build, tmp_path: Path) -> Callable[..., Path]:
    """``saved(*overrides)``: a checkpoint folder."""

    def saved(*overrides: str) -> Path:
        experiment, model = build(*overrides)
        return save(tmp_path / "run" / "checkpoint", experiment, model)

    return saved


def save(folder: Path, experiment: ExperimentConfig, model: MultimodalLLM) -> Path:
    facts = {"name": "csv", "fingerprint": "0" * 16, "features": FEATURES}
    save_checkpoint(folder, model, experiment, data=facts, history=HISTORY)
    return folder


def state(model: MultimodalLLM) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def content(folder: Path) -> dict[str, str]:
    """Every file below a folder, hidden ones too, by a checksum of what is in it."""
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()}


def edit_manifest(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def replace_file(folder: Path, name: str, data: bytes) -> None:
    """Put another content into a file of the checkpoint, and its checksum into the manifest."""
    (folder / name).write_bytes(data)
    entry = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    edit_manifest(folder, lambda manifest: manifest["files"].update({name: entry}))


def refuses(model: MultimodalLLM, folder: Path, sentence: str) -> None:
    """Loading fails with this sentence."""
    with pytest.raises(CheckpointError, match=f"^{re.escape(sentence)}$"):
        load_checkpoint(model, folder)


# There and back.


@pytest.mark.parametrize("overrides", [[], ADAPTED, FULL], ids=["projector", "with adapters", "with tower and adapters"])
def test_what_is_saved_is_loaded(build: Build, saved: Callable[..., Path], overrides: list[str]) -> None:
    folder = saved(*overrides, "seed=1")
    _, original = build(*overrides, "seed=1")
    _, other = build(*overrides, "seed=2")
    expected, fresh = state(original), state(other)
    learnt = [name for name in expected if "lora_" in name or not name.startswith("llm.")]
    assert all(not torch.equal(fresh[name], expected[name]) for name in learnt)
    manifest = load_checkpoint(other, folder)
    assert manifest == read_manifest(folder)
    loaded = state(other)
    assert loaded.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(loaded[name], tensor), name


def test_what_the_folder_holds(saved: Callable[..., Path]) -> None:
    folder = saved(*FULL)
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    needed = {
        "manifest.json",
        "config.yaml",
        "history.json",
        "graph/projector.safetensors",
        "graph/fusion.safetensors",
        "graph/tower.safetensors",
    }
    assert needed | {"lora/adapter_config.json", "lora/adapter_model.safetensors"} <= files
    manifest = read_manifest(folder)
    assert set(manifest["files"]) == files - {"manifest.json"}
    for name, entry in manifest["files"].items():
        assert entry == {"bytes": (folder / name).stat().st_size, "sha256": content(folder)[name]}
    assert manifest["format"] == 2
    assert manifest["task"] == "graph_matching"
    assert manifest["model"]["tower"]["name"] == "graph_transformer"
    assert manifest["llm"]["hidden_size"] == 64
    assert manifest["llm"]["type"] == "llama"
    assert re.fullmatch(r"[0-9a-f]{16}", manifest["llm"]["fingerprint"])
    assert manifest["data"] == {"name": "csv", "fingerprint": "0" * 16, "features": FEATURES}
    assert read_history(folder) == HISTORY
    modes = {path.stat().st_mode & 0o777 for path in folder.rglob("*") if path.is_file()}
    assert len(modes) == 1  # nothing is the owner's alone


def test_stage1_of_a_large_model_is_small(build: Build, tmp_path: Path) -> None:
    """At the sizes of GraphGPT's (128 features, hidden size 4096), of which the number of layers changes nothing here."""
    wide = [f"model.llm.config_overrides.{name}" for name in ("hidden_size=4096", "num_hidden_layers=0", "intermediate_size=64")]
    experiment, _ = build("model/tower=graph_transformer", *wide)
    model = build_for(experiment.model, 128)
    save_checkpoint(tmp_path / "checkpoint", model, experiment, data={}, history=[])
    size = sum(path.stat().st_size for path in (tmp_path / "checkpoint").rglob("*") if path.is_file())
    assert (model.modalities["graph"].projector.linear.weight.shape, size < 5e6) == ((4096, 128), True)


def test_the_language_model_is_not_in_it(saved: Callable[..., Path]) -> None:
    folder = saved()
    tensors = [name for path in folder.rglob("*.safetensors") for name in load_file(path)]
    assert sorted(tensors) == ["linear.bias", "linear.weight", "weight"]
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 100_000


def test_the_experiment_comes_back(build: Build, saved: Callable[..., Path]) -> None:
    folder = saved(*FULL, "seed=7")
    experiment, _ = build(*FULL, "seed=7")
    assert read_config(ExperimentConfig, checkpoint_experiment(folder)) == experiment


def test_where_it_started_is_not_asked_for_again(build: Build, saved: Callable[..., Path], tmp_path: Path) -> None:
    stage1 = saved()
    experiment, model = build(f"start_from={stage1}")
    folder = save(tmp_path / "second", experiment, model)
    assert yaml.safe_load((folder / "config.yaml").read_text())["start_from"] == str(stage1)
    assert read_manifest(folder)["parent"]["path"] == str(stage1)
    assert checkpoint_experiment(folder)["start_from"] is None


def test_a_run_folder_stands_for_its_checkpoint(build: Build, saved: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = saved()
    assert find_checkpoint(folder) == find_checkpoint(folder.parent) == folder
    load_checkpoint(build()[1], str(folder.parent))
    monkeypatch.setenv("HOME", str(folder.parents[1]))
    assert find_checkpoint("~/run") == folder
    assert checkpoint_problems(str(folder), "checkpoint") == []


def test_adapters_that_are_new_stay_as_they_are(build: Build, saved: Callable[..., Path]) -> None:
    folder = saved("seed=1")
    _, model = build(*ADAPTED, "seed=2")
    before = state(model)
    load_checkpoint(model, folder)
    after = state(model)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {f"modalities.graph.{name}" for name in ("projector.linear.weight", "projector.linear.bias", "fusion.weight")}


# What does not fit.


@pytest.mark.parametrize(
    ("override", "what"),
    [
        ("hidden_size=32", "hidden_size 64); this one is 'random:tiny' with hidden_size 32."),
        ("vocab_size=300", "vocabulary 259); this one is 'random:tiny' with vocabulary 300."),
        ("num_hidden_layers=1", "fingerprint "),
        ("initializer_range=0.05", "fingerprint "),
    ],
)
def test_another_language_model(build: Build, saved: Callable[..., Path], override: str, what: str) -> None:
    folder = saved()
    _, model = build(f"model.llm.config_overrides.{override}")
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(model, folder)
    assert str(caught.value).startswith(f"{folder} was made for another language model ('random:tiny', {what}")
    if what == "fingerprint ":
        assert str(caught.value).endswith(f"this one is 'random:tiny' with fingerprint {model.llm_fingerprint}.")


def test_a_folder_without_checkpoint(build: Build, tmp_path: Path) -> None:
    _, model = build()
    empty = tmp_path / "empty"
    empty.mkdir()
    refuses(model, tmp_path / "gone", f"{tmp_path}/gone does not exist.")
    refuses(model, empty, f"{empty} holds no checkpoint: there is no manifest.json in it or in {empty}/checkpoint.")


def test_a_missing_file(build: Build, saved: Callable[..., Path]) -> None:
    folder = saved()
    (folder / "graph/projector.safetensors").unlink()
    refuses(build()[1], folder, f"{folder} is incomplete: graph/projector.safetensors is missing.")


def test_a_file_cut_short(build: Build, saved: Callable[..., Path]) -> None:
    folder = saved()
    file = folder / "graph/projector.safetensors"
    size = file.stat().st_size
    file.write_bytes(file.read_bytes()[:-1])
    refuses(build()[1], folder, f"{file} has {size - 1:,} bytes, expected {size:,}: it was cut short or changed.")


def test_a_changed_byte(build: Build, saved: Callable[..., Path]) -> None:
    folder = saved()
    file = folder / "graph/projector.safetensors"
    data = bytearray(file.read_bytes())
    data[-3] ^= 1
    file.write_bytes(data)
    refuses(build()[1], folder, f"{file} does not match its checksum: it was changed or damaged.")


def test_a_newer_format(build: Build, saved: Callable[..., Path]) -> None:
    folder = saved()
    edit_manifest(folder, lambda manifest: manifest.update(format=FORMAT + 1))
    refuses(build()[1], folder, f"{folder} has checkpoint format {FORMAT + 1}; this version reads up to {FORMAT}: update graphgpt.")
    assert checkpoint_problems(str(folder), "start_from") == [
        f"start_from: {folder} has checkpoint format {FORMAT + 1}; this version reads up to {FORMAT}: update graphgpt."
    ]


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"format": "new"}', '{"format": null}', '{"format": 1}'])
def test_a_manifest_that_is_none(build: Build, saved: Callable[..., Path], text: str) -> None:
    folder = saved()
    (folder / "manifest.json").write_text(text)
    with pytest.raises(CheckpointError, match=f"^{re.escape(str(folder))}/manifest.json cannot be read as a manifest: "):
        load_checkpoint(build()[1], folder)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            lambda state: {name: tensor for name, tensor in state.items() if name != "linear.bias"},
            "its graph/projector has no 'linear.bias' (1 of 2 tensors missing).",
        ),
        (
            lambda state: {f"old.{name}": tensor for name, tensor in state.items()},
            "its graph/projector has no 'linear.bias' (2 of 2 tensors missing).",
        ),
        (
            lambda state: state | {"linear.extra": torch.zeros(1)},
            "its graph/projector has 'linear.extra', which this model's graph/projector has not.",
        ),
        (
            lambda state: state | {"linear.bias": torch.zeros(63)},
            "its graph/projector has 'linear.bias' of shape [63], this model's is [64].",
        ),
    ],
    ids=["missing", "no key matches", "surplus", "misshaped"],
)
def test_tensors_that_do_not_fit(
    build: Build, saved: Callable[..., Path], change: Callable[[dict[str, Tensor]], dict[str, Tensor]], sentence: str
) -> None:
    folder = saved()
    file = folder / "graph/projector.safetensors"
    save_file(change(load_file(file)), file)
    replace_file(folder, str(file.relative_to(folder)), file.read_bytes())
    refuses(build()[1], folder, f"{folder} does not fit: {sentence}")


def test_another_width_of_features(build: Build, saved: Callable[..., Path]) -> None:
    folder = saved("model/tower=identity")
    experiment, _ = build("model/tower=identity")
    wider = build_for(experiment.model, FEATURES + 2)
    refuses(wider, folder, f"{folder} does not fit: its graph/projector has 'linear.weight' of shape [64, 8], this model's is [64, 10].")


def test_adapters_without_lora(build: Build, saved: Callable[..., Path]) -> None:
    folder = saved(*ADAPTED)
    refuses(build()[1], folder, f"{folder} has adapters for the language model, but model.lora.rank is 0.")


def test_adapters_of_another_rank_or_place(build: Build, saved: Callable[..., Path]) -> None:
    folder = saved(*ADAPTED)
    with pytest.raises(CheckpointError, match=r"does not fit: its lora has '.*' of shape \[4, 128\], this model's is \[8, 128\]\.$"):
        load_checkpoint(build("model/lora=default", "model.lora.rank=8")[1], folder)
    with pytest.raises(CheckpointError, match=r"does not fit: its lora has '.*', which this model's lora has not\.$"):
        load_checkpoint(build(*ADAPTED, "model.lora.targets=qv")[1], folder)


def test_a_tower_with_weights_in_place_of_one_without(build: Build, saved: Callable[..., Path]) -> None:
    folder = saved("model/tower=graph_transformer")
    with pytest.raises(
        CheckpointError, match=r"does not fit: its graph/(projector|tower has '.*', which this model's graph/tower has not\.$)"
    ):
        load_checkpoint(build()[1], folder)


# The hand-over, seen before any weight is read.


def hand_over(base: list[str], *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        check_command_line(ExperimentConfig, "train", [*base, *overrides])
    return caught.value.problems


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["model.tower.hops=7"], "{path} has tower.hops=2, but model.tower.hops=7."),
        (["model.llm.path=other/model"], "{path} was made for the language model 'random:tiny', not for model.llm.path=other/model."),
    ],
)
def test_hand_over_to_another_model(base: list[str], saved: Callable[..., Path], overrides: list[str], sentence: str) -> None:
    path = saved()
    assert hand_over(base, f"start_from={path}", *overrides) == [f"start_from: {sentence.format(path=path)}"]


@pytest.mark.parametrize(
    ("theirs", "ours", "sentence"),
    [
        ("chat", "vicuna_v1", "{path} has template.name='chat', but model.template.name='turns'; choose model/template=chat."),
        (
            "vicuna_v1",
            "chat",
            "{path} has template.name='turns', but model.template.name='chat'; choose the model/template that it was trained with.",
        ),
        ("vicuna_v1", "plain", "{path} has template.user='USER: {{content}} ', but model.template.user='{{inputs}}'."),
    ],
)
def test_hand_over_of_adapters_to_another_template(
    base: list[str], saved: Callable[..., Path], theirs: str, ours: str, sentence: str
) -> None:
    path = saved("model/lora=default", f"model/template={theirs}")
    found = hand_over(base, f"start_from={path}", "model/lora=default", f"model/template={ours}")
    assert f"start_from: {sentence.format(path=path)}" in found


def test_a_projector_goes_with_every_template(base: list[str], saved: Callable[..., Path]) -> None:
    """The language model learned nothing: LLaVA's first stage has a form of its own."""
    check_command_line(ExperimentConfig, "train", [*base, f"start_from={saved('model/template=plain')}", "model/template=vicuna_v1"])


def test_hand_over_to_another_tower_and_projector(base: list[str], saved: Callable[..., Path]) -> None:
    path = saved()
    assert hand_over(base, f"start_from={path}", "model/tower=gcn", "model/projector=mlp") == [
        f"start_from: {path} has tower.name='sgc', but model.tower.name='gcn'; choose model/tower=sgc.",
        f"start_from: {path} has projector.name='linear', but model.projector.name='mlp'; choose model/projector=linear.",
    ]


def test_hand_over_to_a_model_that_reads_other_tokens(base: list[str], saved: Callable[..., Path]) -> None:
    path = saved()
    assert hand_over(base, f"start_from={path}", "model.compat.last_input_only=true") == [
        f"start_from: {path} has compat.last_input_only=False, but model.compat.last_input_only=True."
    ]


def test_hand_over_that_would_drop_adapters(base: list[str], saved: Callable[..., Path]) -> None:
    path = saved(*ADAPTED)
    assert hand_over(base, f"start_from={path}") == [f"start_from: {path} has adapters of rank 4, but model.lora.rank=0 would drop them."]
    assert check_command_line(ExperimentConfig, "train", [*base, f"start_from={path}", *ADAPTED]).start_from == str(path)


def test_dropout_and_training_the_tower_may_change(base: list[str], saved: Callable[..., Path]) -> None:
    path = saved(*FULL)
    changes = ["model.tower.train=true", "model.tower.dropout=0.3", "model.projector.dropout=0.2", "model.lora.dropout=0.1"]
    assert check_command_line(ExperimentConfig, "train", [*base, *FULL, f"start_from={path}", *changes]).model.tower.train


# All or nothing.


@pytest.mark.parametrize("calls", [0, 1])
def test_a_save_that_fails_leaves_the_older_checkpoint(
    build: Build, saved: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, calls: int
) -> None:
    folder = saved(*FULL, "seed=1")
    experiment, model = build(*FULL, "seed=2")
    before = content(folder.parent)
    written = []

    def full_disk(tensors: dict[str, Tensor], file: Path) -> None:
        if len(written) == calls:
            raise OSError(28, "No space left on device")
        written.append(file)
        save_file(tensors, file)

    monkeypatch.setattr("safetensors.torch.save_file", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save(folder, experiment, model)
    assert content(folder.parent) == before
    assert [path.name for path in folder.parent.iterdir()] == ["checkpoint"]


def test_a_first_save_that_fails_leaves_nothing(build: Build, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full_disk(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    experiment, model = build()  # first: what transformers imports for the first time, it keeps
    monkeypatch.setattr("safetensors.torch.save_file", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save(tmp_path / "run" / "checkpoint", experiment, model)
    assert list((tmp_path / "run").iterdir()) == []


def test_a_save_replaces_the_older_checkpoint(build: Build, saved: Callable[..., Path]) -> None:
    folder = saved(*FULL)
    save(folder, *build())
    assert not (folder / "lora").exists()
    assert not (folder / "graph/tower.safetensors").exists()
    assert [path.name for path in folder.parent.iterdir()] == ["checkpoint"]
    load_checkpoint(build("seed=3")[1], folder)


def test_what_a_crash_left_does_not_stand_in_the_way(build: Build, saved: Callable[..., Path]) -> None:
    """A process killed between the two renames leaves the older checkpoint aside."""
    folder = saved()
    aside = folder.with_name(".checkpoint.old")
    aside.mkdir()
    (aside / "manifest.json").touch()
    save(folder, *build("seed=2"))


# A checkpoint is data.


@pytest.mark.parametrize("part", ["optimizer", "callbacks", "loggers"])
def test_a_forbidden_target_is_refused_and_never_called(saved: Callable[..., Path], tmp_path: Path, part: str) -> None:
    folder = saved()
    data = yaml.safe_load((folder / "config.yaml").read_text())
    leaf = {"_target_": "os.system", "command": f"touch {tmp_path}/called"}
    data["runner"][part] = leaf if part == "optimizer" else {"mine": leaf}
    replace_file(folder, "config.yaml", yaml.safe_dump(data).encode())
    with pytest.raises(ConfigError) as caught:
        read_config(ExperimentConfig, checkpoint_experiment(folder))
    key = f"runner.{part}" + ("" if part == "optimizer" else ".mine")
    [problem] = caught.value.problems
    assert problem.startswith(f"{key}._target_: 'os.system' is not allowed; ")
    assert not (tmp_path / "called").exists()


def test_an_allowed_target_is_not_called_either(build: Build, saved: Callable[..., Path]) -> None:
    folder = saved()
    data = yaml.safe_load((folder / "config.yaml").read_text())
    data["runner"]["optimizer"] = {"_target_": "torch.optim.SGD", "lr": {"no": "number"}}
    replace_file(folder, "config.yaml", yaml.safe_dump(data).encode())
    assert read_config(ExperimentConfig, checkpoint_experiment(folder)).runner.optimizer == data["runner"]["optimizer"]
    load_checkpoint(build()[1], folder)


def test_a_config_makes_no_objects(saved: Callable[..., Path], tmp_path: Path) -> None:
    folder = saved()
    replace_file(folder, "config.yaml", f"name: !!python/object/apply:os.system ['touch {tmp_path}/called']\n".encode())
    with pytest.raises(Exception, match=r"could not determine a constructor|config\.yaml"):
        checkpoint_experiment(folder)
    assert not (tmp_path / "called").exists()


def test_a_config_that_is_no_mapping(saved: Callable[..., Path]) -> None:
    folder = saved()
    (folder / "config.yaml").write_text("- a\n- b\n")
    with pytest.raises(
        CheckpointError, match=r"config\.yaml cannot be read as .*: input should be a valid dictionary, found \['a', 'b'\]\.$"
    ):
        checkpoint_experiment(folder)


@pytest.mark.parametrize("text", [None, "name: [\n", "name: !!python/none:x y\n"], ids=["missing", "not yaml", "not plain yaml"])
def test_a_config_that_cannot_be_read(saved: Callable[..., Path], text: str | None) -> None:
    folder = saved()
    (folder / "config.yaml").unlink()
    if text is not None:
        (folder / "config.yaml").write_text(text)
    with pytest.raises(CheckpointError, match=r"config\.yaml"):
        checkpoint_experiment(folder)
