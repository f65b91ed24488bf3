"""How many tokens fit into one forward and backward pass: ``runner.micro_batch_tokens=auto``."""

import logging
from collections.abc import Sequence

import psutil
import torch
from torch import Tensor

from graphgpt.models.model import AnyBatch, AnyExample, Model, Reader

log = logging.getLogger(__name__)

#: Share of the free main memory that what a pass keeps for its gradient may take.
SHARE = 0.5


def tokens_that_fit(model: Model, reader: Reader, examples: Sequence[AnyExample]) -> int:
    """Tokens of the largest pass that fits, over the longest of some samples; tried out, twice as many each time.

    On a CUDA device a pass fits if it runs, with room for the optimizer's two moments beside it; on the processor, where
    running out of memory would end the program, if what it keeps for its gradient takes at most half of the memory that is
    free. Of several processes the least counts.

    Args:
        model: On its device, in training mode; its gradients are lost.
        reader: The model's.
        examples: As many as a step has at most.
    """
    longest = sorted(examples, key=lambda example: -example.num_tokens)
    fits = _runs if model.device.type == "cuda" else _is_small
    count = 1
    while count < len(longest):
        more = min(2 * count, len(longest))
        if not fits(model, reader.collate(longest[:more]).to(model.device)):
            break
        count = more
    model.zero_grad(set_to_none=True)
    tokens = torch.tensor(sum(example.num_tokens for example in longest[:count]), device=model.device)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(tokens, op=torch.distributed.ReduceOp.MIN)
    log.info("runner.micro_batch_tokens=auto: %d tokens fit, the longest sample has %d.", int(tokens), longest[0].num_tokens)
    return int(tokens)


def _runs(model: Model, batch: AnyBatch) -> bool:
    """Whether a pass runs on a CUDA device beside an optimizer's moments."""
    trained = sum(parameter.numel() for parameter in model.trainable_state().values())
    try:
        moments = torch.empty(2 * trained, device=model.device)
        model.loss(batch).backward()
        del moments
    except torch.cuda.OutOfMemoryError:
        return False
    finally:
        model.zero_grad(set_to_none=True)
        torch.cuda.empty_cache()
    return True


def _is_small(model: Model, batch: AnyBatch) -> bool:
    """Whether what a pass keeps for its gradient, attention's own aside, takes no more than its share of the free memory."""
    kept: dict[int, int] = {}
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.loss(batch)
    return sum(kept.values()) <= SHARE * float(psutil.virtual_memory().available)
