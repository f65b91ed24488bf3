"""Pictures with texts and labels, as they lie on disk; read without reading them all."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NotRequired

import pyarrow as pa
import pyarrow.feather as feather
import torch
from torch import Tensor
from typing_extensions import TypedDict

from graphgpt.errors import DataError, amount, first_line
from graphgpt.files.atomic import fingerprint, write_text
from graphgpt.files.records import read_record
from graphgpt.images.picture import ImageInput, content_key
from graphgpt.schema import SPLITS

FORMAT = 1
CARD, PICTURES, QUESTIONS = "card.json", "pictures.arrow", "questions.arrow"

#: Kinds of questions that a collection may bring about its pictures.
KINDS = ("yes_no", "count", "short", "caption", "box")

_SCHEMA = pa.schema(
    [
        *((name, pa.large_string()) for name in ("id", "title", "body", "file", "key")),
        ("label", pa.int32()),
        ("split", pa.int8()),
        ("group", pa.int32()),
    ]
)
_QUESTIONS = pa.schema(
    [("picture", pa.int32()), ("kind", pa.string()), ("question", pa.large_string()), ("answers", pa.list_(pa.large_string()))]
)


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture of a collection that is being made.

    Args:
        id: The user's name of it, one of its kind.
        path: Of its file.
        title: What it shows, in a few words.
        body: More about it; may be empty.
        label: Name of its class, empty where unknown.
        split: One of ``SPLITS``, empty where the data bring none.
        group: What must not be divided between splits: the id of the picture that this one is a variant of; empty for none.
    """

    id: str
    path: Path
    title: str
    body: str = ""
    label: str = ""
    split: str = ""
    group: str = ""


@dataclass(frozen=True, kw_only=True)
class Question:
    """Something that is asked about a picture.

    Args:
        picture: The picture's id.
        kind: One of ``KINDS``.
        question: The words; empty for a caption, which the task's wording asks for.
        answers: All that is right, the first is what a model learns to say.
    """

    picture: str
    kind: str
    question: str
    answers: tuple[str, ...]


class Card(TypedDict):
    """``card.json``."""

    format: int
    name: str
    class_names: list[str]
    fingerprint: str
    notes: list[str]
    licence: NotRequired[str]


@dataclass(frozen=True)
class Collection:
    """Pictures with texts and labels.

    Shapes: n pictures, q questions.

    Args:
        folder: Where it lies; names of files are relative to it, or absolute.
        card: Its name, classes, fingerprint, licence, and ``notes`` on what was decided in reading.
        table: What ``_SCHEMA`` says, a row per picture.
        questions: What ``_QUESTIONS`` says, a row per question, in the order of the pictures.
    """

    noun: ClassVar[str] = "collection"
    thing: ClassVar[str] = "picture"

    folder: Path
    card: dict[str, Any]
    table: pa.Table = field(repr=False)
    questions: pa.Table = field(repr=False)

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @property
    def name(self) -> str:
        return str(self.card["name"])

    @property
    def fingerprint(self) -> str:
        """Identifies pictures, texts, labels and questions."""
        return str(self.card["fingerprint"])

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes that ``y`` counts."""
        return tuple(self.card["class_names"])

    @property
    def ids(self) -> pa.ChunkedArray:
        """The user's names of the pictures, length n."""
        return self.table["id"]

    @property
    def titles(self) -> pa.ChunkedArray:
        """What the pictures show, in a few words, length n."""
        return self.table["title"]

    @property
    def bodies(self) -> pa.ChunkedArray:
        """More about them, may be empty, length n."""
        return self.table["body"]

    @property
    def y(self) -> Tensor:
        """Class of every picture, shape ``[n]``, int64, -1 where unknown."""
        return torch.tensor(self.table["label"].to_pylist(), dtype=torch.int64)

    @property
    def split(self) -> Tensor | None:
        """Split given with the data, shape ``[n]``, int8: index into ``SPLITS``, -1 for none; None where there is none at all."""
        found = torch.tensor(self.table["split"].to_pylist(), dtype=torch.int8)
        return found if bool((found >= 0).any()) else None

    @property
    def groups(self) -> Tensor:
        """The picture that each one is a variant of, itself for others, shape ``[n]``, int64."""
        return torch.tensor(self.table["group"].to_pylist(), dtype=torch.int64)

    def image(self, item: int) -> ImageInput:
        """A picture as a tower reads it."""
        row = {name: self.table[name][item].as_py() for name in ("file", "title", "key")}
        return ImageInput(path=self.folder / row["file"], title=row["title"], known=row["key"])

    @classmethod
    def open(cls, folder: Path) -> "Collection":
        """A collection from its folder; tables are mapped into memory, pictures read when they are needed.

        Raises:
            DataError: a file is missing, damaged or of another version.
        """
        card = read_record(folder / CARD, Card, "the card of a collection", DataError)
        if card["format"] != FORMAT:
            raise DataError(f"{folder} has format {card['format']}, expected {FORMAT}: remove it, and it is made again.")
        tables = [_read(folder / name, schema) for name, schema in ((PICTURES, _SCHEMA), (QUESTIONS, _QUESTIONS))]
        return cls(folder, dict(card), *tables)


def _read(path: Path, schema: pa.Schema) -> pa.Table:
    try:
        table = feather.read_table(path, memory_map=True)
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(f"{path} cannot be read ({first_line(error)}): remove its folder, and it is made again.") from error
    if table.schema != schema:
        raise DataError(f"{path} has other columns than expected: remove its folder, and it is made again.")
    return table


def write_collection(
    folder: Path,
    pictures: Sequence[Picture],
    *,
    name: str,
    questions: Sequence[Question] = (),
    class_names: Sequence[str] | None = None,
    notes: Sequence[str] = (),
    more: Mapping[str, Any] | None = None,
) -> None:
    """Write the tables and the card of a collection into a folder that is being made.

    Args:
        folder: Temporary, see ``atomic_folder``; pictures that lie in it are named relative to it.
        pictures: In their order.
        name: Of the collection.
        questions: About the pictures.
        class_names: In their order; None takes those that occur, sorted.
        notes: What was decided in reading, a sentence each.
        more: Further entries of the card.

    Raises:
        DataError: there is no picture, an id comes twice, or a file cannot be read.
    """
    if not pictures:
        raise DataError(f"The collection '{name}' has no picture.")
    place = {picture.id: number for number, picture in enumerate(pictures)}
    if len(place) < len(pictures):
        twice = next(picture.id for number, picture in enumerate(pictures) if place[picture.id] != number)
        raise DataError(f"The collection '{name}' has the id '{twice}' more than once.")
    names = list(class_names) if class_names is not None else sorted({picture.label for picture in pictures} - {""})
    label = {one: number for number, one in enumerate(names)}
    columns = {
        "id": [picture.id for picture in pictures],
        "title": [picture.title for picture in pictures],
        "body": [picture.body for picture in pictures],
        "file": [_relative(picture.path, folder) for picture in pictures],
        "key": [content_key(picture.path) for picture in pictures],
        "label": [label[picture.label] if picture.label else -1 for picture in pictures],
        "split": [SPLITS.index(picture.split) if picture.split in SPLITS else -1 for picture in pictures],
        "group": [place[picture.group or picture.id] for picture in pictures],
    }
    asked = sorted(questions, key=lambda question: place[question.picture])
    rows = {
        "picture": [place[question.picture] for question in asked],
        "kind": [question.kind for question in asked],
        "question": [question.question for question in asked],
        "answers": [list(question.answers) for question in asked],
    }
    feather.write_feather(pa.table(columns, schema=_SCHEMA), str(folder / PICTURES), compression="uncompressed")
    feather.write_feather(pa.table(rows, schema=_QUESTIONS), str(folder / QUESTIONS), compression="uncompressed")
    identity = fingerprint({key: column for key, column in columns.items() if key != "file"}, rows, names)
    card = {"format": FORMAT, "name": name, "class_names": names, "fingerprint": identity, "notes": list(notes), **(more or {})}
    write_text(folder / CARD, json.dumps(card, indent=2, ensure_ascii=False) + "\n")


def _relative(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path.resolve())


def described(collection: Collection) -> Iterator[str]:
    """What a collection holds, a line each."""
    counts = torch.bincount(collection.y[collection.y >= 0], minlength=len(collection.class_names)).tolist()
    yield f"{collection.name}: {amount(len(collection), 'picture')}, fingerprint {collection.fingerprint}"
    if counts:
        yield f"{amount(len(counts), 'class', 'classes')}: " + ", ".join(
            f"{name} {count:,}" for name, count in zip(collection.class_names, counts, strict=True)
        )
    if (split := collection.split) is not None:
        yield "split: " + ", ".join(f"{int((split == place).sum()):,} {name}" for place, name in enumerate(SPLITS))
    if collection.questions.num_rows:
        kinds = collection.questions["kind"].value_counts().to_pylist()
        yield "questions: " + ", ".join(f"{one['counts']:,} {one['values']}" for one in kinds)
    if licence := collection.card.get("licence"):
        yield f"licence: {licence}"
    yield from collection.card["notes"]


def built(folder: Path) -> bool:
    """Whether a folder holds a collection that is complete."""
    return (folder / CARD).is_file()
