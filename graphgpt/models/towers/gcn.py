"""Graph convolutional network."""

from torch import nn

from graphgpt.models.layered_tower import MessagePassingConfig, MessagePassingTower
from graphgpt.registry import TOWERS
from graphgpt.schema import configclass


@TOWERS.register("gcn")
class GCN(MessagePassingTower):
    r"""Means over neighbours, weighted by the degrees of both ends: :math:`\hat D^{-1/2} (A + I) \hat D^{-1/2} H W + b`.

    Source: Kipf and Welling, "Semi-Supervised Classification with Graph Convolutional Networks" (arXiv:1609.02907), section 2.
    """

    @configclass
    class Config(MessagePassingConfig):
        pass

    def convolution(self) -> nn.Module:
        from torch_geometric.nn import GCNConv

        convolution: nn.Module = GCNConv(self.config.dim, self.config.dim)
        return convolution
