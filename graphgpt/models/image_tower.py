"""What a tower for pictures is: pixels in, states of their patches out."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from pydantic import Field
from torch import Tensor

from graphgpt.images.picture import ImageInput
from graphgpt.models.state_cache import StateCache, Where, tower_fingerprint
from graphgpt.models.tower import Tower, TowerConfig
from graphgpt.prompts.reader import TowerReader
from graphgpt.schema import configclass


@configclass
class ImageTowerConfig(TowerConfig):
    """What all towers for pictures have in common."""

    cache: Where = "memory"
    """Where a frozen tower's states are kept by the pictures' content, so that each is encoded once: nowhere, in memory, or on disk too,
    for other runs."""
    cache_gb: float = Field(default=2.0, gt=0, le=10_000)
    """At most so much of them in memory, in GB; the least recently used go first."""


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """How a picture becomes pixels; light, for data workers.

    Args:
        size: Of the square, in pixels.
        crop: Whether the shorter side is brought to ``edge`` and the middle taken; else both sides are brought to ``size``.
        edge: Pixels; None takes ``size``.
        resample: Pillow's filter.
    """

    size: int
    crop: bool = False
    edge: int | None = None
    resample: int = Image.Resampling.BICUBIC

    def __call__(self, picture: Image.Image) -> Tensor:
        """Pixels, shape ``[3, size, size]``, uint8."""
        filtering = Image.Resampling(self.resample)
        if self.crop:
            scale = (self.edge or self.size) / min(picture.size)
            width, height = (max(self.size, round(side * scale)) for side in picture.size)
            picture = picture.resize((width, height), filtering)
            left, top = (width - self.size) // 2, (height - self.size) // 2
            picture = picture.crop((left, top, left + self.size, top + self.size))
        elif picture.size != (self.size, self.size):
            picture = picture.resize((self.size, self.size), filtering)
        return torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous()


@dataclass(kw_only=True)
class Pictures:
    """Pictures for a tower.

    Args:
        inputs: All k of them.
        pixels: Of those that ``made`` names, shape ``[m, 3, size, size]``, uint8.
        made: Places among ``inputs``; the others' states are known.
    """

    inputs: tuple[ImageInput, ...]
    pixels: Tensor
    made: tuple[int, ...]

    def to(self, device: torch.device | str) -> "Pictures":
        """The same on another device."""
        return replace(self, pixels=self.pixels.to(device))


@dataclass(frozen=True)
class PictureReader:
    """Reads picture files into pixels; not those whose states are known.

    Args:
        prepare: A picture to pixels.
        states: How many the tower makes of a picture.
        known: States that need not be made.
    """

    prepare: Preparation
    states: int
    known: StateCache

    def num_states(self, item: ImageInput) -> int:
        return self.states

    def cost(self, item: ImageInput) -> int:
        return self.states

    def collate(self, inputs: Sequence[ImageInput]) -> Pictures:
        caching = self.known.where != "none"
        made = tuple(place for place, item in enumerate(inputs) if not (caching and item.key in self.known))
        size = self.prepare.size
        pixels = torch.empty(len(made), 3, size, size, dtype=torch.uint8)
        for row, place in enumerate(made):
            pixels[row] = self.prepare(inputs[place].load())
        return Pictures(inputs=tuple(inputs), pixels=pixels, made=made)


def _forget(tower: "ImageTower", _: object) -> None:
    """Drop what is kept of other weights."""
    vars(tower).pop("known", None)


class ImageTower(Tower):
    """Base of towers that read pictures, of each a fixed number of states; a subclass says how pixels are encoded.

    Args:
        config: The tower's ``Config``.
        input_dim: Of no meaning: a pixel has three numbers.
    """

    Config: ClassVar[type[TowerConfig]] = ImageTowerConfig
    modality = "image"
    measured = False
    prepare: Preparation
    """How a picture becomes pixels."""
    states: int
    """How many states a picture has."""

    def __init__(self, config: Any, input_dim: int = 0) -> None:
        super().__init__(config, input_dim)
        # Other weights, other states.
        self.register_load_state_dict_post_hook(_forget)  # type: ignore[no-untyped-call]

    @classmethod
    def idle(cls, config: Any, experiment: Any) -> dict[str, str]:
        """Also what keeps states that are no longer true, where the tower is trained."""
        found = super().idle(config, experiment)
        if config.train:
            found["model.tower.cache"] = "acts only with model.tower.train=false: a tower that learns makes other states each time."
        if config.train or config.cache == "none":
            found["model.tower.cache_gb"] = "acts only where states are kept: model.tower.train=false and model.tower.cache=memory or disk."
        return found

    def reader(self) -> TowerReader:
        return PictureReader(self.prepare, self.states, self.known)

    @cached_property
    def known(self) -> StateCache:
        """States of pictures that were encoded already."""
        config = self.config
        where: Where = "none" if config.train else config.cache
        identity = "" if where != "disk" else tower_fingerprint(self, type(self).__name__, config, self.prepare)
        return StateCache(where, int(config.cache_gb * 1e9), identity)

    @abstractmethod
    def encode(self, pixels: Tensor) -> Tensor:
        """States of pictures: pixels ``[k, 3, size, size]``, uint8, to ``[k, states, output_dim]``."""

    def forward(self, inputs: Pictures) -> Tensor:
        """States of all pictures, one after the other, shape ``[k * states, output_dim]``."""
        if self.known.where == "none":
            return self.encode(inputs.pixels).flatten(0, 1)
        found = {item.key: states for item in inputs.inputs if (states := self.known.get(item.key)) is not None}
        made = [place for place in inputs.made if inputs.inputs[place].key not in found]
        if made:
            at = {place: row for row, place in enumerate(inputs.made)}
            fresh = self.encode(inputs.pixels[[at[place] for place in made]])
            self.known.put([inputs.inputs[place].key for place in made], [*fresh])
            found |= {inputs.inputs[place].key: states for place, states in zip(made, fresh, strict=True)}
        # Known when they were collated, and gone since.
        for item in inputs.inputs:
            if item.key not in found:
                [states] = self.encode(self.prepare(item.load())[None].to(inputs.pixels.device))
                self.known.put([item.key], [states])
                found[item.key] = states
        device = inputs.pixels.device
        return torch.cat([found[item.key].to(device) for item in inputs.inputs])

    def summary(self, states: Tensor, lengths: Sequence[int]) -> Tensor:
        """Of each picture the mean of its states."""
        return states.view(len(lengths), -1, states.shape[1]).mean(dim=1)
