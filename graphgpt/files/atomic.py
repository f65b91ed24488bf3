"""Files: where caches lie, writes that are all or nothing, fingerprints."""

import contextlib
import errno
import hashlib
import itertools
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from graphgpt.errors import GraphGPTError

#: Where runs go that nobody sends elsewhere.
RUNS = Path("runs")


def cache_dir() -> Path:
    """``$GRAPHGPT_CACHE``, else ``graphgpt`` in the user's cache folder. Everything in it can be made again.

    Raises:
        GraphGPTError: the user has no home.
    """
    if named := os.environ.get("GRAPHGPT_CACHE"):
        return Path(named)
    try:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError as error:
        raise GraphGPTError("You have no home folder; say in the environment variable GRAPHGPT_CACHE where to keep things.") from error
    return Path(base) / "graphgpt"


def new_folder(folder: Path) -> Path:
    """Make a folder that nobody else has: of this name or, where that is there already, with ``-2``, ``-3``, ... behind it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    for number in itertools.count(1):
        made = folder if number == 1 else folder.with_name(f"{folder.name}-{number}")
        with contextlib.suppress(FileExistsError):
            made.mkdir()
            break
    return made


def folder_with(name: str, path: str | Path) -> Path | None:
    """Whichever holds the file ``name``: the folder ``path`` or, if that is a run folder, its checkpoint; None where neither does."""
    folder = Path(path).expanduser()
    return next((candidate for candidate in (folder, folder / "checkpoint") if (candidate / name).is_file()), None)


#: What is listed of more: what a line of a terminal or two can show.
_MOST_LISTED = 10


def folders_with(name: str, folder: Path) -> list[Path]:
    """The folders in ``folder``, or in one of its folders, for which :func:`folder_with` finds ``name``, newest first."""
    found = {}
    for pattern in ("*", "*/checkpoint", "*/*/checkpoint"):
        for file in folder.glob(f"{pattern}/{name}"):
            home = file.parent.parent if file.parent.name == "checkpoint" else file.parent
            if not any(part.startswith(".") for part in home.relative_to(folder).parts):
                found[home] = file.stat().st_mtime_ns
    return sorted(found, key=lambda home: (found[home], str(home)), reverse=True)


def there_are(name: str, path: str | Path) -> str:
    """What a user may have meant by a path where :func:`folder_with` finds no ``name``, to follow what is wrong with it; empty if nothing.

    That is what lies in this folder or beside it or, for a relative path, among the runs.
    """
    folder = Path(path).expanduser()
    for place in (folder, folder.parent, *([] if folder.is_absolute() else [RUNS])):
        if found := [home for home in folders_with(name, place) if home != folder]:
            listed, more = found[:_MOST_LISTED], len(found) - _MOST_LISTED
            return f"; there are, newest first, {', '.join(map(str, listed))}" + (f" and {more} more" if more > 0 else "")
    return ""


def fingerprint(*parts: Any) -> str:
    """Sixteen hexadecimal digits that identify ``parts``: bytes and strings as they are, anything else as sorted JSON."""
    return fingerprint_of(parts)


def fingerprint_of(parts: Iterable[Any]) -> str:
    """:func:`fingerprint` of parts that come one after another and need not all be in memory."""
    digest = hashlib.sha256()
    for part in parts:
        data = part if isinstance(part, bytes) else (part if isinstance(part, str) else json.dumps(part, sort_keys=True)).encode()
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()[:16]


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder that takes the name ``folder`` when the block ends well, and vanishes when it does not.

    An older folder of that name is replaced only then. Of several processes that make the same folder, the last one's stays.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _refused_as(folder):
        tmp = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        yield tmp
        _share(tmp)
        _replace(folder, tmp)
    finally:
        shutil.rmtree(tmp, ignore_errors=True)


def _share(path: Path) -> None:
    """Give a new file, or a folder with all that is in it, the mode that the user's umask asks for."""
    # Temporary files are the owner's alone, and so is what safetensors writes. Asking for the umask means setting it.
    os.umask(mask := os.umask(0o077))
    for made in (path, *path.rglob("*")):
        if not made.is_symlink():
            made.chmod((0o777 if made.is_dir() else 0o666) & ~mask)


@contextlib.contextmanager
def _refused_as(path: Path) -> Iterator[None]:
    """What the system refuses to make for a moment is told by the name that it would get."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def _replace(folder: Path, new: Path) -> None:
    """Give ``new`` the name ``folder``. A folder with something in it cannot be renamed over: it is moved away first."""
    while True:
        try:
            new.rename(folder)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as old, contextlib.suppress(FileNotFoundError):
            folder.rename(Path(old) / folder.name)


def write_text(path: Path, text: str) -> None:
    """Write a text file, all or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with _refused_as(path):
        handle, tmp = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        _share(Path(tmp))
        Path(tmp).replace(path)
    except BaseException:
        Path(tmp).unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON, all or nothing."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")
