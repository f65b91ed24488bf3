"""What to try next with a checkpoint: commands that run as they are printed, on its own data and with its own model."""

import dataclasses
import functools
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from graphgpt.errors import amount
from graphgpt.files.configs import CONFIG_DIR
from graphgpt.machine.installation import typed
from graphgpt.models.parts import HANDED_OVER
from graphgpt.registry import DATASETS, FUSIONS, MODELS, PROJECTORS, TASKS, TEMPLATES, TEXT_ENCODERS, TOWERS
from graphgpt.schema import MISSING, flat, shown

#: The groups of a training that a later stage shares with an earlier one, each with where its names are registered.
_SHARED = {
    "dataset": DATASETS,
    "dataset/text_encoder": TEXT_ENCODERS,
    "model/llm": None,
    "model/tower": TOWERS,
    "model/projector": PROJECTORS,
    "model/fusion": FUSIONS,
    "model/template": TEMPLATES,
}
#: Of these a run decides anew; how a stage begins is no part of what it is.
_OWN = tuple(f"model.{part}.{name}" for part, own in HANDED_OVER.items() for name in own)

Step = tuple[str, str]
"""What it does, and the command line."""


def after_training(experiment: Mapping[str, Any], folder: Path) -> list[Step]:
    """What to do with a run that is through.

    Args:
        experiment: Its settings as plain data.
        folder: Run or checkpoint folder.
    """
    task, model = TASKS.get(experiment["task"]["name"]), MODELS.get(experiment["model"]["name"])
    if not task.asks:
        tower = experiment["model"]["tower"]
        others = as_overrides(experiment, ("dataset", "dataset/text_encoder", "model/llm", "model/tower"), but=("dataset.sampler",))
        if not any(one.startswith("model/tower=") for one in others):
            others.append(f"model/tower={tower['name']}")
        what = "Let a language model read with this tower"
        return [(what, typed("train", "experiment=stage1", f"model.tower.init_from={folder}", *others)), *_beside(folder)]
    steps = [("See how good it is", typed("evaluate", f"checkpoint={folder}"))]
    if model.reads_words:
        steps += [*_next_stage(experiment, folder), *_talk(experiment, folder)]
    return [*steps, *_beside(folder)]


def after_evaluation(experiment: Mapping[str, Any], config: Any, *, items: int, wordings: bool) -> list[Step]:
    """What to do with a checkpoint whose scores are known.

    Args:
        experiment: The checkpoint's settings as plain data.
        config: The ``EvaluationConfig``.
        items: How many it could have asked about.
        wordings: Whether its task has other wordings.
    """
    model, folder = MODELS.get(experiment["model"]["name"]), config.checkpoint
    asked = {key: dataclasses.asdict(node) for key in ("dataset", "task") if (node := getattr(config, key)) is not None}
    same = [f"checkpoint={folder}", *([f"split={config.split}"] if config.split != "test" else []), *_as_asked(experiment, asked)]
    steps = []
    if config.limit is not None and config.limit < items:
        steps.append((f"Score all {amount(items, 'item')}", typed("evaluate", *same, "limit=null")))
    if config.seeds == 1:
        steps.append(("See how much is chance: three seeds", typed("evaluate", *same, "seeds=3")))
    if model.reads_words and all(name.startswith("no_") for name in config.ablation):
        steps.append(("See what the answers come from", typed("evaluate", *same, "ablation=all")))
    if model.reads_words and config.wordings is None and wordings:
        steps.append(("See how much hangs on the wording", typed("evaluate", *same, "wordings=all")))
    if model.reads_words:
        steps += [*_next_stage(experiment, Path(folder)), *_talk(experiment, Path(folder))]
    return [*steps, ("See every choice there is", "graphgpt ls")]


def _next_stage(experiment: Mapping[str, Any], folder: Path) -> list[Step]:
    """After learning to read the graph without answers, learn a task."""
    if TASKS.get(experiment["task"]["name"]).needs_labels or "text_encoder" not in experiment["dataset"]:
        return []
    others = as_overrides(experiment, _SHARED)
    return [
        ("Teach it a task", typed("train", f"experiment=stage2/{task}", f"start_from={folder}", *others))
        for task in ("node_classification", "link_prediction")
        if task != experiment["task"]["name"]
    ][:1]


def _talk(experiment: Mapping[str, Any], folder: Path) -> list[Step]:
    about = {"graph": "a node", "images": "a picture"}.get(DATASETS.get(experiment["dataset"]["name"]).kind)
    return [(f"Ask it about {about}", f"graphgpt chat {shlex.quote(str(folder))}")] if about else []


def _beside(folder: Path) -> list[Step]:
    runs = folder.parent.parent if folder.name in ("checkpoint", "best") else folder.parent
    return [("Compare it with other runs", f"graphgpt runs {shlex.quote(str(runs))}")]


def as_overrides(experiment: Mapping[str, Any], groups: Iterable[str], but: tuple[str, ...] = ()) -> list[str]:
    """Parts of an experiment as a command line spells them: the nearest choice of each group, and what differs from it.

    Args:
        experiment: Its settings as plain data.
        groups: Keys of ``_SHARED``.
        but: Keys that are left out, with all below them.
    """
    found = []
    for group in groups:
        node: Any = experiment
        for word in group.split("/"):
            node = node.get(word) if isinstance(node, Mapping) else None
        if not isinstance(node, Mapping):
            continue
        inner = {other.removeprefix(f"{group}/") for other in _SHARED if other.startswith(f"{group}/")}
        given = {key: value for key, value in flat(dict(node)).items() if key.partition(".")[0] not in inner}
        choice, shipped = _nearest(group, given)
        if choice and choice != _default(group, experiment):
            found.append(f"{group}={choice}")
        defaults = _class_defaults(group, given.get("name"))
        for key, value in given.items():
            at = f"{group.replace('/', '.')}.{key}"
            usual = shipped.get(key, defaults.get(key, MISSING))
            if value != usual and not any(f"{at}.".startswith(f"{one}.") for one in (*_OWN, *but)):
                found.append(f"{at}={spelled(value)}")
    return found


def spelled(value: Any) -> str:
    """A value as a command line has it."""
    if isinstance(value, list | tuple):
        return f"[{','.join(map(spelled, value))}]"
    return shown(value)


def _as_asked(own: Mapping[str, Any], asked: Any) -> list[str]:
    """Another graph or another question of an evaluation than the checkpoint's own; both as plain data, by ``dataset`` and ``task``."""
    found = []
    for key, node in asked.items():
        if own[key]["name"] == node["name"]:
            before = flat(own[key])
            found += [f"{key}.{name}={spelled(value)}" for name, value in flat(node).items() if before.get(name, MISSING) != value]
        elif key == "task":
            found.append(f"task={node['name']}")
        else:
            others = as_overrides(asked, ("dataset", "dataset/text_encoder"))
            found += others if others[0].startswith("dataset=") else [f"dataset={node['name']}", *others]
    return found


def _nearest(group: str, given: Mapping[str, Any]) -> tuple[str | None, dict[str, Any]]:
    """The option of a group whose file says most of what is given, and what it says; none where no file is of this name or path."""
    best, most = None, -1
    for name, values in _shipped(group).items():
        if any(key in values and values[key] != given.get(key) for key in ("name", "path") if values.get(key) != MISSING):
            continue
        alike = sum(1 if given.get(key) == value else -1 for key, value in values.items())
        if alike > most or (alike == most and name == given.get("name")):
            best, most = name, alike
    return best, _shipped(group)[best] if best else {}


@functools.cache
def _shipped(group: str) -> dict[str, dict[str, Any]]:
    """The values that each option's own file gives."""
    files = {path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) or {} for path in sorted((CONFIG_DIR / group).glob("*.yaml"))}
    return {name: flat({key: value for key, value in data.items() if key != "defaults"}) for name, data in files.items()}


def _default(group: str, experiment: Mapping[str, Any]) -> str | None:
    """The option that a training takes if no other is chosen."""
    outer, _, inner = group.rpartition("/")
    file = {"": "train", "model": "model/graphgpt"}.get(outer) or f"dataset/{_nearest('dataset', flat(dict(experiment['dataset'])))[0]}"
    chosen = yaml.safe_load((CONFIG_DIR / f"{file}.yaml").read_text(encoding="utf-8"))["defaults"]
    return next((entry[inner] for entry in chosen if isinstance(entry, dict) and inner in entry), None)


def _class_defaults(group: str, name: Any) -> dict[str, Any]:
    """What a registered class takes where no file says anything."""
    from graphgpt.models.llm import LLMConfig  # and torch with it, which nobody waits for who asks what runs there are

    registry = _SHARED[group]
    cls: Any = LLMConfig if registry is None else registry.get(name).Config
    fields = {key: field.get_default(call_default_factory=True) for key, field in cls.__pydantic_fields__.items()}
    plain = {key: dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value for key, value in fields.items()}  # type: ignore[arg-type]
    return flat(plain)
