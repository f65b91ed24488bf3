"""Link prediction: both subgraphs are used, nothing leaks, the score ranks."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from helpers import CONFIGS, make_processor, parsed, written
from omegaconf import OmegaConf
from sklearn.metrics import balanced_accuracy_score

from graphgpt.graphs.graph import TextAttributedGraph
from graphgpt.models.answering import score
from graphgpt.models.multimodal_llm import MultimodalLLM
from graphgpt.prompts.batch import training_batch
from graphgpt.registry import TASKS
from graphgpt.tasks.task import Task

MakeTask = Callable[..., Task]
MakeModel = Callable[..., MultimodalLLM]


@pytest.fixture(scope="module")
def task(make_task: MakeTask, graph: TextAttributedGraph) -> Any:
    return make_task("link_prediction", graph)


def test_two_subgraphs_around_the_two_nodes(task: Any) -> None:
    for item in task.items("test").tolist():
        found = task.instruction(item, seed=1, training=False)
        pair = task.edges.pairs[item].tolist()
        assert [int(subgraph.nodes[0]) for subgraph in found.subgraphs] == pair
        assert written(found.messages[0]).count("<graph>") == len(found.inputs) == 2
        assert found.messages[1].text == ("yes" if task.edges.linked[item] else "no") == task.candidates[found.truth]
        for place, node in enumerate(pair):
            title = task.cut(task.graph.title(node))
            assert f"{('First', 'Second')[place]} title: {title}" in found.messages[0].text


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_no_target_edge_is_in_any_subgraph(task: Any, split: Any) -> None:
    hidden = {"train": (0, 1, 2), "val": (1, 2), "test": (1, 2)}[split]
    targets = {
        frozenset(pair)
        for pair, part, linked in zip(task.edges.pairs.tolist(), task.edges.split.tolist(), task.edges.linked.tolist(), strict=True)
        if linked and part in hidden
    }
    for item in task.items(split).tolist():
        for subgraph in task.instruction(item, seed=item, training=split == "train").subgraphs:
            nodes = subgraph.nodes.tolist()
            assert targets.isdisjoint(frozenset((nodes[a], nodes[b])) for a, b in subgraph.edge_index.T.tolist())


def test_texts_can_be_hidden(task: Any) -> None:
    item = int(task.items("test")[0])
    text = task.instruction(item, seed=0, training=False, hide_text=True).messages[0].text
    for node in task.edges.pairs[item].tolist():
        assert task.graph.title(node) not in text


@torch.no_grad()
def test_swapping_either_subgraph_moves_the_score(task: Any, tiny_model: MakeModel) -> None:
    model = tiny_model()
    processor = make_processor(model)
    candidates = [processor.answer(name) for name in task.candidates]
    plain, other = (processor.prompt(task.instruction(item, seed=0, training=False)) for item in task.items("test")[:2].tolist())
    before = score(model, [plain], candidates)
    for place in (0, 1):
        inputs = list(plain.inputs)
        # Of the same number of tokens, so that nothing else of the prompt moves.
        swapped = other.inputs[place]
        tokens = min(swapped.num_tokens, inputs[place].num_tokens)
        inputs[place] = type(swapped)(x=swapped.x * 3 + 1, edge_index=swapped.edge_index, num_tokens=tokens)
        ids = without_patches(plain.ids, plain.inputs, place, tokens)
        cut = replace(plain, ids=ids, labels=(), inputs=tuple(inputs), spans=tuple((at, at) for at, token in enumerate(ids) if token == -2))
        kept = list(plain.inputs)
        kept[place] = type(swapped)(x=kept[place].x, edge_index=kept[place].edge_index, num_tokens=tokens)
        same = replace(cut, inputs=tuple(kept))
        assert (score(model, [cut], candidates) - score(model, [same], candidates)).abs().max() > 1e-5
    torch.testing.assert_close(score(model, [plain], candidates), before)


def without_patches(ids: tuple[int, ...], inputs: Any, place: int, tokens: int) -> tuple[int, ...]:
    """The ids with so many patches of one input only."""
    counts = [item.num_tokens for item in inputs]
    drop = counts[place] - tokens
    first = [i for i, token in enumerate(ids) if token == -1][sum(counts[:place])]
    return (*ids[:first], *ids[first + drop :])


def test_gradients_reach_both_subgraphs(task: Any, tiny_model: MakeModel) -> None:
    model = tiny_model()
    processor = make_processor(model)
    example = processor(task.instruction(int(task.items("train")[0]), seed=0, training=True))
    batch = training_batch([example], model.readers)
    batch.inputs["graph"].joined.x.requires_grad_(True)
    # The tower is frozen and runs without gradients, so its features are followed by way of the projector's input.
    seen: list[torch.Tensor] = []

    def keep(_: Any, given: tuple[torch.Tensor, ...]) -> None:
        given[0].requires_grad_(True).retain_grad()
        seen.append(given[0])

    handle = model.modalities["graph"].projector.register_forward_pre_hook(keep)
    model.loss(batch).backward()
    handle.remove()
    first = example.inputs[0].num_tokens
    assert seen[0].grad is not None
    assert seen[0].grad[:first].abs().sum() > 0
    assert seen[0].grad[first:].abs().sum() > 0


def test_metrics_rank(task: Any) -> None:
    truth = np.array([0, 0, 1, 1, 0, 1])
    scores = np.log(np.array([[0.9, 0.1], [0.6, 0.4], [0.55, 0.45], [0.2, 0.8], [0.4, 0.6], [0.1, 0.9]]))
    found = task.rank_metrics(truth, scores)
    margin = scores[:, 0] - scores[:, 1]
    pairs = [(margin[i] > margin[j]) for i in range(6) if truth[i] == 0 for j in range(6) if truth[j] == 1]
    assert found["auc"] == pytest.approx(np.mean(pairs))
    assert found["accuracy"] == pytest.approx(4 / 6)
    assert found["hard_auc"] == pytest.approx(balanced_accuracy_score(truth == 0, margin > 0))
    assert np.isnan(task.rank_metrics(truth[:2], scores[:2])["auc"])


def test_baselines_score_every_pair(task: Any) -> None:
    items = task.items("test")
    found = dict(task.baselines(items, seed=0))
    assert {"Text cosine", "2-hop cosine", "Common neighbors"} <= found.keys()
    for scores in found.values():
        assert scores.shape == (len(items), 2)
        np.testing.assert_allclose(np.exp(scores).sum(axis=1), 1)


@pytest.mark.parametrize("name", ["graph_matching", "grounding"])
def test_what_is_about_the_graph_itself_needs_it_in_every_wording(name: str) -> None:
    shipped: Any = OmegaConf.to_container(OmegaConf.load(CONFIGS / "task" / f"{name}.yaml"))
    shipped.pop("defaults", None)
    cls = TASKS.get(name)
    assert cls.problems(parsed(cls.Config, shipped)) == []
    without = parsed(cls.Config, shipped | {"wordings": {"none": "What is {node}?"}, "wording": "none"})
    assert cls.problems(without) == ["task.wordings.none: has <graph> 0 times, expected 1."]


def test_a_wording_needs_both_graphs() -> None:
    shipped: Any = OmegaConf.to_container(OmegaConf.load(CONFIGS / "task" / "link_prediction.yaml"))
    cls = TASKS.get("link_prediction")
    shipped["wordings"] = {"one": "<graph> {title} and {other_title}?", "none": "{title} and {other_title}?"}
    config = parsed(cls.Config, shipped | {"wording": "2"})
    assert cls.problems(config) == ["task.wordings.one: has <graph> 1 time, expected 2 (or none, for text alone)."]


def test_what_an_edge_says_is_in_the_prompt_that_asks_for_it(make_task: MakeTask, graph: TextAttributedGraph) -> None:
    task = make_task("link_prediction", graph, wording="relation")
    assert 'In a citation graph, an edge says "paper cites paper".' in task.instruction(0, seed=0, training=False).messages[0].text
