"""Graphs whose nodes have pictures: kept in the graph's folder, and asked about with graph and picture in one prompt."""

import json
from pathlib import Path
from typing import Any

import pytest
from helpers import make_graph, make_task, parsed, train

from graphgpt.assembly import build_model, build_task
from graphgpt.checkpoints.folder import load_checkpoint
from graphgpt.config.command_line import check_command_line
from graphgpt.config.experiment import EvaluationConfig, evaluated_experiment
from graphgpt.errors import DataError
from graphgpt.evaluation.evaluation import evaluate
from graphgpt.graphs.graph import TextAttributedGraph
from graphgpt.registry import DATASETS


def emoji(**fields: Any) -> Any:
    cls = DATASETS.get("emoji_graph")
    return cls(parsed(cls.Config, {"name": "emoji_graph", "text_encoder": {"name": "tfidf_svd"}, **fields}))


def test_emoji_are_nodes(tmp_path: Path) -> None:
    made = emoji(limit=5, size=32, labels="subcategory")
    made.write(tmp_path / "graph")
    graph = TextAttributedGraph.open(tmp_path / "graph")
    assert graph.num_nodes == 45 and graph.num_edges > 20 and "face smiling" in graph.class_names
    picture = graph.picture(0)
    assert picture.load().size == (32, 32) and picture.title == graph.title(0) == "grinning face"
    assert len({graph.picture(node).key for node in range(45)}) > 40
    assert emoji(limit=5).fingerprint() != made.fingerprint()


def test_a_damaged_table_of_pictures_is_a_sentence(tmp_path: Path) -> None:
    emoji(limit=2, size=16).write(tmp_path / "graph")
    (tmp_path / "graph" / "pictures.arrow").write_bytes(b"x")
    with pytest.raises(DataError, match=r"pictures\.arrow"):
        TextAttributedGraph.open(tmp_path / "graph")


def test_a_graph_without_pictures_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^The nodes of the graph 'toy' have no pictures\.$"):
        make_graph().picture(0)
    wordings = {"seen": "{category}: <image>"}
    task = make_task("node_classification", make_graph(), wordings=wordings, wording="seen")
    with pytest.raises(
        DataError, match=r"^task\.wording: 'seen' has an <image>, and the nodes of the graph 'toy' have no pictures; choose "
    ):
        type(task).build(task.config, task.dataset, lambda dataset: make_graph())


def test_graph_and_picture_are_asked_about_in_one_prompt(tmp_path: Path) -> None:
    """Trained, evaluated with either taken away; the parts of both modalities are in the checkpoint."""
    small = ["dataset.limit=6", "dataset.size=32", "model.modalities.image.tower.size=32", "model/llm=tiny_random"]
    steps = ["runner.max_steps=2", "runner.global_batch_size=4", "runner.val_every=0", "runner.checkpoint.every_n_steps=0"]
    here = ["runner.threads=1", "runner.accelerator=cpu", "logger=none"]
    train(tmp_path / "run", ["experiment=image/graph_and_image", *small, *steps, *here])
    files = {str(file.relative_to(tmp_path / "run/checkpoint")) for file in (tmp_path / "run/checkpoint").rglob("*.safetensors")}
    assert {"graph/projector.safetensors", "image/projector.safetensors", "image/tower.safetensors"} <= files
    asked = [f"checkpoint={tmp_path}/run", "accelerator=cpu", "threads=1", "bootstrap=10", "max_new_tokens=2", "samples=2", "limit=6"]
    config = check_command_line(EvaluationConfig, "evaluate", [*asked, "ablation=[no_graph,no_image]", "baselines=false"])
    task = build_task(evaluated_experiment(config))
    model = build_model(evaluated_experiment(config), task)
    load_checkpoint(model, tmp_path / "run")
    result = evaluate(model, task, config, tmp_path / "e")
    assert [row["name"] for row in result["rows"]] == ["Graph and image tokens", "Graph tokens removed", "Image tokens removed"]
    shown = (tmp_path / "e" / "predictions.jsonl").read_text().splitlines()
    assert len({json.loads(line)["prompt_tokens"] for line in shown}) > 2
