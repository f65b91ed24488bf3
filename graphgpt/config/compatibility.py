"""Settings of a model, a runner and a machine that cannot work together: one sentence each, with the way out, before anything is loaded."""

import importlib.util
import os
from dataclasses import replace
from typing import Any

from graphgpt.errors import amount, nearest
from graphgpt.metrics import LOSS, Declared, Metric
from graphgpt.registry import MODELS, TASKS
from graphgpt.schema import NETWORKS

#: Optimizers of bitsandbytes, by how their names begin.
BITSANDBYTES, PAGED = "bitsandbytes.optim.", "bitsandbytes.optim.Paged"


def combination_problems(model: Any, runner: Any) -> list[str]:
    """What works on no machine. Models and runners from elsewhere may lack what is looked at here."""
    bits, strategy, optimizer = _bits(model), getattr(runner, "strategy", None), _optimizer(runner)
    found = []
    if bits and strategy is not None and strategy.shards_weights:
        found.append(
            f"model.quantization: {bits} weights cannot be cut among processes, as runner.strategy.name={strategy.name} would; "
            "use runner/strategy=ddp, a whole copy in each, or model/quantization=none."
        )
    if optimizer.startswith(BITSANDBYTES) and strategy is not None and strategy.name == "fsdp":
        found.append(f"runner.optimizer: {optimizer} knows no weights that are cut among processes (fsdp); use runner/optimizer=adamw.")
    if strategy is not None and strategy.shards_weights and not MODELS.get(model.name).reads_words:
        found.append(
            f"runner.strategy.name: '{strategy.name}' cuts large models among processes, and model.name={model.name} is small; "
            "use runner/strategy=ddp."
        )
    if getattr(runner, "loss", "sample_mean") == "token_mean" and not MODELS.get(model.name).reads_words:
        found.append(f"runner.loss: 'token_mean' weighs tokens, and model.name={model.name} writes none; use sample_mean.")
    for key in ("micro_batch_size", "micro_batch_tokens"):
        if MODELS.get(model.name).in_one_pass and getattr(runner, key, None) is not None:
            found.append(f"runner.{key}: model.name={model.name} compares all samples of a step with each other; set it to null.")
    return found


def device_type(accelerator: str) -> str:
    """The device that an ``Accelerator`` stands for on this machine: ``cpu``, ``cuda`` or ``mps``."""
    if accelerator != "auto":
        return accelerator
    return next(name for name in ("cuda", "mps", "cpu") if _is_there(name))


def accelerator_problems(accelerator: str, key: str) -> list[str]:
    """One sentence where this machine has no such device; ``key`` is the setting that asks for it."""
    if accelerator == "auto" or _is_there(accelerator):
        return []
    return [f"{key}: this machine has no {accelerator} device that torch can use; use {key}=auto, which is {device_type('auto')} here."]


def _is_there(device: str) -> bool:
    import torch

    return torch.cuda.is_available() if device == "cuda" else device == "cpu" or torch.backends.mps.is_available()


_TRAINING_LOSS = replace(LOSS, name="train/loss", title="Training loss")
#: What a run logs whatever it trains.
_RUN = (
    _TRAINING_LOSS,
    Metric(name="grad_norm", title="Gradient norm, before clipping", unit=""),
    Metric(name="speed/samples_per_s", title="Samples per second", unit=""),
    Metric(name="speed/tokens_per_s", title="Tokens per second", unit=""),
    Metric(name="speed/data_wait", title="Share of the time spent waiting for data", less_is_better=True),
    Metric(name="memory/peak_gb", title="Peak memory in GB", less_is_better=True, unit=""),
)


def logged_metrics(model: Any, task: Any, runner: Any) -> Declared:
    """What a run with these ``Config`` s will log, by name: what a monitor can watch. Without validation, none of ``val/``."""
    parts = TASKS.get(task.name).part_configs(task)
    found = [*_RUN, *(_of(_TRAINING_LOSS, f"train/loss/{part}", part) for part in parts if part)]
    if not runner.val_every:
        return Declared.of(found)
    cls = MODELS.get(model.name)
    found += [_of(metric, f"val/{metric.name}") for metric in cls.validated]
    found += [_of(LOSS, f"val/loss/{part}", part) for part in parts if part]
    for part, one in parts.items():
        kind = TASKS.get(one.name)
        if kind.asks and not runner.strategy.shards_weights and (kind.scores(one) or (cls.reads_words and runner.val_answers)):
            found += [_of(metric, f"val/{metric.name}/{part}" if part else f"val/{metric.name}", part) for metric in kind.measures(one)]
    return Declared.of(found)


def _of(metric: Metric, name: str, part: str = "") -> Metric:
    return replace(metric, name=name, title=f"{metric.title} of {part}" if part else metric.title)


def run_problems(experiment: Any) -> list[str]:
    """What keeps an experiment from being run here. Of a checkpoint's, which is only read, nobody asks."""
    found = machine_problems(experiment.model, experiment.runner) + metric_problems(experiment)
    if experiment.test and not TASKS.get(experiment.task.name).asks:
        found.append(f"test: task.name={experiment.task.name} asks nothing that could be evaluated; leave it out.")
    return found


def metric_problems(experiment: Any) -> list[str]:
    """What is watched and will never be logged, or would be kept where it is worst; one sentence each, with the nearest metric."""
    runner, watched = experiment.runner, []
    if (keep := getattr(runner, "checkpoint", None)) is not None and keep.monitor:
        watched.append(("runner.checkpoint", keep.monitor, keep.mode))
    for name, node in getattr(runner, "callbacks", {}).items():
        if node and (monitor := node.get("monitor")):
            watched.append((f"runner.callbacks.{name}", str(monitor), node.get("mode")))
    known = logged_metrics(experiment.model, experiment.task, runner) if watched else Declared()
    found = []
    for key, monitor, mode in watched:
        best = known[monitor].best_mode
        if problem := unknown_metric(monitor, known, experiment):
            found.append(f"{key}.monitor: {problem}")
        elif mode is not None and mode != best:
            found.append(f"{key}.mode: '{mode}' takes the worst '{monitor}' for the best; leave it out, or set it to '{best}'.")
    return found


def unknown_metric(name: str, known: Declared, experiment: Any) -> str | None:
    """Why a run will not log a metric; None where it will.

    Args:
        name: Of the metric.
        known: Of :func:`logged_metrics`.
        experiment: The run's ``ExperimentConfig``.
    """
    if name in known or name.startswith("lr/"):
        return None
    if name.startswith("val/") and not experiment.runner.val_every:
        return f"'{name}' comes of validation; set runner.val_every."
    return f"a run of task.name={experiment.task.name} logs no '{name}'. {nearest(name, known)}"


def idle_in_evaluation(config: Any, model: Any, task: Any) -> dict[str, str]:
    """What of an ``EvaluationConfig`` does nothing with a model and a task, by key, with the reason (see ``schema.ActsWith``)."""
    tasks = [*TASKS.get(task.name).part_configs(task).values()]
    reads_words = MODELS.get(model.name).reads_words
    scores = [TASKS.get(one.name).scores(one) for one in tasks]
    baselines = {name for one in tasks for name in TASKS.get(one.name).known_baselines} | ({"llm"} if reads_words else set())
    found: dict[str, str] = {}
    if not reads_words:
        wordy = ("generate", "wordings", "writing_batch_size", "max_new_tokens", "leakage")
        found |= dict.fromkeys(wordy, f"changes nothing, for model.name={model.name} reads and writes no words.")
    elif all(scores) and not config.generate:
        found["writing_batch_size"] = f"acts only with generate=true where answers are scored, as those of task.name={task.name} are."
        if not config.samples:
            found["max_new_tokens"] = "acts only with generate=true or samples above 0, and that is 0."
    elif not any(scores):
        found["generate"] = f"changes nothing, for answers of task.name={task.name} are written anyway."
        found["batch_size"] = f"changes nothing, for answers of task.name={task.name} are written, writing_batch_size at once."
    if max(len(getattr(one, "wordings", ())) for one in tasks) < 2:
        found["wordings"] = f"changes nothing, for task.name={task.name} has no other wording."
    if not baselines & set(NETWORKS) & set(config.baselines):
        found["max_edges"] = f"acts only with baselines=gcn or graphsage on nodes, and task.name={task.name} trains none."
    if missing := [name for name in config.baselines if name not in baselines]:
        known = f"it has {', '.join(sorted(baselines))}" if baselines else "it has none"
        found["baselines"] = f"there is no {' and no '.join(missing)} for task.name={task.name} and model.name={model.name}; {known}."
    shown = [TASKS.get(one.name).modalities(one) for one in tasks]
    has_tokens = any(modalities != () for modalities in shown)
    absent = [name for name in ("graph", "image") if all(modalities is not None and name not in modalities for modalities in shown)]
    if not reads_words and set(config.ablation) <= {"no_graph", "no_image", "no_text"}:
        found["ablation"] = f"changes nothing, for model.name={model.name} reads no words."
    elif not has_tokens and set(config.ablation) <= {"no_graph", "no_image", "zeroed", "shuffled", "other_node"}:
        found["ablation"] = f"changes nothing, for no prompt of task.name={task.name} has tokens of inputs."
    elif absent and set(config.ablation) <= {f"no_{name}" for name in absent}:
        found["ablation"] = f"changes nothing, for no prompt of task.name={task.name} has a {' or '.join(absent)}."
    return found


def machine_problems(model: Any, runner: Any) -> list[str]:
    """What does not work here. Not asked of a checkpoint's settings, which may have been trained with elsewhere."""
    bits, accelerator, optimizer = _bits(model), getattr(runner, "accelerator", "cpu"), _optimizer(runner)
    found = accelerator_problems(accelerator, "runner.accelerator")
    if found:
        return found
    accelerator = device_type(accelerator)
    if bits and accelerator == "mps":
        found.append(f"model.quantization: {bits} does not run on mps; use runner.accelerator=cpu, or model/quantization=none.")
    if optimizer.startswith(BITSANDBYTES) and accelerator == "mps":
        found.append(f"runner.optimizer: {optimizer} does not run on mps; use runner/optimizer=adamw.")
    elif optimizer.startswith(PAGED) and accelerator != "cuda":
        found.append(f"runner.optimizer: {optimizer} needs CUDA, and this run is on {accelerator}; use runner/optimizer=adamw_8bit.")
    strategy = getattr(runner, "strategy", None)
    if strategy is not None and strategy.name == "deepspeed":
        if importlib.util.find_spec("deepspeed") is None:
            found.append("runner/strategy: DeepSpeed is not installed: pip install 'graphgpt[deepspeed]', or use runner/strategy=fsdp.")
        elif accelerator != "cuda":
            found.append(f"runner/strategy: DeepSpeed needs CUDA, and this run is on {accelerator}; use runner/strategy=fsdp.")
    if getattr(runner, "precision", 32) == "16-mixed" and accelerator != "cuda":
        found.append(f"runner.precision: 16-mixed needs CUDA, and this run is on {accelerator}; use bf16-mixed.")
    started, devices = os.environ.get("LOCAL_WORLD_SIZE"), getattr(runner, "devices", None)
    if started and "TORCHELASTIC_RUN_ID" in os.environ and int(started) != devices:
        processes = amount(int(started), "process", "processes")
        found.append(f"runner.devices: torchrun started {processes} on this machine, but runner.devices={devices}.")
    return found


def _bits(model: Any) -> str | None:
    quantization = getattr(model, "quantization", None)
    return quantization.name if quantization is not None and quantization.active else None


def _optimizer(runner: Any) -> str:
    return str(getattr(runner, "optimizer", {}).get("_target_", ""))
