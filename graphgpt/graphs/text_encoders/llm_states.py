"""Mean of the language model's own last hidden states."""

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor

from graphgpt.graphs.text_encoder import LanguageModelSource, TextEncoder, TextEncoderConfig
from graphgpt.registry import TEXT_ENCODERS
from graphgpt.schema import configclass


@TEXT_ENCODERS.register("llm_states")
class LLMStates(TextEncoder):
    """Every node is the mean of its tokens' states after the language model's last layer; as wide as the language model.

    It reads every text once, which takes a language model's time: minutes for thousands of nodes on a processor.
    """

    reads_llm = True

    @configclass
    class Config(TextEncoderConfig):
        max_tokens: int = Field(default=64, ge=1)
        """Tokens read per node."""
        batch_size: int = Field(default=32, ge=1)
        """Texts per forward pass."""

    @torch.inference_mode()
    def encode(self, texts: Sequence[str], llm: LanguageModelSource) -> Tensor:
        tokenizer, model = llm()
        model = model.to(torch.accelerator.current_accelerator(check_available=True) or "cpu")
        x = torch.zeros(len(texts), model.config.hidden_size)
        ids = tokenizer([*texts], add_special_tokens=False, truncation=True, max_length=self.config.max_tokens)["input_ids"]
        # Of like length together, so that little is padded.
        order = sorted((i for i, tokens in enumerate(ids) if tokens), key=lambda i: len(ids[i]))
        for first in range(0, len(order), self.config.batch_size):
            rows = order[first : first + self.config.batch_size]
            padded = torch.nn.utils.rnn.pad_sequence([torch.tensor(ids[i]) for i in rows], batch_first=True).to(model.device)
            there = torch.arange(padded.shape[1], device=model.device) < torch.tensor([[len(ids[i])] for i in rows], device=model.device)
            states = model.base_model(input_ids=padded, attention_mask=there.long(), use_cache=False).last_hidden_state.float()
            x[rows] = ((states * there[..., None]).sum(dim=1) / there.sum(dim=1, keepdim=True)).cpu()
        return x
