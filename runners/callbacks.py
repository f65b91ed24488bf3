"""What happens beside training: a progress line, a metrics file."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.loggers import Logger
from rich.console import Console
from rich.progress import Progress

from graphgpt.files import read_json_lines, write_text
from graphgpt.prompts.batch import Batch
from graphgpt.runners.progress import progress_bar


class TrainingProgress(ProgressBar):
    """Loss (smoothed), samples/s, tokens/s and time left; a line now and then where the output is not a terminal."""

    LINES = 10

    def __init__(self, description: str) -> None:
        super().__init__()
        self.description = description
        self._console = Console(stderr=True)
        self._progress: Progress | None = None
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
            self._progress.start()

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
            self._console.print(f"{self.description} {step}/{trainer.max_steps}  {self._figures()}  left {left:.0f} s", highlight=False)

    def _figures(self) -> str:
        seconds = max(1e-9, time.monotonic() - self._start)
        return f"loss {self._loss:.3f}  {self._samples / seconds:.1f} samples/s  {self._tokens / seconds:,.0f} tokens/s"

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


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
            kept = [line for line in read_json_lines(self.path) if line["step"] < step]
            write_text(self.path, "".join(json.dumps(line) + "\n" for line in kept))
