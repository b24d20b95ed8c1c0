"""Batches and their packing: composition, balance, and a row's arrays."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thinkscale.learn.masking import Sample
from thinkscale.learn.packing import batches, pack, row


def sample(length: int, loss_from: int, name: str = "q", first: int = 100) -> Sample:
    return Sample(question_id=name, ids=np.arange(first, first + length, dtype=np.int32), loss_from=loss_from)


def test_every_epoch_holds_every_sample_once_in_another_seeded_order() -> None:
    epochs = [batches(10, 4, epoch=epoch, seed=3) for epoch in (0, 1)]
    assert [[len(batch) for batch in epoch] for epoch in epochs] == [[4, 4, 2]] * 2
    assert all(sorted(i for batch in epoch for i in batch) == list(range(10)) for epoch in epochs)
    assert epochs[0] != epochs[1]
    assert epochs[0] == batches(10, 4, epoch=0, seed=3)
    assert epochs[0] != batches(10, 4, epoch=0, seed=4)


@settings(deadline=None)
@given(
    lengths=st.lists(st.integers(1, 50), min_size=1, max_size=24),
    ranks=st.integers(1, 4),
    pack_tokens=st.integers(10, 80),
)
def test_packing_places_every_sample_once_within_the_limit_and_gives_every_rank_as_many_rows(
    lengths: list[int], ranks: int, pack_tokens: int
) -> None:
    rows = pack([float(n) for n in lengths], lengths, ranks=ranks, pack_tokens=pack_tokens)
    assert len({len(of_rank) for of_rank in rows}) == 1
    flat = [r for of_rank in rows for r in of_rank]
    assert sorted(i for chosen in flat for i in chosen) == list(range(len(lengths)))
    for chosen in flat:
        assert sum(lengths[i] for i in chosen) <= pack_tokens or len(chosen) == 1


def test_ranks_get_like_costs() -> None:
    lengths = [900, 100, 120, 80, 500, 400, 300, 200]
    rows = pack([float(n) for n in lengths], lengths, ranks=2, pack_tokens=2000)
    assert [sorted(sum(lengths[i] for i in r) for r in of_rank) for of_rank in rows] == [[1300], [1300]]


def test_a_sample_longer_than_a_row_has_one_of_its_own() -> None:
    rows = pack([500.0, 10.0, 10.0], [500, 10, 10], ranks=1, pack_tokens=100)
    assert sorted(map(sorted, rows[0])) == [[0], [1, 2]]


def test_fewer_samples_than_ranks_leave_empty_rows_that_still_compute() -> None:
    rows = pack([5.0], [5], ranks=2, pack_tokens=100)
    assert sorted(rows) == [[[]], [[0]]]
    empty = row([])
    assert (len(empty.ids), len(empty.targets), empty.bounds.tolist()) == (1, 0, [0, 1])


def test_a_row_by_hand() -> None:
    packed = row([sample(4, 2, first=10), sample(3, 1, first=20)])
    assert packed.ids.tolist() == [10, 11, 12, 20, 21]
    assert packed.positions.tolist() == [0, 1, 2, 0, 1]
    assert packed.bounds.tolist() == [0, 3, 5]
    assert packed.loss_positions.tolist() == [1, 2, 3, 4]
    assert packed.targets.tolist() == [12, 13, 21, 22]


@pytest.mark.parametrize("multiple", [4, 8])
def test_padding_is_a_segment_of_its_own_without_loss(multiple: int) -> None:
    bare, padded = row([sample(6, 2)]), row([sample(6, 2)], multiple_of=multiple)
    assert len(padded.ids) % multiple == 0
    assert padded.bounds.tolist() == [0, 5, len(padded.ids)]
    assert padded.targets.tolist() == bare.targets.tolist()


def test_slices_hold_a_rows_tokens_and_losses_once() -> None:
    packed = row([sample(4, 2, first=10), sample(4, 1, first=20)])
    slices = [packed.slice(i, 3) for i in range(3)]
    assert [part.ids.tolist() for part in slices] == [[10, 11], [12, 20], [21, 22]]
    assert [part.positions.tolist() for part in slices] == [[0, 1], [2, 0], [1, 2]]
    assert [part.loss_positions.tolist() for part in slices] == [[1], [0, 1], [0, 1]]
    assert [part.targets.tolist() for part in slices] == [[12], [13, 21], [22, 23]]
    assert all(part.bounds.tolist() == [0, 3, 6] for part in slices)
    with pytest.raises(ValueError, match="6 tokens has no 4 equal slices"):
        packed.slice(0, 4)
