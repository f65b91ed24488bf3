"""Conversations of one file, checked and memory-mapped, with the pictures that they are about."""

import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
from torch import Tensor

from graphgpt.conversations.reading import MalformedRecord, decode, raw_records, reading_progress, sentence_of
from graphgpt.errors import DataError, amount, first_line
from graphgpt.files.atomic import atomic_folder, cache_dir, file_sha256, fingerprint
from graphgpt.files.json_array import BrokenArray
from graphgpt.images.picture import ImageInput, within
from graphgpt.prompts.instruction import Message, Role
from graphgpt.prompts.wording import placed
from graphgpt.schema import placeholder

log = logging.getLogger(__name__)

#: Stands in the files where a picture goes.
PLACEHOLDER = placeholder("image")
BATCH = 4096

_SCHEMA = pa.schema(
    [
        ("id", pa.large_string()),
        ("number", pa.int64()),
        ("roles", pa.list_(pa.string())),
        ("turns", pa.list_(pa.large_string())),
        ("images", pa.list_(pa.large_string())),
    ]
)


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """A record, checked.

    Args:
        id: What it calls itself, or its number in the file.
        turns: Who says what; a system's turn may come first, then the user's and the assistant's take turns, the assistant's is last.
        images: Files, in the order of ``<image>`` in the user's turns.
    """

    id: str
    turns: tuple[tuple[Role, str], ...]
    images: tuple[str, ...] = ()

    def check(self) -> "Conversation":
        """The conversation, if it can be learned from.

        Raises:
            MalformedRecord: it cannot.
        """
        spoken = [role for role, _ in self.turns if role != "system"]
        if any(role == "system" for role, _ in self.turns[1:]):
            raise MalformedRecord("roles do not alternate", "conversations", "has a system's turn that is not the first.")
        for place, role in enumerate(spoken):
            if role != ("user", "assistant")[place % 2]:
                raise MalformedRecord(
                    "roles do not alternate",
                    f"conversations[{place + len(self.turns) - len(spoken)}].from",
                    f"is the {'model' if role == 'assistant' else 'human'}'s turn, expected human and gpt in turn, the human first.",
                )
        if not spoken or len(spoken) % 2:
            found = "ends with the human's turn" if spoken else "has no turn"
            raise MalformedRecord("no answer", "conversations", f"{found}, expected human and gpt in turn, an answer last.")
        for place, (speaker, text) in enumerate(self.turns):
            if speaker == "assistant" and not text.strip():
                raise MalformedRecord("empty answer", f"conversations[{place}].value", "is empty, expected an answer to learn.")
        found_places = sum(text.count(PLACEHOLDER) for role, text in self.turns if role == "user")
        if found_places != len(self.images):
            raise MalformedRecord(
                f"{PLACEHOLDER} missing or too many",
                "conversations",
                f"{PLACEHOLDER} stands {amount(found_places, 'time')} in the human's turns, expected {len(self.images)}, one for each.",
            )
        return self


#: Makes a conversation of a record and its number; raises ``MalformedRecord``.
Reader = Callable[[Any, int], Conversation]


class Conversations:
    """Conversations of one file, numbered; what a dataset of the kind ``records`` opens.

    Args:
        folder: In the cache.
        images: Folder that pictures are named from, None where there are none.
        split: Index into ``SPLITS`` per record, shape ``[n]``, int8.
    """

    def __init__(self, folder: Path, images: Path | None, split: Tensor) -> None:
        self.folder = folder
        self.images = images
        self.split = split
        self.card, self._table = _opened(folder)

    def __reduce__(self) -> tuple[type["Conversations"], tuple[Any, ...]]:
        return Conversations, (self.folder, self.images, self.split)  # a map into memory does not go to another process

    def __len__(self) -> int:
        return int(self._table.num_rows)

    @property
    def name(self) -> str:
        """The file's name without its ending."""
        return Path(self.card["path"]).stem

    @property
    def fingerprint(self) -> str:
        """Of the file's content."""
        return str(self.card["fingerprint"])

    @property
    def counts(self) -> Mapping[str, int]:
        """How many records with how many pictures."""
        return Counter(self.card["kinds"])

    @cached_property
    def features(self) -> Mapping[str, Any]:
        """None: no graph is read."""
        return {}

    def _row(self, item: int) -> dict[str, Any]:
        return {name: self._table[name][item].as_py() for name in self._table.column_names}

    def id(self, item: int) -> str:
        """What a record calls itself."""
        return str(self._table["id"][item].as_py())

    def place(self, item: int) -> str:
        """File and number of a record, for messages."""
        row = self._row(item)
        return f"{self.card['path']}, record {row['number']} ('{row['id']}')"

    def said(self, item: int) -> Sequence[str]:
        """The texts of a record's turns, one after the other."""
        turns: list[str] = self._table["turns"][item].as_py()
        return turns

    def messages(self, item: int, seen: Callable[[str], str]) -> tuple[Message, ...]:
        """A record's turns, the answer last; pictures stand where ``<image>`` stood.

        Raises:
            DataError: ``seen`` takes a place of a picture away, or a picture lies outside of its folder.
        """
        row = self._row(item)
        images = iter([self._image(name, item) for name in row["images"]])
        found = []
        for role, text in zip(row["roles"], row["turns"], strict=True):
            content = placed(seen(text), {"image": images}) if role == "user" and row["images"] else [text]
            found.append(Message(role, *content))
        if next(images, None) is not None:
            raise DataError(f"{self.place(item)}: an {PLACEHOLDER} is taken away with the texts.")
        return tuple(found)

    def _image(self, name: str, item: int) -> ImageInput:
        assert self.images is not None, "checked when the file was read"
        return ImageInput(path=within(self.images, name, self.place(item)), title=name)


def open_conversations(
    path: Path, read: Reader, *, images: Path | None, on_bad: str, kind: str, split: Callable[[int], Tensor]
) -> Conversations:
    """The conversations of a file, read and checked once, then found in the cache.

    Args:
        path: JSON array or JSON Lines, compressed by gzip or not.
        read: Makes a conversation of a record.
        images: Folder that pictures are named from.
        on_bad: ``raise``, or ``skip`` for records that cannot be used, which are counted.
        kind: What tells this way of reading from others, for the cache.
        split: Which of so many records are for what.

    Raises:
        DataError: the file cannot be read, a record cannot be used and is not to be skipped, or none can.
    """
    if not path.is_file():
        raise DataError(f"dataset.path: there is no file {path}.")
    status = path.stat()
    identity = fingerprint(file_sha256(Path(__file__)), kind, str(path.resolve()), status.st_size, status.st_mtime_ns, str(images))
    folder = cache_dir() / "conversations" / f"{path.stem}-{identity}"
    if not (folder / "card.json").is_file():
        log.info("Reading the conversations %s (once) ...", path)
        with atomic_folder(folder) as tmp:
            _ingest(path, read, images, on_bad, tmp)
    card, table = _opened(folder)
    if skipped := card["skipped"]:
        if on_bad == "raise":
            raise DataError(card["first_skipped"])
        reasons = ", ".join(f"{count:,} x {reason}" for reason, count in skipped.items())
        total = sum(skipped.values())
        log.warning(
            "Skipped %s of %s records in %s: %s. The first: %s",
            f"{total:,}",
            f"{table.num_rows + total:,}",
            path,
            reasons,
            card["first_skipped"],
        )
    if not table.num_rows:
        raise DataError(f"{path} holds no record that can be used: {card['first_skipped'] or 'it is empty.'}")
    return Conversations(folder, images, split(table.num_rows))


def _opened(folder: Path) -> tuple[dict[str, Any], pa.Table]:
    try:
        card: dict[str, Any] = json.loads((folder / "card.json").read_text(encoding="utf-8"))
        table = pa.ipc.open_file(pa.memory_map(str(folder / "conversations.arrow"))).read_all()
        if missing := {"path", "fingerprint", "kinds", "skipped", "first_skipped"} - card.keys():
            raise ValueError(f"card.json has no {', '.join(sorted(missing))}")
    except (OSError, ValueError, TypeError, AttributeError, RecursionError, pa.ArrowException) as error:
        raise DataError(f"{folder} is damaged ({first_line(error)}); delete it to have it made again.") from error
    return card, table


def _ingest(path: Path, read: Reader, images: Path | None, on_bad: str, folder: Path) -> None:
    """Write ``conversations.arrow`` and ``card.json``, of which no more than a batch is in memory."""
    kinds, skipped = Counter[str](), Counter[str]()
    first_skipped: str | None = None
    rows: list[dict[str, Any]] = []
    with (
        reading_progress(path) as advance,
        pa.OSFile(str(folder / "conversations.arrow"), "wb") as sink,
        pa.ipc.new_file(sink, _SCHEMA) as writer,
    ):
        for number, record, problem in _records(path, advance):
            try:
                if problem is not None:
                    raise problem
                made = read(record, number).check()
                _check_images(made, images)
            except MalformedRecord as error:
                sentence = sentence_of(path, number, record, error)
                if on_bad == "raise":
                    raise DataError(sentence) from error
                skipped[error.reason] += 1
                first_skipped = first_skipped or sentence
                continue
            kinds[amount(len(made.images), "picture") if made.images else "text only"] += 1
            roles, turns = zip(*made.turns, strict=True)
            rows.append({"id": made.id, "number": number, "roles": list(roles), "turns": list(turns), "images": list(made.images)})
            if len(rows) == BATCH:
                writer.write_table(pa.Table.from_pylist(rows, _SCHEMA))
                rows.clear()
        if rows:
            writer.write_table(pa.Table.from_pylist(rows, _SCHEMA))
    card = {"path": str(path), "fingerprint": file_sha256(path)[:16], "kinds": kinds, "skipped": skipped, "first_skipped": first_skipped}
    (folder / "card.json").write_text(json.dumps(card, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _records(path: Path, advance: Callable[[int], object]) -> Iterator[tuple[int, Any, MalformedRecord | None]]:
    """Records with their numbers; what cannot be decoded with what is wrong."""
    source, number = raw_records(path, advance), -1
    while True:
        number += 1
        try:
            if (text := next(source, None)) is None:
                return
            yield number, decode(text), None
        except MalformedRecord as error:
            yield number, None, error
        except BrokenArray as error:
            yield number, None, MalformedRecord("broken file", "", f"{error}.")
            return


def _check_images(made: Conversation, images: Path | None) -> None:
    """Raise for a picture that lies outside of its folder or is not there."""
    for name in made.images:
        if images is None:
            raise MalformedRecord("no folder of pictures", "image", f"is '{name}', and dataset.images names no folder of pictures.")
        try:
            file = within(images, name, "")
        except DataError as error:
            raise MalformedRecord("picture outside", "image", f"'{name}' lies outside of {images}.") from error
        if not file.is_file():
            raise MalformedRecord("missing picture", "image", f"'{name}' is not in {images}.")
