"""Token trees: whatever shares a beginning, every path must read as if it stood alone."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from graphgpt.models.graph_llm import GraphLLM
from graphgpt.prompts.batch import Batch, TokenTree, scoring_batch, training_batch
from graphgpt.prompts.processor import END, IGNORE, PATCH, START, Example

Tokens = tuple[int, ...]


@dataclass(frozen=True)
class Stub:
    """An input that is nothing but its number of tokens."""

    num_tokens: int


def example(ids: Sequence[int], supervised: Sequence[bool] = (), name: str = "s") -> Example:
    """An example whose inputs follow from its modality tokens; those are never supervised."""
    flags = [*supervised, *[False] * len(ids)]
    labels = tuple(token if flag and token >= 0 else IGNORE for token, flag in zip(ids, flags, strict=False))
    inputs = tuple(Stub(1) for token in ids if token == PATCH)
    return Example(id=name, ids=tuple(ids), labels=labels, inputs=inputs)


# Few different tokens, so that sequences often begin alike; modality tokens among them.
tokens = st.sampled_from([0, 1, 1, 1, 2, PATCH, START, END])
sequences = st.lists(tokens, min_size=1, max_size=7)


@st.composite
def examples(draw: st.DrawFn, supervise: bool = True) -> list[Example]:
    """One to five examples, most of them with a common beginning and with answers in any places."""
    prefix = draw(st.lists(st.sampled_from([0, 1, 2, PATCH]), max_size=5))
    made = []
    for number in range(draw(st.integers(1, 5))):
        ids = (prefix if draw(st.integers(0, 9)) else []) + draw(sequences)
        flags = draw(st.lists(st.booleans(), min_size=len(ids), max_size=len(ids))) if supervise else []
        quiet = draw(st.integers(0, len(ids))) if draw(st.booleans()) else 0
        made.append(example(ids, [False] * quiet + flags[quiet:], f"s{number}"))
    return made


candidate_lists = st.lists(st.lists(st.sampled_from([0, 1, 2]), min_size=1, max_size=4).map(tuple), min_size=1, max_size=5)


def path(batch: Batch, token: int) -> Tokens:
    """What a token sees, in the order of positions; the positions must be 0, 1, 2, ... and the last the token's own."""
    visible = batch.attention_mask[token].nonzero().flatten()
    visible = visible[batch.position_ids[visible].argsort()]
    assert batch.position_ids[visible].tolist() == list(range(len(visible)))
    assert visible[-1] == token
    return tuple(batch.input_ids[visible].tolist())


def leaves(batch: Batch) -> list[int]:
    """Tokens that no other token sees."""
    return (batch.attention_mask.sum(dim=0) == 1).nonzero().flatten().tolist()


def viewers(batch: Batch, owner_of_leaf: list[int]) -> list[set[int]]:
    """For every token, the samples whose tokens see it."""
    seen: list[set[int]] = [set() for _ in range(batch.num_tokens)]
    for leaf, owner in zip(leaves(batch), owner_of_leaf, strict=True):
        for token in batch.attention_mask[leaf].nonzero().flatten().tolist():
            seen[token].add(owner)
    return seen


def predictions(batch: Batch) -> list[tuple[int, int, int]]:
    return list(zip(batch.source.tolist(), batch.target.tolist(), batch.answer.tolist(), strict=True))


def collate(inputs: Sequence[Any]) -> list[Any]:
    return list(inputs)


@given(st.data())
def test_tree_paths_are_the_segments_from_the_root_on(data: st.DataObject) -> None:
    tree = TokenTree()
    wholes: list[list[int]] = []
    for number in range(data.draw(st.integers(1, 8))):
        parent = data.draw(st.integers(-1, number - 1))
        ids = data.draw(st.lists(st.integers(0, 9), min_size=1, max_size=4))
        assert tree.add(ids, parent) == number
        wholes.append((wholes[parent] if parent >= 0 else []) + ids)
    batch = tree.batch([], 0, [], collate)
    assert batch.inputs is None and batch.source.shape == batch.target.shape == (0,)
    for end, whole in zip(tree.ends, wholes, strict=True):
        assert path(batch, end) == tuple(whole)
        assert batch.position_ids[end] == len(whole) - 1


@given(examples())
def test_training_batch_holds_every_example_as_it_is_alone(samples: list[Example]) -> None:
    batch = training_batch(samples, collate)
    ends = leaves(batch)
    assert [path(batch, end) for end in ends] == [sample.ids for sample in samples]
    assert [int(batch.position_ids[end]) for end in ends] == [len(sample.ids) - 1 for sample in samples]
    assert batch.ids == tuple(sample.id for sample in samples)
    assert batch.num_answers == len(samples)
    assert (batch.inputs or []) == [item for sample in samples for item in sample.inputs]
    assert (batch.input_ids == PATCH).sum() == len(batch.inputs or [])


@given(examples())
def test_training_batch_predicts_every_supervised_token_from_the_one_before(samples: list[Example]) -> None:
    """All but a first token, which nothing stands before."""
    batch = training_batch(samples, collate)
    found = sorted((answer, len(path(batch, source)), target, path(batch, source)) for source, target, answer in predictions(batch))
    expected = [
        (number, place, label, sample.ids[:place])
        for number, sample in enumerate(samples)
        for place, label in enumerate(sample.labels)
        if label != IGNORE and place > 0
    ]
    assert found == expected


@given(examples())
def test_training_batch_shares_only_what_is_common_and_given(samples: list[Example]) -> None:
    """Nobody sees a token of another sample, unless it is part of the beginning of all: then neither supervised nor of a modality."""
    batch = training_batch(samples, collate)
    seen = viewers(batch, list(range(len(samples))))
    everyone = set(range(len(samples)))
    shared = [token for token, by in enumerate(seen) if len(by) > 1]
    assert all(seen[token] == everyone for token in shared)
    assert all(batch.input_ids[token] >= 0 for token in shared)
    if len(samples) > 1:
        places = [int(batch.position_ids[token]) for token in shared]
        assert all(sample.labels[place] == IGNORE for sample in samples for place in places)
    total = sum(len(sample.ids) for sample in samples)
    assert batch.num_tokens == total - len(shared) * (len(samples) - 1)


def test_training_batch_shares_the_whole_constant_instruction() -> None:
    samples = [example([5, 6, 7, START, PATCH, END, 8, i], [False] * 7 + [True]) for i in range(3)]
    batch = training_batch(samples, collate)
    assert batch.num_tokens == 3 + 3 * 5
    assert batch.input_ids[:3].tolist() == [5, 6, 7]


def test_training_batch_of_equal_examples() -> None:
    """The last token at least is each one's own."""
    samples = [example([5, 6, 7])] * 3
    assert training_batch(samples, collate).num_tokens == 2 + 3


def test_training_batch_does_not_share_answers() -> None:
    samples = [example([5, 6, 7, 8], [False, True, True, True])] * 2
    batch = training_batch(samples, collate)
    assert batch.num_tokens == 1 + 3 + 3
    assert sorted(answer for _, _, answer in predictions(batch)) == [0] * 3 + [1] * 3


@given(examples(supervise=False), candidate_lists)
def test_scoring_batch_predicts_every_candidate_after_every_prompt(prompts: list[Example], candidates: list[Tokens]) -> None:
    """Candidates may begin alike, be equal, or begin another one."""
    batch = scoring_batch(prompts, candidates, collate)
    found = sorted((answer, len(path(batch, source)), target, path(batch, source)) for source, target, answer in predictions(batch))
    expected = sorted(
        (i * len(candidates) + j, len(prompt.ids) + k, token, prompt.ids + candidate[:k])
        for i, prompt in enumerate(prompts)
        for j, candidate in enumerate(candidates)
        for k, token in enumerate(candidate)
    )
    assert found == expected
    assert batch.num_answers == len(prompts) * len(candidates)
    assert (batch.inputs or []) == [item for prompt in prompts for item in prompt.inputs]


@given(examples(supervise=False), candidate_lists)
def test_scoring_batch_keeps_prompts_apart_and_holds_nothing_twice(prompts: list[Example], candidates: list[Tokens]) -> None:
    batch = scoring_batch(prompts, candidates, collate)
    paths = [path(batch, token) for token in range(batch.num_tokens)]
    beginnings = {candidate[:k] for candidate in candidates for k in range(1, len(candidate))}
    shared = sum(
        all(prompt.ids[: place + 1] == prompts[0].ids[: place + 1] and len(prompt.ids) > place + 1 for prompt in prompts)
        and min(prompts[0].ids[: place + 1]) >= 0
        for place in range(len(prompts[0].ids))
    )
    shared = shared if len(prompts) > 1 else 0
    assert batch.num_tokens == shared + sum(len(prompt.ids) - shared + len(beginnings) for prompt in prompts)
    allowed = {prompt.ids[: place + 1] for prompt in prompts for place in range(len(prompt.ids))}
    allowed |= {prompt.ids + beginning for prompt in prompts for beginning in beginnings}
    assert set(paths) == allowed


def test_scoring_batch_by_hand() -> None:
    """One prompt (8, 9), candidates (1, 2, 3), (1, 2), (1, 4): the last tokens are predicted, never read."""
    batch = scoring_batch([example([8, 9])], [(1, 2, 3), (1, 2), (1, 4)], collate)
    assert batch.input_ids.tolist() == [8, 9, 1, 2]
    assert batch.position_ids.tolist() == [0, 1, 2, 3]
    assert predictions(batch) == [(1, 1, 0), (2, 2, 0), (3, 3, 0), (1, 1, 1), (2, 2, 1), (1, 1, 2), (2, 4, 2)]


def test_batch_moves_to_a_device_with_all_its_parts() -> None:
    batch = scoring_batch([example([1, 2, 3])], [(4, 5)], collate)
    moved = batch.to("meta")
    assert moved.branches[0].visible is not None
    assert moved.input_ids.device.type == moved.branches[0].visible.device.type == moved.answer.device.type == "meta"
    assert moved.ids == batch.ids and moved.inputs is None


@pytest.fixture(scope="module")
def model(tiny_model: Callable[..., GraphLLM]) -> GraphLLM:
    return tiny_model()


@given(examples(), st.randoms(use_true_random=False))
def test_order_of_examples_does_not_matter(model: GraphLLM, samples: list[Example], random: Any) -> None:
    samples = [replace(sample, ids=(9, *(max(token, 0) for token in sample.ids)), inputs=()) for sample in samples]
    samples = [replace(sample, labels=(IGNORE,) * (len(sample.ids) - 1) + sample.ids[-1:]) for sample in samples]
    order = list(range(len(samples)))
    random.shuffle(order)
    with torch.no_grad():
        total, count = model(training_batch(samples, collate))
        shuffled_total, shuffled_count = model(training_batch([samples[i] for i in order], collate))
    assert count[order].tolist() == shuffled_count.tolist()
    torch.testing.assert_close(total[order], shuffled_total, atol=1e-5, rtol=1e-5)
