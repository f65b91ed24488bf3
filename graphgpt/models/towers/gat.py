"""Graph attention network."""

from typing import Literal

from pydantic import Field
from torch import nn

from graphgpt.models.layered_tower import Activation, LayeredTower, MessagePassingConfig, MessagePassingTower, heads_problems
from graphgpt.registry import TOWERS
from graphgpt.schema import configclass


@TOWERS.register("gat")
class GAT(MessagePassingTower):
    r"""Attention over neighbours and the node itself, the heads side by side: :math:`\sum_j \alpha_{ij} W h_j + b`, where
    :math:`\alpha_i = \mathrm{softmax}_j(e_{ij})`.

    Version 1: :math:`e_{ij} = \mathrm{LeakyReLU}(a^\top [W h_i, W h_j])` (Velickovic et al., "Graph Attention Networks",
    arXiv:1710.10903, section 2.1), in which all nodes rank their neighbours alike. Version 2 lets each rank its own:
    :math:`e_{ij} = a^\top \mathrm{LeakyReLU}(W_1 h_i + W_2 h_j)` (Brody et al., "How Attentive are Graph Attention Networks?",
    arXiv:2105.14491, section 3.2), with :math:`W_2` for :math:`W`. Slope 0.2; dropout also on the attention.
    """

    @configclass
    class Config(MessagePassingConfig):
        version: Literal[1, 2] = 1
        """Of the paper."""
        heads: int = Field(default=8, ge=1)
        """Attention heads; divides ``dim``."""
        activation: Activation = "elu"
        """After each convolution."""

    @staticmethod
    def problems(config: Config) -> list[str]:
        return [*LayeredTower.problems(config), *heads_problems(config)]

    def convolution(self) -> nn.Module:
        from torch_geometric.nn import GATConv, GATv2Conv

        attention = {1: GATConv, 2: GATv2Conv}[self.config.version]
        width = self.config.dim // self.config.heads
        convolution: nn.Module = attention(self.config.dim, width, self.config.heads, dropout=self.config.dropout)
        return convolution
