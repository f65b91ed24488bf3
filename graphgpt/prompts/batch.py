"""Batches as token trees.

Sequences that begin alike share their beginning: a batch's constant instruction stands once, a prompt's candidate answers
hang below it, and common beginnings of candidates below each other. The tree is laid out as one sequence in which a token
attends to its own path only and has the position it would have there, so every path's result is what it would be alone.
Training, packing without padding, prefix sharing and candidate scoring are this one mechanism.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from graphgpt.prompts.instruction import ModalityInput
from graphgpt.prompts.processor import IGNORE, Example

#: Turns the inputs of a batch into what the tower's forward takes.
CollateInputs = Callable[[Sequence[ModalityInput]], Any]


@dataclass(kw_only=True)  # not frozen, for Lightning converts the batches of some strategies
class Batch:
    """One token tree, with the questions put to it.

    Shapes: t tokens, n tokens before them that are encoded already, p predictions, a answers.

    Args:
        input_ids: Token ids, below zero for modality tokens, shape ``[t]``, int64.
        position_ids: Place of each token on its path, shape ``[t]``, int64.
        attention_mask: Row attends to column, shape ``[t, n + t]``, bool.
        source: Token whose output predicts, shape ``[p]``, int64.
        target: Token id to predict, shape ``[p]``, int64.
        answer: Which answer the prediction belongs to, shape ``[p]``, int64.
        num_answers: a.
        ids: Names of the samples.
        inputs: What the tower takes, in the order of the patches; None for a batch of text only.
    """

    input_ids: Tensor
    position_ids: Tensor
    attention_mask: Tensor
    source: Tensor
    target: Tensor
    answer: Tensor
    num_answers: int
    ids: tuple[str, ...]
    inputs: Any | None

    @property
    def num_tokens(self) -> int:
        return self.input_ids.numel()

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on another device."""
        moved = {name: value.to(device) for name, value in vars(self).items() if hasattr(value, "to")}
        return replace(self, **moved)


@dataclass
class TokenTree:
    """Token sequences that share beginnings, being put together.

    Args:
        before: How many tokens stand before the tree and are seen by all of it.
    """

    before: int = 0
    ids: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    segments: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)

    def add(self, ids: Sequence[int], parent: int = -1) -> int:
        """Append ``ids`` (at least one) below segment ``parent`` (-1: at the root) and return the new segment's number."""
        start = self.positions[self.ends[parent]] + 1 if parent >= 0 else self.before
        self.ids += ids
        self.positions += range(start, start + len(ids))
        self.segments += [len(self.parents)] * len(ids)
        self.parents.append(parent)
        self.ends.append(len(self.ids) - 1)
        return len(self.parents) - 1

    def attention_mask(self) -> Tensor:
        """Each token sees itself and what stands before it on its path, shape ``[t, before + t]``, bool."""
        visible = np.eye(len(self.parents), dtype=bool)
        for segment, parent in enumerate(self.parents):
            if parent >= 0:
                visible[segment] |= visible[parent]
        segments = np.asarray(self.segments)
        own = np.tril(visible[segments][:, segments])
        return torch.from_numpy(np.pad(own, ((0, 0), (self.before, 0)), constant_values=True))

    def batch(
        self, predictions: Sequence[tuple[int, int, int]], num_answers: int, examples: Sequence[Example], collate: CollateInputs
    ) -> Batch:
        """The finished tree with its predictions, each (source token, target id, answer)."""
        source, target, answer = torch.tensor(predictions, dtype=torch.int64).reshape(-1, 3).unbind(dim=1)
        inputs = [item for example in examples for item in example.inputs]
        return Batch(
            input_ids=torch.tensor(self.ids),
            position_ids=torch.tensor(self.positions),
            attention_mask=self.attention_mask(),
            source=source.contiguous(),
            target=target.contiguous(),
            answer=answer.contiguous(),
            num_answers=num_answers,
            ids=tuple(example.id for example in examples),
            inputs=collate(inputs) if inputs else None,
        )


def training_batch(examples: Sequence[Example], collate: CollateInputs) -> Batch:
    """All examples below their common beginning; each example is one answer."""
    tree = TokenTree()
    shared = common_prompt(examples)
    root = tree.add(examples[0].ids[:shared]) if shared else -1
    predictions = []
    for number, example in enumerate(examples):
        before = tree.ends[root] if root >= 0 else -1
        start = len(tree.ids)
        tree.add(example.ids[shared:], root)
        for offset, label in enumerate(example.labels[shared:]):
            source = start + offset - 1 if offset else before
            if label != IGNORE and source >= 0:
                predictions.append((source, label, number))
    return tree.batch(predictions, len(examples), examples, collate)


def scoring_batch(prompts: Sequence[Example], candidates: Sequence[Sequence[int]], collate: CollateInputs, before: int = 0) -> Batch:
    """All prompts below their common beginning, and below each of them every candidate.

    Candidates that begin alike share those tokens, and a candidate's last token is only predicted, never read. Answer
    number ``i * len(candidates) + j`` is candidate j of prompt i. The first ``before`` tokens of all prompts are encoded
    elsewhere.
    """
    tree = TokenTree(before)
    shared = common_prompt(prompts)
    root = tree.add(prompts[0].ids[before:shared]) if shared > before else -1
    shared = max(shared, before)
    predictions = []
    for i, prompt in enumerate(prompts):
        stem = tree.add(prompt.ids[shared:], root)
        known: dict[tuple[int, ...], int] = {(): stem}
        for j, candidate in enumerate(candidates):
            for k, token in enumerate(candidate):
                path = tuple(candidate[:k])
                if path not in known:
                    known[path] = tree.add(path[-1:], known[path[:-1]])
                predictions.append((tree.ends[known[path]], token, i * len(candidates) + j))
    return tree.batch(predictions, len(prompts) * len(candidates), prompts, collate)


def common_prompt(examples: Sequence[Example]) -> int:
    """How many tokens all examples begin with alike, before any modality token or answer; leaves each at least one."""
    if len(examples) < 2:
        return 0
    columns = zip(*(example.ids for example in examples), strict=False)
    prefix = [tokens[0] for tokens in itertools.takewhile(lambda tokens: len(set(tokens)) == 1, columns)]
    limit = min(len(example.ids) for example in examples) - 1
    stops = [i for i, token in enumerate(prefix) if token < 0]
    answers = [i for example in examples for i, label in enumerate(example.labels[: len(prefix)]) if label != IGNORE]
    return max(0, min([len(prefix), limit, *stops[:1], *answers]))
