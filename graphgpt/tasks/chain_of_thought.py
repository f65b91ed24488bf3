"""Which class, and why? The answer ranks the likeliest classes and reasons about them, as a larger model did."""

import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import torch
from pydantic import Field, TypeAdapter, ValidationError
from torch import Tensor

from graphgpt.errors import DataError
from graphgpt.files.atomic import file_sha256
from graphgpt.graphs.dataset import DatasetConfig
from graphgpt.graphs.graph import TextAttributedGraph
from graphgpt.metrics import INVALID, Metric
from graphgpt.prompts.instruction import Message
from graphgpt.prompts.prediction import Prediction
from graphgpt.prompts.wording import fill_in
from graphgpt.registry import TASKS
from graphgpt.schema import Split, configclass, placeholder
from graphgpt.tasks.graph_task import GraphInstruction, GraphTask
from graphgpt.tasks.worded import TaskConfig


@configclass
class TeacherConfig:
    """What a larger model is asked when its reasoning is distilled (``graphgpt data distill``)."""

    wording: str
    """Prompt without ``<graph>``; the words in braces are those of the task's wordings."""
    max_chars: int = Field(default=2000, ge=0)
    """Longest title and longest text that it gets of a node, cut between words."""


@configclass
class Record:
    """One finished call to a teacher: a line of a records file."""

    id: str
    """The user's name of the node."""
    truth: str
    """Name of its class."""
    answer: str
    """What the teacher wrote."""
    kept: bool = True
    """Whether it is fit to learn from: whole, and the truth is among the classes it ranked."""
    ranking: list[str] = Field(default_factory=list)
    """Classes in the teacher's order; empty when it named none."""
    finish: str | None = None
    """Why the teacher stopped, as the endpoint says; ``length`` is an answer cut short."""
    prompt: str = ""
    """Fingerprint of the prompt."""
    model: str = ""
    """The teacher."""
    usage: dict[str, int] | None = None
    """``prompt_tokens`` and ``completion_tokens`` as the endpoint counts them; null when it does not."""
    requests: int = 1
    """HTTP requests that the call took."""


@TASKS.register("chain_of_thought")
class ChainOfThought(GraphTask):
    """The answer is a ranking of classes with the reasons for it (GraphGPT, arXiv:2310.13023, section 3.4).

    It trains on a teacher's answers (``records``); without a record, a node's answer is its class name.
    """

    words = ("classes", "numbered", "title", "text", "k")
    reveals = "class"
    text_words = ("title", "text")

    @configclass
    class Config(TaskConfig):
        teacher: TeacherConfig
        top_k: int = Field(default=5, ge=1)
        """How many classes the ranking has, and among how many the truth is looked for."""
        records: str | None = None
        """File that ``graphgpt data distill`` wrote; only training needs it."""

    @classmethod
    def problems(cls, config: Any) -> list[str]:
        """As for every task; also a teacher's wording that cannot be used, and records that are not there."""
        found = super().problems(config)
        wording = cls._wording_problems("teacher", config.teacher.wording)
        found += [problem.replace("task.wordings.teacher", "task.teacher.wording", 1) for problem in wording]
        if placeholder("graph") in config.teacher.wording:
            found.append("task.teacher.wording: a teacher reads text only, so '<graph>' must not be in it.")
        if config.records is not None and not Path(config.records).is_file():
            found.append(f"task.records: there is no file {config.records}; 'graphgpt data distill ... --out {config.records}' writes it.")
        return found

    def __init__(self, config: Any, graph: TextAttributedGraph, dataset: DatasetConfig, split: Tensor) -> None:
        super().__init__(config, graph, dataset, split)
        self.read = AnswerReader(graph.class_names)

    @property
    def data(self) -> dict[str, Any]:
        """As for every task, and which records."""
        return super().data | ({"records": file_sha256(Path(self.config.records))} if self.config.records else {})

    def items(self, split: Split) -> Tensor:
        """Labelled nodes of a split; for training, those of them with an answer to learn.

        Raises:
            DataError: there is nothing to train on, or the records are not about this graph.
        """
        nodes = super().items(split)
        if split != "train":
            return nodes
        if self.config.records is None:
            raise DataError("task.records: training needs a teacher's answers; 'graphgpt data distill' writes them.")
        answers, misfit = self._distilled
        if misfit is not None:
            raise DataError(misfit)
        nodes = nodes[torch.tensor([node in answers for node in nodes.tolist()], dtype=torch.bool)]
        if not len(nodes):
            raise DataError(f"{self.config.records} has no kept answer for any training node of the graph '{self.graph.card['name']}'.")
        return nodes

    def instruction(self, item: int, *, seed: int, training: bool, hide_text: bool = False) -> GraphInstruction:
        title, text = ("(hidden)",) * 2 if hide_text else (self.cut(self.graph.title(item)), self.cut(self.graph.body(item)))
        subgraph = self.subgraph(item, seed)
        asked = Message("user", *self.ask(subgraph, **self._words(title, text)))
        truth = int(self.graph.y[item])
        # A node that several teachers were asked about has several answers.
        answers = self._distilled[0].get(item, [self.graph.class_names[truth]])
        return GraphInstruction(
            id=str(self.graph.ids[item].as_py()),
            messages=(asked, Message("assistant", answers[seed % len(answers)])),
            truth=truth,
            texts=(title, text),
            limits=self.limits(asked.inputs),
            nodes=(item,),
            subgraphs=(subgraph,),
        )

    @classmethod
    def measures(cls, config: Any) -> tuple[Metric, ...]:
        ranked = Metric(name="topk", title="Top-k", legend=f"Top-k: the true class is among the first {config.top_k} of the ranking")
        return (Metric(name="top1", title="Top-1"), ranked, INVALID)

    def answer_metrics(self, prediction: Prediction) -> dict[str, float]:
        """Whether the final answer is right, whether the truth is in the ranking, and whether no answer was given."""
        said = self.read(prediction.text or "")
        return {
            "top1": float(said.final is not None and said.final == prediction.truth),
            "topk": float(prediction.truth in said.ranking[: self.config.top_k]),
            "invalid": float(said.final is None),
        }

    def teacher_prompt(self, item: int) -> str:
        """What a teacher is asked about a node: text only."""
        title, text = (
            textwrap.shorten(part, width=self.config.teacher.max_chars, placeholder="")
            for part in (self.graph.title(item), self.graph.body(item))
        )
        return fill_in(self.config.teacher.wording, self.called | self._words(title, text))

    def _words(self, title: str, text: str) -> dict[str, str]:
        names = self.graph.class_names
        return {
            "classes": "; ".join(names),
            "numbered": " ".join(f"{i}. {name}." for i, name in enumerate(names, start=1)),
            "title": title,
            "text": text,
            "k": str(min(self.config.top_k, len(names))),
        }

    @cached_property
    def _distilled(self) -> tuple[dict[int, list[str]], str | None]:
        """Kept answers by node, and what is wrong with the first record that is not about this graph.

        A checkpoint's records may be about another graph than the one it is evaluated on, which is no mistake there.
        """
        answers: dict[int, list[str]] = {}
        misfit = None
        if self.config.records is None:
            return answers, misfit
        records = [(line, record) for line, record in read_records(Path(self.config.records)) if record.kept]
        ids = pa.array([record.id for _, record in records], self.graph.ids.type)
        for (line, record), node in zip(records, pc.index_in(ids, value_set=self.graph.ids).to_pylist(), strict=True):
            label = int(self.graph.y[node]) if node is not None else -1
            truth = self.graph.class_names[label] if label >= 0 else None
            if truth == record.truth:
                answers.setdefault(node, []).append(record.answer)
                continue
            found = "that graph has no such node" if node is None else f"there its class is {truth!r}" if truth else "there it has no class"
            misfit = misfit or (
                f"{self.config.records}, line {line}: the answer is about a node '{record.id}' of class '{record.truth}', "
                f"not about the graph '{self.graph.card['name']}': {found}. Distil this graph into a file of its own."
            )
        return answers, misfit


def read_records(path: Path) -> Iterator[tuple[int, Record]]:
    """The records of a file with their line numbers, from 1; a last line that a crash cut short is left out.

    Raises:
        DataError: a line is not a record; the message names file, line and field.
    """
    adapter = TypeAdapter(Record)
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                return
            try:
                record = adapter.validate_json(line)
            except ValidationError as error:
                first = error.errors(include_url=False)[0]
                where = f" '{'.'.join(map(str, first['loc']))}'" if first["loc"] else ""
                raise DataError(f"{path}, line {number}{where}: {first['msg']}. Expected a line of 'graphgpt data distill'.") from error
            yield number, record


@dataclass(frozen=True)
class Answer:
    """What an answer says.

    Args:
        ranking: Classes in order, each once; empty when none is named.
        final: The class decided on, None when none is named where the decision should stand.
    """

    ranking: tuple[int, ...]
    final: int | None


#: Where a decision is announced.
_FINAL = re.compile(r"\bfinal\s+answer\W{0,4}?(?::|\bis\b)", re.IGNORECASE)

#: What may stand between the names of a list: punctuation, numbers, "and". Not the end of a sentence, nor of a paragraph, unless a
#: number or a bullet follows.
_BETWEEN = re.compile(
    r"(?: [^\w.\n] | \d+[.)]? | _ | \.(?=\s*\d) | \n(?!\s*\n) | \n\s*\n\s*(?=\d+[.)]|[-*•]\s) | \b(?:and|or|then)\b )*",
    re.IGNORECASE | re.VERBOSE,
)


class AnswerReader:
    """Reads class names out of an answer, exactly.

    A class is named where its whole name stands, apart from case and white space, and is no part of a longer word ("Art" is
    not named by "Article", "non-Art" or "Art.History"); of names that begin alike the longest counts. The *ranking* is the
    first run of names with nothing but list punctuation between them: what is named later, in prose, was only talked about.
    The *final* answer is the first name on the line that follows "final answer:" (or "final answer is"), and without such
    words the first of the ranking. Nothing is guessed: a text that names no class has no answer.

    Args:
        names: Of the classes.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._order = sorted(range(len(names)), key=lambda i: -len(names[i]))
        alike = [" ".join(name.split()).casefold() for name in names]
        spellings = []
        for i in self._order:
            spelling = r"\s+".join(map(re.escape, names[i].split()))
            # Classes that differ in case alone are told apart by it.
            spellings.append(f"((?-i:{spelling}))" if alike.count(alike[i]) > 1 else f"({spelling})")
        self._name = re.compile(rf"(?<!\w)(?<![^\W\d_][-.])(?:{'|'.join(spellings)})(?![\w+#]|[-.][^\W\d_])", re.IGNORECASE)

    def __call__(self, text: str) -> Answer:
        """Read an answer."""
        marks = list(_FINAL.finditer(text))
        if not marks:
            ranking = self._ranking(text)
            return Answer(ranking, ranking[0] if ranking else None)
        before, decision = text[: marks[0].start()], text[marks[-1].end() :].lstrip(" \t\n*_:`")
        named = self._name.search(decision.partition("\n")[0])
        return Answer(self._ranking(before) or self._ranking(decision), self._class(named) if named else None)

    def _ranking(self, text: str) -> tuple[int, ...]:
        found: list[int] = []
        end = None
        for match in self._name.finditer(text):
            if end is not None and not _BETWEEN.fullmatch(text, end, match.start()):
                break
            found.append(self._class(match))
            end = match.end()
        return tuple(dict.fromkeys(found))

    def _class(self, match: re.Match[str]) -> int:
        assert match.lastindex is not None
        return self._order[match.lastindex - 1]
