"""Which sample comes when: every item once per epoch, the same for any number of processes, and from any step on."""

from collections import Counter
from unittest.mock import Mock

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from graphgpt.models.multimodal_llm import PromptReader
from graphgpt.prompts.processor import IGNORE, Example
from graphgpt.runners.training.data import Key, MicroBatches, StepSampler, chunks, mix


@st.composite
def samplers(draw: st.DrawFn) -> dict[str, int]:
    """Sizes that fit together."""
    world = draw(st.integers(1, 4))
    return {
        "items": draw(st.integers(1, 50)),
        "steps": draw(st.integers(1, 12)),
        "global_batch": world * draw(st.integers(1, 8)),
        "world": world,
        "seed": draw(st.integers(0, 2**32)),
    }


def shares(sizes: dict[str, int], start: int = 0, rank: int = 0, world: int | None = None) -> list[list[Key]]:
    """What one process has to do with each step. Items are numbers from 100 on, so that a place is no item."""
    sampler = StepSampler(
        torch.arange(100, 100 + sizes["items"]),
        steps=sizes["steps"],
        global_batch=sizes["global_batch"],
        seed=sizes["seed"],
        start=start,
        rank=rank,
        world=world or sizes["world"],
    )
    assert len(sampler) == sizes["steps"]
    return list(sampler)


def whole(sizes: dict[str, int], start: int = 0) -> list[Key]:
    """All samples in their order, as a single process sees them."""
    return [key for batch in shares(sizes, start, world=1) for key in batch]


@given(samplers())
def test_every_item_comes_once_per_epoch(sizes: dict[str, int]) -> None:
    keys = whole(sizes)
    assert len(keys) == sizes["steps"] * sizes["global_batch"]
    assert [epoch for epoch, _ in keys] == [place // sizes["items"] for place in range(len(keys))]
    counts = Counter(keys)
    assert set(counts.values()) == {1}
    for epoch in range(len(keys) // sizes["items"]):
        assert {item for e, item in keys if e == epoch} == set(range(100, 100 + sizes["items"]))


@given(samplers())
def test_processes_share_a_step_among_them(sizes: dict[str, int]) -> None:
    found = [shares(sizes, rank=rank) for rank in range(sizes["world"])]
    assert all(len(batch) == sizes["global_batch"] // sizes["world"] for share in found for batch in share)
    assert all(len(share) == sizes["steps"] for share in found)
    keys = whole(sizes)
    for step in range(sizes["steps"]):
        expected = keys[step * sizes["global_batch"] : (step + 1) * sizes["global_batch"]]
        assert sorted(key for share in found for key in share[step]) == sorted(expected)


@given(samplers(), st.data())
def test_starting_later_drops_what_came_before(sizes: dict[str, int], data: st.DataObject) -> None:
    start = data.draw(st.integers(0, sizes["steps"]))
    rank = data.draw(st.integers(0, sizes["world"] - 1))
    assert shares(sizes, start, rank) == shares(sizes, rank=rank)[start:]


@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=12),
    st.none() | st.integers(1, 6),
    st.none() | st.integers(1, 100),
)
def test_micro_batches_hold_every_sample_once_within_their_limits(lengths: list[int], size: int | None, tokens: int | None) -> None:
    examples = [Example(id=str(i), ids=(7,) * n + (8,), labels=(IGNORE,) * n + (8,), inputs=(), spans=()) for i, n in enumerate(lengths)]
    found = MicroBatches(PromptReader(Mock(readers={})), size, tokens)(examples)
    assert sorted(name for micro in found for name in micro.ids) == sorted(example.id for example in examples)
    for micro in found:
        assert size is None or len(micro.ids) <= size
        assert tokens is None or len(micro.ids) == 1 or sum(lengths[int(name)] + 1 for name in micro.ids) <= tokens
    longest = [max(lengths[int(name)] for name in micro.ids) for micro in found]
    assert longest == sorted(longest, reverse=True)


@given(samplers())
def test_each_pass_gives_the_same(sizes: dict[str, int]) -> None:
    assert shares(sizes) == shares(sizes)


@given(samplers(), st.integers(1, 12))
def test_a_longer_run_begins_alike(sizes: dict[str, int], more: int) -> None:
    longer = whole(sizes | {"steps": sizes["steps"] + more})
    assert longer[: sizes["steps"] * sizes["global_batch"]] == whole(sizes)


def test_epochs_and_seeds_differ_in_their_order() -> None:
    sizes = {"items": 50, "steps": 10, "global_batch": 10, "world": 1, "seed": 0}
    keys = whole(sizes)
    first, second = ([item for epoch, item in keys if epoch == e] for e in (0, 1))
    assert sorted(first) == sorted(second)
    assert first != second
    assert first != sorted(first)
    assert first != [item for epoch, item in whole(sizes | {"seed": 1}) if epoch == 0]


@given(st.integers(0, 2**63), st.integers(0, 2**40), st.integers(0, 2**20))
def test_mix_is_a_seed_and_tells_neighbours_apart(a: int, b: int, c: int) -> None:
    assert 0 <= mix(a, b, c) < 2**63
    assert mix(a, b, c) == mix(a, b, c)
    assert len({mix(a, b, c), mix(a + 1, b, c), mix(a, b + 1, c), mix(a, b, c + 1), mix(a, b)}) == 5


def test_mix_depends_on_order() -> None:
    assert mix(1, 2) != mix(2, 1)
    assert mix(0) != mix(0, 0)


def test_mix_spreads() -> None:
    """Of ten thousand neighbouring numbers none collide, every bit is as often one as zero, and eight bins fill evenly."""
    seeds = [mix(seed, epoch, item) for seed in range(2) for epoch in range(50) for item in range(100)]
    assert len(set(seeds)) == 10_000
    ones = [sum(seed >> bit & 1 for seed in seeds) for bit in range(63)]
    assert min(ones) > 4_750
    assert max(ones) < 5_250
    bins = Counter(seed % 8 for seed in seeds)
    assert min(bins.values()) > 1_100
    assert max(bins.values()) < 1_400


@pytest.mark.parametrize(("size", "expected"), [(2, [[1, 2], [3, 4], [5]]), (5, [[1, 2, 3, 4, 5]]), (9, [[1, 2, 3, 4, 5]])])
def test_chunks(size: int, expected: list[list[int]]) -> None:
    assert list(chunks([1, 2, 3, 4, 5], size)) == expected
    assert list(chunks([], size)) == []
