"""Node features as they are."""

from torch import Tensor

from graphgpt.models.tower import GraphTower, TowerConfig
from graphgpt.registry import TOWERS
from graphgpt.schema import configclass


@TOWERS.register("identity")
class Identity(GraphTower):
    """Passes node features on; the projector alone learns, and edges matter only through which nodes were sampled."""

    has_weights = False

    @configclass
    class Config(TowerConfig):
        pass

    def __init__(self, config: Config, input_dim: int) -> None:
        super().__init__(config, input_dim)
        self.output_dim = input_dim

    def encode(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """Node features, shape ``[N, d]``."""
        return x
