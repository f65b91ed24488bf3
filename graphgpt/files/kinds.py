"""What a file is, told by how it begins: so that one of another kind than was expected is called by its name."""

import zipfile
from pathlib import Path
from typing import NamedTuple


class Kind(NamedTuple):
    """A kind of file.

    Args:
        name: Short, for programs.
        what: As a sentence calls it.
        advice: What to do where another kind was expected.
    """

    name: str
    what: str
    advice: str


_UNPACK = "unpack it first"
_TABLES = "write its nodes and edges into two tables (networkx reads it)"
_TEXT_TABLE = "save it as CSV in UTF-8"
_NO_DATA = "it holds no data that could be read"

_HTML = Kind("html", "a web page (HTML)", "what was downloaded is a page about the file; download the file itself")
_TORCH = Kind("torch", "a file that torch.save wrote", "it holds tensors")
_ZIP = Kind("zip", "a zip archive", _UNPACK)

_BEGINNINGS = {
    b"version https://git-lfs": Kind("lfs", "a Git-LFS pointer, not the file it stands for", "fetch that with 'git lfs pull'"),
    # What torch.save wrote before version 1.6 is a pickle that begins with this number.
    b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.": _TORCH,
    b"\x80": Kind("pickle", "a pickle", "reading it could run code; save it again by torch.save, numpy.save or as Parquet"),
    b"PAR1": Kind("parquet", "a Parquet file", "it holds a table"),
    b"ARROW1": Kind("arrow", "an Arrow file", "write it as Parquet (pyarrow.parquet.write_table)"),
    b"\x1f\x8b": Kind("gzip", "compressed with gzip", _UNPACK),
    b"BZh": Kind("bzip2", "compressed with bzip2", _UNPACK),
    b"\xfd7zXZ": Kind("xz", "compressed with xz", _UNPACK),
    b"\x28\xb5\x2f\xfd": Kind("zstd", "compressed with Zstandard", _UNPACK),
    b"7z\xbc\xaf\x27\x1c": Kind("7z", "a 7-Zip archive", _UNPACK),
    b"Rar!": Kind("rar", "a RAR archive", _UNPACK),
    b"%PDF": Kind("pdf", "a PDF document", _NO_DATA),
    b"\x89HDF\r\n": Kind("hdf5", "an HDF5 file", "read it with h5py and write what is needed of it"),
    b"\x93NUMPY": Kind("npy", "an array that numpy.save wrote", "numpy.load reads it"),
    b"SQLite format 3\x00": Kind("sqlite", "an SQLite database", "export its tables as CSV"),
    b"\xd0\xcf\x11\xe0": Kind("xls", "an old Excel workbook (.xls)", _TEXT_TABLE),
    b"\x89PNG": Kind("image", "a picture", _NO_DATA),
    b"\xff\xd8\xff": Kind("image", "a picture", _NO_DATA),
    b"GIF8": Kind("image", "a picture", _NO_DATA),
    b"GGUF": Kind("gguf", "a GGUF file", "it holds the weights of a language model"),
    b"MATLAB 5.0": Kind("mat", "a MATLAB file", "read it with scipy.io.loadmat and write what is needed of it"),
}
#: The end of a file's name in a zip archive, which tells what the archive is.
_ENTRIES = {
    "xl/workbook.xml": Kind("xlsx", "an Excel workbook", _TEXT_TABLE),
    "word/document.xml": Kind("docx", "a Word document", _TEXT_TABLE),
    "content.xml": Kind("ods", "an OpenDocument file", _TEXT_TABLE),
    "data.pkl": _TORCH,
    ".npy": Kind("npz", "an archive of arrays that numpy.savez wrote", "save one of them by numpy.save"),
}
_MARKUP = {
    b"<!doctype html": _HTML,
    b"<html": _HTML,
    b"<graphml": Kind("graphml", "GraphML", _TABLES),
    b"<gexf": Kind("gexf", "GEXF", _TABLES),
    b"<": Kind("xml", "XML", "write what is needed of it into tables"),
}


def kind_of(path: Path) -> Kind | None:
    """What a file is, by how it begins; None for text and for what is not known.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(1024)
    if head.startswith(b"PK\x03\x04"):
        return _archive(path)
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < path.stat().st_size:
        return Kind("safetensors", "a safetensors file", "it holds tensors")
    if head[257:262] == b"ustar":
        return Kind("tar", "a tar archive", _UNPACK)
    if (found := next((kind for beginning, kind in _BEGINNINGS.items() if head.startswith(beginning)), None)) is not None:
        return found
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith(b"<"):
        return next(kind for tag, kind in _MARKUP.items() if tag in text)
    return Kind("json", "JSON", "write what is needed of it into tables") if text.startswith((b"{", b"[")) else None


def _archive(path: Path) -> Kind:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        return Kind("cut", "damaged, a zip archive that was cut off", "copy, download or write it again")
    return next((kind for end, kind in _ENTRIES.items() if any(name.endswith(end) for name in names)), _ZIP)


def another_kind(path: Path, *expected: str) -> str | None:
    """How a sentence about a file goes on that is of none of the expected kinds; None where it may be one of them.

    Args:
        expected: Names of kinds; text, and what is not known, is never refused here.
    """
    kind = kind_of(path)
    return None if kind is None or kind.name in expected else f"is {kind.what}: {kind.advice}"
