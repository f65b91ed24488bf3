"""Parameter-free smoothing over the subgraph."""

import torch
from pydantic import Field
from torch import Tensor

from graphgpt.graphs.smoothing import smoothed
from graphgpt.models.tower import GraphTower, TowerConfig, orient
from graphgpt.registry import TOWERS
from graphgpt.schema import configclass


@TOWERS.register("sgc")
class SGC(GraphTower):
    r"""Simplified graph convolution: :math:`S^k X` with :math:`S = \hat D^{-1/2} (A + I) \hat D^{-1/2}`.

    Sources: Wu et al., "Simplifying Graph Convolutional Networks" (arXiv:1902.07153), section 2; keeping every power side
    by side is SIGN (Frasca et al., arXiv:2004.11198), section 3. Each node's state is scaled to unit root mean square.
    """

    has_weights = False

    @configclass
    class Config(TowerConfig):
        hops: int = Field(default=2, ge=0)
        """k, how often features are averaged over neighbours."""
        keep_all: bool = True
        """Whether a node's state is X, SX, ..., S^k X side by side, or the last alone."""

    def __init__(self, config: Config, input_dim: int) -> None:
        super().__init__(config, input_dim)
        self.output_dim = input_dim * (config.hops + 1 if config.keep_all else 1)

    def encode(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """Smoothed features, shape ``[N, d * (hops + 1)]`` or ``[N, d]``, dtype of ``x``."""
        # Unit root mean square per node and power lets a projector of any start treat all alike.
        powers = smoothed(x, orient(edge_index, "undirected"), self.config.hops)
        return torch.cat(powers if self.config.keep_all else powers[-1:], dim=1)
