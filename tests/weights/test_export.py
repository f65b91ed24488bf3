"""There and back: every layout gives the tensors that came in, differences give the model, and memory follows one shard."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import weight_sources as sources
from helpers import build_for, csv_overrides
from safetensors.torch import load_file, save_file
from torch import Tensor

from graphgpt.checkpoints.folder import save_checkpoint
from graphgpt.cli.main import main
from graphgpt.config.command_line import check_command_line
from graphgpt.config.experiment import ExperimentConfig
from graphgpt.errors import CheckpointError, GraphGPTError
from graphgpt.files.tensors import TensorFiles
from graphgpt.weights.delta import apply_delta, make_delta
from graphgpt.weights.exporting import export_weights
from graphgpt.weights.importing import import_weights
from graphgpt.weights.lineage import show


def quiet(_: str) -> None:
    return None


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """The same names and the same numbers."""
    assert found.keys() == expected.keys()
    assert [name for name, tensor in expected.items() if not torch.equal(found[name], tensor)] == []


def everything(path: Path) -> dict[str, Tensor]:
    files = TensorFiles(path)
    return files.read(files.specs)


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a full model, with its language model in ``base`` beside it and the source in ``source``."""
    folder = tmp_path_factory.mktemp("imported")
    sources.write_full(folder / "source", "bin")
    import_weights(folder / "source", folder / "checkpoint", base=folder / "base", say=quiet)
    return folder / "checkpoint"


Make = Callable[..., tuple[Path, Any]]


@pytest.fixture
def trained(tmp_path: Path) -> Make:
    """``trained(*overrides)``: a checkpoint of our own with random parts, and its model."""

    def make(*overrides: str) -> tuple[Path, Any]:
        base = [*csv_overrides(tmp_path), "model/tower=graph_transformer", "model/template=vicuna_v1"]
        experiment = check_command_line(ExperimentConfig, "train", [*base, *overrides])
        torch.manual_seed(0)
        model = build_for(experiment.model, 6).eval()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_" in name or not name.startswith("llm."):
                    parameter.copy_(torch.randn_like(parameter) * 0.1)
        save_checkpoint(tmp_path / "checkpoint", model, experiment, data={"name": "toy", "fingerprint": "0", "features": 6}, history=[])
        return tmp_path / "checkpoint", model

    return make


# There and back.


def test_a_full_model_comes_back(imported: Path, tmp_path: Path) -> None:
    export_weights(imported, "graphgpt_full", tmp_path / "full", shard=60_000, say=quiet)
    theirs = {name: tensor for name, tensor in sources.full_tensors().items() if not name.endswith("inv_freq")}
    same(everything(tmp_path / "full"), theirs)
    assert len(list((tmp_path / "full").glob("pytorch_model-*.bin"))) > 2
    card = json.loads((tmp_path / "full" / "config.json").read_text())
    old = json.loads((imported.parent / "source" / "config.json").read_text())
    for key in ("model_type", "architectures", "vocab_size", "graph_hidden_size", "use_graph_start_end", "hidden_size"):
        assert card[key] == old[key], key
    assert json.loads((tmp_path / "full" / "added_tokens.json").read_text()) == sources.TOKENS
    import_weights(tmp_path / "full", tmp_path / "again", base=tmp_path / "base", say=quiet)
    for part in ("graph/projector", "graph/fusion", "graph/tower", "released_rows"):
        same(load_file(tmp_path / "again" / f"{part}.safetensors"), load_file(imported / f"{part}.safetensors"))
    same(everything(tmp_path / "base"), everything(imported.parent / "base"))


def test_a_tower_comes_back(imported: Path, tmp_path: Path) -> None:
    export_weights(imported, "graphgpt_tower", tmp_path / "clip_gt_arxiv_pub", say=quiet)
    gnn = {name: tensor for name, tensor in sources.clip_tensors().items() if name.startswith("gnn.")}
    same(torch.load(tmp_path / "clip_gt_arxiv_pub" / "clip_gt_arxiv_pub.pkl", weights_only=True), gnn)
    card = json.loads((tmp_path / "clip_gt_arxiv_pub" / "config.json").read_text())
    assert card.items() <= (sources.TOWER_CARD | {"num_nodes": 1}).items()
    import_weights(tmp_path / "clip_gt_arxiv_pub", tmp_path / "tower", say=quiet)
    same(load_file(tmp_path / "tower" / "tower.safetensors"), sources.tower_tensors())


def test_a_projector_comes_back(imported: Path, tmp_path: Path) -> None:
    export_weights(imported, "graphgpt_projector", tmp_path / "graph_projector.bin", say=quiet)
    rows = {"model.embed_tokens.weight": sources.llama_tensors()["model.embed_tokens.weight"][-2:]}
    same(torch.load(tmp_path / "graph_projector.bin", weights_only=True), sources.projector_tensors() | rows)
    tower = sources.write_tower(tmp_path / "released")
    import_weights(tmp_path / "graph_projector.bin", tmp_path / "again", tower=str(tower), llm=str(imported.parent / "base"), say=quiet)
    for part in ("graph/projector", "graph/fusion", "graph/tower"):
        same(load_file(tmp_path / "again" / f"{part}.safetensors"), load_file(imported / f"{part}.safetensors"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again", "graph_projector.bin", "released"]


def test_what_we_trained_goes_out_and_comes_in(trained: Make, tmp_path: Path) -> None:
    """The rows that we never had start as the original starts them."""
    folder, model = trained("model.llm.config_overrides.tie_word_embeddings=false")
    export_weights(folder, "graphgpt_full", tmp_path / "full", say=quiet)
    found = everything(tmp_path / "full")
    matrix, head = found["model.embed_tokens.weight"], found["lm_head.weight"]
    assert matrix.shape == head.shape == (262, 64)
    assert torch.equal(matrix[:259], model.llm.get_input_embeddings().weight)
    assert torch.equal(matrix[260:], model.modalities["graph"].fusion.weight)
    torch.testing.assert_close(matrix[259], matrix[:259].mean(dim=0))
    torch.testing.assert_close(head[259:], head[:259].mean(dim=0).expand(3, -1))
    import_weights(tmp_path / "full", tmp_path / "again", base=tmp_path / "base", say=quiet)
    for part in ("graph/projector", "graph/fusion", "graph/tower"):
        same(load_file(tmp_path / "again" / f"{part}.safetensors"), load_file(folder / f"{part}.safetensors"))


@pytest.mark.parametrize("shard", [10**9, 100_000])
def test_a_merged_model_says_the_same(trained: Make, tmp_path: Path, shard: int) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, model = trained("model/lora=default", "model.lora.rank=4")
    export_weights(folder, "hf_merged", tmp_path / "merged", shard=shard, say=quiet)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    ids = torch.arange(12)[None]
    with torch.no_grad():
        expected, plain = model.llm(ids).logits, model.llm.get_base_model()
        torch.testing.assert_close(merged(ids).logits, expected, atol=1e-5, rtol=1e-4)
        with model.llm.disable_adapter():
            assert not torch.allclose(plain(ids).logits, expected, atol=1e-2)
    assert AutoTokenizer.from_pretrained(tmp_path / "merged")("abc")["input_ids"] == model.tokenizer("abc")["input_ids"]
    same(load_file(tmp_path / "merged" / "graph/projector.safetensors"), load_file(folder / "graph/projector.safetensors"))


@pytest.mark.parametrize(
    ("overrides", "to", "sentence"),
    [
        (
            ["model/lora=default", "model.lora.rank=2"],
            "graphgpt_full",
            "has adapters, for which graphgpt_full has no place; export --to hf_merged",
        ),
        (["model/tower=sgc"], "graphgpt_tower", "has the tower 'sgc'; the original's is 'graph_transformer'."),
        (
            ["model.tower.position.name=random_walk"],
            "graphgpt_tower",
            "has a tower with position.name=random_walk; the original's has none.",
        ),
        (["model.tower.select_layer=1"], "graphgpt_tower", "has a tower with select_layer=1; the original's gives its last layer."),
        (["model/projector=mlp"], "graphgpt_projector", "has the projector 'mlp'; the original's is 'linear'."),
        ([], "graphgpt_full", "whose output head is its embedding matrix; the original's is not."),
    ],
)
def test_what_has_no_place_in_a_layout(trained: Make, tmp_path: Path, overrides: list[str], to: Any, sentence: str) -> None:
    folder, _ = trained(*overrides)
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(CheckpointError, match=re.escape(sentence)):
        export_weights(folder, to, tmp_path / "out", say=quiet)
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_a_damaged_checkpoint_is_not_exported(trained: Make, tmp_path: Path) -> None:
    folder, _ = trained()
    file = folder / "graph/projector.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="it was cut short or changed"):
        export_weights(folder, "graphgpt_projector", tmp_path / "out.bin", say=quiet)


# Differences.


def write_model(folder: Path, tensors: dict[str, Tensor], shards: int = 1) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    names = list(tensors)
    if shards == 1:
        save_file(tensors, folder / "model.safetensors")
        return folder
    places = {name: f"model-{place % shards + 1:05d}-of-{shards:05d}.safetensors" for place, name in enumerate(names)}
    for file in set(places.values()):
        save_file({name: tensors[name] for name in names if places[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    return folder


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_a_difference_gives_the_model_back(tmp_path: Path, dtype: torch.dtype, scale: float) -> None:
    """Bit for bit, with more rows, with tensors that the base has not, with any size of shards."""
    base = {"model.embed_tokens.weight": sources.random(20, 8, seed=1), "model.layers.0.w": sources.random(8, 8, seed=2)}
    base = {name: tensor.to(dtype) for name, tensor in base.items()}
    target = {name: (tensor.float() + sources.random(*tensor.shape, seed=3, scale=scale)).to(dtype) for name, tensor in base.items()}
    target["model.embed_tokens.weight"] = torch.cat([target["model.embed_tokens.weight"], sources.random(3, 8, seed=4).to(dtype)])
    target["model.graph_projector.bias"] = sources.random(8, seed=5).to(dtype)
    write_model(tmp_path / "base", base, shards=2)
    write_model(tmp_path / "target", target)
    make_delta(tmp_path / "base", tmp_path / "target", tmp_path / "delta", shard=300, say=quiet)
    delta = everything(tmp_path / "delta")
    assert torch.equal(delta["model.graph_projector.bias"], target["model.graph_projector.bias"])
    assert torch.equal(delta["model.embed_tokens.weight"][20:].to(dtype), target["model.embed_tokens.weight"][20:])
    apply_delta(tmp_path / "base", tmp_path / "delta", tmp_path / "again", shard=500, say=quiet)
    found = everything(tmp_path / "again")
    same(found, target)
    assert all(tensor.dtype == dtype for tensor in found.values())
    assert (tmp_path / "again" / "config.json").is_file()


def test_a_difference_goes_on_its_base_alone(tmp_path: Path) -> None:
    base = {"w": sources.random(4, 4, seed=1)}
    write_model(tmp_path / "base", base)
    write_model(tmp_path / "target", {"w": base["w"] + 1})
    write_model(tmp_path / "other", {"w": base["w"] * 2})
    make_delta(tmp_path / "base", tmp_path / "target", tmp_path / "delta", say=quiet)
    with pytest.raises(
        CheckpointError, match=r"other is not the base that .*delta was made with \(fingerprint [0-9a-f]{16}, expected [0-9a-f]{16}\)\.$"
    ):
        apply_delta(tmp_path / "other", tmp_path / "delta", tmp_path / "out", say=quiet)
    file = tmp_path / "delta" / "model.safetensors"
    save_file({name: tensor * 3 for name, tensor in load_file(file).items()}, file)
    with pytest.raises(CheckpointError, match="one of them was changed"):
        apply_delta(tmp_path / "base", tmp_path / "delta", tmp_path / "out", say=quiet)
    assert not (tmp_path / "out").exists()
    (tmp_path / "delta" / "delta.json").unlink()
    said: list[str] = []
    apply_delta(tmp_path / "base", tmp_path / "delta", tmp_path / "out", say=said.append)
    assert said[0].endswith("cannot be checked.")


@pytest.mark.parametrize(
    ("target", "sentence"),
    [
        ({"v": torch.zeros(4, 4)}, "has no 'w', which"),
        ({"w": torch.zeros(4, 5)}, "has 'w' of shape [4, 5], {base} of [4, 4]; only rows may be added."),
        ({"w": torch.zeros(3, 4)}, "has 'w' of shape [3, 4], {base} of [4, 4]; only rows may be added."),
    ],
)
def test_models_that_have_no_difference(tmp_path: Path, target: dict[str, Tensor], sentence: str) -> None:
    base = write_model(tmp_path / "base", {"w": torch.ones(4, 4)})
    write_model(tmp_path / "target", target)
    with pytest.raises(CheckpointError, match=re.escape(sentence.format(base=base))):
        make_delta(base, tmp_path / "target", tmp_path / "delta", say=quiet)
    assert not (tmp_path / "delta").exists()


# The command.


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    sources.write_full(Path("source"), "safetensors")
    sources.write_tower(Path("clip_gt_arxiv_pub"))
    main(["weights", "import", "clip_gt_arxiv_pub", "--out", "tower"])
    main(["weights", "show", "tower"])
    assert "tower graph_transformer  tower" in capsys.readouterr().out
    main(["weights", "import", "source", "--out", "checkpoint", "--base", "base", "--shard-size", "1MB", "--set", "name=mine"])
    capsys.readouterr()
    main(["weights", "show", "checkpoint"])
    shown = capsys.readouterr().out
    for words in (
        "instructions  checkpoint",
        f"full model, imported from {tmp_path}/source",
        "fingerprint",
        "tower.safetensors",
        "float32",
        "no scores yet",
    ):
        assert words in shown, words
    main(["weights", "export", "checkpoint", "--to", "graphgpt_projector", "--out", "graph_projector.bin"])
    main(["weights", "merge-lora", "checkpoint", "--out", "merged"])
    main(["weights", "make-delta", "base", "merged", "--out", "delta"])
    main(["weights", "apply-delta", "base", "delta", "--out", "again"])
    same(everything(Path("again")), everything(Path("merged")))
    with pytest.raises(SystemExit):
        main(["weights", "import", "source", "--out", "third", "--shard-size", "lots"])
    assert capsys.readouterr().err == "'lots' is no size; expected such as 512MB or 2GB.\n"


def test_lineage_follows_parents(trained: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    released = sources.write_tower(tmp_path / "released", card=sources.TOWER_CARD)
    import_weights(released, tmp_path / "tower", say=quiet)
    fields = json.loads((tmp_path / "tower" / "tower.json").read_text())["tower"]
    tower = [f"model.tower.{name}={value}" for name, value in fields.items() if name != "name"]
    stage1, _ = trained(f"model.tower.init_from={tmp_path}/tower", *tower)
    stage1 = stage1.rename(tmp_path / "stage1")
    stage2, _ = trained(f"start_from={stage1}", "task=node_classification", *tower)
    (stage2 / "scores.json").write_text(
        json.dumps(
            [{"task": "node_classification", "graph": "toy", "split": "test", "items": 9, "metrics": {"accuracy": 0.5}, "evaluation": "e"}]
        )
    )
    show(stage2)
    shown = capsys.readouterr().out
    places = [
        shown.index(words)
        for words in (f"node_classification  {stage2}", f"graph_matching  {stage1}", "tower graph_transformer", str(released))
    ]
    assert places == sorted(places)
    assert "node_classification on 9 test items of toy: accuracy 0.500" in shown
    (stage1 / "manifest.json").unlink()
    show(stage2)
    assert f"graph_matching  {stage1}  (not there any more)" in capsys.readouterr().out
    with pytest.raises(GraphGPTError, match="holds no checkpoint"):
        show(released)


# Memory.

SHARDS, SHARD_BYTES = 8, 20 * 10**6


def write_large(folder: Path, shards: int) -> Path:
    """A full model whose layers make shards of 20 MB; the projector and the tower are in the first."""
    sources.write_full(folder, "lone")
    state = torch.load(folder / "pytorch_model.bin", weights_only=True)
    (folder / "pytorch_model.bin").unlink()
    places = {}
    for shard in range(shards):
        part = {f"model.layers.{10 * shard + layer}.extra": torch.full((1_000_000,), 1.0 + shard) for layer in range(5)}
        part |= state if shard == 0 else {}
        file = f"pytorch_model-{shard + 1:05d}-of-{shards:05d}.bin"
        torch.save(part, folder / file)
        places |= dict.fromkeys(part, file)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": places}))
    return folder


IMPORTING = """
import resource, sys
from pathlib import Path
from graphgpt.weights.importing import import_weights
peaks = []
for name in sys.argv[1:]:
    import_weights(Path(name), Path(name + "_out"), base=Path(name + "_base"), shard=20_000_000, say=str)
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
print(*peaks)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in kilobytes on Linux alone")
def test_memory_follows_one_shard(tmp_path: Path) -> None:
    """In one process, importing a model of eight shards takes less than three shards more than one of a hundredth of it."""
    small = sources.write_full(tmp_path / "small", "bin")
    large = write_large(tmp_path / "large", SHARDS)
    done = subprocess.run([sys.executable, "-c", IMPORTING, str(small), str(large)], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    before, after = map(int, done.stdout.split())
    assert sum(path.stat().st_size for path in Path(f"{large}_base").glob("*.safetensors")) > SHARDS * SHARD_BYTES
    assert after - before < 3 * SHARD_BYTES, f"{(after - before) / 1e6:.0f} MB more than {before / 1e6:.0f} MB"
