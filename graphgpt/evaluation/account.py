"""What an evaluation says of itself: its files, its page, what is printed."""

import dataclasses
import datetime
import json
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from rich.console import Console
from torch import Tensor

from graphgpt.checkpoints.card import add_scores
from graphgpt.checkpoints.folder import checkpoint_experiment, find_checkpoint, read_history, read_manifest
from graphgpt.checkpoints.next_steps import after_evaluation
from graphgpt.config.experiment import plain_settings
from graphgpt.errors import amount
from graphgpt.evaluation.comparison import compared_rows
from graphgpt.evaluation.passes import main_pass, questions
from graphgpt.evaluation.scores import Predictions, analysed, baseline_rows, by_wording, declared_metrics, model_rows, prediction_line
from graphgpt.evaluation.unseen import remarks_on_training
from graphgpt.files.atomic import write_json, write_text
from graphgpt.machine.installation import as_typed
from graphgpt.metrics import ACCURACY, Declared, Metric
from graphgpt.prompts.instruction import Instruction
from graphgpt.prompts.prediction import Prediction
from graphgpt.registry import MODELS
from graphgpt.report.page import Report, Row, Sample, score_table, write_report
from graphgpt.report.samples import graph_of, shown_sample
from graphgpt.runners.training.report import read_stages
from graphgpt.tasks.task import Task

log = logging.getLogger(__name__)


def write_evaluation(
    task: Task,
    config: Any,
    model: Any,
    predictions: Predictions,
    leakage: dict[str, Any] | None,
    trained: dict[str, Any],
    folder: Path,
    pooled: Callable[[Tensor], np.ndarray] | None = None,
) -> dict[str, Any]:
    """Everything that follows from predictions: the files of an evaluation, and the scores on the checkpoint's card.

    Args:
        task: What was asked.
        config: The ``EvaluationConfig``.
        model: The model's ``Config``.
        predictions: Of all ``passes``.
        leakage: Of :func:`check_leakage`.
        trained: Of :func:`unseen`, like the task.
        folder: Where the files go.
        pooled: What the model's tower makes of items, for the simple methods that read it; None where there is no model.

    Returns:
        What ``metrics.json`` holds.
    """
    rows = [
        *model_rows(task, config, model, predictions),
        *compared_rows(task, config, predictions[main_pass(config)]),
        *baseline_rows(task, config, predictions, pooled),
    ]
    declared = declared_metrics(task, config)
    names = [*declared, *rows[0].metrics]  # a task may measure what it does not declare
    main = next((name for name in names if name in rows[0].metrics), next(iter(names), ACCURACY.name))
    items = list(predictions[main_pass(config)])
    instructions = questions(task, config, main_pass(config), items)
    first = list(predictions[main_pass(config)].values())
    result = {
        "task": task.config.name,
        "model": model.name,
        "graph": task.data["name"],
        "fingerprint": task.data["fingerprint"],
        "split": config.split,
        "items": len(items),
        "checkpoint": str(config.checkpoint),
        "trained_on": trained,
        "seeds": config.all_seeds,
        "shard": config.shard,
        "main_metric": main,
        "declared": declared.records,
        "rows": [dataclasses.asdict(row) for row in rows],
        "wordings": by_wording(task, config, predictions),
        "leakage": leakage,
        **analysed(task, instructions, first, main),
        "next_steps": after_evaluation(
            checkpoint_experiment(config.checkpoint),
            config,
            items=trained["items"] - trained["left_out"],
            wordings=bool(task.other_wordings()),
        ),
    }
    lines = [prediction_line(task, config, step, item, found) for step, run in predictions.items() for item, found in run.items()]
    write_text(folder / "predictions.jsonl", "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    write_report(_report(task, config, model, result, rows, _samples(task, instructions, first, config)), folder / "report.html")
    write_json(folder / "metrics.json", result)
    write_text(folder / "config.yaml", yaml.safe_dump(plain_settings(config), sort_keys=False, allow_unicode=True))
    if not config.shard:
        try:
            add_scores(find_checkpoint(config.checkpoint), result, folder)
        except OSError as error:  # the checkpoint may be somebody else's
            log.info("The scores are not noted beside the checkpoint: %s", error)
    return result


def show(result: Mapping[str, Any], folder: Path) -> None:
    """Print what an evaluation found, where its report lies, and what to try next.

    Args:
        result: What ``metrics.json`` holds.
        folder: The evaluation's run folder.
    """
    console = Console(highlight=False, markup=False, soft_wrap=True)
    console.print(f"\n{result['task']} on {amount(result['items'], result['split'] + ' item')} of {result['graph']}")
    console.print(score_table([Row(**row) for row in result["rows"]], result["main_metric"], Declared.read(result.get("declared"))))
    for sentence in remarks(result):
        console.print(sentence)
    console.print(f"Report: {folder / 'report.html'}")
    console.print("\nWhat to try next:")
    for what, command in result["next_steps"]:
        console.print(f"  {what}:\n    {command}")


def remarks(result: Mapping[str, Any]) -> list[str]:
    """What is to be known beside the table, one sentence each."""
    found = remarks_on_training(result)
    if result["shard"]:
        found.append(f"Shard {result['shard']}: join all shards with graphgpt gather, which also adds the simple baselines.")
    if (leakage := result["leakage"]) is not None:
        sentences = [f"Leakage: {finding['sentence']}" for finding in leakage["findings"]]
        found += sentences or [f"No prompt of {leakage['checked']} gives its answer away."]
    if (share := result["answer_in_own_text"]) is not None:
        found.append(f"The name of the true class stands literally in the own text of {share:.1%} of the items.")
    if (spread := result["wordings"]) is not None:
        main = _main(result)
        found.append(
            f"Over {amount(len(spread['metrics']), 'wording')}: {main.title} {main.text(spread['mean'][main.name])} on average, "
            f"{main.text(spread['spread'][main.name])} between the best and the worst."
        )
    return found


def chosen_samples(predictions: Sequence[Prediction], count: int) -> list[int]:
    """Places of a handful of items: half of them wrong answers where there are such, for those teach more."""
    right = [i for i, p in enumerate(predictions) if p.scores is None or p.answer == p.truth]
    wrong = [i for i, p in enumerate(predictions) if p.scores is not None and p.answer != p.truth]
    return sorted([*wrong[: count // 2], *right, *wrong[count // 2 :]][:count])


def _samples(task: Task, instructions: Sequence[Instruction], predictions: Sequence[Prediction], config: Any) -> list[Sample]:
    # Where nothing was written, any will do.
    shown = [i for i, p in enumerate(predictions) if p.text is not None] or range(len(predictions))
    chosen = (shown[place] for place in chosen_samples([predictions[i] for i in shown], config.samples))
    return [shown_sample(task, instructions[i], predictions[i]) for i in chosen]


def _report(task: Task, config: Any, model: Any, result: dict[str, Any], rows: list[Row], samples: list[Sample]) -> Report:
    folder = find_checkpoint(config.checkpoint)
    manifest = read_manifest(folder)
    graph = graph_of(task)
    confusion = result["confusion"] or {"classes": list(graph.class_names) if graph else [], "counts": []}
    return Report(
        title=f"{task.config.name.replace('_', ' ').capitalize()} on {result['graph']}",
        summary=_summary(result, rows),
        created=datetime.datetime.now().astimezone().isoformat(sep=" ", timespec="seconds"),
        command=as_typed(sys.argv),
        facts={
            **MODELS.get(model.name).facts(model),
            "Task": f"{task.config.name}, wording '{task.config.wording}'" if hasattr(task.config, "wording") else task.config.name,
            "Data": task.summary,
            **({"Homophily": str(graph.card["homophily"])} if graph and graph.card.get("homophily") is not None else {}),
            "Seeds": ", ".join(map(str, result["seeds"])),
            "Checkpoint": str(folder),
            "Trained": manifest["created"],
            "Versions": ", ".join(
                f"{k} {v}" for k, v in manifest.get("environment", {}).items() if k in ("graphgpt", "torch", "transformers", "python")
            ),
        },
        stages=read_stages(read_history(folder)),
        rows=rows,
        main_metric=result["main_metric"],
        declared=Declared.read(result["declared"]),
        items=result["items"],
        remarks=remarks(result),
        wordings=result["wordings"]["metrics"] if result["wordings"] else {},
        class_names=confusion["classes"],
        confusion=confusion["counts"],
        calibration=result["calibration"],
        by_homophily=result["by_homophily"] or [],
        by_degree=result["by_degree"] or [],
        samples=samples,
        next_steps=[(what, command) for what, command in result["next_steps"]],
    )


def _summary(result: Mapping[str, Any], rows: Sequence[Row]) -> str:
    main, items = _main(result), amount(result["items"], result["split"] + " item")
    if main.name not in rows[0].metrics:
        return f"{main.title} is not defined on these {items}."
    others = [row for row in rows if not row.is_model and main.name in row.metrics]
    best = main.best(others, lambda row: row.metrics[main.name])
    against = f"; the best of the others, {best.name}, gets {main.text(best.metrics[main.name])}" if best else ""
    return f"{main.title} is {main.text(rows[0].metrics[main.name])} on {items}{against}."


def _main(result: Mapping[str, Any]) -> Metric:
    return Declared.read(result.get("declared"))[result["main_metric"]]
