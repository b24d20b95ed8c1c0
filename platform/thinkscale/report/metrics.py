"""From samples to the points of a scaling curve. Owns what accuracy, thinking tokens, Control, Scaling and Performance
mean over the samples table, and accuracy by domain and difficulty of the questions. Works on one part of the table
after the other, so that a million samples need little memory. Draws nothing."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from thinkscale.report.statistics import mean_interval

POINT = ["model", "benchmark", "max_thinking_tokens", "num_waits"]
QUESTION = [*POINT, "question_id"]
COLUMNS = [*QUESTION, "status", "verdict", "end", "thinking_tokens", "answer_tokens"]
"""The columns of `store.schemas.SAMPLES` that a tally reads."""

_COUNTS = ["samples", "correct", "unanswered", "ungradable", "capped", "within_cap"]
_SUMS = [*_COUNTS, "ok", "thinking_tokens", "answer_tokens"]
_COMPACT_ROWS = 1_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """One model on one benchmark under one budget."""

    model: str
    benchmark: str
    max_thinking_tokens: int | None
    num_waits: int
    questions: int
    samples: int
    accuracy: float  # mean over questions of the share of right samples, 0..1; failed and unanswered ones are not
    low: float
    high: float
    mean_thinking_tokens: float
    mean_answer_tokens: float
    correct: int
    failed: int
    unanswered: int  # without the failed ones
    ungradable: int
    capped: int  # samples whose thinking was cut at the cap
    within_cap: int  # samples whose thinking tokens do not exceed the cap

    @property
    def budget(self) -> str:
        """The budget in words, as `cap 512, 2 waits`."""
        return budget_label(self.max_thinking_tokens, self.num_waits)


@dataclass(frozen=True, kw_only=True, slots=True)
class CurveMetrics:
    """The paper's three numbers of a scaling curve (arXiv 2501.19393, section 3.2)."""

    model: str
    benchmark: str
    control: float  # share of samples whose thinking kept its cap, mean over budgets, in %
    scaling: float | None
    """Slope of the least-squares line, in points of accuracy per doubling of the thinking tokens used; None: there are
    no two budgets that differ in them. The paper takes the mean slope over all pairs of budgets, per token: two
    budgets that use almost the same tokens then outweigh all others, and short thinking gets huge slopes."""
    performance: float  # the best accuracy of any budget, in %
    performance_low: float
    performance_high: float  # the 95% interval of that budget; that it was picked for being best is not counted


def budget_label(max_thinking_tokens: int | None, num_waits: int) -> str:
    cap = "no cap" if max_thinking_tokens is None else f"cap {max_thinking_tokens:,}"
    return cap if not num_waits else f"{cap}, {num_waits} wait{'s' if num_waits > 1 else ''}"


def tally(samples: pa.Table | Iterable[pa.Table]) -> pa.Table:
    """One row per model, benchmark, budget and question with counts of its samples, sorted by these.
    `samples`: the samples table, or its parts one after the other."""
    tallies = [_sum(_indicators(pa.table({name: [] for name in COLUMNS})))]
    for part in [samples] if isinstance(samples, pa.Table) else samples:
        tallies.append(_sum(_indicators(part)))
        if sum(each.num_rows for each in tallies[1:]) > _COMPACT_ROWS:
            tallies = [_sum(pa.concat_tables(tallies))]
    order = [(name, "ascending") for name in QUESTION]
    return _sum(pa.concat_tables(tallies, promote_options="permissive")).sort_by(order)


def _indicators(part: pa.Table) -> pa.Table:
    ok = pc.equal(part["status"].cast(pa.string()), "ok")

    def count(mask: pa.ChunkedArray) -> pa.ChunkedArray:
        return pc.fill_null(pc.and_(ok, mask), False).cast(pa.int64())

    tokens, cap = part["thinking_tokens"].cast(pa.int64()), part["max_thinking_tokens"].cast(pa.int64())
    verdict = part["verdict"].cast(pa.string())
    columns = {
        **{name: part[name].cast(pa.string()) for name in ("model", "benchmark")},
        "max_thinking_tokens": cap,
        "num_waits": part["num_waits"].cast(pa.int64()),
        "question_id": part["question_id"].cast(pa.string()),
        "samples": pa.array(np.ones(part.num_rows, np.int64)),
        "ok": ok.cast(pa.int64()),
        **{name: count(pc.equal(verdict, name)) for name in ("correct", "unanswered", "ungradable")},
        "capped": count(pc.equal(part["end"].cast(pa.string()), "cap")),
        "within_cap": count(pc.or_kleene(pc.is_null(cap), pc.less_equal(tokens, cap))),
    }
    for name in ("thinking_tokens", "answer_tokens"):
        columns[name] = pc.fill_null(part[name].cast(pa.int64()), 0)
    return pa.table(columns)


def _sum(rows: pa.Table) -> pa.Table:
    grouped = rows.group_by(QUESTION).aggregate([(name, "sum") for name in _SUMS])
    return grouped.rename_columns([name.removesuffix("_sum") for name in grouped.column_names])


def points(tallied: pa.Table, *, seed: int = 0) -> list[Point]:
    """The points of all curves from a tally, by model, benchmark, cap and waits."""
    found = []
    for (model, benchmark, cap, waits), rows in by_point(tallied).items():
        total = {name: int(pc.sum(rows[name]).as_py()) for name in _SUMS}
        interval = mean_interval(list(question_accuracies(rows).values()), seed=seed)
        ok = max(total["ok"], 1)
        found.append(
            Point(
                model=model,
                benchmark=benchmark,
                max_thinking_tokens=cap,
                num_waits=waits,
                questions=rows.num_rows,
                accuracy=interval.mean,
                low=interval.low,
                high=interval.high,
                mean_thinking_tokens=total["thinking_tokens"] / ok,
                mean_answer_tokens=total["answer_tokens"] / ok,
                failed=total["samples"] - total["ok"],
                **{name: total[name] for name in _COUNTS},
            )
        )
    return found


NOTED_SHARE = 0.01  # of a point's samples; where more are neither right nor wrong, its accuracy says little


def unsettled(found: Iterable[Point]) -> list[str]:
    """A line for each curve with points of which more than NOTED_SHARE of the samples are unanswered or ungradable."""
    lines = []
    for (model, benchmark), curve in curves(found).items():
        for name in ("unanswered", "ungradable"):
            share, budget = max((getattr(p, name) / max(p.samples - p.failed, 1), p.budget) for p in curve)
            if share > NOTED_SHARE:
                lines.append(
                    f"{model} on {benchmark}: up to {share:.1%} of the samples ({budget}) are {name}, neither right "
                    "nor wrong, and count as not right; thinkscale audit shows what today's graders make of them."
                )
    return lines


PointKey = tuple[str, str, int | None, int]


def by_point(tallied: pa.Table) -> dict[PointKey, pa.Table]:
    """The rows of a tally by (model, benchmark, cap, waits), in that order, no cap last."""
    found, start = {}, 0
    for key, group in groupby(zip(*(tallied[name].to_pylist() for name in POINT), strict=True)):
        rows = sum(1 for _ in group)
        found[key], start = tallied.slice(start, rows), start + rows
    return found


def question_accuracies(rows: pa.Table) -> dict[str, float]:
    """Of a point's rows: by question the share of right samples."""
    shares = rows["correct"].to_numpy() / rows["samples"].to_numpy()
    return dict(zip(rows["question_id"].to_pylist(), shares.tolist(), strict=True))


def curve_metrics(curve: Sequence[Point]) -> CurveMetrics:
    ok = [point.samples - point.failed for point in curve]
    kept = [point.within_cap / total for point, total in zip(curve, ok, strict=True) if total]
    used = [point for point in curve if point.mean_thinking_tokens >= 1]
    doublings = np.log2([point.mean_thinking_tokens for point in used])
    accuracies = 100 * np.array([point.accuracy for point in used])
    differ = len(used) > 1 and np.ptp(doublings) > 0
    best = max(curve, key=lambda point: point.accuracy)
    return CurveMetrics(
        model=curve[0].model,
        benchmark=curve[0].benchmark,
        control=100 * sum(kept) / len(kept) if kept else 0.0,
        scaling=float(np.polyfit(doublings, accuracies, 1)[0]) if differ else None,
        performance=100 * best.accuracy,
        performance_low=100 * best.low,
        performance_high=100 * best.high,
    )


def curves(found: Iterable[Point]) -> dict[tuple[str, str], list[Point]]:
    """Points by (model, benchmark), each curve by thinking tokens used."""
    grouped: dict[tuple[str, str], list[Point]] = {}
    for point in found:
        grouped.setdefault((point.model, point.benchmark), []).append(point)
    return {key: sorted(curve, key=lambda p: (p.mean_thinking_tokens, p.num_waits)) for key, curve in grouped.items()}


def branches(curve: Iterable[Point]) -> tuple[list[Point], list[Point]]:
    """The caps of a curve, and from the largest of them on the numbers of Waits."""
    caps = sorted((p for p in curve if not p.num_waits), key=lambda p: p.mean_thinking_tokens)
    waits = sorted((p for p in curve if p.num_waits), key=lambda p: p.num_waits)
    return caps, [*caps[-1:], *waits]


def point_label(point: Point) -> str:
    """A budget as it stands at its point: the cap, or so many Waits more."""
    cap = "no cap" if point.max_thinking_tokens is None else f"{point.max_thinking_tokens:,}"
    return f"+{point.num_waits}" if point.num_waits else cap


DIFFICULTY_KEYS = ("level", "difficulty")  # keys of a question's metadata that say how hard it is
MOST_GROUPS = 60


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupAccuracy:
    """One model on the questions of one group, at the budget of its largest cap without waits."""

    benchmark: str
    by: str  # domain, or a key of the questions' metadata
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
    groups, found = _groups(questions), []
    # Points come by rising cap: the last one counts.
    largest = {key[:2]: rows for key, rows in by_point(tallied).items() if not key[3]}
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
                it = mean_interval(values[group], seed=seed)
                facts: dict[str, Any] = {"benchmark": benchmark, "by": by, "group": group, "model": model}
                facts |= {"accuracy": it.mean, "low": it.low, "high": it.high}
                found.append(GroupAccuracy(questions=len(values[group]), **facts))
    return found


def _groups(questions: pa.Table) -> dict[str, dict[str, str]]:
    groups: dict[str, dict[str, str]] = defaultdict(dict)
    for row in questions.select(["id", "domain", "metadata"]).to_pylist():
        if row["domain"]:
            groups["domain"][row["id"]] = row["domain"]
        for key, value in row["metadata"] or ():
            if key in DIFFICULTY_KEYS and value:
                groups[key][row["id"]] = value
    return groups
