"""Settings of a model, a runner and a machine that cannot work together: one sentence each, with the way out, before anything is loaded."""

import importlib.util
import os
from typing import Any

from graphgpt.registry import MODELS

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
    if strategy is not None and strategy.shards_weights and not hasattr(model, "lora"):
        found.append(
            f"runner.strategy.name: '{strategy.name}' cuts large models among processes, and model.name={model.name} is small; "
            "use runner/strategy=ddp."
        )
    for key in ("micro_batch_size", "micro_batch_tokens"):
        if MODELS.get(model.name).in_one_pass and getattr(runner, key, None) is not None:
            found.append(f"runner.{key}: model.name={model.name} compares all samples of a step with each other; set it to null.")
    return found


def machine_problems(model: Any, runner: Any) -> list[str]:
    """What does not work here. Not asked of a checkpoint's settings, which may have been trained with elsewhere."""
    bits, accelerator, optimizer = _bits(model), getattr(runner, "accelerator", "cpu"), _optimizer(runner)
    if accelerator == "auto":
        import torch

        accelerator = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    found = []
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
        found.append(f"runner.devices: torchrun started {started} process(es) on this machine, but runner.devices={devices}.")
    return found


def _bits(model: Any) -> str | None:
    quantization = getattr(model, "quantization", None)
    return quantization.name if quantization is not None and quantization.active else None


def _optimizer(runner: Any) -> str:
    return str(getattr(runner, "optimizer", {}).get("_target_", ""))
