"""The Parquet schemas, versioned in the files' metadata; additive columns are nullable."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import pyarrow as pa

from thinkscale.domain.question import Question

TEXT, TEXTS, INT, INTS = pa.string(), pa.list_(pa.string()), pa.int32(), pa.list_(pa.int32())


def _schema(name: str, *fields: pa.Field) -> pa.Schema:
    """`name`: and version, as `questions/1`."""
    return pa.schema(list(fields), metadata={"thinkscale.schema": name})


def _of(kind: pa.DataType, *names: str) -> list[pa.Field]:
    """Fields of one type; a name with `!` is never null."""
    return [pa.field(name.rstrip("!"), kind, nullable=not name.endswith("!")) for name in names]


_QUESTION_FIELDS = (
    *_of(TEXT, "id!", "question!", "answer!", "kind!", "source!", "locator", "domain", "solution"),
    *_of(TEXTS, "options"),
    *_of(TEXT, "licence"),
    *_of(pa.map_(pa.string(), pa.string()), "metadata"),
)

QUESTIONS = _schema("questions/1", *_QUESTION_FIELDS)

EMBEDDINGS = _schema("embeddings/1", *_of(TEXT, "id!"), *_of(pa.list_(pa.float32()), "embedding!"))

DIFFICULTY = _schema(
    "difficulty/1",
    *_QUESTION_FIELDS,
    *_of(INT, "attempts"),
    *_of(pa.float32(), "pass_rate"),
    *_of(INT, "trace_tokens"),  # of the pool's solution, else of the longest attempt
    *_of(TEXTS, "attempt_answers"),
)

DOMAINS = _schema("domains/1", *DIFFICULTY, *_of(TEXT, "domain_by"))  # who gave the domain

SELECTED = _schema(
    "selected/1",
    # As JSON: `datasets` reads no maps.
    *(pa.field("metadata", TEXT) if field.name == "metadata" else field for field in DIFFICULTY),
    *_of(INT, "selected_rank"),
    *_of(TEXT, "selected_by"),
)

_LOOKS_BACK = (*_of(TEXT, "made_of"), *_of(INT, "unlearned_characters"))  # domain.question.Attempt

TRACES = _schema(
    "traces/1",
    *_of(TEXT, "question_id!", "question!", "thinking!", "answer!", "teacher!", "domain", "source"),
    *_of(INT, "thinking_tokens"),
    *_of(pa.bool_(), "correct"),
    *_of(INT, "attempt", "attempts"),  # which of the teacher's; at the question, of all teachers, failed requests apart
    *_of(pa.float32(), "pass_rate"),  # share of those that were correct
    *_LOOKS_BACK,
)

ATTEMPTS = _schema(
    "attempts/1",
    *_of(TEXT, "question_id!"),
    *_of(INT, "attempt!"),
    *_of(TEXT, "teacher!", "status!", "words", "thinking", "answer"),  # domain.question.Status; what was wrong
    *_of(pa.bool_(), "correct"),
    *_of(INT, "thinking_tokens", "prompt_tokens", "completion_tokens"),  # the first in the base model's tokens
    *_of(pa.float64(), "usd"),  # what this campaign paid for it
    *_LOOKS_BACK,
)

S1K = _schema(
    "s1k/1",
    *_of(TEXT, "solution", "question", "cot_type", "source_type", "metadata", "cot"),
    *_of(TEXTS, "thinking_trajectories"),
    *_of(TEXT, "attempt"),
)

SAMPLES = _schema(
    "samples/1",
    *_of(TEXT, "sample_id!", "question_id!", "model!", "benchmark!"),  # sample_id: question_id/sample/cap/waits
    *_of(INT, "sample!", "max_thinking_tokens", "num_waits!"),  # no cap: null
    *_of(TEXT, "status!", "error", "end"),  # ok, or failed with error set
    *_of(INT, "waits_used", "prompt_tokens", "thinking_tokens", "forced_tokens", "answer_tokens"),
    *_of(TEXT, "thinking", "answer"),
    *_of(INTS, "forced_spans", "thinking_ids", "answer_ids"),  # spans: start, stop, ... in characters of `thinking`
    *_of(TEXT, "verdict", "extracted_answer", "grader"),
)

VERDICTS = _schema(
    "verdicts/1", *_of(TEXT, "sample_id!"), *map(SAMPLES.field, ("verdict", "extracted_answer", "grader"))
)

# `detail`: the evidence, as file and line, overlap, similar row. `row`: as JSON, so that nothing is lost.
DROPPED = _schema("dropped/1", *_of(TEXT, "id", "stage!", "reason!", "detail", "row"))


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


Content = Question | Mapping[str, Any] | str | None


def dropped_row(
    stage: str, id_: str | None, reason: str, detail: Mapping[str, Any], row: Content = None
) -> dict[str, Any]:
    """A row of DROPPED. `row`: what is dropped; a text is kept as it is."""
    content = question_row(row) if isinstance(row, Question) else row
    if content is not None and not isinstance(content, str):
        content = json.dumps(content, ensure_ascii=False, default=str)
    told = json.dumps(detail, ensure_ascii=False)
    return {"id": id_, "stage": stage, "reason": reason, "detail": told, "row": content}


def questions(rows: pa.Table) -> list[Question]:
    """The questions of any table that has the columns of QUESTIONS."""
    found = rows.select(QUESTIONS.names).to_pylist()
    for row in found:
        options, metadata = tuple(row["options"] or ()), dict(row["metadata"] or ())
        row |= {"locator": row["locator"] or "", "options": options, "metadata": metadata}
    return [Question(**row) for row in found]
