"""The language model beside a checkpoint: what is known of it without loading it, and its weights shard by shard."""

import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from graphgpt.errors import CheckpointError, DataError
from graphgpt.files.atomic import write_json
from graphgpt.files.tensors import TensorDict, TensorFiles, Tensors, groups, read_json
from graphgpt.models.llm import LLMConfig, base_fingerprint, fingerprint_of_samples, load_llm, model_folder, sample_tensor
from graphgpt.weights.layouts import TOKENS
from graphgpt.weights.writer import SHARD, progress, write_shards

#: Files of a model folder beside its weights.
COMPANIONS = (
    "generation_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)
#: What GraphGPT adds to a language model's own config.
GRAPH_FIELDS = (
    "graph_tower",
    "graph_hidden_size",
    "graph_select_layer",
    "use_graph_proj",
    "use_graph_start_end",
    "tune_graph_mlp_adapter",
    "freeze_graph_mlp_adapter",
    "sep_graph_conv_front",
    "pretrain_graph_model_path",
)
#: Matrices with a row per token.
PER_TOKEN = ("model.embed_tokens.weight", "lm_head.weight")


@dataclass(frozen=True)
class Base:
    """A language model's tensors under the names of a plain Hugging Face model.

    Args:
        source: Where they lie.
        names: Names there by plain names.
        rows: How many rows of the matrices with a row per token are the model's own; None takes all.
        limit: Bytes that are in memory at a time, and in a file that is written; a larger tensor is read whole.
    """

    source: Tensors
    names: Mapping[str, str]
    rows: int | None = None
    limit: int = SHARD

    def read(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Tensors by plain names, without rows that are not the model's own."""
        wanted = list(names)
        found = self.source.read(self.names[name] for name in wanted)
        return {name: self._own(name, found[self.names[name]]) for name in wanted}

    def _own(self, name: str, tensor: Tensor) -> Tensor:
        return tensor[: self.rows] if self.rows is not None and name in PER_TOKEN else tensor

    def groups(self) -> list[list[str]]:
        """Plain names in groups of at most ``limit`` bytes."""
        theirs = {theirs: ours for ours, theirs in self.names.items()}
        specs = {name: spec for name, spec in self.source.specs.items() if name in theirs}
        return [[theirs[name] for name in group] for group in groups(specs, self.limit)]

    def fingerprint(self, tied: bool) -> str:
        """As of the loaded model, reading a few values of each tensor."""
        samples: dict[str, list[Any]] = {}
        for _, group in progress(self.groups(), "Reading the language model"):
            samples |= {name: sample_tensor(tensor) for name, tensor in self.read(group).items()}
        if tied and PER_TOKEN[0] in samples:
            samples.setdefault(PER_TOKEN[1], samples[PER_TOKEN[0]])
        return fingerprint_of_samples(samples)


def open_base(config: LLMConfig, *, download: bool) -> tuple[Base, dict[str, Any]] | None:
    """A language model's tensors and its config; None where it is on the hub and may not be downloaded."""
    if (folder := model_folder(config, download=download)) is not None:
        try:
            files = TensorFiles(folder)
        except DataError:
            if download or Path(config.path).expanduser().is_dir():
                raise
            return None  # of a model on the hub, perhaps only the config was ever downloaded
        return Base(files, {name: name for name in files.specs}), read_json(folder / "config.json")
    if not config.path.startswith("random:"):
        return None
    model = load_llm(config)
    return Base(TensorDict(model.state_dict()), {name: name for name in model.state_dict()}), model.config.to_dict()


def base_facts(config: LLMConfig) -> dict[str, Any] | None:
    """``type``, ``hidden_size``, ``vocabulary`` and ``fingerprint`` of a language model that is here; None where it is on the hub."""
    opened = open_base(config, download=False)
    if opened is None:
        return None
    card = opened[1]
    facts = {"type": card["model_type"], "hidden_size": card["hidden_size"], "vocabulary": card["vocab_size"]}
    return {**facts, "fingerprint": base_fingerprint(config)}


def plain_config(card: Mapping[str, Any], vocabulary: int) -> dict[str, Any]:
    """A GraphGPT model's ``config.json`` as that of the plain Llama model in it."""
    kept = {key: value for key, value in card.items() if key not in GRAPH_FIELDS}
    return {**kept, "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": vocabulary}


def write_base(folder: Path, base: Base, card: Mapping[str, Any], companions: Path) -> None:
    """Write a language model as a plain Hugging Face folder, shard by shard.

    Args:
        folder: An existing folder.
        base: Its tensors.
        card: Its ``config.json``.
        companions: Folder with the tokenizer's files; the graph's tokens are left out of them.
    """
    if PER_TOKEN[0] not in base.names:
        raise CheckpointError(f"{companions} holds no {PER_TOKEN[0]}: its language model cannot be written.")
    write_json(folder / "config.json", dict(card))
    copy_companions(companions, folder)
    write_shards(folder, base.groups(), base.read)


def copy_companions(source: Path, folder: Path) -> None:
    """Copy tokenizer and generation settings, without the tokens that stand for graphs: the plain model has no rows for them."""
    for name in COMPANIONS:
        file = source / name
        if not file.is_file():
            continue
        if file.suffix == ".json" and name != "vocab.json":
            write_json(folder / name, _without_tokens(read_json(file)))
        else:
            shutil.copyfile(file, folder / name)


def _without_tokens(value: Any) -> Any:
    def added(item: Any) -> bool:
        return item in TOKENS if isinstance(item, str) else isinstance(item, dict) and item.get("content") in TOKENS

    if isinstance(value, dict):
        return {key: _without_tokens(item) for key, item in value.items() if not added(item)}
    if isinstance(value, list):
        return [_without_tokens(item) for item in value if not added(item)]
    return value


def copy_all_companions(source: Path, folder: Path) -> None:
    """Copy a model's config, tokenizer and generation settings as they are."""
    for name in ("config.json", "added_tokens.json", *COMPANIONS):
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
