"""The language model in 8 and 4 bits: QLoRA on the processor, what it leaves alone, and what goes from one base to the other."""

import dataclasses
import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import bitsandbytes.nn.modules
import pytest
import torch
from bitsandbytes.nn import Linear4bit, Linear8bitLt
from helpers import build_for, csv_overrides, make_model, make_processor, model_config
from safetensors.torch import load_file
from torch import Tensor

from graphgpt.assembly import build_model, build_runner, build_task
from graphgpt.checkpoints.folder import load_checkpoint, read_manifest
from graphgpt.config.command_line import check_command_line
from graphgpt.config.experiment import ExperimentConfig
from graphgpt.errors import ConfigError, GraphGPTError
from graphgpt.graphs.graph import TextAttributedGraph
from graphgpt.models import quantization
from graphgpt.models.answering import generate, score
from graphgpt.models.decoding import prefix_of
from graphgpt.models.llm import LLMConfig, base_fingerprint, llm_fingerprint, load_llm
from graphgpt.models.lora import add_lora
from graphgpt.models.multimodal_llm import MultimodalLLM
from graphgpt.models.quantization import QuantizationConfig, weight_bytes
from graphgpt.prompts.batch import Batch, training_batch
from graphgpt.runs.runs import read_metrics
from graphgpt.tasks.task import Task
from graphgpt.weights.exporting import export_weights

LAYER = {"int8": Linear8bitLt, "nf4": Linear4bit}
TINY = LLMConfig(path="random:tiny")

MakeTask = Callable[..., Task]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A graph on the command line."""
    return csv_overrides(tmp_path_factory.mktemp("csv"))


@pytest.fixture(scope="module")
def task(graph: TextAttributedGraph, make_task: MakeTask) -> Task:
    return make_task("node_classification", graph)


def batch_for(model: MultimodalLLM, task: Task) -> Batch:
    processor = make_processor(model)
    examples = [processor(task.instruction(item, seed=item, training=True)) for item in (0, 7, 20)]
    return training_batch(examples, model.readers)


def base_state(model: MultimodalLLM) -> dict[str, Tensor]:
    """All that is not trained, with what bitsandbytes keeps beside the weights."""
    moved = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items() if name not in moved}


def train(folder: Path, overrides: Sequence[str], steps: int = 3) -> tuple[MultimodalLLM, dict[str, Tensor], list[float]]:
    """The trained model, what was frozen before it was, and the losses."""
    short = [f"runner.max_steps={steps}", "runner.global_batch_size=4", "runner.checkpoint.every_n_steps=0"]
    experiment = check_command_line(ExperimentConfig, "train", [*overrides, *short])
    runner, task = build_runner(experiment), build_task(experiment)
    model: MultimodalLLM = build_model(experiment, task)
    before = base_state(model)
    runner.train(model, task, experiment, folder)
    return model, before, [line["train/loss"] for line in read_metrics(folder) if "train/loss" in line]


# What is quantized.


@pytest.mark.parametrize("name", ["int8", "nf4"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_all_linear_layers_but_the_head(name: str, dtype: str) -> None:
    llm = load_llm(LLMConfig(path="random:tiny", dtype=dtype), QuantizationConfig(name=name))
    layers = [module for module in llm.modules() if isinstance(module, torch.nn.Linear)]
    assert {type(layer) for layer in layers if layer is not llm.get_output_embeddings()} == {LAYER[name]}
    assert type(llm.get_output_embeddings()) is torch.nn.Linear
    assert llm.get_input_embeddings().weight.dtype == llm.get_output_embeddings().weight.dtype == getattr(torch, dtype)
    assert not any(parameter.requires_grad for parameter in llm.parameters())
    assert not llm.training
    plain = load_llm(LLMConfig(path="random:tiny", dtype=dtype))
    x = torch.randn(1, 9, 64, dtype=plain.dtype)
    ours, theirs = (model(inputs_embeds=x, use_cache=False).logits.float() for model in (llm, plain))
    assert 0 < (ours - theirs).norm() / theirs.norm() < (0.02 if name == "int8" else 0.1)


def test_settings_reach_bitsandbytes() -> None:
    def first(**fields: Any) -> Any:
        llm = load_llm(LLMConfig(path="random:tiny", dtype="bfloat16"), QuantizationConfig(**fields))
        return llm.model.layers[0].mlp.up_proj

    assert first(name="nf4").weight.quant_state.nested
    assert not first(name="nf4", double=False).weight.quant_state.nested
    assert first(name="nf4").compute_dtype == torch.bfloat16
    assert first(name="nf4", compute_dtype="float32").compute_dtype == torch.float32
    assert first(name="int8").state.threshold == 6.0
    assert first(name="int8", threshold=0.0).state.threshold == 0.0


@pytest.mark.parametrize("fields", [{"name": "none"}, {"name": "int8"}, {"name": "nf4"}, {"name": "nf4", "double": False}])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_bytes_are_as_foretold(fields: dict[str, Any], dtype: str) -> None:
    config = QuantizationConfig(**fields)
    llm = load_llm(LLMConfig(path="random:tiny", dtype=dtype), config)
    tables = {
        name for name in llm.state_dict() if name.endswith(("quant_map", "nested_quant_map", "nf4", "weight_format", "lm_head.weight"))
    }
    held = sum(tensor.nbytes for name, tensor in llm.state_dict().items() if name not in tables)
    with torch.device("meta"):
        shapes = add_lora(load_meta(), model_config(lora_rank=4).lora)
    assert weight_bytes(shapes, config, getattr(torch, dtype)) == pytest.approx(held, rel=0.01)


def load_meta() -> Any:
    from transformers import AutoModelForCausalLM

    from graphgpt.models.llm import load_config

    return AutoModelForCausalLM.from_config(load_config(TINY)).requires_grad_(False)


@pytest.mark.parametrize(
    ("gpus", "surroundings", "device"),
    [
        (0, {"LOCAL_RANK": "1"}, "cpu"),
        (1, {}, "cuda:0"),
        (4, {"LOCAL_RANK": "3"}, "cuda:3"),
        (4, {"SLURM_LOCALID": "2"}, "cuda:2"),
        (1, {"SLURM_LOCALID": "2"}, "cuda:0"),  # each process sees its own GPU alone
    ],
)
def test_each_process_fills_its_own_gpu(gpus: int, surroundings: dict[str, str], device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    for name in ("LOCAL_RANK", "SLURM_LOCALID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in surroundings.items():
        monkeypatch.setenv(name, value)
    assert quantization.loading_arguments(QuantizationConfig(name="nf4"), torch.bfloat16)["device_map"] == {"": device}


# Training.


@pytest.mark.parametrize("name", ["int8", "nf4"])
def test_qlora_on_the_processor(name: str, data: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The loss falls, the base stays as it is bit for bit, and the adapters fit a base that is not quantized."""
    options = ["task=node_classification", "model/lora=default", f"model/quantization={name}", "runner.lr.lora=1e-2", "runner.val_every=8"]
    with caplog.at_level(logging.WARNING):
        model, before, losses = train(tmp_path, [*data, *options], steps=24)
    assert sum(losses[-4:]) < 0.9 * sum(losses[:4])
    after = base_state(model)
    assert after.keys() == before.keys()
    assert all(torch.equal(after[key], tensor) for key, tensor in before.items())
    assert not [record for record in caplog.records if "cast" in record.getMessage()]

    manifest = read_manifest(tmp_path / "checkpoint")
    assert manifest["model"]["quantization"]["name"] == name
    adapter = json.loads((tmp_path / "checkpoint" / "lora" / "adapter_config.json").read_text())
    assert not adapter["base_model_name_or_path"]
    experiment = check_command_line(ExperimentConfig, "train", [*data, *options, "model/quantization=none"])
    task = build_task(experiment)
    plain: MultimodalLLM = build_model(experiment, task).eval()
    load_checkpoint(plain, tmp_path / "checkpoint")
    assert {type(m) for m in plain.llm.modules()}.isdisjoint({Linear4bit, Linear8bitLt})
    with torch.no_grad():
        batch = batch_for(plain, task)
        ours, theirs = plain.losses(batch), model.eval().losses(batch)
    torch.testing.assert_close(ours, theirs, atol=0.1, rtol=0.1)
    # Not because both know nothing: without the adapters the losses are far away.
    with torch.no_grad(), plain.llm.disable_adapter():
        assert (plain.losses(batch) - ours).abs().min() > 0.5


@pytest.mark.parametrize("name", ["int8", "nf4"])
def test_adapters_of_a_plain_base_fit_a_quantized_one(name: str, data: list[str], tmp_path: Path) -> None:
    options = ["task=node_classification", "model/lora=qv"]
    train(tmp_path, [*data, *options], steps=1)
    experiment = check_command_line(ExperimentConfig, "train", [*data, *options, f"model/quantization={name}", f"start_from={tmp_path}"])
    model = build_model(experiment, build_task(experiment))
    load_checkpoint(model, experiment.start_from)
    stored = load_file(tmp_path / "checkpoint" / "lora" / "adapter_model.safetensors")
    key = "base_model.model.model.layers.0.self_attn.q_proj.lora_A"
    torch.testing.assert_close(model.llm.state_dict()[f"{key}.default.weight"], stored[f"{key}.weight"])


@pytest.mark.parametrize("name", ["int8", "nf4"])
def test_gradients_are_those_of_the_plain_model(name: str, task: Task) -> None:
    """Nearly: the direction of each gradient is, which a layer without a backward pass would turn."""
    grads = {}
    for kind in ("none", name):
        model = make_model(quantization={"name": kind}, lora_rank=4, lora={"targets": "qv"}).train()
        model.losses(batch_for(model, task)).sum().backward()
        grads[kind] = {key: p.grad for key, p in model.trainable_state().items() if p.grad is not None and p.grad.any()}
    assert grads[name].keys() == grads["none"].keys()
    for key, grad in grads["none"].items():
        assert torch.cosine_similarity(grads[name][key].flatten(), grad.flatten(), dim=0) > 0.97, key


def test_gradients_pass_after_a_validation_on_any_processor(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is AVX512-BF16, bitsandbytes repacks 4-bit weights in passes without gradient, unless told not to."""
    monkeypatch.setattr(bitsandbytes.nn.modules, "has_avx512bf16", lambda: True)
    repacked: list[Any] = []
    monkeypatch.setattr(bitsandbytes.nn.modules, "_convert_weight_packed_for_cpu", lambda *weights: repacked.append(weights) or weights)
    model = make_model(quantization={"name": "nf4"}, lora_rank=4).eval()
    batch = batch_for(model, task)
    with torch.no_grad():
        model.losses(batch)
    assert not repacked
    model.train().losses(batch).sum().backward()
    assert all(parameter.grad is not None for parameter in model.trainable_state().values())


@pytest.mark.parametrize("name", ["int8", "nf4"])
def test_a_model_that_moved_says_the_same(name: str, task: Task) -> None:
    """Lightning moves a model when it begins and when it ends."""
    model = make_model(quantization={"name": name})
    with torch.no_grad():
        batch = batch_for(model, task)
        before = model.losses(batch)
        torch.testing.assert_close(model.cpu().losses(batch), before)
        torch.testing.assert_close(model.to(torch.device("cpu")).losses(batch), before)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", ["int8", "nf4"])
def test_a_model_goes_to_the_gpu_and_back(name: str, task: Task) -> None:
    model = make_model(quantization={"name": name})
    batch = batch_for(model, task)
    with torch.no_grad():
        there = model.to("cuda").losses(batch.to("cuda")).cpu()
        torch.testing.assert_close(model.to("cpu").losses(batch), there, atol=0.05, rtol=0.05)
        torch.testing.assert_close(model.to("cuda").losses(batch.to("cuda")).cpu(), there, atol=1e-3, rtol=1e-3)


def test_generates_and_scores(task: Task) -> None:
    model = make_model(quantization={"name": "nf4"})
    processor = make_processor(model)
    prompts = [processor.prompt(task.instruction(item, seed=item, training=False)) for item in (0, 7)]
    assert len(generate(model, prompts, 4)) == 2
    assert score(model, prompts, [(1, 2), (1, 3)], prefix_of(model, prompts)).isfinite().all()


# What it is known by, and what becomes of it.


def test_fingerprint_is_that_of_the_plain_weights(tmp_path: Path) -> None:
    plain = load_llm(TINY)
    assert make_model(quantization={"name": "nf4"}).llm_fingerprint == make_model(quantization={"name": "int8"}).llm_fingerprint
    assert make_model(quantization={"name": "nf4"}).llm_fingerprint == make_model().llm_fingerprint == llm_fingerprint(plain)
    plain.save_pretrained(tmp_path / "whole")
    plain.save_pretrained(tmp_path / "sharded", max_shard_size="100KB")
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 1
    for folder in ("whole", "sharded"):
        assert base_fingerprint(LLMConfig(path=str(tmp_path / folder), dtype="bfloat16")) == llm_fingerprint(plain)


def test_fingerprint_of_weights_under_other_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that transformers renames while it loads them are loaded."""
    from safetensors.torch import save_file

    plain = load_llm(TINY)
    plain.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    save_file({name.removeprefix("model."): tensor for name, tensor in load_file(file).items()}, file, metadata={"format": "pt"})
    assert base_fingerprint(LLMConfig(path=str(tmp_path))) == llm_fingerprint(plain)


def test_another_base_is_still_noticed(data: list[str], tmp_path: Path) -> None:
    options = [*data, "task=node_classification", "model/lora=qv", "model/quantization=nf4"]
    train(tmp_path, options, steps=1)
    model = make_model(quantization={"name": "nf4"}, llm={"config_overrides": {"intermediate_size": 192}})
    with pytest.raises(GraphGPTError, match=r"was made for another language model \('random:tiny', fingerprint \w+\)"):
        load_checkpoint(model, tmp_path / "checkpoint")


def test_merging_takes_the_plain_base(data: list[str], tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    train(tmp_path / "run", [*data, "task=node_classification", "model/lora=default", "model/quantization=nf4", "runner.lr.lora=1e-2"])
    export_weights(tmp_path / "run", "hf_merged", tmp_path / "merged", say=lambda line: None)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    plain = load_llm(TINY)
    update = merged.model.layers[0].mlp.up_proj.weight - plain.model.layers[0].mlp.up_proj.weight
    stored = load_file(tmp_path / "run" / "checkpoint" / "lora" / "adapter_model.safetensors")
    a, b = (stored[f"base_model.model.model.layers.0.mlp.up_proj.lora_{which}.weight"] for which in "AB")
    assert b.any()
    torch.testing.assert_close(update.detach(), b @ a, atol=1e-6, rtol=1e-4)  # rank and alpha are both 16
    assert "quantization_config" not in json.loads((tmp_path / "merged" / "config.json").read_text())


# What is refused.


def refused(overrides: Sequence[str]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        check_command_line(ExperimentConfig, "train", overrides)
    return caught.value.problems


def test_settings_that_change_nothing_are_refused(data: list[str]) -> None:
    assert refused([*data, "model/quantization=int8", "model.quantization.compute_dtype=bfloat16"]) == [
        "model.quantization.compute_dtype=bfloat16: acts only with model.quantization.name=nf4, and that is int8."
    ]
    assert refused([*data, "model.quantization.threshold=0"]) == [
        "model.quantization.threshold=0.0: acts only with model.quantization.name=int8, and that is none."
    ]
    [problem] = refused([*data, "model.quantization.name=fp4"])
    assert problem.startswith("model.quantization.name: 'fp4' is not one of none, int8, nf4. Did you mean 'nf4'?")


def test_bitsandbytes_missing(data: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    find = quantization.importlib.util.find_spec  # type: ignore[attr-defined]
    monkeypatch.setattr(quantization.importlib.util, "find_spec", lambda name: None if name == "bitsandbytes" else find(name))  # type: ignore[attr-defined]
    sentence = (
        "model.quantization: nf4 needs bitsandbytes, which is not installed: pip install bitsandbytes, or use model/quantization=none."
    )
    assert refused([*data, "model/quantization=nf4"]) == [sentence]
    check_command_line(ExperimentConfig, "train", data)


@pytest.mark.parametrize("kernel", ["flash_attention_2", "flex_attention"])
def test_kernels_that_take_no_tree(kernel: str, data: list[str]) -> None:
    [problem] = refused([*data, f"model.llm.attn_implementation={kernel}"])
    assert problem.startswith(f"model.llm.attn_implementation: '{kernel}' does not fit: it ")
    assert problem.endswith("a batch is a token tree; use sdpa or eager.")
    [problem] = refused([*data, "model.llm.attn_implementation=sdpaa"])
    assert problem == "model.llm.attn_implementation: 'sdpaa' is not one of sdpa, eager. Did you mean 'sdpa'?"


def test_a_quantized_model_as_data() -> None:
    config = model_config(quantization={"name": "nf4"})
    assert dataclasses.asdict(config)["quantization"] == {"name": "nf4", "double": True, "compute_dtype": None, "threshold": 6.0}
    assert build_for(config).llm.is_loaded_in_4bit
