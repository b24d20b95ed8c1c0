"""Which samples make an optimizer step, and how they are packed into rows, balanced across ranks.
Owns the order of an epoch, the assignment of samples to ranks and rows, and a row's arrays. Packing changes neither a
batch's composition nor any token's weight. Knows no model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from thinkscale.learn.masking import Sample

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """Samples laid end to end. T input tokens, S segments, M positions with a loss."""

    ids: Ints  # (T,)
    positions: Ints  # (T,), from 0 in every segment
    bounds: Ints  # (S + 1,): where the segments begin, and T
    loss_positions: Ints  # (M,): indices into T of the positions whose next token is in the loss
    targets: Ints  # (M,): those next tokens

    def slice(self, index: int, of: int) -> Row:
        """One of `of` equal slices of the tokens; the bounds stay those of the whole row.
        Raises ValueError where the tokens are not a multiple of `of`."""
        tokens = len(self.ids)
        if tokens % of:
            raise ValueError(f"a row of {tokens} tokens has no {of} equal slices")
        start, stop = tokens // of * index, tokens // of * (index + 1)
        own = (self.loss_positions >= start) & (self.loss_positions < stop)
        return Row(
            ids=self.ids[start:stop],
            positions=self.positions[start:stop],
            bounds=self.bounds,
            loss_positions=self.loss_positions[own] - start,
            targets=self.targets[own],
        )


def batches(count: int, batch_sequences: int, *, epoch: int, seed: int) -> list[list[int]]:
    """Sample indices of each optimizer step of an epoch, shuffled; the last step may be smaller."""
    order = np.random.default_rng([seed, epoch]).permutation(count).tolist()
    return [order[i : i + batch_sequences] for i in range(0, count, batch_sequences)]


def pack(costs: Sequence[float], lengths: Sequence[int], *, ranks: int, pack_tokens: int) -> list[list[list[int]]]:
    """Rows for every rank: `rows[rank][micro_step]` lists positions in `lengths`. Every rank gets the same number of
    rows (ranks work in lock-step, one row at a time), as few as fit `pack_tokens`; samples go, the costliest first, to
    the row that has least to do. A sample longer than `pack_tokens` has a row of its own. A row may be empty when there
    are fewer samples than ranks. `costs`: what each sample costs to compute, in any unit (`loop.model_flops`)."""
    micro_steps = max(1, math.ceil(sum(min(n, pack_tokens) for n in lengths) / (pack_tokens * ranks)))
    while (rows := _fill(costs, lengths, micro_steps * ranks, pack_tokens)) is None:
        micro_steps += 1
    # Rows of like cost run at the same time, so that no rank waits for another's long row.
    rows.sort(key=lambda row: -sum(costs[i] for i in row))
    return [[rows[step * ranks + rank] for step in range(micro_steps)] for rank in range(ranks)]


def _fill(costs: Sequence[float], lengths: Sequence[int], count: int, pack_tokens: int) -> list[list[int]] | None:
    """Longest-processing-time assignment to `count` rows, None where a sample fits none of them."""
    rows: list[list[int]] = [[] for _ in range(count)]
    cost, tokens = [0.0] * count, [0] * count
    for i in sorted(range(len(lengths)), key=lambda i: -costs[i]):
        fitting = [row for row in range(count) if not tokens[row] or tokens[row] + lengths[i] <= pack_tokens]
        if not fitting:
            return None
        least = min(fitting, key=lambda row: (cost[row], tokens[row]))
        rows[least].append(i)
        cost[least] += costs[i]
        tokens[least] += lengths[i]
    return rows


def row(samples: Sequence[Sample], *, multiple_of: int = 1) -> Row:
    """The arrays of one row, padded at the end, as a segment of its own, to a multiple of `multiple_of`.
    An empty row is one token without loss: its rank still takes part in the collectives."""
    inputs = [sample.ids[:-1] for sample in samples]
    tokens = sum(len(ids) for ids in inputs)
    padding = -tokens % multiple_of if inputs else multiple_of
    if padding:
        inputs.append(np.zeros(padding, dtype=np.int32))
    bounds = np.cumsum([0, *(len(ids) for ids in inputs)])
    return Row(
        ids=np.concatenate(inputs).astype(np.int64),
        positions=np.concatenate([np.arange(len(ids)) for ids in inputs]),
        bounds=bounds,
        loss_positions=_concatenate(
            [np.arange(s.loss_from - 1, s.input_tokens) + start for s, start in zip(samples, bounds, strict=False)]
        ),
        targets=_concatenate([sample.ids[sample.loss_from :] for sample in samples]),
    )


def _concatenate(parts: Sequence[npt.NDArray[np.integer]]) -> Ints:
    return np.concatenate(parts).astype(np.int64) if parts else np.zeros(0, dtype=np.int64)
