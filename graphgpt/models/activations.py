"""Less memory in training: activations that are computed again instead of kept."""

import functools
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from graphgpt.errors import GraphGPTError


def recompute_activations(llm: nn.Module) -> None:
    """Let each layer keep its input only, and run again in the backward pass (Chen et al., arXiv:1604.06174).

    transformers has a switch for it, which works in training mode alone; ours stays in eval mode where it is frozen.
    Passes without gradient, and those that fill or read a cache of keys and values, are as they were.

    Raises:
        GraphGPTError: transformers has not marked the layers of this kind of model.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    layers: list[Any] = [module for module in llm.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        raise GraphGPTError(f"model.gradient_checkpointing: the layers of {type(llm).__name__} cannot be computed again; set it to false.")
    for layer in layers:
        layer.forward = functools.partial(_run_twice, layer.forward)


def _run_twice(forward: Any, *args: Any, **kwargs: Any) -> Any:
    if not torch.is_grad_enabled() or kwargs.get("use_cache") or kwargs.get("past_key_values") is not None:
        return forward(*args, **kwargs)
    return checkpoint(forward, *args, use_reentrant=False, **kwargs)
