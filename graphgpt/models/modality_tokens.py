"""Rows for modality tokens, beside the language model's embedding matrix."""

import torch
from torch import Tensor, nn

from graphgpt.prompts.processor import END, START


class ModalityTokens(nn.Module):
    """Trainable vectors of the tokens that open and close an input.

    They live here and not in the language model's matrix, so that the base stays bit-identical, tied or quantized
    embeddings are no special case, and a checkpoint holds two rows.

    Args:
        dim: Hidden size of the language model.
        rms: Root mean square of its token embeddings, which the rows start with.
    """

    NAMES = ("start", "end")

    def __init__(self, dim: int, rms: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(len(self.NAMES), dim) * rms)

    def forward(self, ids: Tensor) -> Tensor:
        """Rows for ``START`` and ``END`` ids, shape ``[k]`` to ``[k, dim]``."""
        return self.weight[(ids == END).long()]

    @staticmethod
    def holds(ids: Tensor) -> Tensor:
        """Where ``ids`` are tokens of this table, bool, shape of ``ids``."""
        return (ids == START) | (ids == END)
