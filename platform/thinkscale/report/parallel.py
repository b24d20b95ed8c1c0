"""Parallel scaling: what majority vote and pass@k make of several samples of each question.
Owns the reading of votes from stored samples. The formulas are `grading.voting`'s."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from thinkscale.grading.equivalence import plainly_equal
from thinkscale.grading.voting import Vote, group_equivalent, majority_at_k, pass_at_k
from thinkscale.report.metrics import QUESTION, Point
from thinkscale.report.statistics import mean_interval

COLUMNS = [*QUESTION, "verdict", "extracted_answer"]  # the columns of `store.schemas.SAMPLES` that votes are read from


@dataclass(frozen=True, kw_only=True, slots=True)
class ParallelPoint:
    model: str
    benchmark: str
    budget: str
    k: int
    questions: int
    majority: float  # expected accuracy of the majority vote of k samples, equivalent answers voting together
    low: float
    high: float
    pass_at_k: float
    mean_thinking_tokens: float  # of the k samples together


class Votes:
    def __init__(self) -> None:
        self._parts: list[pa.Table] = []

    def add(self, part: pa.Table) -> None:
        columns = {
            name: part[name].cast(pa.string()).dictionary_encode()
            for name in ("model", "benchmark", "question_id", "extracted_answer")
        }
        columns["max_thinking_tokens"] = pc.fill_null(part["max_thinking_tokens"].cast(pa.int64()), -1)
        columns["num_waits"] = part["num_waits"].cast(pa.int64())
        columns["correct"] = pc.fill_null(pc.equal(part["verdict"].cast(pa.string()), "correct"), False)
        self._parts.append(pa.table(columns))

    def points(self, found: Iterable[Point], *, seed: int = 0) -> list[ParallelPoint]:
        """For each point with several samples per question, k = 1, 2, 4, ... and all of them.
        Questions that have fewer samples than the others of their budget are left out."""
        several = [point for point in found if point.samples > point.questions]
        if not several:
            return []
        votes = pa.concat_tables(self._parts, promote_options="default").unify_dictionaries()
        return [row for point in several for row in _points(votes, point, seed)]


def _points(votes: pa.Table, point: Point, seed: int) -> Iterator[ParallelPoint]:
    cap = -1 if point.max_thinking_tokens is None else point.max_thinking_tokens
    cell = (pc.field("max_thinking_tokens") == cap) & (pc.field("num_waits") == point.num_waits)
    of_model = (pc.field("model") == point.model) & (pc.field("benchmark") == point.benchmark)
    rows = votes.filter(cell & of_model).select(["question_id", "extracted_answer", "correct"]).to_pydict()
    by_question = defaultdict(list)
    for question, answer, right in zip(*rows.values(), strict=True):
        by_question[question].append((answer, right))
    most = max(map(len, by_question.values()))
    questions = [question_votes(by_question[name]) for name in sorted(by_question) if len(by_question[name]) == most]
    for k in doublings(most):
        majority = mean_interval([majority_at_k(group, k) for group in questions], seed=seed)
        yield ParallelPoint(
            model=point.model,
            benchmark=point.benchmark,
            budget=point.budget,
            k=k,
            questions=len(questions),
            majority=majority.mean,
            low=majority.low,
            high=majority.high,
            pass_at_k=float(np.mean([pass_at_k(most, sum(right for _, right in group), k) for group in questions])),
            mean_thinking_tokens=k * point.mean_thinking_tokens,
        )


def doublings(most: int) -> list[int]:
    """1, 2, 4, ... and `most` itself."""
    return sorted({2**power for power in range(most.bit_length())} | {most})


def question_votes(samples: list[tuple[str | None, bool]]) -> list[Vote]:
    """Votes of one question: right answers vote together, wrong ones where they are plainly equal."""
    wrong = group_equivalent(
        [None if right else answer for answer, right in samples], lambda one, other: bool(plainly_equal(one, other))
    )
    return [("\0right", True) if right else (key, False) for (_, right), key in zip(samples, wrong, strict=True)]
