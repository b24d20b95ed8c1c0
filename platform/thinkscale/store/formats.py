"""Rows of files as they stand, format by format: each a mapping of the file's own fields, or an Unreadable.
Owns parsing and places (file and line). Knows nothing of column mappings."""

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate, chain
from typing import Any

import pyarrow.parquet as pq

from thinkscale.store.locations import IngestError, Location

SCAN_BYTES = 16 << 20


@dataclass(frozen=True, kw_only=True)
class Unreadable:
    locator: str
    error: str
    text: str  # the beginning of what stands there


@dataclass(frozen=True, kw_only=True)
class FilePart:
    location: Location
    format: str
    rows: int  # an estimate for JSON arrays and CSV
    start: int = 0  # first byte (JSONL) or row group (Parquet)
    stop: int | None = None
    first_line: int = 1


_NO_SPACE = re.compile(r"\S")
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_LONE = re.compile("[\ud800-\udfff]")

RawRow = tuple[str, Mapping[str, Any] | Unreadable]


def file_parts(location: Location, segment_rows: int) -> list[FilePart]:
    """The file in parts that can be read apart: lines of JSON by `segment_rows`, Parquet by row groups, others whole.
    Raises IngestError where the file cannot be opened or its format is unknown."""
    try:
        file_format = location.format()
    except OSError as error:
        raise _broken(location, error) from error
    if file_format == "parquet":
        with location.open_file() as file:
            metadata = _open_parquet(file, location).metadata
            counts = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
        return [
            FilePart(location=location, format="parquet", rows=rows, start=i, stop=i + 1, first_line=line)
            for i, (rows, line) in enumerate(zip(counts, accumulate(counts, initial=1), strict=False))
        ]
    if file_format == "jsonl" and not location.compressed:
        return _line_parts(location, segment_rows)
    try:
        with location.open_stream() as stream:
            lines = sum(block.count(b"\n") for block in iter(lambda: stream.read(SCAN_BYTES), b""))
    except OSError as error:
        raise _broken(location, error) from error
    return [FilePart(location=location, format=file_format, rows=max(lines, 1))]


def _line_parts(location: Location, segment_rows: int) -> list[FilePart]:
    """Byte ranges that begin and end at line ends, with the number of their first line."""
    found: list[FilePart] = []
    start, line, first_line, offset, ended = 0, 0, 1, 0, True

    def close(stop: int) -> None:
        nonlocal start, first_line
        where = {"rows": line - first_line + 1, "start": start, "stop": stop, "first_line": first_line}
        found.append(FilePart(location=location, format="jsonl", **where))
        start, first_line = stop, line + 1

    with location.open_stream() as stream:
        while block := stream.read(SCAN_BYTES):
            at = -1
            while line + block.count(b"\n", at + 1) >= first_line - 1 + segment_rows:
                for _ in range(first_line - 1 + segment_rows - line):
                    at = block.index(b"\n", at + 1)
                line = first_line - 1 + segment_rows
                close(offset + at + 1)
            line += block.count(b"\n", at + 1)
            offset += len(block)
            ended = block.endswith(b"\n")
    if offset > start:
        line += not ended
        close(offset)
    return found


def raw_rows(part: FilePart) -> Iterator[RawRow]:
    """The rows of a part in order, each with its place.
    Raises IngestError where the file cannot be read on: a JSON array that breaks, a file that vanished."""
    location = part.location
    readers = {"jsonl": _jsonl, "json": _json_array, "csv": _csv, "tsv": _csv, "parquet": _parquet_rows}
    try:
        yield from readers[part.format](part, location)
    except OSError as error:
        raise _broken(location, error) from error


def _jsonl(part: FilePart, location: Location) -> Iterator[RawRow]:
    if location.compressed:
        with location.open_stream() as stream:
            yield from _json_lines(io.BufferedReader(stream), location, 1)
        return
    with location.open_file() as file:
        file.seek(part.start)
        data = file.read((part.stop or file.size()) - part.start)
    yield from _json_lines(io.BytesIO(data), location, part.first_line)


def _json_lines(lines: Any, location: Location, first_line: int) -> Iterator[RawRow]:
    for number, line in enumerate(lines, first_line):
        locator = f"{location.url}:{number}"
        if not line.strip():
            continue
        try:
            row = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
            if _SURROGATE.search(line):
                json.dumps(row, ensure_ascii=False).encode()  # half of a pair cannot be stored
        except (ValueError, RecursionError) as error:  # JSON and UTF-8 errors alike
            row = Unreadable(locator=locator, error=str(error), text=_beginning(line))
        if not isinstance(row, dict | Unreadable):
            row = Unreadable(locator=locator, error="not a JSON object", text=_beginning(line))
        yield locator, row


def _json_array(part: FilePart, location: Location) -> Iterator[RawRow]:
    """Element by element, so that a broken array is told by its line and nothing after it is guessed.
    One object is what it wraps: a list of rows, or columns as pandas and others write them."""
    with location.open_stream() as stream:
        data = stream.read()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise IngestError(f"{location.url}, line {line}: not UTF-8: {error.reason}") from error
    decoder, at = json.JSONDecoder(), _skip(text, 0)
    if text[at : at + 1] == "{":
        yield from _wrapped(text, location)
        return
    if text[at : at + 1] != "[":
        raise IngestError(f"{location.url}, line {_line(text, at)}: neither a JSON array nor JSON lines")
    at, line, counted = _skip(text, at + 1), 1, 0
    while text[at : at + 1] != "]":
        line, counted = line + text.count("\n", counted, at), at
        locator = f"{location.url}:{line}"
        try:
            row, at = decoder.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            line, fault = getattr(error, "lineno", line), getattr(error, "msg", error)
            raise IngestError(f"{location.url}, line {line}: broken JSON array: {fault}") from error
        yield locator, _checked(row, locator)
        at = _skip(text, at)
        if text[at : at + 1] == ",":
            at = _skip(text, at + 1)
        elif text[at : at + 1] != "]":
            raise IngestError(f"{location.url}, line {_line(text, at)}: broken JSON array: ',' or ']' expected")


def _checked(row: Any, locator: str) -> Mapping[str, Any] | Unreadable:
    if not isinstance(row, dict):
        return Unreadable(locator=locator, error="not a JSON object", text=str(row)[:200])
    if _LONE.search(json.dumps(row, ensure_ascii=False)):
        return Unreadable(locator=locator, error="half of a surrogate pair", text=ascii(row)[:200])
    return row


def _wrapped(text: str, location: Location) -> Iterator[RawRow]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        line, fault = getattr(error, "lineno", 1), getattr(error, "msg", error)
        raise IngestError(f"{location.url}, line {line}: broken JSON object: {fault}") from error
    try:
        rows = _rows_in(found)
    except ValueError as error:
        raise IngestError(f"{location.url}: {error}") from error
    for number, row in enumerate(rows, 1):
        yield (locator := f"{location.url}:{number}"), _checked(row, locator)


def _rows_in(found: dict[str, Any]) -> list[Any]:
    """Rows of `{"data": [row, ...]}`, of columns (lists, or objects by index), of `{"0": row, ...}`, or the row itself.
    Raises ValueError where there are several lists of rows, or columns of different lengths."""
    values = list(found.values())
    names, data = found.get("columns"), found.get("data")
    if isinstance(names, list) and isinstance(data, list):  # pandas' orient="split"
        return [dict(zip(names, row, strict=True)) for row in data]
    lists = {key: value for key, value in found.items() if isinstance(value, list)}
    tables = {key: value for key, value in lists.items() if value and isinstance(value[0], dict)}
    if len(tables) > 1 and len(tables) == len(values):
        raise ValueError(
            f"holds {len(tables)} lists of rows ({', '.join(tables)}): write the one to be read to a file of its own"
        )
    if len(tables) == 1 and not any(isinstance(found.get(key), str) for key in ("question", "problem")):
        return next(iter(tables.values()))
    if values and all(isinstance(value, dict) for value in values):
        if all(key.isdigit() for key in found):
            return values
        indexes = list(values[0])
        if indexes and all(index.isdigit() for index in indexes):
            return [{name: column.get(index) for name, column in found.items()} for index in indexes]
    if len(values) > 1 and len(lists) == len(values):
        if len({len(value) for value in values}) > 1:
            told = ", ".join(f"{key} {len(value):,}" for key, value in found.items())
            raise ValueError(f"columns of different lengths: {told}")
        return [dict(zip(found, row, strict=True)) for row in zip(*values, strict=True)]
    return [found]


def _csv(part: FilePart, location: Location) -> Iterator[RawRow]:
    csv.field_size_limit(1 << 30)
    # Bytes that are not UTF-8 match _LONE: they cost their row, not the file.
    with (
        location.open_stream() as stream,
        io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="") as text,
    ):
        first = next(text, "")
        signs = "\t" if part.format == "tsv" else ",;\t|"
        delimiter = max(signs, key=lambda sign: len(next(csv.reader([first], delimiter=sign), [])))
        reader = csv.reader(chain([first] if first else [], text), delimiter=delimiter)
        header: list[str] | None = None
        line = 1
        try:
            for cells in reader:
                locator, line = f"{location.url}:{line}", reader.line_num + 1
                if header is None:
                    header = cells
                    continue
                found = _LONE.search("\n".join(cells))
                if found or (cells and len(cells) != len(header)):
                    error = f"not UTF-8: byte {ord(found[0]) - 0xDC00:#x}" if found else ""
                    error = error or f"{len(cells)} cells under {len(header)} columns"
                    yield locator, Unreadable(locator=locator, error=error, text=_LONE.sub("?", ",".join(cells)[:200]))
                elif cells:
                    yield locator, dict(zip(header, cells, strict=True))
        except csv.Error as error:
            raise IngestError(f"{location.url}, line {line}: {error}") from error


def _parquet_rows(part: FilePart, location: Location) -> Iterator[RawRow]:
    with location.open_file() as file:
        parquet = _open_parquet(file, location)
        row = part.first_line
        groups = range(part.start, part.stop or parquet.num_row_groups)
        for batch in parquet.iter_batches(1024, row_groups=groups):
            for values in batch.to_pylist():
                yield f"{location.url}:{row}", values
                row += 1


def _open_parquet(file: Any, location: Location) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(file)
    except ValueError as error:  # ArrowInvalid
        raise IngestError(f"{location.url} is no Parquet file: {error}") from error


def _broken(location: Location, error: OSError) -> IngestError:
    return IngestError(f"{location.url} cannot be read: {error}")


def _beginning(line: bytes) -> str:
    return line[:200].decode("utf-8", "replace").strip()


def _skip(text: str, at: int) -> int:
    match = _NO_SPACE.search(text, at)
    return match.start() if match else len(text)


def _line(text: str, at: int) -> int:
    return text.count("\n", 0, at) + 1
