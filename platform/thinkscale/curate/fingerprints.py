"""What a question is compared by, computed once a row, and many rows' of it in flat arrays.
Owns the fingerprint. Duplicates and leaks are decided over a whole pool, whose fingerprints come in blocks: who decides
holds one block and the rows that may matter, never the pool."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from thinkscale.curate.normalise import (
    Hashes,
    canonical,
    hash_words,
    is_number,
    mask,
    mask_letters,
    numbers,
    shingles,
    tokens,
)

SHINGLE_WORDS = 3
PERMUTATIONS = 64
BOILERPLATE_ROWS = 20  # a shingle of so many questions says nothing about which question it is
SKELETON_TOKENS = 6

Signature = npt.NDArray[np.uint32]


Lists = TypeVar("Lists")
Numbers = TypeVar("Numbers")


@dataclass(frozen=True, kw_only=True)
class Facts(Generic[Lists, Numbers]):
    """Of one question, or of many in columns. Hashes are of 64 bits and the same in every process."""

    shingles: Lists  # distinct runs of SHINGLE_WORDS tokens, numbers masked, sorted; odd where one holds a number
    numbered: Lists  # those with a number in it, the number as it is and letters that stand alone (variables) masked
    text: Numbers  # of the tokens in order
    bag: Numbers  # of the tokens in any order
    numbers: Numbers  # of the numbers in any order
    number_count: Numbers
    skeleton: Numbers  # of the tokens in order, numbers masked; 0 where they are too few to tell questions apart
    answer: Numbers  # of the reference answer
    merit: Numbers  # of a cluster of duplicates the greatest is kept: one with a solution before a longer one
    minhash: Signature  # MinHash signature of the shingles, shape [PERMUTATIONS], of many [rows, PERMUTATIONS]


COLUMN_TYPES = {"number_count": np.int64, "merit": np.int64}
COLUMNS = [field.name for field in fields(Facts) if field.type == "Numbers"]


class Fingerprint(Facts[Hashes, int]):
    """One question."""


def fingerprint(question: str, answer: str = "", *, solved: bool = False) -> Fingerprint:
    """`solved`: the row has a worked solution."""
    words = tokens(question)
    found = numbers(words)
    exact, masked = shingles(mask_letters(words), SHINGLE_WORDS), shingles(mask(words), SHINGLE_WORDS)
    size = len(words) - len(exact) + 1
    before = np.cumsum([0, *(is_number(word) for word in words)])
    has_number = before[size:] > before[: len(before) - size] if len(exact) else np.zeros(0, dtype=bool)
    marked = np.unique((masked & ~np.uint64(1)) | has_number.astype(np.uint64))
    return Fingerprint(
        shingles=marked,
        numbered=np.unique(exact[has_number]),
        text=hash_words(words),
        bag=hash_words(sorted(words)),
        numbers=hash_words(sorted(found)),
        number_count=len(found),
        skeleton=hash_words(mask(words)) if len(words) >= SKELETON_TOKENS else 0,
        answer=hash_words([canonical(answer)]),
        merit=(solved << 32) + len(question),
        minhash=_minhash(marked),
    )


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

    def matches(self, wanted: Hashes) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Rows that have a hash of `wanted` (sorted, distinct), and its index there, a pair for each."""
        if not len(wanted) or not len(self.flat):
            return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
        at = np.minimum(np.searchsorted(wanted, self.flat), len(wanted) - 1)
        hit = np.nonzero(wanted[at] == self.flat)[0]
        return np.searchsorted(self.offsets, hit, side="right") - 1, at[hit]

    def counts(self, wanted: Hashes) -> npt.NDArray[np.int64]:
        """In how many rows each of `wanted` (sorted, distinct) occurs."""
        return np.bincount(self.matches(wanted)[1], minlength=len(wanted)).astype(np.int64)


class Fingerprints(Facts[Ragged, npt.NDArray[Any]]):
    """Many questions, in order."""

    @classmethod
    def of(cls, rows: Sequence[Fingerprint]) -> Fingerprints:
        def column(name: str) -> npt.NDArray[np.generic]:
            return np.array([getattr(row, name) for row in rows], dtype=COLUMN_TYPES.get(name, np.uint64))

        return cls(
            shingles=Ragged.of([row.shingles for row in rows]),
            numbered=Ragged.of([row.numbered for row in rows]),
            minhash=np.array([row.minhash for row in rows], dtype=np.uint32).reshape(len(rows), PERMUTATIONS),
            **{name: column(name) for name in COLUMNS},
        )

    def __len__(self) -> int:
        return len(self.text)

    def __getitem__(self, row: int) -> Fingerprint:
        copied: dict[str, Any] = {name: getattr(self, name).row(row).copy() for name in ("shingles", "numbered")}
        copied |= {name: int(getattr(self, name)[row]) for name in COLUMNS}
        return Fingerprint(minhash=self.minhash[row].copy(), **copied)

    def blocks(self) -> Iterator[tuple[int, Fingerprints]]:
        yield 0, self


class Pool(Protocol):
    """Fingerprints of a pool that may be too many to hold at once."""

    def blocks(self) -> Iterator[tuple[int, Fingerprints]]: ...


def take(pool: Pool, rows: Sequence[int]) -> Fingerprints:
    """Fingerprints of a few rows, whose places are sorted and distinct."""
    picked: list[Fingerprint] = []
    for first, block in pool.blocks() if rows else ():
        within = rows[bisect_left(rows, first) : bisect_left(rows, first + len(block))]
        picked += [block[row - first] for row in within]
    return Fingerprints.of(picked)


def rarity(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Weight of a shingle by the number of questions that have it.
    1 for one or two, falling with the logarithm to 0 at BOILERPLATE_ROWS."""
    ratio = np.maximum(counts, 1) / 2
    weights: npt.NDArray[np.float64] = np.clip(1.0 - np.log(ratio) / np.log(BOILERPLATE_ROWS / 2), 0.0, 1.0)
    return weights


def jaccard(a: Hashes, b: Hashes) -> float:
    """Similarity of two sets of distinct hashes; 0 where both are empty."""
    return len(np.intersect1d(a, b, assume_unique=True)) / max(len(np.union1d(a, b)), 1)


def groups(*columns: npt.NDArray[np.generic]) -> list[npt.NDArray[np.int64]]:
    """Rows that agree in all columns, groups of two and more, each in ascending order."""
    order = np.lexsort(columns[::-1])
    differs = np.any([column[order[1:]] != column[order[:-1]] for column in columns], axis=0)
    edges = np.nonzero(np.concatenate([[True], differs, [True]]))[0]
    several = np.nonzero(np.diff(edges) > 1)[0]
    return [np.sort(order[a:b]) for a, b in zip(edges[several].tolist(), edges[several + 1].tolist(), strict=True)]


_GENERATOR = np.random.default_rng(0)
_MULTIPLIERS = _GENERATOR.integers(1, 1 << 63, PERMUTATIONS, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
_OFFSETS = _GENERATOR.integers(0, 1 << 63, PERMUTATIONS, dtype=np.uint64)


def _minhash(distinct: Hashes) -> Signature:
    if not len(distinct):
        return np.zeros(PERMUTATIONS, dtype=np.uint32)
    mixed = (distinct[:, None] * _MULTIPLIERS + _OFFSETS) >> np.uint64(32)
    signature: Signature = mixed.min(axis=0).astype(np.uint32)
    return signature
