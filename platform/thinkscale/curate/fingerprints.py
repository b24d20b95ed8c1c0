"""What a question is compared by, computed once a row, and many rows' of it in flat arrays.

Owns the fingerprint. Duplicates and leaks are decided on fingerprints of a whole pool at once: in flat arrays
a million rows take about a gigabyte, and the work is numpy's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from thinkscale.curate.ngrams import Hashes, hash_words, is_number, mask, mask_letters, numbers, shingles, tokens
from thinkscale.curate.normalise import canonical

SHINGLE_WORDS = 3
PERMUTATIONS = 64
BOILERPLATE_ROWS = 20
"""A shingle of so many questions says nothing about which question it is."""
FORMULA_TOKENS, FORMULA_NUMBERS = 6, 3
"""Numbers and operators, and numbers alone, from which equal formulas are no chance."""
COUNTED_AT_ONCE = 1 << 22

Signature = npt.NDArray[np.uint32]


@dataclass(frozen=True, kw_only=True)
class Fingerprint:
    """One question. Hashes are of 64 bits and the same in every process."""

    shingles: Hashes
    """Distinct runs of SHINGLE_WORDS tokens, numbers masked, sorted; odd where there is a number in it, else even."""
    numbered: Hashes
    """Those with a number in it, the number as it is and letters that stand alone (variables) masked."""
    text: int
    """Of the tokens in order."""
    bag: int
    """Of the tokens in any order."""
    numbers: int
    """Of the numbers in any order."""
    number_count: int
    formula: int
    """Of the numbers and operators in any order, 0 where they are too few to tell one formula from another."""
    answer: int
    """Of the reference answer."""
    minhash: Signature
    """MinHash signature of the shingles, shape [PERMUTATIONS]."""


def fingerprint(question: str, answer: str = "") -> Fingerprint:
    words = tokens(question)
    found = numbers(words)
    exact, masked = shingles(mask_letters(words), SHINGLE_WORDS), shingles(mask(words), SHINGLE_WORDS)
    formula = sorted(word for word in words if not word[0].isalpha())
    has_number = _runs_with_number(words, len(exact))
    marked = np.unique((masked & ~np.uint64(1)) | has_number.astype(np.uint64))
    return Fingerprint(
        shingles=marked,
        numbered=np.unique(exact[has_number]),
        text=hash_words(words),
        bag=hash_words(sorted(words)),
        numbers=hash_words(sorted(found)),
        number_count=len(found),
        formula=hash_words(formula) if len(formula) >= FORMULA_TOKENS and len(found) >= FORMULA_NUMBERS else 0,
        answer=hash_words([canonical(answer)]),
        minhash=_minhash(marked),
    )


def _runs_with_number(words: Sequence[str], count: int) -> npt.NDArray[np.bool_]:
    size = len(words) - count + 1
    before = np.cumsum([0, *(is_number(word) for word in words)])
    return before[size:] > before[: len(before) - size] if count else np.zeros(0, dtype=bool)


@dataclass(frozen=True)
class Ragged:
    """Hashes of many rows end to end: row i has flat[offsets[i]:offsets[i + 1]], sorted and distinct."""

    flat: Hashes
    offsets: npt.NDArray[np.int64]

    @classmethod
    def of(cls, rows: Sequence[Hashes]) -> Ragged:
        flat = np.concatenate(rows) if rows else np.empty(0, dtype=np.uint64)
        return cls(flat, np.cumsum([0, *(len(row) for row in rows)], dtype=np.int64))

    def row(self, row: int) -> Hashes:
        return self.flat[self.offsets[row] : self.offsets[row + 1]]

    def rows_of(self, places: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """The rows that hold these places of `flat`."""
        return np.searchsorted(self.offsets, places, side="right").astype(np.int64) - 1

    def matches(self, wanted: Hashes) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Places of `flat` whose hash is in `wanted` (sorted, distinct), and its index there."""
        places, indices = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.int64)]
        for start in range(0, len(self.flat) if len(wanted) else 0, COUNTED_AT_ONCE):
            block = self.flat[start : start + COUNTED_AT_ONCE]
            at = np.minimum(np.searchsorted(wanted, block), len(wanted) - 1)
            hit = np.nonzero(wanted[at] == block)[0]
            places.append(hit + start)
            indices.append(at[hit])
        return np.concatenate(places), np.concatenate(indices)

    def counts(self, wanted: Hashes) -> npt.NDArray[np.int64]:
        """In how many rows each of `wanted` (sorted, distinct) occurs."""
        return np.bincount(self.matches(wanted)[1], minlength=len(wanted)).astype(np.int64)


@dataclass(frozen=True, kw_only=True)
class Fingerprints:
    """Fingerprints of many questions, in order."""

    shingles: Ragged
    numbered: Ragged
    text: Hashes
    bag: Hashes
    numbers: Hashes
    number_count: npt.NDArray[np.int32]
    formula: Hashes
    answer: Hashes
    minhash: npt.NDArray[np.uint32]
    """Shape [rows, PERMUTATIONS]."""

    @classmethod
    def of(cls, rows: Sequence[Fingerprint]) -> Fingerprints:
        def hashes(name: str) -> Hashes:
            return np.array([getattr(row, name) for row in rows], dtype=np.uint64)

        return cls(
            shingles=Ragged.of([row.shingles for row in rows]),
            numbered=Ragged.of([row.numbered for row in rows]),
            text=hashes("text"),
            bag=hashes("bag"),
            numbers=hashes("numbers"),
            number_count=np.array([row.number_count for row in rows], dtype=np.int32),
            formula=hashes("formula"),
            answer=hashes("answer"),
            minhash=np.array([row.minhash for row in rows], dtype=np.uint32).reshape(len(rows), PERMUTATIONS),
        )

    def __len__(self) -> int:
        return len(self.text)


def rarity(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Weight of a shingle by the number of questions that have it.

    1 for one or two, falling with the logarithm to 0 at BOILERPLATE_ROWS.
    """
    ratio = np.maximum(counts, 1) / 2
    weights: npt.NDArray[np.float64] = np.clip(1.0 - np.log(ratio) / np.log(BOILERPLATE_ROWS / 2), 0.0, 1.0)
    return weights


def groups(*columns: npt.NDArray[np.generic]) -> list[npt.NDArray[np.int64]]:
    """Rows that agree in all columns, groups of two and more, each in ascending order."""
    order = np.lexsort(columns[::-1])
    differs = np.zeros(len(order), dtype=bool)
    for column in columns:
        ordered = column[order]
        differs[1:] |= ordered[1:] != ordered[:-1]
    edges = [0, *np.nonzero(differs)[0].tolist(), len(order)] if len(order) else []
    return [np.sort(order[a:b]) for a, b in pairwise(edges) if b - a > 1]


@lru_cache(maxsize=1)
def _permutations() -> tuple[Hashes, Hashes]:
    generator = np.random.default_rng(0)
    multipliers = generator.integers(1, 1 << 63, PERMUTATIONS, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    return multipliers, generator.integers(0, 1 << 63, PERMUTATIONS, dtype=np.uint64)


def _minhash(distinct: Hashes) -> Signature:
    if not len(distinct):
        return np.zeros(PERMUTATIONS, dtype=np.uint32)
    multipliers, offsets = _permutations()
    mixed = (distinct[:, None] * multipliers + offsets) >> np.uint64(32)
    signature: Signature = mixed.min(axis=0).astype(np.uint32)
    return signature
