"""A second modality for tests: pictures whose rows of patches a small tower encodes; and a fusion by which layers look at inputs."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from graphgpt.files.atomic import fingerprint
from graphgpt.models.fusion import Fusion, FusionConfig
from graphgpt.models.tower import Tower, TowerConfig
from graphgpt.prompts.tokens import Token, token_id
from graphgpt.schema import configclass


@dataclass(frozen=True)
class Image:
    """Pixels of one picture, shape ``[channels, height, width]``; every row of patches becomes a token."""

    modality: ClassVar[str] = "image"

    pixels: Tensor

    @property
    def key(self) -> str:
        return fingerprint(self.pixels.numpy().tobytes(), [*self.pixels.shape])

    @property
    def shown(self) -> str:
        return "<image>"


@dataclass(frozen=True)
class Images:
    """Pictures of a batch, of any sizes."""

    pixels: list[Tensor]

    def to(self, device: torch.device | str) -> "Images":
        return Images([pixels.to(device) for pixels in self.pixels])


@dataclass(frozen=True)
class ImageReader:
    """Every row of patches becomes a state."""

    def num_states(self, item: Image) -> int:
        return item.pixels.shape[1] // 4

    def cost(self, item: Image) -> int:
        return self.num_states(item)

    def collate(self, inputs: Sequence[Image]) -> Images:
        return Images([item.pixels for item in inputs])


class ImageRows(Tower):
    """Means over strips of a picture, a linear layer on top."""

    @configclass
    class Config(TowerConfig):
        width: int = 5

    def __init__(self, config: Any, input_dim: int) -> None:
        super().__init__(config, input_dim)
        self.output_dim = config.width
        self.linear = nn.Linear(3, config.width)

    modality = "image"
    measured = False

    def reader(self) -> ImageReader:
        return ImageReader()

    def summary(self, states: Tensor, lengths: Sequence[int]) -> Tensor:
        return torch.stack([part.mean(dim=0) for part in states.split([*lengths])])

    def forward(self, inputs: Images) -> Tensor:
        strips = [pixels.unflatten(1, (-1, 4)).mean(dim=(2, 3)).T for pixels in inputs.pixels]
        return torch.as_tensor(self.linear(torch.cat(strips)))


class Glance(Fusion):
    """Before every k-th layer each token attends to the latest input before it; what it finds counts by a gate that begins at 0."""

    looks = True

    @configclass
    class Config(FusionConfig):
        every: int = 1

    def __init__(self, config: Config, number: int, dim: int, rms: float, blank: bool = False) -> None:
        super().__init__(config, number, dim, rms, blank)
        self.media = token_id(number, Token.MEDIA)
        self.weight = nn.Parameter(torch.randn(1, dim) * rms)
        self.query, self.out = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.gate = nn.Parameter(torch.zeros(1))
        self.seen: tuple[Tensor, Tensor, Sequence[int]] | None = None

    @classmethod
    def layout(cls, config: Config, num_tokens: int) -> tuple[Token, ...]:
        return (Token.MEDIA,)

    def embed(self, embedded: Tensor, ids: Tensor, projected: Tensor | None) -> Tensor:
        return torch.where((ids == self.media)[..., None], self.weight.to(embedded.dtype), embedded)

    def attach(self, llm: nn.Module) -> None:
        layers: Any = llm.get_submodule("model.layers")
        for layer in layers[:: self.config.every]:
            layer.register_forward_pre_hook(self.look)

    @contextlib.contextmanager
    def looking(self, sees: Tensor, projected: Tensor, lengths: Sequence[int]) -> Iterator[None]:
        self.seen = sees, projected, lengths
        try:
            yield
        finally:
            self.seen = None

    def look(self, layer: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if self.seen is None:
            return None
        (hidden, *others), (sees, values, lengths) = arguments, self.seen
        order = torch.arange(1, sees.shape[1] + 1)
        latest = (sees * order).amax(dim=1)
        owner = torch.repeat_interleave(order, torch.tensor(lengths))
        mask = (latest[:, None] == owner) & (latest > 0)[:, None]
        weights = (self.query(hidden[0]) @ values.T).masked_fill(~mask, -1e9).softmax(dim=1) * mask
        found = self.out(weights @ values) * mask.any(dim=1, keepdim=True)
        return hidden + torch.tanh(self.gate) * found[None], *others
