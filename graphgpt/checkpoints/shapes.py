"""What the files of a checkpoint hold, for reading them; keys beyond these are kept as they are."""

from pathlib import PurePosixPath, PureWindowsPath
from typing import (
    Annotated,
    Any,
    NotRequired,  # see records
)

from pydantic import AfterValidator, ConfigDict, Field, with_config
from typing_extensions import TypedDict

from graphgpt.files.records import Named, Origin
from graphgpt.metrics import MetricRecord


class TaskSettings(Named):
    """Of a mixture, with its parts."""

    parts: NotRequired["dict[str, Part]"]


class Part(TypedDict):
    """Of a mixture."""

    task: Named
    dataset: NotRequired[Named | None]


class RunnerSettings(Named):
    """Of a training."""

    max_steps: NotRequired[int]


class Experiment(TypedDict):
    """``config.yaml``."""

    model: Named
    dataset: Named
    task: TaskSettings
    runner: RunnerSettings
    plugins: NotRequired[list[str] | None]


class TowerSettings(Named):
    """Of a model."""

    init_from: NotRequired[str | None]


class LanguageModelSettings(TypedDict):
    """Of a model that has one."""

    path: str


class LoraSettings(TypedDict):
    """Of a model with a language model."""

    rank: int


class ModelSettings(Named):
    """The experiment's, as the manifest repeats them."""

    tower: NotRequired[TowerSettings | None]
    modalities: NotRequired[dict[str, dict[str, Any]]]
    llm: NotRequired[LanguageModelSettings]
    projector: NotRequired[Named | None]
    fusion: NotRequired[Named | None]
    template: NotRequired[Named]
    lora: NotRequired[LoraSettings]


class LanguageModel(TypedDict):
    """What the language model has to be; what is not known is None."""

    type: str
    hidden_size: int | None
    vocabulary: int | None
    fingerprint: str | None


@with_config(ConfigDict(extra="forbid"))
class NoLanguageModel(TypedDict):
    """Of a model without one: nothing."""


class Data(TypedDict):
    """The graph that was trained on, or those of a mixture's parts."""

    name: NotRequired[str]
    fingerprint: NotRequired[str | None]
    features: NotRequired[int | None]
    parts: NotRequired[dict[str, Any]]


class Parent(TypedDict):
    """The checkpoint that a training started from."""

    path: str
    task: str
    created: str
    sha256: str


def _inside(name: str) -> str:
    for path in (PurePosixPath(name), PureWindowsPath(name)):
        if path.is_absolute() or path.drive or ".." in path.parts or not path.parts:
            raise ValueError("names no file of its folder")
    return name


class FileFacts(TypedDict):
    """To tell whether a file is whole."""

    bytes: Annotated[int, Field(ge=0)]
    sha256: str


class Versioned(TypedDict):
    """``manifest.json``, of any version."""

    format: int


class Manifest(Versioned):
    """``manifest.json``."""

    created: str
    task: str
    model: ModelSettings
    llm: LanguageModel | NoLanguageModel
    data: NotRequired[Data]
    environment: NotRequired[dict[str, Any]]
    parent: NotRequired[Parent | None]
    files: dict[Annotated[str, AfterValidator(_inside)], FileFacts]
    command: NotRequired[str]
    imported: NotRequired[Origin]


class Stage(TypedDict):
    """Of ``history.json``: one training."""

    name: str
    steps: list[int]
    loss: list[float]
    val: dict[str, Annotated[list[list[float]], Field(min_length=2, max_length=2)]]
    seconds: float
    facts: dict[str, str]
    declared: NotRequired[dict[str, MetricRecord]]


class Score(TypedDict):
    """Of ``scores.json``: one evaluation."""

    task: str
    graph: str
    split: str
    items: int
    metrics: dict[str, float]
    declared: NotRequired[dict[str, MetricRecord]]
    evaluation: str
