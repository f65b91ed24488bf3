"""Several modalities in one model: any mixture of inputs in a batch, each by its own fusion, gives what each sample gives alone."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from helpers import make_model, model_config, scratch
from strips import Glance, Image, ImageRows

from graphgpt.graphs.graph import TextAttributedGraph
from graphgpt.models.answering import generate, score
from graphgpt.models.decoding import prefix_of
from graphgpt.models.multimodal_llm import MultimodalLLM
from graphgpt.prompts.batch import scoring_batch, training_batch
from graphgpt.prompts.instruction import Instruction, Message, Part
from graphgpt.prompts.processor import Example
from graphgpt.registry import FUSIONS, MODELS, TOWERS
from graphgpt.schema import parse
from graphgpt.tasks.task import Task

GRAPH = {"tower": {"name": "sgc"}, "projector": {"name": "linear"}}
IMAGE = {"tower": {"name": "image_rows", "train": True, "width": 6}, "projector": {"name": "linear"}}
FUSIONS_OF = {
    "spliced": ({"name": "splice"}, {"name": "splice", "frame": False}),
    "looked at": ({"name": "glance"}, {"name": "glance", "every": 2}),
    "one each": ({"name": "splice"}, {"name": "glance"}),
}


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    scratch(TOWERS, monkeypatch).register("image_rows")(ImageRows)
    scratch(FUSIONS, monkeypatch).register("glance")(Glance)


def modalities(of_graph: dict[str, Any], of_image: dict[str, Any]) -> dict[str, Any]:
    return {"graph": GRAPH | {"fusion": of_graph}, "image": IMAGE | {"fusion": of_image}}


@pytest.fixture(params=FUSIONS_OF)
def model(request: pytest.FixtureRequest, registered: None) -> MultimodalLLM:
    """A model that reads graphs and pictures, wide awake: every gate is open, every adapter does something."""
    made = make_model(tower=None, projector=None, modalities=modalities(*FUSIONS_OF[request.param]), lora_rank=2)
    generator = torch.Generator().manual_seed(3)
    for name, parameter in made.named_parameters():
        if "lora_B" in name or name.endswith("gate"):
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.5
    made.llm.get_output_embeddings().weight.data *= 20
    return made


@pytest.fixture(scope="module")
def instructions(graph: TextAttributedGraph, make_task: Callable[..., Task]) -> list[Instruction]:
    """A question about a graph, a picture, both in either order, two pictures, and nothing but words."""
    task = make_task("node_classification", graph)
    inputs = [task.instruction(item, seed=item, training=True).inputs[0] for item in (0, 7)]
    generator = torch.Generator().manual_seed(0)
    small, large = (Image(torch.randn(3, *size, generator=generator)) for size in ((8, 6), (16, 3)))
    contents: list[Sequence[Part]] = [
        ("What is ", inputs[0], "?"),
        ("What is ", small, "?"),
        ("Is ", inputs[0], " like ", small, "?"),
        ("Is ", large, " like ", inputs[1], " or ", small, "?"),
        (small, large, " Which?"),
        ("Who are you?",),
    ]
    return [
        Instruction(id=str(i), messages=(Message("user", *content), Message("assistant", f"It is {i}")))
        for i, content in enumerate(contents)
    ]


def test_a_mixed_batch_gives_the_losses_of_each_alone(model: MultimodalLLM, instructions: list[Instruction]) -> None:
    examples = model.processor.several(instructions)
    together = model.losses(training_batch(examples, model.readers))
    alone = torch.cat([model.losses(training_batch([example], model.readers)) for example in examples])
    torch.testing.assert_close(together, alone, atol=2e-4, rtol=1e-4)
    assert len({round(loss, 3) for loss in alone.tolist()}) == len(alone)
    back = model.losses(training_batch(examples[::-1], model.readers)).flip(0)
    torch.testing.assert_close(back, alone, atol=2e-4, rtol=1e-4)


@torch.no_grad()
def test_prompts_together_are_answered_as_each_alone(model: MultimodalLLM, instructions: list[Instruction]) -> None:
    prompts = [model.processor.prompt(one) for one in instructions]
    candidates = [(1, 2), (1, 3, 4)]
    one_by_one = torch.cat([score(model, [prompt], candidates) for prompt in prompts])
    torch.testing.assert_close(score(model, prompts, candidates), one_by_one, atol=5e-4, rtol=1e-4)
    assert generate(model, prompts, 6) == [generate(model, [prompt], 6)[0] for prompt in prompts]


@torch.no_grad()
def test_questions_about_one_input_read_it_once(model: MultimodalLLM, instructions: list[Instruction]) -> None:
    """Also where it stands in a beginning that is encoded beforehand; scores and answers are those of each question asked alone."""
    [graph], [picture] = instructions[0].inputs, instructions[1].inputs
    asked = [
        Instruction(id=str(i), messages=(Message("user", graph, " and ", picture, f": is it {word}?"),))
        for i, word in enumerate(("red", "round", "alive", "large", "old", "new", "cold", "far", "wet", "soft"))
    ]
    prompts = [model.processor.prompt(one) for one in asked]
    batch = scoring_batch(prompts, [(1,)], model.readers)
    read = [token for token in batch.input_ids.tolist() if token < 0]
    assert read == [token for token in prompts[0].ids if token < 0]
    assert {name: len(own.lengths) for name, own in batch.inputs.items()} == {"graph": 1, "image": 1}
    candidates = [(1, 2), (1, 3)]
    alone = torch.cat([score(model, [prompt], candidates) for prompt in prompts])
    prefix = prefix_of(model, prompts)
    assert prefix is not None and {*prefix.inputs} == {"graph", "image"}
    torch.testing.assert_close(score(model, prompts, candidates), alone, atol=5e-4, rtol=1e-4)
    torch.testing.assert_close(score(model, prompts, candidates, prefix), alone, atol=5e-4, rtol=1e-4)
    assert generate(model, prompts, 5, prefix) == [generate(model, [prompt], 5)[0] for prompt in prompts]


def test_gradients_reach_every_part_and_nothing_else(model: MultimodalLLM, instructions: list[Instruction]) -> None:
    """Of a batch that lacks a modality too: distributed training waits for what takes no part."""
    for chosen in (instructions, instructions[:1], instructions[-1:]):
        model.zero_grad(set_to_none=True)
        model.train().loss(training_batch(model.processor.several(chosen), model.readers)).backward()
        assert {name for name, p in model.named_parameters() if p.grad is not None} == set(model.trainable_state())
    model.zero_grad(set_to_none=True)
    model.loss(training_batch(model.processor.several(instructions), model.readers)).backward()
    parts = {".".join(name.split(".")[1:3]) for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert {"graph.projector", "graph.fusion", "image.tower", "image.projector"} <= parts


@torch.no_grad()
def test_a_closed_gate_leaves_the_language_model_as_it_is(instructions: list[Instruction]) -> None:
    """At its start, what inputs say is not heard: another picture changes nothing, to the last bit, until a gate opens."""
    model = make_model(tower=None, projector=None, modalities={"image": IMAGE | {"fusion": {"name": "glance"}}})
    before, other = (
        model.processor.prompt(instructions[1].with_inputs((picture,)))
        for picture in (instructions[1].inputs[0], Image(torch.ones(3, 8, 8)))
    )
    assert torch.equal(*(score(model, [prompt], [(1, 2)]) for prompt in (before, other)))
    model.modalities["image"].fusion.gate.fill_(0.5)
    assert not torch.equal(*(score(model, [prompt], [(1, 2)]) for prompt in (before, other)))


@torch.no_grad()
def test_words_before_an_input_do_not_hear_of_it(instructions: list[Instruction]) -> None:
    model = make_model(tower=None, projector=None, modalities={"image": IMAGE | {"fusion": {"name": "glance"}}})
    model.modalities["image"].fusion.gate.fill_(0.5)
    seen: list[torch.Tensor] = []
    model.llm.get_submodule("model.norm").register_forward_hook(lambda module, given, out: seen.append(out[0]))
    one, other = (Image(torch.full((3, 8, 8), value)) for value in (0.0, 1.0))
    examples: list[Example] = [
        model.processor.prompt(Instruction(id="", messages=(Message("user", "Look: ", item, "?"),))) for item in (one, other)
    ]
    for example in examples:
        score(model, [example], [(1, 2)])
    place = examples[0].spans[0][0]
    assert torch.equal(seen[0][:place], seen[1][:place]) and not torch.equal(seen[0][place:], seen[1][place:])


# Configs: one modality in the short form, several by name, and what is refused.


def problems(**fields: Any) -> Iterator[str]:
    found: list[str] = []
    data = {"name": "multimodal_llm", "llm": {"path": "random:tiny"}, "template": {"name": "chat"}, **fields}
    config = parse(MODELS.get("multimodal_llm").Config, data, found)
    yield from found
    if config is not None:
        yield from MODELS.get("multimodal_llm").problems(config)


def test_the_short_form_is_one_modality() -> None:
    config = model_config(tower="sgc", projector="mlp")
    assert [*config.by_modality] == ["graph"] and config.by_modality["graph"].projector.name == "mlp"
    assert config.by_modality["graph"].fused.frame
    assert model_config(tower=None, projector=None).by_modality == {}


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        (
            {"tower": {"name": "sgc"}, "modalities": {"image": IMAGE}},
            "model.tower: a model with model.modalities has its parts there; give model.modalities.image.tower, or leave "
            "model.modalities out.",
        ),
        (
            {"modalities": {"image": {**IMAGE, "tower": {"name": "image_rows", "widht": 3}}}},
            "model.modalities.image.tower.widht: unknown key. Did you mean 'model.modalities.image.tower.width'?",
        ),
        (
            {"modalities": {"image": GRAPH}},
            "model.modalities.image.tower.name: 'sgc' reads a graph; it belongs under model.modalities.graph.",
        ),
        ({"modalities": {"image": "sgc"}}, "model.modalities.image: expected a config, found 'sgc'."),
        ({"modalities": ["sgc"]}, "model.modalities: expected configs by name, found ['sgc']."),
        (
            {"modalities": {"image": {"tower": IMAGE["tower"]}}},
            "model.modalities.image.projector: must be given (model.modalities.image.projector=...).",
        ),
    ],
)
def test_what_is_wrong_is_spelt_as_it_is_typed(fields: dict[str, Any], sentence: str) -> None:
    assert sentence in [*problems(**fields)]
