"""Grading stored samples again, and listing where two gradings disagree.
Owns the verdict columns of a samples table. Needs no model and no device: it works on what is stored."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from thinkscale.domain.question import Question
from thinkscale.domain.sample import Verdict
from thinkscale.grading.pool import GradingPool
from thinkscale.grading.verdict import Graded


@dataclass(frozen=True, kw_only=True, slots=True)
class Disagreement:
    """One sample on which two graders differ, with both readings."""

    sample_id: str
    model: str
    question_id: str
    answer: str
    first: Verdict
    second: Verdict


Grade = Callable[[Sequence[tuple[Question, str]]], Sequence[Verdict]]  # judges questions' responses, in their order


def by_rules(pool: GradingPool) -> Grade:
    return lambda items: pool.grade_all(graded(question, response) for question, response in items)


def graded(question: Question, response: str) -> Graded:
    """What the rule graders see of a response to a question."""
    return Graded(kind=question.kind, reference=question.answer, response=response, options=question.options)


def regrade(part: pa.Table, questions: Mapping[str, Question], grade: Grade) -> pa.Table:
    """The samples with other verdicts; failed samples keep theirs. `part`: samples (schema SAMPLES), or a part of them.
    `questions`: the benchmark's questions by id. Raises KeyError: a sample's question is not among them."""
    rows = part.select(["question_id", "status", "answer"]).to_pylist()
    answered = [index for index, row in enumerate(rows) if row["status"] == "ok"]
    items = [(questions[rows[index]["question_id"]], rows[index]["answer"] or "") for index in answered]
    verdicts = dict(zip(answered, grade(items), strict=True))
    return with_verdicts(part, [verdicts.get(index) for index in range(len(rows))])


def with_verdicts(part: pa.Table, verdicts: Sequence[Verdict | None]) -> pa.Table:
    """The samples with other verdicts; None keeps the one that is there."""
    for name in ("verdict", "extracted_answer", "grader"):
        kept = part[name].to_pylist()
        values = [old if new is None else getattr(new, name) for old, new in zip(kept, verdicts, strict=True)]
        position = part.schema.get_field_index(name)
        part = part.set_column(position, part.schema.field(name), pa.array(values, pa.string()))
    return part


def disagreements(first: pa.Table, second: pa.Table) -> list[Disagreement]:
    """Where two gradings of the same rows differ in their verdict.
    Raises ValueError: the tables do not hold the same samples in the same order."""
    key = ["model", "benchmark", "sample_id"]
    if not first.select(key).equals(second.select(key)):
        raise ValueError("two gradings can be compared only over the same samples in the same order")
    names = ["sample_id", "model", "question_id", "answer", "verdict", "extracted_answer", "grader"]
    pairs = zip(first.select(names).to_pylist(), second.select(names).to_pylist(), strict=True)
    return [
        Disagreement(
            sample_id=one["sample_id"],
            model=one["model"],
            question_id=one["question_id"],
            answer=one["answer"] or "",
            first=_verdict(one),
            second=_verdict(other),
        )
        for one, other in pairs
        if one["verdict"] != other["verdict"] and one["verdict"] is not None and other["verdict"] is not None
    ]


def _verdict(row: Mapping[str, str]) -> Verdict:
    name: Any = row["verdict"]  # the schema's string is one of the four names
    return Verdict(verdict=name, extracted_answer=row["extracted_answer"], grader=row["grader"] or "")
