"""Patches of pixels through one layer: a tower small enough for tests, and the floor that others are held against."""

from pydantic import Field
from torch import Tensor, nn

from graphgpt.models.image_tower import ImageTower, ImageTowerConfig, Preparation
from graphgpt.registry import TOWERS
from graphgpt.schema import configclass


@TOWERS.register("pixels")
class Pixels(ImageTower):
    """Square patches, each through one linear layer and a ReLU: the first layer of a vision transformer (arXiv:2010.11929, section 3.1)."""

    @configclass
    class Config(ImageTowerConfig):
        size: int = Field(default=64, ge=8, le=1024)
        """Pixels along each side that a picture is brought to."""
        patch: int = Field(default=16, ge=1)
        """Pixels along each side of a patch."""
        output_dim: int = Field(default=64, ge=1)
        """Width of the states."""

    @staticmethod
    def problems(config: Config) -> list[str]:
        """Patches that do not fill a picture."""
        if config.size % config.patch:
            return [f"model.tower.patch: patches of {config.patch} do not fill model.tower.size={config.size}."]
        return []

    def __init__(self, config: Config, input_dim: int = 0) -> None:
        super().__init__(config, input_dim)
        self.output_dim = config.output_dim
        self.prepare = Preparation(size=config.size)
        self.states = (config.size // config.patch) ** 2
        self.project = nn.Conv2d(3, config.output_dim, config.patch, config.patch)

    def encode(self, pixels: Tensor) -> Tensor:
        """States, shape ``[k, patches, output_dim]``, row by row."""
        states: Tensor = self.project(pixels.to(self.project.weight.dtype) / 127.5 - 1).relu()
        return states.flatten(2).transpose(1, 2)
