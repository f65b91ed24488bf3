"""GraphGPT's graph transformer."""

import torch
from pydantic import Field
from torch import Tensor, nn

from graphgpt.models.layered_tower import LayeredConfig, LayeredTower, heads_problems
from graphgpt.models.tower import orient
from graphgpt.registry import TOWERS
from graphgpt.schema import configclass


class GraphTransformerLayer(nn.Module):
    r"""Multi-head attention along edges, exactly as GraphGPT's released weights expect it.

    For an edge (r, c) and a head: :math:`a_{rc} = \exp(\mathrm{clamp}(q_r \cdot k_c, -10, 10))`, normalised over the edges of
    r with :math:`10^{-8}` added to the sum; :math:`h_r' = \mathrm{LN}(h_r + \sum_c a_{rc} v_c)`. The scores are not scaled
    by the width, projections have no bias, and there are no self-loops. Parameter names are the released ones.
    """

    def __init__(self, dim: int, heads: int, norm: bool) -> None:
        super().__init__()
        self.heads = heads
        self.qTrans, self.kTrans, self.vTrans = (nn.Parameter(nn.init.xavier_uniform_(torch.empty(dim, dim))) for _ in range(3))
        self.norm = nn.LayerNorm(dim, eps=1e-6) if norm else nn.Identity()

    def forward(self, h: Tensor, edge_index: Tensor) -> Tensor:
        """Node states ``[N, d]`` and edges ``[2, e]`` to node states ``[N, d]``; messages flow from row 1 to row 0."""
        rows, cols = edge_index
        q, k, v = ((h @ weight).view(len(h), self.heads, -1) for weight in (self.qTrans, self.kTrans, self.vTrans))
        score = (q[rows] * k[cols]).sum(dim=-1).clamp(-10, 10).exp()
        total = torch.zeros(len(h), self.heads, dtype=h.dtype, device=h.device).index_add(0, rows, score)
        attention = score / (total[rows] + 1e-8)
        message = torch.zeros_like(v).index_add(0, rows, attention[..., None] * v[cols])
        result: Tensor = self.norm(message.flatten(1) + h)
        return result


@TOWERS.register("graph_transformer")
class GraphTransformer(LayeredTower):
    """Linear in, L attention layers over edges, linear out (GraphGPT, arXiv:2310.13023, section 3.1; code and weights released)."""

    @configclass
    class Config(LayeredConfig):
        layers: int = Field(default=3, ge=0)
        """L."""
        heads: int = Field(default=8, ge=1)
        """Attention heads; divides ``dim``."""
        norm: bool = True
        """Layer normalisation after each layer."""
        dropout: float = Field(default=0.1, ge=0, lt=1)
        """On the first projection, in training only (a frozen tower has none)."""
        use_position: bool = False
        """Whether the released weights' constant position vector is added."""

    @staticmethod
    def problems(config: Config) -> list[str]:
        return [*LayeredTower.problems(config), *heads_problems(config)]

    def __init__(self, config: Config, input_dim: int) -> None:
        super().__init__(config, input_dim)
        self.W_pos = nn.Parameter(nn.init.xavier_uniform_(torch.empty(1, config.dim)))
        self.W_P = nn.Linear(self.first_dim, config.dim)
        self.dropout = nn.Dropout(config.dropout)
        self.gtLayers = nn.ModuleList(GraphTransformerLayer(config.dim, config.heads, config.norm) for _ in range(config.layers))
        self.inverW_P = nn.Linear(config.dim, config.output_dim)

    def encode(self, x: Tensor, edge_index: Tensor, batch: Tensor | None = None) -> Tensor:
        """Node states, shape ``[N, output_dim]``, dtype of the weights."""
        # Times zero where it is not used: a trained parameter outside the graph would stop distributed training.
        h = self.dropout(self.W_P(self.with_position(x, edge_index, batch)) + self.W_pos * float(self.config.use_position))
        return self.run_layers(h, [*self.gtLayers], self.inverW_P, orient(edge_index, self.config.edge_direction))
