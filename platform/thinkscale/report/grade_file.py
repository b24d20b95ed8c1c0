"""Grading any file of references and responses: JSONL or Parquet in, the same with verdicts out.

Owns the file formats. Knows nothing of how an answer is judged, and nothing of campaigns.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from thinkscale.domain.question import AnswerKind
from thinkscale.domain.sample import Verdict
from thinkscale.grading.pool import GradingPool
from thinkscale.grading.verdict import Graded

BATCH_ROWS = 2_000
JSON_LINES = (".jsonl", ".ndjson", ".json")


class GradeFileError(ValueError):
    """A file cannot be graded; the message names the file, the line and what is wrong."""


def grade_file(
    kind: AnswerKind,
    source: Path,
    target: Path,
    *,
    reference_field: str,
    response_field: str,
    options_field: str | None = None,
    processes: int | None = None,
) -> dict[str, int]:
    """Grade every row of a file and write it with `extracted_answer` and `verdict` added (or replaced).

    A row without a response, or with one that is no text, number or list of one, is unanswered; one without such
    a reference is ungradable.

    Args:
        kind: How answers are compared, for all rows.
        source: JSONL (`.jsonl`, `.ndjson`, `.json`) or Parquet (`.parquet`).
        target: Written whole at the end; its suffix says which format, independent of the source's.
        reference_field: The field with the right answer.
        response_field: The field with the model's response.
        options_field: The field with the list of option texts of choice questions.
        processes: Comparisons at once; by default one for each core.

    Returns:
        The number of rows by verdict.

    Raises:
        GradeFileError: the format is not known, a line is not a JSON object, a field is in none of the first rows,
            or values of a field have no common type for Parquet.
    """
    counts: Counter[str] = Counter()
    fields = [field for field in (reference_field, response_field, options_field) if field]
    with GradingPool(processes=processes or os.cpu_count() or 1) as pool, _written(target, source) as write:
        for number, rows in enumerate(_batches(source)):
            if number == 0:
                _check_fields(source, rows, fields)
            items = [_item(kind, row, reference_field, response_field, options_field) for row in rows]
            verdicts = pool.grade_all(items)
            write(rows, verdicts)
            counts.update(verdict.verdict for verdict in verdicts)
    return dict(counts)


def _check_fields(source: Path, rows: list[dict[str, Any]], fields: list[str]) -> None:
    """What is wrong with one row is that row's fault; what is wrong with all of them is a wrong name."""
    present = sorted({name for row in rows for name in row})
    for field in fields:
        if field not in present:
            raise GradeFileError(f"{source}: there is no field {field!r}; it has {', '.join(present) or 'none'}")
    for field in fields[:2]:
        values = [row[field] for row in rows if row.get(field) not in (None, "")]
        if values and not any(map(_text, values)):
            kind = type(values[0]).__name__
            raise GradeFileError(f"{source}: field {field!r} holds a {kind}, not a text, a number or a list of one")


def _item(kind: AnswerKind, row: dict[str, Any], reference: str, response: str, options: str | None) -> Graded:
    choices = row.get(options) if options else None
    return Graded(
        kind=kind,
        reference=_text(row.get(reference)),
        response=_text(row.get(response)),
        options=tuple(str(choice) for choice in choices) if isinstance(choices, list) else (),
    )


def _text(value: Any) -> str:
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    return str(value) if isinstance(value, str | int | float | Decimal) and value == value else ""


def _batches(source: Path) -> Iterator[list[dict[str, Any]]]:
    """Rows of a file in batches."""
    if source.suffix == ".parquet":
        for batch in _parquet(source).iter_batches(BATCH_ROWS):
            yield batch.to_pylist()
        return
    if source.suffix not in JSON_LINES:
        raise GradeFileError(f"{source}: the name must end in {', '.join(JSON_LINES)} or .parquet")
    rows: list[dict[str, Any]] = []
    with source.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
            except (ValueError, RecursionError) as error:  # JSON and UTF-8 errors alike
                raise GradeFileError(f"{source}, line {number}: not JSON ({error})") from error
            if not isinstance(row, dict):
                raise GradeFileError(f"{source}, line {number}: a JSON object is needed, not {line[:40]!r}")
            rows.append(row)
            if len(rows) == BATCH_ROWS:
                yield rows
                rows = []
    if rows:
        yield rows


def _parquet(source: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(source)
    except pa.ArrowInvalid as error:
        raise GradeFileError(f"{source} is no Parquet file: {error}") from error


Write = Callable[[list[dict[str, Any]], Sequence[Verdict]], None]


@contextmanager
def _written(target: Path, source: Path) -> Iterator[Write]:
    """A function that appends graded rows to the target, which appears only once all of them are there."""
    if target.suffix != ".parquet" and target.suffix not in JSON_LINES:
        raise GradeFileError(f"{target}: the name must end in {', '.join(JSON_LINES)} or .parquet")
    temporary = target.with_name(f".{target.name}.part")
    try:
        if target.suffix == ".parquet":
            schema = _schema(source)
            with pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
                yield lambda rows, verdicts: writer.write_table(
                    pa.Table.from_pylist(_graded(rows, verdicts), schema=schema)
                )
        else:
            # Half of a surrogate pair, which UTF-8 has no bytes for, stays the escape that it was.
            with temporary.open("w", encoding="utf-8", errors="backslashreplace") as file:
                yield lambda rows, verdicts: file.writelines(
                    json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in _graded(rows, verdicts)
                )
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def _schema(source: Path) -> pa.Schema:
    """Of the graded rows: Parquet's own, or what holds every field of every line."""
    if source.suffix == ".parquet":
        schema = _parquet(source).schema_arrow
    else:
        schemas = [pa.schema([])]
        for rows in _batches(source):
            for name in dict.fromkeys(name for row in rows for name in row):
                try:
                    field = pa.field(name, pa.array([row.get(name) for row in rows]).type)
                    schemas = [pa.unify_schemas([*schemas, pa.schema([field])], promote_options="permissive")]
                except (pa.ArrowException, ValueError, OverflowError) as error:
                    raise GradeFileError(
                        f"{source}: the values of field {name!r} cannot be a column of Parquet ({error}); write .jsonl"
                    ) from error
        schema = schemas[0]
    kept = [field for field in schema if field.name not in ("extracted_answer", "verdict")]
    return pa.schema([*kept, pa.field("extracted_answer", pa.string()), pa.field("verdict", pa.string())])


def _graded(rows: list[dict[str, Any]], verdicts: Sequence[Verdict]) -> list[dict[str, Any]]:
    return [
        {**row, "extracted_answer": verdict.extracted_answer, "verdict": verdict.verdict}
        for row, verdict in zip(rows, verdicts, strict=True)
    ]
