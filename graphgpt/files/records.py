"""Small files of facts (JSON, YAML), read as data of a declared shape: whatever is wrong with one is a sentence, and no caller looks twice.

The shape is a type, mostly a ``TypedDict`` beside the code that writes the file. Keys beyond it are kept.
"""

import functools
import json
import reprlib
from pathlib import Path
from typing import Any, TypeVar, cast

import yaml
from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict  # pydantic takes Python 3.11's own for something else

from graphgpt.errors import CheckpointError, GraphGPTError, first_line, with_article

T = TypeVar("T")

#: No file of ours is half as deep or as large; what is would end in a recursion somewhere, or in hours (YAML's references multiply).
DEEPEST, MOST_VALUES, MOST_BYTES = 64, 10_000_000, 2**28


def read_record(file: Path, shape: type[T], what: str, error: type[GraphGPTError] = CheckpointError) -> T:
    """The content of a JSON file, or, by its suffix, a YAML file.

    Args:
        file: Named in messages.
        shape: What it has to be.
        what: What it is called in messages, with its article: *manifest.json cannot be read as a manifest: it has no 'task'.*
        error: Class of the error.

    Raises:
        GraphGPTError: there is no such file, or it is anything else; of the class ``error``.
    """
    try:
        if (size := file.stat().st_size) > MOST_BYTES:
            raise ValueError(f"it has {size:,} bytes")
        text = file.read_text(encoding="utf-8")
    except (OSError, ValueError) as problem:
        raise error(f"{file} cannot be read as {what}: {first_line(problem)}.") from problem
    return parse_record(text, shape, f"{file} cannot be read as {what}", error, form=file.suffix)


def parse_record(text: str, shape: type[T], refusal: str, error: type[GraphGPTError] = CheckpointError, form: str = ".json") -> T:
    """The same of a text, such as a line of a file.

    Args:
        text: JSON, or YAML where ``form`` is ``.yaml``.
        shape: What it has to be.
        refusal: How the message begins; the reason follows after a colon.
        error: Class of the error.
        form: Suffix of the file.

    Raises:
        GraphGPTError: it is anything else; of the class ``error``.
    """
    try:
        value: Any = yaml.safe_load(text) if form == ".yaml" else json.loads(text)
    # Beside their own errors both end in those of depth, of numbers, and YAML in whatever its constructors meet.
    except Exception as problem:
        reason = " ".join(str(problem).split()) if isinstance(problem, yaml.YAMLError) else first_line(problem)
        raise error(f"{refusal}: {reason}.") from problem
    if fault := _fault(value):
        raise error(f"{refusal}: {fault}.")
    return check_shape(value, shape, refusal, error)


def check_shape(value: Any, shape: type[T], refusal: str, error: type[GraphGPTError] = CheckpointError) -> T:
    """The same of what has been read, where one reader of it needs more than the others.

    Raises:
        GraphGPTError: it is anything else; of the class ``error``.
    """
    try:
        _adapter(cast(Any, shape)).validate_python(value, strict=True)
    except ValidationError as problem:
        raise error(f"{refusal}: {_sentence(problem)}.") from problem
    found: T = value  # strict: nothing was converted
    return found


def read_lines(file: Path, shape: type[T], what: str) -> list[T]:
    """The lines of a JSON Lines file, none where there is no file; a last one cut short by a crash, or being written, is left out.

    Raises:
        CheckpointError: a line is not of that shape.
    """
    if not file.is_file():
        return []
    try:
        *lines, _ = file.read_text(encoding="utf-8").split("\n")
    except (OSError, ValueError) as problem:
        raise CheckpointError(f"{file} cannot be read as {what}: {first_line(problem)}.") from problem
    return [parse_record(line, shape, f"{file}, line {number}, cannot be read as {what}") for number, line in enumerate(lines, start=1)]


class Named(TypedDict):
    """A choice with its settings, as in a config."""

    name: str


class Origin(TypedDict):
    """The file that weights were imported from."""

    path: str
    kind: str
    sha256: str


@functools.cache
def _adapter(shape: Any) -> TypeAdapter[Any]:
    return TypeAdapter(shape)


def _fault(value: Any) -> str | None:
    """Why a value is no plain data of a reasonable size: part of a sentence."""
    level, count = [value], 0
    for _ in range(DEEPEST):
        count += len(level)
        if count > MOST_VALUES:
            return f"it holds more than {MOST_VALUES:,} values"
        below: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                below += [*item, *item.values()]
            elif isinstance(item, list):
                below += item
            elif isinstance(item, str) and not item.isascii() and any("\ud800" <= char <= "\udfff" for char in item):
                return f"it holds half a character in {item!a}"
            elif not isinstance(item, str | int | float | None):
                return f"it holds {with_article(type(item).__name__)} ({reprlib.repr(item)}); expected texts, numbers, lists and mappings"
        if not below:
            return None
        level = below
    return f"it is nested deeper than {DEEPEST} levels"


def _sentence(problem: ValidationError) -> str:
    """The first thing that does not fit, with its place."""
    detail = problem.errors(include_url=False)[0]
    at = ".".join(map(str, detail["loc"]))
    if detail["type"] == "missing":
        return f"it has no '{at}'"
    message = detail["msg"][0].lower() + detail["msg"][1:]
    return f"'{at}' is {reprlib.repr(detail['input'])}: {message}" if at else f"{message}, found {reprlib.repr(detail['input'])}"
