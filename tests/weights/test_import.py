"""What GraphGPT's programs wrote comes in: recognised, exact, and refused where something is wrong."""

import dataclasses
import errno
import json
import os
import pickle
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import weight_sources as sources
from helpers import build_for, make_model, model_config, parsed
from safetensors.torch import load_file
from torch import Tensor

from graphgpt.checkpoints.folder import checkpoint_experiment, load_checkpoint, read_manifest
from graphgpt.cli.main import main
from graphgpt.config.experiment import ExperimentConfig, read_config
from graphgpt.errors import CheckpointError, DataError, GraphGPTError
from graphgpt.files.tensors import TensorFiles, groups
from graphgpt.graphs.subgraph import GraphInput
from graphgpt.models.llm import LLMConfig, llm_fingerprint, load_llm, load_tokenizer
from graphgpt.models.tower import load_tower
from graphgpt.registry import MODELS, TOWERS
from graphgpt.weights.importing import import_weights


def quiet(_: str) -> None:
    return None


def load(folder: Path) -> Any:
    """The model that evaluate.py would make of a checkpoint folder."""
    experiment = read_config(ExperimentConfig, checkpoint_experiment(folder))
    model = build_for(experiment.model, read_manifest(folder)["data"]["features"])
    load_checkpoint(model, folder)
    return model.eval()


def dense(state: dict[str, Tensor], x: Tensor, edges: Tensor, heads: int) -> Tensor:
    """The released mathematics written out with a full score matrix per head, in the dtype of ``x``."""
    state = {name: tensor.to(x.dtype) for name, tensor in state.items()}
    h = x @ state["W_P.weight"].T + state["W_P.bias"]
    adjacent = torch.zeros(len(x), len(x), dtype=torch.bool)
    adjacent[edges[0], edges[1]] = True
    for layer in range(sources.LAYERS):
        heard = []
        for head in range(heads):
            part = slice(head * h.shape[1] // heads, (head + 1) * h.shape[1] // heads)
            q, k, v = (h @ state[f"gtLayers.{layer}.{which}Trans"][:, part] for which in "qkv")
            score = (q @ k.T).clamp(-10, 10).exp() * adjacent
            heard.append(score / (score.sum(dim=1, keepdim=True) + 1e-8) @ v)
        h = h + torch.cat(heard, dim=1)
        centred = h - h.mean(dim=1, keepdim=True)
        scaled = centred / (centred.square().mean(dim=1, keepdim=True) + 1e-6).sqrt()
        h = scaled * state[f"gtLayers.{layer}.norm.weight"] + state[f"gtLayers.{layer}.norm.bias"]
    return h @ state["inverW_P.weight"].T + state["inverW_P.bias"]


# The tower.


@pytest.fixture
def released(tmp_path: Path) -> Path:
    return sources.write_tower(tmp_path / "clip_gt_arxiv_pub")


def built(folder: Path, **fields: Any) -> Any:
    card = json.loads((folder / "tower.json").read_text())
    tower = TOWERS.build(parsed(TOWERS.get("graph_transformer").Config, card["tower"] | fields), card["input_dim"])
    load_tower(tower, folder)
    return tower.eval()


@pytest.mark.parametrize("direction", ["as_released", "undirected"])
def test_a_released_tower_gives_the_released_states(released: Path, tmp_path: Path, direction: str) -> None:
    """float64: as the independent recomputation; the weights themselves bit for bit."""
    said: list[str] = []
    import_weights(released, tmp_path / "tower", say=said.append)
    what = "a released graph tower: 20 tensors gnn.*; what else it has (7 tensors, its text tower) is left out."
    assert said[0] == f"{released}/clip_gt_arxiv_pub.pkl is {what}"
    tower = built(tmp_path / "tower", edge_direction=direction)
    expected = sources.tower_tensors()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in tower.state_dict().items())
    assert tower.state_dict().keys() == expected.keys()
    x = sources.random(9, sources.FEATURES, seed=5).double() * 3
    pairs = torch.randperm(81, generator=torch.Generator().manual_seed(1))[:25]
    edges = torch.stack([pairs // 9, pairs % 9])
    item = GraphInput(x=x, edge_index=edges, num_tokens=9)
    both = edges if direction == "as_released" else torch.cat([edges, edges.flip(0)], dim=1)
    with torch.no_grad():
        found = tower.double()(tower.reader().collate([item]))
    torch.testing.assert_close(found, dense(expected, x, both, sources.HEADS), atol=1e-12, rtol=1e-12)


def test_a_released_tower_in_float32(released: Path, tmp_path: Path) -> None:
    """As it runs: the float64 recomputation within float32's rounding."""
    import_weights(released, tmp_path / "tower", say=quiet)
    tower = built(tmp_path / "tower", edge_direction="as_released")
    x = sources.random(7, sources.FEATURES, seed=5)
    edges = torch.stack([torch.arange(7), (torch.arange(7) + 3) % 7])
    with torch.no_grad():
        found = tower(tower.reader().collate([GraphInput(x=x, edge_index=edges, num_tokens=7)]))
    torch.testing.assert_close(found, dense(sources.tower_tensors(), x.double(), edges, sources.HEADS).float(), atol=1e-5, rtol=1e-5)


def test_a_tower_without_its_config(tmp_path: Path) -> None:
    torch.save(sources.clip_tensors(), tmp_path / "mine.pkl")
    said: list[str] = []
    import_weights(tmp_path / "mine.pkl", tmp_path / "tower", say=said.append)
    assert "No config.json lies beside it: heads are taken to be 8, as released, which shapes do not tell." in said
    fields = json.loads((tmp_path / "tower" / "tower.json").read_text())["tower"]
    assert fields == {
        "name": "graph_transformer",
        "dim": 16,
        "output_dim": 16,
        "layers": 3,
        "heads": 8,
        "norm": True,
        "use_position": False,
    }


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"gnn_type": "gcn"}, "its config.json says gnn_type 'gcn'; only 'gt', the graph transformer, can be read."),
        ({"gt_layers": 2}, "does not fit: its tower has 'gtLayers.2.kTrans', which this model's tower has not."),
        ({"gt_layers": 4}, "does not fit: its tower has no 'gtLayers.3.kTrans' (5 of 25 tensors missing)."),
        ({"att_d_model": 8}, "does not fit: its tower has 'W_pos' of shape [1, 16], this model's is [1, 8]."),
        ({"head": 3}, "its tower cannot be built. model.tower.heads: 3 heads do not divide model.tower.dim=16."),
    ],
)
def test_a_tower_that_its_config_does_not_fit(tmp_path: Path, change: dict[str, Any], sentence: str) -> None:
    released = sources.write_tower(tmp_path / "released", card=sources.TOWER_CARD | change)
    with pytest.raises(CheckpointError, match=re.escape(sentence)):
        import_weights(released, tmp_path / "tower", say=quiet)
    assert [path.name for path in tmp_path.iterdir()] == ["released"]


def test_a_model_takes_the_towers_weights(released: Path, tmp_path: Path) -> None:
    import_weights(released, tmp_path / "tower", say=quiet)
    fields = json.loads((tmp_path / "tower" / "tower.json").read_text())["tower"]
    model = make_model(sources.FEATURES, tower=fields | {"init_from": str(tmp_path / "tower")})
    assert all(torch.equal(tensor, sources.tower_tensors()[name]) for name, tensor in model.modalities["graph"].tower.state_dict().items())
    with pytest.raises(CheckpointError, match=r"has a tower for 6 features per node; the graph has 5\.$"):
        make_model(5, tower=fields | {"init_from": str(tmp_path / "tower")})
    wrong = model_config(tower=fields)
    for change, problem in [
        ({"heads": 4}, f"model.tower.heads=4: the weights of {tmp_path}/tower are for heads=8."),
        (
            {"init_from": str(tmp_path)},
            f"model.tower.init_from: {tmp_path} holds no weights of a tower: it has no tower.json "
            "(python train.py experiment=stage0 and graphgpt weights import make one)",
        ),
    ]:
        config = parsed(TOWERS.get("graph_transformer").Config, fields | {"init_from": str(tmp_path / "tower")} | change)
        [found] = MODELS.get("multimodal_llm").problems(dataclasses.replace(wrong, tower=config))
        assert found.startswith(problem)  # and what there is near it


# Projectors, full models, trainers' checkpoints.


def checked(folder: Path) -> Any:
    """The model of an imported checkpoint, its learnt parts compared with what the sources hold."""
    model = load(folder)
    theirs = sources.full_tensors()
    assert torch.equal(model.modalities["graph"].projector.linear.weight, theirs["model.graph_projector.weight"])
    assert torch.equal(model.modalities["graph"].projector.linear.bias, theirs["model.graph_projector.bias"])
    assert torch.equal(model.modalities["graph"].fusion.weight, theirs["model.embed_tokens.weight"][-2:])
    assert all(torch.equal(tensor, sources.tower_tensors()[name]) for name, tensor in model.modalities["graph"].tower.state_dict().items())
    return model


@pytest.mark.parametrize("form", ["bin", "safetensors", "lone"])
def test_a_full_model_with_its_language_model(tmp_path: Path, form: str) -> None:
    source = sources.write_full(tmp_path / "source", form)
    said: list[str] = []
    import_weights(source, tmp_path / "out", base=tmp_path / "base", shard=50_000, say=said.append)
    assert "is a full GraphGPT model: 2 tensors of the projector, 20 of the tower, an embedding matrix, 21 of the language model" in said[0]
    model = checked(tmp_path / "out")
    theirs = sources.llama_tensors()
    for name, tensor in model.llm.state_dict().items():
        assert torch.equal(tensor.float(), theirs[name][: sources.VOCABULARY].bfloat16().float() if tensor.ndim else theirs[name]), name
    assert model.llm.config.model_type == "llama"
    assert model.llm.config.vocab_size == sources.VOCABULARY
    assert not hasattr(model.llm.config, "graph_tower")
    tokenizer = load_tokenizer(LLMConfig(path=str(tmp_path / "base")))
    assert max(tokenizer("a <g_patch> b")["input_ids"]) < sources.VOCABULARY
    assert "<g_patch>" not in "".join(file.read_text() for file in (tmp_path / "base").glob("*.json"))
    assert len(list((tmp_path / "base").glob("model-*.safetensors"))) > 2
    manifest = read_manifest(tmp_path / "out")
    assert manifest["llm"]["fingerprint"] == llm_fingerprint(load_llm(LLMConfig(path=str(tmp_path / "base"))))
    assert manifest["imported"]["kind"] == "full model"


def test_a_full_model_on_a_base_that_is_there(tmp_path: Path) -> None:
    source = sources.write_full(tmp_path / "source", "bin")
    import_weights(source, tmp_path / "first", base=tmp_path / "base", say=quiet)
    import_weights(source, tmp_path / "second", llm=str(tmp_path / "base"), say=quiet)
    assert read_manifest(tmp_path / "second")["llm"] == read_manifest(tmp_path / "first")["llm"]
    checked(tmp_path / "second")
    with pytest.raises(CheckpointError, match=r"^The language model in .* is not 'random:tiny' \(fingerprints .*\); write it to a folder"):
        import_weights(source, tmp_path / "third", llm="tiny_random", say=quiet)
    assert not (tmp_path / "third").exists()


def test_a_full_model_whose_base_is_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fingerprint comes from the source, so that a wrong base is found out when it is loaded."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    source = sources.write_full(tmp_path / "source", "safetensors", dtype=torch.float16)
    import_weights(source, tmp_path / "out", say=quiet)
    facts = read_manifest(tmp_path / "out")["llm"]
    assert (facts["hidden_size"], facts["vocabulary"]) == (sources.HIDDEN, sources.VOCABULARY)
    assert re.fullmatch("[0-9a-f]{16}", facts["fingerprint"])
    assert read_manifest(tmp_path / "out")["model"]["llm"]["path"] == "lmsys/vicuna-7b-v1.5"


PROJECTORS: dict[str, Callable[[], Any]] = {
    "extractor, full matrix": lambda: (
        sources.projector_tensors() | {"model.embed_tokens.weight": sources.llama_tensors()["model.embed_tokens.weight"]}
    ),
    "extractor, two rows": lambda: (
        sources.projector_tensors() | {"model.embed_tokens.weight": sources.llama_tensors()["model.embed_tokens.weight"][-2:].clone()}
    ),
    "Lightning": lambda: {
        "state_dict": {f"model.{name}": tensor for name, tensor in (sources.llama_tensors() | sources.projector_tensors()).items()},
        "epoch": 1,
        "global_step": 7,
        "pytorch-lightning_version": "2.0.0",
        "optimizer_states": [{"state": {}, "param_groups": [{"lr": 2e-5}]}],
    },
}


@pytest.mark.parametrize("name", PROJECTORS)
def test_projectors(tmp_path: Path, released: Path, name: str) -> None:
    torch.save(PROJECTORS[name](), tmp_path / "source.bin")
    said: list[str] = []
    arguments: dict[str, Any] = {"base": tmp_path / "base"} if name == "Lightning" else {"llm": "tiny_random"}
    if name == "Lightning":
        sources.llama_config().save_pretrained(tmp_path)
        load_tokenizer(LLMConfig(path="random:tiny")).save_pretrained(tmp_path)
    import_weights(tmp_path / "source.bin", tmp_path / "out", tower=str(released), say=said.append, **arguments)
    assert ("a trainer's checkpoint of a full GraphGPT model" if name == "Lightning" else "a GraphGPT projector") in said[0]
    checked(tmp_path / "out")
    assert ((tmp_path / "out" / "released_rows.safetensors").is_file()) == (name != "extractor, two rows")


def test_a_projector_on_a_tower_without_weights(tmp_path: Path) -> None:
    torch.save(PROJECTORS["extractor, two rows"](), tmp_path / "graph_projector.bin")
    import_weights(tmp_path / "graph_projector.bin", tmp_path / "out", llm="tiny_random", tower="identity", say=quiet)
    assert not (tmp_path / "out" / "graph/tower.safetensors").exists()
    assert load_file(tmp_path / "out" / "graph/projector.safetensors")["linear.weight"].shape == (sources.HIDDEN, sources.DIM)


def test_compat_does_as_the_original(tmp_path: Path) -> None:
    source = sources.write_full(tmp_path / "source", "bin")
    import_weights(source, tmp_path / "plain", base=tmp_path / "base", say=quiet)
    import_weights(source, tmp_path / "compat", llm=str(tmp_path / "base"), compat=True, say=quiet)
    plain, compat = (read_config(ExperimentConfig, checkpoint_experiment(tmp_path / name)).model for name in ("plain", "compat"))
    assert (plain.tower.edge_direction, compat.tower.edge_direction) == ("undirected", "as_released")
    assert plain.template.system.startswith("A chat between a curious user and an artificial intelligence assistant.")
    assert compat.template.system.startswith(
        "You are GraphGPT, a large language and graph-structral assistant trained by HKUDS Lab.You are"
    )
    assert compat.template.system.endswith("using natural language.Follow the instructions carefully and explain your answers in detail.")
    assert (plain.compat.last_input_only, plain.compat.tower_dropout) == (False, False)
    assert (compat.compat.last_input_only, compat.compat.tower_dropout) == (True, True)
    model = checked(tmp_path / "compat")
    assert torch.equal(model.modalities["graph"].fusion.blank, sources.full_tensors()["model.embed_tokens.weight"][-3:-2])
    assert model.eval().modalities["graph"].tower.training


def test_compat_needs_the_row_that_the_original_leaves(tmp_path: Path) -> None:
    torch.save(PROJECTORS["extractor, two rows"](), tmp_path / "source.bin")
    arguments: dict[str, Any] = {"llm": "tiny_random", "tower": "identity", "say": quiet}
    with pytest.raises(GraphGPTError, match=r"source\.bin has no row of <g_patch>, which the original puts where it drops a graph; leave"):
        import_weights(tmp_path / "source.bin", tmp_path / "out", compat=True, **arguments)
    assert not (tmp_path / "out").exists()


def test_a_language_model_does_not_stay_without_its_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: Any, **others: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("graphgpt.weights.importing.write_checkpoint", full)
    source = sources.write_full(tmp_path / "source", "bin")
    with pytest.raises(OSError, match="No space left"):
        import_weights(source, tmp_path / "out", base=tmp_path / "base", say=quiet)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


@pytest.mark.parametrize(
    ("tensors", "arguments", "sentence"),
    [
        (
            {"conv.weight": torch.zeros(1), "conv.bias": torch.zeros(1)},
            {},
            "holds nothing known: its tensors are conv.weight, conv.bias; expected gnn.* (a released tower) or model.graph_projector.* "
            "(a projector, a full model or a trainer's checkpoint).",
        ),
        ({}, {}, "holds nothing known: its tensors are none at all; expected"),
        (sources.projector_tensors(), {"tower": "identity"}, "has no embedding matrix, and so no rows for <g_start> and <g_end>."),
        (
            PROJECTORS["extractor, two rows"](),
            {},
            "has no tower. Name its weights: --tower FOLDER, such as the released clip_gt_arxiv_pub;",
        ),
        (
            PROJECTORS["extractor, two rows"](),
            {"tower": "identty"},
            "--tower identty is no file, no folder and no config of a tower without weights. Did you mean 'identity'?",
        ),
        (
            PROJECTORS["extractor, two rows"](),
            {"tower": "identity", "llm": "vicuna_7"},
            "--llm vicuna_7 is no shipped config, no folder and no hub id. Did you mean 'vicuna_7b'?",
        ),
        (
            PROJECTORS["extractor, two rows"]() | {"model.graph_projector.2.weight": torch.zeros(1)},
            {"tower": "identity"},
            "its projector has 2.weight, bias, weight; expected weight and bias of one linear layer.",
        ),
        (
            {**sources.projector_tensors(), "model.embed_tokens.weight": torch.zeros(2, 5)},
            {"tower": "identity"},
            "'model.embed_tokens.weight' has the shape [2, 5]; expected [tokens, 64], as the projector.",
        ),
        (
            {
                "model.graph_projector.weight": torch.zeros(32, 16),
                "model.graph_projector.bias": torch.zeros(32),
                "model.embed_tokens.weight": torch.zeros(2, 32),
            },
            {"tower": "identity", "llm": "tiny_random"},
            "was made for a language model of hidden_size 32; 'random:tiny' has 64.",
        ),
        (
            PROJECTORS["extractor, two rows"](),
            {"tower": "identity", "base": "b", "llm": "tiny_random"},
            "holds no language model: --base has",
        ),
    ],
)
def test_what_cannot_be_imported(tmp_path: Path, tensors: dict[str, Tensor], arguments: dict[str, Any], sentence: str) -> None:
    torch.save(tensors, tmp_path / "source.bin")
    arguments = {name: tmp_path / value if name == "base" else value for name, value in arguments.items()}
    with pytest.raises(GraphGPTError, match=re.escape(sentence)):
        import_weights(tmp_path / "source.bin", tmp_path / "out", say=quiet, **arguments)
    assert [path.name for path in tmp_path.iterdir()] == ["source.bin"]


def _odd_numbers() -> dict[str, tuple[str, Tensor, str]]:
    """A projector's tensors that are none of weights: which, what, and the sentence after the file's name."""
    weight, bias = "model.graph_projector.weight", "model.graph_projector.bias"
    whole = sources.projector_tensors()[weight]
    found = {
        value: (weight, torch.full_like(whole, float(value)), f"'{weight}' holds numbers that are not finite (NaN or infinite).")
        for value in ("nan", "inf")
    }
    for dtype in ("int64", "bool", "complex64"):
        tensor = torch.ones(whole.shape, dtype=getattr(torch, dtype))
        found[dtype] = (weight, tensor, f"'{weight}' holds {dtype}; weights are floating-point numbers.")
    shapes = "its projector has a weight of shape {} and a bias of {}; expected [m, n] and [m]."
    found["short bias"] = (bias, torch.zeros(3), shapes.format([64, 16], [3]))
    found["0-d"] = (weight, torch.tensor(1.0), shapes.format([], [64]))
    found["embeddings"] = ("model.embed_tokens.weight", torch.full((2, 64), float("nan")), "'model.embed_tokens.weight' holds numbers that")
    plain = "'model.graph_projector.weight' is {}; expected plain tensors, with every number in its place."
    found["sparse"] = (weight, whole.to_sparse(), plain.format("sparse or nested"))
    found["quantised"] = (weight, torch.quantize_per_tensor(whole, 0.1, 0, torch.qint8), plain.format("quantised"))
    found["meta"] = (weight, whole.to("meta"), plain.format("without numbers"))
    return found


@pytest.mark.parametrize("case", _odd_numbers())
def test_a_projector_that_holds_no_weights(tmp_path: Path, case: str) -> None:
    name, tensor, sentence = _odd_numbers()[case]
    torch.save(PROJECTORS["extractor, two rows"]() | {name: tensor}, tmp_path / "source.bin")
    with pytest.raises(GraphGPTError, match=rf"source\.bin: {re.escape(sentence)}"):
        import_weights(tmp_path / "source.bin", tmp_path / "out", tower="identity", llm="tiny_random", say=quiet)
    assert [path.name for path in tmp_path.iterdir()] == ["source.bin"]


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64])
def test_a_tower_that_holds_no_weights(tmp_path: Path, dtype: torch.dtype) -> None:
    (tmp_path / "source").mkdir()
    torch.save(sources.clip_tensors() | {"gnn.W_P.bias": torch.ones(sources.DIM, dtype=dtype)}, tmp_path / "source" / "x.pkl")
    with pytest.raises(CheckpointError, match=r"x\.pkl: 'gnn\.W_P\.bias' holds \w+; weights are floating-point numbers\.$"):
        import_weights(tmp_path / "source", tmp_path / "out", say=quiet)
    assert not (tmp_path / "out").exists()


def test_settings_beside_the_weights_that_are_too_deep(tmp_path: Path) -> None:
    source = sources.write_tower(tmp_path / "source")
    (source / "config.json").write_text("[" * 10**5)
    with pytest.raises(DataError, match=r"config\.json cannot be read as JSON settings: "):
        import_weights(source, tmp_path / "out", say=quiet)
    assert not (tmp_path / "out").exists()


def test_tokens_in_another_order_are_refused(tmp_path: Path) -> None:
    source = sources.write_full(tmp_path / "source", "bin")
    (source / "added_tokens.json").write_text(json.dumps({"<g_start>": 259, "<g_end>": 260, "<g_patch>": 261}))
    with pytest.raises(CheckpointError, match=r"added_tokens\.json: expected .*<g_patch>': 259.*, found .*<g_patch>': 261"):
        import_weights(source, tmp_path / "out", say=quiet)


# Files that are not what they should be.


class Touch:
    """Pickled, this would make a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("suffix", ["pkl", "bin", "ckpt"])
@pytest.mark.parametrize("form", ["archive", "legacy", "plain pickle"])
def test_nothing_in_a_file_runs(tmp_path: Path, suffix: str, form: str, capsys: pytest.CaptureFixture[str]) -> None:
    file, mark = tmp_path / f"evil.{suffix}", tmp_path / "ran"
    content = {"state_dict": {"model.model.graph_projector.weight": torch.zeros(2, 2)}, "callbacks": Touch(mark)}
    if form == "plain pickle":
        file.write_bytes(pickle.dumps(Touch(mark), protocol=2))
    else:
        torch.save(content, file, _use_new_zipfile_serialization=form == "archive")
    with pytest.raises(SystemExit) as left:
        main(["weights", "import", str(file), "--out", str(tmp_path / "out")])
    assert left.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith(
        f"{file} is refused: it names 'posix.system', which a file of weights does not need and which could run code."
    ), said
    assert not mark.exists()
    assert not (tmp_path / "out").exists()


def test_nothing_in_a_shard_runs(tmp_path: Path) -> None:
    source, mark = sources.write_full(tmp_path / "source", "bin"), tmp_path / "ran"
    torch.save({"x": Touch(mark)}, source / "pytorch_model-00002-of-00003.bin")
    with pytest.raises(DataError, match=r"pytorch_model-00002-of-00003\.bin is refused: it names 'posix\.system'"):
        import_weights(source, tmp_path / "out", say=quiet)
    assert not mark.exists()


def test_a_shard_outside_its_folder_is_refused(tmp_path: Path) -> None:
    source = sources.write_full(tmp_path / "source", "bin")
    index = source / "pytorch_model.bin.index.json"
    index.write_text(index.read_text().replace("pytorch_model-00001", "../pytorch_model-00001"))
    with pytest.raises(
        DataError, match=r"index\.json is refused: it places '.*' in '\.\./pytorch_model-00001-of-00003\.bin', outside its folder"
    ):
        TensorFiles(source)


@pytest.mark.parametrize("form", ["bin", "safetensors"])
def test_damaged_and_missing_shards(tmp_path: Path, form: str) -> None:
    source = sources.write_full(tmp_path / "source", form)
    file = sorted(source.glob(f"*-00002-of-00003.{form}"))[0]
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=rf"{re.escape(str(file))} is (damaged|refused)"):
        TensorFiles(source)
    file.unlink()
    with pytest.raises(DataError, match=rf"is incomplete: {re.escape(file.name)} is missing, which .*index\.json names\."):
        TensorFiles(source)


def test_folders_that_are_no_source(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no weights; expected model\.safetensors\.index\.json"):
        TensorFiles(tmp_path)
    for name in ("a.bin", "b.bin"):
        torch.save({}, tmp_path / name)
    with pytest.raises(DataError, match=r"holds several files \(a\.bin, b\.bin\): name one; expected"):
        TensorFiles(tmp_path)
    with pytest.raises(DataError, match=r"ab\.bin does not exist\. Did you mean '[ab]\.bin'\?$"):
        TensorFiles(tmp_path / "ab.bin")


def test_nothing_is_overwritten(tmp_path: Path, released: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(GraphGPTError, match=r"out exists already; choose another name\.$"):
        import_weights(released, tmp_path / "out", say=quiet)


def test_groups_hold_everything_once(tmp_path: Path) -> None:
    files = TensorFiles(sources.write_full(tmp_path / "source", "bin"))
    assert zipfile.is_zipfile(next(iter(files.files)))
    for limit in (1, 20_000, 10**9):
        found = groups(files.specs, limit)
        assert [name for group in found for name in group] == list(files.specs)
        assert all(len(group) == 1 or sum(files.specs[name].bytes for name in group) <= limit for group in found)
