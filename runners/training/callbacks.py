"""What happens beside training: a progress line, a metrics file."""

import json
import logging
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, ProgressBar
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only
from rich.console import Console
from rich.progress import Progress

from graphgpt.errors import amount
from graphgpt.files.atomic import write_text
from graphgpt.models.model import Model
from graphgpt.prompts.batch import Batch
from graphgpt.runners.training.progress import progress_bar
from graphgpt.runs.runs import read_metrics
from graphgpt.tasks.task import Task

log = logging.getLogger(__name__)


class TrainingProgress(ProgressBar):
    """Loss (a running mean), samples/s, tokens/s and time left; a line now and then where the output is not a terminal."""

    LINES = 10

    def __init__(self, description: str) -> None:
        super().__init__()
        self.description = description
        self._console = Console(stderr=True)
        self._progress: Progress | None = None
        self._streams: dict[logging.StreamHandler[Any], Any] = {}
        self._enabled = True

    def disable(self) -> None:
        self._enabled = False

    def enable(self) -> None:
        self._enabled = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start, self._samples, self._tokens, self._loss = time.monotonic(), 0, 0, float("nan")
        self._first = trainer.global_step
        if self._enabled and self._console.is_terminal:
            self._progress = progress_bar(self._console)
            self._bar = self._progress.add_task(self.description, total=trainer.max_steps, completed=trainer.global_step, figures="")
            before = sys.stdout, sys.stderr
            self._progress.start()
            # Logged lines go above the bar, not through it: logging has kept the streams that rich puts others in the place of.
            instead = {before[0]: sys.stdout, before[1]: sys.stderr}
            terminal = [handler for handler in logging.getLogger().handlers if getattr(handler, "stream", None) in instead]
            self._streams = {handler: handler.stream for handler in terminal if isinstance(handler, logging.StreamHandler)}
            for handler, stream in self._streams.items():
                handler.setStream(instead[stream])

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Sequence[Batch], batch_idx: int
    ) -> None:
        self._samples += sum(len(micro.ids) for micro in batch) * trainer.world_size
        self._tokens += sum(micro.num_tokens for micro in batch) * trainer.world_size
        # Reading the loss waits for the device, so only as often as it is shown.
        every = max(1, trainer.num_training_batches // 200)
        if batch_idx % every == 0:
            loss = float(trainer.callback_metrics.get("train/loss", self._loss))
            self._loss = loss if self._loss != self._loss else 0.9 * self._loss + 0.1 * loss
        if not self._enabled:
            return
        step = trainer.global_step
        if self._progress is not None:
            self._progress.update(self._bar, completed=step, figures=self._figures())
        elif step % max(1, trainer.max_steps // self.LINES) == 0:
            seconds = time.monotonic() - self._start
            left = seconds / max(1, step - self._first) * (trainer.max_steps - step)
            self._console.print(
                f"{self.description} {step}/{trainer.max_steps}  {self._figures()}  left {left:.0f} s", highlight=False, soft_wrap=True
            )

    def _figures(self) -> str:
        seconds = max(1e-9, time.monotonic() - self._start)
        return f"loss {self._loss:.3f} (running mean)  {self._samples / seconds:.1f} samples/s  {self._tokens / seconds:,.0f} tokens/s"

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
            for handler, stream in self._streams.items():
                handler.setStream(stream)


class Story(Callback):
    """Says in the terminal and in ``run.log`` what a run trains on, each validation, when the best state changed, and why it ended.

    Args:
        task: What is trained on.
        model: What trains.
        best: Keeps the best state; None where none is kept.
    """

    def __init__(self, task: Task, model: Model, best: ModelCheckpoint | None) -> None:
        self.task = task
        self.model = model
        self.best = best

    @rank_zero_only
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start = time.monotonic()
        config: Any = pl_module.config
        parts: dict[str, int] = {}
        for name, parameter in self.model.trainable_state().items():
            parts[name.split(".")[0]] = parts.get(name.split(".")[0], 0) + parameter.numel()
        log.info("Data: %s; %s training items.", self.task.summary, f"{len(self.task.items('train')):,}")
        log.info("Trains: %s.", ", ".join(f"{part} {count:,}" for part, count in parts.items()) + " parameters")
        log.info(
            "Steps %d to %d of %s each, on %s with %s.",
            trainer.global_step + 1, trainer.max_steps, amount(config.global_batch_size, "sample"), pl_module.device,
            amount(torch.get_num_threads(), "thread"),
        )  # fmt: skip

    @rank_zero_only
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Before the best state is kept, for Lightning asks those who keep states last."""
        names = sorted((name for name in trainer.callback_metrics if name.startswith("val/")), key=lambda name: name != "val/loss")
        found = {name: float(trainer.callback_metrics[name]) for name in names}
        log.info("Step %d of %d: %s%s", trainer.global_step, trainer.max_steps, figures(found), self._remark(found))

    def _remark(self, found: Mapping[str, float]) -> str:
        if self.best is None or self.best.monitor is None or self.best.monitor not in found:
            return ""
        value, before = found[self.best.monitor], self.best.best_model_score
        better = before is None or (value < float(before) if self.best.mode == "min" else value > float(before))
        return f" ({self.best.monitor} is the best so far: this state is kept)" if better else ""

    @rank_zero_only
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, EarlyStopping) and callback.stopping_reason_message:
                reason = callback.stopping_reason_message.removesuffix(" Signaling Trainer to stop.")
                log.info("Stopped early, after step %d of %d: %s", trainer.global_step, trainer.max_steps, reason)
        log.info("Trained to step %d in %.0f s.", trainer.global_step, time.monotonic() - self._start)


def figures(metrics: Mapping[str, float]) -> str:
    """Metrics in one line."""
    return ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())


class MetricsFile(Logger):
    """Every logged step as one JSON line in ``metrics.jsonl``.

    Args:
        path: The file; lines of an interrupted run are kept up to the step it is resumed at.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    @property
    def name(self) -> str:
        return "metrics"

    @property
    def version(self) -> str:
        return ""

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        return None

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        if self._rank == 0:
            line = json.dumps({"step": step, **{k: v for k, v in metrics.items() if k != "epoch"}, "time": round(time.time(), 3)})
            with self.path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")

    @property
    def _rank(self) -> int:
        from lightning.pytorch.utilities import rank_zero_only

        return int(getattr(rank_zero_only, "rank", 0))

    def forget_after(self, step: int) -> None:
        """Drop lines of steps that will be done again."""
        if self.path.is_file() and self._rank == 0:
            kept = [line for line in read_metrics(self.path.parent) if line["step"] < step]
            write_text(self.path, "".join(json.dumps(line) + "\n" for line in kept))
