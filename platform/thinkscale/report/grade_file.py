"""Grading any file of references and responses: JSONL or Parquet in, the same with verdicts out.

Owns the file formats. Knows nothing of how an answer is judged, and nothing of campaigns.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from thinkscale.domain.question import AnswerKind
from thinkscale.domain.sample import Verdict
from thinkscale.thinking.grading import Graded, GradingPool

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
        GradeFileError: the format is not known, a line is not a JSON object, or a field is missing.
    """
    counts: Counter[str] = Counter()
    with GradingPool(processes=processes or os.cpu_count() or 1) as pool, _written(target) as write:
        for first_row, rows in _batches(source):
            items = [
                _item(kind, row, f"{source}, row {first_row + index}", reference_field, response_field, options_field)
                for index, row in enumerate(rows)
            ]
            verdicts = pool.grade_all(items)
            write(rows, verdicts)
            counts.update(verdict.verdict for verdict in verdicts)
    return dict(counts)


def _item(
    kind: AnswerKind, row: dict[str, Any], where: str, reference: str, response: str, options: str | None
) -> Graded:
    for field in (reference, response, *([options] if options else [])):
        if field not in row:
            raise GradeFileError(f"{where}: there is no field {field!r}; it has {', '.join(sorted(row)) or 'none'}")
    choices = row[options] if options else None
    return Graded(
        kind=kind,
        reference=_text(row[reference], where, reference),
        response=_text(row[response], where, response),
        options=tuple(str(choice) for choice in choices or ()),
    )


def _text(value: Any, where: str, field: str) -> str:
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, list) and len(value) == 1:
        return _text(value[0], where, field)
    raise GradeFileError(f"{where}: field {field!r} holds a {type(value).__name__}, it must be a text or a number")


def _batches(source: Path) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """Rows of a file in batches, with the number of each batch's first row, from 1."""
    if source.suffix == ".parquet":
        first = 1
        for batch in pq.ParquetFile(source).iter_batches(BATCH_ROWS):
            yield first, batch.to_pylist()
            first += batch.num_rows
        return
    if source.suffix not in JSON_LINES:
        raise GradeFileError(f"{source}: the name must end in {', '.join(JSON_LINES)} or .parquet")
    rows: list[dict[str, Any]] = []
    number = 0
    with source.open(encoding="utf-8") as file:
        for line_number, line in enumerate(file, 1):
            if not line.strip():
                continue
            number += 1
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise GradeFileError(f"{source}, line {line_number}: not JSON ({error})") from error
            if not isinstance(row, dict):
                raise GradeFileError(f"{source}, line {line_number}: a JSON object is needed, not {line[:40]!r}")
            rows.append(row)
            if len(rows) == BATCH_ROWS:
                yield number - len(rows) + 1, rows
                rows = []
    if rows:
        yield number - len(rows) + 1, rows


Write = Callable[[list[dict[str, Any]], Sequence[Verdict]], None]


@contextmanager
def _written(target: Path) -> Iterator[Write]:
    """A function that appends graded rows to the target, which appears only once all of them are there."""
    if target.suffix != ".parquet" and target.suffix not in JSON_LINES:
        raise GradeFileError(f"{target}: the name must end in {', '.join(JSON_LINES)} or .parquet")
    temporary = target.with_name(f".{target.name}.part")
    try:
        if target.suffix == ".parquet":
            with _ParquetRows(temporary) as parquet:
                yield parquet.write
        else:
            with temporary.open("w", encoding="utf-8") as file:
                yield lambda rows, verdicts: file.writelines(
                    json.dumps(row, ensure_ascii=False) + "\n" for row in _graded(rows, verdicts)
                )
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


class _ParquetRows:
    """A Parquet file that is written batch by batch; the first batch gives the schema."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writer: pq.ParquetWriter | None = None

    def __enter__(self) -> _ParquetRows:
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is None:
            self.write([], [])
        assert self._writer is not None
        self._writer.close()

    def write(self, rows: list[dict[str, Any]], verdicts: Sequence[Verdict]) -> None:
        graded = _graded(rows, verdicts)
        if self._writer is not None:
            table = pa.Table.from_pylist(graded, schema=self._writer.schema)
        else:
            table = pa.Table.from_pylist(graded)
            for name in ("extracted_answer", "verdict"):  # a first batch of nothing but nulls has no type
                values = [row[name] for row in graded]
                position = table.schema.get_field_index(name)
                column = pa.array(values, pa.string())
                table = table.set_column(position, name, column) if position >= 0 else table.append_column(name, column)
            self._writer = pq.ParquetWriter(self._path, table.schema, compression="zstd")
        self._writer.write_table(table)


def _graded(rows: list[dict[str, Any]], verdicts: Sequence[Verdict]) -> list[dict[str, Any]]:
    return [
        {**row, "extracted_answer": verdict.extracted_answer, "verdict": verdict.verdict}
        for row, verdict in zip(rows, verdicts, strict=True)
    ]
