"""A modality of a model: what reads inputs of one kind, moves them into the language model's space and brings them in."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from graphgpt.models.fusion import Fusion
from graphgpt.models.projector import Projector
from graphgpt.models.tower import Tower, build_tower, tower_problems
from graphgpt.prompts.facts import TaskFacts
from graphgpt.prompts.reader import Inputs, ModalityReader
from graphgpt.registry import FUSIONS, PROJECTORS, TOWERS
from graphgpt.schema import Registered, configclass


@configclass
class ModalityConfig:
    """How a model reads one kind of input."""

    tower: Annotated[Any, Registered(TOWERS, "model.tower")]
    """What encodes the inputs."""
    projector: Annotated[Any, Registered(PROJECTORS, "model.projector")]
    """What moves tower states into the language model's embedding space."""
    fusion: Annotated[Any, Registered(FUSIONS, "model.fusion")] = None
    """How they come in; null puts them into the sequence, where their placeholder stood."""

    @property
    def fused(self) -> Any:
        """The fusion's config, also where none was given."""
        return self.fusion or FUSIONS.get("splice").Config(name="splice")


@dataclass(frozen=True)
class Projected:
    """A batch's inputs of one modality in the language model's space.

    Args:
        values: One after the other, shape ``[N, d]``.
        lengths: How many tokens each has.
    """

    values: Tensor
    lengths: tuple[int, ...]

    def and_then(self, others: "Projected") -> "Projected":
        """These inputs, and others behind them."""
        return Projected(torch.cat([self.values, others.values]), self.lengths + others.lengths)


class Modality(nn.Module):
    """A tower, a projector and a fusion.

    Args:
        config: A ``ModalityConfig``.
        number: From 0, in the order of the model's config.
        facts: Of the task: how wide its inputs are.
        dim: Hidden size of the language model.
        rms: Root mean square of its token embeddings.
        last_only: Of several inputs in a prompt, only the last is read.
    """

    def __init__(self, config: Any, number: int, facts: TaskFacts, dim: int, rms: float, last_only: bool) -> None:
        super().__init__()
        self.config = config
        self.number = number
        self.last_only = last_only
        self.tower: Tower = build_tower(config.tower, facts)
        self.projector: Projector = PROJECTORS.build(config.projector, self.tower.output_dim, dim, rms)
        self.fusion: Fusion = FUSIONS.build(config.fused, number, dim, rms, last_only)

    def reader(self) -> ModalityReader:
        """How prompts show its inputs; without weights."""
        return ModalityReader(
            number=self.number,
            tower=self.tower.reader(),
            projected=partial(type(self.projector).num_tokens, self.config.projector),
            layout=partial(type(self.fusion).layout, self.config.fused),
            last_only=self.last_only,
        )

    def forward(self, inputs: Inputs) -> Projected:
        """Inputs as the language model takes them."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.config.tower.train):
            states = self.tower(inputs.joined)
        own = next(self.projector.parameters(), states)
        values = self.projector(states.to(own.dtype), inputs.lengths)
        count = type(self.projector).num_tokens
        return Projected(values, tuple(count(self.config.projector, length) for length in inputs.lengths))

    def idle(self) -> Iterator[Tensor]:
        """What trains and takes no part in a batch without inputs of the modality."""
        return (parameter for parameter in self.parameters() if parameter.requires_grad)


def modality_problems(config: ModalityConfig) -> list[str]:
    """What keeps a tower from taking the weights that are named, one sentence each."""
    return tower_problems(config.tower) if config.tower is not None else []


def check_name(name: str, config: ModalityConfig) -> list[str]:
    """A tower that reads another modality than the one that it stands under."""
    if config.tower is None or (reads := TOWERS.get(config.tower.name).modality) == name:
        return []
    return [f"model.modalities.{name}.tower.name: '{config.tower.name}' reads a {reads}; it belongs under model.modalities.{reads}."]
