"""What a checkpoint was trained on, and what those before it were: ``trained.parquet`` in its folder.

A row per item whose answer was seen. An item is found again by its name and by what it says, for the same graph may come as tables,
as a folder, with edges added, or as a part of itself, and under another split.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from torch import Tensor

from graphgpt.checkpoints.folder import checkpoint_experiment, find_checkpoint, read_history, read_manifest
from graphgpt.errors import CheckpointError, first_line
from graphgpt.tasks.task import Task

FILE = "trained.parquet"

#: Share of equally named items that say the same, from which on two graphs are versions of one: many texts may have been edited, and of
#: two graphs that only share their names (0, 1, 2, ...) hardly any agree.
SAME = 0.25

#: Of the columns that say where an item is from. They hardly differ from row to row, and so take no room.
_SOURCE = ("task", "reveals", "graph", "fingerprint")
_SCHEMA = pa.schema([*((name, pa.dictionary(pa.int32(), pa.string())) for name in _SOURCE), ("id", pa.string()), ("text", pa.uint32())])
#: Metadata of the file: stages before this one that left no record, a line each.
_UNKNOWN = b"unknown"


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What a checkpoint and those that it came from were trained on.

    Args:
        tasks: Names of the tasks, those of a mixture one by one.
        items: A row per item, with the columns of the file; None where it is not known.
        unknown: Stages before it, of whose items nothing is known.
    """

    tasks: tuple[str, ...]
    items: pa.Table | None = None
    unknown: tuple[str, ...] = ()

    def seen(self, task: Task, items: Tensor) -> Tensor:
        """Which of a task's items the answers were seen of, shape ``[k]``, bool; none where that is not known.

        A graph of another fingerprint is the same one where enough of the items of the same name also say the same (``SAME``).

        Args:
            task: Asks about the items, of whatever graph.
            items: Shape ``[k]``, int64.
        """
        if self.items is None:
            return torch.zeros(len(items), dtype=torch.bool)
        table = self.items.filter(pc.equal(self.items["reveals"], _reveals(task)))
        # A handful of items would not tell whether it is the same graph: all that it could ask about are looked at.
        several = torch.cat([items, task.items("val"), task.items("test")])
        names, texts = _identities(task, several)
        found = np.zeros(len(several), dtype=bool)
        for fingerprint in pc.unique(table["fingerprint"]).to_pylist():
            source = table.filter(pc.equal(table["fingerprint"], fingerprint))
            place = pc.index_in(names, value_set=source["id"].combine_chunks())
            there = pc.is_valid(place).to_numpy(zero_copy_only=False)
            theirs = source["text"].to_numpy()[place.drop_null().to_numpy()]
            if there.any() and (fingerprint == task.data["fingerprint"] or (theirs == texts.to_numpy()[there]).mean() >= SAME):
                found |= there
        return torch.from_numpy(found[: len(items)])


def trained_items(task: Task, items: Tensor, parents: Sequence[str | None] = ()) -> pa.Table:
    """The record of a training, with all that the checkpoints it started from recorded.

    Args:
        task: Trained on.
        items: That training draws from, whether or not it came to all of them.
        parents: Run or checkpoint folders, or files of weights from elsewhere; None is left out.
    """
    tables, unknown = [_rows(part, chosen) for part, chosen in task.by_part(items)], list[str]()
    for parent in filter(None, parents):
        try:
            before = read_trained(find_checkpoint(parent))
        except CheckpointError:
            unknown.append(str(parent))
            continue
        unknown += before.unknown if before.items is not None else [str(parent)]
        tables += [] if before.items is None else [before.items]
    table = pa.concat_tables(table.cast(_SCHEMA) for table in tables).unify_dictionaries()
    # By name, for then names that begin alike stand together and take little room.
    table = table.group_by([*_SOURCE, "id"]).aggregate([("text", "min")]).rename_columns([*_SOURCE, "id", "text"])
    table = table.select(_SCHEMA.names).cast(_SCHEMA).sort_by([("id", "ascending")])
    return table.replace_schema_metadata({_UNKNOWN: "\n".join(dict.fromkeys(unknown)).encode()})


def write_trained(table: pa.Table, folder: Path) -> None:
    """Write the record into a checkpoint folder that is being made."""
    encoding = {"id": "DELTA_BYTE_ARRAY", "text": "PLAIN"}
    pq.write_table(table, folder / FILE, compression="zstd", use_dictionary=[*_SOURCE], column_encoding=encoding)


def read_trained(folder: Path) -> Trained:
    """What a checkpoint folder says that it was trained on; older ones, and imported ones, name the tasks alone.

    Raises:
        CheckpointError: a file of it cannot be read.
    """
    manifest, experiment = read_manifest(folder), checkpoint_experiment(folder)
    parts = [part["task"]["name"] for part in (experiment["task"].get("parts") or {}).values()]
    tasks = [stage["name"] for stage in read_history(folder)] + [manifest["task"], *parts]
    file, table, unknown = folder / FILE, None, list[str]()
    if file.is_file():
        try:
            table = pq.read_table(file, read_dictionary=[*_SOURCE]).select(_SCHEMA.names)
            tasks += pc.unique(table["task"]).to_pylist()
            unknown = (table.schema.metadata or {}).get(_UNKNOWN, b"").decode().splitlines()
            table = table.cast(_SCHEMA)
        except (OSError, ValueError, KeyError, pa.ArrowException) as error:
            raise CheckpointError(f"{file} cannot be read as the record of a training: {first_line(error)}") from error
    return Trained(tasks=tuple(dict.fromkeys(name for name in tasks if name != "mixture")), items=table, unknown=tuple(unknown))


def _rows(task: Task, items: Tensor) -> pa.Table:
    names, texts = _identities(task, items)
    source: list[Any] = [task.config.name, _reveals(task), task.data["name"], task.data["fingerprint"]]
    columns = [pa.repeat(pa.scalar(value, pa.string()), len(items)).dictionary_encode() for value in source]
    return pa.table([*columns, names, texts], schema=_SCHEMA)


def _reveals(task: Task) -> str:
    return task.reveals or str(task.config.name)


def _identities(task: Task, items: Tensor) -> tuple[pa.Array, pa.Array]:
    """Names of items, and 32 bits of what they say: a comparison takes many of them together."""
    names, texts = task.identities(items)
    return pa.array(names, pa.string()), pa.array([zlib.crc32(text.encode()) for text in texts], pa.uint32())
