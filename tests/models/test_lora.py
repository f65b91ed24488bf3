"""Adapters: on which layers, scaled how, at which learning rate, and back from a checkpoint."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import csv_overrides, make_model, make_processor
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from graphgpt.assembly import build_model, build_runner, build_task
from graphgpt.checkpoints.folder import load_checkpoint
from graphgpt.config.command_line import check_command_line
from graphgpt.config.experiment import ExperimentConfig
from graphgpt.errors import CheckpointError, ConfigError, GraphGPTError
from graphgpt.graphs.graph import TextAttributedGraph
from graphgpt.models.lora import LoraConfig, add_lora
from graphgpt.models.multimodal_llm import MultimodalLLM
from graphgpt.prompts.batch import training_batch
from graphgpt.tasks.task import Task

ALL = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A graph on the command line."""
    return csv_overrides(tmp_path_factory.mktemp("csv"))


def adapted(model: MultimodalLLM) -> set[str]:
    """Names of the layers that have adapters."""
    return {name.split(".lora_A")[0].rpartition(".")[2] for name in model.trainable_state() if "lora_A" in name}


@pytest.mark.parametrize(
    ("option", "layers", "rank", "alpha", "dropout"),
    [
        ("none", set(), 0, 16, 0.0),
        ("default", ALL, 16, 16, 0.0),
        ("all_linear", ALL, 64, 16, 0.05),
        ("qv", {"q_proj", "v_proj"}, 8, 16, 0.0),
    ],
)
def test_shipped_options(option: str, layers: set[str], rank: int, alpha: int, dropout: float, data: list[str]) -> None:
    experiment = check_command_line(ExperimentConfig, "train", [*data, f"model/lora={option}"])
    lora = experiment.model.lora
    assert (lora.rank, lora.alpha, lora.dropout) == (rank, alpha, dropout)
    model = make_model(lora={"rank": rank, "targets": lora.targets})
    assert adapted(model) == layers
    assert {p.shape[0] for name, p in model.trainable_state().items() if "lora_A" in name} == ({rank} if rank else set())


def test_layers_by_name() -> None:
    assert adapted(make_model(lora_rank=2, lora={"targets": ["o_proj", "down_proj"]})) == {"o_proj", "down_proj"}
    sentence = r"^model\.lora\.targets: the language model has no linear layer 'o_prj'\. Did you mean 'o_proj'\?$"
    with pytest.raises(GraphGPTError, match=sentence):
        make_model(lora_rank=2, lora={"targets": ["q_proj", "o_prj"]})


def test_layers_that_another_kind_of_model_has_not() -> None:
    """GPT-2 has query, key and value in one layer."""
    llm = GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=16, n_head=2, vocab_size=64))
    sentence = r"has no linear layer 'q_proj'\. List those of its own: c_attn, c_fc, c_proj, lm_head\.$"
    with pytest.raises(GraphGPTError, match=sentence):
        add_lora(llm, LoraConfig(rank=2, targets="qv"))
    names = [name for name, _ in add_lora(llm, LoraConfig(rank=2, targets=["c_attn"])).named_parameters() if "lora_A" in name]
    assert names == ["base_model.model.transformer.h.0.attn.c_attn.lora_A.default.weight"]


def test_settings_that_name_nothing(data: list[str]) -> None:
    def refused(*overrides: str) -> str:
        with pytest.raises(ConfigError) as caught:
            check_command_line(ExperimentConfig, "train", [*data, *overrides])
        [problem] = caught.value.problems
        return problem

    assert refused("model/lora=qv", "model.lora.targets=q_v") == (
        "model.lora.targets: 'q_v' is not one of all_linear, qv; "
        "names of layers go into a list, such as [q_proj, v_proj]. Did you mean 'qv'?"
    )
    assert refused("model/quantization=int8", "model/lora=qv", "model.lora.dora=true").startswith(
        "model.lora.dora: peft loses the scales of int8 weights"
    )
    assert refused("model/lora=qv", "model.lora.targets=[]").startswith("model.lora.targets: names no layer;")


@pytest.mark.parametrize(("fields", "scale"), [({}, 16 / 4), ({"rslora": True}, 16 / math.sqrt(4))])
def test_scale(fields: dict[str, Any], scale: float) -> None:
    model = make_model(lora_rank=4, lora=fields)
    scales = {
        module.scaling["default"] for module in model.llm.modules() if hasattr(module, "scaling") and isinstance(module.scaling, dict)
    }
    assert scales == {scale}


@pytest.mark.parametrize("bits", ["none", "nf4"])
def test_dora_begins_as_the_base_and_learns(bits: str, graph: TextAttributedGraph, make_task: Callable[..., Task]) -> None:
    task = make_task("node_classification", graph)
    model = make_model(lora_rank=4, lora={"dora": True}, quantization={"name": bits}).train()
    lengths = {name: p for name, p in model.trainable_state().items() if "magnitude" in name}
    assert len(lengths) == 2 * len(ALL)
    processor = make_processor(model)
    batch = training_batch([processor(task.instruction(item, seed=item, training=True)) for item in (0, 7)], model.readers)
    losses = model.losses(batch)
    with torch.no_grad(), model.llm.disable_adapter():
        torch.testing.assert_close(losses.detach(), model.losses(batch), atol=1e-3, rtol=1e-3)
    losses.sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in lengths.values())


def test_adapters_that_mean_something_else_are_not_taken_over(data: list[str], tmp_path: Path) -> None:
    """Another alpha, or other layers: the same numbers would be another update."""
    short = ["runner.max_steps=1", "runner.global_batch_size=2", "runner.checkpoint.every_n_steps=0"]
    options = [*data, "model/lora=qv", *short]
    experiment = check_command_line(ExperimentConfig, "train", options)
    task = build_task(experiment)
    model = build_model(experiment, task)
    build_runner(experiment).train(model, task, experiment, tmp_path)
    again = [*options, f"start_from={tmp_path}"]
    check_command_line(ExperimentConfig, "train", [*again, "model.lora.dropout=0.1"])
    with pytest.raises(ConfigError) as caught:
        check_command_line(
            ExperimentConfig, "train", [*again, "model.lora.alpha=32", "model.lora.rslora=true", "model.lora.targets=all_linear"]
        )
    assert caught.value.problems == [
        f"start_from: {tmp_path} has adapters with alpha=16, but model.lora.alpha=32.",
        f"start_from: {tmp_path} has adapters with targets='qv', but model.lora.targets='all_linear'.",
        f"start_from: {tmp_path} has adapters with rslora=False, but model.lora.rslora=True.",
    ]
    wider = check_command_line(ExperimentConfig, "train", [*options, "model.lora.targets=[q_proj, v_proj, o_proj]"])
    with pytest.raises(CheckpointError, match=r"does not fit: its lora has no '.*o_proj.*'"):
        load_checkpoint(build_model(wider, task), tmp_path)


def leave_to_peft(model: MultimodalLLM) -> None:
    """Take our way through the adapters away."""
    for module in model.llm.modules():
        if "lora_A" in module._modules:
            vars(module).pop("forward", None)


@pytest.mark.parametrize("settings", [{}, {"rslora": True}, {"targets": "qv"}, {"dora": True}])
def test_adapters_compute_what_peft_computes(settings: dict[str, Any]) -> None:
    model = make_model(lora={"rank": 3, **settings}).double()
    for name, parameter in model.llm.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    ids = torch.arange(24).view(2, 12)

    def found() -> tuple[Tensor, list[Tensor]]:
        logits = model.llm(input_ids=ids).logits
        return logits, list(torch.autograd.grad(logits.square().mean(), [p for p in model.llm.parameters() if p.requires_grad]))

    ours = found()
    leave_to_peft(model)
    torch.testing.assert_close(ours, found())


def test_adapters_compute_what_peft_computes_in_mixed_precision() -> None:
    model = make_model(lora={"rank": 3})
    for name, parameter in model.llm.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    ids = torch.arange(24).view(2, 12)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        ours = model.llm(input_ids=ids).logits
        leave_to_peft(model)
        torch.testing.assert_close(ours, model.llm(input_ids=ids).logits)
