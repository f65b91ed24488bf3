"""What Lightning trains: one step over the micro-batches of a global batch, and the validation loss."""

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.strategies import ModelParallelStrategy, ParallelStrategy
from torch import Tensor

from graphgpt.errors import CheckpointError, GraphGPTError
from graphgpt.models.graph_llm import GraphLLM
from graphgpt.prompts.batch import Batch
from graphgpt.runners.data import mix
from graphgpt.runners.strategies import shard
from graphgpt.runners.targets import build_leaf


class GraphLLMModule(LightningModule):
    """Trains what of a ``GraphLLM`` is trainable, and saves nothing else.

    A batch of Lightning's is one optimizer step: the list of micro-batches that are this process's share of the global batch.
    They may differ in size, for each counts by its samples.

    Args:
        model: To train.
        config: The runner's ``Config``.
        seed: Of dropout; anew for every step, so that a step's chance does not depend on what ran before it.
    """

    def __init__(self, model: GraphLLM, config: Any, seed: int) -> None:
        super().__init__()
        self.model = model
        self.config = config
        self.seed = seed
        self.strict_loading = False
        self.automatic_optimization = False
        self._validated: list[Tensor] = []

    def configure_model(self) -> None:
        """Cut the weights among processes where the strategy is to."""
        strategy = self.trainer.strategy
        if isinstance(strategy, ModelParallelStrategy) and not hasattr(self.model, "set_requires_gradient_sync"):
            shard(self.model, strategy.device_mesh["data_parallel"])

    def training_step(self, batch: Sequence[Batch], batch_idx: int) -> dict[str, Any]:
        """One optimizer step.

        Returns:
            ``ids`` of this process's samples and their ``losses``, shape ``[b]``, for callbacks.

        Raises:
            GraphGPTError: the loss is not finite.
        """
        ids = [name for micro in batch for name in micro.ids]
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        losses = []
        for number, micro in enumerate(batch):
            torch.manual_seed(mix(self.seed, self.global_step, self.global_rank, number))
            found = self.model.losses(micro)
            with self._in_sync(number == len(batch) - 1):
                self.manual_backward(found.sum() / len(ids))
            losses.append(found.detach())
        each = torch.cat(losses)
        if not torch.isfinite(each).all():
            which = [name for name, fine in zip(ids, torch.isfinite(each).tolist(), strict=True) if not fine]
            raise GraphGPTError(f"The loss is not finite at step {self.global_step}, samples {', '.join(which)}: lower runner.lr.")
        self.log("train/loss", each.mean(), prog_bar=True, sync_dist=True, batch_size=len(ids))
        self.log_dict({f"lr/{group['name']}": group["lr"] for group in optimizer.param_groups})
        optimizer.step()
        scheduler: Any = self.lr_schedulers()
        scheduler.step()
        return {"ids": ids, "losses": each}

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

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Losses of validation samples; of those that only keep this process in step with the others, none counts."""
        each = self.model.losses(batch)
        counts = self.trainer.datamodule.counts(batch_idx, self.global_rank)  # type: ignore[attr-defined]
        self._validated.append(torch.stack([each.sum(), each.new_tensor(len(each))]) * counts)
        return {"ids": list(batch.ids) if counts else [], "losses": each if counts else each[:0]}

    def on_validation_epoch_end(self) -> None:
        total, count = self.trainer.strategy.reduce(torch.stack(self._validated).sum(dim=0), reduce_op="sum")
        self._validated.clear()
        self.log("val/loss", total / count, prog_bar=True)

    def configure_optimizers(self) -> Any:
        rates = {"projector": self.config.lr.projector, "modality_tokens": self.config.lr.tokens, "tower": self.config.lr.tower}
        groups: dict[str, list[torch.nn.Parameter]] = {}
        for name, parameter in self.model.trainable_state().items():
            groups.setdefault(name.split(".")[0], []).append(parameter)
        if not groups:
            raise GraphGPTError("Nothing is trainable: set model.lora.rank above 0, or train the tower.")
        parameters = [
            {"params": members, "lr": rates.get(part, self.config.lr.lora), "name": "lora" if part == "llm" else part}
            for part, members in groups.items()
        ]
        optimizer = build_leaf(self.config.optimizer, "runner.optimizer", params=parameters)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, self._rate)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _rate(self, step: int) -> float:
        """Share of the full learning rate: linear warm-up, then constant or half a cosine down to zero."""
        total: int = self.config.max_steps
        warmup = round(float(self.config.warmup) * total)
        if step < warmup:
            return (step + 1) / (warmup + 1)
        if self.config.schedule == "constant":
            return 1.0
        progress = torch.tensor((step - warmup) / max(1, total - warmup)).clamp(max=1)
        return float(0.5 * (1 + torch.cos(torch.pi * progress)))

    def state_dict(self, *args: Any, keep_vars: bool = False, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """What training moves; the frozen rest is where it came from."""
        return {f"model.{name}": p if keep_vars else p.detach() for name, p in self.model.trainable_state().items()}

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """As torch's, but what training moves must be there, all of it and nothing else."""
        expected = self.state_dict().keys()
        if different := sorted(expected ^ state_dict.keys()):
            raise CheckpointError(f"The checkpoint to resume does not fit this configuration: '{different[0]}' is in only one of them.")
        return super().load_state_dict(state_dict, strict=False, assign=assign)
