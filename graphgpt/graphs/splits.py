"""Which nodes are for training, validation and test."""

import numpy as np
import torch
from torch import Tensor

from graphgpt.errors import DataError
from graphgpt.graphs.dataset import SplitConfig
from graphgpt.graphs.graph import SPLITS, TextAttributedGraph


def split_nodes(graph: TextAttributedGraph, config: SplitConfig) -> Tensor:
    """Assign every labelled node to a split.

    Returns:
        Index into ``SPLITS`` per node, -1 where unlabelled, shape ``[n]``, int8.

    Raises:
        DataError: the data bring no split although it was asked for, or a split would be empty.
    """
    if config.name == "given":
        if graph.split is None:
            raise DataError(f"dataset.split.name is 'given', but the graph '{graph.card['name']}' brings no split; use 'random'.")
        split = torch.where(graph.y >= 0, graph.split, torch.full_like(graph.split, -1))
    else:
        if config.train + config.val >= 1:
            raise DataError(f"dataset.split: train {config.train} and val {config.val} leave nothing for test; their sum must be below 1.")
        labelled = (graph.y >= 0).nonzero().flatten().numpy()
        # RandomState's stream is frozen by numpy's policy, so the split is the same under every version.
        order = np.random.RandomState(config.seed).permutation(labelled)
        train, val = round(config.train * len(order)), round((config.train + config.val) * len(order))
        split = torch.full((graph.num_nodes,), -1, dtype=torch.int8)
        for index, part in enumerate((order[:train], order[train:val], order[val:])):
            split[torch.from_numpy(part)] = index
    for index, name in enumerate(SPLITS):
        if name != "val" and not (split == index).any():
            raise DataError(f"The {name} split of the graph '{graph.card['name']}' is empty ({int((graph.y >= 0).sum())} labelled nodes).")
    return split
