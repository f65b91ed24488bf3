"""GraphGPT's parameter-free message passing."""

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from graphgpt.models.tower import EdgeDirection, GraphTower, TowerConfig, orient
from graphgpt.registry import TOWERS
from graphgpt.schema import configclass


@TOWERS.register("mpnn")
class MPNN(GraphTower):
    r"""L steps of :math:`h' = \mathrm{dropout}(\mathrm{ReLU}(\mathrm{norm}(S h)))` with
    :math:`S = \hat D^{-1/2} (A + I) \hat D^{-1/2}`; nothing to learn.

    Source: the tower ``MPNN`` of GraphGPT's code (arXiv:2310.13023). The original normalises over the nodes of a batch, without
    parameters, so that a node's state depends on which others stand beside it, and kept statistics a tower that is never
    trained does not have: here the norm is over a node's own features.
    """

    has_weights = False

    @configclass
    class Config(TowerConfig):
        layers: int = Field(default=2, ge=0)
        """L."""
        dropout: float = Field(default=0.1, ge=0, lt=1)
        """In training only (a frozen tower has none)."""
        edge_direction: EdgeDirection = "undirected"
        """As released, messages flow outward from the centre; ``undirected`` lets the centre hear its neighbours too."""

    def __init__(self, config: Config, input_dim: int) -> None:
        from torch_geometric.nn import LGConv

        super().__init__(config, input_dim)
        self.output_dim = input_dim
        self.smooth = LGConv()
        self.dropout = nn.Dropout(config.dropout)

    def encode(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """Smoothed features, shape ``[N, d]``, dtype of ``x``."""
        from torch_geometric.utils import add_remaining_self_loops

        # PyG's messages flow from row 0 to row 1, the released data's from row 1 to row 0.
        edges, _ = add_remaining_self_loops(orient(edge_index, self.config.edge_direction).flip(0), num_nodes=len(x))
        for _ in range(self.config.layers):
            x = self.dropout(functional.layer_norm(self.smooth(x, edges), x.shape[1:]).relu())
        return x
