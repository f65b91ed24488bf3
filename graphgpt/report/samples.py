"""A question with its answer as a report shows it."""

import base64
import io
from collections.abc import Sequence
from typing import Any

import torch

from graphgpt.graphs.graph import TextAttributedGraph
from graphgpt.images.picture import ImageInput
from graphgpt.prompts.instruction import Instruction
from graphgpt.prompts.prediction import Prediction
from graphgpt.report.breakdowns import nodes_of, subgraphs_of
from graphgpt.report.page import Neighborhood, Sample
from graphgpt.tasks.task import Task

#: So many nodes of a subgraph are drawn; more could not be told apart.
_MAX_DRAWN = 120
#: Pixels along the longer side of a picture.
_THUMBNAIL = 160


def graph_of(task: Task) -> TextAttributedGraph | None:
    """The task's graph; stored questions have none."""
    graph = getattr(task, "graph", None)
    return graph if isinstance(graph, TextAttributedGraph) else None


def shown_sample(task: Task, instruction: Instruction, prediction: Prediction) -> Sample:
    """One question of a task with what the model said."""
    names, graph = prediction.choices or task.candidates, graph_of(task)
    nodes = nodes_of(instruction)
    candidates = []
    if names and prediction.scores is not None:
        chances = torch.tensor(prediction.scores).softmax(dim=0).tolist()
        candidates = sorted(zip(names, chances, strict=True), key=lambda pair: -pair[1])
    return Sample(
        id=prediction.id,
        title=_title(graph, nodes, instruction) or prediction.id,
        prompt=instruction.pieces,
        pictures=[thumbnail(item) for item in instruction.inputs if isinstance(item, ImageInput)],
        subgraphs=[_neighborhood(graph, subgraph) for subgraph in subgraphs_of(instruction)] if graph else [],
        truth=prediction.expected,
        answer=candidates[0][0] if candidates else None,
        candidates=candidates,
        generated=prediction.text,
        metrics={} if names else task.answer_metrics(prediction),
    )


def _title(graph: TextAttributedGraph | None, nodes: Sequence[int], instruction: Instruction) -> str:
    """What a question is about, by name; empty where nothing tells."""
    if graph and nodes:
        return " and ".join(graph.title(node) for node in nodes)
    return " and ".join(item.title for item in instruction.inputs if isinstance(item, ImageInput))


def thumbnail(item: ImageInput) -> str:
    """A small copy of a picture as an address that holds it, for pages that want no files beside them."""
    picture = item.load()
    picture.thumbnail((_THUMBNAIL, _THUMBNAIL))
    data = io.BytesIO()
    picture.save(data, "PNG")
    return f"data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}"


def _neighborhood(graph: TextAttributedGraph, subgraph: Any) -> Neighborhood:
    # A token per node: only those are drawn that the prompt holds. Tokens that pool nodes hold something of all.
    drawn = min(_MAX_DRAWN, len(subgraph.nodes) if subgraph.pool is not None else subgraph.num_tokens)
    nodes = subgraph.nodes[:drawn]
    inside = (subgraph.edge_index < drawn).all(dim=0)
    return Neighborhood(
        nodes=[graph.title(node) for node in nodes.tolist()],
        classes=graph.y[nodes].tolist(),
        edges=[(a, b) for a, b in subgraph.edge_index[:, inside].t().tolist()],
    )
