"""Graph isomorphism network."""

from torch import nn

from graphgpt.models.layered_tower import MessagePassingConfig, MessagePassingTower
from graphgpt.registry import TOWERS
from graphgpt.schema import configclass


@TOWERS.register("gin")
class GIN(MessagePassingTower):
    r"""Sums over neighbours, which tell apart what means do not, through two linear layers:
    :math:`\mathrm{MLP}(h_i + \sum_{j \in N(i)} h_j)`.

    Source: Xu et al., "How Powerful are Graph Neural Networks?" (arXiv:1810.00826), section 4.1; GIN-0, whose
    :math:`\epsilon` is zero.
    """

    @configclass
    class Config(MessagePassingConfig):
        pass

    def convolution(self) -> nn.Module:
        from torch_geometric.nn import GINConv
        from torch_geometric.nn.resolver import activation_resolver

        dim = self.config.dim
        mlp = nn.Sequential(nn.Linear(dim, dim), activation_resolver(self.config.activation), nn.Linear(dim, dim))
        convolution: nn.Module = GINConv(mlp)
        return convolution
