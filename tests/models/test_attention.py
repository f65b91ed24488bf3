"""Attention along the branches of a token tree: the same values and gradients as a dense mask and as padded batches."""

from collections.abc import Callable, Sequence

import pytest
import torch
from helpers import make_model
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import functional

from graphgpt.models.attention import TOKEN_TREE, Span, spans_of
from graphgpt.models.multimodal_llm import MultimodalLLM
from graphgpt.prompts.batch import training_batch
from graphgpt.prompts.processor import IGNORE, Example

LENGTHS = st.lists(st.integers(1, 12), min_size=1, max_size=5)


def doubled(kernel: str) -> MultimodalLLM:
    """A model in float64, so that the order of sums does not matter, with adapters that do something."""
    model = make_model(lora_rank=2, llm={"attn_implementation": kernel}).double().train()
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator).double() * 0.1
    return model


@pytest.fixture(scope="module")
def models() -> dict[str, MultimodalLLM]:
    return {kernel: doubled(kernel) for kernel in ("sdpa", "eager")}


def texts(shared: int, lengths: Sequence[int]) -> list[Example]:
    """Samples of text that begin alike, the last two tokens of each supervised."""
    found = []
    for number, length in enumerate(lengths):
        ids = [5] * shared + [10 + number] + [20 + (number * 7 + place) % 60 for place in range(length + 1)]
        labels = [IGNORE] * (len(ids) - 2) + ids[-2:]
        found.append(Example(id=str(number), ids=tuple(ids), labels=tuple(labels), inputs=(), spans=()))
    return found


def tree_losses(model: MultimodalLLM, examples: Sequence[Example]) -> Tensor:
    return model.losses(training_batch(examples, model.readers))


def padded_losses(model: MultimodalLLM, examples: Sequence[Example]) -> Tensor:
    """The usual way: padded on the right, logits everywhere."""
    width = max(len(example.ids) for example in examples)
    ids = torch.tensor([[*example.ids, *[0] * (width - len(example.ids))] for example in examples])
    labels = torch.tensor([[*example.labels, *[IGNORE] * (width - len(example.ids))] for example in examples])[:, 1:]
    mask = torch.tensor([[1] * len(example.ids) + [0] * (width - len(example.ids)) for example in examples])
    logits = model.llm(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1].transpose(1, 2)
    return functional.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="none").sum(dim=1) / (labels != IGNORE).sum(dim=1)


def gradients(model: MultimodalLLM, losses: Callable[[], Tensor]) -> dict[str, Tensor]:
    model.zero_grad()
    losses().mean().backward()
    return {name: p.grad.clone() for name, p in model.trainable_state().items() if p.grad is not None and "lora" in name}


@given(shared=st.integers(0, 9), lengths=LENGTHS)
def test_losses_and_gradients_of_a_packed_batch_are_those_of_a_padded_one(
    shared: int, lengths: list[int], models: dict[str, MultimodalLLM]
) -> None:
    examples = texts(shared, lengths)
    ways = [(models["sdpa"], tree_losses), (models["eager"], tree_losses), (models["sdpa"], padded_losses)]
    losses = [way(model, examples) for model, way in ways]
    # Log-probabilities of a tree are taken in float32.
    for other in losses[1:]:
        torch.testing.assert_close(other.float(), losses[0].float(), atol=1e-5, rtol=1e-5)
    found = [gradients(model, lambda way=way, model=model: way(model, examples)) for model, way in ways]
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], atol=1e-6, rtol=1e-4)


def test_the_kernel_is_the_tree_s_own_where_it_can_be(models: dict[str, MultimodalLLM]) -> None:
    assert models["sdpa"].llm.config._attn_implementation == TOKEN_TREE
    assert models["eager"].llm.config._attn_implementation == "eager"


def test_spans_hold_no_square_of_the_tree() -> None:
    """What a batch of many samples keeps for attention grows with their number."""
    sizes = []
    for count in (4, 8):
        batch = training_batch(texts(6, [30] * count), {})
        sizes.append(sum(span.bias.numel() for span in spans_of(batch, torch.float32).spans if span.bias is not None))
    assert sizes[1] == 2 * sizes[0]


def test_no_copy_of_keys_and_values_outlives_its_attention(models: dict[str, MultimodalLLM], monkeypatch: pytest.MonkeyPatch) -> None:
    """A span's keys are the trunk's and its own, put together: kept for the backward pass they would be most of a step's memory."""
    made = []
    select = Span.select

    def watched(span: Span, pieces: Sequence[Tensor], groups: int) -> Tensor:
        states = select(span, pieces, groups)
        if all(states.data_ptr() != piece.data_ptr() for piece in pieces):
            made.append(StorageWeakRef(states.untyped_storage()))
        return states

    monkeypatch.setattr(Span, "select", watched)
    losses = tree_losses(models["sdpa"], texts(6, [30, 200]))
    assert made and all(copy.expired() for copy in made)
    losses.mean().backward()
