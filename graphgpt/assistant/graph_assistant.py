"""A trained model, called from Python: which class, are they connected, and free questions about a node."""

import dataclasses
import logging
import operator
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from omegaconf import OmegaConf

from graphgpt.assembly import encode_texts, open_dataset
from graphgpt.assistant.assistant import Assistant, loaded_model, model_config, typed_config
from graphgpt.assistant.conversation import Answer, Conversation
from graphgpt.checkpoints.folder import checkpoint_experiment, find_checkpoint, read_manifest, width_problem
from graphgpt.checkpoints.trained import Trained, read_trained
from graphgpt.errors import ConfigError, DataError, GraphGPTError
from graphgpt.files.configs import CONFIG_DIR
from graphgpt.graphs.dataset import WORDS, DatasetConfig
from graphgpt.graphs.edge_splits import EdgeSplit, without_edges
from graphgpt.graphs.graph import TextAttributedGraph
from graphgpt.graphs.subgraph import Subgraph
from graphgpt.graphs.tables import hint
from graphgpt.models.multimodal_llm import MultimodalLLM
from graphgpt.prompts.facts import TaskFacts
from graphgpt.prompts.instruction import Instruction, Message, Part
from graphgpt.prompts.prediction import AnswerSettings
from graphgpt.prompts.processor import Example
from graphgpt.registry import DATASETS, TASKS, TEXT_ENCODERS, load_plugins
from graphgpt.runners.training.data import mix
from graphgpt.runners.training.prediction import predict
from graphgpt.schema import SPLITS, parse
from graphgpt.tasks.graph_task import GraphTask
from graphgpt.tasks.link_prediction import YES, LinkPrediction
from graphgpt.tasks.node_classification import NodeClassification
from graphgpt.tasks.task import Task
from graphgpt.tasks.worded import TaskConfig

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)

Node = int | str
"""A node by its number, from 0, or by its id, which is always a string."""

#: How a conversation about a node begins; the first question follows.
OPENING = """\
Graph tokens of a {domain} graph (a {node}, then its neighbors): <graph>
Title of the {node}: {title}
Text of the {node}: {text}
"""

#: The tasks whose settings a checkpoint may bring; otherwise they are as shipped.
ASKED = ("node_classification", "link_prediction")


@dataclass(frozen=True, kw_only=True)
class Classification:
    """Which class a node belongs to, and what the model was shown.

    Args:
        node: Its number.
        id: The user's name of it.
        answer: The likeliest class.
        probabilities: Of all classes, the likeliest first; they sum to 1.
        prompt: Exactly what the model read, with ``<graph: k tokens>`` for the graph tokens.
        subgraph: The neighbourhood behind the graph tokens, with the graph's node numbers.
        trained_on: Whether the model was trained on this node's class; None where that is not known.
        remark: What is to be known about the answer, such as that the model was never trained to classify; empty if nothing is.
    """

    node: int
    id: str
    answer: str
    probabilities: dict[str, float]
    prompt: str
    subgraph: Subgraph
    trained_on: bool | None = None
    remark: str = ""

    @property
    def probability(self) -> float:
        """Of the likeliest class."""
        return self.probabilities[self.answer]


class Connection(float):
    """P(connected), a number like any other, that also says what it is worth.

    Attributes:
        trained_on: Whether the model was trained on this pair; None where that is not known.
        remark: What is to be known about it, such as that the model was never trained on links; empty if nothing is.
    """

    trained_on: bool | None
    remark: str

    def __new__(cls, probability: float, *, trained_on: bool | None = None, remark: str = "") -> "Connection":
        made = super().__new__(cls, probability)
        made.trained_on, made.remark = trained_on, remark
        return made

    def __repr__(self) -> str:
        return f"{float(self)!r} ({self.remark})" if self.remark else repr(float(self))


class Opening(GraphTask):
    """The first turn of a conversation about a node."""

    words = ("title", "text")

    def instruction(self, item: int, *, seed: int, training: bool, hide_text: bool = False) -> Instruction:
        words = {"title": self.cut(self.graph.title(item)), "text": self.cut(self.graph.body(item))}
        return Instruction(id=str(self.graph.ids[item].as_py()), messages=(Message("user", *self.ask(self.subgraph(item, seed), **words)),))


class Pair(LinkPrediction):
    """Whether two nodes are connected, asked in the graph without an edge between them; the one item is 0."""

    def __init__(self, config: Any, graph: TextAttributedGraph, dataset: Any, pair: tuple[int, int]) -> None:
        GraphTask.__init__(self, config, graph, dataset)
        pairs = torch.tensor([pair])
        rest = without_edges(graph, pairs.numpy())
        linked = (graph.neighbors(pair[0]) == pair[1]).any()[None]
        test = torch.tensor([SPLITS.index("test")], dtype=torch.int8)
        self.edges = EdgeSplit(pairs=pairs, linked=linked, split=test, training=rest, evaluation=rest)


class NodeConversation(Conversation):
    """A conversation about a node, or about none.

    Attributes:
        node: Its number.
    """

    def __init__(self, assistant: "GraphAssistant", node: int | None, system: str | None) -> None:
        super().__init__(assistant, system, () if node is None else assistant.opening(node))
        self.node = node


class GraphAssistant(Assistant):
    """A trained model and a graph: ask for classes, for connections, or anything.

    Args:
        model: In eval mode, on the device where it is to run.
        graph: With features, as wide as the model's tower reads.
        dataset: What the prompts call things, and how subgraphs are sampled.
        tasks: Settings of ``node_classification`` and ``link_prediction``, by these names; those left out are as shipped.
        seed: Draws neighbours as ``seed`` of ``evaluate.py`` does: the same seed, the same answers.
        trained: What the model was trained on; None where that is not known.
    """

    def __init__(
        self,
        model: MultimodalLLM,
        graph: TextAttributedGraph,
        dataset: DatasetConfig,
        *,
        tasks: Mapping[str, TaskConfig] | None = None,
        seed: int = 0,
        trained: Trained | None = None,
    ) -> None:
        super().__init__(model, trained=trained)
        self.graph = graph
        self.dataset = dataset
        self.tasks = {name: _shipped_task(name) for name in ASKED} | dict(tasks or {})
        self.seed = seed
        self._home = dataset, graph.fingerprint

    @classmethod
    def from_pretrained(
        cls,
        checkpoint: str | Path,
        graph: str | Path | TextAttributedGraph | None = None,
        *,
        seed: int = 0,
        device: str | None = None,
        plugins: Iterable[str] = (),
    ) -> "GraphAssistant":
        """Load a checkpoint.

        Args:
            checkpoint: Run or checkpoint folder.
            graph: Graph folder, or a graph in memory; None is the one that the checkpoint was trained on. Where a graph has no
                features, the checkpoint's text encoder makes them.
            seed: Draws neighbours.
            device: Such as ``cuda:1`` or ``cpu``; None is the accelerator that is there, else the processor.
            plugins: Modules to import for classes of your own. Those that the checkpoint's config names have to be among them.

        Raises:
            GraphGPTError: the checkpoint asks for a module that ``plugins`` does not name, or one cannot be imported.
            CheckpointError: the folder is incomplete or damaged, or was made for another language model.
            ConfigError: something that the checkpoint's config names is not there.
            DataError: the graph cannot be read, or its features have another width than those the checkpoint was trained on.
        """
        load_plugins(plugins)
        folder = find_checkpoint(checkpoint)
        experiment, trained = checkpoint_experiment(folder), read_manifest(folder).get("data", {})
        config = model_config(folder, experiment)
        own, tasks = _questions(experiment)
        if graph is None:
            dataset = typed_config(DATASETS, own, "dataset")
            if not isinstance(dataset, DatasetConfig):
                raise DataError(f"{folder} was trained on stored questions, not on a graph with texts: give a graph to ask about.")
            opened = open_dataset(dataset, config.llm)
        else:
            fingerprints = [part.get("fingerprint") for part in trained.get("parts", {"": trained}).values()]
            opened, dataset = _open(graph, _base_dataset(own), fingerprints, config.llm)
        _check_width(opened, trained, str(folder))
        model = loaded_model(folder, config, TaskFacts(task="", widths={"graph": opened.features.shape[1]}), device)
        return cls(model, opened, dataset, tasks=tasks, seed=seed, trained=read_trained(folder))

    def with_graph(self, graph: str | Path | TextAttributedGraph) -> "GraphAssistant":
        """The same model, once in memory, on another graph; arguments and errors as for :meth:`from_pretrained`."""
        dataset, fingerprint = self._home
        other = copy(self)
        other.graph, other.dataset = _open(graph, dataset, [fingerprint], self.model.config.llm)
        _check_width(other.graph, {"features": self.graph.features.shape[1]}, "the model")
        return other

    @overload
    def classify(self, node: Node, *, classes: Sequence[str] | None = None) -> Classification: ...

    @overload
    def classify(self, *, nodes: Iterable[Node], classes: Sequence[str] | None = None, batch_size: int = 4) -> "pd.DataFrame": ...

    def classify(
        self,
        node: Node | None = None,
        *,
        nodes: Iterable[Node] | None = None,
        classes: Sequence[str] | None = None,
        batch_size: int = 4,
    ) -> "Classification | pd.DataFrame":
        """Score the name of every class as the answer, as ``evaluate.py`` does.

        Args:
            node: One node, by number or id.
            nodes: Or any number of them, with a progress bar.
            classes: Other classes to choose from than the graph's own.
            batch_size: So many of ``nodes`` at a time. It changes nothing but the last digits of the probabilities.

        Returns:
            A ``Classification`` of ``node``. Of ``nodes``, a table with a row for each, in their order, and the columns ``node``,
            ``id``, ``answer``, ``probability``, ``trained_on`` (whether the model was trained on the node's class; missing where that
            is not known) and, under its name, the probability of every class.

        Raises:
            DataError: there is no such node, there are no classes, or a prompt is too long.
            GraphGPTError: neither or both of ``node`` and ``nodes`` are given, or ``batch_size`` is below 1.
        """
        if (node is None) == (nodes is None):
            raise GraphGPTError("classify: give either node=... or, for several of them, nodes=....")
        task = self._classification(classes)
        if nodes is not None:
            return self._table(task, [self.number(name) for name in nodes], batch_size)
        assert node is not None
        number = self.number(node)
        instruction = task.instruction(number, seed=mix(self.seed, number), training=False)
        chances, prompt = self._score(task, instruction)
        found = dict(sorted(zip(task.candidates, chances, strict=True), key=lambda pair: -pair[1]))
        return Classification(
            node=number,
            id=instruction.id,
            answer=next(iter(found)),
            probabilities=found,
            prompt=self.shown(prompt),
            subgraph=instruction.subgraphs[0],
            trained_on=self._seen(self._classification(None) if self.graph.class_names else task, [number])[0],
            remark=self._remark("node_classification", "to tell classes of nodes", "chain_of_thought"),
        )

    def link(self, first: Node, second: Node) -> Connection:
        """How likely it is, to the model, that two nodes are connected: P(yes) against P(no).

        If there is an edge between them, it leaves the graph before neighbours are sampled, so that the answer is not in the
        question. The nodes do not stand alike in the prompt: the other way round, the figure may be another.

        Returns:
            A number, with ``trained_on`` and ``remark``: of a model that was never trained on links, it says little.

        Raises:
            DataError: there is no such node, both are the same, or the prompt is too long.
        """
        pair = self.number(first), self.number(second)
        if pair[0] == pair[1]:
            raise DataError(f"link: takes two different nodes, and both are {pair[0]}.")
        task = Pair(self.tasks["link_prediction"], self.graph, self.dataset, pair)
        chances, _ = self._score(task, task.instruction(0, seed=mix(self.seed, *pair), training=False))
        return Connection(
            chances[YES],
            trained_on=self._seen(task, [0])[0],
            remark=self._remark("link_prediction", "to tell whether nodes are connected"),
        )

    @overload
    def ask(
        self, question: str, node: Node | None = None, *, images: Sequence[str | Path] = (), stream: Literal[False] = False, **options: Any
    ) -> str: ...

    @overload
    def ask(
        self, question: str, node: Node | None = None, *, images: Sequence[str | Path] = (), stream: Literal[True], **options: Any
    ) -> Answer: ...

    def ask(
        self, question: str, node: Node | None = None, *, images: Sequence[str | Path] = (), stream: bool = False, **options: Any
    ) -> str | Answer:
        """Ask once; a :meth:`conversation` remembers.

        Args:
            question: As for :meth:`Conversation.ask`, like the rest.
            node: What it is about; None asks without a graph.
            images: Files of pictures.
            stream: Whether to return the pieces of the answer as they are written.
            options: ``max_new_tokens``, ``temperature``, ``seed``.
        """
        talk = self.conversation(node)
        return talk.ask(question, images=images, stream=True, **options) if stream else talk.ask(question, images=images, **options)

    def conversation(self, node: Node | None = None, *, system: str | None = None) -> NodeConversation:
        """A conversation about a node, or about none.

        Args:
            node: By number or id.
            system: System message; None takes that of the checkpoint's template.

        Raises:
            DataError: there is no such node.
        """
        return NodeConversation(self, None if node is None else self.number(node), system)

    def opening(self, node: int) -> tuple[Part, ...]:
        """What a conversation about a node begins with."""
        config = TaskConfig(name="ask", wording="opening", wordings={"opening": OPENING})
        instruction = Opening(config, self.graph, self.dataset).instruction(node, seed=mix(self.seed, node), training=False)
        return instruction.messages[0].content

    def number(self, node: Node) -> int:
        """The number of a node.

        Raises:
            DataError: there is no such node; the message holds the range, or the nearest id.
        """
        graph, name = self.graph, self.graph.card["name"]
        if isinstance(node, str):
            place = int(pc.index(graph.ids, pa.scalar(node, graph.ids.type)).as_py())
            if place < 0:
                raise DataError(f"The graph '{name}' has no node with the id '{node}'.{hint(node, graph.ids.to_pylist())}")
            return place
        number = operator.index(node)
        if not 0 <= number < graph.num_nodes:
            raise DataError(f"There is no node {number}: the graph '{name}' has the nodes 0 to {graph.num_nodes - 1}.")
        return number

    def _classification(self, classes: Sequence[str] | None) -> NodeClassification:
        graph = self.graph
        if classes is not None:
            if repeated := [name for i, name in enumerate(classes) if name in classes[:i] or not name.strip()]:
                raise DataError(f"classes: '{repeated[0]}' is empty or there twice.")
            graph = dataclasses.replace(graph, class_names=tuple(classes), y=torch.full_like(graph.y, -1))
        if not graph.class_names:
            raise DataError(f"The graph '{graph.card['name']}' has no classes to choose from: give their names as classes=[...].")
        return NodeClassification(self.tasks["node_classification"], graph, self.dataset)

    def _score(self, task: Task, instruction: Instruction) -> tuple[list[float], Example]:
        """Probability of every candidate, and what the model read."""
        with self._lock:
            prompt = self.processor.prompt(instruction)
        return self._among(prompt, task.candidates or ()), prompt

    def _seen(self, task: Task, items: Sequence[int]) -> list[bool | None]:
        """Whether the model was trained on each of a task's items; None where that is not known."""
        if self.trained is None or self.trained.items is None:
            return [None] * len(items)
        return list(self.trained.seen(task, torch.tensor(items, dtype=torch.int64)).tolist())

    def _remark(self, task: str, purpose: str, *others: str) -> str:
        """What to say where the model never learned a task, nor others that teach the same."""
        if self.trained is None or {task, *others} & {*self.trained.tasks}:
            return ""
        known = " and ".join(self.trained.tasks)
        return f"says little: the model was never trained {purpose}, but on {known}; task={task} trains that"

    def _table(self, task: NodeClassification, nodes: Sequence[int], batch_size: int) -> "pd.DataFrame":
        import pandas as pd

        if batch_size < 1:
            raise GraphGPTError(f"classify: batch_size={batch_size} must be at least 1.")
        names = task.candidates
        instructions = [task.instruction(node, seed=mix(self.seed, node), training=False) for node in nodes]
        settings = AnswerSettings(batch_size=batch_size)
        with self._lock:
            found = predict(self.model, task.candidates, instructions, settings, "Classifying")
        chances = torch.tensor([prediction.scores for prediction in found]).reshape(-1, len(names)).softmax(dim=1).numpy()
        seen = self._seen(self._classification(None) if self.graph.class_names else task, nodes)
        if remark := self._remark("node_classification", "to tell classes of nodes", "chain_of_thought"):
            log.warning("This table %s.", remark)
        best = np.array([prediction.answer for prediction in found], dtype=np.int64)
        rows = {
            "node": np.array(nodes, dtype=np.int64),
            "id": [prediction.id for prediction in found],
            "answer": [names[i] for i in best],
            "probability": chances[np.arange(len(best)), best],
            "trained_on": pd.array(seen, dtype="boolean"),
        }
        # Side by side, for a class may be called like one of these columns.
        return pd.concat([pd.DataFrame(rows), pd.DataFrame(chances, columns=names)], axis=1)


def _open(
    source: str | Path | TextAttributedGraph, like: DatasetConfig, known: Sequence[str | None], llm: Any
) -> tuple[TextAttributedGraph, DatasetConfig]:
    """A graph with features, and how it is asked about.

    Args:
        source: Graph folder, or a graph.
        like: Brings the sampler and the text encoder, and for a graph that is known also what prompts call things; for others
            the graph's card says that, under ``words``.
        known: Fingerprints of the graphs that ``like`` is about.
        llm: Config of the language model, whose embeddings a text encoder may read.
    """
    graph = source if isinstance(source, TextAttributedGraph) else _open_folder(Path(source).expanduser())
    name = graph.card["name"]
    is_known = graph.fingerprint in known
    words = {word: getattr(like, word) for word in WORDS} if is_known else graph.card.get("words", {})
    if graph.x is None and not is_known and TEXT_ENCODERS.get(like.text_encoder.name).fitted:
        log.warning(
            "The text encoder '%s' learns its features from the texts of one graph: to the checkpoint, those of '%s' mean something else.",
            like.text_encoder.name,
            name,
        )
    dataset = DatasetConfig(name=name, text_encoder=like.text_encoder, sampler=like.sampler, **words)
    return encode_texts(graph, like.text_encoder, llm), dataset


def _open_folder(folder: Path) -> TextAttributedGraph:
    if not folder.is_dir():
        near = hint(folder.name, [other.name for other in folder.parent.glob("*") if other.is_dir()])
        raise DataError(f"{folder}: there is no such graph folder; 'graphgpt data build' makes one.{near}")
    return TextAttributedGraph.open(folder)


def _check_width(graph: TextAttributedGraph, trained: Mapping[str, Any], reader: str) -> None:
    data = {"name": graph.card["name"], "features": graph.features.shape[1], "features_from": graph.card.get("features_from")}
    if problem := width_problem(reader, trained, data):
        raise DataError(problem)


def _shipped_task(name: str) -> Any:
    shipped: Any = OmegaConf.to_container(OmegaConf.load(CONFIG_DIR / "task" / f"{name}.yaml"), resolve=True)
    return typed_config(TASKS, shipped, "task")


def _questions(experiment: dict[str, Any]) -> tuple[dict[str, Any], dict[str, TaskConfig]]:
    """What an experiment says about its data and about the tasks in ``ASKED``; of a mixture, what the first part does."""
    task, dataset = experiment["task"], experiment["dataset"]
    parts = [task]
    if task["name"] == "mixture":
        parts = [part["task"] for part in task["parts"].values()]
        dataset = next(iter(task["parts"].values())).get("dataset") or dataset
    return dataset, {part["name"]: typed_config(TASKS, part, "task") for part in reversed(parts) if part["name"] in ASKED}


def _base_dataset(own: dict[str, Any]) -> DatasetConfig:
    """What a dataset's config says about any graph; the files that it names need not be there."""
    given = {field.name: own[field.name] for field in dataclasses.fields(DatasetConfig) if field.name in own and field.name != "split"}
    problems: list[str] = []
    config = parse(DatasetConfig, {"text_encoder": {"name": "tfidf_svd"}, **given}, problems, "dataset")
    if config is None or problems:
        raise ConfigError(problems)
    return config
