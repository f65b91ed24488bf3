"""Writes that are all or nothing."""

import os
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from graphgpt.files.atomic import atomic_folder, new_folder, write_text


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


@pytest.mark.parametrize("mask", [0o022, 0o027])
def test_files_are_for_whom_the_umask_says(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        with atomic_folder(tmp_path / "made") as tmp:
            (tmp / "lora").mkdir(mode=0o700)
            save_file({"x": torch.zeros(1)}, tmp / "lora" / "x.safetensors")
        write_text(tmp_path / "made" / "x.json", "{}")
    finally:
        os.umask(before)
    for path in (tmp_path / "made", *(tmp_path / "made").rglob("*")):
        assert path.stat().st_mode & 0o777 == (0o777 if path.is_dir() else 0o666) & ~mask
