"""The Lightning runner: how an experiment is trained."""

import dataclasses
import functools
import logging
import time
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import yaml
from pydantic import Field
from torch import Tensor

from graphgpt.checkpoints.card import write_card
from graphgpt.checkpoints.folder import (
    environment,
    find_checkpoint,
    load_checkpoint,
    model_state,
    read_experiment,
    read_history,
    save_checkpoint,
)
from graphgpt.checkpoints.trained import trained_items, write_trained
from graphgpt.config.compatibility import logged_metrics
from graphgpt.errors import amount
from graphgpt.files.atomic import write_json, write_text
from graphgpt.machine.processors import threads
from graphgpt.metrics import Declared
from graphgpt.models.model import Model
from graphgpt.registry import MODELS, RUNNERS
from graphgpt.runners.training.strategies import StrategyConfig, build_strategy, gathered, strategy_problems
from graphgpt.runners.training.targets import build_leaf, find_targets, target_problems
from graphgpt.runs.runs import DECLARED, changes
from graphgpt.schema import GIVEN, MOST_PROCESSES, POSITIVE, Accelerator, ActsWith, configclass
from graphgpt.tasks.task import Task

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
    llm: float = Field(default=2e-5, gt=0)
    """Of the whole language model, where it is trained."""
    other: float = Field(default=1e-3, gt=0)
    """Of everything else, such as a classifier on the tower or the text side of grounding."""


@configclass
class WeightDecays:
    """Weight decay of each part that trains; null takes the optimizer's own."""

    projector: float | None = Field(default=None, ge=0)
    """Of the projector."""
    tokens: float | None = Field(default=None, ge=0)
    """Of the modality tokens."""
    lora: float | None = Field(default=None, ge=0)
    """Of the adapters."""
    tower: float | None = Field(default=None, ge=0)
    """Of the tower, where it is trained."""
    llm: float | None = Field(default=None, ge=0)
    """Of the whole language model, where it is trained."""
    other: float | None = Field(default=None, ge=0)
    """Of everything else."""


@configclass
class CheckpointConfig:
    """What a run keeps on the way to its result."""

    every_n_steps: int = Field(default=50, ge=0)
    """Steps between resumable checkpoints; 0 has none."""
    keep: Annotated[int, ActsWith(every_n_steps=POSITIVE)] = Field(default=1, ge=1)
    """How many resumable checkpoints stay, the newest."""
    monitor: str | None = None
    """A validated metric such as ``val/loss``: the state in which it was best becomes the checkpoint ``best`` beside the last."""
    mode: Annotated[Literal["min", "max"] | None, ActsWith(monitor=GIVEN)] = None
    """Which value of it is best; null: the lowest loss, the highest accuracy."""


#: Lightning's callbacks that take part in optimization, which is ours, or that do what something of ours does: what to use instead.
OTHERS = {
    "StochasticWeightAveraging": "average weights by callbacks=ema",
    "WeightAveraging": "average weights by callbacks=ema",
    "EMAWeightAveraging": "average weights by callbacks=ema",
    "LearningRateFinder": "compare rates by graphgpt sweep, such as runner.lr.projector=1e-3,3e-3",
    "BatchSizeFinder": "let runner.micro_batch_tokens=auto find what fits",
    "GradientAccumulationScheduler": "accumulate by runner.micro_batch_size",
    "BaseFinetuning": "say what trains by model.tower.train and model/lora, and how fast by runner.lr",
    "BackboneFinetuning": "say what trains by model.tower.train and model/lora, and how fast by runner.lr",
    "ModelPruning": "make the trained parts smaller by model.lora.rank",
    "ModelCheckpoint": "keep states by runner.checkpoint",
    "OnExceptionCheckpoint": "keep states by runner.checkpoint",
    "ProgressBar": "there is a progress line already",
    "RichProgressBar": "there is a progress line already",
    "TQDMProgressBar": "there is a progress line already",
}


@RUNNERS.register("lightning")
class LightningRunner:
    """Trains with Lightning and leaves a run folder behind."""

    @configclass
    class Config:
        name: str
        """Name of a registered runner."""
        max_steps: int = Field(ge=1)
        """Optimizer steps."""
        epochs: float | None = Field(default=None, gt=0)
        """Passes over the training samples, whole or not, instead of a number of steps, which is worked out; null counts steps."""
        global_batch_size: int = Field(default=8, ge=1)
        """Samples per optimizer step, over all processes; each takes its share, in one pass or several."""
        micro_batch_size: int | None = Field(default=None, ge=1)
        """Samples per forward pass at most; null sets no limit."""
        micro_batch_tokens: int | Literal["auto"] | None = None
        """Tokens per forward pass at most; ``auto`` finds out how many fit, null sets no limit."""
        lr: LearningRates = LearningRates()
        """Learning rates."""
        weight_decay: WeightDecays = WeightDecays()
        """Weight decay, where a part has one of its own."""
        loss: Literal["sample_mean", "token_mean"] = "sample_mean"
        """How a step weighs what it learns to write: each sample alike, or each token of the global batch alike."""
        optimizer: dict[str, Any] = Field(default_factory=lambda: {"_target_": "torch.optim.AdamW", "weight_decay": 0.0})
        """Any optimizer of torch or bitsandbytes."""
        schedule: Literal["cosine", "cosine_to_min", "linear", "constant"] = "cosine"
        """After the warm-up: half a cosine or a line down to zero, half a cosine down to ``min_lr``, or none."""
        min_lr: Annotated[float, ActsWith(schedule="cosine_to_min")] = Field(default=0.1, ge=0, lt=1)
        """Where the learning rate ends, as a share of the full one."""
        warmup: float = Field(default=0.03, ge=0)
        """In which the learning rate rises: a share of the steps, or, from 1 on, a number of them."""
        clip: float = Field(default=1.0, ge=0)
        """Largest gradient norm; 0 clips nothing."""
        precision: Literal[32, "bf16", "bf16-mixed", "16-mixed"] = 32
        """Of what trains and of the computation: all of it, or, mixed, weights in 32 bits and products in 16."""
        accelerator: Accelerator = "auto"
        """Where to train."""
        strategy: StrategyConfig = StrategyConfig()
        """How several processes share the work."""
        devices: int = Field(default=1, ge=1, le=MOST_PROCESSES)
        """Processes on each machine."""
        num_nodes: int = Field(default=1, ge=1, le=MOST_PROCESSES)
        """Machines."""
        threads: int | None = Field(default=None, ge=1, le=MOST_PROCESSES)
        """Processor threads per process; null shares all among the processes."""
        workers: int = Field(default=0, ge=0, le=MOST_PROCESSES)
        """Processes that prepare batches; 0 does it in between."""
        log_every: int = Field(default=1, ge=1)
        """Steps between logged lines."""
        val_every: int = Field(default=0, ge=0)
        """Steps between validations; 0 has none."""
        val_samples: Annotated[int, ActsWith(val_every=POSITIVE)] = Field(default=64, ge=1)
        """Validation samples, the same ones each time."""
        val_at_start: Annotated[bool, ActsWith(val_every=POSITIVE)] = False
        """Also validate before the first step."""
        val_answers: Annotated[int, ActsWith(val_every=POSITIVE)] = Field(default=3, ge=0)
        """Prompts that the model answers at each validation, to be read in samples.jsonl and report.html."""
        train_samples: int | None = Field(default=None, ge=1)
        """At most so many training samples, and the same in every epoch; null takes all, drawn anew each time. To look for mistakes."""
        detect_anomaly: bool = False
        """Name the operation whose gradient is not a number; slow."""
        checkpoint: CheckpointConfig = Field(default_factory=CheckpointConfig)
        """What is kept on the way."""
        callbacks: dict[str, dict[str, Any] | None] = Field(default_factory=dict)
        """More Lightning callbacks, by any name."""
        loggers: dict[str, dict[str, Any] | None] = Field(default_factory=dict)
        """Loggers by any name, given the run folder as ``save_dir``; metrics.jsonl is always written."""

        @property
        def processes(self) -> int:
            return self.devices * self.num_nodes

        @property
        def samples_per_pass(self) -> int:
            """At most, of one process."""
            share = self.global_batch_size // self.processes
            return min(share, self.micro_batch_size or share)

    @staticmethod
    def problems(config: Any) -> list[str]:
        """What cannot work together."""
        found = strategy_problems(config)
        if config.warmup >= 1 and config.warmup != int(config.warmup):
            found.append(f"runner.warmup: {config.warmup:g} is neither a share of the steps, below 1, nor a whole number of them.")
        if config.global_batch_size % config.processes:
            nearest = max(1, round(config.global_batch_size / config.processes)) * config.processes
            found.append(
                f"runner.global_batch_size: {amount(config.global_batch_size, 'sample')} cannot be shared by {config.processes} processes; "
                f"the nearest that can is {nearest}."
            )
        if config.micro_batch_tokens is not None and config.micro_batch_size is not None:
            found.append("runner.micro_batch_tokens: goes instead of runner.micro_batch_size, not beside it; set one of them to null.")
        if config.micro_batch_tokens is not None and config.strategy.name in ("fsdp", "deepspeed"):
            found.append(
                f"runner.micro_batch_tokens: '{config.strategy.name}' needs as many passes in each process; use runner.micro_batch_size."
            )
        for name, node in config.callbacks.items():
            if instead := _instead(node):
                found.append(f"runner.callbacks.{name}: {node['_target_']} does not go with this runner; {instead}.")
            if node and str(node.get("_target_")).endswith(".MovingAverage") and config.strategy.shards_weights:
                found.append(
                    f"runner.callbacks.{name}: averages whole weights, which '{config.strategy.name}' cuts; use runner/strategy=ddp."
                )
        return found + [problem for key, node in _leaves(config) if not _instead(node) for problem in target_problems(node, key)]

    @staticmethod
    def idle(config: Any, experiment: Any) -> dict[str, str]:
        """Rates of parts that the model has not or does not train; and what its optimizer cannot be told."""
        model = experiment.model
        cls = MODELS.get(model.name)
        trained = cls.learns(model)
        rates = [field.name for field in dataclasses.fields(config.lr)]
        if trained - set(rates):
            trained.add("other")
        found = {f"runner.lr.{name}": _untrained(name, model) for name in rates if name not in trained}
        found |= {f"runner.weight_decay.{name}": _untrained(name, model) for name in rates if name not in trained}
        if config.epochs is not None:
            found["runner.max_steps"] = f"changes nothing beside runner.epochs={config.epochs:g}, from which the steps are worked out."
        found |= dict.fromkeys(
            ("runner.optimizer.lr", "runner.optimizer.params"), "changes nothing, for runner.lr has the rate of each part."
        )
        if not cls.reads_words:
            found["runner.val_answers"] = f"changes nothing, for model.name={model.name} writes no answers."
        return found

    def __init__(self, config: Any) -> None:
        self.config = config
        # Here, for a misspelt class should not wait until the data are ready and the weights are read.
        for key, node in _leaves(config):
            find_targets(node, key)

    def train(self, model: Model, task: Task, experiment: Any, folder: Path) -> Path:
        """Train and write the run folder.

        Args:
            model: Fresh; the hand-over from ``experiment.start_from`` and resuming happen here.
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

        from graphgpt.runners.training.callbacks import MetricsFile, Story, TrainingProgress
        from graphgpt.runners.training.checkpoint_io import AtomicCheckpointIO
        from graphgpt.runners.training.interruption import Interruption
        from graphgpt.runners.training.measurements import DataWait, observers
        from graphgpt.runners.training.module import ModelModule
        from graphgpt.runners.training.report import stage_history, write_training_report
        from graphgpt.runners.training.task_data import TaskData, check_answers, look_at_lengths, training_items

        check_answers(task)
        experiment = with_steps(experiment, training_items(task, self.config.train_samples, experiment.seed))
        config = experiment.runner
        torch.set_num_threads(threads(config.threads, config.devices))
        resume = newest_resumable(folder) if experiment.resume else None
        if experiment.start_from is not None:
            # Also when resuming, which brings back only what training moves: a frozen tower's weights are stage 1's.
            load_checkpoint(model, experiment.start_from, task.data)
        if config.precision == "bf16":
            # Not left to Lightning, which casts a batch too, and the modality tokens' ids would be next.
            model.to(torch.bfloat16)
        data = TaskData(task, model, experiment)
        lengths = look_at_lengths(task, data.reader, config, experiment.seed)
        if lengths:
            rank_zero_only(log.info)("Lengths: %s.", lengths)
        module = ModelModule(model, config, experiment.seed)
        metrics = MetricsFile(folder / "metrics.jsonl")
        declared = logged_metrics(experiment.model, experiment.task, config)
        wait = DataWait()
        callbacks = [TrainingProgress(task.config.name), *observers(task, model, experiment, folder, wait)]
        callbacks += [build_leaf(with_mode(c, declared), f"runner.callbacks.{name}") for name, c in config.callbacks.items() if c]
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
            best = ModelCheckpoint(
                folder / "best", "{step}", monitor=keep.monitor, mode=declared[keep.monitor].best_mode, save_top_k=1, save_weights_only=True
            )
            callbacks.append(best)
        callbacks.append(Story(task, model, best))
        interruption = Interruption(folder)
        trainer = Trainer(
            accelerator={"cuda": "gpu"}.get(config.accelerator, config.accelerator),
            devices=config.devices,
            num_nodes=config.num_nodes,
            strategy=build_strategy(config),
            precision=config.precision if config.precision in ("bf16-mixed", "16-mixed") else "32-true",
            max_steps=config.max_steps,
            max_epochs=-1,  # steps alone count, so that a finished run can be resumed with more of them
            log_every_n_steps=config.log_every,
            val_check_interval=config.val_every or None,
            check_val_every_n_epoch=None,  # by steps alone, so that a run may be shorter than the first validation
            limit_val_batches=None if config.val_every else 0,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
            enable_model_summary=False,
            enable_checkpointing=bool(keep.every_n_steps or keep.monitor),
            detect_anomaly=config.detect_anomaly,
            profiler=wait,
            plugins=[AtomicCheckpointIO()],
            callbacks=[*callbacks, interruption],
            logger=[metrics, *(build_leaf(item, "runner.loggers", save_dir=str(folder)) for item in config.loggers.values() if item)],
            default_root_dir=folder,
        )
        if trainer.is_global_zero:
            if resume is not None:
                warn_of_changes(folder, experiment)
            write_run_files(folder, experiment)
            write_json(folder / DECLARED, declared.records)
            task.write_split(folder)
        started = time.monotonic()
        if resume is not None:
            log.info("Resuming from %s", resume)
        metrics.forget_after(_step_of(resume) if resume is not None else 0)
        with interruption.of_contact():
            trainer.fit(module, data, ckpt_path=resume, weights_only=True)

        checkpoint = folder / "checkpoint"
        history = read_history(find_checkpoint(experiment.start_from)) if experiment.start_from else []
        parameters = sum(parameter.numel() for parameter in model.trainable_state().values())
        samples = trainer.global_step * config.global_batch_size
        seconds = time.monotonic() - started
        history.append(stage_history(task.config.name, folder, declared, parameters=parameters, samples=samples, seconds=seconds))
        with gathered(model, config.strategy):
            states = {checkpoint: model_state(model)}
        if best is not None and best.best_model_path:
            trainer.strategy.load_model_state_dict(torch.load(best.best_model_path, weights_only=True))
            states[folder / "best"] = model_state(model)
        if trainer.is_global_zero:
            items = training_items(task, config.train_samples, experiment.seed)
            trained = trained_items(
                task, items, [experiment.start_from, *(tower.init_from for tower in model.towers(model.config).values())]
            )
            for target, state in states.items():
                more = functools.partial(write_trained, trained)
                save_checkpoint(target, model, experiment, data=task.data, history=history, state=state, more=more)
                write_card(target)
            write_training_report(task, model, experiment, history, declared, folder)
        trainer.strategy.barrier()
        rank_zero_only(log.info)("Saved %s", " and ".join(map(str, states)))
        return checkpoint


def _leaves(config: Any) -> list[tuple[str, dict[str, Any]]]:
    """The third-party leaves that are not switched off by ``null``, with their config keys."""
    named = {"optimizer": config.optimizer}
    named |= {f"{group}.{name}": node for group in ("callbacks", "loggers") for name, node in getattr(config, group).items()}
    return [(f"runner.{name}", node) for name, node in named.items() if node is not None]


def _instead(node: Any) -> str | None:
    """What to use in place of a callback of Lightning's that does not go with this runner; None for any other leaf."""
    target = str(node.get("_target_")) if isinstance(node, dict) else ""
    return OTHERS.get(target.rpartition(".")[2]) if target.startswith("lightning.pytorch.callbacks.") else None


def with_mode(node: dict[str, Any], declared: Declared) -> dict[str, Any]:
    """A callback's leaf that says which value of what it watches is best, where it stops by that and does not say it."""
    stops = str(node.get("_target_")).endswith(".EarlyStopping") and "monitor" in node
    return {**node, "mode": declared[str(node["monitor"])].best_mode} if stops and node.get("mode") is None else node


def with_steps(experiment: Any, items: Tensor) -> Any:
    """An experiment whose steps are worked out where it counts epochs; what one is in the other is said.

    Args:
        experiment: The ``ExperimentConfig``.
        items: That an epoch goes through, shape ``[k]``.
    """
    runner, samples = experiment.runner, amount(len(items), "sample")
    if runner.epochs is None:
        epochs = runner.max_steps * runner.global_batch_size / len(items)
        log.info("%s of %d: %.3g epochs of %s.", amount(runner.max_steps, "step"), runner.global_batch_size, epochs, samples)
        return experiment
    steps = max(1, round(runner.epochs * len(items) / runner.global_batch_size))
    log.info("%g epochs of %s: %s of %d.", runner.epochs, samples, amount(steps, "step"), runner.global_batch_size)
    return dataclasses.replace(experiment, runner=dataclasses.replace(runner, max_steps=steps))


def _untrained(rate: str, model: Any) -> str:
    """Why a learning rate, or a weight decay, is that of nothing."""
    reads_words = MODELS.get(model.name).reads_words
    if rate == "llm" and reads_words:
        return "acts only with model.llm.train=true, and that is false."
    if rate == "lora" and reads_words:
        return "acts only with model.lora.rank above 0, and that is 0."
    towers = MODELS.get(model.name).towers(model)
    if rate == "tower" and towers and not any(tower.train for tower in towers.values()):
        return "acts only with model.tower.train=true, and that is false."
    names = " and ".join(tower.name for tower in towers.values())
    part = f"model.tower.name={names}" if rate == "tower" and towers else f"model.name={model.name}"
    return f"changes nothing, for {part} has nothing that learns with it."


def newest_resumable(folder: Path) -> Path | None:
    """The newest resumable checkpoint of a run folder, None when it was stopped before its first."""
    return max((folder / "resume").glob("*.ckpt"), key=_step_of, default=None)


def _step_of(resumable: Path) -> int:
    """Optimizer steps done, from a name such as ``step=50.ckpt``."""
    return int(resumable.stem.rpartition("=")[2].partition("-")[0])


def warn_of_changes(folder: Path, experiment: Any) -> None:
    """Say which settings differ from those that a resumed run had, where that leads elsewhere."""
    for key, old, new in changes(read_experiment(folder / "config.yaml"), dataclasses.asdict(experiment)):
        log.warning("resume: %s was %r and is %r now; the run does not end as it would have without the interruption.", key, old, new)


def write_run_files(folder: Path, experiment: Any) -> None:
    """What a run was: its resolved config and its environment."""
    import dataclasses

    folder.mkdir(parents=True, exist_ok=True)
    data = dataclasses.asdict(experiment) | {"resume": None}
    write_text(folder / "config.yaml", yaml.safe_dump(data, sort_keys=False, allow_unicode=True))
    write_json(folder / "environment.json", environment())


def quiet_libraries() -> None:
    """Silence what Lightning says about hardware, workers and tips: it is not about the user's run."""
    import warnings

    noisy = ("pytorch.utilities.rank_zero", "fabric.utilities.distributed", "pytorch.accelerators.cuda")
    for module in noisy:
        logging.getLogger(f"lightning.{module}").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="lightning")
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")
