"""Points and the paper's curve metrics from samples tables."""

from __future__ import annotations

import pyarrow as pa
import pytest

from made_samples import CELLS, made_samples
from thinkscale.report.comparison import Comparison, compare_tallies
from thinkscale.report.metrics import COLUMNS, Point, curve_metrics, curves, points, tally
from thinkscale.store.schemas import SAMPLES, table


def row(
    question: str, verdict: str | None, *, cap: int | None = 64, tokens: int = 10, **changes: object
) -> dict[str, object]:
    return {
        "sample_id": f"{question}/0/{cap}/0",
        "question_id": question,
        "model": "base",
        "benchmark": "b",
        "sample": 0,
        "max_thinking_tokens": cap,
        "num_waits": 0,
        "status": "ok",
        "end": "natural",
        "thinking_tokens": tokens,
        "verdict": verdict,
        **changes,
    }


def test_a_point_counts_what_failed_and_what_was_not_answered() -> None:
    samples = table(
        [
            row("q1", "correct", tokens=10),
            row("q2", "wrong", tokens=20, end="cap"),
            row("q3", "unanswered", tokens=80),
            row("q4", None, status="failed", error="out of memory", thinking_tokens=None, end=None),
            row("q5", "ungradable", tokens=10),
        ],
        SAMPLES,
    )
    (point,) = points(tally(samples))
    assert (point.samples, point.questions, point.correct) == (5, 5, 1)
    assert (point.failed, point.unanswered, point.ungradable, point.capped) == (1, 1, 1, 1)
    assert point.accuracy == pytest.approx(1 / 5)
    assert point.mean_thinking_tokens == pytest.approx(30)  # of the samples that did not fail
    assert point.low < point.accuracy < point.high
    assert curve_metrics([point]).control == pytest.approx(75)


def test_questions_weigh_the_same_whatever_their_number_of_samples() -> None:
    samples = table(
        [row("q1", "correct"), *(row("q2", "wrong", sample=i, sample_id=f"q2/{i}/64/0") for i in range(3))], SAMPLES
    )
    assert points(tally(samples))[0].accuracy == 0.5


def test_parts_give_what_the_whole_table_gives() -> None:
    samples = made_samples(models={"base": 0.4, "tuned": 0.8}, samples=3, failures=2)
    parts = (samples.slice(start, 97) for start in range(0, samples.num_rows, 97))
    assert points(tally(parts)) == points(tally(samples))
    assert len(points(tally(samples))) == 2 * len(CELLS)


def test_a_run_without_samples_has_no_points() -> None:
    assert points(tally([])) == []
    assert points(tally(SAMPLES.empty_table())) == []


def test_no_cap_is_a_budget_of_its_own() -> None:
    found = points(tally(table([row("q1", "correct", cap=None, tokens=900), row("q1", "wrong", cap=64)], SAMPLES)))
    assert [point.budget for point in found] == ["cap 64", "no cap"]
    assert curve_metrics(found).control == 100


def point(tokens: float, accuracy: float, within: int = 10) -> Point:
    return Point(
        model="m", benchmark="b", max_thinking_tokens=1, num_waits=0, questions=10, samples=10, accuracy=accuracy,
        low=0, high=1, mean_thinking_tokens=tokens, mean_answer_tokens=0, correct=0, failed=0, unanswered=0,
        ungradable=0, capped=0, within_cap=within,
    )  # fmt: skip


def test_curve_metrics_are_the_papers_with_scaling_per_doubling() -> None:
    metrics = curve_metrics([point(1000, 0.1, 10), point(2000, 0.3, 10), point(4000, 0.4, 4)])
    assert metrics.scaling == pytest.approx(15)  # 30 points over two doublings, the middle one on no side of a line
    assert metrics.control == pytest.approx(80)
    assert metrics.performance == pytest.approx(40)
    assert (metrics.performance_low, metrics.performance_high) == (0, 100)
    assert curve_metrics([point(1000, 0.1, 10)]).scaling is None
    assert curve_metrics([point(0, 0.1), point(0.4, 0.3), point(8, 0.3)]).scaling is None
    # Two budgets that use almost the same tokens do not make a slope of their own.
    near = curve_metrics([point(1000, 0.1), point(4000, 0.3), point(4001, 0.25)])
    assert near.scaling == pytest.approx(8.75, abs=0.1)


def test_the_published_points_of_budget_forcing_give_the_published_control_and_performance() -> None:
    # AIME24, arXiv 2501.19393: figure 4's caps; its table 3 says Control 100, Scaling positive, Performance 56.7. The
    # tokens of the points with Waits, on which the size of Scaling rests, are not given.
    curve = [point(1000, 0.133), point(2000, 0.30), point(4000, 0.433), point(5300, 0.50), point(7000, 0.567)]
    metrics = curve_metrics(curve)
    assert metrics.control == 100
    assert metrics.performance == pytest.approx(56.7)
    assert metrics.scaling is not None
    assert metrics.scaling > 0


def test_curves_run_along_the_tokens_used() -> None:
    found = curves(points(tally(made_samples(models={"base": 0.5}))))
    (curve,) = found.values()
    assert [(p.max_thinking_tokens, p.num_waits) for p in curve] == CELLS


def compare(first: pa.Table, second: pa.Table) -> list[Comparison]:
    return compare_tallies(tally(first), tally(second))


def test_compare_finds_the_better_run() -> None:
    base, tuned = made_samples(models={"base": 0.2}), made_samples(models={"tuned": 0.9})
    rows = compare(base, tuned)
    assert [r.budget for r in rows][-1] == "all budgets"
    overall = rows[-1]
    assert overall.gate == "better"
    assert overall.low > 0
    assert overall.difference == pytest.approx(overall.accuracy_b - overall.accuracy_a)
    assert overall.questions == 40
    assert [r.gate for r in compare(tuned, base)][-1] == "worse"
    assert {r.gate for r in compare(base, base)} == {"inconclusive"}


def test_compare_pairs_only_shared_questions() -> None:
    base = made_samples(models={"base": 0.2}, questions=10)
    tuned = made_samples(models={"tuned": 0.9}, questions=14)
    assert {(r.questions, r.unpaired) for r in compare(base, tuned)[:-1]} == {(10, 4)}


def test_compare_refuses_what_cannot_be_paired() -> None:
    both = made_samples(models={"base": 0.2, "tuned": 0.9})
    with pytest.raises(ValueError, match="several models"):
        compare(both, both)
    assert compare(made_samples(models={"base": 0.2}), made_samples(models={"base": 0.2}, benchmark="other")) == []


def test_schema_columns_are_enough_for_a_tally() -> None:
    samples: pa.Table = made_samples(models={"base": 0.5})
    assert tally(samples.select(COLUMNS)).equals(tally(samples))
