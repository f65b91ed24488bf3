"""``graphgpt weights export``: a checkpoint under the names of GraphGPT's own programs, or merged into a plain language model."""

import dataclasses
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, NotRequired

import torch
from torch import Tensor

from graphgpt.checkpoints.folder import MANIFEST, checkpoint_experiment, find_checkpoint, load_checkpoint, read_manifest, verify_files
from graphgpt.checkpoints.upgrade import part_file
from graphgpt.config.experiment import ExperimentConfig, read_config
from graphgpt.errors import CheckpointError, GraphGPTError
from graphgpt.files.atomic import atomic_folder, write_json
from graphgpt.files.records import Named, check_shape
from graphgpt.files.tensors import load_tensors
from graphgpt.models.adapters import peft
from graphgpt.models.fit import check_weights
from graphgpt.models.llm import model_folder
from graphgpt.models.parts import modalities_of
from graphgpt.models.quantization import QuantizationConfig
from graphgpt.prompts.facts import TaskFacts
from graphgpt.registry import MODELS
from graphgpt.weights.base import PER_TOKEN, copy_companions, open_base
from graphgpt.weights.importing import RELEASED_ROWS
from graphgpt.weights.layouts import CLIP, EMBEDDINGS, HEAD, PROJECTOR, TOKENS, TOWER, TOWER_FIELDS
from graphgpt.weights.writer import SHARD, write_shards

Target = Literal["graphgpt_projector", "graphgpt_tower", "graphgpt_full", "hf_merged"]


class OriginalTower(Named):
    """Of a manifest's tower, what the original's card needs or has no place for."""

    dim: int
    output_dim: int
    layers: int
    heads: int
    norm: bool
    use_position: bool
    position: NotRequired[Named]
    select_layer: NotRequired[int]


def export_weights(folder: Path, to: Target, out: Path, *, shard: int = SHARD, say: Callable[[str], None] = print) -> None:
    """Write a checkpoint in another layout.

    Args:
        folder: Run or checkpoint folder.
        to: ``graphgpt_projector``, a file for ``--pretrain_graph_mlp_adapter``; ``graphgpt_tower``, a folder such as
            ``clip_gt_arxiv_pub``; ``graphgpt_full``, a model folder; ``hf_merged``, a plain language model with the adapters
            merged into it, and beside it the parts of the checkpoint.
        out: What to make.
        shard: Bytes per file of a model folder.
        say: Is told what was made.

    Raises:
        GraphGPTError: ``out`` is there, or the layout has no place for what the checkpoint holds.
    """
    if out.exists() or out.is_symlink():
        raise GraphGPTError(f"{out} exists already; choose another name.")
    folder = find_checkpoint(folder)
    manifest = read_manifest(folder)
    verify_files(folder, manifest)
    write = {
        "graphgpt_projector": _write_projector,
        "graphgpt_tower": _write_tower,
        "graphgpt_full": _write_full,
        "hf_merged": _write_merged,
    }[to]
    write(folder, manifest, out, shard)
    say(f"Wrote {out}.")


def _write_projector(folder: Path, manifest: dict[str, Any], out: Path, shard: int) -> None:
    """Projector and the two rows, which the original accepts in place of the whole matrix."""
    tensors = {**_projector(folder, manifest), EMBEDDINGS: _part(folder, "graph/fusion", "weight")["weight"]}
    out.parent.mkdir(parents=True, exist_ok=True)
    tmp = out.with_name(f".{out.name}.tmp")
    try:
        torch.save(tensors, tmp)
        tmp.replace(out)
    finally:
        tmp.unlink(missing_ok=True)


def _write_tower(folder: Path, manifest: dict[str, Any], out: Path, shard: int) -> None:
    state = _tower(folder, manifest)
    with atomic_folder(out) as tmp:
        torch.save({f"{CLIP}{name}": tensor for name, tensor in state.items()}, tmp / f"{out.name}.pkl")
        write_json(tmp / "config.json", _tower_card(manifest, state))


def _write_full(folder: Path, manifest: dict[str, Any], out: Path, shard: int) -> None:
    """The language model with the graph's tokens at the end of its vocabulary, projector and tower beside it."""
    _refuse_adapters(folder, to="graphgpt_full", instead="export --to hf_merged first")
    experiment = read_config(ExperimentConfig, checkpoint_experiment(folder))
    opened = open_base(experiment.model.llm, download=True)
    assert opened is not None
    base, card = dataclasses.replace(opened[0], limit=shard), opened[1]
    if card["model_type"] != "llama" or PER_TOKEN[0] not in base.names:
        raise CheckpointError(f"{folder} is for a language model of type '{card['model_type']}'; the original knows 'llama' alone.")
    tower = _tower(folder, manifest)
    kept = _part(folder, RELEASED_ROWS, "patch") if (folder / f"{RELEASED_ROWS}.safetensors").is_file() else {}
    rows = _part(folder, "graph/fusion", "weight")["weight"]
    own = {**_projector(folder, manifest), **{f"{TOWER}{name}": tensor for name, tensor in tower.items()}}
    dtype = base.source.specs[base.names[PER_TOKEN[0]]].dtype

    def read(names: Iterable[str]) -> dict[str, Tensor]:
        found = {name: own[name].to(dtype) if name in own else base.read([name])[name] for name in names}
        if EMBEDDINGS in found:
            found[EMBEDDINGS] = _with_rows(found[EMBEDDINGS], [kept.get("patch"), rows])
        if HEAD in found:
            found[HEAD] = _with_rows(found[HEAD], [kept.get("head")])
        return found

    groups = [*base.groups(), list(own)]
    if card.get("tie_word_embeddings"):
        raise CheckpointError(f"{folder} is for a language model whose output head is its embedding matrix; the original's is not.")
    with atomic_folder(out) as tmp:
        fields = {
            "graph_hidden_size": _part(folder, "graph/projector", "linear.weight")["linear.weight"].shape[1],
            "use_graph_start_end": True,
            "use_graph_proj": True,
        }
        model = {"model_type": "GraphLlama", "architectures": ["GraphLlamaForCausalLM"], "vocab_size": card["vocab_size"] + len(TOKENS)}
        write_json(tmp / "config.json", {**card, **model, **fields, "graph_tower": "clip_gt_arxiv_pub", "pretrain_graph_model_path": "./"})
        write_json(tmp / "added_tokens.json", {token: card["vocab_size"] + place for place, token in enumerate(TOKENS)})
        if (companions := model_folder(experiment.model.llm, download=True)) is not None:
            copy_companions(companions, tmp)
        write_shards(tmp, groups, read, form="bin")
        (tmp / "clip_gt_arxiv_pub").mkdir()
        torch.save({f"{CLIP}{name}": tensor for name, tensor in tower.items()}, tmp / "clip_gt_arxiv_pub" / "clip_gt_arxiv_pub.pkl")
        write_json(tmp / "clip_gt_arxiv_pub" / "config.json", _tower_card(manifest, tower))


def _write_merged(folder: Path, manifest: dict[str, Any], out: Path, shard: int) -> None:
    """Needs the memory of the language model, not quantized, for the adapters are merged by peft."""
    experiment = read_config(ExperimentConfig, checkpoint_experiment(folder))
    features = manifest["data"]["features"]
    if features is None:
        raise CheckpointError(
            f"{folder} does not say how many features a node has; only a checkpoint with weights of a tower or of training does."
        )
    # Whatever they were trained on: merged into few bits, an update would be rounded away.
    config = dataclasses.replace(experiment.model, quantization=QuantizationConfig())
    model = MODELS.get(config.name).build(config, TaskFacts(task=experiment.task.name, widths={"graph": features}))
    load_checkpoint(model, folder)
    llm = model.llm.merge_and_unload() if isinstance(model.llm, peft().PeftModel) else model.llm
    with atomic_folder(out) as tmp:
        llm.save_pretrained(str(tmp), max_shard_size=shard)
        model.tokenizer.save_pretrained(str(tmp))
        for part in model.parts:
            if (file := part_file(folder, part)).is_file():
                (copy := tmp / f"{part}.safetensors").parent.mkdir(exist_ok=True)
                shutil.copyfile(file, copy)


def _with_rows(matrix: Tensor, more: list[Tensor | None]) -> Tensor:
    """Rows of the graph's tokens below a matrix: those that are known, else the mean of all, as the original starts them."""
    mean = matrix.float().mean(dim=0, keepdim=True)
    count = len(TOKENS) if len(more) == 1 else 1
    parts = [(mean.expand(count, -1) if rows is None else rows).to(matrix.dtype) for rows in more]
    return torch.cat([matrix, *parts])


def _projector(folder: Path, manifest: dict[str, Any]) -> dict[str, Tensor]:
    if (name := _graph(folder, manifest)["projector"]["name"]) != "linear":
        raise CheckpointError(f"{folder} has the projector '{name}'; the original's is 'linear'.")
    return {name.replace("linear.", PROJECTOR): tensor for name, tensor in _part(folder, "graph/projector", "linear.weight").items()}


def _tower(folder: Path, manifest: dict[str, Any]) -> dict[str, Tensor]:
    config = _graph(folder, manifest)["tower"]
    if (name := config["name"]) != "graph_transformer":
        raise CheckpointError(f"{folder} has the tower '{name}'; the original's is 'graph_transformer'.")
    check_shape(config, OriginalTower, f"{folder / MANIFEST}: its tower cannot be written as the original's")
    if "position" in config and (position := config["position"]["name"]) != "none":
        raise CheckpointError(f"{folder} has a tower with position.name={position}; the original's has none.")
    if (layer := config.get("select_layer", -1)) not in (-1, config["layers"]):
        raise CheckpointError(f"{folder} has a tower with select_layer={layer}; the original's gives its last layer.")
    return _part(folder, "graph/tower", "W_P.weight")


def _graph(folder: Path, manifest: dict[str, Any]) -> Mapping[str, Any]:
    """What reads graphs in a checkpoint's model."""
    if (found := modalities_of(manifest["model"]).get("graph")) is None:
        raise CheckpointError(f"{folder} is of a model that reads no graph; the original's reads one.")
    return found


def _tower_card(manifest: dict[str, Any], state: dict[str, Tensor]) -> dict[str, Any]:
    config = modalities_of(manifest["model"])["graph"]["tower"]
    fields = {theirs: config[ours] for ours, theirs in TOWER_FIELDS.items()}
    return {**fields, "gnn_type": "gt", "gnn_input": state["W_P.weight"].shape[1], "gnn_hid": config["dim"], "num_nodes": 1}


def _refuse_adapters(folder: Path, to: str, instead: str) -> None:
    if (folder / "lora").is_dir():
        raise CheckpointError(f"{folder} has adapters, for which {to} has no place; {instead}.")


def _part(folder: Path, part: str, matrix: str) -> dict[str, Tensor]:
    """The tensors of a part, of which ``matrix`` has to be one."""
    file = part_file(folder, part)
    tensors = load_tensors(file)
    if matrix not in tensors or tensors[matrix].ndim != 2:
        raise CheckpointError(f"{file} has no matrix '{matrix}'.")
    for name, tensor in tensors.items():
        check_weights(f"{file}: '{name}'", tensor)
    return tensors
