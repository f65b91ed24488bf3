"""Towers of layers: linear in, L layers, linear out."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from graphgpt.models.position import PositionConfig, positional_features
from graphgpt.models.tower import EdgeDirection, GraphTower, TowerConfig, orient
from graphgpt.schema import configclass

if TYPE_CHECKING:
    from torch_geometric.data import Batch

Activation = Literal["relu", "gelu", "elu", "leaky_relu", "silu"]


@configclass
class LayeredConfig(TowerConfig):
    """What all towers of layers have in common."""

    dim: int = Field(default=128, ge=1)
    """Width inside."""
    output_dim: int = Field(default=128, ge=1)
    """Width of the node states, unless ``select_layer`` names an inner layer: those are ``dim`` wide."""
    layers: int = Field(default=2, ge=0)
    """L."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """In training only (a frozen tower has none)."""
    edge_direction: EdgeDirection = "undirected"
    """As released, messages flow outward from the centre; ``undirected`` lets the centre hear its neighbours too."""
    position: PositionConfig = PositionConfig()
    """Positional features, which stand behind a node's own before the first projection."""
    select_layer: int = -1
    """Which states become tokens: 0 those of the first projection, k those of layer k; counted from the end if negative. The last
    ones, and no others, pass through the projection out."""


class LayeredTower(GraphTower):
    """Base of towers of layers, which have weights; a subclass has the layers, and runs them with :meth:`run_layers`.

    Args:
        config: The tower's ``Config``.
        input_dim: Width of the raw inputs' features.
    """

    Config: ClassVar[type[TowerConfig]] = LayeredConfig

    @staticmethod
    def problems(config: Any) -> list[str]:
        """A ``select_layer`` that is none of the layers."""
        if not -config.layers - 1 <= config.select_layer <= config.layers:
            return [
                f"model.tower.select_layer: there is no layer {config.select_layer}; "
                f"model.tower.layers={config.layers} takes {-config.layers - 1} to {config.layers}."
            ]
        return []

    @classmethod
    def idle(cls, config: Any, experiment: Any) -> dict[str, str]:
        """Also what is about layers where none is run, and the width out where an inner layer is taken."""
        found = super().idle(config, experiment)
        taken = f"model.tower.select_layer={config.select_layer} of model.tower.layers={config.layers}"
        if _depth(config) == 0:
            of_layers = ("edge_direction", "activation", "residual", "norm", "version", "heads")
            found |= {f"model.tower.{name}": f"changes nothing, for no layer is run by {taken}." for name in of_layers}
        if _depth(config) < config.layers:
            found["model.tower.output_dim"] = f"changes nothing, for {taken} is an inner one and as wide as model.tower.dim={config.dim}."
        return found

    def __init__(self, config: Any, input_dim: int) -> None:
        super().__init__(config, input_dim)
        self.depth = _depth(config)
        self.output_dim = config.output_dim if self.depth == config.layers else config.dim

    @property
    def first_dim(self) -> int:
        """Width of what the first projection reads: a node's features and its positional ones."""
        return self.input_dim + int(self.config.position.width)

    @abstractmethod
    def encode(self, x: Tensor, edge_index: Tensor, batch: Tensor | None = None) -> Tensor:
        """States of all nodes of a disjoint union of graphs.

        Args:
            x: Features, shape ``[N, d]``, dtype of the weights.
            edge_index: Shape ``[2, e]``, int64.
            batch: Which graph each node is of, in ascending order, shape ``[N]``, int64; None: all of one.

        Returns:
            Shape ``[N, output_dim]``, dtype of the weights.
        """

    def forward(self, inputs: "Batch") -> Tensor:
        x = inputs.x.to(next(self.parameters()).dtype)
        return self.pool(self.encode(x, inputs.edge_index, inputs.batch), inputs)

    def with_position(self, x: Tensor, edge_index: Tensor, batch: Tensor | None) -> Tensor:
        """Features and positional features side by side, shape ``[N, first_dim]``, dtype of ``x``."""
        if self.config.position.name == "none":
            return x
        batch = torch.zeros(len(x), dtype=torch.int64, device=x.device) if batch is None else batch
        return torch.cat([x, positional_features(self.config.position, edge_index, batch, training=self.training).to(x)], dim=1)

    def run_layers(self, h: Tensor, layers: Sequence[nn.Module], last: nn.Module, *args: Any) -> Tensor:
        """The states that ``select_layer`` names, shape ``[N, output_dim]``, from those of the first projection, shape ``[N, dim]``.

        Args:
            h: States.
            layers: Each takes states and ``args``.
            last: The projection out.
            args: Edges and such.
        """
        for layer in layers[: self.depth]:
            h = layer(h, *args)
        if self.depth == self.config.layers:
            states: Tensor = last(h)
            return states
        # Times zero: a trained parameter outside the graph would stop distributed training.
        unused = [p for module in (*layers[self.depth :], last) for p in module.parameters() if p.requires_grad]
        return h + sum((p.sum() for p in unused), h.new_zeros(())) * 0.0


def _depth(config: Any) -> int:
    """How many of its layers a tower runs."""
    depth: int = config.select_layer % (config.layers + 1)
    return depth


def heads_problems(config: Any) -> list[str]:
    """What keeps attention heads from sharing the width evenly, one sentence."""
    if config.dim % config.heads:
        return [f"model.tower.heads: {config.heads} heads do not divide model.tower.dim={config.dim}."]
    return []


@configclass
class MessagePassingConfig(LayeredConfig):
    """What all towers have in common that repeat a graph convolution."""

    activation: Activation = "relu"
    """After each convolution."""
    residual: bool = True
    """Whether a layer adds to the states it reads, or replaces them."""
    norm: bool = True
    """Layer normalisation after each convolution."""


class MessagePassingLayer(nn.Module):
    r"""A graph convolution and what goes around it: :math:`h' = h + \mathrm{dropout}(\sigma(\mathrm{LN}(\mathrm{conv}(h))))`.

    The normalisation is per node: one over the batch would let a node's state depend on what stands beside its graph.
    """

    def __init__(self, convolution: nn.Module, config: MessagePassingConfig) -> None:
        from torch_geometric.nn.resolver import activation_resolver

        super().__init__()
        self.convolution = convolution
        self.norm = nn.LayerNorm(config.dim) if config.norm else nn.Identity()
        self.activation = activation_resolver(config.activation)
        self.dropout = nn.Dropout(config.dropout)
        self.residual = config.residual

    def forward(self, h: Tensor, edge_index: Tensor, batch: Tensor | None) -> Tensor:
        """Node states ``[N, d]`` and edges ``[2, e]`` to node states ``[N, d]``; messages flow from row 0 to row 1."""
        change: Tensor = self.dropout(self.activation(self.norm(self.convolution(h, edge_index))))
        return h + change if self.residual else change


class MessagePassingTower(LayeredTower):
    """Base of towers that repeat a layer of PyG's; a subclass says which convolution, or which layer."""

    Config: ClassVar[type[TowerConfig]] = MessagePassingConfig

    def __init__(self, config: Any, input_dim: int) -> None:
        super().__init__(config, input_dim)
        self.first = nn.Linear(self.first_dim, config.dim)
        self.layers = nn.ModuleList(self.layer() for _ in range(config.layers))
        self.last = nn.Linear(config.dim, config.output_dim)

    def convolution(self) -> nn.Module:
        """A new one, which takes states ``[N, dim]`` and edges ``[2, e]`` to states ``[N, dim]``."""
        raise NotImplementedError

    def layer(self) -> nn.Module:
        """A new layer, which takes states ``[N, dim]``, edges ``[2, e]`` and ``batch`` to states ``[N, dim]``."""
        return MessagePassingLayer(self.convolution(), self.config)

    def encode(self, x: Tensor, edge_index: Tensor, batch: Tensor | None = None) -> Tensor:
        """Node states, shape ``[N, output_dim]``, dtype of the weights."""
        h = self.first(self.with_position(x, edge_index, batch))
        # PyG's messages flow from row 0 to row 1, the released data's from row 1 to row 0.
        edges = orient(edge_index, self.config.edge_direction).flip(0)
        return self.run_layers(h, [*self.layers], self.last, edges, batch)
