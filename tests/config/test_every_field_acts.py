# ruff: noqa: E501  # sentences stand in one piece
"""Every field of every Config acts, or is refused where it cannot; a new field without a row here fails.

A row is one of three: two values of the field make something else of the smallest thing that has it (``PROBES``), another test shows it
(``SHOWN_BY``), or the field is refused beside what it is tried with. ``pytest -s -k table`` prints the table.
"""

import ast
import dataclasses
import fnmatch
import json
import typing
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from helpers import CONFIGS, Stub, csv_overrides, make_dataset_config, make_graph, make_model, make_task, parsed
from omegaconf import OmegaConf

from graphgpt.assembly import build_model, build_runner, build_task
from graphgpt.config.command_line import check_command_line
from graphgpt.config.experiment import EvaluationConfig, ExperimentConfig, read_config
from graphgpt.errors import ConfigError, GraphGPTError
from graphgpt.evaluation.evaluation import evaluate
from graphgpt.files.atomic import cache_dir
from graphgpt.graphs.dataset import DatasetConfig, SplitConfig
from graphgpt.graphs.splits import split_nodes
from graphgpt.images.dataset import ImageDatasetConfig
from graphgpt.metrics import Declared, Metric
from graphgpt.models.llm import LLMConfig, load_config, load_llm, load_tokenizer
from graphgpt.models.tower import build_tower
from graphgpt.prompts.facts import TaskFacts
from graphgpt.prompts.instruction import Message
from graphgpt.registry import DATASETS, FUSIONS, PROJECTORS, REGISTRIES, TASKS, TEMPLATES, TEXT_ENCODERS, TEXT_SIDES, TOWERS
from graphgpt.runners.training.strategies import build_strategy
from graphgpt.schema import SPLITS, ActsWith, registry_of
from graphgpt.sweeps.sweep import SweepConfig, direction

TESTS = Path(__file__).parents[1]

# All fields there are.


def fields_of(cls: Any, prefix: str) -> Iterator[tuple[str, type, str]]:
    """Key, class and name of every value of a Config; nodes whose class is registered are Configs of their own."""
    for name, info in cls.__pydantic_fields__.items():
        node = None if registry_of(info) is not None else _config_in(info.annotation)
        if node is None:
            yield f"{prefix}.{name}", cls, name
        else:
            yield from fields_of(node, f"{prefix}.{name}")


def _config_in(annotation: Any) -> Any:
    """The class of a plain node, also in a mapping or where it may be null."""
    if isinstance(annotation, type) and hasattr(annotation, "__pydantic_fields__"):
        return annotation
    return next(filter(None, map(_config_in, typing.get_args(annotation))), None)


ROOTS = {"experiment": ExperimentConfig, "evaluation": EvaluationConfig, "sweep": SweepConfig}


@cache
def all_fields() -> dict[str, tuple[type, str]]:
    found = {key: (cls, name) for prefix, root in ROOTS.items() for key, cls, name in fields_of(root, prefix)}
    for kind, registry in REGISTRIES.items():
        for choice in registry.names():
            if registry.get(choice).__module__.startswith("graphgpt."):
                found |= {key: (cls, name) for key, cls, name in fields_of(registry.get(choice).Config, f"{kind}/{choice}")}
    return found


# What another test shows. The field's name must stand in it.

HERE = "config/test_every_field_acts.py"
EVALUATION, TRAINING, QUANTIZATION = "runners/test_evaluation.py", "runners/test_training.py", "models/test_quantization.py"
#: A conversation form.
TURNS = {"system": "Be kind.", "user": "A: {content} ", "assistant": "B:{content}"}
COMPOSES = "config/test_shipped_configs.py::test_composes"
CONVERSATIONS = "conversations/test_conversations.py"
PICTURES, PICTURE_TOWERS = "images/test_datasets.py", "models/test_image_towers.py"
SHOWN_BY = {
    "*/*.name": COMPOSES,
    "experiment.name": "test_launch.py::test_a_run_folder_is_made_once_and_by_one_run",
    "experiment.seed": f"{TRAINING}::test_the_seed_fixes_the_run",
    "experiment.start_from": f"{TRAINING}::test_stage2_begins_with_what_stage1_left",
    "experiment.resume": f"{TRAINING}::test_killed_and_resumed_is_as_if_never_stopped",
    "experiment.plugins": "test_untrusted_folders.py::test_plugins_that_the_user_names_too_are",
    "experiment.*": COMPOSES,
    "tower/vision.path": f"{PICTURE_TOWERS}::test_states_are_those_of_transformers",
    "tower/vision.revision": f"{PICTURE_TOWERS}::test_a_revision_is_asked_for",
    "tower/*.cache": f"{PICTURE_TOWERS}::test_a_picture_is_encoded_once",
    "tower/*.cache_gb": f"{PICTURE_TOWERS}::test_the_limit_holds",
    "dataset/conversations.images": f"{CONVERSATIONS}::test_pictures_stand_where_they_stood",
    "dataset/*.with_input": f"{CONVERSATIONS}::test_other_forms",
    "dataset/alpaca.wording": f"{CONVERSATIONS}::test_other_forms",
    **{
        f"dataset/{name}.{field}": f"{CONVERSATIONS}::{test}"
        for name in ("conversations", "sharegpt", "alpaca", "dolly")
        for field, test in (
            ("path", "test_other_forms"),
            ("on_bad", "test_what_is_wrong_is_said_and_may_be_skipped"),
            ("split.*", "test_shares_are_held_out"),
        )
    },
    "dataset/image_folder.*": f"{PICTURES}::test_a_folder_for_each_class",
    "dataset/image_csv.on_bad": f"{PICTURES}::test_pictures_that_cannot_be_read_are_counted",
    "dataset/image_csv.*": f"{PICTURES}::test_a_table_of_pictures",
    "dataset/emoji_graph.labels": "graphs/test_pictures_of_nodes.py::test_emoji_are_nodes",
    "dataset/emoji_graph.size": "graphs/test_pictures_of_nodes.py::test_emoji_are_nodes",
    "dataset/emoji_graph.limit": "graphs/test_pictures_of_nodes.py::test_emoji_are_nodes",
    "dataset/openmoji.*": f"{PICTURES}::test_variants_by_skin_tone_stay_together",
    "dataset/emoji_scenes.*": f"{PICTURES}::test_scenes_follow_from_the_seed",
    "task/image_naming.choices": "tasks/test_picture_tasks.py::test_a_name_is_chosen_among_others_of_its_split",
    "task/image_naming.with_class": "tasks/test_picture_tasks.py::test_a_name_is_chosen_among_others_of_its_split",
    "task/image_grounding.text_encoder": "tasks/test_picture_tasks.py::test_without_an_encoder_the_names_themselves_are_given",
    "task/visual_question.*": "tasks/test_picture_tasks.py::test_questions_of_other_kinds_are_written",
    "model/multimodal_llm.fusion": "models/test_modalities.py::test_the_short_form_is_one_modality",
    "model/multimodal_llm.modalities": "models/test_modalities.py::test_a_mixed_batch_gives_the_losses_of_each_alone",
    "evaluation.name": f"{EVALUATION}::test_the_program_leaves_a_run_folder",
    "evaluation.checkpoint": f"{EVALUATION}::test_every_node_of_the_split_has_a_score_for_every_class",
    "evaluation.dataset": f"{EVALUATION}::test_another_graph",
    "evaluation.task": f"{EVALUATION}::test_another_task_and_one_setting_of_it",
    "evaluation.split": f"{EVALUATION}::test_a_limit_above_the_split_takes_all_of_it",
    "evaluation.limit": f"{EVALUATION}::test_limit_draws_nodes_by_seed",
    "evaluation.devices": f"{EVALUATION}::test_two_processes_find_what_one_does",
    "evaluation.shard": f"{EVALUATION}::test_gathered_shards_are_the_whole",
    "evaluation.seed": f"{EVALUATION}::test_limit_draws_nodes_by_seed",
    "evaluation.seeds": f"{EVALUATION}::test_several_seeds",
    "evaluation.wordings": f"{EVALUATION}::test_all_wordings",
    "evaluation.ablation": f"{EVALUATION}::test_all_ablations",
    "evaluation.batch_size": "test_assistant.py::test_classes_are_those_of_an_evaluation",
    "evaluation.generate": f"{EVALUATION}::test_written_answers_are_read_exactly",
    "evaluation.baselines": f"{EVALUATION}::test_baselines_are_what_they_say",
    "evaluation.compare": f"{EVALUATION}::test_another_model_on_the_same_items",
    "evaluation.max_edges": "test_baselines.py::test_networks_are_left_out_of_large_graphs",
    "evaluation.leakage": f"{EVALUATION}::test_leaks_are_reported_or_refused",
    "evaluation.samples": f"{EVALUATION}::test_the_program_leaves_a_run_folder",
    "evaluation.max_new_tokens": f"{EVALUATION}::test_graph_matching_is_evaluated_by_generation",
    "evaluation.bootstrap": f"{EVALUATION}::test_what_is_switched_off_is_left_out",
    "evaluation.plugins": "test_untrusted_folders.py::test_plugins_that_the_user_names_too_are",
    "evaluation.writing_batch_size": f"{HERE}::test_how_much_an_evaluation_does_at_once",
    "evaluation.threads": f"{HERE}::test_how_much_an_evaluation_does_at_once",
    "evaluation.accelerator": f"{EVALUATION}::test_a_device_that_is_not_here_is_said_before_anything_is_read",
    "sweep.overrides": "test_sweep.py::test_every_combination_once_and_the_mean_over_seeds",
    "sweep.direction": f"{HERE}::test_which_way_a_sweep_looks",
    "sweep.*": "test_sweep.py::test_what_cannot_work_is_said_before_anything_starts",
    "sweep.prune": "test_sweep.py::test_pruning_stops_what_is_worse_than_the_median",
    "model/*.llm.path": COMPOSES,
    "model/*.llm.revision": f"{HERE}::test_what_a_language_model_is_told",
    "model/*.llm.config_overrides": f"{HERE}::test_what_a_language_model_is_told",
    "model/multimodal_llm.quantization.*": f"{QUANTIZATION}::test_settings_reach_bitsandbytes",
    "model/gnn.llm.*": f"{HERE}::test_what_a_language_model_is_told",
    "model/grounding.llm.*": f"{HERE}::test_what_a_language_model_is_told",
    "model/grounding.around": "models/test_grounding.py::test_the_loss_is_that_of_an_independent_computation",
    "model/grounding.compat.constant_scale": "models/test_grounding.py::test_the_temperature_learns_unless_it_must_not",
    "model/*.tower": COMPOSES,
    "model/*.projector": COMPOSES,
    "model/*.template": COMPOSES,
    "model/*.text": COMPOSES,
    "dataset/*.text_encoder": COMPOSES,
    "tower/*.init_from": "models/test_grounding.py::test_stage_0_hands_its_tower_over",
    "text_encoder/sentence_transformers.*": "graphs/test_text_encoders.py::test_sentence_transformers_that_cannot_be_loaded",
    "task/chain_of_thought.records": "tasks/test_chain_of_thought.py::test_it_trains_on_kept_records_of_the_training_split",
    "task/grounding.text_encoder": "tasks/test_grounding_task.py::test_without_an_encoder_the_texts_themselves_are_given",
    "task/instructions.candidates": "tasks/test_instructions.py::test_candidates_are_scored_by_likelihood",
    "task/instructions.scoring": "tasks/test_instructions.py::test_written_answers_may_name_a_candidate",
    "task/instructions.own_text": "tasks/test_instructions.py::test_own_texts_are_hidden",
    "task/mixture.parts.weight": "tasks/test_mixture.py::test_weights_are_shares_and_nothing_is_cut",
    "task/mixture.parts.*": "tasks/test_mixture.py::test_repeat_and_cap",
    "task/mixture.seed": "tasks/test_mixture.py::test_repeat_and_cap",
    "dataset/csv.normalize": "datasets/test_csv_files.py::test_labels_joined_on_request",
    "dataset/csv.unknown_nodes": "datasets/test_csv_files.py::test_edges_to_unknown_nodes_are_counted_and_left_out_on_request",
    "dataset/*.split.path": f"{HERE}::test_a_split_of_a_file",
    "text_encoder/tfidf_svd.words": "graphs/test_text_encoders.py::*",
    "runner/lightning.strategy.timeout": f"{HERE}::test_how_long_processes_wait_for_each_other",
    "dataset/csv.nodes": "datasets/test_csv_files.py::*",
    "dataset/csv.edges": "datasets/test_csv_files.py::*",
    "dataset/*.classes": "datasets/test_csv_files.py::*",
    "dataset/*.features": "datasets/test_csv_files.py::*",
    "dataset/ogb.*": "datasets/test_ogb.py::*",
    "dataset/pyg.path": "datasets/test_pyg.py::*",
    "dataset/folder.path": "datasets/test_graph_folder.py::*",
    "dataset/stdlib_docs.*": "datasets/test_stdlib_docs.py::*",
    "dataset/graphgpt_json.*": "datasets/test_graphgpt_json.py::*",
    "runner/lightning.lr.llm": "models/test_llm_training.py::test_all_of_it_moves_and_is_found_again",
    "model/*.llm.train": "models/test_llm_training.py::test_all_of_it_moves_and_is_found_again",
    "runner/lightning.epochs": "runners/test_schedules.py::test_epochs_become_steps",
    "runner/lightning.weight_decay.*": "runners/test_schedules.py::test_each_part_has_its_decay",
    "runner/lightning.loss": "runners/test_schedules.py::test_tokens_count_alike_however_a_step_is_cut",
    "runner/lightning.min_lr": "runners/test_schedules.py::test_schedules",
    "runner/lightning.accelerator": "test_compatibility.py::test_an_accelerator_that_is_not_there",
    "runner/lightning.devices": "runners/test_strategies.py::test_the_batch_is_cut_as_told_and_nothing_changes",
    "runner/lightning.num_nodes": "config/test_config_errors.py::test_what_cannot_work",
    "runner/lightning.workers": f"{TRAINING}::test_workers_change_nothing",
    "runner/lightning.checkpoint.mode": "test_compatibility.py::test_the_best_of_a_metric_follows_from_it",
    "runner/lightning.strategy.name": COMPOSES,
    "runner/lightning.strategy.stage": COMPOSES,
    "runner/lightning.strategy.offload": COMPOSES,
    "runner/lightning.micro_batch_*": "runners/test_strategies.py::test_the_batch_is_cut_as_told_and_nothing_changes",
    "runner/lightning.callbacks": "runners/test_debug.py::test_overfit_ends_when_the_samples_are_known",
    "runner/lightning.loggers": "runners/test_loggers.py::*",
}


# Two values, and what is made of them.

Probe = Callable[[str, dict[str, Any]], Any]


@cache
def graph() -> Any:
    return make_graph()


@cache
def questions() -> Any:
    """Two pairs of subgraphs."""
    task = make_task("link_prediction", graph(), sampler={"fanout": 4})
    return [item for i in (0, 1) for item in task.instruction(int(task.items("train")[i]), seed=0, training=False).inputs]


@cache
def pictures(**fields: Any) -> Any:
    """A few scenes with questions about them."""
    cls = DATASETS.get("emoji_scenes")
    return cls(parsed(cls.Config, {"name": "emoji_scenes", "scenes": 20, "size": 48, "things": 6})).open()


@cache
def vision() -> str:
    """The folder of a small vision transformer."""
    folder = cache_dir() / "vision"
    sizes = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 8,
    }
    transformers.Dinov2Model(transformers.Dinov2Config(**sizes)).save_pretrained(folder)
    processing = {"size": {"height": 32, "width": 32}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(processing))
    return str(folder)


def seen(module: Any, *inputs: Any) -> Any:
    """Shapes of a module's weights, which of them learn, and what comes out in training."""
    torch.manual_seed(1)
    out = module(*inputs)
    shapes = [(name, tuple(value.shape), value.requires_grad) for name, value in module.named_parameters()]
    return shapes, tuple(out.shape), out.detach().double().abs().sum().item()


TOWER = {"train": True, "dim": 16, "output_dim": 16, "layers": 2, "heads": 4, "dropout": 0.3, "position": {"name": "random_walk", "dim": 4}}


def tower(name: str, data: dict[str, Any]) -> Any:
    config = tower_config(name, data)
    torch.manual_seed(0)
    built = build_tower(config, graph_facts())
    inputs = questions() if built.modality == "graph" else [pictures().image(item) for item in (0, 1)]
    return seen(built.train(config.train), built.reader().collate(inputs))


def graph_facts(width: int | None = None) -> TaskFacts:
    return TaskFacts(task="toy", widths={"graph": width or graph().features.shape[1]})


def tower_config(name: str, data: dict[str, Any]) -> Any:
    cls = TOWERS.get(name)
    data = {"path": vision()} | data if name == "vision" else data
    return parsed(cls.Config, {"name": name} | {key: value for key, value in TOWER.items() if key in cls.Config.__pydantic_fields__} | data)


def projector(name: str, data: dict[str, Any]) -> Any:
    torch.manual_seed(0)
    return seen(PROJECTORS.build(parsed(PROJECTORS.get(name).Config, {"name": name} | data), 8, 16, 0.1), torch.ones(5, 8), (5,))


def fusion(name: str, data: dict[str, Any]) -> Any:
    torch.manual_seed(0)
    config = parsed(FUSIONS.get(name).Config, {"name": name} | data)
    made = FUSIONS.build(config, 0, 16, 0.1)
    return made.layout(config, 3), [(name, tuple(value.shape)) for name, value in made.named_parameters()]


def text(name: str, data: dict[str, Any]) -> Any:
    torch.manual_seed(0)
    config = parsed(TEXT_SIDES.get(name).Config, {"name": name, "dim": 16, "layers": 1, "max_tokens": 12} | data)
    side = TEXT_SIDES.build(config, None, 16, LLMConfig(path="random:tiny"))
    reader = side.reader()
    return seen(side, reader.collate([reader.read(["a text of some length", "b"]), reader.read(["c", "another text of some length"])]))


def text_encoder(name: str, data: dict[str, Any]) -> Any:
    calls: list[int] = []
    llm = load_llm(LLMConfig(path="random:tiny"))
    llm.base_model.register_forward_pre_hook(lambda *_: calls.append(1))
    config = parsed(TEXT_ENCODERS.get(name).Config, {"name": name} | ({"dim": 4} if name == "tfidf_svd" else {}) | data)
    x = TEXT_ENCODERS.build(config).encode(graph().titles.to_pylist(), lambda: (load_tokenizer(LLMConfig(path="random:tiny")), llm))
    return tuple(x.shape), x.tolist(), len(calls)


def template(name: str, data: dict[str, Any]) -> Any:
    built = TEMPLATES.build(parsed(TEMPLATES.get(name).Config, {"name": name} | data), load_tokenizer(LLMConfig(path="random:tiny")))
    turns = [Message("user", Stub(2), "a"), Message("assistant", "b"), Message("user", "c"), Message("assistant", "d")]
    return [piece.part for piece in built.render(turns)]


def asked(task: Any) -> Any:
    """What a task asks of the first items of each split, in training and not."""
    found: list[Any] = [task.items(split).tolist() for split in SPLITS] if task.config.name != "chain_of_thought" else []
    for item in found[0][:12] if found else range(12):
        for training in (True, False):
            one = task.instruction(item, seed=item, training=training)
            parts = [(part.key, part.shown) for part in one.inputs]
            found.append((one.id, [message.shown for message in one.messages], parts, str(getattr(one, "around", None))))
    if hasattr(task, "teacher_prompt"):
        found += [task.teacher_prompt(0), task.answer_metrics(SimpleNamespace(text="Art, Biology", truth=1))]
    return found


def task(name: str, data: dict[str, Any]) -> Any:
    if (cls := TASKS.get(name)).reads == "images":
        made: Any = OmegaConf.to_container(OmegaConf.load(CONFIGS / "task" / f"{name}.yaml"))
        made.pop("defaults", None)
        fields = {key: json.loads(json.dumps(value).replace("{node}", "{picture}")) for key, value in data.items()}
        config = parsed(cls.Config, made | fields)
        return asked(cls(config, pictures(), ImageDatasetConfig(name="toy"), torch.zeros(len(pictures()), dtype=torch.int8)))
    shipped = dataclasses.asdict(make_task(name, graph(), **({"text_encoder": None} if name == "grounding" else {})).config)
    fields = {key: shipped[key] | value if key in ("split", "teacher") else value for key, value in data.items()}
    config = parsed(TASKS.get(name).Config, shipped | fields)
    return asked(TASKS.get(name)(config, graph(), make_dataset_config(), split_nodes(graph(), make_dataset_config().split)))


DATASET = dataclasses.asdict(make_dataset_config())


def dataset(name: str, data: dict[str, Any]) -> Any:
    """Which nodes are for what, and the prompts of two tasks on them."""
    config = parsed(DatasetConfig, DATASET | data)
    found = [split_nodes(graph(), config.split).tolist()]
    for kind, wording in (("node_classification", "constant_first"), ("link_prediction", "relation")):
        shipped = make_task(kind, graph(), wording=wording).config
        found += asked(TASKS.get(kind)(shipped, graph(), config, split_nodes(graph(), config.split)))
    return found


def model(name: str, data: dict[str, Any]) -> Any:
    """A language model with its adapters and parts, in training, and the loss of a few samples."""
    built = make_model(**({"lora_rank": 2, "tower": {"name": "mpnn"}} | data)).train()
    for module in built.llm.modules():
        if hasattr(module, "lora_B") and "default" in module.lora_B:
            torch.nn.init.constant_(module.lora_B["default"].weight, 0.02)
    kind = make_task("link_prediction", graph(), wording="titles_only")
    instructions = [kind.instruction(int(item), seed=0, training=True) for item in kind.items("train")[:2]]
    try:
        batch = built.reader().collate(built.reader().read(instructions))
    except Exception as error:
        return str(error)
    shapes = [(key, tuple(value.shape), value.requires_grad, str(value.dtype)) for key, value in built.named_parameters()]
    torch.manual_seed(0)
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.numel()) or tensor, lambda tensor: tensor):
        loss = built.loss(batch).item()
    return shapes, loss, sum(kept), built.llm.config._attn_implementation


@cache
def data_of_runs() -> list[str]:
    import tempfile

    folder = Path(tempfile.mkdtemp())
    return csv_overrides(folder)


def runner(name: str, data: dict[str, Any]) -> Any:
    """Two steps of a tiny run: what its Trainer is told, what it logs, which files it leaves."""
    import tempfile

    import lightning.pytorch

    told: dict[str, Any] = {}

    class Recorded(lightning.pytorch.Trainer):
        def __init__(self, **arguments: Any) -> None:
            told.update({key: value for key, value in arguments.items() if isinstance(value, int | float | str | None)})
            told["callbacks"] = [type(callback).__name__ for callback in arguments["callbacks"]]
            super().__init__(**arguments)

    short = [*data_of_runs(), "runner.max_steps=3", "runner.global_batch_size=4", "dataset.text_encoder.dim=4"]
    short += ["runner.log_every=1", "runner.checkpoint.every_n_steps=1"]
    base = ["experiment=baseline/gnn", "model.tower.dim=8", "runner.val_samples=4", "runner.val_every=3", *short]
    language = ["task=node_classification", "model/tower=sgc", "model/lora=qv", "task.max_chars=9", *short]
    overrides = [*(language if data.pop("language", False) else base), *(f"{key}={value}" for key, value in data.items())]
    experiment = check_command_line(ExperimentConfig, "train", overrides)
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as name_of_folder:
        patch.setattr(lightning.pytorch, "Trainer", Recorded)
        folder = Path(name_of_folder)
        asked_of = build_task(experiment)
        build_runner(experiment).train(build_model(experiment, asked_of), asked_of, experiment, folder)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        logged = [{key: value for key, value in line.items() if not key.startswith(("time", "speed", "memory"))} for line in lines]
        samples = (folder / "samples.jsonl").read_text().count("\n") if (folder / "samples.jsonl").is_file() else 0
        files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and "events" not in path.name)
    told.pop("default_root_dir", None)
    return json.dumps(logged), sorted(map(str, told.items())), files, samples, threads


PROBES: dict[str, Probe] = {
    "tower": tower,
    "projector": projector,
    "fusion": fusion,
    "text": text,
    "text_encoder": text_encoder,
    "template": template,
    "task": task,
    "dataset": dataset,
    "model": model,
    "runner": runner,
}


# A field, what it is tried beside, and its other value; the first pattern that fits counts.
Row = tuple[str, dict[str, Any], Any]
PLANETOID = {"name": "planetoid", "per_class": 3, "num_val": 5, "num_test": 10}
VALUES: list[Row] = [
    ("tower/*.train", {}, False),
    ("tower/*.dim", {}, 32),
    ("tower/*.output_dim", {}, 24),
    ("tower/*.layers", {}, 3),
    ("tower/*.hops", {}, 1),
    ("tower/*.keep_all", {}, False),
    ("tower/*.dropout", {}, 0.9),
    ("tower/*.edge_direction", {}, "reversed"),
    ("tower/*.position.name", {}, "laplacian"),
    ("tower/*.select_layer", {}, 0),
    ("tower/*.activation", {}, "silu"),
    ("tower/*.residual", {}, False),
    ("tower/*.norm", {}, False),
    ("tower/*.heads", {}, 2),
    ("tower/*.version", {}, 2),
    ("tower/*.use_position", {}, True),
    ("tower/pixels.size", {}, 32),
    ("tower/pixels.patch", {}, 8),
    ("tower/efficientnet_lite0.size", {"size": 32}, 64),
    ("tower/efficientnet_lite0.layer", {"size": 32}, 3),
    ("tower/vision.layer", {}, 0),
    ("tower/vision.feature", {}, "cls"),
    ("projector/*.dropout", {}, 0.5),
    ("fusion/splice.frame", {}, False),
    ("projector/*.hidden_dim", {}, 5),
    ("text/*.dim", {}, 32),
    ("text/*.layers", {}, 2),
    ("text/*.heads", {}, 2),
    ("text/*.max_tokens", {}, 6),
    ("text_encoder/*.dim", {}, 3),
    ("text_encoder/*.max_vocabulary", {}, 6),
    ("text_encoder/*.seed", {}, 5),
    ("text_encoder/*.max_tokens", {}, 2),
    ("text_encoder/llm_states.batch_size", {}, 7),
    ("template/chat.system", {}, "Be short."),
    ("template/turns.system", TURNS, "Be short."),
    ("template/turns.system_form", TURNS | {"system": "Be short."}, "({content}) "),
    ("template/turns.opening", TURNS, "{bos}Talk: "),
    ("template/turns.user", TURNS, "U: {inputs} "),
    ("template/turns.assistant", TURNS, "B: {content}"),
    ("template/turns.end", TURNS, "\n"),
    ("template/turns.between", TURNS, "\n"),
    ("template/turns.around", TURNS, {"graph": "<G>{content}</G>"}),
    ("task/*.wording", {"wordings": {"a": "One {node}", "b": "Two {node}"}, "wording": "a"}, "b"),
    ("task/*.wordings", {"wordings": {"a": "One {node}"}, "wording": "a"}, {"a": "Two {node}"}),
    ("task/*.text_dropout", {}, 1.0),
    ("task/link_prediction.split.train", {}, 0.4),
    ("task/link_prediction.split.val", {}, 0.2),
    ("task/link_prediction.split.test", {}, 0.2),
    ("task/link_prediction.split.negatives", {}, "hard"),
    ("task/link_prediction.split.seed", {}, 4),
    ("task/chain_of_thought.top_k", {}, 1),
    ("task/chain_of_thought.teacher.max_chars", {"teacher": {"wording": "Which? {title}"}}, 3),
    ("task/image_classification.max_chars", {"wording": "with_title"}, 5),
    ("task/*.max_chars", {}, 5),
    ("task/grounding.neighbors", {}, 5),
    ("dataset/*.split.name", {"split": PLANETOID}, "random"),
    ("dataset/*.split.seed", {}, 4),
    ("dataset/*.split.train", {}, 0.3),
    ("dataset/*.split.val", {}, 0.1),
    ("dataset/*.split.per_class", {"split": PLANETOID}, 4),
    ("dataset/*.split.num_val", {"split": PLANETOID}, 6),
    ("dataset/*.split.num_test", {"split": PLANETOID}, 11),
    ("dataset/*.sampler.hops", {}, 1),
    ("dataset/*.sampler.fanout", {}, 4),
    ("dataset/*.sampler.max_tokens", {}, 1),
    ("dataset/*.sampler.layout", {}, "hop_field"),
    ("dataset/*.domain", {}, "recipe"),
    ("dataset/*.node", {}, "dish"),
    ("dataset/*.relation", {}, "tastes like"),
    ("dataset/*.category", {}, "course"),
    ("model/multimodal_llm.llm.dtype", {}, "bfloat16"),
    ("model/multimodal_llm.llm.attn_implementation", {}, "eager"),
    ("model/multimodal_llm.lora.rank", {}, 3),
    ("model/multimodal_llm.lora.alpha", {}, 3),
    ("model/multimodal_llm.lora.dropout", {}, 0.5),
    ("model/multimodal_llm.lora.targets", {}, "qv"),
    ("model/multimodal_llm.lora.rslora", {}, True),
    ("model/multimodal_llm.lora.dora", {}, True),
    ("model/multimodal_llm.max_length", {}, 20),
    ("model/multimodal_llm.too_long", {"max_length": 150}, "cut"),
    ("model/multimodal_llm.gradient_checkpointing", {}, True),
    ("model/multimodal_llm.compat.last_input_only", {}, True),
    ("model/multimodal_llm.compat.tower_dropout", {}, True),
    ("runner/lightning.max_steps", {}, 2),
    ("runner/lightning.global_batch_size", {}, 2),
    ("runner/lightning.lr.projector", {"language": True}, 0.1),
    ("runner/lightning.lr.tokens", {"language": True}, 0.1),
    ("runner/lightning.lr.lora", {"language": True}, 0.1),
    ("runner/lightning.lr.tower", {}, 0.1),
    ("runner/lightning.lr.other", {}, 0.1),
    ("runner/lightning.optimizer", {}, "{weight_decay: 0.5}"),
    ("runner/lightning.schedule", {}, "constant"),
    ("runner/lightning.warmup", {}, 0.7),
    ("runner/lightning.clip", {}, 0.001),
    ("runner/lightning.precision", {}, "bf16-mixed"),
    ("runner/lightning.threads", {}, 2),
    ("runner/lightning.log_every", {}, 2),
    ("runner/lightning.val_every", {}, 1),
    ("runner/lightning.val_samples", {"runner.val_every": 1}, 1),
    ("runner/lightning.val_at_start", {"runner.val_every": 1}, "true"),
    ("runner/lightning.val_answers", {"language": True, "runner.val_every": 3}, 1),
    ("runner/lightning.train_samples", {}, 1),
    ("runner/lightning.detect_anomaly", {}, "true"),
    ("runner/lightning.checkpoint.every_n_steps", {}, 0),
    ("runner/lightning.checkpoint.keep", {}, 2),
    ("runner/lightning.checkpoint.monitor", {"runner.val_every": 1}, "val/loss"),
]


def row_of(key: str) -> Row | None:
    return next((row for row in VALUES if fnmatch.fnmatch(key, row[0])), None)


def shown_by(key: str) -> str | None:
    exact = SHOWN_BY.get(key)
    return exact or next((test for pattern, test in SHOWN_BY.items() if fnmatch.fnmatch(key, pattern)), None)


def with_value(base: dict[str, Any], path: list[str], value: Any) -> dict[str, Any]:
    head, *rest = path
    return {**base, head: with_value(base.get(head, {}), rest, value) if rest else value}


#: Each field once: what several classes inherit is the same in all of them, but towers, of which each has its own use for it.
def tried() -> list[str]:
    found: dict[Any, str] = {}
    for key, (cls, name) in all_fields().items():
        path = key.partition(".")[2]
        found.setdefault(key if key.startswith(("tower/", "task/", "projector/")) else (cls, name, path), key)
    return [key for key in found.values() if row_of(key)]


@pytest.mark.parametrize("key", tried())
def test_two_values_make_two_things(key: str, tmp_path: Path) -> None:
    owner, _, path = key.partition(".")
    kind, _, name = owner.partition("/")
    row = row_of(key)
    assert row is not None
    _, base, other = row
    if kind == "tower":
        config = tower_config(name, with_value(base, path.split("."), other))
        experiment = SimpleNamespace(model=SimpleNamespace(tower=config, name="multimodal_llm", compat=None))
        idle = {why.partition(".")[2]: text for why, text in TOWERS.get(name).idle(config, experiment).items()}
        if f"tower.{path}" in idle:  # refused: the other test shows how
            return
    if kind == "runner":
        assert runner(name, dict(base)) != runner(name, base | {f"runner.{path}": other})
        return
    assert PROBES[kind](name, base) != PROBES[kind](name, with_value(base, path.split("."), other))


def test_a_new_field_needs_a_row() -> None:
    missing: list[str] = [key for key in all_fields() if row_of(key) is None and shown_by(key) is None]
    assert not missing, f"give each a row in VALUES, or name the test that shows it in SHOWN_BY: {', '.join(missing)}"
    unused = [row[0] for row in VALUES if not any(row_of(key) is row for key in all_fields())]
    unused += [pattern for pattern in SHOWN_BY if not any(fnmatch.fnmatch(key, pattern) for key in all_fields())]
    assert not unused, f"there is no such field: {', '.join(unused)}"


@pytest.mark.parametrize("test", sorted(set(SHOWN_BY.values())))
def test_a_named_test_is_there_and_about_the_field(test: str) -> None:
    file, _, name = test.partition("::")
    source = (TESTS / file).read_text(encoding="utf-8")
    names = {node.name for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)}
    assert name == "*" or name in names
    keys = [key for key in all_fields() if row_of(key) is None and shown_by(key) == test and test != COMPOSES]
    assert [key for key in keys if key.rpartition(".")[2] not in source] == []


def test_the_table() -> None:
    """A line per field: its key, beside what it acts, and what shows it."""
    lines = []
    for key, (cls, name) in all_fields().items():
        marks = [str(mark) for mark in cls.__pydantic_fields__[name].metadata if isinstance(mark, ActsWith)]  # type: ignore[attr-defined]
        row = row_of(key)
        lines.append(f"{key:55} {' '.join(marks):40} {f'{row[1]} against {row[2]!r}' if row else shown_by(key)}")
    assert len(lines) > 350
    print("\n".join(lines))


# What is refused where it cannot act.


def conditional() -> dict[str, ActsWith]:
    """The fields that act only beside others, by key."""
    found: dict[str, ActsWith] = {}
    for key, (cls, name) in all_fields().items():
        found.update((key, mark) for mark in cls.__pydantic_fields__[name].metadata if isinstance(mark, ActsWith))  # type: ignore[attr-defined]
    return found


def test_each_condition_names_fields_beside_it_and_can_fail() -> None:
    """By default, or at the first value of a neighbour that it does not allow, a field that is given is refused in a sentence."""
    for key, mark in conditional().items():
        cls, _ = all_fields()[key]
        assert mark.conditions.keys() <= cls.__pydantic_fields__.keys(), key  # type: ignore[attr-defined]
        assert not any(condition.words == "" for condition in mark.conditions.values())
        [(neighbour, condition)] = mark.conditions.items()
        options = typing.get_args(cls.__pydantic_fields__[neighbour].annotation)  # type: ignore[attr-defined]
        values = [value for value in (None, 0, "random:tiny", *options) if not _holds(condition, value)]
        assert values, key
        beside = SimpleNamespace(**{neighbour: values[-1]})
        assert str(mark.unmet(beside, "node.")).startswith(f"acts only with node.{neighbour}{condition.words}, and that is ")


def _holds(condition: Any, value: Any) -> bool:
    try:
        return bool(condition.holds(value))
    except (TypeError, AttributeError):
        return True


#: By what is given, the last or first of which is refused: why.
REFUSED = {
    "dataset.split.per_class=5 dataset.split.name=random": "dataset.split.per_class=5: acts only with dataset.split.name=planetoid, and that is random.",
    "dataset.split.seed=5 task=link_prediction": "dataset.split.seed=5: changes nothing, for task.name=link_prediction splits edges; task.split says how.",
    "dataset.relation=cites": "dataset.relation=cites: acts only in a wording with {relation}, and task.wording=constant_first has none.",
    "runner.optimizer.lr=0.1": "runner.optimizer.lr=0.1: changes nothing, for runner.lr has the rate of each part.",
    "runner.strategy.offload=true": "runner.strategy.offload=true: acts only with runner.strategy.name=deepspeed, and that is single.",
    "runner.lr.lora=0.1": "runner.lr.lora=0.1: acts only with model.lora.rank above 0, and that is 0.",
    "runner.lr.tower=0.1": "runner.lr.tower=0.1: acts only with model.tower.train=true, and that is false.",
    "runner.lr.other=0.1": "runner.lr.other=0.1: changes nothing, for model.name=multimodal_llm has nothing that learns with it.",
    "runner.val_samples=5": "runner.val_samples=5: acts only with runner.val_every above 0, and that is 0.",
    "runner.checkpoint.mode=max": "runner.checkpoint.mode=max: acts only with runner.checkpoint.monitor given, and that is null.",
    "runner.checkpoint.keep=3 runner.checkpoint.every_n_steps=0": "runner.checkpoint.keep=3: acts only with runner.checkpoint.every_n_steps above 0, and that is 0.",
    "model.tower.train=true": "model.tower.train=true: changes nothing, for model.tower.name=sgc has nothing to train.",
    "model/tower=gcn model.tower.dropout=0.5": "model.tower.dropout=0.5: acts only with model.tower.train=true, and that is false: a frozen tower has none.",
    "model/tower=gcn model.tower.layers=0 model.tower.norm=false": "model.tower.norm=false: changes nothing, for no layer is run by model.tower.select_layer=-1 of model.tower.layers=0.",
    "model/tower=gcn model.tower.select_layer=1 model.tower.output_dim=7": "model.tower.output_dim=7: changes nothing, for model.tower.select_layer=1 of model.tower.layers=2 is an inner one and as wide as model.tower.dim=128.",
    "model/tower=mlp model.tower.edge_direction=reversed": "model.tower.edge_direction=reversed: changes nothing, for model.tower.name=mlp reads no edges.",
    "model/tower=gcn model.tower.position.dim=3": "model.tower.position.dim=3: acts only with model.tower.position.name=laplacian or random_walk, and that is none.",
    "model.compat.tower_dropout=true": "model.compat.tower_dropout=true: changes nothing, for model.tower.name=sgc has no dropout.",
    "model.lora.alpha=3": "model.lora.alpha=3: acts only with model.lora.rank above 0, and that is 0.",
    "model.llm.revision=main": "model.llm.revision=main: acts only with model.llm.path on a hub, and that is random:tiny.",
    "experiment=baseline/gnn model.llm.dtype=float16": "model.llm.dtype=float16: changes nothing, for neither model.name=gnn nor a text encoder reads a language model.",
    "experiment=baseline/gnn runner.val_answers=1": "runner.val_answers=1: changes nothing, for model.name=gnn writes no answers.",
    "task=mixture task.seed=5": "task.seed=5: changes nothing, for no part has a cap, whose items it would draw.",
    "experiment=stage0 task.max_chars=5": "task.max_chars=5: acts only with task.text_encoder=null: an encoder reads texts whole.",
}


@pytest.mark.parametrize("given", REFUSED)
def test_what_cannot_act_is_refused(given: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_command_line(ExperimentConfig, "train", [*data_of_runs(), *given.split()])
    assert caught.value.problems == [REFUSED[given]]


def test_what_a_recipe_or_a_checkpoint_holds_is_left_alone() -> None:
    """Rates and validation sizes for parts that a run has not: of a file, and of a config that is read as data."""
    config = check_command_line(ExperimentConfig, "train", [*data_of_runs(), "experiment=stage1", "runner.val_every=0", "model/lora=none"])
    assert config.runner.val_samples == 8
    odd = dataclasses.asdict(config)
    odd["dataset"]["split"] |= {"per_class": 5, "path": "split.csv"}
    assert read_config(ExperimentConfig, odd).dataset.split.per_class == 5


def test_what_a_language_model_is_told() -> None:
    """``config_overrides`` reach its config, one that it has not is refused; ``revision`` reaches the hub alone, for a folder has none."""
    told = LLMConfig(path="random:tiny", config_overrides={"rope_theta_scale": 1})
    with pytest.raises(GraphGPTError, match=r"^model.llm.config_overrides.rope_theta_scale: a model of type 'llama' has no such setting"):
        load_config(told)
    assert load_config(LLMConfig(path="random:tiny", config_overrides={"rms_norm_eps": 0.5})).rms_norm_eps == 0.5
    asked_for: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("transformers.AutoConfig.from_pretrained", lambda path, **given: asked_for.append(given) or load_config(TINY))
        load_config(LLMConfig(path="owner/model", revision="main"))
    assert asked_for[0]["revision"] == "main"


TINY = LLMConfig(path="random:tiny")


@pytest.mark.parametrize("name", TOWERS.names())
def test_towers_say_whether_they_have_weights(name: str) -> None:
    assert TOWERS.get(name).has_weights == (next(build_tower(tower_config(name, {}), graph_facts(8)).parameters(), None) is not None)


def test_how_much_an_evaluation_does_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    built, kind = make_model(), make_task("node_classification", graph())
    config = EvaluationConfig(name="e", checkpoint="c", generate=True, max_new_tokens=1, writing_batch_size=2, batch_size=1)
    at_once: list[int] = []
    monkeypatch.setattr(
        "graphgpt.models.answering.generate", lambda model, prompts, *_: at_once.append(len(prompts)) or [""] * len(prompts)
    )
    instructions = [kind.instruction(item, seed=0, training=False) for item in range(5)]
    assert len(list(built.predictions(kind.candidates, instructions, config.answering))) == 5
    assert at_once == [2, 2, 1]

    class Enough(Exception):
        pass

    def stop(*_: Any) -> None:
        raise Enough

    monkeypatch.setattr("graphgpt.evaluation.evaluation.unseen", lambda task, config: (task, None))
    monkeypatch.setattr("graphgpt.evaluation.evaluation.check_leakage", stop)
    before = torch.get_num_threads()
    for threads in (2, 1):
        with pytest.raises(Enough):
            evaluate(built, kind, dataclasses.replace(config, threads=threads, accelerator="cpu"), tmp_path)
        assert torch.get_num_threads() == threads
    torch.set_num_threads(before)


def test_a_split_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "split.csv"
    path.write_text("id,split\nn3,test\nn5,train\n")
    found = split_nodes(graph(), SplitConfig(name="file", path=str(path))).tolist()
    assert [(SPLITS[place], node) for node, place in enumerate(found) if place >= 0] == [("test", 3), ("train", 5)]


def test_how_long_processes_wait_for_each_other() -> None:
    settings = ["runner/strategy=ddp", "runner.devices=2", "runner.accelerator=cpu", "runner.strategy.timeout=7"]
    config = check_command_line(ExperimentConfig, "train", [*data_of_runs(), *settings]).runner
    assert build_strategy(config)._timeout.total_seconds() == 7


def test_which_way_a_sweep_looks() -> None:
    declared = Declared.of(
        [Metric(name="val/accuracy", title="Accuracy"), Metric(name="val/distance", title="Distance", less_is_better=True)]
    )

    def way(**given: Any) -> str:
        return direction(SweepConfig(overrides=[], **given), declared)

    assert [way(metric=f"val/{name}") for name in ("loss", "accuracy", "distance")] == ["minimize", "maximize", "minimize"]
    assert [way(direction="maximize"), way(metric="val/accuracy", direction="minimize")] == ["maximize", "minimize"]
