"""Duplicates within a pool: exact ones by canonical text, near ones by MinHash and a check of each pair.

Owns what counts as the same question and which row of a cluster is kept. Two questions that differ in their
numbers are different questions, and so are two that share no more than a template.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from thinkscale.curate.ngrams import DocumentCounts, numbers, shingles, tokens
from thinkscale.curate.normalise import canonical

SHINGLE_WORDS = 3
PERMUTATIONS = 64
MISSED = 0.01
"""Chance that a pair just at the threshold is not compared (weights of shingles apart)."""
BOILERPLATE_ROWS = 20
"""A shingle of so many questions says nothing about which question it is."""
LARGEST_BUCKET = 200
"""Of a bucket with more rows only neighbours are compared: its rows share a template, and comparing all pairs
of a template's questions is work in the square of their number."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """What duplicates are decided on."""

    id: str
    question: str
    answer: str
    has_solution: bool = False


@dataclass(frozen=True, kw_only=True)
class Duplicate:
    """A row to drop and the row that is kept for it."""

    id: str
    kept: str
    similarity: float


def exact_key(question: str) -> bytes:
    """16 bytes that are equal for questions whose canonical texts are."""
    return hashlib.sha256(canonical(question).replace(" ", "").encode("utf-8", "surrogatepass")).digest()[:16]


def near_duplicates(rows: Sequence[Candidate], similarity: float, seed: int = 0) -> list[Duplicate]:
    """The rows to drop, in order of their place in `rows`.

    Of each cluster the row with a solution is kept, of several the longest question, then the first.

    Args:
        rows: distinct questions (exact duplicates removed).
        similarity: Jaccard similarity from which two questions are the same; shingles weigh less the more
            questions they occur in. Numbers and reference answers must be equal.
        seed: of the MinHash permutations.
    """
    words = [tokens(row.question) for row in rows]
    documents = [np.unique(shingles(w, SHINGLE_WORDS)) for w in words]
    counts = DocumentCounts(documents)
    facts = [(sorted(numbers(w)), canonical(row.answer)) for w, row in zip(words, rows, strict=True)]
    parent = list(range(len(rows)))
    closest: dict[int, float] = {}
    for a, b in _candidate_pairs(documents, similarity, seed):
        if facts[a] != facts[b]:
            continue
        score = 1.0 if words[a] == words[b] else _jaccard(documents[a], documents[b], counts)
        if score >= similarity:
            for row in (a, b):
                closest[row] = max(closest.get(row, 0.0), score)
            parent[_root(parent, a)] = _root(parent, b)
    clusters: dict[int, list[int]] = defaultdict(list)
    for row in closest:
        clusters[_root(parent, row)].append(row)
    dropped = []
    for members in clusters.values():
        kept = min(members, key=lambda i: (not rows[i].has_solution, -len(rows[i].question), i))
        dropped += [(i, kept) for i in members if i != kept]
    return [Duplicate(id=rows[i].id, kept=rows[k].id, similarity=closest[i]) for i, k in sorted(dropped)]


def _candidate_pairs(documents: Sequence[np.ndarray], similarity: float, seed: int) -> set[tuple[int, int]]:
    """Pairs whose MinHash signatures agree in a whole band."""
    rows_in_band = _rows_in_band(similarity)
    signatures = _signatures(documents, seed)
    pairs: set[tuple[int, int]] = set()
    for start in range(0, PERMUTATIONS - rows_in_band + 1, rows_in_band):
        buckets: dict[bytes, list[int]] = defaultdict(list)
        part = np.ascontiguousarray(signatures[:, start : start + rows_in_band])
        for i, document in enumerate(documents):
            if len(document):
                buckets[part[i].tobytes()].append(i)
        for members in buckets.values():
            if len(members) <= LARGEST_BUCKET:
                pairs.update((a, b) for at, a in enumerate(members) for b in members[at + 1 :])
            else:
                pairs.update(pairwise(members))
    return pairs


def _rows_in_band(similarity: float) -> int:
    """The most signature rows a band can have so that a pair of this similarity is hardly ever missed."""
    for rows in range(PERMUTATIONS, 1, -1):
        if (1 - similarity**rows) ** (PERMUTATIONS // rows) <= MISSED:
            return rows
    return 1


def _signatures(documents: Sequence[np.ndarray], seed: int) -> np.ndarray:
    """MinHash signatures, shape [rows, PERMUTATIONS]."""
    generator = np.random.default_rng(seed)
    multipliers = generator.integers(1, 1 << 63, PERMUTATIONS, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    offsets = generator.integers(0, 1 << 63, PERMUTATIONS, dtype=np.uint64)
    result = np.zeros((len(documents), PERMUTATIONS), dtype=np.uint64)
    for i, document in enumerate(documents):
        if len(document):
            mixed = document[:, None] * multipliers + offsets
            result[i] = (mixed ^ (mixed >> np.uint64(32))).min(axis=0)
    return result


def _jaccard(a: np.ndarray, b: np.ndarray, counts: DocumentCounts) -> float:
    """Weighted Jaccard similarity; 0 where both are boilerplate alone."""
    union = np.union1d(a, b)
    weights = counts.weights(union, BOILERPLATE_ROWS)
    total = float(weights.sum())
    both = np.isin(union, np.intersect1d(a, b, assume_unique=True), assume_unique=True)
    return float(weights[both].sum()) / total if total > 0 else 0.0


def _root(parent: list[int], node: int) -> int:
    while parent[node] != node:
        parent[node] = parent[parent[node]]
        node = parent[node]
    return node
