"""Which title belongs to which graph token? Self-supervised: no labels are read."""

import re
from collections.abc import Sequence

import torch
from torch import Tensor

from graphgpt.graphs.graph import SPLITS
from graphgpt.prompts.instruction import Instruction, Message
from graphgpt.registry import TASKS
from graphgpt.schema import configclass
from graphgpt.task import Prediction, Split, Task, TaskConfig, generator

ANSWER = "Based on the given graph tokens and the list of {node} titles, we obtain the matching of graph tokens and {node}s as follows: "


@TASKS.register("graph_matching")
class GraphMatching(Task):
    """Put a shuffled list of titles into the order of the graph tokens (GraphGPT, arXiv:2310.13023, section 3.2)."""

    words = ("titles",)

    @configclass
    class Config(TaskConfig):
        pass

    def items(self, split: Split) -> Tensor:
        """As for every task; unlabelled nodes train too, for no label is needed."""
        if split == "train":
            return ((self.split == SPLITS.index("train")) | (self.split == -1)).nonzero().flatten()
        return super().items(split)

    def instruction(self, item: int, *, seed: int, training: bool) -> Instruction:
        subgraph = self.subgraph(item, seed)
        titles = [self.cut(self.graph.title(node)) for node in subgraph.nodes[: subgraph.num_tokens].tolist()]
        order = torch.randperm(len(titles), generator=generator(seed)).tolist()
        prompt = self.fill(titles=" ".join(f"{place}. {titles[i]}." for place, i in enumerate(order, start=1)))
        answer = ANSWER.format(node=self.dataset.node) + " ".join(
            f"Graph token {i} corresponds to {title}." for i, title in enumerate(titles, start=1)
        )
        return Instruction(
            id=str(self.graph.ids[item].as_py()),
            messages=(Message("user", prompt), Message("assistant", answer)),
            inputs=(subgraph.input(self.graph),),
            meta={"node": item, "subgraph": subgraph},
        )

    def metrics(self, predictions: Sequence[Prediction]) -> dict[str, float]:
        """Share of answers with every title in its place, and mean share of titles in their place."""
        pairs = [(matched_titles(p.expected), matched_titles(p.text or "")) for p in predictions]
        return {
            "exact_order": sum(said == right for right, said in pairs) / len(pairs),
            "position_accuracy": sum(sum(said.get(place) == title for place, title in right.items()) / len(right) for right, said in pairs)
            / len(pairs),
        }


def matched_titles(answer: str) -> dict[int, str]:
    """Title by graph token number, as an answer states them."""
    parts = re.split(r"Graph token (\d+) corresponds to ", answer)[1:]
    return {int(number): title.strip().removesuffix(".") for number, title in zip(parts[::2], parts[1::2], strict=True)}
