"""``graphgpt gather``: the shards of one evaluation joined into one run folder, with its metrics and its report."""

import dataclasses
import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from graphgpt.assembly import build_task
from graphgpt.checkpoints.folder import read_settings
from graphgpt.config.experiment import EvaluationConfig, evaluated_experiment, read_config
from graphgpt.errors import GraphGPTError
from graphgpt.evaluation.account import show, write_evaluation
from graphgpt.evaluation.evaluation import check_leakage, of_part
from graphgpt.evaluation.passes import Pass, draw, passes
from graphgpt.evaluation.scores import Predictions
from graphgpt.evaluation.unseen import unseen
from graphgpt.files.atomic import atomic_folder
from graphgpt.files.records import parse_record
from graphgpt.prompts.prediction import Prediction
from graphgpt.registry import check_plugins
from graphgpt.runs.runs import PredictionLine, read_result
from graphgpt.tasks.task import Task


def gather(folders: Sequence[Path], out: Path | None = None) -> Path:
    """Join the shards of an evaluation; the model is not needed, its predictions are.

    Args:
        folders: Run folders, one per shard, in any order.
        out: Folder to make; None makes a dated one beside the first.

    Returns:
        The folder that was made, with the same files as that of an evaluation in one go.

    Raises:
        GraphGPTError: the shards do not belong together, or a record is missing, stands twice, or belongs to no item.
    """
    configs = {folder: _read_config(folder) for folder in folders}
    whole = _check_shards(configs)
    out = out or folders[0].parent / f"gathered_{datetime.datetime.now():%Y-%m-%d_%H-%M-%S}"
    if out.exists():
        raise GraphGPTError(f"{out} exists already; choose another name with --out.")
    with atomic_folder(out) as tmp:
        parts = join(folders, whole, tmp)
    show_parts([out / part.relative_to(tmp) for part in parts])
    return out


def join(folders: Sequence[Path], whole: EvaluationConfig, out: Path) -> list[Path]:
    """Write the files of an evaluation from those of its shards.

    Args:
        folders: Run folders, one per shard, in any order.
        whole: The settings of the evaluation.
        out: Where the files go.

    Returns:
        The folders with an evaluation in them: ``out``, or one per part of a mixture.

    Raises:
        GraphGPTError: a record is missing, stands twice, or belongs to no item.
    """
    experiment = evaluated_experiment(whole)
    task = build_task(experiment)
    for name, part in task.parts.items():
        settings = of_part(whole, name) if name else whole
        part, trained = unseen(part, settings)
        predictions = _join(part, whole, experiment.model, [folder / name for folder in folders])
        write_evaluation(part, settings, experiment.model, predictions, check_leakage(part, whole, experiment.model), trained, out / name)
    return [out / name for name in task.parts]


def show_parts(folders: Sequence[Path]) -> None:
    """Print what the evaluations in some folders found."""
    for folder in folders:
        show(read_result(folder), folder)


def _read_config(folder: Path) -> EvaluationConfig:
    # The parts of a mixture have a folder each, all with the same settings.
    found = sorted(folder.glob("config.yaml")) or sorted(folder.glob("*/config.yaml"))
    if not found:
        raise GraphGPTError(f"{folder} is no run folder of an evaluation: it has no config.yaml.")
    data = read_settings(found[0])
    check_plugins(data, folder)
    if "shard" not in data:
        raise GraphGPTError(f"{folder} is no run folder of an evaluation: its config.yaml has no 'shard'.")
    return read_config(EvaluationConfig, data)


def _check_shards(configs: Mapping[Path, EvaluationConfig]) -> EvaluationConfig:
    """The settings of the whole evaluation, after checking that the shards are its parts, each once."""
    first, whole = next((folder, dataclasses.replace(config, shard=None)) for folder, config in configs.items())
    count = configs[first].part[1]
    seen: dict[int, Path] = {}
    for folder, config in configs.items():
        if config.shard is None:
            raise GraphGPTError(f"{folder} holds a whole evaluation, not a shard: there is nothing to join.")
        other = dataclasses.replace(config, shard=None)
        for field in dataclasses.fields(config):
            ours, theirs = getattr(whole, field.name), getattr(other, field.name)
            if ours != theirs:
                raise GraphGPTError(f"{folder} does not belong to {first}: it has {field.name}={theirs!r}, not {ours!r}.")
        place, size = config.part
        if size != count:
            raise GraphGPTError(f"{folder} does not belong to {first}: it is shard {config.shard}, not one of {count}.")
        if place in seen:
            raise GraphGPTError(f"Shard {config.shard} is given twice: {seen[place]} and {folder}.")
        seen[place] = folder
    if missing := sorted(set(range(1, count + 1)) - seen.keys()):
        raise GraphGPTError(f"Shard {missing[0]}/{count} is missing ({len(missing)} of {count} are).")
    return whole


def _join(task: Task, whole: EvaluationConfig, model: Any, folders: Sequence[Path]) -> Predictions:
    """The predictions of all shards, after checking that every item of every pass is there once."""
    expected = {step: dict.fromkeys(draw(task, whole, step.seed).tolist()) for step in passes(task, whole, model)}
    found: dict[Pass, dict[int, tuple[Prediction, str]]] = {step: {} for step in expected}
    for folder in folders:
        file = folder / "predictions.jsonl"
        if not file.is_file():
            raise GraphGPTError(f"{folder} is incomplete: it has no predictions.jsonl.")
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
            place = f"{file}, line {number}"
            step, item, prediction = _read_record(task, line, place)
            called = step.name(model)
            if step not in found or item not in expected[step]:
                raise GraphGPTError(f"{place}: sample '{prediction.id}' ({called}, seed {step.seed}) is not part of this evaluation.")
            if item in found[step]:
                raise GraphGPTError(
                    f"{place}: sample '{prediction.id}' ({called}, seed {step.seed}) was there already, in {found[step][item][1]}."
                )
            found[step][item] = (prediction, place)
    for step, items in expected.items():
        if missing := [item for item in items if item not in found[step]]:
            instruction = task.instruction(missing[0], seed=0, training=False)
            called = f"{step.name(model)}, seed {step.seed}"
            raise GraphGPTError(f"Sample '{instruction.id}' ({called}) is missing; {len(missing)} of {len(items)} are in no shard.")
    return {step: {item: found[step][item][0] for item in items} for step, items in expected.items()}


def _read_record(task: Task, line: str, place: str) -> tuple[Pass, int, Prediction]:
    """A line of predictions.jsonl."""
    record = parse_record(line, PredictionLine, f"{place}: cannot be read as a prediction", GraphGPTError)
    scores, names = record["scores"], task.candidates or ()
    if scores is not None and (missing := [name for name in names if name not in scores]):
        raise GraphGPTError(f"{place}: cannot be read as a prediction: it has no score of '{missing[0]}'.")
    prediction = Prediction(
        id=record["id"],
        prompt_tokens=record["prompt_tokens"],
        truth=record["truth"],
        expected=record["expected"],
        text=record["text"],
        scores=None if scores is None else [scores[name] for name in names],
    )
    return Pass(variant=record["variant"], wording=record["wording"], seed=record["seed"]), record["item"], prediction
