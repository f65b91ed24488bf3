"""Over how many processes a run is spread, and how: Lightning's strategies by config."""

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field
from torch import Tensor, nn

from graphgpt.models.model import Model
from graphgpt.schema import ActsWith, configclass

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh


@configclass
class StrategyConfig:
    """How the processes of a run share the work."""

    name: Literal["single", "ddp", "fsdp", "deepspeed"] = "single"
    """One process; a copy of the model in each; the weights cut among them (FSDP2); the same by DeepSpeed."""
    stage: Annotated[Literal[2, 3] | None, ActsWith(name="deepspeed")] = None
    """2 cuts gradients and optimizer states, 3 the weights too."""
    offload: Annotated[bool, ActsWith(name="deepspeed")] = False
    """Optimizer states (and, in stage 3, weights) wait in main memory."""
    timeout: Annotated[int, ActsWith(name=("ddp", "fsdp", "deepspeed"))] = Field(default=1800, ge=1)
    """Seconds that a process waits for the others before it gives up."""

    @property
    def shards_weights(self) -> bool:
        return self.name == "fsdp" or (self.name == "deepspeed" and self.stage == 3)


def strategy_problems(config: Any) -> list[str]:
    """What of the runner's settings for processes works on no machine, one sentence each; starts nothing."""
    strategy, found = config.strategy, []
    if strategy.name == "single" and config.processes > 1:
        found.append(f"runner/strategy: 'single' is one process, but there are {_processes(config)}; use runner/strategy=ddp.")
    if config.processes > 1 and config.accelerator == "mps":
        found.append("runner.accelerator: 'mps' is one device; use runner.devices=1 runner/strategy=single.")
    if strategy.name == "deepspeed" and strategy.stage is None:
        found.append("runner.strategy.stage: must be given for DeepSpeed; use runner/strategy=deepspeed_2 or such.")
    if strategy.name == "deepspeed" and config.samples_per_pass * config.processes < config.global_batch_size:
        found.append("runner.micro_batch_size: DeepSpeed takes a process's share of a step in one pass here; leave it out.")
    return found


def _processes(config: Any) -> str:
    nodes = f" x runner.num_nodes={config.num_nodes}" if config.num_nodes > 1 else ""
    return f"runner.devices={config.devices}{nodes}"


def build_strategy(config: Any) -> Any:
    """Lightning's strategy for a runner's settings."""
    from datetime import timedelta

    from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy

    from graphgpt.runners.training.sharded import ShardedStrategy

    timeout = timedelta(seconds=config.strategy.timeout)
    match config.strategy.name:
        case "ddp":
            return DDPStrategy(timeout=timeout)
        case "fsdp":
            # Explicit sizes: "auto" would cut along tensors on one machine, and nothing of ours is made for that.
            return ShardedStrategy(data_parallel_size=config.processes, tensor_parallel_size=1, timeout=timeout)
        case "deepspeed":
            stage, offload = config.strategy.stage, config.strategy.offload
            strategy = DeepSpeedStrategy(
                stage=stage or 2,
                offload_optimizer=offload,
                offload_parameters=offload and stage == 3,
                exclude_frozen_parameters=True,
                logging_batch_size_per_gpu=config.samples_per_pass,
                timeout=timeout,
            )
            # Its engine has the gradients, and so clips them.
            assert isinstance(strategy.config, dict)
            strategy.config["gradient_clipping"] = config.clip
            # Ours in main memory, too: DeepSpeed's own would be compiled on first use.
            strategy.config["zero_force_ds_cpu_optimizer"] = False
            return strategy
    return "auto"


def shard(model: Model, mesh: "DeviceMesh") -> None:
    """Cut a model's weights among processes (FSDP2): each layer of the language model by itself, and all that remains together."""
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    if isinstance(llm := getattr(model, "llm", None), nn.Module):
        layers = set(getattr(llm, "_no_split_modules", None) or ())
        for module in llm.modules():
            if type(module).__name__ in layers:
                fully_shard(module, mesh=mesh)
    fully_shard(model, mesh=mesh)
    # Not forward is what training calls, and it is what gathers the weights.
    register_fsdp_forward_method(model, "losses")


@contextlib.contextmanager
def gathered(model: Model, config: StrategyConfig) -> Iterator[None]:
    """Within it, what trains is whole where DeepSpeed has cut it; every process has to enter."""
    if config.name != "deepspeed" or config.stage != 3:
        yield
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters([*model.trainable_state().values()]):
        yield


def like(tensor: Any, parameter: nn.Parameter) -> Any:
    """A whole tensor, cut as a parameter is; where neither is cut, or their shapes differ (a step count), as it is."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if isinstance(parameter.data, DTensor) and isinstance(tensor, Tensor) and tensor.shape == parameter.shape:
        return distribute_tensor(tensor.to(parameter.device), parameter.data.device_mesh, parameter.data.placements)
    return tensor
