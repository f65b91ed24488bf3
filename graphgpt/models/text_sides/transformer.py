"""A small transformer that learns to read along with the tower."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from graphgpt.models.llm import LLMConfig, load_tokenizer
from graphgpt.models.text_side import TextSide, TextSideConfig
from graphgpt.registry import TEXT_SIDES
from graphgpt.schema import configclass


@dataclass(kw_only=True)
class Tokens:
    """Token ids of b samples of n texts each.

    Args:
        ids: Padded at the end to the longest text, shape ``[b, n, l]``, int64.
        last: Place of each text's last token, shape ``[b, n]``, int64.
    """

    ids: Tensor
    last: Tensor

    def to(self, device: Any) -> "Tokens":
        """The same on another device."""
        return Tokens(ids=self.ids.to(device), last=self.last.to(device))


@dataclass(frozen=True)
class TokenReader:
    """Tokenises texts, each of which is cut and then closed with the tokenizer's end token, whose state stands for it.

    Args:
        tokenizer: The language model's.
        max_tokens: With the end token.
    """

    tokenizer: Any
    max_tokens: int

    def read(self, texts: Sequence[str]) -> list[list[int]]:
        cut = self.tokenizer([*texts], add_special_tokens=False, truncation=True, max_length=self.max_tokens - 1)["input_ids"]
        return [[*ids, self.tokenizer.eos_token_id] for ids in cut]

    def collate(self, samples: Sequence[list[list[int]]]) -> Tokens:
        texts = [torch.tensor(ids) for sample in samples for ids in sample]
        last = torch.tensor([len(ids) - 1 for ids in texts]).view(len(samples), -1)
        return Tokens(ids=nn.utils.rnn.pad_sequence(texts, batch_first=True).view(*last.shape, -1), last=last)


@TEXT_SIDES.register("transformer")
class Transformer(TextSide):
    """A causal transformer over the language model's tokens; the end token's state, normalised and projected, is the text.

    GraphGPT's text side (arXiv:2310.13023, section 3.1), which is that of CLIP (arXiv:2103.00020, section 2.4), but for the
    tokenizer and a GELU that is not approximated.
    """

    reads_embeddings = False

    @configclass
    class Config(TextSideConfig):
        dim: int = Field(default=128, ge=1)
        """Width; the original has 512."""
        layers: int = Field(default=2, ge=1)
        """Blocks; the original has 12."""
        heads: int = Field(default=4, ge=1)
        """Attention heads; divides ``dim``; the original has 8."""
        max_tokens: int = Field(default=64, ge=2)
        """Tokens read of a text, its end token included; the original has 128."""

    @staticmethod
    def problems(config: Config) -> list[str]:
        if config.dim % config.heads:
            return [f"model.text.heads: {config.heads} heads do not divide model.text.dim={config.dim}."]
        return []

    def __init__(self, config: Config, text_dim: int | None, output_dim: int, llm: LLMConfig) -> None:
        super().__init__(config, text_dim, output_dim, llm)
        self.tokenizer = load_tokenizer(llm)
        # CLIP's initial spread.
        self.embedding = nn.Embedding.from_pretrained(torch.randn(len(self.tokenizer), config.dim) * 0.02, freeze=False)
        self.position = nn.Parameter(torch.randn(config.max_tokens, config.dim) * 0.01)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                config.dim, config.heads, 4 * config.dim, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
            )
            for _ in range(config.layers)
        )
        self.norm = nn.LayerNorm(config.dim)
        self.projection = nn.Linear(config.dim, output_dim, bias=False)

    def reader(self) -> TokenReader:
        return TokenReader(self.tokenizer, self.config.max_tokens)

    def forward(self, texts: Tokens) -> Tensor:
        """Tokens to ``[b, n, output_dim]``. What stands behind the end token is not seen by it, so padding needs no mask."""
        ids, last = texts.ids.flatten(0, 1), texts.last.flatten()
        h = self.embedding(ids) + self.position[: ids.shape[1]]
        future = nn.Transformer.generate_square_subsequent_mask(ids.shape[1], device=h.device, dtype=h.dtype)
        for block in self.blocks:
            h = block(h, src_mask=future, is_causal=True)
        projected: Tensor = self.projection(self.norm(h[torch.arange(len(h), device=h.device), last]))
        return projected.view(*texts.last.shape, -1)
