"""Parallel scaling and accuracies by group, from samples tables."""

from __future__ import annotations

import pytest

from made_samples import made_questions, made_samples
from thinkscale.report.metrics import breakdown, points, tally
from thinkscale.report.parallel import Votes
from thinkscale.store.schemas import SAMPLES, table


def row(question: str, sample: int, answer: str | None, verdict: str) -> dict[str, object]:
    return {
        "sample_id": f"{question}/{sample}", "question_id": question, "model": "m", "benchmark": "b", "sample": sample,
        "max_thinking_tokens": 64, "num_waits": 0, "status": "ok", "thinking_tokens": 10, "verdict": verdict,
        "extracted_answer": answer,
    }  # fmt: skip


def test_votes_of_equal_answers_count_together() -> None:
    samples = table(
        [
            row("q1", 0, "1/2", "correct"), row("q1", 1, "0.5", "correct"), row("q1", 2, "3", "wrong"),
            row("q2", 0, "7", "wrong"), row("q2", 1, "7.0", "wrong"), row("q2", 2, "8", "correct"),
        ],
        SAMPLES,
    )  # fmt: skip
    parts, votes = [samples.slice(0, 4), samples.slice(4)], Votes()
    for part in parts:
        votes.add(part)
    (single, double, triple) = votes.points(points(tally(parts)))
    assert [p.k for p in (single, double, triple)] == [1, 2, 3]
    assert single.majority == pytest.approx(0.5)  # 2 of 3 right, 1 of 3 right
    assert triple.majority == pytest.approx(0.5)  # q1's majority is right, q2's is wrong
    assert double.pass_at_k == pytest.approx((1 + 2 / 3) / 2)
    assert triple.pass_at_k == 1
    assert triple.mean_thinking_tokens == 30


def test_one_sample_per_question_has_no_parallel_scaling() -> None:
    samples = made_samples(models={"base": 0.5})
    votes = Votes()
    votes.add(samples)
    assert votes.points(points(tally(samples))) == []


def test_one_sample_of_many_has_the_accuracy_of_the_point() -> None:
    samples = made_samples(models={"base": 0.5}, samples=4)
    votes, found = Votes(), points(tally(samples))
    votes.add(samples)
    rows = votes.points(found)
    assert [r.majority for r in rows if r.k == 1] == pytest.approx([p.accuracy for p in found])
    assert {r.k for r in rows} == {1, 2, 4}


def test_groups_are_those_of_the_questions_and_add_up() -> None:
    tallied = tally(made_samples(models={"base": 0.3, "tuned": 0.9}))
    rows = breakdown(tallied, made_questions())
    assert [(r.model, r.by, r.group, r.questions) for r in rows] == [
        ("base", "domain", "even", 20), ("base", "domain", "odd", 20),
        ("tuned", "domain", "even", 20), ("tuned", "domain", "odd", 20),
    ]  # fmt: skip
    whole = next(p for p in points(tallied) if (p.model, p.max_thinking_tokens, p.num_waits) == ("tuned", 256, 0))
    assert (rows[2].accuracy + rows[3].accuracy) / 2 == pytest.approx(whole.accuracy)
    assert breakdown(tallied, None) == []
