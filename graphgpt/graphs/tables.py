"""The files that users keep data in: tables (CSV, Parquet or Excel) read batch by batch, and arrays of numbers."""

import csv
import difflib
import gzip
import io
import itertools
import os
import re
import zlib
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from rich import progress
from rich.console import Console

from graphgpt.errors import DataError, amount, first_line
from graphgpt.files.kinds import another_kind, kind_of
from graphgpt.graphs.graph import TextAttributedGraph

T = TypeVar("T")

BATCH = 16_384
#: Bytes from which reading a file takes so long that its progress is shown.
LONG = 50_000_000

#: The places of some records in their file, and their fields by column.
Batch = tuple[Sequence[int], dict[str, Sequence[str]]]


def open_table(path: Path, required: Collection[str], optional: Collection[str] = ()) -> "Table":
    """A table in Parquet, Excel's ``.xlsx`` or CSV (compressed with gzip or not), told by the file's content.

    Args:
        required: Columns that must be there.
        optional: Columns that are read where they are there; all others are ignored.

    Raises:
        DataError: the file is empty or in another format, or a column is missing, misspelt or there twice.
    """
    if problem := another_kind(path, *TABLES):
        raise DataError(f"{path} {problem}.")
    kind = kind_of(path)
    cls = ParquetTable if path.suffix.lower() in (".parquet", ".pq") else TABLES.get(kind.name if kind else "", CsvTable)
    return cls(path, required, optional)


class Table(ABC):
    """Records with named fields; iterating yields them in batches.

    A batch is the place of every record (a line of a CSV file, a row of Parquet; from 1) and the fields by column, as
    strings. All columns asked for are in it; those that the file lacks hold empty strings.

    Attributes:
        header: Where the header stands, for messages.
        columns: Those that the file has, asked for or not.
        unit: What a place counts.
        notes: What was decided in reading it, a sentence each.
    """

    unit: str

    def __init__(self, path: Path, required: Collection[str], optional: Collection[str]) -> None:
        self.path = path
        self.required = tuple(required)
        self.known = (*required, *optional)
        self.notes: list[str] = []
        self.header, self.columns = self._read_header()
        missing = [column for column in self.known if column not in self.columns]
        for column in self.columns:
            if column in self.known and self.columns.count(column) > 1:
                raise DataError(f"{self.header}: the column '{column}' is there more than once.")
            # A misspelt optional column would otherwise be taken for one to ignore.
            if column not in self.known and (near := hint(column.lower(), missing, cutoff=0.8)):
                raise DataError(f"{self.header}: the column '{column}' is unknown.{near}")
        for column in missing:
            if column in required:
                raise DataError(f"{self.header}: expected a column '{column}', found {quoted(self.columns)}.")

    def at(self, place: int) -> str:
        """Where a record stands, for messages."""
        return f"{self.path}, {self.unit} {place}"

    @abstractmethod
    def _read_header(self) -> tuple[str, list[str]]:
        """Where the header stands, for messages, and the names of the columns."""

    @abstractmethod
    def __iter__(self) -> Iterator[Batch]: ...


#: What may stand between the fields of a record, and what it is called; the first is taken where none fits better.
SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}


#: What reading a damaged file of gzip ends in.
UNPACKING = (EOFError, gzip.BadGzipFile, zlib.error)


class CsvTable(Table):
    """A CSV file in UTF-8 (with or without a byte order mark) with a header; quoted fields may span lines, blank lines do not count.

    What separates the fields is told by the header (or by a line ``sep=;`` above it, as Excel writes it), and so is whether
    spaces stand before quotes.

    Raises:
        DataError: the file is empty or no CSV in UTF-8, a column is missing, a record has too few or too many fields.
    """

    # The csv module rather than Arrow's reader: it knows the line on which a record starts, and refuses what is no CSV.
    unit = "line"

    def _read_header(self) -> tuple[str, list[str]]:
        csv.field_size_limit(2**31 - 1)  # a body may be longer than the 128 KiB that the module allows by itself
        self._records = self._read()
        line, header = next(self._records, (1, []))
        if not header:
            raise DataError(f"{self.path} is empty, expected a header with {quoted(self.required)} and records below it.")
        if self._separator != ",":
            self.notes.append(f"{self.path.name}: the fields are separated by {SEPARATORS.get(self._separator, repr(self._separator))}.")
        return self.at(line), [column.strip() for column in header]

    def __iter__(self) -> Iterator[Batch]:
        width = len(self.columns)
        position = {column: self.columns.index(column) for column in self.known if column in self.columns}
        empty = True
        with _bar(self.path) as bar:
            task = bar.add_task(f"Reading {self.path.name}", total=self.path.stat().st_size)
            while batch := list(itertools.islice(self._records, BATCH)):
                empty = False
                for line, fields in batch:
                    if len(fields) != width:
                        raise DataError(
                            f"{self.at(line)}: {amount(len(fields), 'field')}, expected {width} as in the header "
                            f"(a text with {self._separator!r} in it needs quotes around it, and nothing before the first quote)."
                        )
                lines, records = zip(*batch, strict=True)
                by_place = list(zip(*records, strict=True))
                yield lines, {column: by_place[position[column]] if column in position else [""] * len(batch) for column in self.known}
                bar.update(task, completed=None if self._raw.closed else self._raw.tell())
        if empty:
            raise DataError(f"{self.path} holds nothing but a header, expected records below it.")

    def _read(self) -> Iterator[tuple[int, list[str]]]:
        """Fields of every record, the header first, and the line on which it starts."""
        line = 1
        with self.path.open("rb") as self._raw, self._text() as file:
            try:
                start = list(itertools.islice(file, 64))
                self._separator = ","
                if start and (told := re.fullmatch(r"sep=(.)\s*", start[0])):
                    self._separator, line = told[1], 2
                    del start[0]
                elif start:
                    self._separator = max(SEPARATORS, key=lambda separator: self._known_in(start[0], separator))
                # Where CSV is written as it should be, a quote that opens a field stands at its very beginning.
                mark = re.escape(self._separator)
                spaced = any(re.search(rf'{mark} +"[^"{mark}\r\n]', text) for text in start)
                above = line - 1
                reader = csv.reader(itertools.chain(start, file), delimiter=self._separator, skipinitialspace=spaced, strict=True)
                for fields in reader:
                    if fields:  # none on a blank line
                        yield line, fields
                    line = reader.line_num + 1 + above
            except csv.Error as error:
                raise DataError(
                    f"{self.at(line)}: the record that starts here is not CSV ({error}): "
                    "put quotes around a whole field and double those in it."
                ) from error
            except UnicodeDecodeError as error:
                raise self._not_utf8() from error
            except UNPACKING as error:
                raise DataError(f"{self.path} is damaged after line {line - 1}: {first_line(error)}.") from error

    def _text(self) -> io.TextIOWrapper:
        compressed = self._raw.read(2) == b"\x1f\x8b"
        self._raw.seek(0)
        data = gzip.GzipFile(fileobj=self._raw) if compressed else self._raw
        return io.TextIOWrapper(data, encoding="utf-8-sig", newline="")

    def _known_in(self, header: str, separator: str) -> int:
        """How many of the columns asked for the header has, were this between them."""
        return len({field.strip(' \r\n"') for field in header.split(separator)} & {*self.known})

    def _not_utf8(self) -> DataError:
        self._raw.seek(0)
        try:
            with self._text() as file:  # the text is decoded in blocks, ahead of the records: look for the place anew
                data = bytes(file.buffer.read())
            data.decode()
        except UNPACKING as error:
            return DataError(f"{self.path} is damaged: {first_line(error)}.")
        except UnicodeDecodeError as error:
            line = len(data[: error.start + 1].splitlines())
            return DataError(f"{self.at(line)}: the byte 0x{data[error.start]:02X} is not UTF-8, expected a file saved as UTF-8.")
        return DataError(f"{self.path} changed while it was read: try again.")


class ParquetTable(Table):
    """A Parquet file whose columns hold strings or integers; null is an empty string.

    Raises:
        DataError: the file is no Parquet or empty, a column is missing or of another type.
    """

    unit = "row"

    def _read_header(self) -> tuple[str, list[str]]:
        try:
            self._file = pq.ParquetFile(self.path)
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{self.path}: expected a Parquet file, but: {error}") from error
        schema = self._file.schema_arrow
        for field in schema:
            plain = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
            readable = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_integer, pa.types.is_null)
            if field.name in self.known and not any(is_type(plain) for is_type in readable):
                raise DataError(
                    f"{self.path}: the column '{field.name}' has the type {field.type}, expected strings or integers"
                    + (
                        " (pandas turns integers with gaps into floats: convert them with astype('Int64'))."
                        if pa.types.is_floating(plain)
                        else "."
                    )
                )
        return str(self.path), list(schema.names)

    def __iter__(self) -> Iterator[Batch]:
        total = self._file.metadata.num_rows
        if not total:
            raise DataError(f"{self.path} holds no rows.")
        wanted = [column for column in self.known if column in self.columns]
        row = 1
        try:
            for batch in with_progress(self._file.iter_batches(BATCH, columns=wanted), self.path, total=-(-total // BATCH)):
                columns: dict[str, Sequence[str]] = {column: [""] * len(batch) for column in self.known}
                columns |= {column: batch[column].cast(pa.large_string()).fill_null("").to_pylist() for column in wanted}
                yield range(row, row + len(batch)), columns
                row += len(batch)
        except pa.ArrowException as error:
            raise DataError(f"{self.path} is damaged after row {row - 1}: {error}") from error


class ExcelTable(Table):
    """The first sheet of an Excel workbook, read by openpyxl; an empty cell is an empty string.

    Raises:
        DataError: openpyxl is not installed or cannot read the workbook, or a column is missing.
    """

    unit = "row"

    def _read_header(self) -> tuple[str, list[str]]:
        self._rows = self._read()
        header = next(self._rows, ())
        return self.at(1), [_cell(value).strip() for value in header]

    def __iter__(self) -> Iterator[Batch]:
        place = 2
        while batch := list(itertools.islice(self._rows, BATCH)):
            places = range(place, place + len(batch))
            place += len(batch)
            filled = [(row, values) for row, values in zip(places, batch, strict=True) if any(value is not None for value in values)]
            columns: dict[str, Sequence[str]] = {column: [""] * len(filled) for column in self.known}
            for column in set(self.known) & set(self.columns):
                at = self.columns.index(column)
                columns[column] = [_cell(values[at]) if at < len(values) else "" for _, values in filled]
            if filled:
                yield [row for row, _ in filled], columns
        if place == 2:
            raise DataError(f"{self.path} holds nothing but a header, expected records below it.")

    def _read(self) -> Iterator[tuple[object, ...]]:
        try:
            import openpyxl
        except ImportError as error:
            raise DataError(
                f"{self.path} is an Excel workbook: install what reads it (pip install openpyxl), or save it as CSV in UTF-8."
            ) from error
        try:
            with self.path.open("rb") as file:
                yield from openpyxl.load_workbook(file, read_only=True, data_only=True).worksheets[0].iter_rows(values_only=True)
        # What reading a damaged workbook ends in may be an exception of openpyxl's, of zip archives' or of XML's.
        except Exception as error:
            raise DataError(f"{self.path}: expected an Excel workbook, but: {first_line(error)}.") from error


def _cell(value: object) -> str:
    """A cell as it looks: Excel keeps whole numbers as floats."""
    if value is None:
        return ""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


#: How tables of a kind of file are read; text is CSV.
TABLES: dict[str, type[Table]] = {"parquet": ParquetTable, "xlsx": ExcelTable, "gzip": CsvTable}


def with_progress(batches: Iterable[T], path: Path, total: int | None = None) -> Iterator[T]:
    """The same batches, with a bar on the screen while a long file is read.

    Args:
        total: How many there are, where that is known.
    """
    with _bar(path) as bar:
        yield from bar.track(batches, total, description=f"Reading {path.name}")


def _bar(path: Path) -> progress.Progress:
    """Shows nothing for a short file."""
    return progress.Progress(console=Console(stderr=True), transient=True, disable=path.stat().st_size < LONG)


def read_features(graph: TextAttributedGraph, path: Path) -> TextAttributedGraph:
    """The graph with the features in an array of real numbers as ``numpy.save`` writes it, shape ``[n, d]``.

    Raises:
        DataError: the file holds something else, has another number of rows, or holds a value that is not finite.
    """
    if problem := another_kind(path, "npy", "npz"):
        raise DataError(f"{path} {problem}; expected one array of real numbers as numpy.save writes it.")
    if kind_of(path) is None:
        raise DataError(f"{path}: expected numbers as numpy.save writes them, but the file does not begin as theirs do.")
    try:
        x = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError, MemoryError) as error:
        raise DataError(f"{path}: expected numbers as numpy.save writes them, but: {first_line(error)}") from error
    if not isinstance(x, np.ndarray) or x.dtype.kind not in "fiu":
        found = f"values of type {x.dtype}" if isinstance(x, np.ndarray) else "an archive of arrays"
        raise DataError(f"{path}: expected one array of real numbers as numpy.save writes it, found {found}.")
    try:
        with np.errstate(over="ignore"):  # becomes inf, which is refused by name
            return graph.with_features(torch.from_numpy(x.astype(np.float32)))
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def missing_files(files: Mapping[str, str | None]) -> list[str]:
    """A sentence for every file that is not there or cannot be read.

    Args:
        files: Paths by config key; None where the user gave none.
    """
    problems = {key: (name, _file_problem(Path(name))) for key, name in files.items() if name is not None}
    return [f"{key}={name}: {problem}" for key, (name, problem) in problems.items() if problem]


def _file_problem(path: Path) -> str | None:
    try:
        if path.is_file():
            return None if os.access(path, os.R_OK) else "this file may not be read (permission denied)."
        if path.is_dir():
            return "this is a folder, expected a file."
        if path.exists():
            return "this is no regular file (a pipe can be read only once): save it as a file first."
        return f"there is no such file.{hint(path.name, [other.name for other in path.parent.glob('*')])}"
    except OSError as error:
        return f"this cannot be read ({error.strerror})."


def hint(word: str, known: Collection[str], cutoff: float = 0.6) -> str:
    """`` Did you mean ...?`` where something known is near; unlike ``nearest`` silent where not, and where comparing would be slow."""
    near = difflib.get_close_matches(word, sorted(known), n=1, cutoff=cutoff) if len(known) <= 5_000 else []
    return f" Did you mean '{near[0]}'?" if near else ""


def quoted(names: Collection[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)
