"""What training costs, how the tasks of a mixture do, and what the model writes: logged beside the loss."""

import json
import logging
import math
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.profilers import Profiler
from torch import Tensor

from graphgpt.config.experiment import plain_settings
from graphgpt.errors import GraphGPTError, amount
from graphgpt.files.atomic import write_text
from graphgpt.files.records import read_lines
from graphgpt.models.answering import generate
from graphgpt.models.model import AnyBatch, Model
from graphgpt.models.multimodal_llm import MultimodalLLM
from graphgpt.prompts.instruction import Instruction
from graphgpt.prompts.prediction import AnswerSettings, Prediction
from graphgpt.prompts.processor import Processor
from graphgpt.report.breakdowns import parse_answer
from graphgpt.runners.loggers import log_text
from graphgpt.runners.training.data import mix, spread
from graphgpt.runners.training.task_data import validation_items
from graphgpt.runs.runs import SampleLine
from graphgpt.tasks.task import Task

log = logging.getLogger(__name__)


def observers(task: Task, model: Model, experiment: Any, folder: Path, wait: "DataWait") -> list[Callback]:
    """The callbacks of this module for a run."""
    config = experiment.runner
    parts = [name for name in task.parts if name]
    found: list[Callback] = [Measurements(parts, wait, plain_settings(experiment) | {"resume": None})]
    if not config.val_every or not task.asks:
        return found
    if config.strategy.shards_weights:
        log.info("Validation: the loss alone, without answers and scores, for no process has the whole model.")
        return found
    watched = [node.get("monitor") for node in (*config.callbacks.values(), {"monitor": config.checkpoint.monitor}) if node]
    items = validation_items(task, model.reader(), config.val_samples, experiment.seed)
    found.append(ValidationScores(task, items, experiment.seed + 1, min(config.samples_per_pass, 16), watched))
    if isinstance(model, MultimodalLLM) and config.val_answers:  # other models write nothing
        found.append(ValidationAnswers(task, model.processor, folder, experiment.seed + 1, config.val_answers))
    return found


class DataWait(Profiler):
    """Adds up the seconds that training waits for its next batch. Lightning tells a profiler when it asks for one and when it has it."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds = 0.0

    def start(self, action_name: str) -> None:
        if action_name.endswith("train_dataloader_next"):
            self._started = time.perf_counter()

    def stop(self, action_name: str) -> None:
        if action_name.endswith("train_dataloader_next"):
            self.seconds += time.perf_counter() - self._started

    def describe(self) -> None:
        """Nothing to say at the end: the figures are in the metrics."""


class Measurements(Callback):
    """Logs the settings once, speed and memory with every logged step, and the loss of each task of a mixture.

    Metrics: ``speed/samples_per_s``, ``speed/tokens_per_s`` (over all processes), ``speed/data_wait`` (share of the time that a
    process waits for data, their mean), ``memory/peak_gb`` (of the process that has most: memory of the CUDA device, else resident
    memory; 10**9 bytes), ``train/loss/TASK`` and ``val/loss/TASK``. Those of training hold for the steps since the last logged line,
    validation left out; the loss of a task that had no sample since then stays as it was.

    Nothing waits for the device but at steps that are logged.

    Args:
        parts: Names of a mixture's tasks; none for any other task.
        wait: Given to the ``Trainer`` as its profiler.
        settings: Of the experiment, as plain data.
    """

    def __init__(self, parts: Sequence[str], wait: DataWait, settings: dict[str, Any]) -> None:
        self.parts = list(parts)
        self.wait = wait
        self.settings = settings

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for logger in trainer.loggers:
            logger.log_hyperparams(self.settings)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._training, self._validation = (_Losses(self.parts, pl_module.device) for _ in range(2))
        self._begin()

    def _begin(self) -> None:
        self._since, self._aside = time.perf_counter(), 0.0
        self._waited, self._samples, self._tokens = self.wait.seconds, 0, 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Sequence[AnyBatch], batch_idx: int
    ) -> None:
        self._samples += sum(len(micro.ids) for micro in batch)
        self._tokens += sum(micro.num_tokens for micro in batch)
        self._training.add(outputs)
        if trainer.global_step % trainer.log_every_n_steps:  # type: ignore[attr-defined]
            return
        seconds = max(1e-9, time.perf_counter() - self._since - self._aside)
        own = [self._samples, self._tokens, (self.wait.seconds - self._waited) / seconds, _peak_memory(pl_module.device)]
        every: Any = pl_module.all_gather(torch.tensor(own, device=pl_module.device))
        samples, tokens, waiting, memory = every.reshape(-1, len(own)).T.tolist()
        pl_module.log_dict(
            {
                "speed/samples_per_s": sum(samples) / seconds,
                "speed/tokens_per_s": sum(tokens) / seconds,
                "speed/data_wait": sum(waiting) / len(waiting),
                "memory/peak_gb": max(memory),
                **self._training.means(trainer, "train/loss"),
            }
        )
        self._begin()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._paused = time.perf_counter()

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: AnyBatch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._validation.add(outputs)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        pl_module.log_dict(self._validation.means(trainer, "val/loss"))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._aside += time.perf_counter() - self._paused


class _Losses:
    """Sums of the losses of samples by the task that they are of, on the device that they are on."""

    def __init__(self, parts: Sequence[str], device: torch.device) -> None:
        self.parts = parts
        self._sums = torch.zeros(2, len(parts), device=device)

    def add(self, outputs: Mapping[str, Any]) -> None:
        """Add the ``losses`` of the samples ``ids``, which begin with their task's name."""
        if not self.parts:
            return
        places = [next(i for i, part in enumerate(self.parts) if name.startswith(f"{part}/")) for name in outputs["ids"]]
        losses: Tensor = outputs["losses"].detach().float()
        found = torch.tensor(places, dtype=torch.int64).to(losses.device, non_blocking=True)
        self._sums.index_add_(1, found, torch.stack([losses, torch.ones_like(losses)]))

    def means(self, trainer: Trainer, prefix: str) -> dict[str, float]:
        """Mean over all processes of each task that had samples since the last call."""
        if not self.parts:
            return {}
        total, count = trainer.strategy.reduce(self._sums.clone(), reduce_op="sum").tolist()
        self._sums.zero_()
        return {f"{prefix}/{part}": t / c for part, t, c in zip(self.parts, total, count, strict=True) if c}


def _peak_memory(device: torch.device) -> float:
    """Most memory that this process had so far, in 10**9 bytes."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    import resource

    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used / 1e9 if sys.platform == "darwin" else used * 1024 / 1e9


class ValidationScores(Callback):
    """At each validation, the metrics of the tasks that have candidates: ``val/accuracy`` and the like, in a mixture ``val/accuracy/TASK``.

    As in evaluation, by the likelihood of every candidate, on the samples that the validation loss is of; every process asks its share of
    them. What is not defined on them (an AUC of answers that are all alike) is left out.

    Args:
        task: Whose validation items are asked about.
        items: Those of validation, shape ``[k]``.
        seed: Of the samples, as in validation.
        batch_size: Prompts per forward pass.
        watched: Metrics that must be there.
    """

    def __init__(self, task: Task, items: Tensor, seed: int, batch_size: int, watched: Sequence[str | None]) -> None:
        self.task = task
        self.items = items
        self.seed = seed
        self.settings = AnswerSettings(batch_size=batch_size)
        self.watched = watched

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        pl_module.log_dict(self.scores(trainer, pl_module))

    def scores(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, float]:
        """The metrics as the model is now; every process has to ask.

        Raises:
            GraphGPTError: one that is watched is not defined.
        """
        own = self.items[trainer.global_rank :: trainer.world_size].tolist()
        parts: dict[str, tuple[Task, list[Instruction]]] = {}
        for item in own:
            instruction = self.task.instruction(item, seed=mix(self.seed, 0, item), training=False)
            name, part = task_of(self.task, instruction.id)
            if part.candidates is not None:
                parts.setdefault(name, (part, []))[1].append(instruction)
        model: Any = pl_module.model
        with trainer.precision_plugin.val_step_context():
            found = {name: [*model.predictions(part.candidates, asked, self.settings)] for name, (part, asked) in parts.items()}
        scores: dict[str, float] = {}
        for name, predictions in gathered_lists(found, trainer.world_size).items():
            part = self.task.parts[name]
            metrics = part.metrics(predictions)
            suffix = f"/{name}" if name else ""
            scores |= self._defined({f"val/{key}{suffix}": value for key, value in metrics.items()}, len(predictions))
        return scores

    def _defined(self, metrics: dict[str, float], count: int) -> dict[str, float]:
        fine = {name: value for name, value in metrics.items() if math.isfinite(value)}
        if missing := [name for name in metrics if name not in fine and name in self.watched]:
            raise GraphGPTError(
                f"'{missing[0]}' is watched, but not defined on {amount(count, 'validation sample')}: the right answers are all alike, "
                "or the top three are all there are; raise runner.val_samples, or watch val/loss."
            )
        return fine


def gathered_lists(own: dict[str, list[Any]], world: int) -> dict[str, list[Any]]:
    """The lists of all processes, joined by name."""
    everyone: list[Any] = [own]
    if world > 1:
        everyone = [None] * world
        torch.distributed.all_gather_object(everyone, own)
    names = dict.fromkeys(name for part in everyone for name in part)
    return {name: [item for part in everyone for item in part.get(name, [])] for name in names}


class ValidationAnswers(Callback):
    """At each validation, a few prompts with the answers that the model writes: into ``samples.jsonl``, and to loggers that take text.

    Each line holds the ``step`` (how many were done), the ``item`` and ``id`` of the sample, its ``prompt``, the ``expected`` answer,
    the ``answer`` (greedy), and ``right``, where the task's answers can be told apart (null elsewhere). Tasks whose answers are written
    and not chosen are scored by them: ``val/rouge_l`` and the like, means over these few.

    Args:
        task: Whose validation items are asked about.
        processor: Tokenises them.
        folder: Run folder.
        seed: Of the samples, as in validation.
        count: How many.
    """

    #: Answers are cut after so many tokens.
    MAX_NEW_TOKENS = 48

    def __init__(self, task: Task, processor: Processor, folder: Path, seed: int, count: int) -> None:
        self.task = task
        self.processor = processor
        self.path = folder / "samples.jsonl"
        self.seed = seed
        self.count = count

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget what a resumed run will write again."""
        if trainer.is_global_zero and self.path.is_file():
            kept = [line for line in read_lines(self.path, SampleLine, "the answers at validations") if line["step"] <= trainer.global_step]
            write_text(self.path, "".join(_line(entry) for entry in kept))

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        metrics = self._write(trainer, pl_module) if trainer.is_global_zero else {}
        pl_module.log_dict(trainer.strategy.broadcast(metrics))

    def _write(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, float]:
        """Write the answers, and say what those are worth that are not chosen among candidates."""
        items = spread(self.task.items("val"), self.count).tolist()
        instructions = [self.task.instruction(item, seed=mix(self.seed, 0, item), training=False) for item in items]
        prompts = [self.processor.prompt(instruction) for instruction in instructions]
        model: Any = pl_module.model
        with trainer.precision_plugin.val_step_context():
            texts = generate(model, prompts, self.MAX_NEW_TOKENS)
        found = []
        each: dict[str, list[float]] = {}
        for item, instruction, text in zip(items, instructions, texts, strict=True):
            name, part = task_of(self.task, instruction.id)
            candidates = part.candidates
            if candidates is None:
                said = Prediction(
                    id=instruction.id,
                    prompt_tokens=0,
                    truth=instruction.truth,
                    scores=None,
                    expected=instruction.messages[-1].text,
                    text=text,
                )
                for key, value in part.answer_metrics(said).items():
                    each.setdefault(f"val/{key}/{name}" if name else f"val/{key}", []).append(value)
            found.append(
                {
                    "step": trainer.global_step,
                    "item": item,
                    "id": instruction.id,
                    "prompt": instruction.prompt,
                    "expected": instruction.messages[-1].text,
                    "answer": text,
                    "right": None if candidates is None else parse_answer(text, candidates) == instruction.truth,
                }
            )
        with self.path.open("a", encoding="utf-8") as file:
            file.writelines(map(_line, found))
        columns = ["prompt", "expected", "answer"]
        for logger in trainer.loggers:
            log_text(logger, "val/answers", columns, [[entry[name] for name in columns] for entry in found], trainer.global_step)
        return {name: sum(values) / len(values) for name, values in each.items()}


def _line(entry: Mapping[str, Any]) -> str:
    return json.dumps(entry, ensure_ascii=False) + "\n"


def task_of(task: Task, id: str) -> tuple[str, Task]:
    """The task that a sample is of, under its name in a mixture, else the task itself, under no name."""
    return next((name, part) for name, part in task.parts.items() if not name or id.startswith(f"{name}/"))
