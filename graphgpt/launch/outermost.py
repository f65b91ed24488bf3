"""The outermost level of a program: how what a user or their machine gets wrong is shown."""

import codecs
import contextlib
import errno
import io
import logging
import os
import sys
from pathlib import Path
from typing import Any, TextIO

from graphgpt.errors import GraphGPTError, Interrupted
from graphgpt.files.atomic import cache_dir

#: What terminals of few characters get instead.
_SIGNS = "█▏±–—…→×·’│─"  # noqa: RUF001
_PLAIN = {ord(sign): plain for sign, plain in zip(_SIGNS, ["#", "|", "+-", "-", "-", "...", "->", "x", "*", "'", "|", "-"], strict=True)}


def _plainly(error: UnicodeError) -> tuple[str, int]:
    """An error handler for output: something similar for what the encoding cannot show, else its number."""
    assert isinstance(error, UnicodeEncodeError)
    shown = error.object[error.start : error.end].translate(_PLAIN)
    return shown.encode("ascii", "backslashreplace").decode("ascii"), error.end


codecs.register_error("graphgpt.plainly", _plainly)


class ConsoleHandler(logging.StreamHandler[TextIO]):
    """Logs to the terminal until its reader has seen enough (``| head``); a training goes on without it."""

    def handleError(self, record: logging.LogRecord) -> None:
        if isinstance(sys.exc_info()[1], BrokenPipeError):
            self.setStream(open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123, SIM115
        else:
            super().handleError(record)


class user_errors(contextlib.ContextDecorator):
    """The outermost level of a program: what a user or their machine can get wrong ends in its sentence and exit code 2.

    130 is the exit code when asked to stop. A reader that has seen enough (``| head``) is no error. What a terminal's encoding cannot show
    is written otherwise. Errors of ours keep their traceback. Also a decorator.
    """

    def __enter__(self) -> None:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
                stream.reconfigure(errors="graphgpt.plainly")

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is None or isinstance(error, SystemExit):
            try:
                sys.stdout.flush()
            except BrokenPipeError as closed:
                error = closed
        if isinstance(error, KeyboardInterrupt):
            print("Interrupted.", file=sys.stderr)
            sys.exit(130)
        if isinstance(error, BrokenPipeError):
            # Or Python would try once more at its end, and complain.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(141)  # as a program that the signal ended
        if isinstance(error, Interrupted) and os.environ.get("LOCAL_RANK", "0") != "0":
            sys.exit(0)  # one process speaks for all, and none of them died
        if isinstance(error, GraphGPTError):
            print(error, file=sys.stderr)
            sys.exit(130 if isinstance(error, Interrupted) else 2)
        if isinstance(error, OSError) and (sentence := refused_by_the_system(error)):
            print(sentence, file=sys.stderr)
            sys.exit(2)


#: What an operating system refuses for reasons that lie with the user's machine.
_REFUSALS = {
    errno.EACCES: "no permission",
    errno.EPERM: "no permission",
    errno.EROFS: "the file system is read-only",
    errno.ENOSPC: "no space is left on that disk",
    errno.EDQUOT: "your disk quota is used up",
    errno.ENAMETOOLONG: "the name is too long",
    errno.ENOTDIR: "a part of that path is a file, not a folder",
    errno.EISDIR: "it is a folder",
    errno.ENOENT: "it is not there",
    errno.EEXIST: "something of that name is there already",
    errno.EIO: "the disk does not answer",
    errno.EMFILE: "too many files are open (ulimit -n)",
    errno.ELOOP: "its symbolic links lead in a circle",
}


def refused_by_the_system(error: OSError) -> str | None:
    """The sentence about a file or folder that the operating system refuses; None for what is no such refusal."""
    why = _REFUSALS.get(error.errno or 0)
    if why is None or (error.filename is None and error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.EIO)):
        return None
    if error.filename is None:
        return f"A file cannot be written: {why}."
    path = Path(os.fsdecode(error.filename)) if not isinstance(error.filename, int) else Path(f"/dev/fd/{error.filename}")
    try:
        there, readable = path.exists(), os.access(path, os.R_OK)
    except OSError:
        there, readable = False, False
    if there:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
        tried = "written" if full else "read or written" if readable else "read"
    else:
        tried = "read" if error.errno == errno.ENOENT else "made"
    shown = str(path) if len(str(path)) < 200 else f"{str(path)[:80]}...{str(path)[-40:]}"
    cache = cache_dir().absolute()
    ours = path.absolute().is_relative_to(cache) or (not there and cache.is_relative_to(path.absolute()))  # a home that is not there
    place = " What can be made again is kept in the folder that the environment variable GRAPHGPT_CACHE names." if ours else ""
    return f"{shown} cannot be {tried}: {why}.{place}"
