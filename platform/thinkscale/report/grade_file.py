"""Grading any file of references and responses: JSONL, JSON, CSV or Parquet in, the same rows with verdicts out.
Owns the file formats. Knows nothing of how an answer is judged, and nothing of campaigns."""

import io
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from thinkscale.domain.question import AnswerKind
from thinkscale.domain.sample import Verdict
from thinkscale.grading.pool import GradingPool
from thinkscale.grading.verdict import Graded
from thinkscale.grading.voting import Vote, majority_at_k, pass_at_k
from thinkscale.report.parallel import doublings, question_votes
from thinkscale.report.statistics import Interval, mean_interval
from thinkscale.store.formats import Unreadable, file_parts, raw_rows
from thinkscale.store.ingest import reference_text
from thinkscale.store.locations import IngestError, Location
from thinkscale.store.options import read_options

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
    force: bool = False,
    votes: list[list[Vote]] | None = None,
) -> dict[str, int]:
    """Grade every row of a file and write it with `extracted_answer` and `verdict` added (or replaced).
    A row without a response, or with one that is no text, number or list of these, is unanswered; one without such a
    reference is ungradable. Of a row with a list of several responses both fields are lists. `source`: any file that a
    pool can be read from (`store.locations.FORMATS`), compressed or not. `target`: written whole at the end; its suffix
    says which format, independent of the source's. `options_field`: the field with the options of choice questions, in
    any form of `store.options`. `votes`: gains the votes of each row's responses. Returns the number of responses by
    verdict. Raises GradeFileError where the target exists, the format is not known, a line is not a JSON object, a
    field is in none of the first rows, or values of a field have no common type for Parquet."""
    if target.exists() and not force:
        raise GradeFileError(f"{target} exists: give another name, or --force to overwrite it")
    counts: Counter[str] = Counter()
    fields = [field for field in (reference_field, response_field, options_field) if field]
    with (
        GradingPool(processes=processes or os.cpu_count() or 1) as pool,
        _written(target, source, response_field) as write,
    ):
        for number, rows in enumerate(_batches(source)):
            if number == 0:
                _check_fields(source, rows, fields)
            items = [_items(kind, row, reference_field, response_field, options_field) for row in rows]
            verdicts = iter(pool.grade_all(item for group in items for item in group))
            grouped = [list(islice(verdicts, len(group))) for group in items]
            write(rows, grouped)
            for group in grouped:
                counts.update(verdict.verdict for verdict in group)
                if votes is not None:
                    votes.append(question_votes([(v.extracted_answer, v.verdict == "correct") for v in group]))
    return dict(counts)


def accuracy_lines(votes: Sequence[Sequence[Vote]]) -> list[str]:
    """Accuracy with its interval over rows; where rows have several responses, majority vote and pass@k too."""
    told = {name: f"{each.mean:.1%} ({each.low:.1%} to {each.high:.1%})" for name, each in accuracies(votes).items()}
    lines = [f"accuracy: {told['accuracy'].replace('(', '(95%: ')}"] if told else []
    lines += [
        f"maj@{k}: {text}  pass@{k}: {told[f'pass@{k}']}"
        for kind, _, k, text in ((*name.partition("@"), text) for name, text in told.items())
        if kind == "maj"
    ]
    most = max(map(len, votes), default=0)
    if (whole := sum(len(row) == most for row in votes)) < len(votes) and most > 1:
        lines.append(f"maj@k and pass@k are of the {whole:,} rows with {most} responses")
    return lines


def accuracies(votes: Sequence[Sequence[Vote]]) -> dict[str, Interval]:
    """The same as intervals by name; maj@k and pass@k are of the rows with the most responses."""
    if not votes:
        return {}
    found = {"accuracy": mean_interval([sum(right for _, right in row) / len(row) for row in votes])}
    most = max(map(len, votes))
    whole = [row for row in votes if len(row) == most]
    for k in doublings(most)[1:]:
        found[f"maj@{k}"] = mean_interval([majority_at_k(row, k) for row in whole])
        found[f"pass@{k}"] = mean_interval([pass_at_k(most, sum(right for _, right in row), k) for row in whole])
    return found


def _check_fields(source: Path, rows: list[dict[str, Any]], fields: list[str]) -> None:
    """What is wrong with one row is that row's fault; what is wrong with all of them is a wrong name."""
    present = sorted({name for row in rows for name in row})
    for field in fields:
        if field not in present:
            raise GradeFileError(f"{source}: there is no field {field!r}; it has {', '.join(present) or 'none'}")
    for field in fields[:2]:
        values = [row[field] for row in rows if row.get(field) not in (None, "")]
        each = [one for value in values for one in (value if isinstance(value, list) else [value])]
        if values and not any(map(_text, each)):
            kind = type(values[0]).__name__
            raise GradeFileError(f"{source}: field {field!r} holds a {kind}, not a text, a number or a list of one")


def _items(kind: AnswerKind, row: dict[str, Any], reference: str, response: str, options: str | None) -> list[Graded]:
    said, right = row.get(response), row.get(reference)
    try:
        right = reference_text(right) if isinstance(right, list) else _text(right)
        choices = read_options(row.get(options)).texts if options else ()
    except ValueError:
        choices, right = (), ""  # ungradable
    responses = said if isinstance(said, list) and said else [said]
    return [Graded(kind=kind, reference=right, response=_text(each), options=choices) for each in responses]


def _text(value: Any) -> str:
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    return str(value) if isinstance(value, str | int | float | Decimal) and value == value else ""


def _batches(source: Path) -> Iterator[list[dict[str, Any]]]:
    location = Location(str(source))
    try:
        rows = _lines(location) if location.format() == "jsonl" else _others(location)
        while batch := list(islice(rows, BATCH_ROWS)):
            yield batch
    except IngestError as error:
        raise GradeFileError(str(error)) from error
    except OSError as error:
        raise GradeFileError(f"{source} cannot be read: {error}") from error


def _lines(location: Location) -> Iterator[dict[str, Any]]:
    """Lines of JSON; unlike a pool's, halves of surrogate pairs may stand in them."""
    with location.open_stream() as stream:
        for number, line in enumerate(io.BufferedReader(stream), 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
            except (ValueError, RecursionError) as error:  # JSON and UTF-8 errors alike
                raise GradeFileError(f"{location.url}, line {number}: not JSON ({error})") from error
            if not isinstance(row, dict):
                raise GradeFileError(f"{location.url}, line {number}: a JSON object is needed, not {line[:40]!r}")
            yield row


def _others(location: Location) -> Iterator[dict[str, Any]]:
    for part in file_parts(location, BATCH_ROWS):
        for _, row in raw_rows(part):
            if isinstance(row, Unreadable):
                raise GradeFileError(f"{row.locator}: {row.error}")
            yield dict(row)


Write = Callable[[list[dict[str, Any]], Sequence[Sequence[Verdict]]], None]


@contextmanager
def _written(target: Path, source: Path, response_field: str) -> Iterator[Write]:
    if target.suffix != ".parquet" and target.suffix not in JSON_LINES:
        raise GradeFileError(f"{target}: the name must end in {', '.join(JSON_LINES)} or .parquet")
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.part")
    try:
        if target.suffix == ".parquet":
            schema = _schema(source, response_field)
            lists = schema.field("verdict").type != pa.string()
            with pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
                yield lambda rows, verdicts: writer.write_table(
                    pa.Table.from_pylist(_graded(rows, verdicts, lists=lists), schema=schema)
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


def _schema(source: Path, response_field: str) -> pa.Schema:
    if Location(str(source)).format() == "parquet":
        try:
            schema = pq.read_schema(source)
        except pa.ArrowInvalid as error:
            raise GradeFileError(f"{source} is no Parquet file: {error}") from error
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
    several = any(field.name == response_field and pa.types.is_list(field.type) for field in kept)
    kind = pa.list_(pa.string()) if several else pa.string()
    return pa.schema([*kept, pa.field("extracted_answer", kind), pa.field("verdict", kind)])


def _graded(
    rows: list[dict[str, Any]], verdicts: Sequence[Sequence[Verdict]], *, lists: bool = False
) -> list[dict[str, Any]]:
    graded = [dict(row) for row in rows]
    for row, group in zip(graded, verdicts, strict=True):
        for name in ("extracted_answer", "verdict"):
            values = [getattr(verdict, name) for verdict in group]
            row[name] = values if lists or len(values) > 1 else values[0]
    return graded
