"""Which text belongs to which node? Stage 0, for a tower alone: no labels are read."""

import dataclasses
from typing import Annotated, Any, Self

import torch
from pydantic import Field
from torch import Tensor

from graphgpt.graphs.dataset import DatasetConfig
from graphgpt.graphs.graph import TextAttributedGraph
from graphgpt.graphs.splits import split_nodes
from graphgpt.prompts.facts import TaskFacts
from graphgpt.prompts.instruction import Message
from graphgpt.registry import TASKS, TEXT_ENCODERS
from graphgpt.schema import Registered, configclass
from graphgpt.tasks.graph_task import GraphTask, NodeGrounding
from graphgpt.tasks.task import OpenDataset, generator
from graphgpt.tasks.worded import TaskConfig


@TASKS.register("grounding")
class Grounding(GraphTask):
    """A node's surroundings beside its own text and those of some neighbours (GraphGPT, arXiv:2310.13023, section 3.1).

    Nodes that are held out are no samples of training; as neighbours of others they are in the graph, and their texts with them.

    Args:
        config: This class's ``Config``.
        graph: With features.
        dataset: As for every task.
        split: As for every task.
        texts: An embedding of each node's text, shape ``[n, text_dim]``; None where the model reads the texts.
    """

    asks = False
    needs_labels = False
    needs = "graph"

    @configclass
    class Config(TaskConfig):
        neighbors: int = Field(default=3, ge=1)
        """Neighbours whose texts a sample has, drawn with replacement; a node without any takes its own text for theirs."""
        text_encoder: Annotated[Any, Registered(TEXT_ENCODERS, "task.text_encoder")] | None = None
        """What embeds the texts, once; null gives the texts themselves to the model, cut to ``max_chars``."""

    def __init__(self, config: Any, graph: TextAttributedGraph, dataset: DatasetConfig, split: Tensor, texts: Tensor | None = None) -> None:
        super().__init__(config, graph, dataset, split)
        self.texts = texts

    @classmethod
    def build(cls, config: Any, dataset: Any, open_dataset: OpenDataset) -> Self:
        """As for every task, but with embeddings of the texts beside the graph's features."""
        graph = open_dataset(dataset)
        texts = None if config.text_encoder is None else open_dataset(dataset, text_encoder=config.text_encoder).features
        return cls(config, graph, dataset, split_nodes(graph, dataset.split, needs_labels=cls.needs_labels), texts)

    @classmethod
    def idle(cls, config: Any, experiment: Any) -> dict[str, str]:
        """Also the length of texts that an encoder reads whole."""
        found = super().idle(config, experiment)
        if config.text_encoder is not None:
            found["task.max_chars"] = "acts only with task.text_encoder=null: an encoder reads texts whole."
        return found

    @property
    def facts(self) -> TaskFacts:
        return dataclasses.replace(super().facts, text_dim=None if self.texts is None else self.texts.shape[1])

    def neighbors(self, item: int, seed: int) -> Tensor:
        """The neighbours whose texts a sample has, shape ``[config.neighbors]``, int64."""
        all_of_them = self.graph.neighbors(item)
        if not len(all_of_them):
            return torch.full((self.config.neighbors,), item)
        return all_of_them[torch.randint(len(all_of_them), (self.config.neighbors,), generator=generator(seed))]

    def instruction(self, item: int, *, seed: int, training: bool, hide_text: bool = False) -> NodeGrounding:
        subgraph = self.subgraph(item, seed)
        return NodeGrounding(
            id=str(self.graph.ids[item].as_py()),
            messages=(Message("user", *self.ask(subgraph)), Message("assistant", self._text(item))),
            nodes=(item,),
            subgraphs=(subgraph,),
            text=self._read(item),
            around=[self._read(node) for node in self.neighbors(item, seed).tolist()],
        )

    def _read(self, node: int) -> Tensor | str:
        """What the model's text side reads of a node: an embedding, shape ``[text_dim]``, or the text."""
        return self._text(node) if self.texts is None else self.texts[node]

    def _text(self, node: int) -> str:
        return self.cut(f"{self.graph.title(node)}. {self.graph.body(node)}")
