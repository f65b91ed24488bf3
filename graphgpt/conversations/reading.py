"""What reading files of records has in common: progress, malformed records and what is said of them, and which are held out."""

import gzip
import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor

from graphgpt.files.json_array import BrokenArray, elements
from graphgpt.schema import SPLITS, configclass

log = logging.getLogger(__name__)


@configclass
class RecordSplit:
    """Which of the records in ``instructions`` are held out; the others train."""

    val: float = Field(default=0.0, ge=0, lt=1)
    """Share for validation."""
    test: float = Field(default=0.0, ge=0, lt=1)
    """Share for test."""
    seed: int = 0
    """Same seed, same split, on every machine."""


def split_records(count: int, config: RecordSplit) -> Tensor:
    """Index into ``SPLITS`` per record, shape ``[count]``, int8: by shares, the rest trains."""
    part = np.zeros(count, dtype=np.int8)
    # RandomState's stream is frozen by numpy's policy, so the split is the same under every version.
    order = np.random.RandomState(config.seed).permutation(count)
    val, test = (round(share * count) for share in (config.val, config.test))
    part[order[:val]] = SPLITS.index("val")
    part[order[val : val + test]] = SPLITS.index("test")
    return torch.from_numpy(part)


def split_problems(config: RecordSplit) -> list[str]:
    """Shares that leave nothing."""
    if config.val + config.test < 1:
        return []
    return [f"dataset.split: val {config.val} and test {config.test} leave nothing to train on; their sum must be below 1."]


def idle_split(config: RecordSplit) -> dict[str, str]:
    """A seed where nothing is drawn."""
    if config.val + config.test:
        return {}
    return {"dataset.split.seed": "changes nothing, for dataset.split.val and test are 0: no record is held out."}


def raw_records(path: Path, advance: Callable[[int], object]) -> Iterator[bytes]:
    """The records of a JSON array, or of JSON Lines, compressed by gzip or not, each as it stands there.

    Args:
        path: Of the file; what it is, its first byte says.
        advance: Told after each block how many bytes of the file it had.

    Raises:
        BrokenArray: the file is a broken array, or is compressed and no lines.
    """
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    if not packed:
        with path.open("rb") as file:
            start = file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()
        if not start.startswith(b"{"):
            yield from elements(path, advance)
            return
    with path.open("rb") as file, gzip.open(file) if packed else path.open("rb") as lines:
        before = 0
        try:
            for line in lines:
                if packed and not line.lstrip().startswith((b"{", b"\xef")) and line.strip():
                    raise BrokenArray("is compressed and holds no JSON Lines: unpack it")
                if line.strip():
                    yield line.removeprefix(b"\xef\xbb\xbf")
                now = file.tell() if packed else before + len(line)
                advance(now - before)
                before = now
        except (OSError, EOFError) as error:
            raise BrokenArray(f"cannot be unpacked ({error})") from error


@contextmanager
def reading_progress(path: Path) -> Iterator[Any]:
    """A bar over the file's bytes; a line per tenth where the output is not a terminal."""
    console = Console(stderr=True)
    size, done = path.stat().st_size, 0
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        DownloadColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )

    def advance(count: int) -> None:
        nonlocal done
        bar.update(work, advance=count)
        if bar.disable and count and done * 10 // size != (done + count) * 10 // size:
            log.info("%s: %d%%", path.name, (done + count) * 100 // size)
        done += count

    with bar:
        work = bar.add_task(path.name, total=size)
        yield advance


class MalformedRecord(Exception):
    """A record that cannot be used.

    Args:
        reason: What the count of skipped records calls it.
        field: Where in the record, empty for all of it.
        sentence: What was found and what was expected.
    """

    def __init__(self, reason: str, field: str, sentence: str) -> None:
        super().__init__(sentence)
        self.reason = reason
        self.field = field
        self.sentence = sentence


def sentence_of(path: Path, number: int, record: Any, problem: MalformedRecord) -> str:
    name = record.get("id") if isinstance(record, dict) else None
    place = [str(path), f"record {number}" + (f" ('{name}')" if isinstance(name, str) else ""), problem.field]
    return f"{', '.join(filter(None, place))}: {problem.sentence}"


def decode(text: bytes) -> Any:
    """A record from its bytes."""
    try:
        record = json.loads(text.decode())
    except UnicodeDecodeError as error:
        raise MalformedRecord(
            "not UTF-8", "", f"its byte {error.start}, 0x{text[error.start]:02X}, is not UTF-8, expected a file saved as UTF-8."
        ) from error
    except (ValueError, RecursionError) as error:
        raise MalformedRecord("not JSON", "", f"expected a JSON object, but: {error}.") from error
    if b"\\ud" in text or b"\\uD" in text:
        try:
            json.dumps(record, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            half = error.object[error.start].encode("unicode_escape").decode()
            raise MalformedRecord("not UTF-8", "", f"holds {half}, half of a character, expected both halves.") from error
    return record


def shown_json(value: Any) -> str:
    try:
        text = json.dumps(value, ensure_ascii=False)
    except RecursionError:
        return f"a very deep {'list' if isinstance(value, list) else 'object'}"
    return text if len(text) <= 60 else f"{text[:57]}..."
