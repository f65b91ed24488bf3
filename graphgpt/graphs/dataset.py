"""What a dataset is: a recipe that yields a text-attributed graph."""

from abc import ABC, abstractmethod
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from graphgpt.graphs.graph import TextAttributedGraph
from graphgpt.registry import TEXT_ENCODERS
from graphgpt.schema import Registered, configclass


@configclass
class SplitConfig:
    """Which nodes are for training, validation and test."""

    name: Literal["random", "given"] = "random"
    """``random``: by the fractions below; ``given``: the split that the data bring."""
    train: float = Field(default=0.6, gt=0, lt=1)
    """Share of the labelled nodes for training."""
    val: float = Field(default=0.2, ge=0, lt=1)
    """Share for validation; the rest is for test."""
    seed: int = 0
    """Same seed, same split, on every machine."""


@configclass
class SamplerConfig:
    """Which neighbourhood of a node the tower sees, and how much of it the prompt holds."""

    hops: int = Field(default=2, ge=0)
    """How far from the centre."""
    fanout: int = Field(default=10, ge=1)
    """At most so many neighbours per node and hop, without replacement."""
    max_tokens: int | None = Field(default=None, ge=1)
    """At most so many nodes, the nearest first, become graph tokens; null takes all."""


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

    Config: ClassVar[type[DatasetConfig]] = DatasetConfig

    def __init__(self, config: Any) -> None:
        self.config = config

    @classmethod
    def problems(cls, config: Any) -> list[str]:
        """What is wrong and can be seen without reading the data, e.g. a missing file: one sentence each, naming the key."""
        return []

    @abstractmethod
    def fingerprint(self) -> str:
        """Identifies what ``build`` would read, cheaply; the graph is cached under it."""

    @abstractmethod
    def build(self) -> TextAttributedGraph:
        """Read and check the data.

        Raises:
            DataError: naming the file, the line and the value.
        """
