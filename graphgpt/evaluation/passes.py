"""Which questions an evaluation asks: passes over the items, each with its ablation, wording and seed."""

import dataclasses
import logging
from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from graphgpt.errors import DataError, amount
from graphgpt.evaluation.ablations import ablated
from graphgpt.prompts.instruction import Instruction
from graphgpt.registry import MODELS
from graphgpt.runners.training.data import mix
from graphgpt.tasks.baselines import NAMES
from graphgpt.tasks.task import Task

log = logging.getLogger(__name__)


#: What tables call a model's answers under each ablation (as they are: by its own title), with a note.
VARIANTS = {
    "none": ("", "this model"),
    "no_graph": ("Graph tokens removed", "the same model, without graphs"),
    "no_image": ("Image tokens removed", "the same model, without pictures"),
    "zeroed": ("Inputs zeroed", "the same model"),
    "shuffled": ("Inputs shuffled", "the same model, within each of them"),
    "other_node": ("Another item's inputs", "the same model"),
    "no_text": ("Own text hidden", "the same model, tokens of inputs only"),
    "llm": (NAMES["llm"], "no tokens of inputs, no adapters"),
}


@dataclass(frozen=True, kw_only=True)
class Pass:
    """One pass over the items.

    Args:
        variant: A key of ``VARIANTS``.
        wording: Another wording than the chosen one; None for that one.
        seed: Draws items and neighbours.
    """

    variant: str
    wording: str | None
    seed: int

    def name(self, model: Any) -> str:
        """For a progress line; ``model`` is a model's ``Config``."""
        return label(self.variant, model) + (f", wording '{self.wording}'" if self.wording else "")


def label(variant: str, model: Any) -> str:
    """What tables call the answers of a model, given as its ``Config``, under a key of ``VARIANTS``."""
    return VARIANTS[variant][0] or str(MODELS.get(model.name).title(model))


def passes(task: Task, config: Any, model: Any) -> Iterator[Pass]:
    """The passes that an evaluation makes, the plain one of every seed first.

    Args:
        task: What is asked.
        config: The ``EvaluationConfig``.
        model: The model's ``Config``.
    """
    there = modalities_asked(task, config)
    absent = {f"no_{name}" for name in ("graph", "image") if name not in there}
    variants = ["none", *(name for name in config.ablation if name != "none" and name not in absent)]
    reads_words = MODELS.get(model.name).reads_words
    if not reads_words and (wordy := [name for name in ("no_graph", "no_image", "no_text") if name in variants]):
        log.info("ablation: %s is left out, for model.name=%s reads no words.", " and ".join(wordy), model.name)
        variants = [name for name in variants if name not in wordy]
    if "no_text" in variants and not has_own_text(task, config):
        log.info("ablation: no_text is left out, for the prompts of '%s' hold no text of their own.", task.config.name)
        variants.remove("no_text")
    if reads_words and "llm" in config.baselines:
        variants.append("llm")
    wordings = task.other_wordings() if reads_words and config.wordings == "all" else []
    for seed in config.all_seeds:
        yield from (Pass(variant=variant, wording=None, seed=seed) for variant in variants)
        yield from (Pass(variant="none", wording=name, seed=seed) for name in wordings)


def main_pass(config: Any) -> Pass:
    """The plain pass of the first seed."""
    return Pass(variant="none", wording=None, seed=config.seed)


def worded(task: Task, wording: str | None) -> Task:
    """The task in another wording."""
    if wording is None:
        return task
    other = copy(task)
    other.config = dataclasses.replace(task.config, wording=wording)
    return other


def draw(task: Task, config: Any, seed: int) -> Tensor:
    """The items to ask about, ascending, shape ``[k]``, int64.

    Raises:
        DataError: there are none.
    """
    items = task.items(config.split)
    if not len(items):
        raise DataError(f"split: the {config.split} split of '{task.data['name']}' has no items for '{task.config.name}'.")
    if config.limit is not None and config.limit < len(items):
        order = np.random.RandomState(seed).permutation(len(items))[: config.limit]
        items = items[torch.from_numpy(np.sort(order))]
    place, whole = config.part
    if whole > len(items):
        raise DataError(f"shard: there {'is' if len(items) == 1 else 'are'} {amount(len(items), 'item')}, too few for {whole} shards.")
    return items[place - 1 :: whole]


def questions(task: Task, config: Any, step: Pass, items: Sequence[int]) -> list[Instruction]:
    """The questions of a pass."""
    asked, others = worded(task, step.wording), task.items(config.split)
    if step.variant == "llm":
        return [asked.instruction(item, seed=mix(step.seed, item), training=False).without() for item in items]
    ablation: Any = step.variant
    return [ablated(asked, item, ablation, seed=mix(step.seed, item), others=others) for item in items]


def modalities_asked(task: Task, config: Any) -> set[str]:
    """What stands in the prompts beside words; the first few tell."""
    first = draw(task, config, config.seed)[:8].tolist()
    asked = questions(task, config, main_pass(config), first)
    return {item.modality for instruction in asked for item in instruction.inputs}


def has_own_text(task: Task, config: Any) -> bool:
    """Whether hiding the items' texts changes a prompt; the first few tell."""
    items = draw(task, config, config.seed)[:8].tolist()
    step = main_pass(config)
    hidden = questions(task, config, replace(step, variant="no_text"), items)
    return any(a.prompt != b.prompt for a, b in zip(questions(task, config, step, items), hidden, strict=True))
