"""Grounding: nodes with their texts and their neighbours' texts."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from helpers import ISOLATED, NUM_NODES, UNLABELLED, make_dataset_config, make_graph, parsed
from hypothesis import given
from hypothesis import strategies as st

from graphgpt.graphs.graph import TextAttributedGraph
from graphgpt.tasks.grounding import Grounding
from graphgpt.tasks.task import Task

GRAPH = make_graph()
TEXTS = torch.randn(NUM_NODES, 5, generator=torch.Generator().manual_seed(1))
CONFIG = {"name": "grounding", "wording": "plain", "wordings": {"plain": "<graph>"}, "text_encoder": {"name": "tfidf_svd", "dim": 5}}


def build(graph: TextAttributedGraph, **fields: Any) -> Grounding:
    """The task as a run builds it, where an encoder makes ``TEXTS`` of any texts."""

    def open_graph(dataset: Any, text_encoder: Any = None) -> TextAttributedGraph:
        return graph if text_encoder is None else graph.with_features(TEXTS)

    return Grounding.build(parsed(Grounding.Config, CONFIG | fields), make_dataset_config({"max_tokens": 1}), open_graph)


TASK = build(GRAPH)


def test_held_out_nodes_do_not_train_and_unlabelled_ones_do() -> None:
    parts = {split: set(TASK.items(split).tolist()) for split in ("train", "val", "test")}
    assert parts["train"] >= set(UNLABELLED)
    assert len(parts["val"]) == 11  # of the labelled ones
    assert sum(map(len, parts.values())) == NUM_NODES == len(set.union(*parts.values()))


def test_a_graph_without_labels_is_split_like_any_other() -> None:
    task = build(replace(GRAPH, y=torch.full((NUM_NODES,), -1), class_names=()))
    assert [len(task.items(split)) for split in ("train", "val", "test")] == [36, 12, 12]
    assert bool((task.graph.y == -1).all())


def test_features_and_texts_are_two_encodings() -> None:
    assert (TASK.facts.widths["graph"], TASK.facts.text_dim) == (GRAPH.features.shape[1], 5)
    found = TASK.instruction(3, seed=0, training=True)
    [subgraph] = found.inputs
    assert torch.equal(subgraph.x[0], GRAPH.features[3])  # type: ignore[attr-defined]
    assert torch.equal(found.text, TEXTS[3])
    assert subgraph.num_tokens == 1
    assert found.truth is None


def test_without_an_encoder_the_texts_themselves_are_given(make_task: Callable[..., Task], graph: TextAttributedGraph) -> None:
    task = make_task("grounding", graph, text_encoder=None, max_chars=12)
    assert isinstance(task, Grounding) and task.facts.text_dim is None
    found = task.instruction(3, seed=0, training=True)
    assert found.text == found.messages[1].text == task.cut(f"{graph.title(3)}. {graph.body(3)}")
    assert len(found.around) == 3
    assert all(0 < len(text) <= 12 for text in found.around)


@pytest.mark.parametrize("neighbors", [1, 3])
def test_an_isolated_node_is_its_own_neighbour(neighbors: int) -> None:
    found = build(GRAPH, neighbors=neighbors).instruction(ISOLATED, seed=0, training=True)
    assert torch.equal(torch.stack(found.around), TEXTS[[ISOLATED] * neighbors])


@given(item=st.integers(0, NUM_NODES - 1), seed=st.integers(0, 2**63 - 1))
def test_a_sample_follows_from_its_seed_and_has_neighbours_only(item: int, seed: int) -> None:
    once, again = (TASK.instruction(item, seed=seed, training=training) for training in (True, False))
    assert torch.equal(torch.stack(once.around), torch.stack(again.around))
    assert torch.equal(once.subgraphs[0].nodes, again.subgraphs[0].nodes)
    drawn = TASK.neighbors(item, seed)
    assert torch.equal(torch.stack(once.around), TEXTS[drawn])
    assert set(drawn.tolist()) <= (set(GRAPH.neighbors(item).tolist()) or {item})


def test_every_neighbour_is_drawn_equally_often() -> None:
    drawn = torch.cat([TASK.neighbors(0, seed) for seed in range(1000)])
    share = drawn.bincount(minlength=NUM_NODES)[GRAPH.neighbors(0)] / len(drawn)
    assert share == pytest.approx(1 / len(share), abs=0.02)
