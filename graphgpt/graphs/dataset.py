"""What a dataset is: a recipe that yields a text-attributed graph."""

from abc import ABC, abstractmethod
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from graphgpt.files.atomic import cache_dir
from graphgpt.graphs.graph import TextAttributedGraph
from graphgpt.graphs.subgraph import Layout
from graphgpt.graphs.tables import missing_files
from graphgpt.registry import TEXT_ENCODERS
from graphgpt.schema import ActsWith, Kind, Registered, UserPath, configclass

#: Fields of a dataset that say what the prompts call things; the card of a built graph may hold them under ``words``.
WORDS = ("domain", "node", "relation", "category")


@configclass
class SplitConfig:
    """Which nodes are for training, validation and test; only labelled ones are, and each is in one split at most."""

    name: Literal["auto", "random", "planetoid", "given", "file"] = "auto"
    """``given``: the split that the data bring; ``random``: by shares; ``auto``: the first of these two that there is; ``planetoid``: by
    numbers; ``file``: a table of yours."""
    seed: Annotated[int, ActsWith(name=("auto", "random", "planetoid"))] = Field(default=0, ge=0, lt=2**32)
    """Draws ``random`` and ``planetoid`` splits, whatever the run's ``seed`` is. Same seed, same split, on every machine."""
    train: Annotated[float, ActsWith(name=("auto", "random"))] = Field(default=0.6, gt=0, lt=1)
    """``random``: share of the labelled nodes for training."""
    val: Annotated[float, ActsWith(name=("auto", "random"))] = Field(default=0.2, ge=0, lt=1)
    """``random``: share for validation; the rest is for test."""
    per_class: Annotated[int, ActsWith(name="planetoid")] = Field(default=20, ge=1)
    """``planetoid``: nodes of every class for training."""
    num_val: Annotated[int, ActsWith(name="planetoid")] = Field(default=500, ge=0)
    """``planetoid``: nodes for validation."""
    num_test: Annotated[int, ActsWith(name="planetoid")] = Field(default=1000, ge=1)
    """``planetoid``: nodes for test; what is left is in no split."""
    path: Annotated[UserPath | None, ActsWith(name="file")] = None
    """``file``: CSV or Parquet file with the columns ``id,split``, such as the ``split.csv`` of a run."""

    def problems(self) -> list[str]:
        """What cannot work and can be seen without the graph, one sentence each."""
        if self.name in ("auto", "random") and self.train + self.val >= 1:
            return [f"dataset.split: train {self.train} and val {self.val} leave nothing for test; their sum must be below 1."]
        if self.name == "file" and self.path is None:
            return ["dataset.split.path: must be given, for dataset.split.name is 'file'."]
        return missing_files({"dataset.split.path": self.path}) if self.name == "file" else []


@configclass
class SamplerConfig:
    """Which neighbourhood of a node the tower sees, and how much of it the prompt holds."""

    hops: int = Field(default=2, ge=0)
    """How far from the centre."""
    fanout: int = Field(default=10, ge=1)
    """At most so many neighbours per node and hop, without replacement."""
    max_tokens: int | None = Field(default=None, ge=1)
    """At most so many graph tokens, the nearest first; null takes all."""
    layout: Layout = "sampled"
    """``sampled``: a token per node; ``neighborhood_detail``: a tree of fixed form; ``hop_field``: a token per hop."""


@configclass
class DatasetConfig:
    """What all datasets have in common."""

    name: str
    """Name of a registered dataset."""
    text_encoder: Annotated[Any, Registered(TEXT_ENCODERS, "dataset.text_encoder")]
    """How node texts become node features: ``name`` and the fields of that encoder."""
    domain: str = "graph"
    """What the prompts call the graph: "a {domain}", as in "citation graph"."""
    node: str = "node"
    """What the prompts call a node, as in "paper"."""
    relation: str = "connected to"
    """What an edge says, as in "cites"."""
    category: str = "category"
    """What the prompts call a class, as in "research topic"."""
    split: SplitConfig = Field(default_factory=SplitConfig)
    sampler: SamplerConfig = Field(default_factory=SamplerConfig)


class GraphDataset(ABC):
    """Base of all datasets; register subclasses with ``@DATASETS.register(name)``."""

    kind: ClassVar[Kind] = "graph"
    Config: ClassVar[type[DatasetConfig]] = DatasetConfig

    def __init__(self, config: Any) -> None:
        self.config = config

    @classmethod
    def problems(cls, config: Any) -> list[str]:
        """What is wrong and can be seen without reading the data, e.g. a missing file: one sentence each, naming the key."""
        found: list[str] = config.split.problems()
        return found

    @staticmethod
    def has_features(config: Any) -> bool:
        """Whether the data bring node features of their own, where that is seen without reading them."""
        return getattr(config, "features", None) is not None

    @classmethod
    def idle(cls, config: Any, experiment: Any) -> dict[str, str]:
        """How features are made of texts, where there are some already."""
        return {"dataset.text_encoder": "changes nothing, for the data bring node features."} if cls.has_features(config) else {}

    @abstractmethod
    def fingerprint(self) -> str:
        """Identifies what ``build`` would read, cheaply; the graph is cached under it."""

    @abstractmethod
    def build(self) -> TextAttributedGraph:
        """Read and check the data.

        Raises:
            DataError: naming the file, the line and the value.
        """

    def folder(self) -> Path:
        """Where the graph lies once it is built."""
        return cache_dir() / "graphs" / f"{self.config.name}-{self.fingerprint()}"

    def write(self, folder: Path, card: dict[str, Any] | None = None) -> None:
        """Build the graph and save it as a folder, all or nothing.

        A dataset whose texts may not fit into memory overrides it to write them as they are read.

        Args:
            folder: Is replaced where it exists.
            card: What else the graph's card should say.

        Raises:
            DataError: as :meth:`build`.
        """
        graph = self.build()
        if graph.x is not None:
            graph = graph.with_features(graph.x)
        replace(graph, card=graph.card | (card or {})).save(folder)
