"""Where the time of a step goes."""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from graphgpt.errors import amount
from graphgpt.files.atomic import write_text


class StepProfiler(Callback):
    """Records a few steps with torch's profiler: ``profile/trace.json.gz`` in the run folder, for https://ui.perfetto.dev, and
    ``profile/operations.txt``, the operations that took longest. Of several processes, the first is recorded.

    Args:
        skip: Steps before it starts, which are slower than later ones.
        steps: Steps that are recorded.
        rows: Operations in the text.
    """

    def __init__(self, skip: int = 2, steps: int = 3, rows: int = 25) -> None:
        self.skip = skip
        self.steps = steps
        self.rows = rows
        self._profiler: Any = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        activities = [torch.profiler.ProfilerActivity.CPU]
        if pl_module.device.type == "cuda":
            activities.append(torch.profiler.ProfilerActivity.CUDA)
        folder = Path(trainer.default_root_dir) / "profile"
        self._profiler = torch.profiler.profile(
            activities=activities,
            schedule=torch.profiler.schedule(wait=max(0, self.skip - 1), warmup=min(1, self.skip), active=self.steps, repeat=1),
            on_trace_ready=lambda profiler: self._write(profiler, folder, pl_module.device.type),
            profile_memory=True,
        )
        self._profiler.start()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *arguments: Any) -> None:
        if self._profiler is not None:
            self._profiler.step()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._profiler is not None:
            self._profiler.stop()
            self._profiler = None

    def _write(self, profiler: Any, folder: Path, device: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        profiler.export_chrome_trace(str(folder / "trace.json.gz"))
        order = "self_cuda_time_total" if device == "cuda" else "self_cpu_time_total"
        table = profiler.key_averages().table(sort_by=order, row_limit=self.rows, max_name_column_width=60)
        write_text(
            folder / "operations.txt", f"{amount(self.steps, 'step')}, the operations that took longest by their own time.\n\n{table}\n"
        )
