"""The same question with a part of it taken away, to see which part the answer came from."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from graphgpt.errors import DataError
from graphgpt.graphs.subgraph import GraphInput
from graphgpt.images.picture import Change, ImageInput
from graphgpt.prompts.instruction import Instruction, ModalityInput
from graphgpt.schema import Ablation
from graphgpt.tasks.task import Task, generator


def ablated(task: Task, item: int, ablation: Ablation, *, seed: int, others: Tensor) -> Instruction:
    """The question about an item, as an ablation has it.

    ``no_graph`` and ``no_image`` leave inputs of that modality out of the prompt, ``zeroed`` sets all node features to zero and makes
    pictures grey, ``shuffled`` deals the features out anew among the nodes of a subgraph and the parts of a picture among its places,
    ``other_node`` shows the inputs of another item, ``no_text`` hides the item's own texts. All else stays: the same neighbours are
    sampled.

    Args:
        task: Makes the question.
        item: One of the task's.
        ablation: What to take away; ``none`` takes nothing.
        seed: Of the question, and of what the ablation draws.
        others: Items that ``other_node`` draws from, shape ``[k]``.

    Raises:
        DataError: ``other_node`` finds no other item with as many inputs.
    """
    instruction = task.instruction(item, seed=seed, training=False, hide_text=ablation == "no_text")
    if ablation in ("no_graph", "no_image"):
        return instruction.without(ablation.removeprefix("no_"))
    if ablation == "zeroed":
        return _with_features(instruction, torch.zeros_like, "blank", seed)
    draw = generator(seed)
    if ablation == "shuffled":
        return _with_features(instruction, lambda x: x[torch.randperm(len(x), generator=draw)], "scrambled", seed)
    if ablation == "other_node":
        return instruction.with_inputs(_inputs_of_another(task, item, instruction, seed, others))
    return instruction


def _with_features(instruction: Instruction, change: Callable[[Tensor], Tensor], of_pictures: Change, seed: int) -> Instruction:
    def changed(item: ModalityInput) -> ModalityInput:
        if isinstance(item, ImageInput):
            return replace(item, change=of_pictures, seed=seed)
        if not isinstance(item, GraphInput):
            return item
        partner = None if item.partner is None else replace(item.partner, x=change(item.partner.x))
        return replace(item, x=change(item.x), partner=partner)

    return instruction.with_inputs(tuple(map(changed, instruction.inputs)))


def _inputs_of_another(task: Task, item: int, instruction: Instruction, seed: int, others: Tensor) -> tuple[ModalityInput, ...]:
    draw = generator(seed)
    # Drawn, not searched: a split may have millions of items, and nearly any of them will do.
    for place in torch.randint(len(others), (100,), generator=draw).tolist():
        if int(others[place]) != item:
            inputs = task.instruction(int(others[place]), seed=seed, training=False).inputs
            if len(inputs) == len(instruction.inputs):
                return inputs
    raise DataError(f"ablation: other_node finds no other item of the split with as many inputs as '{instruction.id}' has.")
