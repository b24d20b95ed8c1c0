"""Reading sources of questions: files of several formats and places, and procedural generators.

Owns formats, column mappings and the pieces in which workers read. Knows nothing of quality or duplicates:
each row comes out as a Question as it stands in the source, or as an Unreadable with its place.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow.parquet as pq

from thinkscale.curate.procedural import Share, generate, shares
from thinkscale.domain.campaign import FilesSource, ReasoningGymSource
from thinkscale.domain.question import ANSWER_KINDS, AnswerKind, Question, question_id
from thinkscale.store.locations import IngestError, Location, expand

SCAN_BYTES = 16 << 20
SNIFFED_ROWS = 200
"""A mapped column that none of a file's first so many rows has is refused as unknown."""

_KIND_NAMES: dict[str, AnswerKind] = {
    **{kind: kind for kind in ANSWER_KINDS},  # type: ignore[misc]
    "int": "integer", "float": "math", "number": "math", "expression": "math", "list of integer": "math",
    "list of float": "math", "bool": "text", "boolean": "text", "string": "text", "option": "text",
    "multiple_choice": "choice", "mcq": "choice",
}  # fmt: skip
_OPTION_LETTER = re.compile(r"^\s*(?:\(([A-Za-z])\)|([A-Z])[.):])\s*")
_CALCULATOR = re.compile(r"<<[^<>\n]*>>")
_FINAL_LINE = re.compile(r"\n*####[^\n]*\s*$")


@dataclass(frozen=True, kw_only=True)
class Unreadable:
    """A row that could not be read."""

    locator: str
    error: str
    text: str
    """The beginning of what stands there."""


@dataclass(frozen=True, kw_only=True)
class Piece:
    """What one worker reads of a source at a time. Picklable."""

    source: FilesSource | ReasoningGymSource
    rows: int
    """As far as known beforehand; an estimate for JSON arrays and CSV."""
    location: Location | None = None
    format: str = ""
    start: int = 0
    """First byte (JSONL) or row group (Parquet)."""
    stop: int | None = None
    first_line: int = 1
    shares: tuple[Share, ...] = ()


def plan(source: FilesSource | ReasoningGymSource, segment_rows: int) -> list[Piece]:
    """The pieces of a source, the same for the same content.

    Raises:
        IngestError: a path matches nothing or cannot be opened, a format is unknown, a mapped column is in
            none of the first rows.
        ProceduralError: a family is unknown.
    """
    if isinstance(source, ReasoningGymSource):
        return [
            Piece(source=source, rows=sum(s.stop - s.start for s in segment), shares=tuple(segment))
            for segment in shares(source.families, source.rows, segment_rows)
        ]
    pieces = []
    for location in (location for path in source.paths for location in expand(path)):
        found = _file_pieces(source, location, segment_rows)
        _check_columns(source, found)
        pieces += found
    return pieces


def source_fingerprints(source: FilesSource | ReasoningGymSource) -> dict[str, str]:
    """Path to size and hash of the first and last MiB: what says that a file is still the same."""
    if isinstance(source, ReasoningGymSource):
        return {}
    result = {}
    for location in (location for path in source.paths for location in expand(path)):
        with location.open_file() as file:
            size = file.size()
            digest = hashlib.sha256(file.read(min(size, 1 << 20)))
            if size > 1 << 20:
                file.seek(max(size - (1 << 20), 1 << 20))
                digest.update(file.read())
        result[location.url] = f"{size}:{digest.hexdigest()[:16]}"
    return result


def read(piece: Piece) -> Iterator[Question | Unreadable]:
    """The rows of a piece in order.

    Raises IngestError where the file cannot be read on (a JSON array that breaks, a file that vanished).
    """
    if isinstance(piece.source, ReasoningGymSource):
        for share in piece.shares:
            yield from generate(
                share,
                source=piece.source.name,
                seed=piece.source.seed,
                parameters=piece.source.parameters.get(share.family, {}),
                licence=piece.source.licence,
            )
        return
    pattern = re.compile(piece.source.answer_pattern, re.DOTALL) if piece.source.answer_pattern else None
    for locator, row in _raw_rows(piece):
        yield row if isinstance(row, Unreadable) else _question(piece.source, row, locator, pattern)


# --- pieces ------------------------------------------------------------------------------------------


def _file_pieces(source: FilesSource, location: Location, segment_rows: int) -> list[Piece]:
    file_format = location.format()
    if file_format == "parquet":
        with location.open_file() as file:
            metadata = _parquet(file, location).metadata
            counts = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
        pieces, first = [], 1
        for i, count in enumerate(counts):
            pieces.append(
                Piece(
                    source=source, rows=count, location=location, format="parquet",
                    start=i, stop=i + 1, first_line=first,
                )
            )  # fmt: skip
            first += count
        return pieces
    if file_format == "jsonl" and not location.compressed:
        return _line_pieces(source, location, segment_rows)
    with location.open_stream() as stream:
        lines = sum(block.count(b"\n") for block in iter(lambda: stream.read(SCAN_BYTES), b""))
    return [Piece(source=source, rows=max(lines, 1), location=location, format=file_format)]


def _line_pieces(source: FilesSource, location: Location, segment_rows: int) -> list[Piece]:
    """Byte ranges that begin and end at line ends, with the number of their first line."""
    pieces: list[Piece] = []
    start, line, first_line, offset, ended = 0, 0, 1, 0, True

    def close(stop: int) -> None:
        nonlocal start, first_line
        pieces.append(
            Piece(
                source=source, rows=line - first_line + 1, location=location, format="jsonl",
                start=start, stop=stop, first_line=first_line,
            )
        )  # fmt: skip
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
    return pieces


def _check_columns(source: FilesSource, pieces: list[Piece]) -> None:
    """Raises IngestError naming a mapped column that none of the file's first rows has."""
    if not pieces:
        return
    rows = []
    for _, row in _raw_rows(pieces[0]):
        if not isinstance(row, Unreadable):
            rows.append(row)
        if len(rows) >= SNIFFED_ROWS:
            break
    if not rows:
        return
    assert pieces[0].location is not None
    for field_name, column in source.columns:
        if column is None or any(_get(row, column) is not _ABSENT for row in rows):
            continue
        raise IngestError(
            f"{pieces[0].location.url}: no column {column!r} (pool {source.name!r}, columns.{field_name}); the file "
            f"has: {', '.join(map(str, rows[0]))}"
        )


# --- rows as they stand ------------------------------------------------------------------------------

RawRow = tuple[str, Mapping[str, Any] | Unreadable]


def _raw_rows(piece: Piece) -> Iterator[RawRow]:
    location = piece.location
    assert location is not None
    try:
        yield from {"jsonl": _jsonl, "json": _json_array, "csv": _csv, "tsv": _csv, "parquet": _parquet_rows}[
            piece.format
        ](piece, location)
    except OSError as error:
        raise IngestError(f"{location.url} cannot be read: {error}") from error


def _jsonl(piece: Piece, location: Location) -> Iterator[RawRow]:
    if location.compressed:
        with location.open_stream() as stream:
            yield from _json_lines(io.BufferedReader(stream), location, 1)
        return
    with location.open_file() as file:
        file.seek(piece.start)
        data = file.read((piece.stop or file.size()) - piece.start)
    yield from _json_lines(io.BytesIO(data), location, piece.first_line)


def _json_lines(lines: Any, location: Location, first_line: int) -> Iterator[RawRow]:
    for number, line in enumerate(lines, first_line):
        locator = f"{location.url}:{number}"
        if not line.strip():
            continue
        try:
            row = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
        except ValueError as error:  # JSON and UTF-8 errors alike
            yield locator, Unreadable(locator=locator, error=str(error), text=_beginning(line))
            continue
        if isinstance(row, dict):
            yield locator, row
        else:
            yield locator, Unreadable(locator=locator, error="not a JSON object", text=_beginning(line))


def _json_array(piece: Piece, location: Location) -> Iterator[RawRow]:
    """Element by element, so that a broken array is told by its line and nothing after it is guessed."""
    with location.open_stream() as stream:
        data = stream.read()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise IngestError(f"{location.url}, line {line}: not UTF-8: {error.reason}") from error
    decoder, space = json.JSONDecoder(), re.compile(r"\s*")
    at = _skip(space, text, 0)
    if text[at : at + 1] != "[":
        raise IngestError(f"{location.url}, line {_line(text, at)}: neither a JSON array nor JSON lines")
    at, line, counted = _skip(space, text, at + 1), 1, 0
    while text[at : at + 1] != "]":
        line, counted = line + text.count("\n", counted, at), at
        locator = f"{location.url}:{line}"
        try:
            row, at = decoder.raw_decode(text, at)
        except json.JSONDecodeError as error:
            raise IngestError(f"{location.url}, line {error.lineno}: broken JSON array: {error.msg}") from error
        if isinstance(row, dict):
            yield locator, row
        else:
            yield locator, Unreadable(locator=locator, error="not a JSON object", text=str(row)[:200])
        at = _skip(space, text, at)
        if text[at : at + 1] == ",":
            at = _skip(space, text, at + 1)
        elif text[at : at + 1] != "]":
            raise IngestError(f"{location.url}, line {_line(text, at)}: broken JSON array: ',' or ']' expected")


def _csv(piece: Piece, location: Location) -> Iterator[RawRow]:
    csv.field_size_limit(1 << 30)
    with location.open_stream() as stream, io.TextIOWrapper(stream, encoding="utf-8-sig", newline="") as text:
        reader = csv.reader(text, delimiter="\t" if piece.format == "tsv" else ",")
        header: list[str] | None = None
        line = 1
        try:
            for cells in reader:
                locator, line = f"{location.url}:{line}", reader.line_num + 1
                if header is None:
                    header = cells
                elif len(cells) != len(header):
                    if cells:
                        error = f"{len(cells)} cells under {len(header)} columns"
                        yield locator, Unreadable(locator=locator, error=error, text=",".join(cells)[:200])
                else:
                    yield locator, dict(zip(header, cells, strict=True))
        except (csv.Error, UnicodeDecodeError) as error:
            raise IngestError(f"{location.url}, line {line}: {error}") from error


def _parquet_rows(piece: Piece, location: Location) -> Iterator[RawRow]:
    with location.open_file() as file:
        parquet = _parquet(file, location)
        row = piece.first_line
        for batch in parquet.iter_batches(1024, row_groups=range(piece.start, piece.stop or parquet.num_row_groups)):
            for values in batch.to_pylist():
                yield f"{location.url}:{row}", values
                row += 1


def _parquet(file: Any, location: Location) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(file)
    except ValueError as error:  # ArrowInvalid
        raise IngestError(f"{location.url} is no Parquet file: {error}") from error


# --- rows as questions -------------------------------------------------------------------------------


class _Absent:
    pass


_ABSENT = _Absent()


def _get(row: Mapping[str, Any], column: str) -> Any:
    """The value of a column; a dotted name reaches into nested objects (JSON text is opened)."""
    if column in row:
        return row[column]
    value: Any = row
    for part in column.split("."):
        if isinstance(value, str) and value.lstrip().startswith("{"):
            try:
                value = json.loads(value)
            except ValueError:
                return _ABSENT
        if isinstance(value, list):
            value = dict(value) if all(isinstance(v, tuple) for v in value) else value  # a Parquet map
        if isinstance(value, list) and part.isdigit() and int(part) < len(value):
            value = value[int(part)]
        elif isinstance(value, Mapping) and part in value:
            value = value[part]
        else:
            return _ABSENT
    return value


def _question(
    source: FilesSource, row: Mapping[str, Any], locator: str, pattern: re.Pattern[str] | None
) -> Question | Unreadable:
    columns = source.columns
    texts = {
        name: _text(_get(row, column)) if column else ""
        for name, column in columns
        if name not in ("options", "answer")
    }
    options = _options(_get(row, columns.options)) if columns.options else ()
    answer_value = _get(row, columns.answer)
    answer = _text(answer_value)
    if pattern is not None:
        match = pattern.search(answer)
        if match is None:
            error = f"answer_pattern {source.answer_pattern!r} does not match the answer"
            return Unreadable(locator=locator, error=error, text=answer[-200:])
        answer = (match.group(1) or "").strip()
    kind = _kind(texts["kind"]) if texts["kind"] else None
    kind = kind or ("choice" if options else source.kind)
    question = texts["question"]
    if kind == "choice" and options:
        question = _rendered(question, options)
        answer = _letter(answer_value, answer, options)
    name = texts["source"] or source.name
    return Question(
        id=question_id(name, question, answer),
        question=question,
        answer=answer,
        kind=kind,
        source=name,
        locator=locator,
        domain=texts["domain"] or None,
        solution=_FINAL_LINE.sub("", _CALCULATOR.sub("", texts["solution"])) or None,
        options=options,
        licence=texts["licence"] or source.licence,
        metadata={"image": texts["image"]} if texts["image"] else {},
    )


def _kind(name: str) -> AnswerKind | None:
    return _KIND_NAMES.get(name.strip().lower())


def _text(value: Any) -> str:
    """A field as text: numbers without a needless `.0`, the first of a list of texts, nothing for null."""
    if value is None or value is _ABSENT:
        return ""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    if isinstance(value, list) and value and all(isinstance(item, str) for item in value):
        return str(value[0])
    if isinstance(value, list | dict):
        return json.dumps(value, ensure_ascii=False)
    return str(value)


def _options(value: Any) -> tuple[str, ...]:
    """The options' texts without their letters: from a list, an object by letter, or JSON of either."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            value = json.loads(value)
        except ValueError:
            return ()
    if isinstance(value, Mapping):
        texts = value.get("text")  # as in ARC: {"text": [...], "label": [...]}
        value = texts if isinstance(texts, list) else [value[key] for key in sorted(value)]
    if not isinstance(value, list):
        return ()
    return tuple(_OPTION_LETTER.sub("", _text(option)).strip() for option in value)


def _rendered(question: str, options: tuple[str, ...]) -> str:
    lines = [f"({chr(ord('A') + i)}) {option}" for i, option in enumerate(options)]
    return "\n".join([question.rstrip(), *lines])


def _letter(value: Any, answer: str, options: tuple[str, ...]) -> str:
    """The right option's letter from a letter, an index (from 0) or the option's text; else the answer as it is."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(options):
        return chr(ord("A") + value)
    if match := re.fullmatch(r"\(?([A-Za-z])\)?[.:]?", answer.strip()):
        return match.group(1).upper()
    stripped = _OPTION_LETTER.sub("", answer).strip()
    matches = [i for i, option in enumerate(options) if option == stripped]
    return chr(ord("A") + matches[0]) if len(matches) == 1 else answer


def _beginning(line: bytes) -> str:
    return line[:200].decode("utf-8", "replace").strip()


def _skip(space: re.Pattern[str], text: str, at: int) -> int:
    match = space.match(text, at)
    return match.end() if match else at


def _line(text: str, at: int) -> int:
    return text.count("\n", 0, at) + 1
