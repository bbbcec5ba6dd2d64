"""Rows of files in six formats, plain or compressed.

What cannot be read comes out as `Unreadable`, with its place and reason; nothing is skipped in silence. Text is UTF-8,
with or without a byte-order mark; characters come through unchanged. CSV is quoted as in RFC 4180; TSV has no quoting
(IANA text/tab-separated-values), so a text that begins with a quote swallows nothing.
"""

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from pipeline.common.columns import Column
from pipeline.common.files import CHUNK_BYTES

DOCUMENT_FORMATS = (".txt", ".md")
SEPARATED_FORMATS = (".csv", ".tsv")
TABLE_FORMATS = (".jsonl", *SEPARATED_FORMATS, ".parquet")
COMPRESSIONS = (".gz", ".zst")
LONGEST_FIELD = 2**31 - 1  # csv's own limit is 131,072 characters
ROWS_PER_BATCH = 1024
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class Row(NamedTuple):
    number: int  # the line it begins on; in Parquet the row; both from 1
    values: dict[Any, Any]  # by their columns


class Unreadable(NamedTuple):
    number: int | None  # None: the file, from here to its end
    reason: str
    text: str


class MissingColumnsError(Exception):
    """A table lacks columns that were asked for; the message says which it has."""

    def __init__(self, missing: Iterable[Column], present: Iterable[Column], hint: str = "") -> None:
        columns = ", ".join(repr(name) for name in present) or "none, the file is empty"
        super().__init__(f"no column {', '.join(repr(name) for name in missing)}; columns there: {columns}{hint}")


class TornFileError(Exception):
    """A file that ends too early or is damaged."""


def file_format(path: Path) -> str:
    """The suffix that names the format, in lower case and without compression: `a.CSV.gz` -> `.csv`."""
    return (Path(path.stem) if path.suffix.lower() in COMPRESSIONS else path).suffix.lower()


def read_document(path: Path) -> str | Unreadable:
    """The whole text of a .txt or .md file; one with a wrong byte is no document at all."""
    try:
        content = b"".join(_chunks(path)).removeprefix(BYTE_ORDER_MARK)
    except TornFileError as error:
        return Unreadable(None, str(error), "")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        return Unreadable(line, _utf8_fault(content, error), content.decode("utf-8", "replace"))


def read_rows(path: Path, columns: Sequence[Column]) -> Iterator[Row | Unreadable]:
    """Yield a table's rows with the values of `columns`. After `Unreadable(None, ...)` comes nothing more.

    Args:
        path: plain or compressed.
        columns: names; or, for a .csv or .tsv file without a header, numbers from 1.

    Raises:
        MissingColumnsError: the table lacks some of `columns` (.jsonl: no row has them, known at its end).
    """
    separated = {".csv": _csv_records, ".tsv": _tsv_records}
    named = {".jsonl": _jsonl_rows, ".parquet": _parquet_rows}
    format_, names = file_format(path), [column for column in columns if isinstance(column, str)]
    try:
        if format_ in named:
            yield from named[format_](path, names)
        elif len(names) == len(columns):
            yield from _named_fields(separated[format_](path), names)
        else:
            numbers = [column for column in columns if isinstance(column, int)]
            yield from _numbered_fields(separated[format_](path), numbers)
    except TornFileError as error:
        yield Unreadable(None, str(error), "")


def _jsonl_rows(path: Path, columns: list[str]) -> Iterator[Row | Unreadable]:
    seen: dict[str, None] = {}  # an ordered set
    for number, line in numbered_lines(path):
        if not line.strip():
            continue
        try:
            values = json.loads(line.decode("utf-8"))
        except UnicodeDecodeError as error:
            yield Unreadable(number, _utf8_fault(line, error), line.decode("utf-8", "replace"))
            continue
        except (json.JSONDecodeError, RecursionError) as error:
            yield Unreadable(number, f"not JSON: {error}", line.decode("utf-8"))
            continue
        if not isinstance(values, dict):
            yield Unreadable(number, "not a JSON object", line.decode("utf-8"))
            continue
        seen |= dict.fromkeys(values)
        if missing := [name for name in columns if name not in values]:
            yield Unreadable(number, f"no key {', '.join(map(repr, missing))}", line.decode("utf-8"))
        else:
            yield Row(number, {name: values[name] for name in columns})
    if missing := [name for name in columns if name not in seen]:
        raise MissingColumnsError(missing, seen)


def _csv_records(path: Path) -> Iterator[tuple[int, list[str] | str]]:
    """Yield (line a record begins on, its fields or what is wrong with it)."""
    csv.field_size_limit(LONGEST_FIELD)
    reader = csv.reader((decode_line(line) for _, line in numbered_lines(path)), strict=True)
    while True:
        begin = reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            fields = "a quote that begins here never ends" if "unexpected end" in str(error) else f"not CSV: {error}"
        if fields:
            yield begin, fields


def _tsv_records(path: Path) -> Iterator[tuple[int, list[str] | str]]:
    lines = ((number, decode_line(line).rstrip("\r\n")) for number, line in numbered_lines(path))
    return ((number, line.split("\t")) for number, line in lines if line)


def _named_fields(records: Iterator[tuple[int, list[str] | str]], columns: list[str]) -> Iterator[Row | Unreadable]:
    """The rows behind a header."""
    _, header = next(records, (1, []))
    if isinstance(header, str) or not is_unicode("".join(header)):
        raise TornFileError("the header line is not readable UTF-8 text")
    if missing := [name for name in columns if name not in header]:
        hint = "; where the first line is no header, give the columns' numbers from 1" if header else ""
        raise MissingColumnsError(missing, header, hint)
    places: dict[Column, int] = {name: header.index(name) for name in columns}
    for number, fields in records:
        yield _pick_fields(number, fields, places, len(header), "header")


def _numbered_fields(records: Iterator[tuple[int, list[str] | str]], columns: list[int]) -> Iterator[Row | Unreadable]:
    """The rows of a table without a header; the first that can be read says how many fields there are."""
    places: dict[Column, int] = {column: column - 1 for column in columns}
    width = 0
    for number, fields in records:
        if not width and not isinstance(fields, str):
            width = len(fields)
            if missing := [column for column in columns if column > width]:
                raise MissingColumnsError(missing, range(1, width + 1))
        yield _pick_fields(number, fields, places, width, "first row")


def _pick_fields(
    number: int, fields: list[str] | str, places: dict[Column, int], width: int, model: str
) -> Row | Unreadable:
    if isinstance(fields, str):
        return Unreadable(number, fields, "")
    if not is_unicode(whole := " ".join(fields)):
        content = whole.encode("utf-8", "surrogateescape")
        return Unreadable(number, _utf8_fault(content), content.decode("utf-8", "replace"))
    if len(fields) != width:
        return Unreadable(number, f"{len(fields)} fields, the {model} has {width}", whole)
    return Row(number, {column: fields[place] for column, place in places.items()})


def _parquet_rows(path: Path, columns: list[str]) -> Iterator[Row | Unreadable]:
    source = path if path.suffix.lower() == ".parquet" else io.BytesIO(b"".join(_chunks(path)))
    try:
        with pq.ParquetFile(source) as file:
            present = file.schema_arrow.names
            if missing := [name for name in columns if name not in present]:
                raise MissingColumnsError(missing, present)
            number = 0
            for batch in file.iter_batches(batch_size=ROWS_PER_BATCH, columns=columns):
                for values in zip(*(_column_values(batch.column(name)) for name in columns), strict=True):
                    number += 1
                    yield _parquet_row(number, dict(zip(columns, values, strict=True)))
    except (pa.ArrowInvalid, OSError) as error:
        raise TornFileError(f"not a whole Parquet file ({error})") from error


def _column_values(column: pa.Array) -> list[Any]:
    """Python values; strings as bytes, since one with wrong bytes must not take the others with it."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_large_string(column.type):
        column = column.cast(pa.large_binary())
    elif pa.types.is_string(column.type):
        column = column.cast(pa.binary())
    return column.to_pylist()


def _parquet_row(number: int, values: dict[str, Any]) -> Row | Unreadable:
    for name, value in values.items():
        if isinstance(value, bytes):
            try:
                values[name] = value.decode("utf-8")
            except UnicodeDecodeError as error:
                return Unreadable(number, _utf8_fault(value, error), value.decode("utf-8", "replace"))
    return Row(number, values)


def numbered_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield (line number, line with its end). The last line of a torn file is not whole and is left out."""
    number, rest = 0, b""
    for position, chunk in enumerate(_chunks(path)):
        if position == 0:
            chunk = chunk.removeprefix(BYTE_ORDER_MARK)
        *lines, rest = (rest + chunk).split(b"\n") if b"\n" in chunk else (rest + chunk,)
        for line in lines:
            number += 1
            yield number, line + b"\n"
    if rest:
        yield number + 1, rest


def _chunks(path: Path) -> Iterator[bytes]:
    """The file's bytes, decompressed, about a mebibyte at a time. Raises `TornFileError` where the stream breaks."""
    openers = {".gz": _gzip_chunks, ".zst": _zstd_chunks}
    with path.open("rb") as handle:
        yield from openers.get(path.suffix.lower(), _plain_chunks)(handle)


def _plain_chunks(handle: io.BufferedReader) -> Iterator[bytes]:
    while chunk := handle.read(CHUNK_BYTES):
        yield chunk


def _gzip_chunks(handle: io.BufferedReader) -> Iterator[bytes]:
    with gzip.GzipFile(fileobj=handle) as unpacked:
        try:
            while chunk := unpacked.read1(CHUNK_BYTES):
                yield chunk
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise TornFileError(f"not a whole gzip file ({error})") from error


def _zstd_chunks(handle: io.BufferedReader) -> Iterator[bytes]:
    frame = zstandard.ZstdDecompressor().decompressobj()
    try:
        while chunk := handle.read(CHUNK_BYTES):
            while chunk:
                yield frame.decompress(chunk)
                chunk = frame.unused_data
                if chunk:  # the next frame begins here
                    frame = zstandard.ZstdDecompressor().decompressobj()
    except zstandard.ZstdError as error:
        raise TornFileError(f"not a whole Zstandard file ({error})") from error
    if not frame.eof:
        raise TornFileError("not a whole Zstandard file (it ends inside a frame)")


def decode_line(line: bytes) -> str:
    """Text in which wrong bytes are lone surrogates, so that the record around them is still found."""
    return line.decode("utf-8", "surrogateescape")


def is_unicode(text: str) -> bool:
    """Whether a text has no lone surrogate: only then can it be stored."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _utf8_fault(content: bytes, error: UnicodeDecodeError | None = None) -> str:
    if error is None:
        try:
            content.decode("utf-8")
        except UnicodeDecodeError as found:
            error = found
        else:
            return "not UTF-8"
    return f"not UTF-8: byte 0x{content[error.start]:02x}"
