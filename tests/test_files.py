"""Writes that are all or nothing."""

from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import pytest

from graphgpt.files import atomic_folder, new_folder


def make(folder: Path, text: str) -> None:
    for _ in range(50):
        with atomic_folder(folder) as tmp:
            (tmp / "a.txt").write_text(text)
            (tmp / "b.txt").write_text(text)


def test_processes_that_make_the_same_folder_leave_one_whole_folder(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    with ProcessPoolExecutor(2) as pool:
        for done in [pool.submit(make, folder, text) for text in "xy"]:
            done.result()
    assert list(tmp_path.iterdir()) == [folder]
    assert (folder / "a.txt").read_text() == (folder / "b.txt").read_text()


def test_an_older_folder_stays_when_the_new_one_fails(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    make(folder, "old")
    with pytest.raises(RuntimeError), atomic_folder(folder) as tmp:
        (tmp / "a.txt").write_text("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == [folder]
    assert (folder / "a.txt").read_text() == "old"


def test_a_new_folder_is_nobody_elses(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = [*pool.map(lambda _: new_folder(tmp_path / "runs" / "now"), range(8))]
    assert {path.name for path in made} == {"now", *(f"now-{number}" for number in range(2, 9))}
