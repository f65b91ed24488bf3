"""``graphgpt cache``: what is kept for the next time, and making room."""

import datetime
import shutil
from collections.abc import Sequence
from pathlib import Path

from graphgpt.errors import GraphGPTError, nearest
from graphgpt.files.atomic import cache_dir

#: What the folders of the cache hold.
KINDS = {
    "conversations": "a file of conversations, read",
    "features": "texts of a graph as numbers, made by a text encoder",
    "graphs": "a graph read from its files",
    "images": "a collection of pictures, read or drawn",
    "instructions": "a file of instructions about graphs, read",
    "llm": "a language model unpacked from its file",
    "released_graphs": "a file of graphs, unpacked",
    "states": "what a frozen tower made of pictures",
}


def entries() -> list[Path]:
    """Everything in the cache, the largest first; what is being made at the moment is none of it."""
    kinds = [folder for folder in cache_dir().glob("*") if folder.is_dir()]
    found = [entry for kind in kinds for entry in kind.iterdir() if not entry.name.startswith(".")]
    return sorted(found, key=size, reverse=True)


def size(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files)


def name_of(entry: Path) -> str:
    """What an entry is called on the command line: its kind and its name."""
    return entry.relative_to(cache_dir()).as_posix()


def show() -> None:
    """Print the entries with their sizes."""
    found = entries()
    count = f"{len(found)} {'entry' if len(found) == 1 else 'entries'}, {_bytes(sum(map(size, found)))}"
    print(f"{cache_dir()}: {count}; all of it is made again when needed.")
    for entry in found:
        day = datetime.datetime.fromtimestamp(entry.stat().st_mtime).strftime("%Y-%m-%d")
        print(f"{_bytes(size(entry)):>10}  {day}  {name_of(entry)}  ({KINDS.get(entry.parent.name, 'of another version')})")


def clear(names: Sequence[str]) -> None:
    """Remove entries.

    Args:
        names: Their names, or those of kinds; none removes all.

    Raises:
        GraphGPTError: there is no such entry; nothing is removed then.
    """
    found = {name_of(entry): entry for entry in entries()}
    known = {*found, *(entry.parent.name for entry in found.values())}
    for name in names:
        if name not in known:
            raise GraphGPTError(f"There is no '{name}' in {cache_dir()}. {nearest(name, known)}".rstrip())
    gone = [entry for name, entry in found.items() if not names or name in names or entry.parent.name in names]
    freed = sum(map(size, gone))
    for entry in gone:
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink()
    print(f"Removed {len(gone)} {'entry' if len(gone) == 1 else 'entries'}, {_bytes(freed)}.")


def _bytes(number: float) -> str:
    for unit in ("B", "kB", "MB"):
        if number < 1000:
            return f"{number:.0f} {unit}"
        number /= 1000
    return f"{number:.1f} GB"
