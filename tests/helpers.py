"""Small real parts that tests share: a graph, tasks in the shipped wordings, a model of two layers, a command line.

See conftest.py for the fixtures."""

import functools
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from graphgpt.assembly import build_model, build_runner, build_task
from graphgpt.config.command_line import check_command_line
from graphgpt.config.experiment import ExperimentConfig
from graphgpt.graphs.dataset import DatasetConfig, SamplerConfig, SplitConfig
from graphgpt.graphs.graph import TextAttributedGraph, build_graph
from graphgpt.graphs.splits import split_nodes
from graphgpt.models.fusions.splice import Splice
from graphgpt.models.multimodal_llm import MultimodalLLM
from graphgpt.prompts.facts import TaskFacts
from graphgpt.prompts.instruction import Message
from graphgpt.prompts.processor import Processor
from graphgpt.prompts.reader import ModalityReader, collate_inputs
from graphgpt.registry import MODELS, TASKS, TEMPLATES, Registry
from graphgpt.schema import parse
from graphgpt.tasks.task import Task

CONFIGS = Path(__file__).parents[1] / "configs"

NUM_NODES, NUM_CLASSES, FEATURES = 60, 3, 8
ISOLATED, UNLABELLED, HUB = 59, (57, 58), 0
CLASS_NAMES = ("Art", "Biology", "Biochemistry")


def parsed(cls: type, data: dict[str, Any]) -> Any:
    """A config from plain data, as the programs read it; whatever is wrong fails the test."""
    problems: list[str] = []
    config = parse(cls, data, problems)
    assert not problems, problems
    return config


def make_graph() -> TextAttributedGraph:
    """Sixty nodes in two communities with a hub; features follow the class. Node 59 is isolated, 57 and 58 have no label."""
    random = np.random.RandomState(0)
    labels = np.arange(NUM_NODES) % NUM_CLASSES
    community = np.arange(NUM_NODES) // 30
    a, b = np.triu_indices(ISOLATED, k=1)
    likely = np.where(community[a] == community[b], 0.12, 0.01) * np.where(labels[a] == labels[b], 1.6, 0.6)
    kept = random.rand(len(a)) < likely
    hub = np.stack([np.full(15, HUB), np.arange(1, 16)], axis=1)
    edges = np.concatenate([np.stack([a[kept], b[kept]], axis=1), hub, [[18, 21]]])
    words = ("paint colour canvas", "cell plant animal", "protein acid enzyme")
    graph = build_graph(
        ids=[f"n{i}" for i in range(NUM_NODES)],
        titles=[f"{words[label].split()[i % 3].title()} study {i}" for i, label in enumerate(labels)],
        bodies=[f"About {words[label]} and number {i * 7 % 13}." for i, label in enumerate(labels)],
        labels=[-1 if i in UNLABELLED else int(label) for i, label in enumerate(labels)],
        class_names=CLASS_NAMES,
        edges=edges,
        card={"name": "toy"},
    )
    x = torch.from_numpy(random.randn(NUM_NODES, FEATURES) + np.eye(NUM_CLASSES, FEATURES)[labels] * 2)
    return graph.with_features(x)


def make_dataset_config(sampler: dict[str, Any] | None = None, split: dict[str, Any] | None = None) -> DatasetConfig:
    """What prompts call things in the toy graph; small subgraphs unless told otherwise."""
    return DatasetConfig(
        name="toy",
        text_encoder={"name": "tfidf_svd"},
        domain="citation",
        node="paper",
        relation="cites",
        category="research topic",
        split=SplitConfig(**(split or {})),
        sampler=SamplerConfig(**({"hops": 2, "fanout": 2} | (sampler or {}))),
    )


def make_task(
    name: str,
    graph: TextAttributedGraph,
    *,
    sampler: dict[str, Any] | None = None,
    split: dict[str, Any] | None = None,
    **overrides: Any,
) -> Task:
    """A task in the shipped configuration; ``overrides`` replace its fields."""
    shipped: Any = OmegaConf.to_container(OmegaConf.load(CONFIGS / "task" / f"{name}.yaml"), resolve=True)
    shipped.pop("defaults", None)  # Hydra's
    cls = TASKS.get(name)
    dataset = make_dataset_config(sampler, split)
    task: Task = cls(parsed(cls.Config, shipped | overrides), graph, dataset, split_nodes(graph, dataset.split))
    return task


def model_config(
    *,
    lora_rank: int = 0,
    projector: str | dict[str, Any] | None = "linear",
    tower: str | dict[str, Any] | None = "sgc",
    template: str | dict[str, Any] = "chat",
    lora: dict[str, Any] | None = None,
    llm: dict[str, Any] | None = None,
    **fields: Any,
) -> Any:
    """Config of a tiny ``multimodal_llm``; a part is its name, or its name with fields."""

    def part(value: str | dict[str, Any] | None) -> dict[str, Any] | None:
        return {"name": value} if isinstance(value, str) else value

    data = {
        "name": "multimodal_llm",
        "llm": {"path": "random:tiny"} | (llm or {}),
        "tower": part(tower),
        "projector": part(projector),
        "lora": {"rank": lora_rank} | (lora or {}),
        "template": shipped_template(template) if isinstance(template, str) else template,
        **fields,
    }
    return parsed(MODELS.get("multimodal_llm").Config, data)


def shipped_template(name: str) -> dict[str, Any]:
    """A shipped template's settings."""
    data = OmegaConf.to_container(OmegaConf.load(CONFIGS / "model" / "template" / f"{name}.yaml"))
    assert isinstance(data, dict)
    base = next((other for other in data.pop("defaults", []) if other != "_self_"), None)
    return {**({} if base is None else shipped_template(base)), **data}


def build_for(config: Any, width: int = FEATURES, **facts: Any) -> Any:
    """A model of a ``Config`` for a task on a graph with so many features."""
    return MODELS.get(config.name).build(config, TaskFacts(task="toy", widths={"graph": width}, **facts))


def make_model(input_dim: int = FEATURES, seed: int = 0, **fields: Any) -> MultimodalLLM:
    """A model of two layers on a byte-level tokenizer, the same each time; ``fields`` as for :func:`model_config`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = model_config(**fields)
        model: MultimodalLLM = build_for(config, input_dim)
    return model.eval()


def embedded(model: MultimodalLLM, ids: torch.Tensor, inputs: Sequence[Any]) -> torch.Tensor:
    """Embeddings of ids with inputs in their places."""
    return model.embed(ids, model.project(collate_inputs(model.readers, inputs)))


def make_processor(model: MultimodalLLM, **arguments: Any) -> Processor:
    """The processor that goes with a model."""
    template = TEMPLATES.build(model.config.template, model.tokenizer)
    return Processor(model.tokenizer, template, **({"max_length": model.config.max_length, "readers": model.readers} | arguments))


@dataclass(frozen=True)
class Stub:
    """An input that is nothing but its number of tokens; equal to those of the same name."""

    modality: ClassVar[str] = "graph"

    num_tokens: int
    key: str = field(default_factory=lambda: uuid.uuid4().hex, compare=False)

    @property
    def shown(self) -> str:
        return f"<graph: {self.num_tokens} tokens>"


@dataclass(frozen=True)
class StubReader:
    """Reads stubs for no tower."""

    def num_states(self, item: Stub) -> int:
        return item.num_tokens

    def cost(self, item: Stub) -> int:
        return item.num_tokens

    def collate(self, inputs: Sequence[Stub]) -> Any:
        return SimpleNamespace(items=list(inputs), to=lambda device: self.collate(inputs))


def _as_they_are(states: int) -> int:
    return states


def stub_readers(**arguments: Any) -> dict[str, ModalityReader]:
    """Of a model that splices one token per state; ``arguments`` as for ``ModalityReader``."""
    layout = functools.partial(Splice.layout, Splice.Config(name="splice"))
    return {"graph": ModalityReader(number=0, tower=StubReader(), projected=_as_they_are, layout=layout, **arguments)}


def csv_overrides(folder: Path, labels: Sequence[str] = ("Red", "Green", "Blue") * 14, step: int = 3) -> list[str]:
    """Command line for a graph written into a folder, a node per label and edges ``step`` nodes onward, and a model of two layers."""
    nodes = [f"n{i},{label} {i},Of {label} things {i % 5},{label}" for i, label in enumerate(labels)]
    edges = [f"n{i},n{(i + step) % len(labels)}" for i in range(len(labels))]
    (folder / "nodes.csv").write_text("\n".join(["id,title,body,label", *nodes, ""]))
    (folder / "edges.csv").write_text("\n".join(["source,target", *edges, ""]))
    data = ["dataset=csv", f"dataset.nodes={folder}/nodes.csv", f"dataset.edges={folder}/edges.csv", "dataset.sampler.max_tokens=3"]
    return [*data, "model/llm=tiny_random", "runner.threads=1", "runner.accelerator=cpu", "logger=none"]


def uneven_overrides(folder: Path) -> list[str]:
    """Command line for sixty nodes in four classes of 24, 18, 12 and 6, as :func:`csv_overrides`."""
    sizes = {"Red": 24, "Green": 18, "Blue": 12, "White": 6}
    return csv_overrides(folder, [label for label, size in sizes.items() for _ in range(size)], step=1)


def train(folder: Path, overrides: Sequence[str]) -> None:
    """Train into a run folder as train.py does, in this process."""
    experiment = check_command_line(ExperimentConfig, "train", overrides)
    task = build_task(experiment)
    model = build_model(experiment, task)
    build_runner(experiment).train(model, task, experiment, folder)


def written(message: Message) -> str:
    """What a message says, with ``<graph>`` where an input stands, as in its wording."""
    return "".join(part if isinstance(part, str) else f"<{part.modality}>" for part in message.content)


def scratch(registry: Registry[Any], monkeypatch: pytest.MonkeyPatch) -> Registry[Any]:
    """The registry, which forgets at the end of the test what the test registers."""
    registry.names()  # All that is shipped first: a module is imported only once, so what it registers must stay.
    monkeypatch.setattr(registry, "_classes", dict(registry._classes))
    return registry
