"""The Lightning runner: how an experiment is trained."""

import functools
import logging
import os
import time
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from pydantic import Field

from graphgpt.checkpoints.card import write_card
from graphgpt.checkpoints.folder import environment, find_checkpoint, load_checkpoint, read_experiment, read_history, save_checkpoint
from graphgpt.errors import GraphGPTError
from graphgpt.files import write_json, write_text
from graphgpt.models.graph_llm import GraphLLM
from graphgpt.prompts.batch import training_batch
from graphgpt.registry import RUNNERS
from graphgpt.runners.prediction import make_processor
from graphgpt.runners.targets import build_leaf, find_targets, target_problems
from graphgpt.schema import Accelerator, configclass
from graphgpt.task import Task

log = logging.getLogger(__name__)


@configclass
class LearningRates:
    """Full learning rate of each part that trains."""

    projector: float = Field(default=2e-3, gt=0)
    """Of the projector."""
    tokens: float = Field(default=2e-3, gt=0)
    """Of the modality tokens."""
    lora: float = Field(default=5e-4, gt=0)
    """Of the adapters."""
    tower: float = Field(default=1e-4, gt=0)
    """Of the tower, where it is trained."""


@configclass
class CheckpointConfig:
    """What a run keeps on the way to its result."""

    every_n_steps: int = Field(default=50, ge=0)
    """Steps between resumable checkpoints; 0 has none."""
    keep: int = Field(default=1, ge=1)
    """How many resumable checkpoints stay, the newest."""
    monitor: str | None = None
    """A validated metric such as ``val/loss``: the state in which it was best becomes the checkpoint ``best`` beside the last."""
    mode: Literal["min", "max"] = "min"
    """Which value of it is best."""


#: Settings of the runner that may change on resuming without another outcome.
HARMLESS = {"threads", "workers", "log_every", "checkpoint", "callbacks", "loggers", "val_every", "val_samples", "accelerator"}


@RUNNERS.register("lightning")
class LightningRunner:
    """Trains with Lightning and leaves a run folder behind."""

    @configclass
    class Config:
        name: str
        """Name of a registered runner."""
        max_steps: int = Field(ge=1)
        """Optimizer steps."""
        global_batch_size: int = Field(default=8, ge=1)
        """Samples per optimizer step, over all processes."""
        micro_batch_size: int = Field(default=8, ge=1)
        """Samples per forward pass of one process; what is missing to the global batch is accumulated."""
        lr: LearningRates = LearningRates()
        """Learning rates."""
        optimizer: dict[str, Any] = Field(default_factory=lambda: {"_target_": "torch.optim.AdamW", "weight_decay": 0.0})
        """Any optimizer of torch or bitsandbytes."""
        schedule: Literal["cosine", "constant"] = "cosine"
        """After the warm-up."""
        warmup: float = Field(default=0.03, ge=0, lt=1)
        """Share of the steps in which the learning rate rises."""
        clip: float = Field(default=1.0, ge=0)
        """Largest gradient norm; 0 clips nothing."""
        precision: Literal["32-true", "bf16-mixed", "16-mixed", "bf16-true"] = "32-true"
        """Lightning's name for it."""
        accelerator: Accelerator = "auto"
        """Where to train."""
        strategy: Literal["single", "ddp"] = "single"
        """One process, or a copy of the model in each of several."""
        devices: int = Field(default=1, ge=1)
        """Processes on this machine."""
        threads: int | None = Field(default=None, ge=1)
        """Processor threads per process; null shares all among the processes."""
        workers: int = Field(default=0, ge=0)
        """Processes that prepare batches; 0 does it in between."""
        log_every: int = Field(default=1, ge=1)
        """Steps between logged lines."""
        val_every: int = Field(default=0, ge=0)
        """Steps between validations; 0 has none."""
        val_samples: int = Field(default=64, ge=1)
        """Validation samples, the same ones each time."""
        checkpoint: CheckpointConfig = Field(default_factory=CheckpointConfig)
        """What is kept on the way."""
        callbacks: dict[str, dict[str, Any] | None] = Field(default_factory=dict)
        """More Lightning callbacks, by any name."""
        loggers: dict[str, dict[str, Any] | None] = Field(default_factory=dict)
        """More Lightning loggers, by any name, given the run folder as ``save_dir``; metrics.jsonl is always written."""

        @property
        def processes(self) -> int:
            return self.devices

    @staticmethod
    def problems(config: Any) -> list[str]:
        """What cannot work together."""
        found = []
        if config.strategy == "single" and config.devices > 1:
            found.append(f"runner.strategy: 'single' is one process, but runner.devices={config.devices}; use runner.strategy=ddp.")
        share = config.micro_batch_size * config.processes
        if config.global_batch_size % share:
            nearest = max(share, round(config.global_batch_size / share) * share)
            found.append(
                f"runner.global_batch_size: {config.global_batch_size} is no multiple of runner.micro_batch_size="
                f"{config.micro_batch_size} x {config.processes} process(es); the nearest is {nearest}."
            )
        if config.checkpoint.monitor and not config.val_every:
            found.append(f"runner.checkpoint.monitor: '{config.checkpoint.monitor}' comes of validation; set runner.val_every.")
        return found + [problem for key, node in _leaves(config) for problem in target_problems(node, key)]

    def __init__(self, config: Any) -> None:
        self.config = config
        # Here, for a misspelt class should not wait until the data are ready and the weights are read.
        for key, node in _leaves(config):
            find_targets(node, key)

    def train(self, model: GraphLLM, task: Task, experiment: Any, folder: Path) -> Path:
        """Train and write the run folder.

        Args:
            model: Fresh; the hand-over from ``experiment.stage1`` and resuming happen here.
            task: What to train on.
            experiment: The ``ExperimentConfig``.
            folder: Run folder.

        Returns:
            The checkpoint folder.

        Raises:
            GraphGPTError: a checkpoint does not fit, a sample cannot be used, or the loss is not finite.
        """
        quiet_libraries()
        from lightning.pytorch import Trainer
        from lightning.pytorch.callbacks import ModelCheckpoint
        from lightning.pytorch.utilities import rank_zero_only

        from graphgpt.runners.callbacks import MetricsFile, TrainingProgress
        from graphgpt.runners.checkpoint_io import AtomicCheckpointIO
        from graphgpt.runners.module import GraphLLMModule

        config = self.config
        torch.set_num_threads(config.threads or max(1, (os.cpu_count() or 1) // config.processes))
        resume = newest_resumable(folder) if experiment.resume else None
        if experiment.stage1 is not None:
            # Also when resuming, which brings back only what training moves: a frozen tower's weights are stage 1's.
            load_checkpoint(model, experiment.stage1)
        module = GraphLLMModule(model, config, experiment.seed)
        metrics = MetricsFile(folder / "metrics.jsonl")
        callbacks = [TrainingProgress(task.config.name), *(build_leaf(c, "runner.callbacks") for c in config.callbacks.values() if c)]
        keep = config.checkpoint
        if keep.every_n_steps:
            # With a monitor that grows, the newest is the best, and the one before goes only when it is written.
            callbacks.append(
                ModelCheckpoint(
                    folder / "resume", "{step}", monitor="step", mode="max", save_top_k=keep.keep, every_n_train_steps=keep.every_n_steps
                )
            )
        best = None
        if keep.monitor:
            best = ModelCheckpoint(folder / "best", "{step}", monitor=keep.monitor, mode=keep.mode, save_top_k=1, save_weights_only=True)
            callbacks.append(best)
        trainer = Trainer(
            accelerator={"cuda": "gpu"}.get(config.accelerator, config.accelerator),
            devices=config.devices,
            strategy="ddp" if config.strategy == "ddp" else "auto",
            precision=config.precision,
            max_steps=config.max_steps,
            max_epochs=1,
            accumulate_grad_batches=config.global_batch_size // (config.micro_batch_size * config.processes),
            gradient_clip_val=config.clip or None,
            log_every_n_steps=config.log_every,
            val_check_interval=config.val_every * (config.global_batch_size // (config.micro_batch_size * config.processes)) or None,
            check_val_every_n_epoch=None,  # by steps alone, so that a run may be shorter than the first validation
            limit_val_batches=None if config.val_every else 0,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
            enable_model_summary=False,
            enable_checkpointing=bool(keep.every_n_steps or keep.monitor),
            plugins=[AtomicCheckpointIO()],
            callbacks=callbacks,
            logger=[metrics, *(build_leaf(item, "runner.loggers", save_dir=str(folder)) for item in config.loggers.values() if item)],
            default_root_dir=folder,
        )
        data = make_data_module(model, task, experiment)
        if trainer.is_global_zero:
            if resume is not None:
                warn_of_changes(folder, experiment)
            write_run_files(folder, experiment)
            task.write_split(folder)
        started = time.monotonic()
        if resume is not None:
            log.info("Resuming from %s", resume)
        metrics.forget_after(_step_of(resume) if resume is not None else 0)
        trainer.fit(module, data, ckpt_path=resume, weights_only=True)

        checkpoint = folder / "checkpoint"
        if trainer.is_global_zero:
            history = read_history(find_checkpoint(experiment.stage1)) if experiment.stage1 else []
            lines = MetricsFile.read(metrics.path)
            history.append(stage_history(task.config.name, lines, model, config, time.monotonic() - started))
            save_checkpoint(checkpoint, model, experiment, data=task.data, history=history)
            write_card(checkpoint)
            if best is not None and best.best_model_path:
                state = torch.load(best.best_model_path, weights_only=True)["state_dict"]
                module.load_state_dict(state)
                save_checkpoint(folder / "best", model, experiment, data=task.data, history=history)
                write_card(folder / "best")
        trainer.strategy.barrier()
        rank_zero_only(log.info)("Saved %s", checkpoint)
        return checkpoint


def _leaves(config: Any) -> list[tuple[str, dict[str, Any]]]:
    """The third-party leaves that are not switched off by ``null``, with their config keys."""
    named = {"optimizer": config.optimizer}
    named |= {f"{group}.{name}": node for group in ("callbacks", "loggers") for name, node in getattr(config, group).items()}
    return [(f"runner.{name}", node) for name, node in named.items() if node is not None]


def make_data_module(model: GraphLLM, task: Task, experiment: Any) -> Any:
    """Lightning's view of a task: training batches by step, a fixed set of validation batches."""
    from lightning.pytorch import LightningDataModule
    from torch.utils.data import DataLoader

    from graphgpt.runners.data import Examples, StepSampler, chunks

    config = experiment.runner
    processor = make_processor(model)
    collate = functools.partial(training_batch, collate=model.tower.collate)

    class TaskData(LightningDataModule):
        def train_dataloader(self) -> Any:
            trainer = self.trainer
            assert trainer is not None
            items = task.items("train")
            if not len(items):
                raise GraphGPTError(f"The graph '{task.data['name']}' has no training nodes for the task '{task.config.name}'.")
            sampler = StepSampler(
                items,
                steps=config.max_steps,
                global_batch=config.global_batch_size,
                micro_batch=config.micro_batch_size,
                seed=experiment.seed,
                start=trainer.global_step,
                rank=trainer.global_rank,
                world=trainer.world_size,
            )
            return DataLoader(
                Examples(task, processor, experiment.seed, training=True),
                batch_sampler=sampler,
                collate_fn=collate,
                num_workers=config.workers,
            )

        def val_dataloader(self) -> Any:
            if not config.val_every:
                return []
            trainer = self.trainer
            assert trainer is not None
            items = task.items("val")[: config.val_samples].tolist()
            keys = [(0, item) for item in items][trainer.global_rank :: trainer.world_size]
            return DataLoader(
                Examples(task, processor, experiment.seed + 1, training=False),
                batch_sampler=[list(chunk) for chunk in chunks(keys, config.micro_batch_size)],
                collate_fn=collate,
            )

    return TaskData()


def newest_resumable(folder: Path) -> Path | None:
    """The newest resumable checkpoint of a run folder, None when it was stopped before its first."""
    return max((folder / "resume").glob("*.ckpt"), key=_step_of, default=None)


def _step_of(resumable: Path) -> int:
    """Optimizer steps done, from a name such as ``step=50.ckpt``."""
    return int(resumable.stem.rpartition("=")[2].partition("-")[0])


def warn_of_changes(folder: Path, experiment: Any) -> None:
    """Say which settings differ from those that a resumed run had, where that leads elsewhere."""
    import dataclasses

    old, new = (_flat(data) for data in (read_experiment(folder / "config.yaml"), dataclasses.asdict(experiment)))
    for key in sorted(old.keys() | new.keys()):
        head, _, rest = key.partition(".")
        if key in ("resume", "name") or (head == "runner" and rest.split(".")[0] in HARMLESS) or old.get(key) == new.get(key):
            continue
        log.warning(
            "resume: %s was %r and is %r now; the run does not end as it would have without the interruption.",
            key,
            old.get(key),
            new.get(key),
        )


def _flat(data: Any, prefix: str = "") -> dict[str, Any]:
    """Values of nested mappings by their keys joined with dots; tuples as lists, for that is what YAML gives back."""
    if not isinstance(data, dict) or not data:
        return {prefix.removesuffix("."): list(data) if isinstance(data, tuple) else data}
    return {key: value for name, node in data.items() for key, value in _flat(node, f"{prefix}{name}.").items()}


def write_run_files(folder: Path, experiment: Any) -> None:
    """What a run was: its resolved config and its environment."""
    import dataclasses

    folder.mkdir(parents=True, exist_ok=True)
    data = dataclasses.asdict(experiment) | {"resume": None}
    write_text(folder / "config.yaml", yaml.safe_dump(data, sort_keys=False, allow_unicode=True))
    write_json(folder / "environment.json", environment())


def stage_history(name: str, lines: list[dict[str, Any]], model: GraphLLM, config: Any, seconds: float) -> dict[str, Any]:
    """One stage of a checkpoint's history: its curves and a few facts for the report."""
    train = [line for line in lines if "train/loss" in line]
    val = [line for line in lines if "val/loss" in line]
    return {
        "name": name,
        "steps": [line["step"] + 1 for line in train],
        "loss": [line["train/loss"] for line in train],
        "val": {"loss": [[line["step"] + 1 for line in val], [line["val/loss"] for line in val]]} if val else {},
        "seconds": seconds,
        "facts": {
            "Trainable parameters": f"{sum(p.numel() for p in model.trainable_state().values()):,}",
            "Samples seen": f"{config.max_steps * config.global_batch_size:,}",
        },
    }


def quiet_libraries() -> None:
    """Silence what Lightning says about hardware, workers and tips: it is not about the user's run."""
    import warnings

    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.pytorch.accelerators.cuda", "matplotlib"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="lightning")
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")
