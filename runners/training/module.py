"""What Lightning trains: one step over the micro-batches of a global batch, and the validation metrics."""

import contextlib
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.strategies import ModelParallelStrategy, ParallelStrategy
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor
from torchmetrics.utilities.distributed import gather_all_tensors

from graphgpt.checkpoints.upgrade import parameter_name
from graphgpt.errors import CheckpointError, GraphGPTError
from graphgpt.models.model import AnyBatch, Model
from graphgpt.runners.training.callbacks import figures
from graphgpt.runners.training.data import mix
from graphgpt.runners.training.measurements import ValidationScores
from graphgpt.runners.training.strategies import shard
from graphgpt.runners.training.targets import build_leaf

log = logging.getLogger(__name__)


class ModelModule(LightningModule):
    """Trains what of a model is trainable, and saves nothing else.

    A batch of Lightning's is one optimizer step: the list of micro-batches that are this process's share of the global batch.
    They may differ in size, for each counts by its samples.

    Args:
        model: To train.
        config: The runner's ``Config``.
        seed: Of dropout; anew for every step, so that a step's chance does not depend on what ran before it.
    """

    def __init__(self, model: Model, config: Any, seed: int) -> None:
        super().__init__()
        self.model = model
        self.config = config
        self.seed = seed
        self.strict_loading = False
        self.automatic_optimization = False
        self._validated: list[dict[str, Tensor]] = []

    def configure_model(self) -> None:
        """Cut the weights among processes where the strategy is to."""
        strategy = self.trainer.strategy
        if isinstance(strategy, ModelParallelStrategy) and not hasattr(self.model, "set_requires_gradient_sync"):
            shard(self.model, strategy.device_mesh["data_parallel"])

    def on_fit_start(self) -> None:
        """Put what learns into training mode and what is frozen out of it: Lightning leaves modes as they are, and new modules train."""
        self.model.train()

    @torch.no_grad()
    def on_train_start(self) -> None:
        """Validate before the first step where that is asked for; logged as of step -1, before all others."""
        if not (self.config.val_at_start and self.config.val_every and self.global_step == 0):
            return
        self.model.eval()
        loader = self.trainer.datamodule.val_dataloader()  # type: ignore[attr-defined]
        with self.trainer.precision_plugin.val_step_context():
            for number, batch in enumerate(loader):
                self.validation_step(self.trainer.strategy.batch_to_device(batch), number)
            metrics = self._summary()
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, ValidationScores):
                metrics |= callback.scores(self.trainer, self)
        self.model.train()
        for logger in self.trainer.loggers:
            logger.log_metrics(metrics, step=-1)
        rank_zero_only(log.info)("Before the first step: %s", figures(metrics))

    def training_step(self, batch: Sequence[AnyBatch], batch_idx: int) -> dict[str, Any]:
        """One optimizer step.

        Returns:
            ``ids`` of this process's samples and their ``losses``, shape ``[b]``, for callbacks.

        Raises:
            GraphGPTError: the loss is not finite.
        """
        ids = [name for micro in batch for name in micro.ids]
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        losses, shares = [], self._shares(batch)
        for number, micro in enumerate(batch):
            torch.manual_seed(mix(self.seed, self.global_step, self.global_rank, number))
            found = self.model.losses(micro)
            with self._in_sync(number == len(batch) - 1):
                self.manual_backward(found.sum() / len(ids) if shares is None else (found * shares[number]).sum())
            losses.append(found.detach())
        each = torch.cat(losses)
        if not torch.isfinite(each).all():
            which = [name for name, fine in zip(ids, torch.isfinite(each).tolist(), strict=True) if not fine]
            raise GraphGPTError(f"The loss is not finite at step {self.global_step}, samples {', '.join(which)}: lower runner.lr.")
        mean = each.mean() if shares is None else (each * torch.cat(shares)).sum()
        self.log("train/loss", mean, prog_bar=True, sync_dist=True, batch_size=len(ids))
        self.log_dict({f"lr/{group['name']}": group["lr"] for group in optimizer.param_groups})
        optimizer.step()
        scheduler: Any = self.lr_schedulers()
        scheduler.step()
        return {"ids": ids, "losses": each}

    def _shares(self, batch: Sequence[AnyBatch]) -> list[Tensor] | None:
        """What each sample of each pass counts in this process's loss, of which distributed training takes the mean; None: all alike.

        Tokens are counted over all processes and passes first: a mean of means would weigh a token by who it is together with.
        """
        if self.config.loss == "sample_mean":
            return None
        counts = [self.model.token_counts(micro) for micro in batch]
        total = self.trainer.strategy.reduce(torch.stack([count.sum() for count in counts]).sum(), reduce_op="sum")
        return [count * self.trainer.world_size / total for count in counts]

    def _in_sync(self, last: bool) -> contextlib.AbstractContextManager[Any]:
        """Processes exchange gradients in the last backward pass of a step only."""
        if hasattr(self.model, "set_requires_gradient_sync"):
            self.model.set_requires_gradient_sync(last)  # type: ignore[operator]
        strategy = self.trainer.strategy
        if last or not isinstance(strategy, ParallelStrategy):
            return contextlib.nullcontext()
        return strategy.block_backward_sync()

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Clip the gradient; here, because a loss scaler has divided by then."""
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"] if parameter.grad is not None]
        if not parameters:  # DeepSpeed keeps gradients to itself, and clips them
            return
        norm: Any = torch.nn.utils.clip_grad_norm_(parameters, self.config.clip or float("inf"))
        self.log("grad_norm", norm.full_tensor() if hasattr(norm, "full_tensor") else norm)

    def validation_step(self, batch: AnyBatch, batch_idx: int) -> dict[str, Any]:
        """What the model finds of validation samples; of those that only keep this process in step with the others, none counts."""
        found = self.model.validate(batch)
        if not self.trainer.datamodule.counts(batch_idx, self.global_rank):  # type: ignore[attr-defined]
            found = {name: values[:0] for name, values in found.items()}
        self._validated.append(found)
        losses = found.get("loss", torch.empty(0))
        return {"ids": list(batch.ids)[: len(losses)], "losses": losses}

    def on_validation_epoch_end(self) -> None:
        self.log_dict(self._summary(), prog_bar=True)

    def _summary(self) -> dict[str, float]:
        """Metrics of all samples since the last call, over all processes."""
        found = {name: torch.cat([batch[name] for batch in self._validated]) for name in self._validated[0]}
        self._validated.clear()
        if self.trainer.world_size > 1:
            found = {name: torch.cat(gather_all_tensors(values)) for name, values in found.items()}
        return {f"val/{name}": value for name, value in self.model.summarize(found).items()}

    def configure_optimizers(self) -> Any:
        groups: dict[str, list[torch.nn.Parameter]] = {}
        for name, parameter in self.model.trainable_state().items():
            groups.setdefault(self.model.rate_of(name), []).append(parameter)
        if not groups:
            raise GraphGPTError("Nothing is trainable: set model.lora.rank above 0, or train the tower.")
        rates, decays = self.config.lr, self.config.weight_decay
        parameters: list[dict[str, Any]] = []
        for part, members in groups.items():
            decay = getattr(decays, part, decays.other)
            own = {} if decay is None else {"weight_decay": decay}
            parameters.append({"params": members, "lr": getattr(rates, part, rates.other), "name": part, **own})
        optimizer = build_leaf(self.config.optimizer, "runner.optimizer", params=parameters)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, self._rate)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _rate(self, step: int) -> float:
        """Share of the full learning rate: linear warm-up, then as the schedule has it."""
        total, warmup = self.config.max_steps, warmup_steps(self.config)
        if step < warmup:
            return (step + 1) / (warmup + 1)
        if self.config.schedule == "constant":
            return 1.0
        progress = torch.tensor((step - warmup) / max(1, total - warmup)).clamp(max=1)
        if self.config.schedule == "linear":
            return float(1 - progress)
        lowest: float = self.config.min_lr if self.config.schedule == "cosine_to_min" else 0.0
        return lowest + (1 - lowest) * float(0.5 * (1 + torch.cos(torch.pi * progress)))

    def state_dict(self, *args: Any, keep_vars: bool = False, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """What training moves; the frozen rest is where it came from."""
        return {f"model.{name}": p if keep_vars else p.detach() for name, p in self.model.trainable_state().items()}

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """As torch's, but what training moves must be there, all of it and nothing else."""
        expected = self.state_dict().keys()
        state_dict = {name if name in expected else parameter_name(name): tensor for name, tensor in state_dict.items()}
        if different := sorted(expected ^ state_dict.keys()):
            raise CheckpointError(f"The checkpoint to resume does not fit this configuration: '{different[0]}' is in only one of them.")
        return super().load_state_dict(state_dict, strict=False, assign=assign)


def warmup_steps(config: Any) -> int:
    """In how many steps the learning rate rises, of a runner's ``Config``."""
    return round(config.warmup * config.max_steps) if config.warmup < 1 else int(config.warmup)
