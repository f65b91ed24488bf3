"""How a checkpoint is evaluated: its questions are put to a model, and everything that follows from the answers is written."""

import contextlib
import dataclasses
import functools
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from graphgpt.config.compatibility import device_type
from graphgpt.errors import DataError
from graphgpt.evaluation.account import chosen_samples, show, write_evaluation
from graphgpt.evaluation.comparison import compared_rows
from graphgpt.evaluation.passes import draw, main_pass, passes, questions
from graphgpt.evaluation.scores import Predictions
from graphgpt.evaluation.unseen import unseen
from graphgpt.machine.processors import threads
from graphgpt.models.adapters import peft
from graphgpt.models.answering import generate
from graphgpt.models.model import Model
from graphgpt.models.multimodal_llm import MultimodalLLM
from graphgpt.prompts.reader import join
from graphgpt.registry import MODELS
from graphgpt.report.breakdowns import leaks
from graphgpt.runners.lightning import quiet_libraries
from graphgpt.runners.training.data import chunks
from graphgpt.runners.training.prediction import predict
from graphgpt.tasks.picture_task import PictureTask
from graphgpt.tasks.task import Task

log = logging.getLogger(__name__)


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
            found = predict(model, task.candidates, instructions, config.answering, step.name(model.config))
        if isinstance(model, MultimodalLLM) and step == main_pass(config) and task.candidates and not config.generate:
            chosen = chosen_samples(found, config.samples)
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


def pooled_states(model: Model, task: PictureTask, items: Tensor) -> np.ndarray:
    """What a model's tower makes of the pictures of items, one vector of each, shape ``[k, d]``, float32."""
    tower: Any = model.parts.get("image/tower", model.parts.get("tower"))
    reader, found = tower.reader(), []
    for chunk in chunks(items.tolist(), 32):
        inputs = join(reader, [task.collection.image(task.picture(item)) for item in chunk])
        with torch.inference_mode():
            found.append(tower.summary(tower(inputs.to(model.device).joined), inputs.lengths).float().cpu())
    return torch.cat(found).numpy()


@contextlib.contextmanager
def _without_adapters(model: Model) -> Iterator[None]:
    with model.llm.disable_adapter() if isinstance(model.llm, peft().PeftModel) else contextlib.nullcontext():
        yield
