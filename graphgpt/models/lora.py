"""Low-rank adapters on the language model, by peft."""

import functools
import warnings
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from graphgpt.errors import GraphGPTError, did_you_mean, nearest
from graphgpt.models.adapters import peft
from graphgpt.schema import POSITIVE, ActsWith, configclass

#: Words for several layers.
ALL_LINEAR = "all_linear"
NAMES = {"qv": ("q_proj", "v_proj")}


@configclass
class LoraConfig:
    """LoRA (Hu et al., arXiv:2106.09685); ``rank: 0`` is none, which leaves the language model frozen as in GraphGPT."""

    rank: int = Field(default=0, ge=0)
    """Rank r of the updates."""
    alpha: Annotated[int, ActsWith(rank=POSITIVE)] = Field(default=16, ge=1)
    """The update is scaled by alpha / rank."""
    dropout: Annotated[float, ActsWith(rank=POSITIVE)] = Field(default=0.0, ge=0, lt=1)
    """On the adapters' input, in training."""
    targets: Annotated[str | list[str], ActsWith(rank=POSITIVE)] = ALL_LINEAR
    """Linear layers that get one: ``all_linear`` (all but the output head), ``qv`` (query, value), or a list like ``[q_proj, o_proj]``."""
    rslora: Annotated[bool, ActsWith(rank=POSITIVE)] = False
    """Scale by alpha / sqrt(rank) instead, so that high ranks learn too (Kalajdzievski, arXiv:2312.03732)."""
    dora: Annotated[bool, ActsWith(rank=POSITIVE)] = False
    """Learn the length of each weight column apart from its direction (Liu et al., arXiv:2402.09353)."""


def lora_problems(config: LoraConfig) -> list[str]:
    """What is wrong with the settings by themselves, one sentence each."""
    words = [ALL_LINEAR, *NAMES]
    if isinstance(config.targets, str) and config.targets not in words:
        return [
            f"model.lora.targets: '{config.targets}' is not one of {', '.join(words)}; names of layers go into a list, "
            f"such as [q_proj, v_proj]. {did_you_mean(config.targets, words)}".rstrip()
        ]
    if not config.targets:
        return ["model.lora.targets: names no layer; for a model without adapters use model/lora=none."]
    return []


def add_lora(llm: Any, config: LoraConfig) -> Any:
    """The model with adapters attached; the model itself when the rank is 0.

    Raises:
        GraphGPTError: it has no linear layer of a name in ``config.targets``.
    """
    if config.rank == 0:
        return llm
    library = peft()

    adapters = library.LoraConfig(
        task_type="CAUSAL_LM",
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=_targets(llm, config),
        use_rslora=config.rslora,
        use_dora=config.dora,
    )
    with warnings.catch_warnings():
        # peft still asks transformers by a name that is going away; nothing that a user could change.
        warnings.simplefilter("ignore", FutureWarning)
        adapted = library.get_peft_model(llm, adapters)
    add_in_place(adapted)
    return adapted


def add_in_place(adapted: Any) -> None:
    """Let each adapter add its update to the base layer's output in the product that makes it.

    peft makes the update, its scaled form and the sum one after the other, each as large as the output: a tenth of a training
    step's time on the processor (``benchmarks/RESULTS.md``). Layers of another kind (quantized, DoRA) and mixed precision are left to peft.
    """
    from peft.tuners.lora import Linear

    for module in adapted.modules():
        if type(module) is Linear and type(module.base_layer) is nn.Linear:
            module.forward = functools.partial(_forward, module)  # type: ignore[method-assign]


def _forward(layer: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """What peft computes, ``base(x) + scaling * B(A(dropout(x)))``, shapes ``[*, in]`` to ``[*, out]``."""
    name, *others = layer.active_adapters
    plain = not (layer.disable_adapters or layer.merged or others or name in layer.lora_variant or args or kwargs)
    # A product that adds in place wants one dtype for all.
    same = layer.base_layer.weight.dtype == layer.lora_A[name].weight.dtype and not torch.is_autocast_enabled(x.device.type)
    if not (plain and same):
        return torch.as_tensor(type(layer).forward(layer, x, *args, **kwargs))
    flat = x.flatten(0, -2)
    update = layer.lora_A[name](layer.lora_dropout[name](flat))
    result = layer.base_layer(flat).addmm_(update, layer.lora_B[name].weight.T, alpha=layer.scaling[name])
    return torch.as_tensor(result.view(*x.shape[:-1], -1))


def _targets(llm: Any, config: LoraConfig) -> str | list[str]:
    """Names of layers as peft wants them; it would pass over those that do not exist."""
    from transformers.pytorch_utils import Conv1D  # GPT-2's linear layer

    if config.targets == ALL_LINEAR:
        return "all-linear"
    names = NAMES[config.targets] if isinstance(config.targets, str) else config.targets
    known = {name.rpartition(".")[2] for name, module in llm.named_modules() if isinstance(module, nn.Linear | Conv1D)}
    if missing := [name for name in names if name not in known]:
        word = isinstance(config.targets, str)
        hint = f"List those of its own: {', '.join(sorted(known))}." if word else nearest(missing[0], known)
        raise GraphGPTError(f"model.lora.targets: the language model has no linear layer '{missing[0]}'. {hint}")
    return list(names)


def train_adapters(llm: Any, mode: bool) -> None:
    """Put the adapters into training mode (their dropout), and nothing else of the model."""
    adapter = peft().tuners.tuners_utils.BaseTunerLayer
    for module in llm.modules():
        if isinstance(module, adapter):
            layer: Any = module
            layer.train(mode)
            layer.get_base_layer().eval()
