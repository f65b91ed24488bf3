"""GraphSAGE."""

from torch import nn

from graphgpt.models.layered_tower import MessagePassingConfig, MessagePassingTower
from graphgpt.registry import TOWERS
from graphgpt.schema import configclass


@TOWERS.register("sage")
class SAGE(MessagePassingTower):
    r"""A node beside the mean of its neighbours: :math:`W_1 \frac{1}{|N(i)|} \sum_{j \in N(i)} h_j + W_2 h_i + b`.

    Source: Hamilton et al., "Inductive Representation Learning on Large Graphs" (arXiv:1706.02216), algorithm 1 with the mean
    aggregator of section 3.3; layer normalisation stands in for its scaling to unit length.
    """

    @configclass
    class Config(MessagePassingConfig):
        pass

    def convolution(self) -> nn.Module:
        from torch_geometric.nn import SAGEConv

        convolution: nn.Module = SAGEConv(self.config.dim, self.config.dim)
        return convolution
