"""Intervals and tests against closed forms and simulated coverage."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import beta, binomtest

from thinkscale.report.statistics import Interval, difference_interval, gate, mcnemar, mean_interval


@pytest.mark.parametrize(("right", "questions"), [(12, 30), (3, 30), (250, 500), (1, 8)])
def test_the_interval_of_single_samples_is_jeffreys(right: int, questions: int) -> None:
    interval = mean_interval([1.0] * right + [0.0] * (questions - right), draws=200_000)
    low, high = beta.ppf([0.025, 0.975], right + 0.5, questions - right + 0.5)
    assert interval.mean == right / questions
    assert (interval.low, interval.high) == (pytest.approx(low, abs=2e-3), pytest.approx(high, abs=2e-3))


def test_all_right_is_not_certain() -> None:
    interval = mean_interval([1.0] * 30)
    assert interval.high == 1
    assert 0.88 < interval.low < 0.95
    assert mean_interval([0.0] * 30).low == 0


def test_with_many_questions_the_interval_is_the_normal_one_of_question_means() -> None:
    values = np.random.default_rng(3).beta(0.5, 0.5, 20_000)
    interval = mean_interval(values)
    assert (interval.high - interval.low) / 2 == pytest.approx(1.96 * values.std() / np.sqrt(len(values)), rel=0.03)


def test_same_seed_same_interval() -> None:
    assert mean_interval([1, 0, 1, 1, 0], seed=5) == mean_interval([1, 0, 1, 1, 0], seed=5)
    assert mean_interval([1, 0, 1, 1, 0], seed=5) != mean_interval([1, 0, 1, 1, 0], seed=6)


def test_no_question_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one question"):
        mean_interval([])
    with pytest.raises(ValueError, match="must be the same"):
        difference_interval([1, 0], [1])


@pytest.mark.parametrize(
    ("questions", "samples", "accuracy"), [(60, 1, 0.2), (60, 1, 0.7), (120, 8, 0.4), (300, 4, 0.85)]
)
def test_the_interval_covers_the_truth_at_its_level_with_clustered_samples(
    questions: int, samples: int, accuracy: float
) -> None:
    rng = np.random.default_rng(questions + samples)
    covered, runs = 0, 1500
    for run in range(runs):
        chance = rng.beta(accuracy * 1.5, (1 - accuracy) * 1.5, questions)
        interval = mean_interval(rng.binomial(samples, chance) / samples, seed=run, draws=800)
        covered += interval.low <= accuracy <= interval.high
    assert 0.93 <= covered / runs <= 0.97


@pytest.mark.parametrize(("questions", "gain", "loss"), [(100, 0.2, 0.1), (100, 0.1, 0.1), (400, 0.05, 0.02)])
def test_the_paired_interval_covers_the_true_difference(questions: int, gain: float, loss: float) -> None:
    rng = np.random.default_rng(questions)
    covered, runs = 0, 1500
    for run in range(runs):
        change = rng.choice([1.0, -1.0, 0.0], p=[gain, loss, 1 - gain - loss], size=questions)
        interval = difference_interval(np.zeros(questions), change, seed=run, draws=800)
        covered += interval.low <= gain - loss <= interval.high
    assert 0.93 <= covered / runs <= 0.97


def test_mcnemar_is_the_binomial_test_of_the_discordant_pairs() -> None:
    before = [1] * 10 + [0] * 2 + [1] * 8
    after = [1] * 10 + [1] * 2 + [0] * 8
    # Two of ten discordant pairs: 2 * (C(10,0) + C(10,1) + C(10,2)) / 2^10.
    assert mcnemar(before, after) == pytest.approx(2 * (1 + 10 + 45) / 1024)
    assert mcnemar(after, before) == mcnemar(before, after)
    assert mcnemar([0] * 31 + [1] * 50, [1] * 31 + [0] * 50) == pytest.approx(binomtest(31, 81).pvalue)
    assert mcnemar([1, 0, 1], [1, 0, 1]) == 1


def test_the_gate_opens_only_beyond_chance() -> None:
    assert gate(Interval(mean=0.1, low=0.01, high=0.2)) == "better"
    assert gate(Interval(mean=-0.1, low=-0.2, high=-0.01)) == "worse"
    assert gate(Interval(mean=0.1, low=-0.01, high=0.2)) == "inconclusive"
    assert gate(difference_interval([1, 0, 1, 0] * 10, [1, 0, 1, 0] * 10)) == "inconclusive"
    assert gate(difference_interval([0] * 40, [1] * 20 + [0] * 20)) == "better"
    assert difference_interval([0] * 40, [1] * 40).high == 1
