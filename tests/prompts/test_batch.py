"""Token trees: whatever shares a beginning, every path must read as if it stood alone."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from helpers import Stub, stub_readers
from hypothesis import given
from hypothesis import strategies as st
from lightning_utilities.core.apply_func import apply_to_collection

from graphgpt.models.multimodal_llm import MultimodalLLM
from graphgpt.prompts.batch import Batch, TokenTree, scoring_batch, training_batch
from graphgpt.prompts.processor import IGNORE, Example
from graphgpt.prompts.tokens import Token, token_id

Tokens = tuple[int, ...]


PATCH, START, END = (token_id(0, token) for token in (Token.PATCH, Token.START, Token.END))
READERS = stub_readers()


def example(ids: Sequence[int], supervised: Sequence[bool] = (), name: str = "s", keys: Sequence[str] = ()) -> Example:
    """An example whose inputs follow from its modality tokens, each patch one; those are never supervised."""
    flags = [*supervised, *[False] * len(ids)]
    labels = tuple(token if flag and token >= 0 else IGNORE for token, flag in zip(ids, flags, strict=False))
    places = [place for place, token in enumerate(ids) if token == PATCH]
    known = iter(keys)
    inputs = tuple(Stub(1, key=key) if (key := next(known, None)) else Stub(1) for _ in places)
    return Example(id=name, ids=tuple(ids), labels=labels, inputs=inputs, spans=tuple((place, place + 1) for place in places))


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
        keys = draw(st.lists(st.sampled_from("ab"), min_size=len(ids), max_size=len(ids)))
        made.append(example(ids, [False] * quiet + flags[quiet:], f"s{number}", keys))
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


def keys_on_path(batch: Batch, token: int) -> list[str]:
    """Keys of the inputs whose patches a token sees, in the order of positions."""
    items = iter(batch.inputs["graph"].joined.items if batch.inputs else [])
    owner = {place: next(items).key for place, id in enumerate(batch.input_ids.tolist()) if id == PATCH}
    assert next(items, None) is None
    visible = batch.attention_mask[token].nonzero().flatten()
    return [owner[place] for place in visible[batch.position_ids[visible].argsort()].tolist() if place in owner]


def keys(sample: Example) -> list[str]:
    return [item.key for item in sample.inputs]


@given(st.data())
def test_tree_paths_are_the_segments_from_the_root_on(data: st.DataObject) -> None:
    tree = TokenTree()
    wholes: list[list[int]] = []
    for number in range(data.draw(st.integers(1, 8))):
        parent = data.draw(st.integers(-1, number - 1))
        ids = data.draw(st.lists(st.integers(0, 9), min_size=1, max_size=4))
        assert tree.add(ids, parent) == number
        wholes.append((wholes[parent] if parent >= 0 else []) + ids)
    batch = tree.batch([], 0, [], READERS)
    assert batch.inputs == {} and batch.source.shape == batch.target.shape == (0,)
    for end, whole in zip(tree.ends, wholes, strict=True):
        assert path(batch, end) == tuple(whole)
        assert batch.position_ids[end] == len(whole) - 1


@given(examples())
def test_training_batch_holds_every_example_as_it_is_alone(samples: list[Example]) -> None:
    batch = training_batch(samples, READERS)
    ends = leaves(batch)
    assert [path(batch, end) for end in ends] == [sample.ids for sample in samples]
    assert [int(batch.position_ids[end]) for end in ends] == [len(sample.ids) - 1 for sample in samples]
    assert batch.ids == tuple(sample.id for sample in samples)
    assert batch.num_answers == len(samples)
    assert [keys_on_path(batch, end) for end in ends] == [keys(sample) for sample in samples]


@given(examples())
def test_training_batch_predicts_every_supervised_token_from_the_one_before(samples: list[Example]) -> None:
    """All but a first token, which nothing stands before."""
    batch = training_batch(samples, READERS)
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
    """Nobody sees a token of another sample, unless both begin so, with equal inputs and before any answer."""
    batch = training_batch(samples, READERS)
    seen = viewers(batch, list(range(len(samples))))
    for token, by in enumerate(seen):
        if len(by) > 1:
            place = int(batch.position_ids[token])
            assert all(samples[number].labels[place] == IGNORE for number in by)
    assert batch.num_tokens == sum(len(sample.ids) for sample in samples) - sum(len(by) - 1 for by in seen)


def test_training_batch_shares_the_whole_constant_instruction() -> None:
    samples = [example([5, 6, 7, START, PATCH, END, 8, i], [False] * 7 + [True]) for i in range(3)]
    batch = training_batch(samples, READERS)
    assert batch.num_tokens == 4 + 3 * 4
    assert batch.input_ids[:4].tolist() == [5, 6, 7, START]


def test_questions_about_one_input_read_it_once() -> None:
    """Ten of them in a batch, or two after three about another one; what is asked stands once each."""
    about = [example([5, START, PATCH, PATCH, END, 6, i], name=str(i), keys=["a", "b"]) for i in range(10)]
    batch = scoring_batch(about, [(7,)], READERS)
    assert batch.num_tokens == 6 + 10 and [item.key for item in batch.inputs["graph"].joined.items] == ["a", "b"]
    other = [replace(one, inputs=(one.inputs[0], Stub(1, key="c"))) for one in about[:2]]
    batch = training_batch([replace(one, labels=(*one.labels[:-1], one.ids[-1])) for one in (*about[:3], *other)], READERS)
    assert [item.key for item in batch.inputs["graph"].joined.items] == ["a", "b", "c"]
    assert batch.num_tokens == 3 + (3 + 3) + (3 + 2) and len(batch.branches) == 2


def test_training_batch_of_equal_examples() -> None:
    """The last token at least is each one's own."""
    samples = [example([5, 6, 7])] * 3
    assert training_batch(samples, READERS).num_tokens == 2 + 3


def test_training_batch_does_not_share_answers() -> None:
    samples = [example([5, 6, 7, 8], [False, True, True, True])] * 2
    batch = training_batch(samples, READERS)
    assert batch.num_tokens == 1 + 3 + 3
    assert sorted(answer for _, _, answer in predictions(batch)) == [0] * 3 + [1] * 3


@given(examples(supervise=False), candidate_lists)
def test_scoring_batch_predicts_every_candidate_after_every_prompt(prompts: list[Example], candidates: list[Tokens]) -> None:
    """Candidates may begin alike, be equal, or begin another one."""
    batch = scoring_batch(prompts, candidates, READERS)
    found = sorted((answer, len(path(batch, source)), target, path(batch, source)) for source, target, answer in predictions(batch))
    expected = sorted(
        (i * len(candidates) + j, len(prompt.ids) + k, token, prompt.ids + candidate[:k])
        for i, prompt in enumerate(prompts)
        for j, candidate in enumerate(candidates)
        for k, token in enumerate(candidate)
    )
    assert found == expected
    assert batch.num_answers == len(prompts) * len(candidates)
    for source, answer in zip(batch.source.tolist(), batch.answer.tolist(), strict=True):
        assert keys_on_path(batch, source) == keys(prompts[answer // len(candidates)])


@given(examples(supervise=False), candidate_lists)
def test_scoring_batch_keeps_prompts_apart_and_holds_nothing_twice(prompts: list[Example], candidates: list[Tokens]) -> None:
    batch = scoring_batch(prompts, candidates, READERS)
    paths = [path(batch, token) for token in range(batch.num_tokens)]
    beginnings = {candidate[:k] for candidate in candidates for k in range(1, len(candidate))}
    shared = sum(
        all(prompt.ids[: place + 1] == prompts[0].ids[: place + 1] and len(prompt.ids) > place + 1 for prompt in prompts)
        and min(prompts[0].ids[: place + 1]) >= 0
        for place in range(len(prompts[0].ids))
    )
    shared = shared if len(prompts) > 1 else 0
    most = shared + sum(len(prompt.ids) - shared + len(beginnings) for prompt in prompts)
    assert batch.num_tokens == most if not batch.inputs else batch.num_tokens <= most
    allowed = {prompt.ids[: place + 1] for prompt in prompts for place in range(len(prompt.ids))}
    allowed |= {prompt.ids + beginning for prompt in prompts for beginning in beginnings}
    assert set(paths) == allowed


def test_scoring_batch_by_hand() -> None:
    """One prompt (8, 9), candidates (1, 2, 3), (1, 2), (1, 4): the last tokens are predicted, never read."""
    batch = scoring_batch([example([8, 9])], [(1, 2, 3), (1, 2), (1, 4)], READERS)
    assert batch.input_ids.tolist() == [8, 9, 1, 2]
    assert batch.position_ids.tolist() == [0, 1, 2, 3]
    assert predictions(batch) == [(1, 1, 0), (2, 2, 0), (3, 3, 0), (1, 1, 1), (2, 2, 1), (1, 1, 2), (2, 4, 2)]


def test_lightning_converts_a_batch() -> None:
    """Some strategies go through all tensors of a batch, those of its branches and inputs too, and put others in their place."""
    prompts = [example([1, 2, -1, 3], keys=["a"]), example([1, 4, 5])]
    batch = scoring_batch(prompts, [(6, 7), (6, 8)], stub_readers())
    assert any(branch.visible is not None for branch in batch.branches)
    converted = apply_to_collection(batch, torch.Tensor, torch.clone)
    assert isinstance(converted, Batch) and torch.equal(converted.attention_mask, batch.attention_mask)


def test_batch_moves_to_a_device_with_all_its_parts() -> None:
    batch = scoring_batch([example([1, 2, 3])], [(4, 5)], READERS)
    moved = batch.to("meta")
    assert moved.branches[0].visible is not None
    assert moved.input_ids.device.type == moved.branches[0].visible.device.type == moved.answer.device.type == "meta"
    assert moved.ids == batch.ids and moved.inputs == {}


@pytest.fixture(scope="module")
def model(tiny_model: Callable[..., MultimodalLLM]) -> MultimodalLLM:
    return tiny_model()


@given(examples(), st.randoms(use_true_random=False))
def test_order_of_examples_does_not_matter(model: MultimodalLLM, samples: list[Example], random: Any) -> None:
    samples = [replace(sample, ids=(9, *(max(token, 0) for token in sample.ids)), inputs=(), spans=()) for sample in samples]
    samples = [replace(sample, labels=(IGNORE,) * (len(sample.ids) - 1) + sample.ids[-1:]) for sample in samples]
    order = list(range(len(samples)))
    random.shuffle(order)
    with torch.no_grad():
        total, count = model(training_batch(samples, READERS))
        shuffled_total, shuffled_count = model(training_batch([samples[i] for i in order], READERS))
    assert count[order].tolist() == shuffled_count.tolist()
    torch.testing.assert_close(total[order], shuffled_total, atol=1e-5, rtol=1e-5)
