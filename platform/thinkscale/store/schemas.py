"""The Parquet schemas, versioned in the files' metadata; additive columns are nullable."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import pyarrow as pa

from thinkscale.domain.question import Question

_STRINGS = pa.list_(pa.string())


def _schema(name: str, *fields: pa.Field) -> pa.Schema:
    """`name`: and version, as `questions/1`."""
    return pa.schema(list(fields), metadata={"thinkscale.schema": name})


def _required(name: str, type_: pa.DataType) -> pa.Field:
    return pa.field(name, type_, nullable=False)


_QUESTION_FIELDS = (
    _required("id", pa.string()),
    _required("question", pa.string()),
    _required("answer", pa.string()),
    _required("kind", pa.string()),
    _required("source", pa.string()),
    pa.field("locator", pa.string()),
    pa.field("domain", pa.string()),
    pa.field("solution", pa.string()),
    pa.field("options", _STRINGS),
    pa.field("licence", pa.string()),
    pa.field("metadata", pa.map_(pa.string(), pa.string())),
)

QUESTIONS = _schema("questions/1", *_QUESTION_FIELDS)

EMBEDDINGS = _schema("embeddings/1", _required("id", pa.string()), _required("embedding", pa.list_(pa.float32())))

DIFFICULTY = _schema(
    "difficulty/1",
    *_QUESTION_FIELDS,
    pa.field("attempts", pa.int32()),
    pa.field("pass_rate", pa.float32()),
    pa.field("trace_tokens", pa.int32()),  # of the pool's solution, else of the longest attempt
    pa.field("attempt_answers", _STRINGS),
)

DOMAINS = _schema("domains/1", *DIFFICULTY, pa.field("domain_by", pa.string()))  # who gave the domain

SELECTED = _schema(
    "selected/1",
    # As JSON: `datasets` reads no maps.
    *(pa.field("metadata", pa.string()) if field.name == "metadata" else field for field in DIFFICULTY),
    pa.field("selected_rank", pa.int32()),
    pa.field("selected_by", pa.string()),
)

TRACES = _schema(
    "traces/1",
    _required("question_id", pa.string()),
    _required("question", pa.string()),
    _required("thinking", pa.string()),
    _required("answer", pa.string()),
    _required("teacher", pa.string()),
    pa.field("domain", pa.string()),
    pa.field("source", pa.string()),
    pa.field("thinking_tokens", pa.int32()),
    pa.field("correct", pa.bool_()),
    pa.field("attempt", pa.int32()),  # which of the teacher's
    pa.field("attempts", pa.int32()),  # at the question, of all teachers, failed requests apart
    pa.field("pass_rate", pa.float32()),  # share of those that were correct
)

ATTEMPTS = _schema(
    "attempts/1",
    _required("question_id", pa.string()),
    _required("attempt", pa.int32()),
    _required("teacher", pa.string()),
    _required("status", pa.string()),  # domain.question.Status
    pa.field("words", pa.string()),  # what was wrong
    pa.field("thinking", pa.string()),
    pa.field("answer", pa.string()),
    pa.field("correct", pa.bool_()),
    pa.field("thinking_tokens", pa.int32()),  # in the base model's tokens
    pa.field("prompt_tokens", pa.int32()),
    pa.field("completion_tokens", pa.int32()),
    pa.field("usd", pa.float64()),  # what this campaign paid for it
)

S1K = _schema(
    "s1k/1",
    *(pa.field(name, pa.string()) for name in ("solution", "question", "cot_type", "source_type", "metadata", "cot")),
    pa.field("thinking_trajectories", _STRINGS),
    pa.field("attempt", pa.string()),
)

SAMPLES = _schema(
    "samples/1",
    _required("sample_id", pa.string()),  # question_id/sample/cap/waits
    _required("question_id", pa.string()),
    _required("model", pa.string()),
    _required("benchmark", pa.string()),
    _required("sample", pa.int32()),
    pa.field("max_thinking_tokens", pa.int32()),  # null: no cap
    _required("num_waits", pa.int32()),
    _required("status", pa.string()),  # ok, or failed with error set
    pa.field("error", pa.string()),
    pa.field("end", pa.string()),
    pa.field("waits_used", pa.int32()),
    pa.field("prompt_tokens", pa.int32()),
    pa.field("thinking_tokens", pa.int32()),
    pa.field("forced_tokens", pa.int32()),
    pa.field("answer_tokens", pa.int32()),
    pa.field("thinking", pa.string()),
    pa.field("answer", pa.string()),
    pa.field("forced_spans", pa.list_(pa.int32())),  # start, stop, start, stop, ...: characters of `thinking`
    pa.field("thinking_ids", pa.list_(pa.int32())),
    pa.field("answer_ids", pa.list_(pa.int32())),
    pa.field("verdict", pa.string()),
    pa.field("extracted_answer", pa.string()),
    pa.field("grader", pa.string()),
)

VERDICTS = _schema(
    "verdicts/1",
    _required("sample_id", pa.string()),
    *(SAMPLES.field(name) for name in ("verdict", "extracted_answer", "grader")),
)

DROPPED = _schema(
    "dropped/1",
    pa.field("id", pa.string()),
    _required("stage", pa.string()),
    _required("reason", pa.string()),
    pa.field("detail", pa.string()),  # the evidence: file and line, overlap, similar row
    pa.field("row", pa.string()),  # the row as JSON, so that nothing is lost
)


def table(rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
    """Rows as a table of exactly this schema; a key that the schema lacks is an error of the caller."""
    names = set(schema.names)
    for row in rows:
        if unknown := row.keys() - names:
            raise KeyError(f"columns {sorted(unknown)} are not in schema {schema.metadata}")
    return pa.Table.from_pylist([dict(row) for row in rows], schema=schema)


def questions_table(questions: Iterable[Question]) -> pa.Table:
    return table([question_row(question) for question in questions], QUESTIONS)


def question_row(question: Question) -> dict[str, Any]:
    return asdict(question) | {"options": list(question.options), "metadata": list(question.metadata.items())}


def dropped_row(
    stage: str,
    id_: str | None,
    reason: str,
    detail: Mapping[str, Any],
    row: Question | Mapping[str, Any] | str | None = None,
) -> dict[str, Any]:
    """A row of DROPPED. `row`: what is dropped; a text is kept as it is."""
    content = question_row(row) if isinstance(row, Question) else row
    is_text = content is None or isinstance(content, str)
    return {
        "id": id_,
        "stage": stage,
        "reason": reason,
        "detail": json.dumps(detail, ensure_ascii=False),
        "row": content if is_text else json.dumps(content, ensure_ascii=False, default=str),
    }


def questions(rows: pa.Table) -> list[Question]:
    """The questions of any table that has the columns of QUESTIONS."""
    found = rows.select(QUESTIONS.names).to_pylist()
    for row in found:
        options, metadata = tuple(row["options"] or ()), dict(row["metadata"] or ())
        row |= {"locator": row["locator"] or "", "options": options, "metadata": metadata}
    return [Question(**row) for row in found]
