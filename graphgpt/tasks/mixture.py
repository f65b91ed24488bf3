"""Several tasks at once, on one graph or on several."""

import dataclasses
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from graphgpt.errors import DataError
from graphgpt.prompts.facts import TaskFacts
from graphgpt.prompts.instruction import Instruction
from graphgpt.registry import DATASETS, TASKS
from graphgpt.schema import SPLITS, Registered, Split, configclass
from graphgpt.tasks.task import OpenDataset, Task


@configclass
class Part:
    """One task of a mixture."""

    task: Annotated[Any, Registered(TASKS, "task.parts.task")]
    """The task."""
    dataset: Annotated[Any, Registered(DATASETS, "task.parts.dataset")] | None = None
    """Its data; null takes the experiment's ``dataset``."""
    cap: int | None = Field(default=None, ge=1)
    """At most so many items of each split, drawn with the mixture's seed; null takes all."""
    repeat: int = Field(default=1, ge=1)
    """How often an epoch of training goes through the part."""
    weight: float | None = Field(default=None, gt=0)
    """The part's share of an epoch against the weights of the others; small parts are repeated, none is cut. Null: by size."""


@TASKS.register("mixture")
class Mixture(Task):
    """A training stream out of several tasks; a batch may hold any of them.

    Each part keeps its own graph, wording and split; evaluation asks each part on its own. Items are places in one list
    of (part, item), first those of training, then validation, then test.

    Args:
        config: The ``Config``.
        tasks: By name.
    """

    @configclass
    class Config:
        name: str
        """Name of a registered task."""
        parts: dict[str, Part]
        """The tasks by any name."""
        seed: int = 0
        """Draws capped items."""

    config: Config

    @classmethod
    def problems(cls, config: Config) -> list[str]:
        """No parts, or weights on some of them only."""
        if not config.parts:
            return ["task.parts: a mixture needs at least one part."]
        without = [name for name, part in config.parts.items() if part.weight is None]
        if without and len(without) < len(config.parts):
            return [f"task.parts.{without[0]}.weight: must be given, since other parts have a weight."]
        nested = [name for name, part in config.parts.items() if part.task is not None and part.task.name == "mixture"]
        return [f"task.parts.{name}.task: a mixture cannot be part of a mixture." for name in nested]

    @classmethod
    def data_problems(cls, config: Config, dataset: Any) -> list[str]:
        """What the parts say of their data."""
        return [
            f"task.parts.{name}: {problem}"
            for name, part in config.parts.items()
            for problem in TASKS.get(part.task.name).data_problems(part.task, part.dataset or dataset)
        ]

    @classmethod
    def idle(cls, config: Any, experiment: Any) -> dict[str, str]:
        """What no part has a use for: of the parts' own nodes what they say, of the shared graph what all say that share it."""
        found = {}
        if all(part.cap is None for part in config.parts.values()):
            found["task.seed"] = "changes nothing, for no part has a cap, whose items it would draw."
        shared = []
        for name, part in config.parts.items():
            alone = dataclasses.replace(experiment, task=part.task, dataset=part.dataset or experiment.dataset)
            says = TASKS.get(part.task.name).idle(part.task, alone)
            if part.dataset is not None:
                says |= getattr(DATASETS.get(part.dataset.name), "idle", lambda *_: {})(part.dataset, alone)
            own = ("task",) if part.dataset is None else ("task", "dataset")
            found |= {f"task.parts.{name}.{key}": why for key, why in says.items() if key.partition(".")[0] in own}
            shared += [] if part.dataset is not None else [{key: why for key, why in says.items() if key.startswith("dataset.")}]
        if not shared:
            return found | {"dataset": "changes nothing, for each part of the mixture has a dataset of its own."}
        return found | {key: why for key, why in shared[0].items() if all(key in says for says in shared)}

    @classmethod
    def part_configs(cls, config: Any) -> dict[str, Any]:
        return {name: part.task for name, part in config.parts.items()}

    @classmethod
    def modalities(cls, config: Any) -> Collection[str] | None:
        """Those of all parts, None where one of them does not know."""
        each = [TASKS.get(part.task.name).modalities(part.task) for part in config.parts.values()]
        return None if None in each else {modality for modalities in each for modality in modalities}

    def identities(self, items: Tensor) -> tuple[list[str], list[str]]:
        """Of each item its part's, under the part's name."""
        found: list[tuple[str, str]] = []
        for item in items.tolist():
            name = [*self.parts][self._part[item]]
            [called], [says] = self.parts[name].identities(torch.tensor([int(self._entry[item])]))
            found.append((f"{name}/{called}", says))
        return [called for called, _ in found], [says for _, says in found]

    @classmethod
    def scores(cls, config: Any) -> bool:
        return any(TASKS.get(part.task.name).scores(part.task) for part in config.parts.values())

    def write_split(self, folder: Path) -> None:
        """Each part's own, in a folder of its name."""
        for name, part in self.parts.items():
            part.write_split(folder / name)

    def __init__(self, config: Config, tasks: Mapping[str, Task]) -> None:
        self.config = config
        self._tasks = dict(tasks)
        names = [*tasks]
        lists = {split: self._entries(split) for split in SPLITS}
        self._entry = np.concatenate([entries for split in SPLITS for entries in lists[split]])
        sizes = [[len(entries) for entries in lists[split]] for split in SPLITS]
        self._part = np.concatenate([np.repeat(np.arange(len(names)), counts) for counts in sizes])
        self._bounds = np.cumsum([0, *(sum(counts) for counts in sizes)])

    @classmethod
    def build(cls, config: Any, dataset: Any, open_dataset: OpenDataset) -> Self:
        """Each part on its own data.

        Raises:
            DataError: the data cannot be used, or the parts' node features differ in width.
        """
        parts = {
            name: TASKS.get(part.task.name).build(part.task, part.dataset or dataset, open_dataset) for name, part in config.parts.items()
        }
        widths = {name: part.facts.widths["graph"] for name, part in parts.items() if "graph" in part.facts.widths}
        if len({*widths.values()}) > 1:
            raise DataError(
                "task.parts: one tower reads all graphs, but their node features differ in width: "
                + ", ".join(f"{name} {width}" for name, width in widths.items())
                + "; give them the same text encoder and dimension."
            )
        return cls(config, parts)

    @property
    def parts(self) -> Mapping[str, Task]:
        return self._tasks

    @property
    def facts(self) -> TaskFacts:
        """Widths of all; there is neither one number of inputs nor one of candidates."""
        widths = {modality: width for part in self.parts.values() for modality, width in part.facts.widths.items()}
        return TaskFacts(task=self.config.name, widths=widths, inputs=0)

    @property
    def data(self) -> dict[str, Any]:
        return {
            "name": "mixture",
            "parts": {name: part.data for name, part in self.parts.items()},
            "features": self.facts.widths.get("graph"),
        }

    @property
    def summary(self) -> str:
        return "; ".join(f"{name}: {part.summary}" for name, part in self.parts.items())

    def items(self, split: Split) -> Tensor:
        """Places in the list of (part, item), shape ``[k]``, int64."""
        place = SPLITS.index(split)
        return torch.arange(self._bounds[place], self._bounds[place + 1])

    def by_part(self, items: Tensor) -> list[tuple[Task, Tensor]]:
        """The parts that places are of, each with its own items, every one once."""
        part, entry = self._part[items.numpy()], self._entry[items.numpy()]
        return [(task, torch.from_numpy(np.unique(entry[part == i]))) for i, task in enumerate(self.parts.values())]

    def instruction(self, item: int, *, seed: int, training: bool, hide_text: bool = False) -> Instruction:
        name = [*self.parts][self._part[item]]
        found = self.parts[name].instruction(int(self._entry[item]), seed=seed, training=training, hide_text=hide_text)
        shared = self.config.parts[name].dataset is None
        limits = tuple(key if shared and key.startswith("dataset.") else f"task.parts.{name}.{key}" for key in found.limits)
        return dataclasses.replace(found, id=f"{name}/{found.id}", limits=limits)

    def _entries(self, split: Split) -> list[np.ndarray]:
        """Items of every part, in training as often as an epoch has them."""
        random = np.random.RandomState(self.config.seed)
        found = []
        for name, part in self.config.parts.items():
            items = self.parts[name].items(split).numpy()
            if part.cap is not None and part.cap < len(items):
                items = np.sort(random.permutation(items)[: part.cap])
            found.append(np.tile(items, part.repeat) if split == "train" else items)
        weights = [part.weight for part in self.config.parts.values()]
        if split != "train" or None in weights:
            return found
        # The part that has fewest items for its weight is repeated up to its share; the one with most stands as it is.
        share = max(len(items) / weight for items, weight in zip(found, weights, strict=True) if weight)
        return [np.resize(items, round(share * weight)) for items, weight in zip(found, weights, strict=True) if weight]
