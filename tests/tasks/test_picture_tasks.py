"""Tasks about pictures: what is asked, how answers are measured, and that a model learns, answers and is evaluated."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import CONFIGS, parsed, train, written
from omegaconf import OmegaConf

from graphgpt.assembly import build_model, build_task
from graphgpt.config.command_line import check_command_line
from graphgpt.config.experiment import EvaluationConfig, ExperimentConfig, evaluated_experiment
from graphgpt.errors import ConfigError, DataError
from graphgpt.evaluation.ablations import ablated
from graphgpt.evaluation.evaluation import evaluate
from graphgpt.images.collection import Collection
from graphgpt.images.splits import split_pictures
from graphgpt.prompts.prediction import Prediction
from graphgpt.registry import DATASETS, TASKS
from graphgpt.schema import SPLITS
from graphgpt.tasks.picture_task import PictureTask


def data(name: str, **fields: Any) -> tuple[Any, Collection]:
    cls = DATASETS.get(name)
    config = parsed(cls.Config, {"name": name, **fields})
    return config, cls(config).open()


@pytest.fixture(scope="module")
def make() -> Callable[..., Any]:
    """``make(task, dataset, dataset_fields, **task_fields)``: a task in its shipped wordings."""

    def make(name: str, dataset: str, fields: dict[str, Any], **overrides: Any) -> Any:
        shipped: Any = OmegaConf.to_container(OmegaConf.load(CONFIGS / "task" / f"{name}.yaml"))
        shipped.pop("defaults", None)
        cls = TASKS.get(name)
        config, collection = data(dataset, **fields)
        split = split_pictures(collection, config.split, needs_labels=cls.needs_labels)
        return cls(parsed(cls.Config, shipped | overrides), collection, config, split)

    return make


EMOJI = ("openmoji", {"limit": 4, "size": 32})
SCENES = ("emoji_scenes", {"scenes": 30, "size": 48, "things": 6})


def first(task: PictureTask, split: Any = "test", **arguments: Any) -> Any:
    return task.instruction(int(task.items(split)[0]), **({"seed": 0, "training": False} | arguments))


def test_what_is_asked(make: Callable[..., Any]) -> None:
    task = make("image_classification", *EMOJI)
    asked = first(task)
    assert written(asked.messages[0]).endswith(
        "Choose one of: Activities; Animals & Nature; Flags; Food & Drink; Objects; People & Body; Smileys & Emotion; Symbols; "
        "Travel & Places.\n<image>"
    )
    assert asked.messages[-1].text == task.candidates[asked.truth] and asked.inputs[0].modality == "image"
    shown = first(make("image_classification", *EMOJI, wording="with_title", max_chars=9))
    assert "It is called: " in shown.prompt
    assert "(hidden)" in first(make("image_classification", *EMOJI, wording="with_title"), hide_text=True).prompt
    bare = make("image_classification", *EMOJI, wording="text_only")
    assert bare.modalities(bare.config) == () and first(bare).inputs == ()


def test_without_an_encoder_the_names_themselves_are_given(make: Callable[..., Any]) -> None:
    task = make("image_grounding", *EMOJI, text_encoder=None)
    asked = first(task)
    assert asked.text.startswith(task.title(asked.picture)) and asked.around == [] and task.facts.text_dim is None


def test_a_name_is_chosen_among_others_of_its_split(make: Callable[..., Any]) -> None:
    task = make("image_naming", *EMOJI, choices=4)
    asked = first(task)
    assert len(set(asked.choices)) == 4 and asked.choices[asked.truth] == asked.messages[-1].text
    others = {task.title(item) for item in task.items("test").tolist()}
    assert set(asked.choices) <= others
    assert first(task, training=True).choices == ()
    assert {tuple(first(task, seed=seed).choices) for seed in range(5)} != {asked.choices}
    # In how likely titles are by themselves they differ: what counts is what the picture adds.
    assert asked.relative
    classed = first(make("image_naming", *EMOJI, choices=4, with_class=True))
    classes = task.collection.class_names
    assert all(name.partition(": ")[0] in classes for name in classed.choices) and classed.messages[-1].text.endswith(
        asked.messages[-1].text
    )


def test_captions_may_be_any_of_several(make: Callable[..., Any]) -> None:
    task = make("image_caption", *SCENES)
    found = [task.instruction(item, seed=0, training=False) for item in range(30)]
    assert any(len(one.references) > 1 for one in found)
    asked = next(one for one in found if len(one.references) > 1)
    said = Prediction(id="", prompt_tokens=0, truth=None, scores=None, expected="x", text=asked.references[1], references=asked.references)
    assert task.answer_metrics(said) == {"rouge_l": 1}
    assert set(task.metrics([said])) == {"rouge_l", "cider_d"} == {metric.name for metric in task.measures(task.config)}
    emoji = make("image_caption", *EMOJI)
    assert first(emoji).messages[-1].text == emoji.title(int(emoji.items("test")[0]))


def test_yes_or_no_is_chosen(make: Callable[..., Any]) -> None:
    task = make("visual_question", *SCENES)
    assert task.candidates == ["yes", "no"] and len(task.items("train")) == 2 * len((task.split == 0).nonzero())
    asked = first(task)
    assert asked.messages[0].shown.endswith(" in the picture?") and task.candidates[asked.truth] == asked.messages[-1].text
    scores = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    assert task.rank_metrics(np.array([0, 1, 1]), scores)["yes_rate"] == pytest.approx(2 / 3)
    ids, _ = task.identities(task.items("test"))
    assert len(set(ids)) == len(ids)


def test_questions_of_other_kinds_are_written(make: Callable[..., Any]) -> None:
    task = make("visual_question", *SCENES, kinds=["count", "box"])
    assert task.candidates is None
    assert [metric.name for metric in task.measures(task.config)] == ["exact_match", "vqa", "iou"]
    metrics = task.metrics([right(task, item) for item in task.items("train").tolist()])
    assert metrics == {"exact_match": 1, "vqa": 1, "iou": 1}
    with pytest.raises(DataError, match=r"^task\.kinds: the collection 'openmoji' has no questions of kind yes_no\."):
        make("visual_question", *EMOJI)


def right(task: PictureTask, item: int) -> Prediction:
    asked = task.instruction(item, seed=0, training=False)
    said = asked.messages[-1].text
    return Prediction(id="", prompt_tokens=0, truth=None, scores=None, expected=said, text=said, references=asked.references)


def test_ablations_of_pictures(make: Callable[..., Any]) -> None:
    task = make("image_classification", *EMOJI)
    item, others = int(task.items("test")[0]), task.items("test")
    plain = first(task)
    keys = {name: ablated(task, item, name, seed=0, others=others).inputs for name in ("none", "zeroed", "shuffled", "other_node")}
    assert len({inputs[0].key for inputs in keys.values()}) == 4
    bare = ablated(task, item, "no_image", seed=0, others=others)
    assert bare.inputs == () and bare.messages[0].text == plain.messages[0].text
    assert [one.key for one in ablated(task, item, "no_graph", seed=0, others=others).inputs] == [one.key for one in plain.inputs]


def command(folder: Path, *overrides: str) -> list[str]:
    common = ["model/llm=tiny_random", "model.tower.size=32", "runner.threads=1", "runner.accelerator=cpu", "logger=none"]
    steps = ["runner.max_steps=2", "runner.global_batch_size=4", "runner.val_every=2", "runner.val_samples=4"]
    small = ["dataset.limit=6", "dataset.size=32", "runner.checkpoint.every_n_steps=0"]
    scenes = [f"task.parts.{part}.dataset.{key}" for part in ("captions",) for key in ("scenes=20", "size=48")]
    return [*common, *steps, *small, *([] if "stage0" in overrides[0] else scenes), *overrides]


def evaluated(folder: Path, checkpoint: Path, *overrides: str) -> dict[str, Any]:
    asked = [f"checkpoint={checkpoint}", "accelerator=cpu", "threads=1", "bootstrap=20", "max_new_tokens=4", "samples=2", *overrides]
    config = check_command_line(EvaluationConfig, "evaluate", asked)
    experiment = evaluated_experiment(config)
    task = build_task(experiment)
    model = build_model(experiment, task)
    from graphgpt.checkpoints.folder import load_checkpoint

    load_checkpoint(model, checkpoint)
    return evaluate(model, task, config, folder)


def test_the_stages_follow_each_other_and_are_evaluated(tmp_path: Path) -> None:
    """A grounded tower, captions on it, everything with adapters, and figures of each part beside floors."""
    zero, one, two = (tmp_path / name for name in ("zero", "one", "two"))
    train(zero, command(tmp_path, "experiment=image/stage0"))
    [validated] = [line for line in map(json.loads, (zero / "metrics.jsonl").read_text().splitlines()) if "val/mrr" in line]
    assert set(validated) >= {"val/loss", "val/recall@1", "val/recall@10", "val/mrr"}
    tower = [f"model.tower.init_from={zero}", "model.tower.size=32"]
    train(one, command(tmp_path, "experiment=image/stage1", *tower))
    assert torch.equal(weights(zero, "tower"), weights(one, "image/tower"))
    yes_no = [f"task.parts.yes_no.dataset.{key}" for key in ("scenes=20", "size=48")]
    train(two, command(tmp_path, "experiment=image/stage2", *yes_no, f"start_from={one}"))
    found = evaluated(tmp_path / "e", two, "limit=8", "ablation=[no_image,zeroed]")
    assert set(found) == {"classes", "names", "yes_no", "captions"}
    rows = {part: [row["name"] for row in one["rows"]] for part, one in found.items()}
    floors = ["Logistic regression on pooled states", "Nearest neighbor on pooled states"]
    ablations = ["Image tokens", "Image tokens removed", "Inputs zeroed"]
    assert rows["classes"] == [*ablations, "Majority class", *floors]
    assert rows["names"] == [*ablations, *floors] and rows["yes_no"] == [*ablations, "Majority class"]
    assert set(found["captions"]["rows"][0]["metrics"]) >= {"rouge_l"}
    page = (tmp_path / "e" / "classes" / "report.html").read_text()
    assert "data:image/png;base64," in page


def weights(run: Path, part: str) -> torch.Tensor:
    from safetensors.torch import load_file

    return load_file(run / "checkpoint" / f"{part}.safetensors")["_conv_stem.weight"]


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (
            ["model=image", "task=image_classification"],
            "task.name: 'image_classification' asks about pictures, which dataset.name=stdlib_docs has not; choose one of: ",
        ),
        (
            ["model=image"],
            "task.name: the prompts of 'graph_matching' have a graph, and this model reads image; choose a wording without <graph>",
        ),
        (
            ["model=gnn", "task=image_classification", "dataset=openmoji"],
            "model.tower.name: 'sage' reads a graph, which prompts of 'image_classification' have not; they have image.",
        ),
    ],
)
def test_what_does_not_go_together_is_said(overrides: Sequence[str], sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_command_line(ExperimentConfig, "train", [*overrides, "model/llm=tiny_random"])
    assert any(problem.startswith(sentence) for problem in caught.value.problems), caught.value.problems


def test_splits_are_of_pictures(make: Callable[..., Any], tmp_path: Path) -> None:
    task = make("image_classification", *EMOJI)
    assert sum(len(task.items(split)) for split in SPLITS) == len(task.collection)
    task.write_split(tmp_path)
    lines = (tmp_path / "split.csv").read_text().splitlines()
    assert lines[0] == "id,split" and len(lines) == len(task.collection) + 1
