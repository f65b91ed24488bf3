"""How a checkpoint is evaluated: predictions, metrics with their uncertainty, comparisons, the report."""

import contextlib
import dataclasses
import datetime
import functools
import json
import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from rich.console import Console
from torch import Tensor

from graphgpt.checkpoints.card import add_scores
from graphgpt.checkpoints.folder import checkpoint_experiment, find_checkpoint, read_history, read_manifest
from graphgpt.checkpoints.next_steps import after_evaluation
from graphgpt.checkpoints.trained import read_trained
from graphgpt.config.compatibility import device_type
from graphgpt.config.experiment import plain_settings
from graphgpt.errors import DataError, amount
from graphgpt.evaluation.ablations import ablated
from graphgpt.evaluation.comparison import compared_rows
from graphgpt.files.atomic import write_json, write_text
from graphgpt.machine.installation import as_typed
from graphgpt.machine.processors import threads
from graphgpt.metrics import ACCURACY, INVALID, Declared, Metric
from graphgpt.models.adapters import peft
from graphgpt.models.answering import generate
from graphgpt.models.model import Model
from graphgpt.models.multimodal_llm import MultimodalLLM
from graphgpt.prompts.instruction import Instruction
from graphgpt.prompts.prediction import Prediction
from graphgpt.prompts.reader import join
from graphgpt.registry import MODELS
from graphgpt.report.breakdowns import (
    Answers,
    by_degree,
    by_homophily,
    calibration,
    confusion_matrix,
    figures,
    leaks,
    local_homophily,
    nodes_of,
    occurrences,
    parse_answer,
)
from graphgpt.report.page import Report, Row, Sample, score_table, write_report
from graphgpt.report.samples import graph_of, shown_sample
from graphgpt.runners.lightning import quiet_libraries
from graphgpt.runners.training.data import chunks, mix
from graphgpt.runners.training.prediction import predict
from graphgpt.runners.training.report import read_stages
from graphgpt.schema import NETWORKS, Baseline, Split
from graphgpt.tasks.baselines import NAMES
from graphgpt.tasks.picture_task import PictureTask
from graphgpt.tasks.task import Task

log = logging.getLogger(__name__)

#: With ``generate=true``, where answers are chosen too.
WRITTEN = Metric(name="generated_accuracy", title="Written", legend="Written: accuracy of the answer that the model writes by itself")

#: What tables call a model's answers under each ablation (as they are: by its own title), with a note.
VARIANTS = {
    "none": ("", "this model"),
    "no_graph": ("Graph tokens removed", "the same model, without graphs"),
    "no_image": ("Image tokens removed", "the same model, without pictures"),
    "zeroed": ("Node features zeroed", "the same model"),
    "shuffled": ("Node features shuffled", "the same model, within each subgraph"),
    "other_node": ("Another item's subgraph", "the same model"),
    "no_text": ("Own text hidden", "the same model, tokens of inputs only"),
    "llm": (NAMES["llm"], "no tokens of inputs, no adapters"),
}


@dataclass(frozen=True, kw_only=True)
class Pass:
    """One pass over the items.

    Args:
        variant: A key of ``VARIANTS``.
        wording: Another wording than the chosen one; None for that one.
        seed: Draws items and neighbours.
    """

    variant: str
    wording: str | None
    seed: int

    def name(self, model: Any) -> str:
        """For a progress line; ``model`` is a model's ``Config``."""
        return label(self.variant, model) + (f", wording '{self.wording}'" if self.wording else "")


def label(variant: str, model: Any) -> str:
    """What tables call the answers of a model, given as its ``Config``, under a key of ``VARIANTS``."""
    return VARIANTS[variant][0] or str(MODELS.get(model.name).title(model))


Predictions = dict[Pass, dict[int, Prediction]]
"""Prediction by item, by pass; items ascend."""


def evaluate(model: Model, task: Task, config: Any, folder: Path) -> dict[str, Any]:
    """Put a task's questions to a model and write ``predictions.jsonl``, ``metrics.json``, ``report.html`` and ``config.yaml``.

    The parts of a mixture are evaluated one after the other, each in a folder of its name.

    Args:
        model: Loaded from ``config.checkpoint``.
        task: What is asked, about which graph.
        config: The ``EvaluationConfig``.
        folder: Where the files go.

    Returns:
        What ``metrics.json`` holds; for a mixture, that by part.

    Raises:
        DataError: the split has no items, or none that the checkpoint was not trained on, a sample cannot be used, or a prompt gives its
            answer away and ``leakage`` is ``error``.
    """
    if "" not in task.parts:
        return {name: evaluate(model, part, of_part(config, name), folder / name) for name, part in task.parts.items()}
    task, trained = unseen(task, config)
    quiet_libraries()
    torch.set_num_threads(threads(config.threads))
    model.eval().to(device_type(config.accelerator))
    leakage = check_leakage(task, config, model.config)
    list(compared_rows(task, config, draw(task, config, config.seed).tolist()))  # what does not fit is said before the work, not after
    predictions: Predictions = {}
    for step in passes(task, config, model.config):
        items = draw(task, config, step.seed).tolist()
        instructions = questions(task, config, step, items)
        torch.manual_seed(step.seed)  # nothing draws, but for a tower that keeps its dropout for compatibility
        with _without_adapters(model) if step.variant == "llm" else contextlib.nullcontext():
            found = predict(model, task.candidates, instructions, config, step.name(model.config))
        if isinstance(model, MultimodalLLM) and step == main_pass(config) and task.candidates and not config.generate:
            chosen = _choose(found, config.samples)
            prompts = [model.processor.prompt(instructions[i]) for i in chosen]
            texts = generate(model, prompts, config.max_new_tokens) if prompts else []
            found = [*found]
            for i, text in zip(chosen, texts, strict=True):
                found[i] = replace(found[i], text=text)
        predictions[step] = dict(zip(items, found, strict=True))
    pooled = functools.partial(pooled_states, model, task) if isinstance(task, PictureTask) else None
    result = write_evaluation(task, config, model.config, predictions, leakage, trained, folder, pooled)
    show(result, folder)
    return result


def of_part(config: Any, name: str) -> Any:
    """The settings for one part of a mixture."""
    return dataclasses.replace(config, compare={label: str(Path(folder) / name) for label, folder in config.compare.items()})


def unseen(task: Task, config: Any) -> tuple[Task, dict[str, Any]]:
    """The task without those items of the split whose answers the checkpoint was trained on; ``split=train`` asks for these.

    Args:
        task: What is asked.
        config: The ``EvaluationConfig``.

    Returns:
        The task, and what ``metrics.json`` holds as ``trained_on``: the checkpoint's ``tasks``; ``known``, whether it says which items;
        ``unknown``, earlier stages that do not; how many ``items`` the split has, how many of them were ``seen`` and ``left_out``.

    Raises:
        DataError: no item is left.
    """
    trained, items = read_trained(find_checkpoint(config.checkpoint)), task.items(config.split)
    seen = trained.seen(task, items)
    left_out = int(seen.sum()) if config.split != "train" else 0
    if left_out and left_out == len(items):
        raise DataError(
            f"split: {config.checkpoint} was trained on every {config.split} item of the graph '{task.data['name']}' ({left_out:,}), so "
            "their score would say nothing; take others, such as those of the split it was trained with (split.csv in its run folder), or "
            "split=train to see what it remembers."
        )
    facts = {
        "tasks": list(trained.tasks),
        "known": trained.items is not None,
        "unknown": list(trained.unknown),
        "items": len(items),
        "seen": int(seen.sum()),
        "left_out": left_out,
    }
    return (_asking_only(task, config.split, items[~seen]) if left_out else task), facts


def _asking_only(task: Task, split: Split, items: Tensor) -> Task:
    """The task with other items of one split, of whatever class it is."""
    split_of_these, other = split, copy(task)

    def items_of(split: Split) -> Tensor:
        return items if split == split_of_these else task.items(split)

    other.items = items_of  # type: ignore[method-assign]
    return other


def passes(task: Task, config: Any, model: Any) -> Iterator[Pass]:
    """The passes that an evaluation makes, the plain one of every seed first.

    Args:
        task: What is asked.
        config: The ``EvaluationConfig``.
        model: The model's ``Config``.
    """
    there = _modalities(task, config)
    absent = {f"no_{name}" for name in ("graph", "image") if name not in there}
    variants = ["none", *(name for name in config.ablation if name != "none" and name not in absent)]
    reads_words = MODELS.get(model.name).reads_words
    if not reads_words and (wordy := [name for name in ("no_graph", "no_image", "no_text") if name in variants]):
        log.info("ablation: %s is left out, for model.name=%s reads no words.", " and ".join(wordy), model.name)
        variants = [name for name in variants if name not in wordy]
    if "no_text" in variants and not _has_own_text(task, config):
        log.info("ablation: no_text is left out, for the prompts of '%s' hold no text of their own.", task.config.name)
        variants.remove("no_text")
    if reads_words and "llm" in config.baselines:
        variants.append("llm")
    wordings = task.other_wordings() if reads_words and config.wordings == "all" else []
    for seed in config.all_seeds:
        yield from (Pass(variant=variant, wording=None, seed=seed) for variant in variants)
        yield from (Pass(variant="none", wording=name, seed=seed) for name in wordings)


def main_pass(config: Any) -> Pass:
    """The plain pass of the first seed."""
    return Pass(variant="none", wording=None, seed=config.seed)


def worded(task: Task, wording: str | None) -> Task:
    """The task in another wording."""
    if wording is None:
        return task
    other = copy(task)
    other.config = dataclasses.replace(task.config, wording=wording)
    return other


def draw(task: Task, config: Any, seed: int) -> Tensor:
    """The items to ask about, ascending, shape ``[k]``, int64.

    Raises:
        DataError: there are none.
    """
    items = task.items(config.split)
    if not len(items):
        raise DataError(f"split: the {config.split} split of the graph '{task.data['name']}' has no items for '{task.config.name}'.")
    if config.limit is not None and config.limit < len(items):
        order = np.random.RandomState(seed).permutation(len(items))[: config.limit]
        items = items[torch.from_numpy(np.sort(order))]
    place, whole = config.part
    if whole > len(items):
        raise DataError(f"shard: there {'is' if len(items) == 1 else 'are'} {amount(len(items), 'item')}, too few for {whole} shards.")
    return items[place - 1 :: whole]


def questions(task: Task, config: Any, step: Pass, items: Sequence[int]) -> list[Instruction]:
    """The questions of a pass."""
    asked, others = worded(task, step.wording), task.items(config.split)
    if step.variant == "llm":
        return [asked.instruction(item, seed=mix(step.seed, item), training=False).without() for item in items]
    ablation: Any = step.variant
    return [ablated(asked, item, ablation, seed=mix(step.seed, item), others=others) for item in items]


def check_leakage(task: Task, config: Any, model: Any) -> dict[str, Any] | None:
    """What gives answers away in the prompts of the plain pass; None when not to be looked at, or not read; arguments as :func:`passes`.

    Raises:
        DataError: something does, and ``config.leakage`` is ``error``.
    """
    if config.leakage == "off" or not MODELS.get(model.name).reads_words:
        return None
    items = draw(task, config, config.seed).tolist()
    step = main_pass(config)
    found = leaks(questions(task, config, step, items), questions(task, config, replace(step, variant="no_text"), items))
    for finding in found:
        log.warning("Leakage: %s", finding["sentence"])
    if found and config.leakage == "error":
        raise DataError("\n".join(f"leakage: {finding['sentence']}" for finding in found))
    return {"checked": len(items), "findings": found}


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
        *_model_rows(task, config, model, predictions),
        *compared_rows(task, config, predictions[main_pass(config)]),
        *_baseline_rows(task, config, predictions, pooled),
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
        "wordings": _wordings(task, config, predictions),
        "leakage": leakage,
        **_analysis(task, instructions, first, main),
        "next_steps": after_evaluation(
            checkpoint_experiment(config.checkpoint),
            config,
            items=trained["items"] - trained["left_out"],
            wordings=bool(task.other_wordings()),
        ),
    }
    lines = [_record(task, config, step, item, found) for step, run in predictions.items() for item, found in run.items()]
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
    found = _trained_on(result)
    if result["shard"]:
        found.append(f"Shard {result['shard']}: join all shards with graphgpt gather, which also adds the simple baselines.")
    if (leakage := result["leakage"]) is not None:
        sentences = [f"Leakage: {finding['sentence']}" for finding in leakage["findings"]]
        found += sentences or [f"No prompt of {leakage['checked']} gives its answer away through the graph or a neighbor."]
    if (share := result["answer_in_own_text"]) is not None:
        found.append(f"The name of the true class stands literally in the own text of {share:.1%} of the items.")
    if (spread := result["wordings"]) is not None:
        main = _main(result)
        found.append(
            f"Over {amount(len(spread['metrics']), 'wording')}: {main.title} {main.text(spread['mean'][main.name])} on average, "
            f"{main.text(spread['spread'][main.name])} between the best and the worst."
        )
    return found


def _trained_on(result: Mapping[str, Any]) -> list[str]:
    """What is to be known about the checkpoint's training, as far as it touches these scores."""
    facts, split, found = result["trained_on"], result["split"], []
    if result["task"] not in facts["tasks"]:
        found.append(f"The checkpoint was never trained on '{result['task']}', but on {' and '.join(facts['tasks'])}.")
    if not facts["known"]:
        found.append("Which items the checkpoint was trained on is not known (it holds no record of them): some may be among these.")
    if facts["unknown"]:
        found.append(f"Which items {' and '.join(facts['unknown'])} was trained on, where it started, is not known.")
    if facts["left_out"]:
        found.append(
            f"Left out: {facts['left_out']:,} of the {amount(facts['items'], split + ' item')}, for the checkpoint was trained on them."
        )
    elif facts["seen"]:
        found.append(
            f"The checkpoint was trained on {facts['seen']:,} of the {amount(facts['items'], split + ' item')}: what it remembers counts."
        )
    return found


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


def _model_rows(task: Task, config: Any, model: Any, predictions: Predictions) -> Iterator[Row]:
    for variant, (_, note) in VARIANTS.items():
        runs = [run for step, run in predictions.items() if step.variant == variant and step.wording is None]
        if runs:
            yield _row(label(variant, model), [_answers(task, config, run) for run in runs], task, config, note, is_model=variant != "llm")


def pooled_states(model: Model, task: PictureTask, items: Tensor) -> np.ndarray:
    """What a model's tower makes of the pictures of items, one vector of each, shape ``[k, d]``, float32."""
    tower: Any = model.parts.get("image/tower", model.parts.get("tower"))
    reader, found = tower.reader(), []
    for chunk in chunks(items.tolist(), 32):
        inputs = join(reader, [task.collection.image(task.picture(item)) for item in chunk])
        with torch.inference_mode():
            found.append(tower.summary(tower(inputs.to(model.device).joined), inputs.lengths).float().cpu())
    return torch.cat(found).numpy()


def _baseline_rows(
    task: Task, config: Any, predictions: Predictions, pooled: Callable[[Tensor], np.ndarray] | None = None
) -> Iterator[Row]:
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


def _wordings(task: Task, config: Any, predictions: Predictions) -> dict[str, Any] | None:
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


def _analysis(task: Task, instructions: Sequence[Instruction], predictions: Sequence[Prediction], main: str) -> dict[str, Any]:
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


def _record(task: Task, config: Any, step: Pass, item: int, prediction: Prediction) -> dict[str, Any]:
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


def _choose(predictions: Sequence[Prediction], count: int) -> list[int]:
    """Places of a handful of items: half of them wrong answers where there are such, for those teach more."""
    right = [i for i, p in enumerate(predictions) if p.scores is None or p.answer == p.truth]
    wrong = [i for i, p in enumerate(predictions) if p.scores is not None and p.answer != p.truth]
    return sorted([*wrong[: count // 2], *right, *wrong[count // 2 :]][:count])


def _samples(task: Task, instructions: Sequence[Instruction], predictions: Sequence[Prediction], config: Any) -> list[Sample]:
    # Where nothing was written, any will do.
    shown = [i for i, p in enumerate(predictions) if p.text is not None] or range(len(predictions))
    chosen = (shown[place] for place in _choose([predictions[i] for i in shown], config.samples))
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


@contextlib.contextmanager
def _without_adapters(model: Model) -> Iterator[None]:
    with model.llm.disable_adapter() if isinstance(model.llm, peft().PeftModel) else contextlib.nullcontext():
        yield


def _modalities(task: Task, config: Any) -> set[str]:
    """What stands in the prompts beside words; the first few tell."""
    first = draw(task, config, config.seed)[:8].tolist()
    asked = questions(task, config, main_pass(config), first)
    return {item.modality for instruction in asked for item in instruction.inputs}


def _has_own_text(task: Task, config: Any) -> bool:
    """Whether hiding the items' texts changes a prompt; the first few tell."""
    items = draw(task, config, config.seed)[:8].tolist()
    step = main_pass(config)
    hidden = questions(task, config, replace(step, variant="no_text"), items)
    return any(a.prompt != b.prompt for a, b in zip(questions(task, config, step, items), hidden, strict=True))
