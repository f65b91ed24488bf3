"""Features averaged over neighbours, without a parameter."""

import torch
from torch import Tensor
from torch.nn import functional


def smoothed(x: Tensor, edge_index: Tensor, hops: int) -> list[Tensor]:
    r"""Features and their averages over neighbours once, twice, ...: :math:`S^k x` with :math:`S = \hat D^{-1/2} (A + I) \hat D^{-1/2}`.

    Source: Wu et al., "Simplifying Graph Convolutional Networks" (arXiv:1902.07153), section 2.

    Args:
        x: Features, shape ``[n, d]``.
        edge_index: Each edge both ways, shape ``[2, e]``, int64.
        hops: How often.

    Returns:
        ``hops + 1`` tensors of shape ``[n, d]``; each row has unit root mean square, for averaging shrinks.
    """
    from torch_geometric.nn.conv.gcn_conv import gcn_norm

    (source, target), weight = gcn_norm(edge_index, num_nodes=len(x), dtype=x.dtype)
    powers = [x]
    for _ in range(hops):
        powers.append(torch.zeros_like(x).index_add(0, target, weight[:, None] * powers[-1][source]))
    return [functional.normalize(power, dim=1) * power.shape[1] ** 0.5 for power in powers]
