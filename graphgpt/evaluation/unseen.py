"""Which items a checkpoint was trained on, so that no score counts what it remembers."""

from collections.abc import Mapping
from copy import copy
from typing import Any

from torch import Tensor

from graphgpt.checkpoints.folder import find_checkpoint
from graphgpt.checkpoints.trained import read_trained
from graphgpt.errors import DataError, amount
from graphgpt.schema import Split
from graphgpt.tasks.task import Task


def unseen(task: Task, config: Any) -> tuple[Task, dict[str, Any]]:
    """The task without those items of the split whose answers the checkpoint was trained on; ``split=train`` asks for these.

    Args:
        task: What is asked.
        config: The ``EvaluationConfig``.

    Returns:
        The task, and what ``metrics.json`` holds as ``trained_on``: the checkpoint's ``tasks``; ``known``, whether it says which items;
        ``unknown``, earlier stages that do not; how many ``items`` the split has, how many of them were ``seen`` and ``left_out``.

    Raises:
        DataError: no item is left.
    """
    trained, items = read_trained(find_checkpoint(config.checkpoint)), task.items(config.split)
    seen = trained.seen(task, items)
    left_out = int(seen.sum()) if config.split != "train" else 0
    if left_out and left_out == len(items):
        raise DataError(
            f"split: {config.checkpoint} was trained on every {config.split} item of '{task.data['name']}' ({left_out:,}), so "
            "their score would say nothing; take others, such as those of the split it was trained with (split.csv in its run folder), or "
            "split=train to see what it remembers."
        )
    facts = {
        "tasks": list(trained.tasks),
        "known": trained.items is not None,
        "unknown": list(trained.unknown),
        "items": len(items),
        "seen": int(seen.sum()),
        "left_out": left_out,
    }
    return (_asking_only(task, config.split, items[~seen]) if left_out else task), facts


def _asking_only(task: Task, split: Split, items: Tensor) -> Task:
    """The task with other items of one split, of whatever class it is."""
    split_of_these, other = split, copy(task)

    def items_of(split: Split) -> Tensor:
        return items if split == split_of_these else task.items(split)

    other.items = items_of  # type: ignore[method-assign]
    return other


def remarks_on_training(result: Mapping[str, Any]) -> list[str]:
    """What is to be known about the checkpoint's training, as far as it touches these scores."""
    facts, split, found = result["trained_on"], result["split"], []
    if result["task"] not in facts["tasks"]:
        found.append(f"The checkpoint was never trained on '{result['task']}', but on {' and '.join(facts['tasks'])}.")
    if not facts["known"]:
        found.append("Which items the checkpoint was trained on is not known (it holds no record of them): some may be among these.")
    if facts["unknown"]:
        found.append(f"Which items {' and '.join(facts['unknown'])} was trained on, where it started, is not known.")
    if facts["left_out"]:
        found.append(
            f"Left out: {facts['left_out']:,} of the {amount(facts['items'], split + ' item')}, for the checkpoint was trained on them."
        )
    elif facts["seen"]:
        found.append(
            f"The checkpoint was trained on {facts['seen']:,} of the {amount(facts['items'], split + ' item')}: what it remembers counts."
        )
    return found
