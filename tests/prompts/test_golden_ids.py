"""Token ids of every shipped task in every wording and template, as they were when checkpoints of today were trained.

A change here changes what every trained model reads. Where it is meant, ``GRAPHGPT_GOLDEN=write`` writes the file anew.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import CONFIGS, make_model, make_processor, make_task
from omegaconf import OmegaConf

from graphgpt.graphs.graph import TextAttributedGraph
from graphgpt.registry import TASKS as REGISTRY

FILE = Path(__file__).with_name("golden_ids.json")
TASKS = ("node_classification", "graph_matching", "link_prediction", "chain_of_thought", "node_description", "grounding")


def examples(graph: TextAttributedGraph) -> Iterator[tuple[str, Any]]:
    """Every task, wording and template, with a few of its items: in use, in training, and without their own texts."""
    for template in ("chat", "vicuna_v1"):
        processor = make_processor(make_model(template=template), max_length=100_000)
        for name in TASKS:
            wordings = OmegaConf.load(CONFIGS / "task" / f"{name}.yaml").wordings
            for wording in wordings:
                task = make_task(name, graph, wording=str(wording))
                items = task.items("val")[:2].tolist()
                for training, hidden in ((False, False), (True, False), (False, True)):
                    made = [task.instruction(item, seed=item, training=training, hide_text=hidden) for item in items]
                    key = f"{name}/{wording}/{template}" + ("/training" if training else "") + ("/hidden" if hidden else "")
                    yield key, [processor(instruction) for instruction in made] + [processor.prompt(made[0])]


def digest(examples: list[Any]) -> str:
    ids = [(example.ids, example.labels, [item.num_tokens for item in example.inputs]) for example in examples]
    return hashlib.sha256(json.dumps(ids).encode()).hexdigest()[:16]


def test_ids_are_those_that_models_were_trained_on(graph: TextAttributedGraph) -> None:
    found = {key: digest(made) for key, made in examples(graph)}
    if os.environ.get("GRAPHGPT_GOLDEN") == "write":
        FILE.write_text(json.dumps(found, indent=1) + "\n")
    wanted = json.loads(FILE.read_text())
    assert found.keys() == wanted.keys()
    assert [key for key in wanted if found[key] != wanted[key]] == []
    assert len(wanted) >= 100


@pytest.mark.parametrize("name", [path.stem for path in (CONFIGS / "task").glob("*.yaml")])
def test_every_shipped_task_is_among_them(name: str) -> None:
    """Mixtures are made of the others; stored conversations have tests with their files, and pictures theirs."""
    about_pictures = name not in ("mixture", "parts") and REGISTRY.get(name).reads == "images"
    assert about_pictures or name in (*TASKS, "mixture", "parts", "instructions", "conversations")
