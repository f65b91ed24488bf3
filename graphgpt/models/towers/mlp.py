"""Linear layers on each node by itself."""

from typing import Any

from torch import Tensor, nn

from graphgpt.models.layered_tower import MessagePassingConfig, MessagePassingTower
from graphgpt.registry import TOWERS
from graphgpt.schema import configclass


class NodeLinear(nn.Linear):
    """A linear layer in the place of a convolution."""

    def forward(self, h: Tensor, edge_index: Tensor) -> Tensor:  # type: ignore[override]
        """Node states ``[N, d]`` to node states ``[N, d]``; edges are not read."""
        return super().forward(h)


@TOWERS.register("mlp")
class MLP(MessagePassingTower):
    """The same layers without messages: what a tower owes to the edges is what it has before this one.

    Edges matter only through which nodes were sampled, and through ``position`` where there is one; ``edge_direction`` does not.
    """

    @configclass
    class Config(MessagePassingConfig):
        pass

    @classmethod
    def idle(cls, config: Any, experiment: Any) -> dict[str, str]:
        """Also the direction of the edges, which it does not read."""
        found = super().idle(config, experiment)
        return {"model.tower.edge_direction": "changes nothing, for model.tower.name=mlp reads no edges."} | found

    def convolution(self) -> nn.Module:
        return NodeLinear(self.config.dim, self.config.dim)
