"""Grading stored samples again and finding where graders disagree."""

from __future__ import annotations

import pytest

from made_samples import made_questions, made_samples
from thinkscale.domain.sample import Verdict
from thinkscale.grading.pool import GradingPool
from thinkscale.report.regrade import by_rules, disagreements, regrade, with_verdicts
from thinkscale.store.schemas import SAMPLES, questions


def test_regrading_gives_the_graders_verdicts_and_keeps_the_rest() -> None:
    samples = made_samples(models={"base": 0.5}, failures=1)
    by_id = {question.id: question for question in questions(made_questions())}
    with GradingPool() as pool:
        again = regrade(samples, by_id, by_rules(pool))
    assert again.schema == SAMPLES
    assert again.equals(samples)
    assert disagreements(samples, again) == []


def test_disagreements_carry_both_readings() -> None:
    samples = made_samples(models={"base": 0.5}, questions=2)
    other = Verdict(verdict="ungradable", extracted_answer="maybe 7", grader="judge/1:m")
    judged = with_verdicts(samples, [other if index == 3 else None for index in range(samples.num_rows)])
    (found,) = disagreements(samples, judged)
    row = samples.slice(3, 1).to_pylist()[0]
    assert found.sample_id == row["sample_id"]
    assert (found.first.verdict, found.first.grader) == (row["verdict"], "integer/3")
    assert found.second == other


def test_other_rows_are_refused() -> None:
    samples = made_samples(models={"base": 0.5}, questions=2)
    with pytest.raises(ValueError, match="same samples"):
        disagreements(samples, samples.slice(1))
