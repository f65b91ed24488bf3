"""What the runner adds to a bare loop over the same model and the same batches: logging, callbacks, progress bar and checkpoints on.

    python benchmarks/overhead.py [--steps 60]

What it adds does not depend on the model. So it is measured as processor time on a model of two layers, where it is no small
difference of large numbers, and related to a step of SmolLM2. One thread.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from common import Row, run
from setting import build, compose

from graphgpt.assembly import build_runner
from graphgpt.runners.training.data import Examples, MicroBatches, StepSampler
from graphgpt.runners.training.module import ModelModule
from graphgpt.runners.training.task_data import training_items

#: Steps at the beginning, and those that save, are left out: a save is rare, and its price is the user's choice.
FIRST = 5


def overrides(steps: int, *more: str) -> list[str]:
    return ["experiment=stage2/node_classification", "start_from=null", f"runner.max_steps={steps}", "runner.threads=1", *more]


def seconds_between(starts: list[float]) -> float:
    """Of a step: the median, from one start to the next."""
    return statistics.median(later - earlier for earlier, later in pairwise(starts[FIRST:]))


def runner_step(experiment: Any) -> tuple[float, list[float]]:
    """Processor seconds of a step, and the losses of all."""
    model, task = build(experiment)
    starts, losses = [], []
    original = ModelModule.training_step

    def timed(self: ModelModule, *args: Any) -> dict[str, Any]:
        starts.append(time.process_time())
        found = original(self, *args)
        losses.append(found["losses"])
        return found

    with tempfile.TemporaryDirectory() as folder, patch.object(ModelModule, "training_step", timed):
        build_runner(experiment).train(model, task, experiment, Path(folder))
    return seconds_between(starts), torch.cat(losses).tolist()


def bare_step(experiment: Any) -> tuple[float, list[float]]:
    """As :func:`runner_step`, by the shortest loop there is."""
    model, task = build(experiment)
    config = experiment.runner
    samples = Examples(task, model.reader(), experiment.seed, training=True)
    sampler = StepSampler(training_items(task), steps=config.max_steps, global_batch=config.global_batch_size, seed=experiment.seed)
    micro_batches = MicroBatches(model.reader())
    groups = [{"params": [p], "lr": getattr(config.lr, model.rate_of(name))} for name, p in model.trainable_state().items()]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.0)
    warmup = round(config.warmup * config.max_steps)
    assert config.schedule == "constant"
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / (warmup + 1)))
    starts, losses = [], []
    for keys in sampler:
        batches = micro_batches([samples[key] for key in keys])
        starts.append(time.process_time())
        optimizer.zero_grad()
        for batch in batches:
            found = model.losses(batch)
            (found.sum() / len(keys)).backward()
            losses.append(found.detach())
        torch.nn.utils.clip_grad_norm_(list(model.trainable_state().values()), config.clip)
        optimizer.step()
        schedule.step()
    return seconds_between(starts), torch.cat(losses).tolist()


def measure(options: argparse.Namespace) -> Iterator[Row]:
    steps, fewer = (FIRST + 3, ["runner.global_batch_size=2"]) if options.small else (options.steps, [])
    torch.set_num_threads(1)
    tiny = compose(*overrides(steps, "runner.schedule=constant", f"runner.checkpoint.every_n_steps={steps}", *fewer), small=True)
    runner, losses = runner_step(tiny)
    bare, expected = bare_step(tiny)
    difference = max(abs(mine - other) for mine, other in zip(losses, expected, strict=True))
    if difference > 1e-4:
        raise SystemExit(f"overhead: the runner's losses differ from the bare loop's by {difference:.1e}.")
    step, _ = (bare, []) if options.small else bare_step(compose(*overrides(FIRST + 4, "runner.schedule=constant")))
    yield Row(
        benchmark="overhead",
        what="ms of a step",
        ours=(step + runner - bare) * 1e3,
        reference=step * 1e3,
        measured=1 + (runner - bare) / step,
        target=1.03,
        at_most=True,
        same=f"losses of {steps} steps, to {difference:.0e}",
    )


if __name__ == "__main__":
    run(measure, __doc__, steps=60)
