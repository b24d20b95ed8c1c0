"""Parallel scaling from stored samples: majority vote over equivalent answers and pass@k.
Owns the formulas. Knows nothing of how an answer was graded: it sees, per sample, a key that equal answers share (None:
no answer) and whether the answer is right."""

from collections import Counter
from collections.abc import Callable, Sequence
from fractions import Fraction
from math import comb

Vote = tuple[str | None, bool]  # the answer's key and whether it is right


def pass_at_k(num_samples: int, num_correct: int, k: int) -> float:
    """Probability that k of the n samples, drawn without replacement, hold a right one.
    The unbiased estimator of Chen et al. 2021 (arXiv 2107.03374): 1 - C(n-c, k) / C(n, k), in exact integers. Raises
    ValueError where k is not in 1..n, or c not in 0..n."""
    if not 1 <= k <= num_samples or not 0 <= num_correct <= num_samples:
        raise ValueError(f"pass@{k} of {num_samples} samples, {num_correct} correct: needs 1 <= k <= n, 0 <= c <= n")
    return float(1 - Fraction(comb(num_samples - num_correct, k), comb(num_samples, k)))


def majority_at_k(votes: Sequence[Vote], k: int) -> float:
    """Expected accuracy of the majority vote of k samples drawn without replacement from n, exactly.
    Sums over all ways to draw k, ties broken uniformly. The subsets are never listed: a polynomial over (votes cast,
    samples drawn) gives, for each size m of the majority, the number of subsets in which a group has m votes and no
    group more; cost O(groups * k^3) integer operations. Raises ValueError where k is not in 1..n."""
    if not 1 <= k <= len(votes):
        raise ValueError(f"majority of {k} of {len(votes)} samples: needs 1 <= k <= n")
    counts = Counter(key for key, _ in votes if key is not None)
    right = {key for key, correct in votes if correct and key is not None}
    unanswered = len(votes) - counts.total()
    total = Fraction(0)
    for group in right:
        others = [count for key, count in counts.items() if key != group]
        for most in range(1, min(k, counts[group]) + 1):
            for (drawn, tied), ways in _draws(others, unanswered, k - most, most).items():
                if drawn == k - most:
                    total += Fraction(comb(counts[group], most) * ways, tied + 1)
    return float(total / comb(len(votes), k))


def _draws(groups: Sequence[int], unanswered: int, limit: int, most: int) -> dict[tuple[int, int], int]:
    """Ways to draw from groups, none more than `most` times, by (samples drawn, groups drawn `most` times)."""
    ways = {(drawn, 0): comb(unanswered, drawn) for drawn in range(min(unanswered, limit) + 1)}
    for size in groups:
        extended: Counter[tuple[int, int]] = Counter()
        for (drawn, tied), count in ways.items():
            for taken in range(min(size, most, limit - drawn) + 1):
                extended[drawn + taken, tied + (taken == most)] += count * comb(size, taken)
        ways = dict(extended)
    return ways


def group_equivalent(answers: Sequence[str | None], equal: Callable[[str, str], bool]) -> list[str | None]:
    """For each answer the first answer that it equals, so that `1/2` and `0.5` vote together; None stays None.
    `equal`: compares two different answers; each is compared with one of every group found so far."""
    groups: dict[str, str] = {}
    for answer in answers:
        if answer is not None and answer not in groups:
            groups[answer] = next((kept for kept in dict.fromkeys(groups.values()) if equal(kept, answer)), answer)
    return [None if answer is None else groups[answer] for answer in answers]
