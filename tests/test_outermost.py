"""How programs end where the machine, not the settings, is at fault."""

import errno
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from graphgpt.errors import GraphGPTError
from graphgpt.files.atomic import atomic_folder, cache_dir, write_text
from graphgpt.launch.outermost import refused_by_the_system, user_errors


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (PermissionError(errno.EACCES, "x", "/a/b"), "/a/b cannot be made: no permission."),
        (OSError(errno.EROFS, "x", "/a"), "/a cannot be made: the file system is read-only."),
        (OSError(errno.ENOSPC, "x"), "A file cannot be written: no space is left on that disk."),
        (OSError(errno.ENOSPC, "x", __file__), f"{__file__} cannot be written: no space is left on that disk."),
        (FileNotFoundError(errno.ENOENT, "x", "gone.csv"), "gone.csv cannot be read: it is not there."),
        (IsADirectoryError(errno.EISDIR, "x", "/tmp"), "/tmp cannot be read or written: it is a folder."),
        (OSError(errno.ENAMETOOLONG, "x", "y" * 300), f"{'y' * 80}...{'y' * 40} cannot be made: the name is too long."),
    ],
)
def test_what_the_system_refuses_is_a_sentence(error: OSError, sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left, user_errors():
        raise error
    assert left.value.code == 2
    assert capsys.readouterr().err == f"{sentence}\n"


@pytest.mark.parametrize("error", [ValueError("x"), OSError("no model on the hub"), ConnectionResetError(errno.ECONNRESET, "x")])
def test_other_errors_keep_their_traceback(error: Exception) -> None:
    with pytest.raises(type(error)), user_errors():
        raise error


def test_the_cache_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GRAPHGPT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    sentence = refused_by_the_system(PermissionError(errno.EACCES, "x", str(tmp_path / "cache" / "graphs")))
    assert sentence is not None
    assert sentence.endswith("the folder that the environment variable GRAPHGPT_CACHE names.")
    # A home that is not there: what cannot be made lies above the cache.
    for name in ("GRAPHGPT_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "gone"))
    sentence = refused_by_the_system(PermissionError(errno.EACCES, "x", str(tmp_path / "gone")))
    assert sentence is not None
    assert sentence.startswith(f"{tmp_path}/gone cannot be made: no permission. ") and "GRAPHGPT_CACHE" in sentence


def test_a_user_without_a_home_is_told_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GRAPHGPT_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)

    def home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", home)
    sentence = r"^You have no home folder; say in the environment variable GRAPHGPT_CACHE where to keep things\.$"
    with pytest.raises(GraphGPTError, match=sentence):
        cache_dir()


def test_what_is_made_for_a_moment_is_told_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for refused in (lambda: write_text(tmp_path / ("x" * 255), "a"), lambda: atomic_folder(tmp_path / ("x" * 255)).__enter__()):
        with pytest.raises(OSError) as caught:
            refused()
        assert caught.value.filename == str(tmp_path / ("x" * 255))


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [("utf-8", "█ 中 ± é"), ("cp1252", "# \\u4e2d ± é"), ("ascii", "# \\u4e2d +- \\xe9"), ("latin-1", "# \\u4e2d ± é")],
)
def test_a_terminal_of_few_characters(encoding: str, shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    with user_errors():
        print("█ 中 ± é", end="")
    stream.flush()
    assert stream.buffer.getvalue().decode(encoding) == shown  # type: ignore[attr-defined]


def test_a_reader_that_has_seen_enough() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run([sys.executable, "-m", "graphgpt.cli.main", "ls"], stdout=writing, stderr=subprocess.PIPE, text=True, timeout=200)
    os.close(writing)
    assert done.stderr == ""
    assert done.returncode != 0


def test_a_log_without_a_reader_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    import logging

    from graphgpt.launch.outermost import ConsoleHandler

    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    handler = ConsoleHandler(Closed())
    for _ in range(2):
        handler.emit(logging.LogRecord("a", 20, "b", 1, "hello", (), None))
    assert capsys.readouterr().err == ""


def test_a_mistake_is_shown_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left, user_errors():
        raise GraphGPTError("a: does not fit.")
    assert (left.value.code, capsys.readouterr().err) == (2, "a: does not fit.\n")
