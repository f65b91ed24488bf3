"""Attention within a token tree: each branch by itself, and with the trunk."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from graphgpt.prompts.batch import Batch, Branch

#: What transformers knows this kernel by.
TOKEN_TREE = "token_tree"

#: Queries of a chain that are compared with the same keys, on the processor, about.
CHUNK = 128


@dataclass(frozen=True)
class Span:
    """Neighbouring queries of a tree, and what they see: the first so many keys, and those of a branch up to their own.

    Args:
        length: How many queries.
        seen: How many of the first pieces of keys they see.
        own: Their branch's pieces up to their own, as a range of pieces.
        bias: Added to the scores, shape ``[1, 1, length, keys seen]``; None where each query sees all keys up to its own.
    """

    length: int
    seen: int
    own: range
    bias: Any

    def select(self, pieces: Sequence[Tensor], groups: int) -> Tensor:
        """Keys or values of the span, shape ``[1, heads * groups, keys, d]``, of those of all, in pieces of shape ``[1, heads, n, d]``."""
        chosen = [*pieces[: self.seen], *pieces[self.own.start : self.own.stop]]
        joined = chosen[0] if len(chosen) == 1 else torch.cat(chosen, dim=2)
        return joined.repeat_interleave(groups, dim=1) if groups > 1 else joined


@dataclass(frozen=True)
class Spans:
    """What the tokens of a tree attend to, once for all layers.

    Args:
        spans: The trunk's, then each branch's.
        pieces: Into which keys and values are cut: those that stand before the tree, if any, then each span's.
    """

    spans: tuple[Span, ...]
    pieces: tuple[int, ...]


def spans_of(batch: Batch, dtype: torch.dtype) -> Spans:
    """Those of a batch, for queries of a type.

    A long chain is cut, so that its first queries need not be compared with its last keys; on the processor, short neighbours are
    put together under a mask, for a call of the kernel costs more than the few scores that the mask discards.
    """
    device = batch.input_ids.device
    pieces = [batch.before] if batch.before else []
    spans: list[Span] = []

    def add(branch: Branch, seen: int, seen_pieces: int) -> None:
        first, done = len(pieces), 0
        for length in _cut(branch, device):
            pieces.append(length)
            bias = _span_bias(Branch(length, branch.visible), seen + done, dtype, device)
            spans.append(Span(length, seen_pieces, range(first, len(pieces)), bias))
            done += length

    if batch.trunk:
        add(Branch(batch.trunk), batch.before, len(pieces))
    seen, seen_pieces = batch.before + batch.trunk, len(pieces)
    for branch in batch.branches if device.type == "cuda" else _together(batch.branches):
        add(branch, seen, seen_pieces)
    return Spans(tuple(spans), tuple(pieces))


def _together(branches: Sequence[Branch]) -> Iterator[Branch]:
    """The same branches, neighbours with no more than ``CHUNK`` tokens between them as one."""
    group: list[Branch] = []
    for branch in branches:
        if group and sum(other.length for other in group) + branch.length > CHUNK:
            yield _one(group)
            group = []
        group.append(branch)
    if group:
        yield _one(group)


def _one(group: Sequence[Branch]) -> Branch:
    """Neighbours as one branch, in which each sees itself alone."""
    if len(group) == 1:
        return group[0]
    return Branch(sum(branch.length for branch in group), torch.block_diag(*(branch.mask() for branch in group)))


def _cut(branch: Branch, device: torch.device) -> list[int]:
    """Lengths of the parts of a branch that are attended to on their own."""
    if branch.visible is not None or device.type == "cuda":
        return [branch.length]
    parts = max(1, round(branch.length / CHUNK))
    return [branch.length * (part + 1) // parts - branch.length * part // parts for part in range(parts)]


def _span_bias(part: Branch, seen: int, dtype: torch.dtype, device: torch.device) -> Any:
    """Of queries that see ``seen`` keys before their own."""
    if part.visible is None and (seen == 0 or part.length == 1):
        return None
    if part.visible is None and device.type == "cuda":
        from torch.nn.attention.bias import causal_lower_right  # loads torch's compiler

        return causal_lower_right(part.length, seen + part.length)  # no numbers at all: flash attention knows this form
    return additive(functional.pad(part.mask().to(device), (seen, 0), value=True), dtype)


def additive(visible: Tensor, dtype: torch.dtype) -> Tensor:
    """What is added to attention's scores so that each query sees what it shall, of shape ``[q, k]``, bool: shape ``[1, 1, q, k]``.

    Numbers, made once: from a bool mask, every layer would make them anew.
    """
    return torch.zeros_like(visible, dtype=dtype).masked_fill_(~visible, float("-inf"))[None, None]


def token_tree_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    spans: Spans | None = None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """PyTorch's scaled dot-product attention span by span, so that it costs what is seen and not the square of the tree.

    Args:
        module: transformers' attention layer.
        query: Shape ``[1, heads, t, d]``.
        key: Shape ``[1, key heads, before + t, d]``.
        value: As ``key``.
        attention_mask: Used where there are no spans.
        spans: None for an ordinary sequence.
        dropout: On the attention weights.
        scaling: Of the scores; None takes ``d ** -0.5``.

    Returns:
        Shape ``[1, t, heads, d]``.
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if spans is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs)
    groups = query.shape[1] // key.shape[1]
    # Cut once: each slice's gradient would be as large as the whole.
    queries = query.split([span.length for span in spans.spans], dim=2)
    keys, values = (states.split(spans.pieces, dim=2) for states in (key, value))
    outputs = []
    for part, span in zip(queries, spans.spans, strict=True):
        k, v = span.select(keys, groups), span.select(values, groups)
        with _copied_again(span, groups, (k, keys), (v, values)):
            outputs.append(
                functional.scaled_dot_product_attention(
                    part, k, v, attn_mask=span.bias, dropout_p=dropout, scale=scaling, is_causal=span.bias is None and span.length > 1
                )
            )
    return torch.cat(outputs, dim=2).transpose(1, 2).contiguous(), None


def _copied_again(span: Span, groups: int, *copies: tuple[Tensor, Sequence[Tensor]]) -> Any:
    """Keep no copy of keys and values for the backward pass: each is made again from its pieces, which are there anyway.

    Every span has copies of the trunk's, and with shared heads several of its own: kept, they were the largest part of a step's memory.
    """

    # Where they lie, not they themselves: what the hooks know lives as long as the graph.
    made_of = {_place(copy): tuple(piece.detach() for piece in pieces) for copy, pieces in copies}

    def pack(tensor: Tensor) -> Tensor | tuple[Tensor, ...]:
        return made_of.get(_place(tensor), tensor)

    def unpack(kept: Tensor | tuple[Tensor, ...]) -> Tensor:
        return kept if isinstance(kept, Tensor) else span.select(kept, groups)

    return torch.autograd.graph.saved_tensors_hooks(pack, unpack)


def _place(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.data_ptr(), tensor.shape, tensor.stride()


def use_token_trees(llm: Any) -> None:
    """Let a language model attend by :func:`token_tree_attention`, where its kind lets the attention be chosen and it is PyTorch's."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    if llm.config._attn_implementation == "sdpa" and llm._supports_attention_backend:
        AttentionInterface.register(TOKEN_TREE, token_tree_attention)
        AttentionMaskInterface.register(TOKEN_TREE, sdpa_mask)
        llm.set_attn_implementation(TOKEN_TREE)


def tree_arguments(llm: Any, batch: Batch, dtype: torch.dtype) -> dict[str, Any]:
    """What a language model's forward takes to attend as a batch says."""
    if llm.config._attn_implementation == TOKEN_TREE:
        # A mask of four dimensions is passed on as it is, so that none is made.
        return {"spans": spans_of(batch, dtype), "attention_mask": torch.zeros(1, 1, 1, 1, device=batch.input_ids.device)}
    return {"attention_mask": additive(batch.attention_mask, dtype)}
