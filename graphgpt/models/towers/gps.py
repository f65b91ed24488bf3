"""General, powerful, scalable graph transformer."""

from pydantic import Field
from torch import nn

from graphgpt.models.layered_tower import Activation, LayeredConfig, LayeredTower, MessagePassingTower, heads_problems
from graphgpt.models.position import PositionConfig
from graphgpt.registry import TOWERS
from graphgpt.schema import configclass


@TOWERS.register("gps")
class GPS(MessagePassingTower):
    r"""Each layer is messages along edges and attention among all nodes of a subgraph, summed, then two linear layers:
    :math:`u = \mathrm{LN}(h + \mathrm{GIN}(h)) + \mathrm{LN}(h + \mathrm{MHA}(h))`, :math:`h' = \mathrm{LN}(u + \mathrm{MLP}(u))`.

    Source: Rampasek et al., "Recipe for a General, Powerful, Scalable Graph Transformer" (arXiv:2205.12454), section 3.1. Its
    GINE becomes GIN, for there are no edge features, and its batch normalisation is per node.
    """

    @configclass
    class Config(LayeredConfig):
        heads: int = Field(default=4, ge=1)
        """Attention heads; divides ``dim``."""
        activation: Activation = "relu"
        """Between linear layers."""
        position: PositionConfig = PositionConfig(name="random_walk")
        """As of all towers of layers; here the attention would not see edges without it."""

    @staticmethod
    def problems(config: Config) -> list[str]:
        return [*LayeredTower.problems(config), *heads_problems(config)]

    def layer(self) -> nn.Module:
        from torch_geometric.nn import GINConv, GPSConv
        from torch_geometric.nn.resolver import activation_resolver

        dim, activation = self.config.dim, self.config.activation
        local = GINConv(nn.Sequential(nn.Linear(dim, dim), activation_resolver(activation), nn.Linear(dim, dim)))
        norm = {"norm": "layer_norm", "norm_kwargs": {"mode": "node"}}
        layer: nn.Module = GPSConv(dim, local, heads=self.config.heads, dropout=self.config.dropout, act=activation, **norm)
        return layer
