"""Gradient checkpointing: the same numbers, fewer bytes."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import make_model, make_processor
from torch import Tensor, nn

from graphgpt.errors import GraphGPTError
from graphgpt.graphs.graph import TextAttributedGraph
from graphgpt.models.activations import recompute_activations
from graphgpt.models.answering import generate, score
from graphgpt.models.decoding import prefix_of
from graphgpt.models.multimodal_llm import MultimodalLLM
from graphgpt.prompts.batch import Batch, training_batch
from graphgpt.tasks.task import Task

LORA = {"rank": 4, "dropout": 0.3}


@pytest.fixture(scope="module")
def task(graph: TextAttributedGraph, make_task: Callable[..., Task]) -> Task:
    return make_task("node_classification", graph)


def pair(**fields: Any) -> list[MultimodalLLM]:
    """A model that keeps its activations, and the same model that does not."""
    return [make_model(gradient_checkpointing=on, **fields).train() for on in (False, True)]


def batch_for(model: MultimodalLLM, task: Task) -> Batch:
    processor = make_processor(model)
    return training_batch([processor(task.instruction(i, seed=i, training=True)) for i in (0, 7, 20)], model.readers)


def losses_and_gradients(model: MultimodalLLM, batch: Batch) -> tuple[Tensor, dict[str, Tensor], int]:
    """Also the bytes that the pass back has to be left, without the weights."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept.setdefault(tensor.untyped_storage().data_ptr(), tensor)
        return tensor

    torch.manual_seed(5)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        losses = model.losses(batch)
    size = sum(tensor.untyped_storage().nbytes() for place, tensor in kept.items() if place not in weights)
    kept.clear()
    losses.mean().backward()
    return losses.detach(), {name: p.grad for name, p in model.trainable_state().items() if p.grad is not None}, size


@pytest.mark.parametrize(
    "fields", [{}, {"lora": LORA}, {"lora": LORA, "quantization": {"name": "nf4"}}, {"llm": {"attn_implementation": "eager"}}]
)
def test_same_loss_and_gradients_from_fewer_bytes(fields: dict[str, Any], task: Task) -> None:
    """With dropout too: the second pass draws what the first drew."""
    found = [losses_and_gradients(model, batch_for(model, task)) for model in pair(**fields)]
    (losses, gradients, kept), (again, same, fewer) = found
    torch.testing.assert_close(again, losses, atol=1e-6, rtol=1e-6)
    assert same.keys() == gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(same[name], gradient, atol=1e-6, rtol=1e-6)
    assert any(gradient.any() for gradient in gradients.values())
    assert fewer < 0.2 * kept  # what attention keeps is in neither: its own hooks hide it


def test_bytes_grow_by_a_layers_input(task: Task) -> None:
    sizes = []
    for layers in (2, 4):
        model = make_model(gradient_checkpointing=True, lora_rank=4, llm={"config_overrides": {"num_hidden_layers": layers}}).train()
        batch = batch_for(model, task)
        sizes.append(losses_and_gradients(model, batch)[2])
    assert (sizes[1] - sizes[0]) / 2 == pytest.approx(batch.num_tokens * 64 * 4, rel=0.05)


def test_scoring_and_generating_compute_nothing_twice(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    from graphgpt.models import activations

    plain, checkpointed = (model.eval() for model in pair(lora_rank=4))
    monkeypatch.setattr(activations, "checkpoint", lambda *args, **kwargs: pytest.fail("computed twice"))
    processor = make_processor(plain)
    prompts = [processor.prompt(task.instruction(item, seed=item, training=False)) for item in (0, 7)]
    assert generate(checkpointed, prompts, 6) == generate(plain, prompts, 6)
    torch.testing.assert_close(
        score(checkpointed, prompts, [(1, 2), (1, 3)], prefix_of(checkpointed, prompts)),
        score(plain, prompts, [(1, 2), (1, 3)], prefix_of(plain, prompts)),
    )


def test_layers_that_transformers_has_not_marked() -> None:
    with pytest.raises(GraphGPTError, match=r"^model\.gradient_checkpointing: the layers of Sequential cannot be computed again;"):
        recompute_activations(nn.Sequential(nn.Linear(2, 2)))
