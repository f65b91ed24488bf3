"""The frozen language model in 8 or 4 bits, by bitsandbytes through transformers."""

import importlib.util
import logging
import os
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import nn

from graphgpt.models.adapters import import_bitsandbytes
from graphgpt.schema import ActsWith, configclass

# On processors with AVX512-BF16 its import warns that a faster way for 4 bits is not installed, whether or not any are asked for.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)

#: Bits of a weight, without the scales of its block or row.
BITS = {"int8": 8, "nf4": 4}


@configclass
class QuantizationConfig:
    """How many bits the frozen weights have: those of every linear layer but the output head. Embeddings and norms stay as they are."""

    name: Literal["none", "int8", "nf4"] = "none"
    """As they are; LLM.int8() (Dettmers et al., arXiv:2208.07339); 4-bit normal float, as in QLoRA (Dettmers et al., arXiv:2305.14314)."""
    double: Annotated[bool, ActsWith(name="nf4")] = True
    """The scale of each 64 weights is quantized too, which saves 0.37 bits per weight."""
    compute_dtype: Annotated[Literal["float32", "bfloat16", "float16"] | None, ActsWith(name="nf4")] = None
    """What weights are unpacked to and multiplied in; null takes ``model.llm.dtype``."""
    threshold: Annotated[float, ActsWith(name="int8")] = Field(default=6.0, ge=0)
    """Input features with a larger value are multiplied in 16 bits; 0 makes no such difference."""

    @property
    def active(self) -> bool:
        return self.name != "none"


def quantization_problems(config: QuantizationConfig) -> list[str]:
    """What is wrong with the settings by themselves, one sentence each; imports nothing."""
    if config.active and importlib.util.find_spec("bitsandbytes") is None:
        return [
            f"model.quantization: {config.name} needs bitsandbytes, which is not installed: pip install bitsandbytes, "
            "or use model/quantization=none."
        ]
    return []


def loading_arguments(config: QuantizationConfig, dtype: torch.dtype) -> dict[str, Any]:
    """What ``from_pretrained`` needs to be told.

    Args:
        config: An active one.
        dtype: Of what is not quantized.
    """
    from transformers import BitsAndBytesConfig

    import_bitsandbytes()  # or transformers would
    if config.name == "int8":
        # It says so at every product of every layer, and 16 bits are what this way of computing is made of.
        logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
        quantization = BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=config.threshold)
    else:
        quantization = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=config.double,
            bnb_4bit_compute_dtype=dtype if config.compute_dtype is None else getattr(torch, config.compute_dtype),
        )
    device = "cpu"
    if torch.cuda.is_available():
        # Of several processes on a machine each fills a GPU of its own, at once: the whole weights never stand anywhere.
        rank = int(os.environ.get("LOCAL_RANK") or os.environ.get("SLURM_LOCALID") or 0)
        device = f"cuda:{rank % torch.cuda.device_count()}"
    return {"quantization_config": quantization, "device_map": {"": device}}


def keep_trainable(llm: nn.Module) -> None:
    """Keep 4-bit layers in the form that gradients can pass.

    On processors with AVX512-BF16, bitsandbytes packs the weights of a layer anew in the first pass without gradient, such as
    a validation's, and what is packed so has no backward pass.
    """
    from bitsandbytes.nn.modules import Linear4bit

    for module in llm.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False


def follow_weights(llm: nn.Module) -> None:
    """After a move to another device: bring along what bitsandbytes keeps of 8-bit weights beside the parameters."""
    from bitsandbytes.nn.modules import Linear8bitLt

    for module in llm.modules():
        if isinstance(module, Linear8bitLt):
            holders: list[Any] = [module.weight, module.state]  # before the first pass the one has it, then the other
            for holder in holders:
                if holder.CB is not None:
                    holder.CB = module.weight.data
                if holder.SCB is not None:
                    holder.SCB = holder.SCB.to(module.weight.device)


def weight_bytes(llm: nn.Module, config: QuantizationConfig, dtype: torch.dtype) -> int:
    """Bytes that the frozen weights of a language model take.

    Args:
        llm: Not quantized; it may be without weights, on the meta device.
        config: How it shall be.
        dtype: Of what is not quantized.
    """
    frozen = {id(p): p.numel() for p in llm.parameters() if not p.requires_grad}
    whole = sum(frozen.values()) * dtype.itemsize
    if not config.active:
        return whole
    head = llm.get_output_embeddings()  # type: ignore[operator]  # nn.Module's __getattr__
    linear = [m.weight for m in llm.modules() if isinstance(m, nn.Linear) and m is not head and not m.weight.requires_grad]
    if config.name == "int8":
        scales = sum(weight.shape[0] * 4 for weight in linear)
    else:
        blocks = sum(weight.numel() for weight in linear) / 64
        scales = round(blocks * (1 + 4 / 256 if config.double else 4))
    count = sum(weight.numel() for weight in linear)
    return whole - count * dtype.itemsize + count * BITS[config.name] // 8 + scales
