"""Majority vote and pass@k against brute force over all subsets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thinkscale.grading.voting import Vote, group_equivalent, majority_at_k, pass_at_k


@given(st.integers(1, 9).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n))))
def test_pass_at_k_is_the_share_of_subsets_with_a_right_sample(case: tuple[int, int, int]) -> None:
    n, right, k = case
    subsets = list(combinations([index < right for index in range(n)], k))
    assert pass_at_k(n, right, k) == pytest.approx(sum(any(subset) for subset in subsets) / len(subsets))


def test_pass_at_k_stays_exact_for_many_samples() -> None:
    assert pass_at_k(10_000, 1, 10_000) == 1.0
    assert pass_at_k(10_000, 1, 64) == pytest.approx(64 / 10_000)


@pytest.mark.parametrize(("n", "right", "k"), [(4, 5, 1), (4, 2, 0), (4, 2, 5)])
def test_pass_at_k_refuses_impossible_numbers(n: int, right: int, k: int) -> None:
    with pytest.raises(ValueError, match=f"pass@{k} of {n}"):
        pass_at_k(n, right, k)


def test_ties_share_the_vote() -> None:
    assert majority_at_k([("a", True), ("b", False)], 2) == 0.5
    assert majority_at_k([("a", True), ("b", False), ("c", False), (None, False)], 4) == pytest.approx(1 / 3)
    assert majority_at_k([("a", True), ("b", False), ("b", False)], 3) == 0
    assert majority_at_k([(None, False), (None, False), ("a", True)], 3) == 1
    assert majority_at_k([(None, False)], 1) == 0


def vote(keys: Sequence[str | None], right: set[str | None]) -> float:
    """The accuracy of one vote as it would be counted by hand."""
    counts = Counter(key for key in keys if key is not None)
    leaders = [key for key, count in counts.items() if count == max(counts.values())]
    return sum(key in right for key in leaders) / len(leaders) if leaders else 0.0


votes = st.lists(
    st.sampled_from([("a", True), ("b", False), ("c", False), ("d", True), (None, False)]), min_size=1, max_size=8
)


@settings(max_examples=60)
@given(votes, st.data())
def test_majority_at_k_is_the_mean_over_all_subsets(votes: list[Vote], data: st.DataObject) -> None:
    k = data.draw(st.integers(1, len(votes)))
    subsets = list(combinations(votes, k))
    right = {key for key, correct in votes if correct}
    expected = sum(vote([key for key, _ in subset], right) for subset in subsets) / len(subsets)
    assert majority_at_k(votes, k) == pytest.approx(expected)


def test_majority_of_many_samples_takes_no_listing_of_subsets() -> None:
    votes: list[Vote] = [("a", True)] * 20 + [("b", False)] * 24 + [(str(i), False) for i in range(20)]
    assert majority_at_k(votes, 64) == 0
    assert majority_at_k(votes, 1) == pytest.approx(20 / 64)
    assert 0 < majority_at_k(votes, 16) < 0.5


def test_equivalent_answers_vote_together() -> None:
    values = {"1/2": 0.5, "0.5": 0.5, "2": 2.0}
    keys = group_equivalent(["1/2", None, "2", "0.5", "1/2"], lambda left, right: values[left] == values[right])
    assert keys == ["1/2", None, "2", "1/2", "1/2"]
