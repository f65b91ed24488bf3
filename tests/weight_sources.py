"""Weights in exactly the layouts that GraphGPT's programs write, with small sizes and random numbers."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

FEATURES, DIM, LAYERS, HEADS, HIDDEN = 6, 16, 3, 8, 64
#: Of the language model of two layers that ``random:tiny`` is.
VOCABULARY = 259
TOKENS = {"<g_patch>": VOCABULARY, "<g_start>": VOCABULARY + 1, "<g_end>": VOCABULARY + 2}

TOWER_CARD = {
    "edge_coef": 10,
    "lr": 2e-5,
    "gnn_input": FEATURES,
    "gnn_hid": DIM,
    "gnn_output": DIM,
    "context_length": 16,
    "embed_dim": DIM,
    "transformer_heads": 2,
    "transformer_layers": 1,
    "transformer_width": 32,
    "vocab_size": 100,
    "gnn_type": "gt",
    "num_nodes": 25120,
    "gt_layers": LAYERS,
    "att_d_model": DIM,
    "att_norm": True,
    "head": HEADS,
    "if_pos": False,
}


def random(*shape: int, seed: int, scale: float = 1.0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


def tower_tensors(seed: int = 0) -> dict[str, Tensor]:
    """``W_pos``, ``W_P``, ``gtLayers`` and ``inverW_P``, without a prefix."""
    shapes: dict[str, tuple[int, ...]] = {
        "W_pos": (1, DIM),
        "W_P.weight": (DIM, FEATURES),
        "W_P.bias": (DIM,),
        "inverW_P.weight": (DIM, DIM),
        "inverW_P.bias": (DIM,),
    }
    for layer in range(LAYERS):
        shapes |= {f"gtLayers.{layer}.{which}Trans": (DIM, DIM) for which in "qkv"}
        shapes |= {f"gtLayers.{layer}.norm.{which}": (DIM,) for which in ("weight", "bias")}
    return {name: random(*shape, seed=seed * 100 + place, scale=0.4) for place, (name, shape) in enumerate(shapes.items())}


def clip_tensors(seed: int = 0) -> dict[str, Tensor]:
    """The state of the whole CLIP: tower and text tower."""
    text = {
        "positional_embedding": (16, 32),
        "text_projection": (32, DIM),
        "transformer.resblocks.0.attn.in_proj_weight": (96, 32),
        "transformer.resblocks.0.attn.in_proj_bias": (96,),
        "transformer.resblocks.0.ln_1.weight": (32,),
        "token_embedding.weight": (100, 32),
        "ln_final.weight": (32,),
    }
    gnn = {f"gnn.{name}": tensor for name, tensor in tower_tensors(seed).items()}
    return gnn | {name: random(*shape, seed=7) for name, shape in text.items()}


def write_tower(folder: Path, seed: int = 0, card: dict[str, Any] | None = None) -> Path:
    """``clip_gt_arxiv_pub`` as released."""
    folder.mkdir(parents=True)
    torch.save(clip_tensors(seed), folder / "clip_gt_arxiv_pub.pkl")
    (folder / "config.json").write_text(json.dumps(TOWER_CARD if card is None else card))
    return folder


def projector_tensors() -> dict[str, Tensor]:
    return {"model.graph_projector.weight": random(HIDDEN, DIM, seed=11), "model.graph_projector.bias": random(HIDDEN, seed=12)}


def llama_tensors(dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """The language model of two layers, with three more rows, an output head of its own, and the buffers of older versions."""
    from transformers import LlamaForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = LlamaForCausalLM(llama_config())
    state = {name: tensor.to(dtype) for name, tensor in model.state_dict().items()}
    for place, name in enumerate(("model.embed_tokens.weight", "lm_head.weight")):
        state[name] = torch.cat([state[name], random(3, HIDDEN, seed=20 + place).to(dtype)])
    state["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(8)
    return state


def llama_config() -> Any:
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        bos_token_id=256,
        eos_token_id=257,
        pad_token_id=258,
        tie_word_embeddings=False,
    )


def full_tensors(dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """A full model: Llama, projector, tower."""
    tower = {f"model.graph_tower.{name}": tensor for name, tensor in tower_tensors().items()}
    return {name: tensor.to(dtype) for name, tensor in (llama_tensors() | projector_tensors() | tower).items()}


def write_full(folder: Path, form: str, shards: int = 3, dtype: torch.dtype = torch.float32) -> Path:
    """GraphGPT-7B-mix-all's layout: ``bin`` or ``safetensors`` shards with an index, or ``lone`` in one file."""
    folder.mkdir(parents=True)
    state = full_tensors(dtype)
    card = {
        **json.loads(llama_config().to_json_string()),
        "model_type": "GraphLlama",
        "architectures": ["GraphLlamaForCausalLM"],
        "vocab_size": VOCABULARY + 3,
        "graph_tower": "clip_gt_arxiv_pub",
        "graph_hidden_size": DIM,
        "graph_select_layer": -2,
        "use_graph_proj": True,
        "use_graph_start_end": True,
        "pretrain_graph_model_path": "./clip_gt_arxiv_pub",
    }
    (folder / "config.json").write_text(json.dumps(card))
    (folder / "added_tokens.json").write_text(json.dumps(TOKENS))
    torch.save({"args": "none"}, folder / "training_args.bin")
    _write_tokenizer(folder)
    if form == "lone":
        torch.save(state, folder / "pytorch_model.bin")
        return folder
    stem, suffix = ("pytorch_model", "bin") if form == "bin" else ("model", "safetensors")
    places = {}
    for shard in range(shards):
        file = f"{stem}-{shard + 1:05d}-of-{shards:05d}.{suffix}"
        part = dict(list(state.items())[shard::shards])
        if form == "bin":
            torch.save(part, folder / file)
        else:
            save_file(part, folder / file)
        places |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": 0}, "weight_map": places}
    (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps(index))
    return folder


def _write_tokenizer(folder: Path) -> None:
    from graphgpt.models.llm import LLMConfig, load_tokenizer

    tokenizer = load_tokenizer(LLMConfig(path="random:tiny"))
    tokenizer.add_tokens(list(TOKENS), special_tokens=True)
    tokenizer.save_pretrained(folder)
    assert "<g_patch>" in (folder / "tokenizer.json").read_text()
