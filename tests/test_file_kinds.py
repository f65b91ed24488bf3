"""What a file is called by its beginning."""

import gzip
import io
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from graphgpt.files.kinds import another_kind, kind_of


def archive(*names: str) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as file:
        for name in names:
            file.writestr(name, "x")
    return data.getvalue()


CONTENTS = {
    "lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n",
    "html": b"\n<!DOCTYPE html><html></html>",
    "graphml": b'<?xml version="1.0"?>\n<graphml></graphml>',
    "gexf": b"<gexf></gexf>",
    "xml": b"<data/>",
    "json": b'\xef\xbb\xbf {"a": 1}',
    "gzip": gzip.compress(b"a"),
    "zip": archive("nodes.csv"),
    "xlsx": archive("xl/workbook.xml"),
    "docx": archive("word/document.xml"),
    "cut": archive("a")[:40],
    "pdf": b"%PDF-1.7",
    "sqlite": b"SQLite format 3\x00",
    "xls": b"\xd0\xcf\x11\xe0\xa1\xb1",
    "image": b"\x89PNG\r\n",
    "pickle": b"\x80\x04\x95",
}


@pytest.mark.parametrize("name", CONTENTS)
def test_kinds(name: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(CONTENTS[name])
    kind = kind_of(path)
    assert kind is not None and kind.name == name
    assert another_kind(path, name) is None
    assert another_kind(path) == f"is {kind.what}: {kind.advice}"


@pytest.mark.parametrize("text", [b"", b"id,title\n", "é".encode(), b"\xff\xfei\x00d\x00", b"PK", b"12345678{"])
def test_text_and_what_is_not_known_is_no_kind(text: bytes, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(text)
    assert kind_of(tmp_path / "file") is None


def test_files_of_libraries(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1)}, tmp_path / "torch")
    torch.save({"a": torch.zeros(1)}, tmp_path / "torch_old", _use_new_zipfile_serialization=False)
    save_file({"a": torch.zeros(1)}, tmp_path / "safetensors")
    np.save(tmp_path / "npy.npy", np.zeros(1))
    np.savez(tmp_path / "npz.npz", a=np.zeros(1))
    pq.write_table(pa.table({"a": [1]}), tmp_path / "parquet")
    for path in tmp_path.iterdir():
        kind = kind_of(path)
        assert kind is not None and kind.name == path.stem.removesuffix("_old")
