"""A long JSON array, element by element, in little memory."""

import codecs
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from graphgpt.machine.compiled import compiled

CHUNK = 8 * 2**20
LONGEST = 64 * 2**20


class BrokenArray(Exception):
    """The file is no whole JSON array; ``str(error)`` says what is wrong, from where nothing more can be read."""


def elements(path: Path, read: Callable[[int], object] = lambda size: None) -> Iterator[bytes]:
    """The elements of the JSON array that a file holds, each as it stands there.

    Only brackets, quotes and commas are looked at, so an element may be anything but unbalanced: one that is no JSON, or no
    UTF-8, does not take those behind it along.

    Args:
        path: Of the file, in UTF-8 with or without a byte order mark.
        read: Told after each block how many bytes it had.

    Raises:
        BrokenArray: the file does not begin with an array, ends before the array does, or goes on behind it; the elements
            before that were given.
    """
    state = np.array([1, 0, 0])
    pending = bytearray()
    number = 0
    with path.open("rb") as file:
        chunk = file.read(CHUNK)
        read(len(chunk))
        chunk = chunk.removeprefix(codecs.BOM_UTF8).lstrip()
        while len(chunk) < 2 and (more := file.read(CHUNK)):
            read(len(more))
            chunk = (chunk + more).lstrip()
        if not chunk.startswith(b"["):
            raise BrokenArray(_no_array(chunk))
        chunk = chunk[1:]
        while chunk:
            start = 0
            for end in _ends(np.frombuffer(chunk, dtype=np.uint8), state).tolist():
                element = bytes(pending + chunk[start:end])
                pending.clear()
                start = end + 1
                if number or state[0] or element.strip():  # nothing between the brackets is no element
                    number += 1
                    yield element
            if state[0] == 0:
                rest = chunk[start:].strip() or file.read(CHUNK).strip()
                if rest:
                    raise BrokenArray(f"something stands behind the end of the array: {_shown(rest)}")
                return
            pending += chunk[start:]
            if len(pending) > LONGEST:
                raise BrokenArray(f"the record that begins here has no end within {LONGEST:,} bytes: a quote or a bracket is missing")
            chunk = file.read(CHUNK)
            read(len(chunk))
    raise BrokenArray("the file ends before the array does: it was cut off, or a quote or a bracket is missing")


def _no_array(start: bytes) -> str:
    if not start:
        return "the file is empty, expected one JSON array of records"
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "the file is in UTF-16, expected UTF-8"
    if start.startswith(b"{"):
        return "expected one JSON array of records, found an object (a file with an object per line is another format)"
    return f"expected one JSON array of records, found {_shown(start)}"


def _shown(data: bytes) -> str:
    return repr(data[:30].decode(errors="replace"))


@compiled
def _ends(chunk: np.ndarray, state: np.ndarray) -> np.ndarray:
    """Where in the chunk elements end: at a comma between them or the array's last bracket, behind which it stops looking.

    ``state`` goes from chunk to chunk: how many brackets are open, whether a text is, whether a backslash came before.
    """
    found = [np.int64(0) for _ in range(0)]
    depth, quoted, escaped = state[0], state[1], state[2]
    for i in range(len(chunk)):
        char = chunk[i]
        if quoted:
            if escaped:
                escaped = 0
            elif char == 92:  # backslash
                escaped = 1
            elif char == 34:  # quote
                quoted = 0
        elif char == 34:
            quoted = 1
        elif char == 123 or char == 91:  # { [
            depth += 1
        elif char == 125 or char == 93:  # } ]
            depth -= 1
            if depth == 0:
                found.append(np.int64(i))
                break
        elif char == 44 and depth == 1:  # comma
            found.append(np.int64(i))
    state[0], state[1], state[2] = depth, quoted, escaped
    return np.array(found, dtype=np.int64)
