"""The model: loss, scoring and generation against plain recomputations, and what training may move."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import embedded, make_processor, scratch
from strips import Image, ImageRows
from torch import Tensor, nn

from graphgpt.graphs.graph import TextAttributedGraph
from graphgpt.models.answering import generate, score
from graphgpt.models.decoding import prefix_of
from graphgpt.models.llm import LLMConfig, llm_fingerprint, load_llm
from graphgpt.models.multimodal_llm import MultimodalLLM
from graphgpt.prompts.batch import training_batch
from graphgpt.prompts.instruction import Instruction, Message
from graphgpt.prompts.processor import IGNORE, Example
from graphgpt.prompts.tokens import Token, token_id
from graphgpt.registry import PROJECTORS, TOWERS
from graphgpt.tasks.task import Task

PATCH, BLANK = token_id(0, Token.PATCH), token_id(0, Token.BLANK)
MakeModel = Callable[..., MultimodalLLM]
MakeTask = Callable[..., Task]

TRAINED_TOWER = {"name": "graph_transformer", "train": True, "dim": 16, "output_dim": 16, "heads": 2, "layers": 2, "dropout": 0.5}
FROZEN_TOWER = TRAINED_TOWER | {"train": False}


@pytest.fixture(scope="module")
def samples(graph: TextAttributedGraph, make_task: MakeTask) -> dict[str, list[Instruction]]:
    """Instructions with a graph each, without any, and both kinds in turn."""
    task = make_task("node_classification", graph)
    with_graph = [task.instruction(item, seed=item, training=True) for item in (0, 7, 20, 59)]
    questions = ["Hello, who is it?", "Hello", "Hello, what is a protein?"]
    text = [Instruction(id=q, messages=(Message("user", q), Message("assistant", f"It is {i}"))) for i, q in enumerate(questions)]
    return {"graph": with_graph, "text": text, "mixed": [text[0], with_graph[0], text[1], with_graph[1], with_graph[2]]}


def examples(model: MultimodalLLM, instructions: Sequence[Instruction], **arguments: Any) -> list[Example]:
    return [make_processor(model, **arguments)(instruction) for instruction in instructions]


def prompts(model: MultimodalLLM, instructions: Sequence[Instruction], **arguments: Any) -> list[Example]:
    return [make_processor(model, **arguments).prompt(instruction) for instruction in instructions]


def awake(model: MultimodalLLM) -> MultimodalLLM:
    """The model with adapters that do something: peft starts them at zero."""
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.1
    return model


def plain_logits(model: MultimodalLLM, ids: Sequence[int], inputs: Sequence[Any]) -> Tensor:
    """Logits after every token of one sequence, by an ordinary causal pass."""
    rows = embedded(model, torch.tensor([list(ids)]), inputs)
    return torch.as_tensor(model.llm(inputs_embeds=rows, use_cache=False).logits)[0].float()


def plain_log_likelihood(model: MultimodalLLM, example: Example) -> Tensor:
    """Sum of the log-probabilities of an example's supervised tokens."""
    log_probability = plain_logits(model, example.ids, example.inputs).log_softmax(dim=-1)
    places = [place for place, label in enumerate(example.labels) if label != IGNORE]
    return torch.stack([log_probability[place - 1, example.labels[place]] for place in places]).sum()


def collated(model: MultimodalLLM, batch: Sequence[Example]) -> Any:
    return training_batch(batch, model.readers)


@pytest.mark.parametrize("kind", ["graph", "text", "mixed"])
@pytest.mark.parametrize("parts", [{}, {"lora_rank": 4, "tower": TRAINED_TOWER, "projector": "mlp", "template": "vicuna_v1"}])
@torch.no_grad()
def test_loss_of_a_batch_is_the_mean_of_plain_losses(
    kind: str, parts: dict[str, Any], tiny_model: MakeModel, samples: dict[str, list[Instruction]]
) -> None:
    model = awake(tiny_model(**parts))
    batch = examples(model, samples[kind])
    total, count = model(collated(model, batch))
    plain = torch.stack([plain_log_likelihood(model, example) for example in batch])
    assert count.tolist() == [sum(label != IGNORE for label in example.labels) for example in batch]
    torch.testing.assert_close(total, plain, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(model.loss(collated(model, batch)), -(plain / count).mean(), atol=1e-4, rtol=1e-5)
    alone = torch.stack([model.loss(collated(model, [example])) for example in batch])
    torch.testing.assert_close(alone, -plain / count, atol=1e-4, rtol=1e-5)


@torch.no_grad()
def test_loss_is_the_same_with_either_attention_kernel(tiny_model: MakeModel, samples: dict[str, list[Instruction]]) -> None:
    sdpa, eager = (tiny_model(llm={"attn_implementation": kernel}) for kernel in ("sdpa", "eager"))
    batch = collated(sdpa, examples(sdpa, samples["mixed"]))
    torch.testing.assert_close(sdpa.loss(batch), eager.loss(batch), atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("kind", ["graph", "text", "mixed"])
@pytest.mark.parametrize("parts", [{}, {"lora_rank": 4, "tower": "identity", "template": "vicuna_v1"}])
@torch.no_grad()
def test_score_equals_each_candidate_run_alone(
    kind: str, parts: dict[str, Any], tiny_model: MakeModel, samples: dict[str, list[Instruction]]
) -> None:
    """Candidates begin alike (Biology, Biochemistry), and one begins another (Bio)."""
    model = awake(tiny_model(**parts))
    processor = make_processor(model)
    candidates = [processor.answer(text) for text in ("Art", "Biology", "Biochemistry")] + [processor.answer("Bio")[:-1]]
    batch = prompts(model, samples[kind])
    scores = score(model, batch, candidates)
    assert scores.shape == (len(batch), len(candidates)) and scores.dtype == torch.float32
    prefix = prefix_of(model, batch)
    for _ in range(2):
        split = [score(model, batch[:1], candidates, prefix), score(model, batch[1:], candidates, prefix)]
        torch.testing.assert_close(torch.cat(split), scores, atol=1e-4, rtol=1e-5)
    for i, prompt in enumerate(batch):
        for j, candidate in enumerate(candidates):
            logits = plain_logits(model, prompt.ids + candidate, prompt.inputs)[len(prompt.ids) - 1 : -1]
            alone = logits.log_softmax(dim=-1)[torch.arange(len(candidate)), list(candidate)].sum()
            torch.testing.assert_close(scores[i, j], alone, atol=1e-4, rtol=1e-5)


def greedy(model: MultimodalLLM, prompt: Example, steps: int, stops: set[int]) -> tuple[str, list[int]]:
    """Answer by one full pass per token."""
    ids = list(prompt.ids)
    while len(ids) < len(prompt.ids) + steps and not (len(ids) > len(prompt.ids) and ids[-1] in stops):
        ids.append(int(plain_logits(model, ids, prompt.inputs)[-1].argmax()))
    new = ids[len(prompt.ids) :]
    return model.tokenizer.decode(new, skip_special_tokens=True).strip(), new


def livelier(model: MultimodalLLM) -> MultimodalLLM:
    """The model with random weights so large that its greedy answers vary."""
    generator = torch.Generator().manual_seed(5)
    for parameter in model.llm.parameters():
        if parameter.ndim == 2:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
    return model


@pytest.mark.parametrize("kind", ["graph", "text", "mixed"])
@pytest.mark.parametrize("lora_rank", [0, 4])
@torch.no_grad()
def test_generate_equals_one_by_one_and_a_greedy_loop(
    kind: str, lora_rank: int, tiny_model: MakeModel, samples: dict[str, list[Instruction]]
) -> None:
    model = livelier(tiny_model(lora_rank=lora_rank))
    batch = prompts(model, samples[kind])
    assert len({len(prompt.ids) for prompt in batch}) > 1
    expected = [greedy(model, prompt, 12, {257})[0] for prompt in batch]
    assert len(set(expected)) > 1
    assert generate(model, batch, max_new_tokens=12) == expected
    assert [generate(model, [prompt], max_new_tokens=12)[0] for prompt in batch] == expected
    prefix = prefix_of(model, batch)
    for _ in range(2):  # the prefix stays as it is
        assert generate(model, batch, 12, prefix) == expected


@torch.no_grad()
def test_generate_equals_transformers(tiny_model: MakeModel, samples: dict[str, list[Instruction]]) -> None:
    """Beside the same prompts padded, in one batch of transformers' own ``generate``."""
    model = livelier(tiny_model())
    batch = prompts(model, samples["mixed"])
    rows = [embedded(model, torch.tensor(p.ids), p.inputs) for p in batch]
    width = max(len(row) for row in rows)
    output = model.llm.generate(
        inputs_embeds=torch.stack([nn.functional.pad(row, (0, 0, width - len(row), 0)) for row in rows]),
        attention_mask=torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows]),
        max_new_tokens=12,
        do_sample=False,
        eos_token_id=[*model.processor.ends],
    )
    assert generate(model, batch, 12) == [text.strip() for text in model.tokenizer.batch_decode(output, skip_special_tokens=True)]


@torch.no_grad()
def test_generate_stops_at_the_end_of_the_answer(tiny_model: MakeModel, samples: dict[str, list[Instruction]]) -> None:
    """The answer ends before the end sign; what other samples of the batch go on to write does not matter."""
    model = livelier(tiny_model())
    model.llm.get_input_embeddings().weight.data[257] *= 2.0  # Tied to the output head: the end sign comes more often.
    batch = prompts(model, samples["mixed"])
    expected = [greedy(model, prompt, 12, {257}) for prompt in batch]
    lengths = [len(tokens) for _, tokens in expected]
    assert min(lengths) < 12 == max(lengths)
    assert generate(model, batch, max_new_tokens=12) == [text for text, _ in expected]


def gradients(model: MultimodalLLM) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.grad is not None}


# Exists for the released weights' sake, and plays no part unless asked to.
UNUSED = "modalities.graph.tower.W_pos"
GRAPH = "modalities.graph"
INTENDED: list[tuple[dict[str, Any], tuple[str, ...]]] = [
    ({}, (f"{GRAPH}.projector.", f"{GRAPH}.fusion.")),
    ({"projector": "mlp"}, (f"{GRAPH}.projector.", f"{GRAPH}.fusion.")),
    ({"tower": FROZEN_TOWER}, (f"{GRAPH}.projector.", f"{GRAPH}.fusion.")),
    ({"lora_rank": 2}, (f"{GRAPH}.projector.", f"{GRAPH}.fusion.", "lora")),
    ({"tower": TRAINED_TOWER}, (f"{GRAPH}.projector.", f"{GRAPH}.fusion.", f"{GRAPH}.tower.")),
    ({"tower": TRAINED_TOWER, "lora_rank": 2}, (f"{GRAPH}.projector.", f"{GRAPH}.fusion.", f"{GRAPH}.tower.", "lora")),
]


@pytest.mark.parametrize(("parts", "intended"), INTENDED)
@pytest.mark.parametrize("kind", ["graph", "mixed", "text"])
def test_training_moves_the_intended_parameters_and_nothing_else(
    parts: dict[str, Any], intended: tuple[str, ...], kind: str, tiny_model: MakeModel, samples: dict[str, list[Instruction]]
) -> None:
    """Every other tensor of the model is bit-identical after a step."""
    model = awake(tiny_model(**parts)).train()
    expected = {name for name, _ in model.named_parameters() if name.startswith(intended) or ".lora_" in name}
    assert set(model.trainable_state()) | {UNUSED} == expected | {UNUSED}
    assert all(any(name.startswith(part) or part in name for name in expected) for part in intended)

    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    optimizer = torch.optim.AdamW(model.trainable_state().values(), lr=0.1, weight_decay=0.1)
    model.loss(collated(model, examples(model, samples[kind]))).backward()
    assert gradients(model) | {UNUSED} == expected | {UNUSED}
    optimizer.step()
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed <= expected
    assert changed >= {name for name in expected if "lora" in name}
    if kind != "text":
        assert changed | {UNUSED} == expected | {UNUSED}


@pytest.mark.parametrize("parts", [{}, {"tower": TRAINED_TOWER, "projector": "mlp"}])
def test_text_only_batch_gives_zero_gradients_to_idle_parts(
    parts: dict[str, Any], tiny_model: MakeModel, samples: dict[str, list[Instruction]]
) -> None:
    """Zero and not None: distributed training waits for every one of them."""
    model = tiny_model(**parts).train()
    model.loss(collated(model, examples(model, samples["text"]))).backward()
    for name, parameter in model.trainable_state().items():
        assert parameter.grad is not None, name
        assert not parameter.grad.any(), name


def test_trained_tower_can_be_trained_by_every_process_of_a_distributed_run(
    tiny_model: MakeModel, samples: dict[str, list[Instruction]]
) -> None:
    """A graph batch on one process and a text batch on another reach the same set of parameters."""
    reached = []
    for kind in ("graph", "text"):
        model = tiny_model(tower=TRAINED_TOWER).train()
        model.loss(collated(model, examples(model, samples[kind]))).backward()
        reached.append(gradients(model))
    assert reached[0] == reached[1]


def test_gradients_do_not_depend_on_how_a_batch_is_cut(tiny_model: MakeModel, samples: dict[str, list[Instruction]]) -> None:
    model = tiny_model(lora_rank=2, tower=TRAINED_TOWER | {"dropout": 0.0}).train()
    batch = examples(model, samples["graph"])
    whole = torch.autograd.grad(model.loss(collated(model, batch)), list(model.trainable_state().values()), allow_unused=True)
    for start in (0, 2):
        (model.loss(collated(model, batch[start : start + 2])) / 2).backward()
    for (name, parameter), gradient in zip(model.trainable_state().items(), whole, strict=True):
        if gradient is not None:
            torch.testing.assert_close(parameter.grad, gradient, atol=1e-5, rtol=1e-3, msg=name)


def test_frozen_parts_have_no_dropout_in_training(tiny_model: MakeModel, samples: dict[str, list[Instruction]]) -> None:
    model = tiny_model(tower=FROZEN_TOWER, llm={"config_overrides": {"attention_dropout": 0.5}}, lora_rank=2).train()
    batch = collated(model, examples(model, samples["graph"]))
    in_training = [model.loss(batch).item() for _ in range(2)]
    assert in_training[0] == in_training[1] == model.eval().loss(batch).item()


@pytest.mark.parametrize("parts", [{"tower": TRAINED_TOWER}, {"projector": {"name": "linear", "dropout": 0.5}}])
def test_parts_that_learn_have_their_dropout_in_training_only(
    parts: dict[str, Any], tiny_model: MakeModel, samples: dict[str, list[Instruction]]
) -> None:
    model = tiny_model(**parts).train()
    batch = collated(model, examples(model, samples["graph"]))
    assert model.loss(batch).item() != model.loss(batch).item()
    model.eval()
    assert model.loss(batch).item() == model.loss(batch).item()


def test_adapters_have_their_dropout_in_training_only(tiny_model: MakeModel, samples: dict[str, list[Instruction]]) -> None:
    model = awake(tiny_model(lora_rank=2, lora={"dropout": 0.5})).train()
    batch = collated(model, examples(model, samples["graph"]))
    assert model.loss(batch).item() != model.loss(batch).item()
    model.eval()
    assert model.loss(batch).item() == model.loss(batch).item()


def test_which_modules_are_in_training_mode(tiny_model: MakeModel) -> None:
    """Of the language model only what belongs to adapters; its own layers, also those that adapters wrap, stay in eval mode."""
    plain = {name for name, _ in tiny_model().llm.named_modules()}
    model = tiny_model(lora_rank=2, tower=FROZEN_TOWER).train()
    assert model.training and model.modalities["graph"].projector.training and model.modalities["graph"].fusion.training
    assert not any(module.training for module in model.modalities["graph"].tower.modules())
    in_training = {name.removeprefix("base_model.model.") for name, module in model.llm.named_modules() if module.training}
    adapted = {name for name in in_training if "lora_" not in name}
    assert any("lora_dropout" in name for name in in_training)
    assert all(f"{name}.base_layer" not in in_training for name in adapted)
    assert not {name for name in plain if name in in_training} - adapted
    assert all(name.split(".")[-1] in {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"} for name in adapted)
    assert not any(module.training for module in model.eval().modules())
    assert tiny_model(tower=TRAINED_TOWER).train().modalities["graph"].tower.training


def adapted_layers(model: MultimodalLLM) -> set[str]:
    return {name.removeprefix("base_model.model.").split(".lora_A")[0] for name, _ in model.llm.named_parameters() if "lora_A" in name}


def test_lora_targets(tiny_model: MakeModel) -> None:
    """Either query and value projections alone, or every linear layer but the output head."""
    llm = tiny_model().llm
    linear = {name for name, module in llm.named_modules() if isinstance(module, nn.Linear) and name != "lm_head"}
    assert adapted_layers(tiny_model(lora_rank=2)) == linear
    only = adapted_layers(tiny_model(lora_rank=2, lora={"targets": "qv"}))
    assert only == {f"model.layers.{layer}.self_attn.{which}_proj" for layer in range(2) for which in "qv"}
    assert adapted_layers(tiny_model()) == set()


def test_lora_changes_nothing_at_the_start(tiny_model: MakeModel, samples: dict[str, list[Instruction]]) -> None:
    plain, adapted = tiny_model(), tiny_model(lora_rank=4)
    batch = collated(plain, examples(plain, samples["mixed"]))
    torch.testing.assert_close(adapted.loss(batch), plain.loss(batch))
    assert adapted.llm_fingerprint == plain.llm_fingerprint


@pytest.mark.parametrize("projector", PROJECTORS.names())
@pytest.mark.parametrize("width", [8, 384])
def test_projected_tokens_start_as_large_as_token_embeddings(projector: str, width: int, tiny_model: MakeModel) -> None:
    """Much smaller, and the text drowns them; averaged over starts, for a narrow one varies."""
    found = []
    for seed in range(8):
        model = tiny_model(width, seed=seed, projector=projector, tower="identity")
        states = torch.randn(200, width, generator=torch.Generator().manual_seed(100 + seed))
        found.append(model.modalities["graph"].projector(states, (len(states),)).detach().square().mean())
    embeddings = model.llm.get_input_embeddings().weight.detach()
    ratio = float((torch.stack(found).mean() / embeddings.square().mean()).sqrt())
    assert 0.75 < ratio < 1.25
    assert 0.75 < float((model.modalities["graph"].fusion.weight.detach().square().mean() / embeddings.square().mean()).sqrt()) < 1.25


@torch.no_grad()
def test_embed_puts_states_where_the_patches_are(tiny_model: MakeModel, samples: dict[str, list[Instruction]]) -> None:
    """In the order of the inputs, and everything else is the language model's own row or a modality token's."""
    model = tiny_model()
    example = examples(model, samples["graph"][:1])[0]
    ids = torch.tensor(example.ids)
    vectors = embedded(model, ids, example.inputs)
    states = model.modalities["graph"].tower(model.modalities["graph"].tower.reader().collate(example.inputs))
    torch.testing.assert_close(vectors[ids == PATCH], model.modalities["graph"].projector(states, (len(states),)))
    torch.testing.assert_close(vectors[ids >= 0], model.llm.get_input_embeddings()(ids[ids >= 0]))
    torch.testing.assert_close(vectors[(ids < 0) & (ids != PATCH)], model.modalities["graph"].fusion.weight)


# What the original does, for comparison.


def test_with_the_last_input_only_the_first_graph_changes_nothing(
    tiny_model: MakeModel, graph: TextAttributedGraph, make_task: MakeTask
) -> None:
    task = make_task("link_prediction", graph)
    asked = task.instruction(int(task.items("test")[0]), seed=0, training=False)
    other = asked.with_inputs((replace(asked.inputs[0], x=asked.inputs[0].x + 1), asked.inputs[1]))
    candidates = [(1, 2), (1, 3)]
    for last_only in (False, True):
        model = livelier(tiny_model(compat={"last_input_only": last_only}))
        processor = make_processor(model)
        scores = [score(model, [processor.prompt(question)], candidates) for question in (asked, other)]
        assert torch.equal(*scores) == last_only
    example = processor(asked)
    ids = torch.tensor(example.ids)
    vectors = embedded(model, ids, example.inputs)
    assert (ids == BLANK).sum() == asked.inputs[0].num_tokens
    torch.testing.assert_close(vectors[ids == BLANK], model.modalities["graph"].fusion.blank.expand(int((ids == BLANK).sum()), -1))
    assert "modalities.graph.fusion.blank" not in model.trainable_state()


def test_with_its_dropout_kept_a_frozen_tower_draws_in_evaluation_too(tiny_model: MakeModel, samples: dict[str, list[Instruction]]) -> None:
    for keeps in (False, True):
        model = tiny_model(tower=FROZEN_TOWER, compat={"tower_dropout": keeps}).eval()
        inputs = model.modalities["graph"].tower.reader().collate(examples(model, samples["graph"])[0].inputs)
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            assert torch.equal(model.modalities["graph"].tower(inputs), model.modalities["graph"].tower(inputs)) != keeps


def test_fingerprint_is_that_of_the_weights_whatever_their_dtype(tmp_path: Path) -> None:
    llm = load_llm(LLMConfig(path="random:tiny"))
    llm.save_pretrained(tmp_path / "same")
    prints = [llm_fingerprint(load_llm(LLMConfig(path=str(tmp_path / "same"), dtype=dtype))) for dtype in ("float32", "bfloat16")]
    assert prints == [llm_fingerprint(llm)] * 2
    assert llm_fingerprint(load_llm(LLMConfig(path="random:tiny"))) == llm_fingerprint(llm)

    llm.model.layers[1].mlp.up_proj.weight.data.normal_(generator=torch.Generator().manual_seed(1))
    assert llm_fingerprint(llm) != prints[0]


def test_random_model_has_one_fingerprint_for_all_dtypes() -> None:
    prints = {llm_fingerprint(load_llm(LLMConfig(path="random:tiny", dtype=dtype))) for dtype in ("float32", "bfloat16")}
    assert len(prints) == 1


def test_bfloat16_language_model_trains_float32_parts(tiny_model: MakeModel, samples: dict[str, list[Instruction]]) -> None:
    model = tiny_model(llm={"dtype": "bfloat16"}, tower=TRAINED_TOWER | {"dropout": 0.0}).train()
    loss = model.loss(collated(model, examples(model, samples["mixed"])))
    loss.backward()
    assert loss.dtype == torch.float32 and loss.isfinite()
    assert {parameter.dtype for parameter in model.trainable_state().values()} == {torch.float32}
    assert model.modalities["graph"].projector.linear.weight.grad.any()


@pytest.mark.parametrize("train", [False, True])
def test_nothing_in_the_model_assumes_graphs(train: bool, tiny_model: MakeModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tower for pictures is one class: loss, scores and answers come through it as through any other."""
    scratch(TOWERS, monkeypatch).register("image_rows")(ImageRows)
    model = livelier(tiny_model(3, tower={"name": "image_rows", "train": train, "width": 6}))
    generator = torch.Generator().manual_seed(0)

    def image(size: tuple[int, int]) -> Image:
        return Image(torch.randn(3, *size, generator=generator))

    instructions = [
        Instruction(
            id=f"picture {i}",
            messages=(
                Message("user", *(part for size in sizes for part in ("What is on ", image(size), "?"))),
                Message("assistant", f"A cat {i}"),
            ),
        )
        for i, sizes in enumerate([[(8, 6)], [(16, 3), (4, 4)], []])
    ]
    batch = examples(model, instructions)
    assert [example.ids.count(PATCH) for example in batch] == [2, 5, 0]

    total, _ = model(collated(model, batch))
    torch.testing.assert_close(total, torch.stack([plain_log_likelihood(model, example) for example in batch]), atol=1e-3, rtol=1e-4)
    model.loss(collated(model, batch)).backward()
    assert (model.modalities["image"].tower.linear.weight.grad is not None) == train
    with torch.no_grad():
        questions = prompts(model, instructions)
        assert generate(model, questions, 6) == [greedy(model, question, 6, {257})[0] for question in questions]
        assert score(model, questions, [(1, 2), (1, 3)]).isfinite().all()
