"""Inputs as tokens where their placeholder stood."""

import torch
from torch import Tensor, nn

from graphgpt.models.fusion import Fusion, FusionConfig
from graphgpt.prompts.tokens import Token, token_id
from graphgpt.registry import FUSIONS
from graphgpt.schema import configclass


@FUSIONS.register("splice")
class Splice(Fusion):
    """Projected states in the sequence, as if they were embeddings of words, between two trained rows.

    Sources: GraphGPT (arXiv:2310.13023), section 3.2, and LLaVA (arXiv:2304.08485), section 4; LLaVA-1.5 has no rows around them.

    The rows live here and not in the language model's matrix, so that the base stays bit-identical, tied or quantized embeddings are no
    special case, and a checkpoint holds two rows.
    """

    @configclass
    class Config(FusionConfig):
        frame: bool = True
        """Whether a trained row opens and another closes an input."""

    blank: Tensor | None

    def __init__(self, config: Config, number: int, dim: int, rms: float, blank: bool = False) -> None:
        super().__init__(config, number, dim, rms, blank)
        self.patch, self.start, self.end, self.void = (
            token_id(number, token) for token in (Token.PATCH, Token.START, Token.END, Token.BLANK)
        )
        if config.frame:
            self.weight = nn.Parameter(torch.randn(2, dim) * rms)
        # Not trained: the original leaves its <g_patch> as it was drawn.
        self.register_buffer("blank", torch.randn(1, dim) * rms if blank else None)

    @classmethod
    def layout(cls, config: Config, num_tokens: int) -> tuple[Token, ...]:
        inside = (Token.PATCH,) * num_tokens
        return (Token.START, *inside, Token.END) if config.frame else inside

    def embed(self, embedded: Tensor, ids: Tensor, projected: Tensor | None) -> Tensor:
        if self.config.frame:
            own = (ids == self.start) | (ids == self.end)
            embedded = embedded.masked_scatter(own[..., None], self.weight[(ids[own] == self.end).long()].to(embedded.dtype))
        if self.blank is not None:
            embedded = torch.where((ids == self.void)[..., None], self.blank.to(embedded.dtype), embedded)
        return embedded if projected is None else embedded.masked_scatter((ids == self.patch)[..., None], projected.to(embedded.dtype))
