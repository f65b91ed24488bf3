"""How a checkpoint is evaluated: predictions, scores, intervals, the report."""

import dataclasses
import datetime
import json
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from graphgpt.checkpoints.folder import find_checkpoint, read_history, read_manifest
from graphgpt.errors import DataError
from graphgpt.files import write_json, write_text
from graphgpt.models.graph_llm import GraphLLM
from graphgpt.prompts.instruction import Instruction
from graphgpt.prompts.processor import Processor
from graphgpt.runners.baselines import baseline_scores
from graphgpt.runners.callbacks import progress_bar
from graphgpt.runners.data import chunks, mix
from graphgpt.runners.lightning import make_processor, quiet_libraries
from graphgpt.runners.report import Report, Row, Sample, Stage, score_table, write_report
from graphgpt.task import Prediction, Task
from graphgpt.tasks.node_classification import bootstrap_intervals, classification_metrics

log = logging.getLogger(__name__)


def evaluate(model: GraphLLM, task: Task, config: Any, folder: Path) -> dict[str, Any]:
    """Score a model on a task and write ``scores.json``, ``predictions*.jsonl`` and, where there are candidates, ``report.html``.

    Args:
        model: Loaded from ``config.checkpoint``.
        task: What is asked, about which graph.
        config: The ``EvaluationConfig``.
        folder: Where the files go.

    Returns:
        What ``scores.json`` holds.

    Raises:
        DataError: the split has no nodes, or a sample cannot be used.
    """
    quiet_libraries()
    torch.set_num_threads(config.threads or os.cpu_count() or 1)
    model.eval().to(_device(config.accelerator))
    items = _draw(task, config)
    instructions = [task.instruction(item, seed=mix(config.seed, item), training=False) for item in items.tolist()]
    variants = {"Graph tokens": make_processor(model)}
    if config.without_graph:
        variants["Graph tokens removed"] = make_processor(model, "removed")

    metrics: dict[str, dict[str, Any]] = {}
    rows: list[Row] = []
    first: list[Prediction] = []
    for name, processor in variants.items():
        predictions = predict(model, task, processor, instructions, config, name)
        first = first or predictions
        suffix = "" if processor.graph_tokens == "kept" else f"_{processor.graph_tokens}"
        write_text(
            folder / f"predictions{suffix}.jsonl", "".join(json.dumps(_record(task, p), ensure_ascii=False) + "\n" for p in predictions)
        )
        if task.candidates:
            note = "this model" if processor.graph_tokens == "kept" else "the same model, text only"
            values = np.array([p.scores for p in predictions])
            row, metrics[name] = _row(name, _truth(predictions), values, config, note, is_model=True)
            rows.append(row)
        else:
            metrics[name] = task.metrics(predictions)
    if task.candidates and config.baselines:
        for name, values in baseline_scores(task.graph, task.items("train"), items, config.seed):
            row, metrics[name] = _row(name, _truth(first), values, config)
            rows.append(row)
    result = {
        "task": task.config.name,
        "graph": task.graph.card["name"],
        "split": config.split,
        "nodes": len(items),
        "checkpoint": str(config.checkpoint),
        "metrics": metrics,
        "rows": [dataclasses.asdict(row) for row in rows],
    }
    if rows:
        shown = _samples(model, task, variants["Graph tokens"], instructions, first, config)
        write_report(_report(model, task, config, rows, first, shown), folder / "report.html")
    write_json(folder / "scores.json", result)
    show(result, folder)
    return result


def show(result: dict[str, Any], folder: Path) -> None:
    """Print what an evaluation found, where its report lies, and what to try next.

    Args:
        result: What ``scores.json`` holds.
        folder: The evaluation's run folder.
    """
    console = Console(highlight=False, markup=False, soft_wrap=True)
    console.print(f"\n{result['task']} on {result['nodes']} {result['split']} nodes of {result['graph']}")
    if result["rows"]:
        console.print(score_table([Row(**row) for row in result["rows"]]))
        console.print(f"Report: {folder / 'report.html'}")
    else:
        for name, metrics in result["metrics"].items():
            console.print(f"{name}: " + ", ".join(f"{metric} {value:.1%}" for metric, value in metrics.items()))
    console.print("\nWhat to try next:")
    for what, command in _next_steps(result["checkpoint"]):
        console.print(f"  {what}:\n    {command}")


def predict(
    model: GraphLLM, task: Task, processor: Processor, instructions: Sequence[Instruction], config: Any, description: str
) -> list[Prediction]:
    """The model's prediction for every instruction: candidates scored where the task has them, else greedy answers."""
    prompts = [processor.prompt(instruction) for instruction in instructions]
    candidates = [processor.answer(name) for name in task.candidates or ()]
    # Prompts of like length together waste no padding; the order of the results is the caller's.
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i].ids))
    prefix = model.prefix(prompts) if candidates else None
    found: dict[int, Prediction] = {}
    bar = progress_bar()
    with bar:
        work = bar.add_task(description, total=len(prompts), figures="")
        for chunk in chunks(order, config.batch_size):
            batch = [prompts[i] for i in chunk]
            scores = model.score(batch, candidates, prefix).tolist() if candidates else [None] * len(batch)
            texts = [None] * len(batch) if candidates else model.generate(batch, config.max_new_tokens)
            for i, score, text in zip(chunk, scores, texts, strict=True):
                found[i] = Prediction(
                    id=instructions[i].id,
                    prompt_tokens=len(prompts[i].ids),
                    truth=instructions[i].truth,
                    scores=score,
                    expected=instructions[i].messages[-1].content,
                    text=text,
                )
            seconds = max(1e-9, bar.tasks[work].elapsed or 0)
            bar.update(work, advance=len(batch), figures=f"{len(found) / seconds:.1f} samples/s")
    if not bar.console.is_terminal:
        bar.console.print(f"{description}: {len(found)} samples", highlight=False)
    return [found[i] for i in range(len(prompts))]


def _draw(task: Task, config: Any) -> Tensor:
    items = task.items(config.split)
    if not len(items):
        raise DataError(f"split: the {config.split} split of the graph '{task.graph.card['name']}' has no nodes.")
    if config.limit is not None and config.limit < len(items):
        order = np.random.RandomState(config.seed).permutation(len(items))[: config.limit]
        items = items[torch.from_numpy(np.sort(order))]
    return items


def _device(accelerator: str) -> torch.device:
    if accelerator == "auto":
        accelerator = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    return torch.device(accelerator)


def _truth(predictions: Sequence[Prediction]) -> np.ndarray:
    return np.array([p.truth for p in predictions])


def _row(
    name: str, truth: np.ndarray, scores: np.ndarray, config: Any, note: str = "", is_model: bool = False
) -> tuple[Row, dict[str, Any]]:
    """A line of the table, and what scores.json says about it."""
    metrics = classification_metrics(truth, scores)
    intervals = bootstrap_intervals(truth, scores, config.bootstrap, config.seed)
    row = Row(name=name, interval=intervals.get("accuracy"), note=note, is_model=is_model, **metrics)
    return row, {**metrics, "intervals": intervals}


def _record(task: Task, prediction: Prediction) -> dict[str, Any]:
    """A line of predictions.jsonl."""
    record = dataclasses.asdict(prediction)
    if prediction.scores is not None and task.candidates is not None:
        record["answer"] = task.candidates[prediction.answer or 0]
        record["scores"] = dict(zip(task.candidates, prediction.scores, strict=True))
    return record


def _samples(
    model: GraphLLM, task: Task, processor: Processor, instructions: Sequence[Instruction], predictions: Sequence[Prediction], config: Any
) -> list[Sample]:
    """A handful of nodes in full: half of them wrong answers where there are such, for those teach more."""
    right = [i for i, p in enumerate(predictions) if p.answer == p.truth]
    wrong = [i for i, p in enumerate(predictions) if p.answer != p.truth]
    chosen = sorted([*wrong[: config.samples // 2], *right][: config.samples])
    if not chosen:
        return []
    texts = model.generate([processor.prompt(instructions[i]) for i in chosen], config.max_new_tokens)
    names = task.candidates or []
    samples = []
    for i, text in zip(chosen, texts, strict=True):
        subgraph, prediction = instructions[i].meta["subgraph"], predictions[i]
        tokens = subgraph.num_tokens
        inside = (subgraph.edge_index < tokens).all(dim=0)
        chances = torch.tensor(prediction.scores).softmax(dim=0).tolist()
        samples.append(
            Sample(
                id=prediction.id,
                title=task.graph.title(instructions[i].meta["node"]),
                prompt=instructions[i].messages[0].content.replace("<graph>", f"<graph: {tokens} tokens>"),
                nodes=[task.graph.title(node) for node in subgraph.nodes[:tokens].tolist()],
                classes=task.graph.y[subgraph.nodes[:tokens]].tolist(),
                edges=[(a, b) for a, b in subgraph.edge_index[:, inside].t().tolist()],
                truth=prediction.expected,
                answer=names[prediction.answer or 0],
                candidates=sorted(zip(names, chances, strict=True), key=lambda pair: -pair[1]),
                generated=text,
            )
        )
    return samples


def _report(model: GraphLLM, task: Task, config: Any, rows: list[Row], predictions: list[Prediction], samples: list[Sample]) -> Report:
    names = task.candidates or []
    confusion = np.zeros((len(names), len(names)), dtype=int)
    np.add.at(confusion, (_truth(predictions), np.array([p.answer for p in predictions])), 1)
    folder = find_checkpoint(config.checkpoint)
    manifest = read_manifest(folder)
    card = task.graph.card
    stages = [Stage(**{**stage, "val": {k: tuple(v) for k, v in stage["val"].items()}}) for stage in read_history(folder)]
    best = max((row for row in rows if not row.is_model), key=lambda row: row.accuracy, default=None)
    against = f"; the best simple baseline, {best.name}, gets {best.accuracy:.1%}" if best else ""
    return Report(
        title=f"{task.config.name.replace('_', ' ').capitalize()} on {card['name']}",
        summary=f"The model names the right class for {rows[0].accuracy:.1%} of {len(predictions)} {config.split} nodes{against}.",
        created=datetime.datetime.now().astimezone().isoformat(sep=" ", timespec="seconds"),
        command=" ".join(["python", *sys.argv]),
        facts={
            "Language model": model.config.llm.path,
            "Tower": model.config.tower.name,
            "Projector": model.config.projector.name,
            "LoRA rank": str(model.config.lora.rank),
            "Graph": f"{card['name']}: {card['nodes']:,} nodes, {card['edges']:,} edges, {card['classes']} classes",
            "Homophily": str(card["homophily"]),
            "Checkpoint": str(folder),
            "Trained": manifest["created"],
            "Versions": ", ".join(
                f"{k} {v}" for k, v in manifest["environment"].items() if k in ("graphgpt", "torch", "transformers", "python")
            ),
        },
        stages=stages,
        rows=rows,
        class_names=names,
        confusion=confusion.tolist(),
        samples=samples,
        next_steps=_next_steps(config.checkpoint),
    )


def _next_steps(checkpoint: str) -> list[tuple[str, str]]:
    return [
        ("Score every test node", f"python evaluate.py checkpoint={checkpoint} limit=null"),
        ("Train longer", "python train.py experiment=stage2/node_classification stage1=RUN_FOLDER runner.max_steps=300"),
        (
            "Keep the language model frozen, as GraphGPT does",
            "python train.py experiment=stage2/node_classification stage1=RUN_FOLDER model/lora=none",
        ),
        ("Use your own graph", "python train.py experiment=stage1 dataset=csv dataset.nodes=nodes.csv dataset.edges=edges.csv"),
        ("See every choice there is", "graphgpt ls"),
    ]
