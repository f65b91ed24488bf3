"""Mixtures: every part keeps its own ways, an epoch has each as often as asked."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import make_graph, make_processor, parsed
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from graphgpt.errors import DataError
from graphgpt.graphs.graph import TextAttributedGraph
from graphgpt.models.multimodal_llm import MultimodalLLM
from graphgpt.prompts.batch import training_batch
from graphgpt.prompts.instruction import Instruction, Message
from graphgpt.tasks.mixture import Mixture, Part
from graphgpt.tasks.task import Task

MakeTask = Callable[..., Task]


def mixture(tasks: dict[str, Task], **parts: dict[str, Any]) -> Mixture:
    """Tasks that are there already, in a mixture with these settings."""
    settings = {name: Part(task=task.config, **parts.get(name, {})) for name, task in tasks.items()}
    return Mixture(Mixture.Config(name="mixture", parts=settings), tasks)


@pytest.fixture(scope="module")
def tasks(make_task: MakeTask, graph: TextAttributedGraph) -> dict[str, Task]:
    names = {"nodes": "node_classification", "links": "link_prediction", "matching": "graph_matching"}
    return {name: make_task(task, graph) for name, task in names.items()}


def test_an_item_is_asked_as_its_part_asks(tasks: dict[str, Task]) -> None:
    mixed = mixture(tasks)
    for split in ("train", "val", "test"):
        seen = []
        for item in mixed.items(split).tolist():  # type: ignore[arg-type]
            found = mixed.instruction(item, seed=7, training=split == "train")
            name, _, own = found.id.partition("/")
            seen.append(name)
            part = tasks[name]
            same = [part.instruction(i, seed=7, training=split == "train") for i in part.items(split).tolist()]  # type: ignore[arg-type]
            assert (own, found.prompt) in [(other.id, other.prompt) for other in same]
        assert Counter(seen) == {name: len(task.items(split)) for name, task in tasks.items()}  # type: ignore[arg-type]


def test_what_limits_a_prompt_is_named_where_it_stands(tasks: dict[str, Task]) -> None:
    mixed = mixture(tasks, links={"dataset": tasks["links"].dataset})
    limits = {
        (found := mixed.instruction(item, seed=0, training=True)).id.partition("/")[0]: found.limits
        for item in mixed.items("train").tolist()
    }
    assert limits["nodes"] == ("task.parts.nodes.task.max_chars", "dataset.sampler.fanout")
    assert limits["links"] == ("task.parts.links.task.max_chars", "task.parts.links.dataset.sampler.fanout")


def counts(mixed: Mixture) -> Counter[str]:
    return Counter(mixed.instruction(item, seed=0, training=True).id.partition("/")[0] for item in mixed.items("train").tolist())


def test_repeat_and_cap(tasks: dict[str, Task]) -> None:
    found = counts(mixture(tasks, nodes={"cap": 5, "repeat": 3}, links={"cap": 4}, matching={"cap": 10**6}))
    assert found == {"nodes": 15, "links": 4, "matching": len(tasks["matching"].items("train"))}


@given(weights=st.tuples(*[st.floats(0.2, 5)] * 3))
def test_weights_are_shares_and_nothing_is_cut(tasks: dict[str, Task], weights: tuple[float, float, float]) -> None:
    mixed = mixture(tasks, **{name: {"weight": weight} for name, weight in zip(tasks, weights, strict=True)})
    found = counts(mixed)
    total, whole = sum(found.values()), sum(weights)
    for name, weight in zip(tasks, weights, strict=True):
        assert found[name] >= len(tasks[name].items("train"))
        assert abs(found[name] - total * weight / whole) <= 2


def test_weights_on_some_parts_only(tasks: dict[str, Task]) -> None:
    config = mixture(tasks, nodes={"weight": 2.0}).config
    assert Mixture.problems(config) == ["task.parts.links.weight: must be given, since other parts have a weight."]


def test_parts_of_different_width(make_task: MakeTask, graph: TextAttributedGraph) -> None:
    wide = make_graph()
    wide = wide.with_features(torch.randn(wide.num_nodes, 11))
    graphs = iter([graph, wide])
    first, second = (make_task("node_classification", g) for g in (graph, wide))
    config = Mixture.Config(name="mixture", parts={"a": Part(task=first.config), "b": Part(task=second.config)})
    with pytest.raises(DataError, match=r"their node features differ in width: a 8, b 11; give them the same text encoder"):
        Mixture.build(config, first.dataset, lambda dataset: next(graphs))


@torch.no_grad()
def test_a_mixed_batch_has_the_losses_of_its_samples(tasks: dict[str, Task], tiny_model: Callable[..., MultimodalLLM]) -> None:
    """One graph, two graphs and none at all, in one batch."""
    model = tiny_model()
    processor = make_processor(model)
    instructions = [task.instruction(int(task.items("train")[0]), seed=1, training=False) for task in tasks.values()]
    text = tasks["nodes"].instruction(5, seed=1, training=False)
    plain = text.messages[0].text
    instructions.append(Instruction(id="text", messages=(Message("user", plain), text.messages[1])))
    examples = [processor(instruction) for instruction in instructions]
    alone = torch.stack([model.loss(training_batch([example], model.readers)) for example in examples])
    together: Tensor = model.loss(training_batch(examples, model.readers))
    torch.testing.assert_close(together, alone.mean(), atol=1e-5, rtol=1e-5)
    total, count = model(training_batch(examples, model.readers))
    torch.testing.assert_close(-total / count, alone, atol=1e-5, rtol=1e-5)


def test_no_parts() -> None:
    assert Mixture.problems(parsed(Mixture.Config, {"name": "mixture", "parts": {}})) == ["task.parts: a mixture needs at least one part."]
