"""Accuracy by domain and by difficulty of the questions.

Owns the grouping. Knows a tally and the benchmarks' questions, nothing of samples.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import pyarrow as pa

from thinkscale.report.metrics import cells, question_accuracies
from thinkscale.report.statistics import mean_interval

DIFFICULTY_KEYS = ("level", "difficulty")
"""Keys of a question's metadata that say how hard it is."""
MOST_GROUPS = 60


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupAccuracy:
    """One model on the questions of one group, at the budget of its largest cap without waits."""

    benchmark: str
    by: str
    """domain, or a key of the questions' metadata."""
    group: str
    model: str
    questions: int
    accuracy: float
    low: float
    high: float


def breakdown(tallied: pa.Table, questions: pa.Table | None, *, seed: int = 0) -> list[GroupAccuracy]:
    """Accuracy by domain and by difficulty, where the questions carry them and they differ."""
    if questions is None:
        return []
    groups = _groups(questions)
    found = []
    # Cells come by rising cap: the last one counts.
    largest = {(model, benchmark): rows for (model, benchmark, _, waits), rows in cells(tallied).items() if not waits}
    for (model, benchmark), rows in largest.items():
        accuracy = question_accuracies(rows)
        for by, group_of in groups.items():
            values: dict[str, list[float]] = defaultdict(list)
            for question, value in accuracy.items():
                if question in group_of:
                    values[group_of[question]].append(value)
            if not 1 < len(values) <= MOST_GROUPS:
                continue
            for group in sorted(values):
                interval = mean_interval(values[group], seed=seed)
                found.append(
                    GroupAccuracy(
                        benchmark=benchmark,
                        by=by,
                        group=group,
                        model=model,
                        questions=len(values[group]),
                        accuracy=interval.mean,
                        low=interval.low,
                        high=interval.high,
                    )
                )
    return found


def _groups(questions: pa.Table) -> dict[str, dict[str, str]]:
    """Group of each question by its id, for each way of grouping."""
    groups: dict[str, dict[str, str]] = defaultdict(dict)
    for row in questions.select(["id", "domain", "metadata"]).to_pylist():
        if row["domain"]:
            groups["domain"][row["id"]] = row["domain"]
        for key, value in row["metadata"] or ():
            if key in DIFFICULTY_KEYS and value:
                groups[key][row["id"]] = value
    return groups
