"""Uncertainty of accuracies and of their differences, clustered by question.
Owns intervals, tests and the gate. Knows nothing of samples: it sees one value per question, the mean over that
question's samples, so that samples of one question are never taken for independent ones."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.special import bdtr

Values = npt.NDArray[np.float64]
Gate = Literal["better", "worse", "inconclusive"]

LEVEL = 0.95
DRAWS = 10_000
MOST_LEVELS = 2_000  # from so many different values on they are rounded to thousandths, to bound memory


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """A mean and the interval that holds the true one with probability LEVEL."""

    mean: float
    low: float
    high: float


def mean_interval(values: Values | Sequence[float], *, seed: int = 0, draws: int = DRAWS) -> Interval:
    """Mean accuracy over questions, each value in 0..1, with its interval. A Bayesian bootstrap over questions (Rubin
    1981) with half a pseudo-question at 0 and half at 1. For single right-or-wrong samples it is exactly Jeffreys'
    interval, so that 30 right answers out of 30 do not look certain, where the plain bootstrap's interval has no width
    and near 0 or 1 covers far less than 95%. Raises ValueError where there is no value."""
    return _bayesian_bootstrap(np.asarray(values, dtype=np.float64), (0.0, 1.0), seed, draws)


def difference_interval(
    before: Values | Sequence[float], after: Values | Sequence[float], *, seed: int = 0, draws: int = DRAWS
) -> Interval:
    """Mean of after - before over the same questions, with its interval: the paired bootstrap.
    Half a pseudo-question at each of -1, 0 and 1 stands for what few questions cannot show. Raises ValueError where
    there is no value, or the two differ in length."""
    first, second = np.asarray(before, dtype=np.float64), np.asarray(after, dtype=np.float64)
    if first.shape != second.shape:
        raise ValueError(f"a paired comparison of {len(first)} and {len(second)} questions: they must be the same")
    return _bayesian_bootstrap(second - first, (-1.0, 0.0, 1.0), seed, draws)


def _bayesian_bootstrap(values: Values, pseudo: Sequence[float], seed: int, draws: int) -> Interval:
    if not len(values):
        raise ValueError("an interval needs at least one question")
    # Dirichlet weights of questions with the same value add up to one gamma draw, so that the cost depends on
    # how many values differ (samples per question + 1), not on how many questions there are.
    digits = 12 if len(np.unique(values)) <= MOST_LEVELS else 3
    levels, counts = np.unique(np.round(np.concatenate([values, pseudo]), digits), return_counts=True)
    shapes = counts.astype(np.float64)
    for value in pseudo:
        shapes[np.searchsorted(levels, value)] -= 0.5
    weights = np.random.default_rng(seed).standard_gamma(shapes, size=(draws, len(levels)))
    means = weights @ levels / weights.sum(axis=1)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    mean = float(values.mean())  # at an end of the scale it is beyond every draw
    return Interval(mean=mean, low=min(float(low), mean), high=max(float(high), mean))


def gate(difference: Interval) -> Gate:
    """better or worse where the interval of the difference excludes 0."""
    return "better" if difference.low > 0 else "worse" if difference.high < 0 else "inconclusive"


def mcnemar(before: Values | Sequence[float], after: Values | Sequence[float]) -> float:
    """Two-sided p-value of the exact McNemar test over the same questions; 1 where no question differs.
    With several samples per question it is the exact sign test on the questions whose rates differ, of which McNemar's
    is the case of one sample."""
    difference = np.asarray(after, dtype=np.float64) - np.asarray(before, dtype=np.float64)
    better, worse = int((difference > 1e-12).sum()), int((difference < -1e-12).sum())
    return min(1.0, 2 * float(bdtr(min(better, worse), better + worse, 0.5)))
