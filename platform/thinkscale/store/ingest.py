"""Reading sources of questions: files of several formats and places, and procedural generators.
Owns column mappings and the pieces in which workers read. Knows nothing of quality or duplicates: each row comes out as
a Question as it stands in the source, or as an Unreadable with its place."""

import hashlib
import json
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from thinkscale.domain.question import ANSWER_KINDS, TRACES_BY, WITHHELD, AnswerKind, Question, question_id
from thinkscale.domain.source import Columns, FilesSource, ReasoningGymSource
from thinkscale.store.formats import FilePart, Unreadable, file_parts, raw_rows
from thinkscale.store.locations import IngestError, Location, expand
from thinkscale.store.options import Options, read_options
from thinkscale_demo.procedural import Share, generate, shares

SNIFFED_ROWS = 200  # a mapped column that none of a file's first so many rows has is refused as unknown

__all__ = ["IngestError", "Piece", "Unreadable", "plan", "read", "source_fingerprints"]

_KIND_NAMES: dict[str, AnswerKind] = {
    **{kind: kind for kind in ANSWER_KINDS},  # type: ignore[misc]
    "int": "integer", "float": "math", "number": "math", "expression": "math", "list of integer": "math",
    "list of float": "math", "bool": "text", "boolean": "text", "string": "text", "option": "text",
    "multiple_choice": "choice", "mcq": "choice", "coding": "code", "program": "code", "programming": "code",
}  # fmt: skip
_OPTION_LETTER = re.compile(r"\s*(?:\(([A-Za-z])\)|([A-Z])[.):])\s*")
_LETTERS = re.compile(r"\(?([A-Z])\)?(?:[ ,;/&]*(?:and )?\(?([A-Z])\)?){1,25}")
CODE_SETS = re.compile(
    r"usaco|live_?code_?bench|human_?eval|mbpp|codeforces|code_?contests|codeelo|swe-?bench|bigcodebench", re.I
)  # names of sets whose answers are programs
_CALCULATOR = re.compile(r"<<[^<>\n]*>>")
_FINAL_LINE = re.compile(r"\n####[^\n]*\s*\Z")


@dataclass(frozen=True, kw_only=True)
class Piece:
    """What one worker reads of a source at a time. Picklable."""

    source: FilesSource | ReasoningGymSource
    rows: int  # as far as known beforehand; an estimate for JSON arrays and CSV
    part: FilePart | None = None  # of files
    shares: tuple[Share, ...] = ()


def plan(source: FilesSource | ReasoningGymSource, segment_rows: int) -> list[Piece]:
    """The pieces of a source, the same for the same content. Raises IngestError: a path matches nothing or cannot be
    opened, a format is unknown, no row can be read, a mapped column is in none of the first rows; ProceduralError: a
    family is unknown."""
    if isinstance(source, ReasoningGymSource):
        return [
            Piece(source=source, rows=sum(s.stop - s.start for s in segment), shares=tuple(segment))
            for segment in shares(source.families, source.rows, segment_rows)
        ]
    pieces, readable = [], False
    for location in _locations(source):
        found = file_parts(location, segment_rows)
        readable |= _check_columns(source, found)
        pieces += [Piece(source=source, rows=part.rows, part=part) for part in found]
    if not readable:
        rows = (row for piece in pieces if piece.part for _, row in raw_rows(piece.part))
        first = next(rows, None)
        told = f", none readable; the first at {first.locator}: {first.error}" if isinstance(first, Unreadable) else ""
        raise IngestError(f"{', '.join(source.paths)}: {sum(p.rows for p in pieces) if told else 'no'} rows{told}")
    return pieces


def source_fingerprints(source: FilesSource | ReasoningGymSource) -> dict[str, str]:
    """Path to size and hash of the first and last MiB: what says that a file is still the same."""
    if isinstance(source, ReasoningGymSource):
        return {}
    result = {}
    for location in _locations(source):
        with location.open_file() as file:
            size = file.size()
            digest = hashlib.sha256(file.read(min(size, 1 << 20)))
            if size > 1 << 20:
                file.seek(max(size - (1 << 20), 1 << 20))
                digest.update(file.read())
        result[location.url] = f"{size}:{digest.hexdigest()[:16]}"
    return result


def _locations(source: FilesSource) -> list[Location]:
    return [location for path in source.paths for location in expand(path)]


def read(piece: Piece) -> Iterator[Question | Unreadable]:
    """The rows of a piece in order.
    Raises IngestError where the file cannot be read on (a JSON array that breaks, a file that vanished)."""
    source = piece.source
    if isinstance(source, ReasoningGymSource):
        for share in piece.shares:
            own = source.parameters.get(share.family, {})
            yield from generate(share, source=source.name, seed=source.seed, parameters=own, licence=source.licence)
        return
    pattern = re.compile(source.answer_pattern, re.DOTALL) if source.answer_pattern else None
    for locator, row in raw_rows(piece.part) if piece.part else ():
        yield row if isinstance(row, Unreadable) else _question(source, row, locator, pattern)


def _check_columns(source: FilesSource, found: Sequence[FilePart]) -> bool:
    """Whether any row can be read. Raises IngestError naming a mapped column that none of a file's first rows has."""
    readable = ((at, row) for part in found for at, row in raw_rows(part) if not isinstance(row, Unreadable))
    rows = list(islice(readable, SNIFFED_ROWS))
    if not rows:
        return False
    for field_name, column in _mapped(source.columns):
        if all(_get(row, column) is _ABSENT for _, row in rows):
            raise IngestError(
                f"{found[0].location.url}: no column {column!r} (pool {source.name!r}, columns.{field_name}); the file "
                f"has: {', '.join(map(str, rows[0][1]))}"
            )
    if source.columns.options is not None:
        faults = [read for at, row in rows if isinstance(read := _question(source, row, at, None), Unreadable)]
        if len(faults) == len(rows) and "options" in faults[0].error:
            first = faults[0]
            raise IngestError(f"{first.locator}: {first.error} (pool {source.name!r}, and so in every row read)")
    return True


def _mapped(columns: Columns) -> Iterator[tuple[str, str]]:
    for name, value in columns:
        if isinstance(value, dict):
            yield from ((f"{name}.{key}", column) for key, column in value.items())
        elif value is not None:
            yield from ((name, column) for column in ([value] if isinstance(value, str) else value))


_ABSENT = object()


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
        if name not in ("options", "answer", "metadata")
    }
    metadata = {name: _text(_get(row, column)) for name, column in columns.metadata.items()}
    answer_value = _get(row, columns.answer)
    try:
        options = _options(row, columns.options)
        is_one_list = texts["kind"].strip().lower().startswith("list")
        answer = _text(answer_value) if is_one_list else reference_text(answer_value)
        if isinstance(asked := _get(row, columns.question), list | Mapping):
            raise ValueError(f"the question is a {type(asked).__name__}, not a text: {str(asked)[:80]!r}")
    except ValueError as fault:
        return Unreadable(locator=locator, error=str(fault), text=str(dict(row))[:200])
    if pattern is not None:
        if (match := pattern.search(answer)) is None:
            error = f"answer_pattern {source.answer_pattern!r} does not match the answer"
            return Unreadable(locator=locator, error=error, text=answer[-200:])
        answer = (match.group(1) or "").strip()
    name = texts["source"] or source.name
    kind = _KIND_NAMES.get(texts["kind"].strip().lower())
    if not texts["kind"] and CODE_SETS.search(name):
        kind = "code"
    kind = kind or ("choice" if options.texts else source.kind)
    question = texts["question"]
    if kind == "choice" and options.texts:
        if isinstance(columns.options, list) and columns.answer in columns.options:
            answer_value = columns.options.index(columns.answer)
        right, shown = _letter(answer_value, answer, options), options.texts
        if source.shuffle_options is not None and question:
            shown, right = _shuffled(shown, right, f"{source.shuffle_options}/{question}")
        lines = [f"{chr(ord('A') + i)}) {option}" for i, option in enumerate(shown)]  # as the paper asks
        question, answer = "\n".join([question.rstrip(), "", *lines]), right
        options = Options(shown)
    if question:
        question = source.prompt.replace("{question}", question)
    return Question(
        id=question_id(name, question, answer),
        question=question,
        answer=answer,
        kind=kind,
        source=name,
        locator=locator,
        domain=texts["domain"] or None,
        solution=_FINAL_LINE.sub("", _CALCULATOR.sub("", texts["solution"])).rstrip() or None,
        options=options.texts,
        licence=texts["licence"] or source.licence,
        metadata={
            **{name: value for name, value in metadata.items() if value},
            **({"image": texts["image"]} if texts["image"] else {}),
            **({WITHHELD: "yes"} if source.withheld else {}),
            **({TRACES_BY: source.traces_by} if source.traces_by else {}),
        },
    )


def _text(value: Any) -> str:
    """A field as text: numbers without a needless `.0`, the first of a list of texts, nothing for null or NaN."""
    if value is None or value is _ABSENT or value != value or value in ([], {}):  # NaN often stands for no text
        return ""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    if isinstance(value, list) and value and all(isinstance(item, str) for item in value):
        return str(value[0])
    if isinstance(value, list | dict):
        return json.dumps(value, ensure_ascii=False)
    return str(value)


def reference_text(value: Any) -> str:
    """The reference answer; of a list that gives several, all of them.
    Raises ValueError for several texts of which nobody knows whether one or all of them are the answer."""
    if isinstance(value, list) and len(value) > 1 and all(isinstance(item, str | int | float) for item in value):
        distinct = list(dict.fromkeys(str(item).strip() for item in value))
        if any(len(item.split()) > 3 for item in distinct):
            told = f"{len(value)} reference answers, {str(value)[:80]}"
            raise ValueError(f"{told}: map one, as columns.answer = 'NAME.0'")
        return ", ".join(distinct)
    return _text(value)


def _options(row: Mapping[str, Any], column: str | list[str] | None) -> Options:
    if column is None:
        return Options()
    if isinstance(column, str):
        value = _get(row, column)
        return Options() if value is _ABSENT else read_options(value)
    texts = [_text(_get(row, each)) for each in column]
    while texts and not texts[-1]:
        texts.pop()
    return Options(tuple(_without_letter(text) for text in texts))


def _without_letter(text: str) -> str:
    mark = _OPTION_LETTER.match(text)
    return text[mark.end() :] if mark else text


def _shuffled(options: tuple[str, ...], right: str, seed: str) -> tuple[tuple[str, ...], str]:
    letters = [chr(ord("A") + i) for i in range(len(options))]
    order = list(range(len(options)))
    random.Random(seed).shuffle(order)
    if set(right.split(",")) <= set(letters):
        right = ",".join(sorted(letters[order.index(letters.index(letter))] for letter in right.split(",")))
    return tuple(options[i] for i in order), right


def _letter(value: Any, answer: str, options: Options) -> str:
    """The right options' letters from labels, letters, an index (from 0) or the option's text; else the answer."""
    letters = [chr(ord("A") + i) for i in range(len(options.texts))]
    if type(value) is int and str(value) not in options.labels and 0 <= value < len(letters):
        return letters[value]
    if (label := answer.strip().strip("().: ").upper()) in options.labels:
        return letters[options.labels.index(label)]
    if label in letters:
        return label
    named = set(re.findall("[A-Z]", answer)) if _LETTERS.fullmatch(answer.strip()) else set()
    if named and named <= set(letters):
        return ",".join(sorted(named))
    stripped = _without_letter(answer).strip()
    matches = [i for i, option in enumerate(options.texts) if option == stripped]
    return letters[matches[0]] if len(matches) == 1 else answer
