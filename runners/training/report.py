"""What a training run leaves behind to be read: its stage in the checkpoint's history, and report.html."""

import dataclasses
import datetime
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from graphgpt.checkpoints.folder import environment
from graphgpt.checkpoints.next_steps import after_training
from graphgpt.errors import amount
from graphgpt.files.records import read_lines
from graphgpt.machine.installation import as_typed
from graphgpt.metrics import Declared
from graphgpt.models.model import Model
from graphgpt.prompts.prediction import Prediction
from graphgpt.report.page import Report, Sample, Stage, smoothed, write_report
from graphgpt.report.samples import graph_of, shown_sample
from graphgpt.runners.training.data import mix
from graphgpt.runners.training.measurements import task_of
from graphgpt.runs.runs import SampleLine, read_metrics
from graphgpt.tasks.task import Task

Lines = Sequence[Mapping[str, Any]]
"""Of metrics.jsonl."""


def stage_history(name: str, folder: Path, declared: Declared, *, parameters: int, samples: int, seconds: float) -> dict[str, Any]:
    """One stage of a checkpoint's history: its curves and a few facts for the report.

    Args:
        name: Of the task.
        folder: Run folder.
        declared: What its metrics are.
        parameters: How many were trained.
        samples: How many were seen.
        seconds: Of the training.
    """
    lines = read_metrics(folder)
    steps, loss = _curve(lines, "train/loss")
    names = sorted({key for line in lines for key in line if key.startswith("val/")})
    curves = {key: key.removeprefix("val/").replace("/", " of ") for key in names}
    return {
        "name": name,
        "steps": steps,
        "loss": loss,
        "val": {curve: _curve(lines, key) for key, curve in curves.items()},
        "declared": {curve: declared[key].record for key, curve in curves.items()},
        "seconds": seconds,
        "facts": {"Trainable parameters": f"{parameters:,}", "Samples seen": f"{samples:,}"} | _speed(lines),
    }


def read_stages(history: Sequence[Mapping[str, Any]]) -> list[Stage]:
    """The stages of a checkpoint's history."""
    facts = ("name", "steps", "loss", "seconds", "facts")
    return [
        Stage(
            **{name: stage[name] for name in facts},
            val={name: tuple(curve) for name, curve in stage["val"].items()},
            declared=Declared.read(stage.get("declared")),
        )
        for stage in history
    ]


def write_training_report(
    task: Task, model: Model, experiment: Any, history: Sequence[Mapping[str, Any]], declared: Declared, folder: Path
) -> None:
    """Write ``report.html``: curves, speed, the settings that matter, and what the model wrote at each validation.

    Args:
        task: Trained on.
        model: Trained.
        experiment: The ``ExperimentConfig``.
        history: Of the checkpoint; the last stage is this run.
        declared: What the run's metrics are.
        folder: Run folder.
    """
    lines = read_metrics(folder)
    *before, this = read_stages(history)
    this = replace(this, curves=_more_curves(lines, declared))
    settings = experiment.runner
    parts = list(task.parts.values())
    classes = {tuple(graph.class_names) for part in parts if (graph := graph_of(part)) is not None}
    versions = {name: version for name, version in environment().items() if name in ("graphgpt", "torch", "transformers", "python")}
    name = experiment.name.replace("_", " ")
    write_report(
        Report(
            title=f"Training {name} on {' and '.join(dict.fromkeys(part.data['name'] for part in parts))}",
            summary=_summary(this),
            created=datetime.datetime.now().astimezone().isoformat(sep=" ", timespec="seconds"),
            command=as_typed(sys.argv),
            facts={
                **model.facts(model.config),
                "Task": task.config.name,
                "Data": task.summary,
                "Batch": f"{amount(settings.global_batch_size, 'sample')} per step, {amount(settings.processes, 'process', 'processes')}",
                "Learning rates": _learning_rates(lines),
                "Precision": str(settings.precision),
                "Seed": str(experiment.seed),
                "Started from": experiment.start_from or _origins(model) or "new weights",
                "Checkpoint": str(folder / "checkpoint"),
                "Versions": ", ".join(f"{package} {version}" for package, version in versions.items()),
            },
            stages=[*before, this],
            rows=[],
            main_metric="",
            declared=declared,
            items=0,
            remarks=[],
            wordings={},
            class_names=list(classes.pop()) if len(classes) == 1 else [],
            confusion=[],
            calibration=None,
            by_homophily=[],
            by_degree=[],
            samples=_samples(task, experiment.seed + 1, folder),
            next_steps=after_training(dataclasses.asdict(experiment), folder),
        ),
        folder / "report.html",
    )


def _curve(lines: Lines, key: str) -> tuple[list[int], list[float]]:
    """A metric as (how many steps were done, value)."""
    found = [(line["step"] + 1, line[key]) for line in lines if key in line]
    return [step for step, _ in found], [value for _, value in found]


def _more_curves(lines: Lines, declared: Declared) -> dict[str, tuple[list[int], list[float]]]:
    parts = dict.fromkeys(key for line in lines for key in line if key.startswith("train/loss/"))
    keys = (*parts, "grad_norm", "speed/samples_per_s")
    return {declared[key].title: curve for key in keys if (curve := _curve(lines, key))[0]}


def _speed(lines: Lines) -> dict[str, str]:
    """Medians, for the first steps are slower than the rest."""

    def median(key: str) -> float:
        return float(statistics.median(line[key] for line in lines if key in line))

    if not any("speed/samples_per_s" in line for line in lines):
        return {}
    return {
        "Speed": f"{median('speed/samples_per_s'):.3g} samples/s, {median('speed/tokens_per_s'):,.0f} tokens/s",
        "Waiting for data": f"{median('speed/data_wait'):.0%} of the time",
        "Peak memory": f"{max(line['memory/peak_gb'] for line in lines if 'memory/peak_gb' in line):.2f} GB",
    }


def _origins(model: Any) -> str:
    """Where the towers' weights came from; empty where all were drawn."""
    return " and ".join(tower.init_from for tower in model.towers(model.config).values() if tower.init_from)


def _learning_rates(lines: Lines) -> str:
    """The highest of each group."""
    groups = dict.fromkeys(key for line in lines for key in line if key.startswith("lr/"))
    highest = {key: max(line[key] for line in lines if key in line) for key in groups}
    return ", ".join(f"{key.removeprefix('lr/').replace('_', ' ')} {value:.2g}" for key, value in highest.items())


def _summary(stage: Stage) -> str:
    if not stage.loss:
        return "Nothing was logged."
    steps = f"{stage.steps[-1]} step{'' if stage.steps[-1] == 1 else 's'}"
    loss, _ = smoothed(stage.loss)
    text = f"{steps}; the training loss went from {loss[0]:.3g} to {loss[-1]:.3g}"
    if "loss" in stage.val:
        values = stage.val["loss"][1]
        text += f", the validation loss from {values[0]:.3g} to {values[-1]:.3g}" if len(values) > 1 else f", validation {values[0]:.3g}"
    return f"{text}."


def _samples(task: Task, seed: int, folder: Path) -> list[Sample]:
    """What samples.jsonl holds: each question with the answers of all validations."""
    answers: dict[int, list[Mapping[str, Any]]] = {}
    for line in read_lines(folder / "samples.jsonl", SampleLine, "the answers at validations"):
        answers.setdefault(line["item"], []).append(line)
    samples = []
    for item, entries in answers.items():
        instruction = task.instruction(item, seed=mix(seed, 0, item), training=False)
        last = entries[-1]
        prediction = Prediction(
            id=instruction.id, prompt_tokens=0, truth=instruction.truth, scores=None, expected=last["expected"], text=last["answer"]
        )
        sample = shown_sample(task_of(task, instruction.id)[1], instruction, prediction)
        written = [(entry["step"], entry["answer"]) for entry in entries]
        samples.append(replace(sample, generated=None, right=last["right"], answers=written))
    return samples
