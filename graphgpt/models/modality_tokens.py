"""Rows for modality tokens, beside the language model's embedding matrix."""

import torch
from torch import Tensor, nn

from graphgpt.prompts.processor import BLANK, END, START


class ModalityTokens(nn.Module):
    """Trainable vectors of the tokens that open and close an input.

    They live here and not in the language model's matrix, so that the base stays bit-identical, tied or quantized
    embeddings are no special case, and a checkpoint holds two rows.

    Args:
        dim: Hidden size of the language model.
        rms: Root mean square of its token embeddings, which the rows start with.
        blank: Whether there is a row for ``BLANK``, which is not trained: the original leaves its ``<g_patch>`` as it was drawn.
    """

    NAMES = ("start", "end")
    blank: Tensor | None

    def __init__(self, dim: int, rms: float, blank: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(len(self.NAMES), dim) * rms)
        self.register_buffer("blank", torch.randn(1, dim) * rms if blank else None)

    def forward(self, ids: Tensor) -> Tensor:
        """Rows for ids that :meth:`holds` finds, shape ``[k]`` to ``[k, dim]``."""
        rows = self.weight[(ids == END).long()]
        return rows if self.blank is None else torch.where((ids == BLANK)[:, None], self.blank, rows)

    @staticmethod
    def holds(ids: Tensor) -> Tensor:
        """Where ``ids`` are tokens of this table, bool, shape of ``ids``."""
        return (ids == START) | (ids == END) | (ids == BLANK)
