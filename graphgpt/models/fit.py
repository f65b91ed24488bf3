"""Whether tensors from a file fit a part of the model."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from graphgpt.errors import CheckpointError, amount

if TYPE_CHECKING:
    from torch import Tensor


def check_fit(where: object, part: str, theirs: "Mapping[str, Tensor]", ours: "Mapping[str, Tensor]") -> None:
    """Compare names, shapes and kinds of numbers, all of them; numbers that are none fit nowhere.

    Args:
        where: The folder or file, for messages.
        part: What it is called there, such as ``tower``.
        theirs: What was found.
        ours: What is expected.

    Raises:
        CheckpointError: one is missing, one is too many, or one has another shape, holds other numbers, or is not finite.
    """
    if missing := sorted(ours.keys() - theirs.keys()):
        raise CheckpointError(
            f"{where} does not fit: its {part} has no '{missing[0]}' ({len(missing)} of {amount(len(ours), 'tensor')} missing)."
        )
    if surplus := sorted(theirs.keys() - ours.keys()):
        raise CheckpointError(f"{where} does not fit: its {part} has '{surplus[0]}', which this model's {part} has not.")
    for name, tensor in theirs.items():
        if tensor.shape != ours[name].shape:
            raise CheckpointError(
                f"{where} does not fit: its {part} has '{name}' of shape {list(tensor.shape)}, this model's is {list(ours[name].shape)}."
            )
        if ours[name].is_floating_point():
            check_weights(f"{where} does not fit: '{name}' of its {part}", tensor)
        elif tensor.dtype != ours[name].dtype:
            raise CheckpointError(
                f"{where} does not fit: '{name}' of its {part} holds {_kind(tensor)}, this model's holds {_kind(ours[name])}."
            )


def check_weights(what: str, tensor: "Tensor") -> None:
    """Whether a tensor from a file is one of weights, of any precision. Copying one of another kind would change it without a word.

    Args:
        what: Begins the message: the tensor and where it is from.
        tensor: As it was read.

    Raises:
        CheckpointError: it holds something else than floating-point numbers, or one that is not finite as float32.
    """
    if not tensor.is_floating_point():
        raise CheckpointError(f"{what} holds {_kind(tensor)}; weights are floating-point numbers.")
    if not tensor.float().isfinite().all():
        raise CheckpointError(f"{what} holds numbers that are not finite (NaN or infinite).")


def _kind(tensor: "Tensor") -> str:
    return str(tensor.dtype).removeprefix("torch.")
