"""Which title belongs to which graph token? Self-supervised: no labels are read."""

import re
from typing import Any

import torch

from graphgpt.metrics import Metric
from graphgpt.prompts.instruction import Message
from graphgpt.prompts.prediction import Prediction
from graphgpt.registry import TASKS
from graphgpt.schema import configclass
from graphgpt.tasks.graph_task import GraphInstruction, GraphTask
from graphgpt.tasks.task import generator
from graphgpt.tasks.worded import TaskConfig

ANSWER = "Based on the given graph tokens and the list of {node} titles, we obtain the matching of graph tokens and {node}s as follows: "


@TASKS.register("graph_matching")
class GraphMatching(GraphTask):
    """Put a shuffled list of titles into the order of the graph tokens (GraphGPT, arXiv:2310.13023, section 3.2)."""

    words = ("titles",)
    needs_labels = False
    needs = "graph"

    @configclass
    class Config(TaskConfig):
        pass

    @classmethod
    def data_problems(cls, config: Any, dataset: Any) -> list[str]:
        """A token must be a node, for it is to be named."""
        problems = super().data_problems(config, dataset)
        if problems or (layout := dataset.sampler.layout) == "sampled":
            return problems
        return [f"dataset.sampler.layout: 'graph_matching' names the node of every token, which '{layout}' has not; use 'sampled'."]

    def instruction(self, item: int, *, seed: int, training: bool, hide_text: bool = False) -> GraphInstruction:
        subgraph = self.subgraph(item, seed)
        titles = [self.cut(self.graph.title(node)) for node in subgraph.nodes[: subgraph.num_tokens].tolist()]
        order = torch.randperm(len(titles), generator=generator(seed)).tolist()
        asked = Message("user", *self.ask(subgraph, titles=" ".join(f"{place}. {titles[i]}." for place, i in enumerate(order, start=1))))
        answer = ANSWER.format(node=self.dataset.node) + " ".join(
            f"Graph token {i} corresponds to {title}." for i, title in enumerate(titles, start=1)
        )
        return GraphInstruction(
            id=str(self.graph.ids[item].as_py()),
            messages=(asked, Message("assistant", answer)),
            limits=self.limits(asked.inputs),
            nodes=(item,),
            subgraphs=(subgraph,),
        )

    @classmethod
    def measures(cls, config: Any) -> tuple[Metric, ...]:
        in_place = "In place: share of the parts that stand where they should"
        return (Metric(name="exact_order", title="Exact order"), Metric(name="position_accuracy", title="In place", legend=in_place))

    def answer_metrics(self, prediction: Prediction) -> dict[str, float]:
        """Whether every title is in its place, and the share of titles that are."""
        right, said = matched_titles(prediction.expected), matched_titles(prediction.text or "")
        return {
            "exact_order": float(said == right),
            "position_accuracy": sum(said.get(place) == title for place, title in right.items()) / len(right),
        }


def matched_titles(answer: str) -> dict[int, str]:
    """Title by graph token number, as an answer states them."""
    parts = re.split(r"Graph token (\d+) corresponds to ", answer)[1:]
    return {int(number): title.strip().removesuffix(".") for number, title in zip(parts[::2], parts[1::2], strict=True)}
