"""An average of the weights on the way, in place of the last ones."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor


class MovingAverage(Callback):
    """Validates and saves an exponential moving average of what trains; training itself goes on with the weights as they are.

    After step t (from 1) an average ``a`` of weights ``w`` becomes ``d a + (1 - d) w`` with ``d = min(decay, t / (9 + t))``: so a run
    of a few hundred steps does not keep its first weights (as ``tf.train.ExponentialMovingAverage``, with ``num_updates``). The
    frozen rest of the model is neither copied nor averaged; Lightning's own callback does both.

    Resumable checkpoints hold weights and average; ``best`` and the final checkpoint hold the average.

    Args:
        decay: Below 1; 0 keeps the last weights.
    """

    def __init__(self, decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay is {decay}, expected at least 0 and below 1")
        self.decay = decay
        self._average: dict[str, Tensor] = {}
        self._aside: dict[str, Tensor] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        weights = _weights(pl_module)
        known = self._average or weights
        self._average = {name: known[name].detach().to(weight, copy=True) for name, weight in weights.items()}

    @torch.no_grad()
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *arguments: Any) -> None:
        step = trainer.global_step
        weight = 1 - min(self.decay, step / (9 + step))
        for name, parameter in _weights(pl_module).items():
            self._average[name].lerp_(parameter.detach(), weight)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._average:
            self._aside = {name: weight.detach().clone() for name, weight in _weights(pl_module).items()}
            _set(pl_module, self._average)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        # Not at the end of validation: what keeps the best state does so there, perhaps after this callback.
        if self._aside:
            _set(pl_module, self._aside)
            self._aside = {}

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        _set(pl_module, self._average)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """A checkpoint to resume from goes on with the weights as they are, wherever it is written."""
        if self._aside:
            checkpoint["state_dict"] = dict(self._aside)

    def state_dict(self) -> dict[str, Any]:
        return {"average": dict(self._average)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._average = state_dict["average"]


def _weights(module: LightningModule) -> dict[str, Tensor]:
    """What training moves, as the module saves it."""
    return dict(module.state_dict(keep_vars=True))


@torch.no_grad()
def _set(module: LightningModule, values: dict[str, Tensor]) -> None:
    for name, weight in _weights(module).items():
        weight.copy_(values[name])
