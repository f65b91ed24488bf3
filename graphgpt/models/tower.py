"""What a tower is: raw inputs in, one vector per modality token out."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from graphgpt.graphs.subgraph import Pool
from graphgpt.schema import configclass

if TYPE_CHECKING:
    from torch_geometric.data import Batch

    from graphgpt.graphs.subgraph import GraphInput

EdgeDirection = Literal["as_released", "reversed", "undirected"]


@configclass
class TowerConfig:
    """What all towers have in common."""

    name: str
    """Name of a registered tower."""
    train: bool = False
    """Whether its weights are trained; a frozen tower runs in eval mode."""


class Tower(nn.Module, ABC):
    """Base of all towers, whatever they read; register subclasses with ``@TOWERS.register(name)``.

    Args:
        config: The tower's ``Config``.
        input_dim: Width of the raw inputs' features.
    """

    Config: ClassVar[type[TowerConfig]] = TowerConfig
    output_dim: int
    """Width of the vectors that ``forward`` returns."""

    def __init__(self, config: Any, input_dim: int) -> None:
        super().__init__()
        self.config = config
        self.input_dim = input_dim

    @staticmethod
    @abstractmethod
    def collate(inputs: Sequence[Any]) -> Any:
        """Join the inputs of a batch into one object with a ``to(device)``, so that the tower runs once per step."""

    @abstractmethod
    def forward(self, inputs: Any) -> Tensor:
        """Vectors of all inputs of a batch, one after the other, shape ``[N, output_dim]``."""


class GraphTower(Tower):
    """Base of towers that read subgraphs; a subclass says how the nodes of their disjoint union are encoded."""

    @staticmethod
    def collate(inputs: "Sequence[GraphInput]") -> "Batch":
        from torch_geometric.data import Batch, Data

        joined: Batch = Batch.from_data_list([Data(x=item.x, edge_index=item.edge_index) for item in inputs])
        sizes = torch.tensor([item.num_tokens for item in inputs])
        starts = torch.cat([torch.zeros(1, dtype=torch.int64), sizes.cumsum(0)])
        pools = [item.pool or _one_node_per_token(item.num_tokens) for item in inputs]
        joined.pool_node = torch.cat([pool.node + int(first) for pool, first in zip(pools, joined.ptr, strict=False)])
        joined.pool_token = torch.cat([pool.token + int(first) for pool, first in zip(pools, starts, strict=False)])
        joined.pool_weight = torch.cat([pool.weight for pool in pools])
        joined.num_tokens = int(starts[-1])
        return joined

    @abstractmethod
    def encode(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """States of all nodes: features ``[N, d]`` and edges ``[2, e]`` to ``[N, output_dim]``."""

    def forward(self, inputs: "Batch") -> Tensor:
        """The tokens of all subgraphs, one after the other, shape ``[tokens, output_dim]``."""
        return self.pool(self.encode(inputs.x, inputs.edge_index), inputs)

    @staticmethod
    def pool(states: Tensor, inputs: "Batch") -> Tensor:
        """Tokens as weighted sums of node states, as the inputs' ``Pool`` says: ``[N, c]`` to ``[tokens, c]``."""
        weighted = inputs.pool_weight[:, None].to(states.dtype) * states[inputs.pool_node]
        return states.new_zeros(inputs.num_tokens, states.shape[1]).index_add(0, inputs.pool_token, weighted)


def _one_node_per_token(num_tokens: int) -> Pool:
    first = torch.arange(num_tokens)
    return Pool(node=first, token=first, weight=torch.ones(num_tokens))


def orient(edge_index: Tensor, direction: EdgeDirection) -> Tensor:
    """Edges in the direction asked for, shape ``[2, e]``, int64; ``undirected`` has each edge both ways, once.

    As released, row 0 is the neighbour and row 1 the node nearer to the centre.
    """
    if direction == "as_released":
        return edge_index
    if direction == "reversed":
        return edge_index.flip(0)
    both: Tensor = torch.cat([edge_index, edge_index.flip(0)], dim=1).unique(dim=1)
    return both
