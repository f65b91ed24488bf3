"""The roots of the configuration, a training and an evaluation: their schemas and their checks."""

import dataclasses
import json
import re
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticKnownError

from graphgpt.checkpoints.folder import checkpoint_experiment, checkpoint_problems, hand_over_problems
from graphgpt.config.compatibility import combination_problems, idle_in_evaluation
from graphgpt.errors import ConfigError
from graphgpt.prompts.prediction import AnswerSettings
from graphgpt.registry import DATASETS, MODELS, RUNNERS, TASKS
from graphgpt.schema import (
    MISSING,
    MOST_PROCESSES,
    Ablation,
    Accelerator,
    Baseline,
    Registered,
    Split,
    configclass,
    declared_idle,
    idle_problems,
    parse,
)

C = TypeVar("C", "ExperimentConfig", "EvaluationConfig")


@configclass
class ExperimentConfig:
    """One training run."""

    name: str
    """Short name; part of the run folder's name."""
    seed: int = Field(default=0, ge=0)
    """Same seed, same run: it draws first weights, the order of samples, neighbours and dropout, but no split
    (``dataset.split.seed``)."""
    model: Annotated[Any, Registered(MODELS, "model")]
    """Language model, tower, projector, LoRA, template."""
    dataset: Annotated[Any, Registered(DATASETS, "dataset")]
    """The graph."""
    task: Annotated[Any, Registered(TASKS, "task")]
    """What is asked about it."""
    runner: Annotated[Any, Registered(RUNNERS, "runner")]
    """How it is trained."""
    start_from: str | None = None
    """Run or checkpoint folder to start from; ``latest`` is the newest in ``runs``."""
    test: bool = False
    """Also evaluate what was trained, when the run is through: into the folder ``test`` in its own."""
    resume: str | None = None
    """Run folder to go on in; ``auto`` finds the newest interrupted run with the same settings, or starts anew."""
    plugins: list[str] = Field(default_factory=list)
    """Modules that register more classes; one that a checkpoint's config names is imported only if it is named here too."""


def _some_of(literal: Any, words: dict[Any, tuple[str, ...]]) -> BeforeValidator:
    """A list of names may be given as one name, or as a word for several of them."""
    names = get_args(literal)

    def listed(value: Any) -> Any:
        if isinstance(value, str | bool | None):
            if value in words:
                return words[value]
            if value not in names:
                known = [*names, *(str(word).lower() for word in words if word is not None)]
                raise PydanticKnownError("literal_error", {"expected": ", ".join(f"'{name}'" for name in dict.fromkeys(known))})
            return (value,)
        return value

    return BeforeValidator(listed)


ABLATIONS: tuple[Ablation, ...] = tuple(name for name in get_args(Ablation) if name != "none")
#: The plain language model costs a pass over all prompts, so it must be asked for.
BASELINES: tuple[Baseline, ...] = tuple(name for name in get_args(Baseline) if name != "llm")


@configclass
class EvaluationConfig:
    """One evaluation of a checkpoint."""

    @property
    def part(self) -> tuple[int, int]:
        """Number of the shard, from 1, and how many there are."""
        place, _, whole = (self.shard or "1/1").partition("/")
        return int(place), int(whole)

    @property
    def answering(self) -> AnswerSettings:
        """How much is answered at once, and how."""
        return AnswerSettings(**{field.name: getattr(self, field.name) for field in dataclasses.fields(AnswerSettings)})

    @property
    def all_seeds(self) -> list[int]:
        """The seeds that are evaluated, one after the other."""
        return list(range(self.seed, self.seed + self.seeds))

    name: str
    """Short name; part of the run folder's name."""
    checkpoint: str
    """Run or checkpoint folder; ``latest`` is the newest in ``runs``."""
    dataset: Annotated[Any, Registered(DATASETS, "dataset")] | None = None
    """Another graph than the checkpoint's; null takes that one."""
    task: Annotated[Any, Registered(TASKS, "task")] | None = None
    """Another task than the checkpoint's; null takes that one."""
    split: Split = "test"
    """Which items."""
    limit: int | None = Field(default=None, ge=1)
    """At most so many of them; null takes all."""
    devices: int = Field(default=1, ge=1, le=MOST_PROCESSES)
    """So many processes, each on a GPU of its own (or sharing the processor), take a shard each and are joined at the end."""
    shard: str | None = None
    """Such as ``2/4``: every fourth item, from the second on; null takes all. ``graphgpt gather`` joins the shards."""
    seed: int = Field(default=0, ge=0)
    """Draws the items, their neighbours and the bootstrap, but no split: that is the checkpoint's, or ``dataset.split.seed``'s."""
    seeds: int = Field(default=1, ge=1)
    """Repeat with so many seeds, from ``seed`` on, and report mean and standard deviation."""
    wordings: Literal["all"] | None = None
    """``all``: also every other wording of the task, to see how much depends on it."""
    batch_size: int = Field(default=AnswerSettings.batch_size, ge=1)
    """Prompts per forward pass."""
    writing_batch_size: int = Field(default=AnswerSettings.writing_batch_size, ge=1)
    """Answers written at once: a forward pass adds one token to each."""
    ablation: Annotated[tuple[Ablation, ...], _some_of(Ablation, {"all": ABLATIONS, None: ()})] = ("no_graph", "no_image")
    """Also the same model with a part of each question taken away: one, a list, ``all`` or ``none``."""
    generate: bool = AnswerSettings.generate
    """Where candidates are scored, also write an answer and read it: how often it is right, and how often it is none of them."""
    baselines: Annotated[tuple[Baseline, ...], _some_of(Baseline, {True: BASELINES, False: (), None: ()})] = BASELINES
    """Also simple methods on the same items: ``true`` is all but ``llm``, the language model without graph and adapters."""
    compare: dict[str, str] = Field(default_factory=dict)
    """Also other models on the same items: run folders of their evaluations, by the name that the table shows."""
    max_edges: int = Field(default=2_000_000, ge=0)
    """GCN and GraphSAGE train on the whole graph at once, and are left out where it has more edges."""
    leakage: Literal["report", "error", "off"] = "report"
    """What to do when a prompt gives its answer away."""
    samples: int = Field(default=6, ge=0)
    """Items shown in full in the report."""
    max_new_tokens: int = Field(default=AnswerSettings.max_new_tokens, ge=1)
    """Length of greedy answers."""
    bootstrap: int = Field(default=1000, ge=0)
    """Resamples for the intervals; 0 makes none."""
    threads: int | None = Field(default=None, ge=1, le=MOST_PROCESSES)
    """Processor threads; null takes all."""
    accelerator: Accelerator = "auto"
    """Where to run."""
    plugins: list[str] = Field(default_factory=list)
    """Modules that register more classes; one that a checkpoint's config names is imported only if it is named here too."""


def read_config(cls: type[C], data: dict[str, Any], given: Collection[str] = ()) -> C:
    """A typed configuration from plain data, e.g. from a checkpoint's ``config.yaml``. Data only: nothing is imported or instantiated.

    Args:
        cls: Schema of the root.
        data: Nested plain containers.
        given: Keys that a user gave just now; what they hold must be able to act. Of what a checkpoint or a recipe holds, nothing must.

    Raises:
        ConfigError: all problems at once, each in one sentence with the nearest right thing.
    """
    problems: list[str] = []
    if cls is EvaluationConfig and "resume" in data:  # as a user may type it, and as those of earlier versions have it: null
        if folder := data["resume"]:
            go_on = "(only a sweep goes on: -m resume=FOLDER)"
            problems.append(f"resume: an evaluation does not go on; leave resume={folder} out {go_on}.")
        data = {key: value for key, value in data.items() if key != "resume"}
    config = parse(cls, data, problems)
    for key in ("start_from", "checkpoint"):
        if isinstance(folder := data.get(key), str) and folder != MISSING:
            problems += checkpoint_problems(folder, key)
    if isinstance(config, ExperimentConfig) and not problems:
        problems += TASKS.get(config.task.name).data_problems(config.task, config.dataset)
        problems += MODELS.get(config.model.name).task_problems(config.model, config.task)
        problems += combination_problems(config.model, config.runner)
    if isinstance(config, ExperimentConfig) and config.start_from is not None and not problems:
        problems += hand_over_problems(config.start_from, config.model)
    if isinstance(config, EvaluationConfig) and config.shard and not re.fullmatch(r"[1-9]\d*/[1-9]\d*", config.shard):
        problems.append(f"shard: '{config.shard}' is no part of a whole; expected i/n, such as 2/4.")
    elif isinstance(config, EvaluationConfig) and config.part[0] > config.part[1]:
        problems.append(f"shard: '{config.shard}' does not exist; the last of {config.part[1]} is {config.part[1]}/{config.part[1]}.")
    elif isinstance(config, EvaluationConfig) and config.shard and config.devices > 1:
        problems.append(f"devices={config.devices}: makes shards by itself; leave shard={config.shard} out, or use devices=1.")
    if isinstance(config, EvaluationConfig):
        for name, folder in config.compare.items():
            if not any(Path(folder).glob("**/predictions.jsonl")):
                problems.append(f"compare.{name}: {folder} is no run folder of an evaluation: it has no predictions.jsonl.")
    if config is not None and given:
        # Declared across nodes, so all nodes must be there.
        if isinstance(config, ExperimentConfig):
            problems += idle_problems(config, given, {} if problems else declared_idle(config))
        elif not problems:
            problems += _idle_in_evaluation(config, given)
    if config is None or problems:
        raise ConfigError(problems)
    return config


def _idle_in_evaluation(config: "EvaluationConfig", given: Collection[str]) -> list[str]:
    """What of an evaluation's settings does nothing for the task that it asks, or with the checkpoint's model."""
    experiment = evaluated_experiment(config)
    asked = [key for key in given if key.partition(".")[0] in ("dataset", "task")]
    own = [key for key in given if key not in asked]
    return [
        *idle_problems(config, own, idle_in_evaluation(config, experiment.model, experiment.task)),
        *idle_problems(experiment, asked, declared_idle(experiment)),
    ]


def plain_settings(config: Any) -> dict[str, Any]:
    """A configuration as a ``config.yaml`` gives it back: plain containers, tuples as lists."""
    settings: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config)))
    return settings


def evaluated_experiment(config: EvaluationConfig) -> ExperimentConfig:
    """The checkpoint's experiment, on the task and the dataset that the evaluation asks for.

    Raises:
        ConfigError: they do not fit together, or the task asks nothing.
    """
    asked = {key: value for key in ("dataset", "task") if (value := getattr(config, key)) is not None}
    experiment = read_config(ExperimentConfig, checkpoint_experiment(config.checkpoint) | asked)
    if not TASKS.get(task := experiment.task.name).asks:
        raise ConfigError(
            [f"checkpoint: {config.checkpoint} was trained by task.name={task}, which asks nothing; its run's report.html has its metrics."]
        )
    return experiment
