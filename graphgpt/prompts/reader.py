"""How a model's modalities appear in prompts, and how their inputs come together in a batch; made for data workers, so without weights."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch

from graphgpt.prompts.instruction import ModalityInput
from graphgpt.prompts.tokens import Token, token_id


class TowerReader(Protocol):
    """What reads inputs for a tower."""

    def num_states(self, item: Any) -> int:
        """How many states the tower makes of an input."""
        ...

    def cost(self, item: Any) -> int:
        """What an input costs the tower: how many things it encodes, nodes or patches, whether or not a state is made of each."""
        ...

    def collate(self, inputs: Sequence[Any]) -> Any:
        """Inputs joined into one object with a ``to(device)``, so that the tower runs once per step."""
        ...


@dataclass(kw_only=True)  # not frozen, for Lightning converts the batches of some strategies
class Inputs:
    """A batch's inputs of one modality.

    Args:
        joined: What the tower's forward takes.
        lengths: How many states it makes of each.
    """

    joined: Any
    lengths: tuple[int, ...]

    def to(self, device: torch.device | str) -> "Inputs":
        """The same on another device."""
        return replace(self, joined=self.joined.to(device))


def join(reader: TowerReader, inputs: Sequence[ModalityInput]) -> Inputs:
    """Inputs of one modality, for its tower."""
    return Inputs(joined=reader.collate(inputs), lengths=tuple(reader.num_states(item) for item in inputs))


@dataclass(frozen=True, kw_only=True)
class ModalityReader:
    """How inputs of one modality appear in prompts.

    Args:
        number: Of the modality, from 0 in the order of the model's config.
        tower: Reads them for the tower.
        projected: How many tokens a projector makes of so many states.
        layout: What a fusion puts into the sequence for an input of so many tokens.
        last_only: Of several inputs, only the last is read; the others leave ``BLANK`` where their states would be.
    """

    number: int
    tower: TowerReader
    projected: Callable[[int], int]
    layout: Callable[[int], Sequence[Token]]
    last_only: bool = False

    def ids(self, item: ModalityInput, read: bool = True) -> list[int]:
        """Token ids of an input, or of the place of one that is not read."""
        tokens = self.layout(self.projected(self.tower.num_states(item)))
        return [token_id(self.number, Token.BLANK if token == Token.PATCH and not read else token) for token in tokens]


#: By modality.
Readers = Mapping[str, ModalityReader]


def collate_inputs(readers: Readers, inputs: Sequence[ModalityInput]) -> dict[str, Inputs]:
    """A batch's inputs by modality, each in the order in which its tokens stand; of those that there are."""
    by_modality = {name: [item for item in inputs if item.modality == name] for name in readers}
    return {name: join(readers[name].tower, own) for name, own in by_modality.items() if own}
