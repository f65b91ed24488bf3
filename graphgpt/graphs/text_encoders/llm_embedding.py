"""Mean of the language model's own token embeddings."""

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor

from graphgpt.graphs.text_encoder import LanguageModelSource, TextEncoder, TextEncoderConfig
from graphgpt.registry import TEXT_ENCODERS
from graphgpt.schema import configclass


@TEXT_ENCODERS.register("llm_embedding")
class LLMEmbedding(TextEncoder):
    """Every node is the mean of its tokens' rows in the input embedding matrix; as wide as the language model."""

    reads_llm = True

    @configclass
    class Config(TextEncoderConfig):
        max_tokens: int = Field(default=256, ge=1)
        """Tokens read per node."""

    def encode(self, texts: Sequence[str], llm: LanguageModelSource) -> Tensor:
        tokenizer, model = llm()
        matrix = model.get_input_embeddings().weight
        x = torch.zeros(len(texts), matrix.shape[1])
        tokenized = tokenizer([*texts], add_special_tokens=False, truncation=True, max_length=self.config.max_tokens)["input_ids"]
        for i, ids in enumerate(tokenized):
            if ids:
                x[i] = matrix[torch.tensor(ids)].float().mean(dim=0)
        return x
