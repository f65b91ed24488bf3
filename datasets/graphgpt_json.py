"""Instruction files in the form that GraphGPT's authors released, with the graph file that they point into."""

import json
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import pyarrow as pa
import torch
from pydantic_core import from_json
from torch import Tensor

from graphgpt.conversations.reading import (
    MalformedRecord,
    RecordSplit,
    decode,
    idle_split,
    reading_progress,
    sentence_of,
    shown_json,
    split_problems,
    split_records,
)
from graphgpt.errors import DataError, amount, did_you_mean, first_line, nearest
from graphgpt.files.atomic import atomic_folder, cache_dir, file_sha256, fingerprint
from graphgpt.files.json_array import BrokenArray, elements
from graphgpt.files.kinds import another_kind
from graphgpt.graphs.released import GraphFile, file_problems, locate, open_graph_file, stamp
from graphgpt.graphs.subgraph import GraphInput, Subgraph
from graphgpt.prompts.instruction import Message
from graphgpt.prompts.wording import placed
from graphgpt.registry import DATASETS
from graphgpt.schema import GIVEN, SPLITS, ActsWith, Kind, configclass, placeholder

log = logging.getLogger(__name__)


#: Whose turn it is, by the names that GraphGPT and others give them.
ROLES = {"human": "human", "gpt": "gpt", "user": "human", "assistant": "gpt"}
#: Other names of fields, as chat templates have them.
ALIASES = {"messages": "conversations", "role": "from", "content": "value"}

#: Rows of a batch in the cache; a record is found by its number.
BATCH = 1024
SCHEMA = pa.schema(
    {
        "id": pa.string(),
        "number": pa.int64(),
        "turns": pa.list_(pa.large_string()),
        "nodes": pa.list_(pa.list_(pa.int64())),
        "edges": pa.list_(pa.list_(pa.int32())),
    }
)

#: What the columns hold of a record. Tuples of numbers and texts alone are nothing that the garbage collector has to look at again.
Row = tuple[str, int, tuple[str, ...], tuple[tuple[int, ...], ...], tuple[tuple[int, ...], ...]]

OnError = Literal["raise", "skip"]


@configclass
class GraphgptJsonConfig:
    """The files; see ``docs/released_files.md`` for what they hold. A file is a path or ``hub:OWNER/REPOSITORY/FILE``."""

    name: str
    """Name of a registered dataset."""
    graphs: str
    """The graph file: ``torch.save`` of ``{key: torch_geometric Data}``."""
    instructions: str | None = None
    """JSON array of records to train on, of which ``split`` may hold some out."""
    eval_instructions: str | None = None
    """JSON array of records that are all for test."""
    on_error: OnError = "raise"
    """What to do with a malformed record: stop and name it, or leave it out and count it."""
    split: Annotated[RecordSplit, ActsWith(instructions=GIVEN)] = RecordSplit()


@dataclass(frozen=True)
class Record:
    """One record of an instruction file, checked.

    Args:
        id: As released; what stands before its first ``_`` is the graph key.
        number: Its place in the file, from 0.
        turns: Texts of human and model in turn, the human first, the model's answer last.
        subgraphs: What stands behind its ``<graph>``; none in a text-only record, two in link prediction.
    """

    id: str
    number: int
    turns: tuple[str, ...]
    subgraphs: tuple[Subgraph, ...]

    @property
    def key(self) -> str:
        """Names the graph that the subgraphs' nodes are of."""
        return self.id.split("_")[0]


@DATASETS.register("graphgpt_json")
class GraphgptJson:
    """Ready-made instructions about graphs, with the features of their nodes."""

    kind: ClassVar[Kind] = "records"
    Config = GraphgptJsonConfig

    def __init__(self, config: GraphgptJsonConfig) -> None:
        self.config = config

    @classmethod
    def problems(cls, config: GraphgptJsonConfig) -> list[str]:
        """Missing files, and splits that leave nothing."""
        files = {"instructions": config.instructions, "eval_instructions": config.eval_instructions, "graphs": config.graphs}
        found = [problem for key, name in files.items() if name is not None for problem in file_problems(name, f"dataset.{key}")]
        if config.instructions is None and config.eval_instructions is None:
            found.append("dataset.instructions: must be given (or dataset.eval_instructions, to evaluate alone).")
        found += split_problems(config.split)
        if config.split.test > 0 and config.eval_instructions is not None:
            found.append(
                f"dataset.split.test: {config.split.test} holds records out for test, and dataset.eval_instructions is for test too; "
                "give one of the two."
            )
        return found

    @staticmethod
    def idle(config: GraphgptJsonConfig, experiment: Any) -> dict[str, str]:
        """A seed where nothing is drawn."""
        return idle_split(config.split)

    def open(self) -> "InstructionSet":
        """The records with the features that they point to; read and checked once, then found in the cache.

        Raises:
            DataError: a file cannot be used, or ``on_error`` is ``raise`` and a record cannot.
        """
        config = self.config
        graphs = open_graph_file(locate(config.graphs, "dataset.graphs"))
        names = {"dataset.instructions": config.instructions, "dataset.eval_instructions": config.eval_instructions}
        parts = {key: open_records(locate(name, key), graphs, config.on_error) for key, name in names.items() if name is not None}
        split = []
        for key, records in parts.items():
            held_out = key != "dataset.eval_instructions"
            split.append(
                split_records(len(records), config.split)
                if held_out
                else torch.full((len(records),), SPLITS.index("test"), dtype=torch.int8)
            )
        return InstructionSet(graphs=graphs, parts=tuple(parts.values()), split=torch.cat(split))


@dataclass(frozen=True)
class InstructionSet:
    """The records of one or two files, numbered through, with the graphs that they point into.

    Args:
        graphs: Features by graph key.
        parts: The files' records.
        split: Index into ``SPLITS`` per record, shape ``[n]``, int8.
    """

    graphs: GraphFile
    parts: tuple["Records", ...]
    split: Tensor

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, item: int) -> Record:
        records, place = self._find(item)
        return records[place]

    def place(self, item: int) -> str:
        """File and record number of an item, for messages."""
        records, place = self._find(item)
        return f"{records.path}, record {records[place].number} ('{records[place].id}')"

    def _find(self, item: int) -> tuple["Records", int]:
        for records in self.parts:
            if item < len(records):
                return records, item
            item -= len(records)
        raise IndexError(item)

    @property
    def name(self) -> str:
        """The files' names without their endings."""
        return "+".join(records.path.stem for records in self.parts)

    @property
    def fingerprint(self) -> str:
        """Of the content of all files."""
        return fingerprint(self.graphs.fingerprint, [records.card["fingerprint"] for records in self.parts])

    @property
    def counts(self) -> Counter[str]:
        """How many records of which kind: ``text only``, or a graph key with ``(2 graphs)`` behind it for a pair."""
        return sum((Counter(records.card["kinds"]) for records in self.parts), Counter())

    @cached_property
    def features(self) -> Mapping[str, Any]:
        """Number of features of a node, the same in all graphs that a record points into, and the file that they are of.

        Raises:
            DataError: it is not the same.
        """
        used = {kind.removesuffix(PAIR) for kind in self.counts} & set(self.graphs.graphs) or set(self.graphs.graphs)
        widths = {key: self.graphs.graphs[key]["x"].shape[1] for key in sorted(used)}
        if len(set(widths.values())) > 1:
            found = ", ".join(f"{key} {width}" for key, width in widths.items())
            raise DataError(f"{self.graphs.path}: the graphs differ in their number of node features ({found}); one tower reads them all.")
        return {"features": next(iter(widths.values())), "features_from": self.graphs.path.name}

    def id(self, item: int) -> str:
        """What a record calls itself."""
        return self[item].id

    def said(self, item: int) -> Sequence[str]:
        """The texts of a record's turns, one after the other."""
        return self[item].turns

    def messages(self, item: int, seen: Callable[[str], str]) -> tuple[Message, ...]:
        """A record's turns, the answer last; graphs stand where ``<graph>`` stood in what ``seen`` leaves of a human's turn.

        Raises:
            DataError: it leaves too few places for them.
        """
        record = self[item]
        x = self.graphs.graphs[record.key]["x"] if record.subgraphs else torch.empty(0)
        graphs = (GraphInput(x=x[part.nodes], edge_index=part.edge_index, num_tokens=part.num_tokens) for part in record.subgraphs)
        messages = tuple(
            Message("assistant", turn) if number % 2 else Message("user", *placed(seen(turn), {"graph": graphs}))
            for number, turn in enumerate(record.turns)
        )
        if next(graphs, None) is not None:
            raise DataError(f"{self.place(item)}: task.own_text takes a <graph> away with the texts; leave it outside of the groups.")
        return messages


#: Stands in the files where a subgraph goes.
PLACEHOLDER = placeholder("graph")

TEXT_ONLY, PAIR = "text only", " (2 graphs)"


class Records:
    """The checked records of one file, memory-mapped.

    Args:
        folder: In the cache.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            self.card: dict[str, Any] = json.loads((folder / "card.json").read_text(encoding="utf-8"))
            reader = pa.ipc.open_file(pa.memory_map(str(folder / "records.arrow")))
            self.path = Path(self.card["path"])
            if missing := {"fingerprint", "records", "kinds", "skipped", "first_skipped"} - self.card.keys():
                raise ValueError(f"card.json has no {', '.join(sorted(missing))}")
        except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError, pa.ArrowException) as error:
            raise DataError(f"{folder} is damaged ({first_line(error)}); delete it to have it made again.") from error
        self._batch = cache(reader.get_batch)  # of a batch it keeps only where its columns begin

    def __reduce__(self) -> tuple[type["Records"], tuple[Path]]:
        return Records, (self.folder,)  # a map into memory does not go to another process

    def __len__(self) -> int:
        return int(self.card["records"])

    def __getitem__(self, item: int) -> Record:
        name, number, turns, nodes, edges = (column[item % BATCH].as_py() for column in self._batch(item // BATCH).columns)
        subgraphs = (
            Subgraph(nodes=torch.tensor(ids), edge_index=torch.tensor(ends, dtype=torch.int64).view(2, -1), num_tokens=len(ids))
            for ids, ends in zip(nodes, edges, strict=True)
        )
        return Record(id=name, number=number, turns=tuple(turns), subgraphs=tuple(subgraphs))


def open_records(path: Path, graphs: GraphFile, on_error: OnError) -> Records:
    """The records of an instruction file, checked against the graphs, from the cache where they are there already.

    Raises:
        DataError: naming file, record and field, if ``on_error`` is ``raise`` and a record cannot be used; or no record can.
    """
    if problem := another_kind(path, "json"):
        raise DataError(f"{path} {problem}; expected a JSON array of records.")
    sizes = graphs.sizes
    folder = cache_dir() / "instructions" / f"{path.stem}-{fingerprint(file_sha256(Path(__file__)), stamp(path), sizes)}"
    if not (folder / "card.json").is_file():
        log.info("Reading the instructions %s (once) ...", path)
        with atomic_folder(folder) as tmp:
            _ingest(path, sizes, on_error, tmp)
    records = Records(folder)
    if skipped := records.card["skipped"]:
        if on_error == "raise":
            raise DataError(records.card["first_skipped"])
        reasons = ", ".join(f"{count:,} x {reason}" for reason, count in skipped.items())
        log.warning(
            "Skipped %s of %s records in %s: %s. The first: %s",
            f"{sum(skipped.values()):,}",
            f"{len(records) + sum(skipped.values()):,}",
            path,
            reasons,
            records.card["first_skipped"],
        )
    if not len(records):
        why = records.card["first_skipped"] or "the array is empty."
        raise DataError(f"{path} holds no record that can be used: {why}")
    return records


def _ingest(path: Path, sizes: Mapping[str, int], on_error: OnError, folder: Path) -> None:
    """Write ``records.arrow`` and ``card.json`` of an instruction file."""
    rows: list[Row] = []
    kinds: Counter[str] = Counter()
    skipped: Counter[str] = Counter()
    first_skipped: str | None = None
    number = -1
    with (
        reading_progress(path) as advance,
        pa.OSFile(str(folder / "records.arrow"), "wb") as sink,
        pa.ipc.new_file(sink, SCHEMA) as writer,
    ):
        source = elements(path, advance)
        while True:
            number += 1
            record: Any = None
            try:
                text = next(source, None)
                if text is None:
                    break
                try:
                    row = _read_record(from_json(text), number, sizes)
                except (ValueError, MalformedRecord):  # read again: the standard library is not as fast, but says more
                    record = decode(text)
                    row = _read_record(record, number, sizes)
            except (MalformedRecord, BrokenArray) as error:
                problem = error if isinstance(error, MalformedRecord) else MalformedRecord("broken file", "", f"{error}.")
                sentence = sentence_of(path, number, record, problem)
                if on_error == "raise":
                    raise DataError(sentence) from error
                skipped[problem.reason] += 1
                first_skipped = first_skipped or sentence
                continue
            rows.append(row)
            name, _, _, nodes, _ = row
            kinds[name.split("_")[0] + (PAIR if len(nodes) == 2 else "") if nodes else TEXT_ONLY] += 1
            if len(rows) == BATCH:
                writer.write_batch(_columns(rows))
                rows.clear()
        if rows:
            writer.write_batch(_columns(rows))
    card = {
        "path": str(path),
        "fingerprint": file_sha256(path)[:16],
        "records": kinds.total(),
        "kinds": kinds,
        "skipped": skipped,
        "first_skipped": first_skipped,
    }
    (folder / "card.json").write_text(json.dumps(card, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _columns(rows: Sequence[Row]) -> pa.RecordBatch:
    return pa.record_batch([pa.array(column, field.type) for column, field in zip(zip(*rows, strict=True), SCHEMA, strict=True)], SCHEMA)


def _read_record(record: Any, number: int, sizes: Mapping[str, int]) -> Row:
    """The columns of a record; fields that are not needed may hold anything.

    Raises:
        MalformedRecord: it cannot be used.
    """
    if type(record) is not dict:
        raise MalformedRecord("wrong type", "", f"is {shown_json(record)}, expected an object.")
    name = _field(record, "id", str, "id")
    record = _renamed(record, "conversations")
    turns = _turns(_field(record, "conversations", list, "conversations"))
    graph = _field(record, "graph", dict, "graph") if record.get("graph") is not None else {}
    given = {field for field, value in graph.items() if value is not None}
    pair = name.split("_")[-1] == "LP" or ("node_list_1" in given and "node_list" not in given)
    suffixes = ("_1", "_2") if pair else ("",)
    found = sum(turn.count(PLACEHOLDER) for turn in turns)
    if not given & {"node_list", "edge_index", "node_list_1", "edge_index_1", "node_list_2", "edge_index_2"}:
        if found:
            raise MalformedRecord("no graph", "graph", f"is missing, but {PLACEHOLDER} stands {amount(found, 'time')} in the conversation.")
        return name, number, turns, (), ()
    # A record with one graph may point to it more than once.
    if found == 0 or (pair and found != 2):
        raise MalformedRecord(
            f"{PLACEHOLDER} missing or too many",
            "conversations",
            f"{PLACEHOLDER} stands {amount(found, 'time')} in the human's turns, expected {'2, one for each graph' if pair else '1'}.",
        )
    key = name.split("_")[0]
    if key not in sizes:
        raise MalformedRecord("unknown graph", "id", f"'{key}' names no graph of dataset.graphs. {nearest(key, sizes)}")
    nodes, edges = [], []
    for suffix in suffixes:
        at = f"graph.node_list{suffix}"
        ids = _ids(_field(graph, f"node_list{suffix}", list, at), at, sizes[key], f"the graph '{key}' has the nodes")
        if not ids:
            raise MalformedRecord("empty node_list", at, "is empty, expected at least the centre.")
        at = f"graph.edge_index{suffix}"
        rows = _field(graph, f"edge_index{suffix}", list, at)
        if len(rows) != 2 or any(type(row) is not list for row in rows):
            raise MalformedRecord("edge_index", at, f"is {shown_json(rows)}, expected two lists: sources and targets.")
        if len(rows[0]) != len(rows[1]):
            raise MalformedRecord("edge_index", at, f"its rows have {len(rows[0])} and {len(rows[1])} ids, expected as many in both.")
        nodes.append(ids)
        ends = [_ids(row, at, len(ids), f"node_list{suffix} has the places") for row in rows]
        edges.append(ends[0] + ends[1])
    times = 1 if pair else found
    return name, number, turns, tuple(nodes) * times, tuple(edges) * times


def _turns(conversations: list[Any]) -> tuple[str, ...]:
    """What human and model say in turn, without a first turn that is not the human's (as GraphGPT reads it)."""
    turns: list[str] = []
    for i, turn in enumerate(conversations):
        at = f"conversations[{i}]"
        if type(turn) is not dict:
            raise MalformedRecord("wrong type", at, f"is {shown_json(turn)}, expected an object with 'from' and 'value'.")
        turn = _renamed(turn, "from")
        said, text = _field(turn, "from", str, f"{at}.from"), _field(turn, "value", str, f"{at}.value")
        role = ROLES.get(said)
        if i == 0 and role != "human":
            continue
        expected = ("human", "gpt")[len(turns) % 2]
        if role != expected:
            raise MalformedRecord(
                "roles do not alternate",
                f"{at}.from",
                f"is '{said}', expected '{expected}': human and gpt (or user, assistant) take turns, the human first.",
            )
        if role == "gpt" and not text.strip():
            raise MalformedRecord("empty answer", f"{at}.value", "is empty, expected an answer to learn.")
        if role == "gpt" and PLACEHOLDER in text:
            raise MalformedRecord(f"{PLACEHOLDER} in an answer", f"{at}.value", f"holds {PLACEHOLDER}, which only a human's turn may.")
        turns.append(text)
    if not turns or len(turns) % 2:
        found = "ends with the human's turn" if turns else "has no human's turn"
        raise MalformedRecord("no answer", "conversations", f"{found}, expected human and gpt in turn, an answer last.")
    return tuple(turns)


def _renamed(of: dict[str, Any], name: str) -> dict[str, Any]:
    """The fields by GraphGPT's names, where ``name`` is not there by its own."""
    return of if name in of else {ALIASES.get(field, field): value for field, value in of.items()}


def _field(of: dict[str, Any], name: str, kind: type, at: str) -> Any:
    value = of.get(name)
    if value is None:
        hint = did_you_mean(name, set(of) - FIELDS)
        raise MalformedRecord("missing field", at, f"is missing. {hint}".strip())
    if type(value) is not kind:
        raise MalformedRecord("wrong type", at, f"is {shown_json(value)}, expected {KINDS[kind]}.")
    return value


#: A field that has a name of its own is not a misspelt one.
FIELDS = {"id", "conversations", "graph", "from", "value"}
FIELDS |= {f"{field}{suffix}" for field in ("node_idx", "node_list", "edge_index") for suffix in ("", "_1", "_2")}

KINDS: dict[type, str] = {str: "a text", list: "a list", dict: "an object"}


def _ids(values: list[Any], at: str, limit: int, whose: str) -> tuple[int, ...]:
    """A list of whole numbers from 0 to below ``limit``."""
    if set(map(type, values)) - {int}:
        place, value = next((i, value) for i, value in enumerate(values) if type(value) is not int)
        raise MalformedRecord("wrong type", at, f"holds {shown_json(value)} (place {place}), expected whole numbers.")
    if values and not (min(values) >= 0 and max(values) < limit):
        place, value = next((i, value) for i, value in enumerate(values) if not 0 <= value < limit)
        raise MalformedRecord("id out of range", at, f"holds {value} (place {place}), but {whose} 0 to {limit - 1}.")
    return tuple(values)
