"""One evaluation by several processes at once, a shard each: ``evaluate devices=4``."""

import contextlib
import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from graphgpt.config.experiment import EvaluationConfig
from graphgpt.errors import GraphGPTError
from graphgpt.evaluation.gather import join, show_parts
from graphgpt.machine.installation import program
from graphgpt.machine.processors import threads

#: Seconds between two looks at the processes.
_PATIENCE = 0.2


def evaluate_shards(config: EvaluationConfig, overrides: Sequence[str], folder: Path) -> None:
    """Evaluate with ``config.devices`` processes, each on a device of its own, and join what they found.

    The shards stay in ``folder/shards``, each with its ``output.log``; the first also shows its progress.

    Args:
        config: Of the whole.
        overrides: The command line that led to it.
        folder: Where the files of the evaluation go.

    Raises:
        GraphGPTError: there are fewer GPUs than devices, or a process failed; the others are ended.
    """
    visible = _visible_gpus(config)
    each = threads(config.threads, config.devices)
    shards = [folder / "shards" / str(place) for place in range(1, config.devices + 1)]
    with contextlib.ExitStack() as stack:
        processes = []
        for place, shard in enumerate(shards, start=1):
            shard.mkdir(parents=True)
            own = {"GRAPHGPT_RUN_DIR": str(shard)} | ({"CUDA_VISIBLE_DEVICES": visible[place - 1]} if visible else {})
            part = ["++devices=1", f"++shard={place}/{config.devices}", f"++threads={each}"]
            log = stack.enter_context((shard / "output.log").open("w", encoding="utf-8"))
            process = subprocess.Popen(
                [*program("evaluate"), *overrides, *part], env=os.environ | own, stdout=log, stderr=None if place == 1 else log
            )
            stack.callback(process.kill)
            processes.append(process)
        while any(process.poll() is None for process in processes):
            _check(processes, shards)
            time.sleep(_PATIENCE)
        _check(processes, shards)
    show_parts(join(shards, config, folder))


def _check(processes: Sequence[subprocess.Popen[bytes]], shards: Sequence[Path]) -> None:
    for place, (process, shard) in enumerate(zip(processes, shards, strict=True), start=1):
        if process.returncode:
            raise GraphGPTError(
                f"Shard {place}/{len(shards)} failed with exit code {process.returncode}; what it said is in {shard / 'output.log'}."
            )


def _visible_gpus(config: EvaluationConfig) -> list[str]:
    """The GPUs to hand out, none where the processor does the work."""
    if config.accelerator == "cpu" or (config.accelerator == "auto" and not torch.cuda.is_available()):
        return []
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    found = given.split(",") if given else [str(place) for place in range(torch.cuda.device_count())]
    if len(found) < config.devices:
        raise GraphGPTError(f"devices={config.devices}: there are {len(found)} GPUs here; use at most so many, or accelerator=cpu.")
    return found
