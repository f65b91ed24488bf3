"""Contrastive grounding: its loss, over how many processes ever, and how a node finds its text."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import NUM_NODES, csv_overrides, make_graph, make_task, parsed, train
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from graphgpt.config.command_line import check_command_line
from graphgpt.config.experiment import EvaluationConfig, ExperimentConfig
from graphgpt.errors import ConfigError
from graphgpt.models import grounding
from graphgpt.models.grounding import FIRST_SCALE, Grounding, GroundingBatch, contrast, ranks
from graphgpt.models.llm import LLMConfig
from graphgpt.models.text_sides.transformer import Transformer
from graphgpt.registry import MODELS
from graphgpt.runs.runs import read_metrics
from graphgpt.schema import parse
from graphgpt.tasks.task import Task

GRAPH = make_graph()
TOWER = {"name": "graph_transformer", "train": True, "dim": 8, "output_dim": 6, "heads": 2, "dropout": 0.0}
TEXTS = torch.randn(NUM_NODES, 5, generator=torch.Generator().manual_seed(1))


def config(**fields: Any) -> Any:
    return parsed(Grounding.Config, _data(**fields))


def _data(**fields: Any) -> dict[str, Any]:
    return {"name": "grounding", "llm": {"path": "random:tiny"}, "tower": TOWER, "text": {"name": "embeddings"}} | fields


def make(**fields: Any) -> tuple[Grounding, Task]:
    """A small model with its task, which has embeddings of width 5 unless the text side reads the texts."""
    wants_texts = fields.get("text", {}).get("name") == "transformer"
    task: Any = make_task("grounding", GRAPH, sampler={"max_tokens": 1}, text_encoder=None)
    task.texts = None if wants_texts else TEXTS
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Grounding.build(config(**fields), task.facts)
    return model, task


def read(model: Grounding, task: Task, items: Sequence[int]) -> GroundingBatch:
    reader = model.reader()
    return reader.collate(reader.read([task.instruction(item, seed=7, training=True) for item in items]))


def in_numpy(model: Grounding, task: Any, items: Sequence[int], around: float) -> np.ndarray[Any, Any]:
    """The loss of each sample in float64, from the tower's states, the raw embeddings and the linear map."""

    def cross_entropy(logits: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        rows: np.ndarray[Any, Any] = np.log(np.exp(logits).sum(axis=1)) - np.diag(logits)
        return rows

    def symmetric(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        a, b = (x / np.sqrt((x**2).sum(axis=1, keepdims=True)) for x in (a, b))
        logits = scale * a @ b.T
        return (cross_entropy(logits) + cross_entropy(logits.T)) / 2

    weight = model.text.projection.weight.detach().double().numpy()  # type: ignore[union-attr]
    scale = math.exp(model.temperature.log_scale.item())
    batch = read(model, task, items)
    nodes = model.tower(batch.inputs.joined).detach().double().numpy()
    texts = TEXTS.double().numpy()[list(items)] @ weight.T
    projected = TEXTS.double().numpy() @ weight.T
    others = np.stack([projected[task.neighbors(item, 7).numpy()].mean(axis=0) for item in items])
    return symmetric(nodes, texts) + around * symmetric(nodes, others) + around * symmetric(texts, others)


@pytest.mark.parametrize("around", [10.0, 0.5])
@pytest.mark.parametrize("log_scale", [math.log(FIRST_SCALE), 1.3])
def test_the_loss_is_that_of_an_independent_computation(around: float, log_scale: float) -> None:
    model, task = make(around=around)
    nn.init.constant_(model.temperature.log_scale, log_scale)
    items = range(0, 40, 3)
    found = model.losses(read(model, task, items))
    assert found.dtype == torch.float32
    assert found.detach().numpy() == pytest.approx(in_numpy(model, task, items, around), rel=1e-5)
    assert model.loss(read(model, task, items)).item() == pytest.approx(found.mean().item())


def test_only_the_first_token_of_a_subgraph_is_the_node() -> None:
    model, task = make()
    few = model.forward(read(model, task, range(9)))
    whole: Any = make_task("grounding", GRAPH, text_encoder=None)
    whole.texts = TEXTS
    batch = read(model, whole, range(9))
    assert len(model.tower(batch.inputs.joined)) > 9
    torch.testing.assert_close(model.forward(batch), few)


def test_the_temperature_learns_unless_it_must_not() -> None:
    model, task = make()
    model.loss(read(model, task, range(9))).backward()
    assert all(parameter.grad is not None and bool(parameter.grad.any()) for name, parameter in _used(model))
    constant, task = make(compat={"constant_scale": True})
    constant.loss(read(constant, task, range(9))).backward()
    assert constant.temperature.log_scale.grad is None
    assert constant.temperature().item() == pytest.approx(14.2857, abs=1e-4)
    assert "temperature.log_scale" not in constant.trainable_state()


def _used(model: Grounding) -> list[tuple[str, nn.Parameter]]:
    # The released position vector has a gradient of zeros where it is not used.
    return [(name, parameter) for name, parameter in model.trainable_state().items() if name != "tower.W_pos"]


def test_the_scale_never_exceeds_a_hundred() -> None:
    model, _ = make()
    nn.init.constant_(model.temperature.log_scale, 9.0)
    assert model.train().temperature().item() == pytest.approx(100)
    assert model.temperature.log_scale.item() == pytest.approx(math.log(100))


def _step(rank: int, world: int, folder: str) -> None:
    """One process's share of a step on twelve nodes; leaves losses and gradients behind."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
    model, task = make()
    batch = read(model.train(), task, range(rank, 12, world))
    module = DistributedDataParallel(_Losses(model))
    losses = module(batch)
    losses.mean().backward()
    gradients = {name: parameter.grad for name, parameter in model.trainable_state().items() if parameter.grad is not None}
    save_file({"losses": losses.detach(), **gradients}, Path(folder) / f"{rank}.safetensors")
    torch.distributed.destroy_process_group()


class _Losses(nn.Module):
    def __init__(self, model: Grounding) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: GroundingBatch) -> Tensor:
        return self.model.losses(batch)


def test_processes_together_are_one_process(tmp_path: Path) -> None:
    world = 2
    torch.multiprocessing.spawn(_step, (world, str(tmp_path)), nprocs=world)
    model, task = make()
    losses = model.train().losses(read(model, task, range(12)))
    losses.mean().backward()
    shares = [load_file(tmp_path / f"{rank}.safetensors") for rank in range(world)]
    for rank, share in enumerate(shares):
        torch.testing.assert_close(share.pop("losses"), losses[rank::world])
        assert share.keys() == model.trainable_state().keys()
        for name, gradient in share.items():
            torch.testing.assert_close(gradient, model.trainable_state()[name].grad, rtol=1e-4, atol=1e-5)


def test_ranks_are_counted() -> None:
    random = np.random.RandomState(0)
    # Few distinct numbers, so that keys tie.
    queries, keys = (random.randint(-2, 3, (40, 3)).astype(np.float32) for _ in range(2))
    expected = []
    for i in range(40):
        mine = float(queries[i] @ keys[i])
        places = [place for place, product in enumerate(sorted((queries[i] @ keys.T).tolist(), reverse=True), start=1) if product == mine]
        expected.append(sum(places) / len(places))
    assert ranks(torch.from_numpy(queries), torch.from_numpy(keys)).tolist() == expected


def test_a_collapsed_model_finds_nothing() -> None:
    model, _ = make()
    same = torch.ones(100, 4)
    found = model.summarize({"states": same, "texts": same, "around": same})
    assert (found["recall@1"], found["recall@10"]) == (0, 0)
    assert found["mrr"] == pytest.approx(1 / 50.5)
    assert found["loss"] == pytest.approx(21 * math.log(100), rel=1e-5)


def test_validation_is_of_the_whole_set_however_it_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    model, task = make()
    model.eval()
    batches = [model.validate(read(model, task, items)) for items in (range(7), range(7, 30))]
    found = model.summarize({name: torch.cat([batch[name] for batch in batches]) for name in batches[0]})
    whole = read(model, task, range(30))
    assert found["loss"] == pytest.approx(model.loss(whole).item(), rel=1e-5)
    nodes, texts, _ = model.forward(whole).detach().double().numpy()

    def places(margin: float) -> np.ndarray:
        """Of each node's own text, where those that are nearer by less than the margin count as farther."""
        return np.array([1 + (np.delete(texts, i, 0) @ node > texts[i] @ node + margin).sum() for i, node in enumerate(nodes)])

    # Which of two texts is nearer by the last digit depends on how the batch was cut, and on the processor.
    best, worst = places(1e-6), places(-1e-6)
    for name, score in {"recall@1": lambda x: x <= 1, "recall@10": lambda x: x <= 10, "mrr": lambda x: 1 / x}.items():
        assert np.mean(score(worst)) - 1e-6 <= found[name] <= np.mean(score(best)) + 1e-6, name
    assert np.mean(1 / best) - np.mean(1 / worst) < 0.02
    monkeypatch.setattr(grounding, "CHUNK", 4)
    chunked = model.summarize(model.validate(whole))
    assert chunked == pytest.approx(found, rel=1e-5)


def test_a_pair_is_contrasted_in_both_directions() -> None:
    a, b = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))
    every = contrast(a, b, slice(0, 5))
    torch.testing.assert_close(every, contrast(b, a, slice(0, 5)))
    torch.testing.assert_close(every[2:4], contrast(a, b, slice(2, 4)))


def test_a_few_steps_ground_a_tower() -> None:
    model, task = make(around=0.1)  # the texts are noise, of which the neighbours' mean says little
    batch = read(model.train(), task, range(40))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    before = model.summarize(model.validate(batch))
    for _ in range(60):
        optimizer.zero_grad()
        model.loss(batch).backward()
        optimizer.step()
    after = model.eval().summarize(model.validate(batch))
    assert after["loss"] < 0.6 * before["loss"]
    assert after["mrr"] > 2 * before["mrr"]


@pytest.fixture(scope="module")
def transformer() -> Transformer:
    torch.manual_seed(0)
    fields = {"name": "transformer", "dim": 16, "max_tokens": 12}
    return Transformer(parsed(Transformer.Config, fields), None, 6, LLMConfig(path="random:tiny")).eval()


def test_a_text_is_the_same_beside_longer_ones(transformer: Transformer) -> None:
    reader = transformer.reader()
    samples = [reader.read(texts) for texts in (["ab", ""], ["a longer text that is cut", "abcdefghijk"])]
    together = reader.collate(samples)
    assert together.ids.shape == (2, 2, 12)
    assert together.last.tolist() == [[2, 0], [11, 11]]
    apart = torch.cat([transformer(reader.collate([sample])) for sample in samples])
    assert apart.shape == (2, 2, 6)
    torch.testing.assert_close(transformer(together), apart)
    with torch.inference_mode():
        torch.testing.assert_close(transformer(together), apart)


def test_a_text_is_read_to_its_end_and_not_beyond(transformer: Transformer) -> None:
    reader = transformer.reader()
    [[one, other, prefix]] = transformer(reader.collate([reader.read(["abcdef", "abcdeg", "abc"])]))
    assert not torch.allclose(one, other, atol=1e-4)
    assert not torch.allclose(one, prefix, atol=1e-4)


def test_a_transformer_learns_beside_the_tower() -> None:
    model, task = make(text={"name": "transformer", "dim": 16, "layers": 1, "max_tokens": 12})
    model.train().loss(read(model, task, range(9))).backward()
    assert all(parameter.grad is not None and bool(parameter.grad.any()) for _, parameter in _used(model))


def problems(**fields: Any) -> list[str]:
    found: list[str] = []
    parsed_config = parse(Grounding.Config, _data(**fields), found)
    return found + MODELS.get("grounding").problems(parsed_config)  # type: ignore[attr-defined]


def test_a_tower_must_have_weights_and_train_them() -> None:
    assert problems() == []
    assert problems(tower={"name": "sgc", "train": True}) == [
        "model.tower.name: 'sgc' has no weights to be trained; use model/tower=graph_transformer or such."
    ]
    assert problems(tower=TOWER | {"train": False}) == [
        "model.tower.train: false trains nothing of the tower that is to be grounded; set it to true."
    ]
    assert [problem.split(":")[0] for problem in problems(tower=TOWER | {"heads": 3})] == ["model.tower.heads"]
    assert [problem.split(":")[0] for problem in problems(text={"name": "transformer", "heads": 5})] == ["model.text.heads"]


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (["task=node_classification"], "task.name: model.name=grounding learns from task=grounding alone, found 'node_classification'."),
        (
            ["task.text_encoder=null"],
            "task.text_encoder: is null, and model.text.name=embeddings reads what one makes; use model/text=transformer.",
        ),
        (
            ["model/text=transformer"],
            "task.text_encoder: model.text.name=transformer reads the texts themselves; set task.text_encoder=null.",
        ),
        (["model=graphgpt"], "task.name: 'grounding' asks nothing that a language model could answer; use experiment=stage0."),
        (
            ["runner.micro_batch_size=2"],
            "runner.micro_batch_size: model.name=grounding compares all samples of a step with each other; set it to null.",
        ),
    ],
)
def test_what_does_not_go_together_is_said_first(overrides: list[str], problem: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        check_command_line(ExperimentConfig, "train", ["experiment=stage0", *csv_overrides(tmp_path), *overrides])
    assert problem in caught.value.problems


@pytest.mark.parametrize("text", [["model/text=embeddings"], ["model/text=transformer", "task.text_encoder=null"]])
def test_stage_0_hands_its_tower_over(text: list[str], tmp_path: Path) -> None:
    base = [*csv_overrides(tmp_path), "runner.checkpoint.every_n_steps=0", "runner.global_batch_size=4"]
    first, second = tmp_path / "stage0", tmp_path / "stage1"
    validation = ["runner.max_steps=2", "runner.val_every=2", "runner.val_samples=5"]
    train(first, ["experiment=stage0", *base, *text, *validation])
    validated = [line for line in read_metrics(first) if "val/mrr" in line]
    assert len(validated) == 2
    assert all({"val/loss", "val/recall@1", "val/recall@10"} <= line.keys() for line in validated)
    assert "text among the first ten" in (first / "report.html").read_text()
    with pytest.raises(ConfigError) as caught:
        check_command_line(EvaluationConfig, "evaluate", [f"checkpoint={first}"])
    assert caught.value.problems == [
        f"checkpoint: {first} was trained by task.name=grounding, which asks nothing; its run's report.html has its metrics."
    ]
    tower = ["model/tower=graph_transformer", f"model.tower.init_from={first}"]
    train(second, ["experiment=stage1", *base, *tower, "runner.max_steps=1", "runner.val_every=0"])
    ours, theirs = (
        load_file(folder / "checkpoint" / name) for folder, name in ((first, "tower.safetensors"), (second, "graph/tower.safetensors"))
    )
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
