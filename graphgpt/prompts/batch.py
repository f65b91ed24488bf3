"""Batches as token trees.

Sequences that begin alike share their beginning, equal inputs in it too: a batch's constant instruction stands once, and so does a
picture that several questions are about; a prompt's candidate answers hang below it, and common beginnings of candidates below each
other. The tree is laid out as one sequence in which a token
attends to its own path only and has the position it would have there, so every path's result is what it would be alone.
Training, packing without padding, prefix sharing and candidate scoring are this one mechanism.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from graphgpt.prompts.instruction import ModalityInput
from graphgpt.prompts.processor import IGNORE, Example
from graphgpt.prompts.reader import Inputs, Readers, collate_inputs


@dataclass  # not frozen, for Lightning converts the batches of some strategies
class Branch:
    """Neighbouring tokens of a tree that see each other, the trunk and nothing else.

    Args:
        length: How many.
        visible: Row sees column, shape ``[length, length]``, bool; None where each sees all before it.
    """

    length: int
    visible: Tensor | None = None

    def mask(self) -> Tensor:
        """``visible``, spelled out."""
        return torch.ones(self.length, self.length, dtype=torch.bool).tril() if self.visible is None else self.visible

    def to(self, device: torch.device | str) -> "Branch":
        """The same branch on another device."""
        return self if self.visible is None else replace(self, visible=self.visible.to(device))


@dataclass(kw_only=True)  # not frozen, for Lightning converts the batches of some strategies
class Batch:
    """One token tree, with the questions put to it.

    Shapes: t tokens, p predictions, a answers.

    Args:
        input_ids: Token ids, below zero for modality tokens, shape ``[t]``, int64; the trunk's first, then branch by branch.
        position_ids: Place of each token on its path, shape ``[t]``, int64.
        before: How many tokens stand before the tree, encoded already, and are seen by all of it.
        trunk: So many tokens, each of which sees those before it, are seen by all branches.
        branches: Of the tokens after the trunk, in their order.
        source: Token whose output predicts, shape ``[p]``, int64.
        target: Token id to predict, shape ``[p]``, int64.
        answer: Which answer the prediction belongs to, shape ``[p]``, int64.
        num_answers: a.
        ids: Names of the samples.
        inputs: By modality what its tower takes, in the order in which their tokens stand; only of those that there are.
    """

    input_ids: Tensor
    position_ids: Tensor
    before: int
    trunk: int
    branches: tuple[Branch, ...]
    source: Tensor
    target: Tensor
    answer: Tensor
    num_answers: int
    ids: tuple[str, ...]
    inputs: dict[str, Inputs]

    @property
    def num_tokens(self) -> int:
        return self.input_ids.numel()

    @property
    def attention_mask(self) -> Tensor:
        """What each token sees, for kernels that know no branches; it grows with the square of the tree."""
        return self.visible_from(torch.arange(self.num_tokens, device=self.input_ids.device))

    def visible_from(self, tokens: Tensor) -> Tensor:
        """What some of the tokens see, themselves and what stands before them on their paths: shape ``[len(tokens), before + t]``, bool."""
        places = torch.arange(-self.before, self.num_tokens, device=tokens.device)
        visible = (places < self.trunk) & (places <= tokens[:, None])
        start = self.trunk
        for branch in self.branches:
            end = start + branch.length
            rows = ((tokens >= start) & (tokens < end)).nonzero().flatten()
            visible[rows, self.before + start : self.before + end] = branch.mask().to(tokens.device)[tokens[rows] - start]
            start = end
        return visible

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on another device."""
        moved = {name: value.to(device) for name, value in vars(self).items() if hasattr(value, "to")}
        inputs = {name: own.to(device) for name, own in self.inputs.items()}
        return replace(self, branches=tuple(branch.to(device) for branch in self.branches), inputs=inputs, **moved)


@dataclass
class TokenTree:
    """Token sequences that share beginnings, being put together.

    Args:
        before: How many tokens stand before the tree and are seen by all of it.
        trunk: Token ids that all of the tree begins with.
        inputs: Those in the trunk; whoever adds tokens adds the inputs that stand in them, in that order.
    """

    before: int = 0
    trunk: Sequence[int] = ()
    inputs: list[ModalityInput] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.ids = list(self.trunk)
        self.positions = list(range(self.before, self.before + len(self.trunk)))
        self.parents: list[int] = []
        self.ends: list[int] = []

    def add(self, ids: Sequence[int], parent: int = -1) -> int:
        """Append ``ids`` (at least one) below segment ``parent`` (-1: the trunk) and return the new segment's number."""
        start = self.positions[self.ends[parent]] + 1 if parent >= 0 else self.before + len(self.trunk)
        self.ids += ids
        self.positions += range(start, start + len(ids))
        self.parents.append(parent)
        self.ends.append(len(self.ids) - 1)
        return len(self.parents) - 1

    def stems(self, examples: Sequence[Example], shared: int) -> Iterator[tuple[int, int]]:
        """For each example the segment that it is to be added below, and how many of its tokens stand there and above already.

        Neighbours that go on alike below the trunk, past an equal input, get a segment for what they share, with the input in it.
        """
        for _, run in itertools.groupby(examples, key=lambda example: _next_input(example, shared)):
            alike = [*run]
            length = common_prompt(alike)
            if length <= shared or not _read(alike[0], shared, length):
                yield from ((-1, shared) for _ in alike)
                continue
            stem = self.add(alike[0].ids[shared:length])
            self.inputs += _read(alike[0], shared, length)
            yield from ((stem, length) for _ in alike)

    def branches(self) -> tuple[Branch, ...]:
        """What hangs below the trunk, cut wherever no later token sees an earlier one."""
        last = np.arange(len(self.parents))  # the last segment below each
        for segment in reversed(range(len(self.parents))):
            if self.parents[segment] >= 0:
                last[self.parents[segment]] = max(last[self.parents[segment]], last[segment])
        found, first = [], 0
        while first < len(self.parents):
            end = first + 1
            while end <= last[first:end].max():
                end = int(last[first:end].max()) + 1
            found.append(self._branch(first, end))
            first = end
        return tuple(found)

    def _branch(self, first: int, end: int) -> Branch:
        """Of segments ``first`` to ``end``, exclusive."""
        start = self.ends[first - 1] + 1 if first else len(self.trunk)
        lengths = np.diff([start - 1, *self.ends[first:end]])
        if len(lengths) == 1:
            return Branch(int(lengths[0]))
        visible = np.eye(end - first, dtype=bool)
        for segment in range(first, end):
            if self.parents[segment] >= 0:
                visible[segment - first] |= visible[self.parents[segment] - first]
        segments = np.repeat(np.arange(end - first), lengths)
        return Branch(len(segments), torch.from_numpy(np.tril(visible[segments][:, segments])))

    def batch(self, predictions: Sequence[tuple[int, int, int]], num_answers: int, examples: Sequence[Example], readers: Readers) -> Batch:
        """The finished tree with its predictions, each (source token, target id, answer)."""
        source, target, answer = torch.tensor(predictions, dtype=torch.int64).reshape(-1, 3).unbind(dim=1)
        return Batch(
            input_ids=torch.tensor(self.ids),
            position_ids=torch.tensor(self.positions),
            before=self.before,
            trunk=len(self.trunk),
            branches=self.branches(),
            source=source.contiguous(),
            target=target.contiguous(),
            answer=answer.contiguous(),
            num_answers=num_answers,
            ids=tuple(example.id for example in examples),
            inputs=collate_inputs(readers, self.inputs),
        )


def training_batch(examples: Sequence[Example], readers: Readers) -> Batch:
    """All examples below their common beginning; each example is one answer."""
    shared = common_prompt(examples)
    tree = TokenTree(trunk=examples[0].ids[:shared], inputs=_read(examples[0], 0, shared))
    predictions = []
    for number, (example, (parent, known)) in enumerate(zip(examples, tree.stems(examples, shared), strict=True)):
        start, before = len(tree.ids), shared - 1 if parent < 0 else tree.ends[parent]
        tree.add(example.ids[known:], parent)
        tree.inputs += _read(example, known)
        for offset, label in enumerate(example.labels[known:]):
            source = start + offset - 1 if offset else before
            if label != IGNORE and source >= 0:
                predictions.append((source, label, number))
    return tree.batch(predictions, len(examples), examples, readers)


def scoring_batch(prompts: Sequence[Example], candidates: Sequence[Sequence[int]], readers: Readers, before: int = 0) -> Batch:
    """All prompts below their common beginning, and below each of them every candidate.

    Candidates that begin alike share those tokens, and a candidate's last token is only predicted, never read. Answer
    number ``i * len(candidates) + j`` is candidate j of prompt i. The first ``before`` tokens of all prompts are encoded
    elsewhere.
    """
    shared = max(before, common_prompt(prompts))
    tree = TokenTree(before, prompts[0].ids[before:shared], _read(prompts[0], before, shared))
    predictions = []
    for i, (prompt, (parent, known_tokens)) in enumerate(zip(prompts, tree.stems(prompts, shared), strict=True)):
        stem = tree.add(prompt.ids[known_tokens:], parent)
        tree.inputs += _read(prompt, known_tokens)
        known: dict[tuple[int, ...], int] = {(): stem}
        for j, candidate in enumerate(candidates):
            for k, token in enumerate(candidate):
                path = tuple(candidate[:k])
                if path not in known:
                    known[path] = tree.add(path[-1:], known[path[:-1]])
                predictions.append((tree.ends[known[path]], token, i * len(candidates) + j))
    return tree.batch(predictions, len(prompts) * len(candidates), prompts, readers)


def common_prompt(examples: Sequence[Example]) -> int:
    """How many tokens all examples begin with alike, equal inputs among them, before any answer; leaves each at least one."""
    if len(examples) < 2:
        return 0
    columns = zip(*(example.ids for example in examples), strict=False)
    prefix = [tokens[0] for tokens in itertools.takewhile(lambda tokens: len(set(tokens)) == 1, columns)]
    limit = min(len(example.ids) for example in examples) - 1
    answers = [i for example in examples for i, label in enumerate(example.labels[: len(prefix)]) if label != IGNORE]
    length = max(0, min([len(prefix), limit, *answers]))
    for place, (start, end) in enumerate(examples[0].spans):
        if start >= length:
            break
        whole = end <= length and all(example.spans[place : place + 1] == ((start, end),) for example in examples)
        if not (whole and all(example.inputs[place].key == examples[0].inputs[place].key for example in examples)):
            return start
    return length


def _read(example: Example, start: int, end: int | None = None) -> list[ModalityInput]:
    """The inputs of an example that stand in a part of its tokens."""
    places = zip(example.inputs, example.spans, strict=True)
    return [item for item, (first, _) in places if start <= first and (end is None or first < end)]


def _next_input(example: Example, start: int) -> str:
    """The key of the first input from a place on; empty where there is none."""
    read = _read(example, start)
    return read[0].key if read else ""
