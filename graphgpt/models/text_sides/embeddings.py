"""Texts that a frozen encoder has embedded once."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from graphgpt.models.llm import LLMConfig
from graphgpt.models.text_side import TextSide, TextSideConfig
from graphgpt.registry import TEXT_SIDES
from graphgpt.schema import configclass


class EmbeddingReader:
    """Stacks embeddings."""

    def read(self, texts: Sequence[Tensor]) -> Tensor:
        return torch.stack([*texts])

    def collate(self, samples: Sequence[Tensor]) -> Tensor:
        return torch.stack([*samples])


@TEXT_SIDES.register("embeddings")
class Embeddings(TextSide):
    """What ``task.text_encoder`` makes of the texts, which is cached, through one learned linear map without bias.

    The text half of CLIP (arXiv:2103.00020, section 2.3) with its transformer frozen, as in LiT (arXiv:2111.07991).
    """

    reads_embeddings = True

    @configclass
    class Config(TextSideConfig):
        pass

    def __init__(self, config: Config, text_dim: int | None, output_dim: int, llm: LLMConfig) -> None:
        super().__init__(config, text_dim, output_dim, llm)
        assert text_dim is not None
        self.projection = nn.Linear(text_dim, output_dim, bias=False)

    def reader(self) -> EmbeddingReader:
        return EmbeddingReader()

    def forward(self, texts: Tensor) -> Tensor:
        """Embeddings ``[b, n, text_dim]`` to ``[b, n, output_dim]``."""
        projected: Tensor = self.projection(texts.to(self.projection.weight.dtype))
        return projected
