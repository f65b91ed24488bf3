"""What follows from predictions: rows of figures, and where the answers are right."""

import dataclasses
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from graphgpt.evaluation.passes import VARIANTS, Pass, label, questions
from graphgpt.metrics import INVALID, Declared, Metric
from graphgpt.prompts.instruction import Instruction
from graphgpt.prompts.prediction import Prediction
from graphgpt.report.breakdowns import (
    Answers,
    by_degree,
    by_homophily,
    calibration,
    confusion_matrix,
    figures,
    local_homophily,
    nodes_of,
    occurrences,
    parse_answer,
)
from graphgpt.report.page import Row
from graphgpt.report.samples import graph_of
from graphgpt.schema import NETWORKS, Baseline
from graphgpt.tasks.baselines import NAMES
from graphgpt.tasks.task import Task

log = logging.getLogger(__name__)


#: With ``generate=true``, where answers are chosen too.
WRITTEN = Metric(name="generated_accuracy", title="Written", legend="Written: accuracy of the answer that the model writes by itself")


Predictions = dict[Pass, dict[int, Prediction]]
"""Prediction by item, by pass; items ascend."""


def declared_metrics(task: Task, config: Any) -> Declared:
    """What an evaluation measures of a task, the main metric first."""
    written = (WRITTEN, INVALID) if config.generate and task.candidates is not None else ()
    return Declared.of([*task.measures(task.config), *written])


def _answers(task: Task, config: Any, run: Mapping[int, Prediction]) -> Answers:
    predictions = list(run.values())
    candidates = task.candidates
    if candidates is None:
        found = [task.answer_metrics(prediction) for prediction in predictions]
        return Answers(each={name: np.array([metrics[name] for metrics in found], dtype=float) for name in found[0]})
    each = {}
    if config.generate:
        said = [parse_answer(prediction.text or "", candidates) for prediction in predictions]
        each[WRITTEN.name] = np.array([s == p.truth for s, p in zip(said, predictions, strict=True)], dtype=float)
        each[INVALID.name] = np.array([s is None for s in said], dtype=float)
    return Answers(truth=_truth(run), scores=np.array([p.scores for p in predictions]), each=each)


def _truth(run: Mapping[int, Prediction]) -> np.ndarray:
    return np.array([prediction.truth for prediction in run.values()])


def model_rows(task: Task, config: Any, model: Any, predictions: Predictions) -> Iterator[Row]:
    for variant, (_, note) in VARIANTS.items():
        runs = [run for step, run in predictions.items() if step.variant == variant and step.wording is None]
        if runs:
            yield _row(label(variant, model), [_answers(task, config, run) for run in runs], task, config, note, is_model=variant != "llm")


def baseline_rows(task: Task, config: Any, predictions: Predictions, pooled: Callable[[Tensor], np.ndarray] | None = None) -> Iterator[Row]:
    names = baseline_names(task, config.baselines, config.max_edges)
    if not task.candidates or not names or config.shard:
        return
    runs: dict[str, list[Answers]] = {}
    for step, run in predictions.items():
        if step.variant == "none" and step.wording is None:
            asked = questions(task, config, step, [*run])
            for name, scores in task.baselines(torch.tensor([*run]), step.seed, names, pooled=pooled, asked=asked):
                runs.setdefault(name, []).append(Answers(truth=_truth(run), scores=scores))
    for name, answers in runs.items():
        yield _row(name, answers, task, config)


def baseline_names(task: Task, wanted: Sequence[Baseline], max_edges: int) -> list[Baseline]:
    """Those of the wanted baselines that the task has, without the networks where the graph has more than ``max_edges`` edges."""
    names: list[Baseline] = [name for name in wanted if name in task.known_baselines]
    graph = graph_of(task)
    left_out = [NAMES[name] for name in NETWORKS if name in names and graph is not None and graph.num_edges > max_edges]
    if left_out:
        log.info("%s: left out, for the graph has more than max_edges=%s edges.", " and ".join(left_out), f"{max_edges:,}")
        names = [name for name in names if name not in NETWORKS]
    return names


def _row(name: str, runs: Sequence[Answers], task: Task, config: Any, note: str = "", is_model: bool = False) -> Row:
    found = figures(runs, task.rank_metrics, declared_metrics(task, config), resamples=config.bootstrap, seed=config.seed)
    return Row(name=name, metrics=found.metrics, intervals=found.intervals, deviations=found.deviations, note=note, is_model=is_model)


def by_wording(task: Task, config: Any, predictions: Predictions) -> dict[str, Any] | None:
    """Metrics by wording, their mean, and the difference between the highest and the lowest."""
    if config.wordings != "all" or not hasattr(task.config, "wordings"):
        return None
    chosen = next(name for name, text in task.config.wordings.items() if text == task.config.chosen)
    runs: dict[str, list[Answers]] = {}
    for step, run in predictions.items():
        if step.variant == "none":
            runs.setdefault(step.wording or chosen, []).append(_answers(task, config, run))
    declared = declared_metrics(task, config)
    found = {name: figures(answers, task.rank_metrics, declared, resamples=0, seed=0).metrics for name, answers in runs.items()}
    names = [name for name in next(iter(found.values())) if all(name in metrics for metrics in found.values())]
    values = {name: [metrics[name] for metrics in found.values()] for name in names}
    return {
        "metrics": found,
        "mean": {name: float(np.mean(column)) for name, column in values.items()},
        "spread": {name: max(column) - min(column) for name, column in values.items()},
    }


def analysed(task: Task, instructions: Sequence[Instruction], predictions: Sequence[Prediction], main: str) -> dict[str, Any]:
    """Where the plain pass is right, and how sure it is."""
    names, graph = task.candidates, graph_of(task)
    found: dict[str, Any] = dict.fromkeys(("calibration", "confusion", "by_homophily", "by_degree", "answer_in_own_text"))
    if names:
        truth, scores = np.array([p.truth for p in predictions]), np.array([p.scores for p in predictions])
        right = (scores.argmax(axis=1) == truth).astype(float)
        found["calibration"] = calibration(truth, scores)
        found["confusion"] = {"classes": names, "counts": confusion_matrix(truth, scores.argmax(axis=1), len(names)).tolist()}
    else:
        right = np.array([task.answer_metrics(p).get(main, np.nan) for p in predictions])
    nodes = [nodes_of(instruction) for instruction in instructions]
    if graph is None or not all(nodes):
        return found
    degrees = graph.rowptr.diff()
    found["by_degree"] = by_degree(np.array([min(int(degrees[node]) for node in group) for group in nodes]), right)
    if names == list(graph.class_names) and all(len(group) == 1 for group in nodes):
        centres = [group[0] for group in nodes]
        found["by_homophily"] = by_homophily(local_homophily(graph, centres), right)
        texts = [f"{graph.title(node)}\n{graph.body(node)}" for node in centres]
        literal = [occurrences(p.expected, text) > 0 for p, text in zip(predictions, texts, strict=True)]
        found["answer_in_own_text"] = float(np.mean(literal))
    return found


def prediction_line(task: Task, config: Any, step: Pass, item: int, prediction: Prediction) -> dict[str, Any]:
    """A line of predictions.jsonl."""
    record = {**dataclasses.asdict(step), "item": item, **dataclasses.asdict(prediction)}
    if prediction.scores is not None and task.candidates is not None:
        names = prediction.choices or task.candidates
        record["answer"] = names[prediction.answer or 0]
        record["scores"] = dict(zip(names, prediction.scores, strict=True))
        if config.generate:
            said = parse_answer(prediction.text or "", task.candidates)
            record["written"] = "invalid" if said is None else task.candidates[said]
    return record
