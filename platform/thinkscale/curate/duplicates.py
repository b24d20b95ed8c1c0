"""Duplicates within a pool: exact ones by canonical text, near ones by MinHash and a check of each pair.
Owns what counts as the same question and which row of a cluster is kept. Two questions that differ in their numbers are
different questions, and so are two that share no more than a template."""

import hashlib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations, pairwise

import numpy as np

from thinkscale.curate.fingerprints import PERMUTATIONS, Fingerprints, Pool, groups, jaccard, rarity, take
from thinkscale.curate.normalise import MULTIPLIER, Hashes, canonical

MISSED = 0.01  # chance that a pair just at the threshold is not compared (weights of shingles apart)
LARGEST_BUCKET = 200
"""Of a bucket with more rows only neighbours are compared: its rows share a template, and comparing all pairs
of a template's questions is work in the square of their number."""
TELLING_NUMBERS = 3  # questions that agree in so many and in the answer are the same, whatever the words


@dataclass(frozen=True, kw_only=True)
class Duplicate:
    """A row to drop and the row that is kept for it, by their places."""

    row: int
    kept: int
    similarity: float


def exact_key(question: str, answer: str = "") -> bytes:
    """8 bytes that are equal for questions whose canonical texts are, then 8 for the answers."""
    texts = (canonical(text).replace(" ", "").encode("utf-8", "surrogatepass") for text in (question, answer))
    return b"".join(hashlib.sha256(text).digest()[:8] for text in texts)


def near_duplicates(pool: Pool, similarity: float) -> list[Duplicate]:
    """The rows to drop, in order.
    Of the whole pool this holds MinHash bands, about 80 bytes a row; all else of rows that share one alone. `pool`:
    distinct questions (exact duplicates removed). `similarity`: jaccard similarity from which two questions are the
    same; shingles weigh less the more questions they occur in. Numbers and reference answers must be equal."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    pairs = sorted(set(_candidate_pairs(pool, similarity)))
    seen = sorted({row for pair in pairs for row in pair})
    place = {row: i for i, row in enumerate(seen)}
    rows = take(pool, seen)
    known = np.unique(rows.shingles.flat)
    counts = np.zeros(len(known), dtype=np.int64)
    for _, block in pool.blocks() if seen else ():
        counts += block.shingles.counts(known)
    weights = rarity(counts)
    closest: dict[int, float] = defaultdict(float)
    same: list[tuple[int, int]] = []
    for a, b in pairs:
        score = _similarity(rows, place[a], place[b], known, weights)
        if score >= similarity:
            closest[a], closest[b] = max(closest[a], score), max(closest[b], score)
            same.append((place[a], place[b]))
    graph = coo_array((np.ones(len(same)), tuple(np.array(same, dtype=np.int64).reshape(-1, 2).T)), [len(seen)] * 2)
    cluster = connected_components(graph, directed=False)[1].tolist()
    best: dict[int, int] = {}
    for row in sorted(closest, key=lambda row: (int(rows.merit[place[row]]), -row)):
        best[cluster[place[row]]] = row
    kept = {row: best[cluster[place[row]]] for row in sorted(closest)}
    return [Duplicate(row=row, kept=kept[row], similarity=closest[row]) for row in kept if kept[row] != row]


def _candidate_pairs(pool: Pool, similarity: float) -> Iterator[tuple[int, int]]:
    # The most signature rows a band can have so that a pair of this similarity is hardly ever missed.
    sizes = (n for n in range(PERMUTATIONS, 1, -1) if (1 - similarity**n) ** (PERMUTATIONS // n) <= MISSED)
    size = next(sizes, 1)
    bands = zip(*(_band_keys(block, size) for _, block in pool.blocks()), strict=True)
    for band in bands:
        for bucket in groups(np.concatenate(band)):
            members = bucket.tolist()
            yield from combinations(members, 2) if len(members) <= LARGEST_BUCKET else pairwise(members)


def _band_keys(rows: Fingerprints, size: int) -> list[Hashes]:
    """For each band a hash of it with the numbers and the answer, shape [rows]."""
    keys = []
    for start in range(0, PERMUTATIONS - size + 1, size):
        key = rows.numbers * MULTIPLIER ^ rows.answer
        for i in range(start, start + size):
            key = (key ^ rows.minhash[:, i]) * MULTIPLIER
            key ^= key >> np.uint64(29)
        keys.append(key)
    return keys


def _similarity(rows: Fingerprints, a: int, b: int, known: Hashes, weights: np.ndarray) -> float:
    """Weighted Jaccard similarity; 0 where both are boilerplate alone."""
    if rows.numbers[a] != rows.numbers[b] or rows.answer[a] != rows.answer[b]:
        return 0.0  # their bands' hashes met by chance
    if rows.text[a] == rows.text[b]:
        return 1.0
    first, second = rows.shingles.row(a), rows.shingles.row(b)
    union, common = np.union1d(first, second), np.intersect1d(first, second, assume_unique=True)
    if rows.number_count[a] >= TELLING_NUMBERS:
        # The numbers in their places too: 7 + 4 - 2 is not 4 + 7 - 2.
        return min(len(common) / len(union), jaccard(rows.numbered.row(a), rows.numbered.row(b)))
    total = float(weights[np.searchsorted(known, union)].sum())
    return float(weights[np.searchsorted(known, common)].sum()) / total if total > 0 else 0.0
