"""Which pictures are for training, validation and test."""

import dataclasses

import torch
from torch import Tensor

from graphgpt.graphs.dataset import SplitConfig
from graphgpt.graphs.splits import Parts, split_items
from graphgpt.images.collection import Collection


def split_pictures(collection: Collection, config: SplitConfig, *, needs_labels: bool) -> Tensor:
    """Assign pictures to splits; a variant goes where the picture goes that it is a variant of.

    Returns:
        Index into ``SPLITS`` per picture, -1 for none, shape ``[n]``, int8.

    Raises:
        DataError: as ``split_items``.
    """
    y, groups = collection.y, collection.groups
    whole = Parts(
        noun="collection",
        thing="picture",
        name=collection.name,
        ids=collection.ids,
        y=y if needs_labels else torch.zeros_like(y),
        class_names=collection.class_names,
        split=collection.split,
    )
    own = groups == torch.arange(len(groups))
    if whole.split is not None or config.name == "file" or bool(own.all()):
        return split_items(whole, config, needs_labels=needs_labels)
    split = split_items(dataclasses.replace(whole, y=torch.where(own, whole.y, -1)), config, needs_labels=True)
    return torch.where(whole.y >= 0, split[groups], torch.tensor(-1, dtype=torch.int8))
