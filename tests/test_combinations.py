"""Every task on every kind of graph in every token layout, as the README's table promises: trained for a step."""

import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import csv_overrides

from graphgpt.assembly import build_model, build_runner, build_task
from graphgpt.config.command_line import check_command_line
from graphgpt.config.experiment import ExperimentConfig
from graphgpt.datasets.csv_files import CsvFiles
from graphgpt.errors import ConfigError
from graphgpt.graphs.graph import TextAttributedGraph

TASKS = ["graph_matching", "node_classification", "link_prediction", "node_description", "chain_of_thought", "mixture"]
DATASETS = ["csv", "folder", "pyg"]
LAYOUTS = ["sampled", "neighborhood_detail", "hop_field"]
PROMISED = [(task, dataset, layout) for task, dataset, layout in itertools.product(TASKS, DATASETS, LAYOUTS)]
REFUSED = [(task, dataset, layout) for task, dataset, layout in PROMISED if task == "graph_matching" and layout != "sampled"]

Data = dict[str, list[str]]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    """One graph of 42 nodes in three classes, as each dataset reads it, and what the tasks need besides."""
    folder = tmp_path_factory.mktemp("data")
    overrides = csv_overrides(folder)
    common = [override for override in overrides if not override.startswith("dataset")]
    graph = CsvFiles(check_command_line(ExperimentConfig, "train", overrides).dataset).build()
    graph.save(folder / "graph")
    torch.save(saved(graph), folder / "graph.pt")
    for name, prefix in (("csv", "n"), ("folder", "n"), ("pyg", "")):
        records = [answered(f"{prefix}{node}", graph.class_names[label]) for node, label in enumerate(graph.y.tolist())]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return {
        "csv": [override for override in overrides if override.startswith("dataset")],
        "folder": ["dataset=folder", f"dataset.path={folder}/graph"],
        "pyg": ["dataset=pyg", f"dataset.path={folder}/graph.pt", f"dataset.classes={list(graph.class_names)}"],
        "common": [*common, "dataset.sampler.fanout=3", "dataset.sampler.max_tokens=5"],
        "records": [str(folder)],
    }


def saved(graph: TextAttributedGraph) -> dict[str, Any]:
    row = torch.repeat_interleave(torch.arange(graph.num_nodes), graph.rowptr.diff())
    return {"edge_index": torch.stack([row, graph.col]), "y": graph.y, "title": graph.titles.to_pylist(), "text": graph.bodies.to_pylist()}


def answered(name: str, truth: str) -> dict[str, Any]:
    """What a teacher said about a node."""
    return {"id": name, "truth": truth, "answer": f"{truth}\n\nIt says so."}


def line(data: Data, task: str, dataset: str, layout: str) -> list[str]:
    records = [f"task.records={data['records'][0]}/{dataset}.jsonl"] if task == "chain_of_thought" else []
    return [f"task={task}", *data[dataset], *data["common"], *records, f"dataset.sampler.layout={layout}"]


@pytest.mark.parametrize(("task", "dataset", "layout"), [combination for combination in PROMISED if combination not in REFUSED])
def test_a_step(data: Data, tmp_path: Path, task: str, dataset: str, layout: str) -> None:
    short = ["runner.max_steps=1", "runner.global_batch_size=2", "runner.micro_batch_size=2", "runner.checkpoint.every_n_steps=0"]
    experiment = check_command_line(ExperimentConfig, "train", [*line(data, task, dataset, layout), *short])
    built = build_task(experiment)
    build_runner(experiment).train(build_model(experiment, built), built, experiment, tmp_path)
    [logged] = [json.loads(text) for text in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert 0 < logged["train/loss"] < 20 and math.isfinite(logged["lr/projector"])
    assert (tmp_path / "checkpoint" / "manifest.json").is_file()


@pytest.mark.parametrize(("task", "dataset", "layout"), REFUSED)
def test_what_cannot_be(data: Data, task: str, dataset: str, layout: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_command_line(ExperimentConfig, "train", line(data, task, dataset, layout))
    assert caught.value.problems == [
        f"dataset.sampler.layout: 'graph_matching' names the node of every token, which '{layout}' has not; use 'sampled'."
    ]


def test_all_are_counted() -> None:
    assert len(PROMISED) == 54 and len(REFUSED) == 6


def test_a_task_on_data_that_are_not_for_it(data: Data, tmp_path: Path) -> None:
    for name in ("records.json", "graphs.pt"):
        (tmp_path / name).write_text("[]")
    files = [f"dataset.instructions={tmp_path}/records.json", f"dataset.graphs={tmp_path}/graphs.pt"]
    wrong: list[tuple[list[str], Callable[[str], bool]]] = [
        (["task=node_classification", "dataset=graphgpt_json", *files], lambda text: "asks about a graph with texts" in text),
        (["task=instructions", *data["csv"]], lambda text: text.endswith("one of: alpaca, conversations, dolly, graphgpt_json, sharegpt.")),
    ]
    for overrides, fits in wrong:
        with pytest.raises(ConfigError) as caught:
            check_command_line(ExperimentConfig, "train", [*overrides, "model/llm=tiny_random"])
        [problem] = caught.value.problems
        assert problem.startswith("task.name: ") and fits(problem)
