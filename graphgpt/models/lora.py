"""Low-rank adapters on the language model, by peft."""

import warnings
from typing import Any, Literal

from pydantic import Field

from graphgpt.schema import configclass


@configclass
class LoraConfig:
    """LoRA (Hu et al., arXiv:2106.09685); ``rank: 0`` is none, which leaves the language model frozen as in GraphGPT."""

    rank: int = Field(default=0, ge=0)
    """Rank r of the updates."""
    alpha: int = Field(default=16, ge=1)
    """The update is scaled by alpha / rank."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """On the adapters' input, in training."""
    targets: Literal["all_linear", "qv"] = "all_linear"
    """Which linear layers: all but the output head, or the query and value projections alone."""


def add_lora(llm: Any, config: LoraConfig) -> Any:
    """The model with adapters attached; the model itself when the rank is 0."""
    if config.rank == 0:
        return llm
    from peft import LoraConfig as PeftLoraConfig
    from peft import get_peft_model

    targets = "all-linear" if config.targets == "all_linear" else ["q_proj", "v_proj"]
    adapters = PeftLoraConfig(
        task_type="CAUSAL_LM", r=config.rank, lora_alpha=config.alpha, lora_dropout=config.dropout, target_modules=targets
    )
    with warnings.catch_warnings():
        # peft still asks transformers by a name that is going away; nothing that a user could change.
        warnings.simplefilter("ignore", FutureWarning)
        return get_peft_model(llm, adapters)


def train_adapters(llm: Any, mode: bool) -> None:
    """Put the adapters into training mode (their dropout), and nothing else of the model."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for module in llm.modules():
        if isinstance(module, BaseTunerLayer):
            layer: Any = module
            layer.train(mode)
            layer.get_base_layer().eval()
