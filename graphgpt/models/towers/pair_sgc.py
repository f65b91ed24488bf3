"""Smoothed features beside what they have in common with the other subgraph of a question."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from graphgpt.models.tower import GraphReader, GraphTower
from graphgpt.models.towers.sgc import SGC
from graphgpt.prompts.reader import TowerReader
from graphgpt.registry import TOWERS
from graphgpt.schema import configclass

if TYPE_CHECKING:
    from torch_geometric.data import Batch

    from graphgpt.graphs.subgraph import GraphInput


@dataclass(frozen=True)
class PairReader(GraphReader):
    """Joins subgraphs and their partners, and notes whose is whose."""

    def collate(self, inputs: "Sequence[GraphInput]") -> "Batch":
        # Partners are encoded like the inputs and become no tokens of their own.
        partners = [replace(item.partner, num_tokens=0, pool=None) for item in inputs if item.partner is not None]
        joined = super().collate([*inputs, *partners])
        centres = iter(joined.ptr[len(inputs) : -1].tolist())
        found = [-1 if item.partner is None else next(centres) for item in inputs] + [-1] * len(partners)
        joined.partner = torch.repeat_interleave(torch.tensor(found), joined.ptr.diff())
        return joined


@TOWERS.register("pair_sgc")
class PairSGC(GraphTower):
    r"""For every power k of :class:`SGC` a node's state :math:`s_k`, its product with that of the partner's centre
    :math:`s_k \odot t_k`, and their cosine times the root of the width; zero where an input has no partner.

    A language model must otherwise learn to compare two tokens from a few thousand answers. Comparing across two graphs
    inside the encoder is that of graph matching networks (Li et al., arXiv:1904.12787, section 3.2), the product is the
    Hadamard operator of node2vec (Grover and Leskovec, arXiv:1607.00653, table 1).
    """

    has_weights = False

    @configclass
    class Config(SGC.Config):
        pass

    def __init__(self, config: Config, input_dim: int) -> None:
        super().__init__(config, input_dim)
        self.sgc = SGC(config, input_dim)
        self.powers = self.sgc.output_dim // input_dim
        self.output_dim = 2 * self.sgc.output_dim + self.powers

    def reader(self) -> TowerReader:
        return PairReader()

    def encode(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """Smoothed features of all nodes, shape ``[N, d * powers]``."""
        return self.sgc.encode(x, edge_index)

    def forward(self, inputs: "Batch") -> Tensor:
        """Tokens, shape ``[tokens, (2 d + 1) * powers]``."""
        states = self.encode(inputs.x, inputs.edge_index).unflatten(1, (self.powers, -1))
        common = states * states[inputs.partner] * (inputs.partner >= 0)[:, None, None]
        cosine = common.mean(dim=2) * common.shape[2] ** 0.5
        return self.pool(torch.cat([states.flatten(1), common.flatten(1), cosine], dim=1), inputs)
