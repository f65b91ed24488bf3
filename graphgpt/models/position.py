"""Positional features: where in its subgraph a node stands, told from the edges alone."""

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from graphgpt.schema import ActsWith, configclass

#: Eigenvalues from here on are more than rounding errors of zero.
_POSITIVE = 1e-6


@configclass
class PositionConfig:
    """Which positional features stand behind a node's own."""

    name: Literal["none", "laplacian", "random_walk"] = "none"
    """Eigenvectors of the Laplacian, probabilities that a random walk is back, or none."""
    dim: Annotated[int, ActsWith(name=("laplacian", "random_walk"))] = Field(default=8, ge=1)
    """How many eigenvectors, or how many steps."""

    @property
    def width(self) -> int:
        """Features per node."""
        return 0 if self.name == "none" else self.dim


def positional_features(config: PositionConfig, edge_index: Tensor, batch: Tensor, *, training: bool) -> Tensor:
    """Positional features of all nodes of a disjoint union of subgraphs; edges are taken both ways, without weights.

    The adjacency matrices are dense: for subgraphs, and for whole graphs of up to some thousand nodes.

    Args:
        config: Which.
        edge_index: Shape ``[2, e]``, int64.
        batch: Which subgraph each node is of, in ascending order, shape ``[N]``, int64.
        training: Whether eigenvectors get random signs, as in the paper, for they have none of their own; each subgraph its own.

    Returns:
        Shape ``[N, config.width]``, float32.
    """
    from torch_geometric.utils import to_dense_adj

    sizes = batch.bincount()
    most = int(sizes.max())
    one_way = to_dense_adj(edge_index, batch, batch_size=len(sizes), max_num_nodes=most)
    adjacency = (one_way + one_way.mT).clamp(max=1)
    if config.name == "random_walk":
        features = random_walk(adjacency, config.dim)
    else:
        features = laplacian(adjacency.cpu().double(), sizes.tolist(), config.dim).to(adjacency)
        if training:
            features = features * (torch.randint(2, (len(sizes), 1, config.dim), device=features.device) * 2 - 1)
    return features[torch.arange(most, device=batch.device) < sizes[:, None]]


def random_walk(adjacency: Tensor, dim: int) -> Tensor:
    r"""Probability that a random walk is back where it began after 1, ..., ``dim`` steps: :math:`(D^{-1} A)^k_{ii}`.

    Source: Dwivedi et al., "Graph Neural Networks with Learnable Structural and Positional Representations"
    (arXiv:2110.07875), section 3.2. Zero for nodes without edges.

    Args:
        adjacency: Of each graph, symmetric, padded with zeros, shape ``[b, n, n]``.
        dim: Steps.

    Returns:
        Shape ``[b, n, dim]``, dtype of ``adjacency``.
    """
    # Powers of D^-1/2 A D^-1/2 have the same diagonals, and of symmetric matrices that of a product needs no product: half of them do.
    powers = [_normalised(adjacency)]
    while 2 * len(powers) < dim:
        powers.append(powers[-1] @ powers[0])
    back = [power.diagonal(dim1=1, dim2=2) for power in powers]
    back += [(powers[-1] * power).sum(dim=2) for power in powers]
    return torch.stack(back[:dim], dim=2)


def laplacian(adjacency: Tensor, sizes: Sequence[int], dim: int) -> Tensor:
    r"""Eigenvectors of :math:`L = I - D^{-1/2} A D^{-1/2}` with the smallest eigenvalues above zero.

    Source: Dwivedi et al., "Benchmarking Graph Neural Networks" (arXiv:2003.00982), section 4.1. An eigenvalue of zero tells no more
    than which nodes hang together. Of the two signs of an eigenvector the one that makes its largest entry positive is taken, the first
    such entry if there are several. A repeated eigenvalue, as of leaves at the same node, has no eigenvectors of its own: there, and
    where a symmetry turns an eigenvector round, the order of the nodes decides.

    Args:
        adjacency: Of each graph, symmetric, padded with zeros, shape ``[b, n, n]``, float64, on the processor, which is as fast at
            matrices this small as any device.
        sizes: Nodes of each graph.
        dim: How many eigenvectors; behind those that there are, zeros.

    Returns:
        Shape ``[b, n, dim]``, dtype of ``adjacency``; zero for nodes without edges.
    """
    linked = adjacency.any(dim=2).to(adjacency)
    matrices = linked.diag_embed() - _normalised(adjacency)
    found = adjacency.new_zeros(*adjacency.shape[:2], dim)
    # One by one and unpadded: else what stands beside a graph could turn the eigenvectors of a repeated eigenvalue.
    for vectors, matrix, size in zip(found, matrices, sizes, strict=True):
        values, own = torch.linalg.eigh(matrix[:size, :size])
        own = own[:, values > _POSITIVE][:, :dim]
        vectors[:size, : own.shape[1]] = own
    # Rounded, so that entries that are equal but for rounding errors count as equal.
    largest = found.abs().round(decimals=6).argmax(dim=1, keepdim=True)
    return found * found.gather(1, largest).sign()


def _normalised(adjacency: Tensor) -> Tensor:
    r""":math:`D^{-1/2} A D^{-1/2}`, shape ``[b, n, n]``; zero where a node has no edges."""
    scale = adjacency.sum(dim=2).clamp(min=1).rsqrt()
    return scale[:, :, None] * adjacency * scale[:, None]
