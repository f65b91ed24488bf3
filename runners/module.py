"""The model as Lightning trains it."""

from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from graphgpt.errors import CheckpointError, GraphGPTError
from graphgpt.models.graph_llm import GraphLLM
from graphgpt.prompts.batch import Batch
from graphgpt.runners.data import mix
from graphgpt.runners.targets import build_leaf


class GraphLLMModule(LightningModule):
    """Trains what of a ``GraphLLM`` is trainable, and saves nothing else.

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
        self._step_losses: list[Tensor] = []

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        torch.manual_seed(mix(self.seed, batch_idx, self.global_rank))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss = self.model.loss(batch)
        if not torch.isfinite(loss):
            raise GraphGPTError(f"The loss is {loss.item()} at step {self.global_step}, samples {', '.join(batch.ids)}: lower runner.lr.")
        self._step_losses.append(loss.detach())
        return loss

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        self.log("train/loss", torch.stack(self._step_losses).mean(), prog_bar=True, sync_dist=True)
        self.log_dict({f"lr/{group['name']}": group["lr"] for group in optimizer.param_groups})
        self._step_losses.clear()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.log("val/loss", self.model.loss(batch), prog_bar=True, batch_size=len(batch.ids), sync_dist=True)

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

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """What training moves; the frozen rest is where it came from."""
        return {f"model.{name}": parameter.detach() for name, parameter in self.model.trainable_state().items()}

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """As torch's, but what training moves must be there, all of it and nothing else."""
        expected = self.state_dict().keys()
        if different := sorted(expected ^ state_dict.keys()):
            raise CheckpointError(f"The checkpoint to resume does not fit this configuration: '{different[0]}' is in only one of them.")
        return super().load_state_dict(state_dict, strict=False, assign=assign)
