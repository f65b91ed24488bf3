"""FSDP2 by Lightning, with resumable checkpoints of the same form as everywhere."""

from collections.abc import Mapping
from typing import Any

from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.strategies.strategy import Strategy
from torch.utils._pytree import tree_map

from graphgpt.checkpoints.folder import whole
from graphgpt.runners.training.strategies import like


class ShardedStrategy(ModelParallelStrategy):
    """``ModelParallelStrategy`` whose checkpoints hold what trains, whole, in one file, as those of one process do.

    What trains are adapters, a projector and a few rows: megabytes, which rank 0 gathers and any number of processes can go
    on with. Lightning's own would write the frozen language model too, at every save.
    """

    @property
    def lightning_restore_optimizer(self) -> bool:
        return True

    def lightning_module_state_dict(self) -> dict[str, Any]:
        assert self.lightning_module is not None
        return {name: whole(tensor) for name, tensor in self.lightning_module.state_dict().items()}

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        assert self.lightning_module is not None
        parameters = self.lightning_module.state_dict(keep_vars=True)
        state = {
            name: like(tensor, parameters[name]) if name in parameters else tensor for name, tensor in checkpoint["state_dict"].items()
        }
        self.lightning_module.load_state_dict(state)

    def optimizer_state(self, optimizer: Any) -> dict[str, Any]:
        state: dict[str, Any] = tree_map(whole, getattr(optimizer, "_optimizer", optimizer).state_dict())
        return state

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        for optimizer, saved in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            # An optimizer's state goes by the number of the parameter, counted over its groups.
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            state = {
                number: {name: like(value, parameters[number]) for name, value in own.items()} for number, own in saved["state"].items()
            }
            optimizer.load_state_dict({**saved, "state": state})

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any | None = None) -> None:
        Strategy.save_checkpoint(self, checkpoint, filepath, storage_options)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        return Strategy.load_checkpoint(self, checkpoint_path, weights_only)
