"""Which pool questions give away a benchmark: candidates by shared n-grams or embeddings, then a verdict.

Owns what counts as a leak. The plain rule (any shared 8-gram) hits boilerplate; here shared text counts by
how rare it is, and must make up most of the benchmark question. Knows nothing of where rows come from.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from thinkscale.curate.ngrams import DocumentCounts, Hashes, mask, numbers, shingles, tokens

SHINGLE_WORDS = 3
BOILERPLATE_ROWS = 20
RARE_SHARED = 3
"""Pairs that share so many shingles which are no boilerplate are examined too."""
SAME_NUMBERS_OVERLAP = 0.5
"""Share of the benchmark question's rare text from which a question with the same numbers is a leak."""
OTHER_NUMBERS_OVERLAP = 0.75
"""The same for a question with other numbers: a reworded item."""
TEMPLATE_OVERLAP = 0.8
"""Of procedural questions with the same numbers: how much of all shingles must agree."""
TEMPLATE_NUMBERS = 3
"""Fewer numbers agree by chance: then all words must agree too."""
LEAST_WEIGHT = 3.0
"""Rare shingles that must be shared for a verdict on text alone."""

Embeddings = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class BenchmarkRow:
    """One benchmark question."""

    benchmark: str
    id: str
    question: str
    templated: bool = False
    """Procedurally generated: the same template with other numbers is no leak."""


@dataclass(frozen=True, kw_only=True)
class Leak:
    """A pool question that gives away a benchmark question, and the evidence."""

    row: int
    """Index of the pool question."""
    benchmark: str
    benchmark_id: str
    overlap: float
    """Share of the benchmark question's rare text that the pool question holds."""
    similarity: float | None
    """Cosine of the embeddings, where there are any."""
    same_numbers: bool


class _Text:
    """A question taken apart once."""

    def __init__(self, question: str, ngram: int) -> None:
        words = tokens(question)
        masked = mask(words)
        self.words = words
        self.numbers = numbers(words)
        self.ngrams = np.unique(shingles(masked, ngram)) if len(words) >= ngram else np.empty(0, dtype=np.uint64)
        self.shingles: Hashes = np.unique(shingles(masked, SHINGLE_WORDS))
        self.exact: Hashes = np.unique(shingles(words, SHINGLE_WORDS))


def find_leaks(
    questions: Sequence[str],
    benchmark: Sequence[BenchmarkRow],
    *,
    ngram: int,
    similarity: float,
    embeddings: Embeddings | None = None,
    benchmark_embeddings: Embeddings | None = None,
) -> list[Leak]:
    """At most one leak a pool question: the benchmark question that it gives away most.

    Args:
        questions: the pool.
        benchmark: questions of all benchmarks.
        ngram: words in a row, numbers masked, that make a pair worth examining.
        similarity: cosine that makes a pair worth examining.
        embeddings: of the pool, shape [len(questions), d], rows of length 1.
        benchmark_embeddings: of the benchmark, shape [len(benchmark), d].
    """
    pool = [_Text(question, ngram) for question in questions]
    bench = [_Text(row.question, ngram) for row in benchmark]
    counts = DocumentCounts([*(text.shingles for text in pool), *(text.shingles for text in bench)])
    cosines = _Cosines(embeddings, benchmark_embeddings)
    best: dict[int, Leak] = {}
    for i, j in sorted({*_by_text(pool, bench, counts), *cosines.pairs(similarity)}):
        overlap, same_numbers = _verdict(pool[i], bench[j], counts, templated=benchmark[j].templated)
        if overlap is None or (i in best and best[i].overlap >= overlap):
            continue
        best[i] = Leak(
            row=i,
            benchmark=benchmark[j].benchmark,
            benchmark_id=benchmark[j].id,
            overlap=overlap,
            similarity=cosines.of(i, j),
            same_numbers=same_numbers,
        )
    return [best[i] for i in sorted(best)]


def _verdict(text: _Text, bench: _Text, counts: DocumentCounts, *, templated: bool) -> tuple[float | None, bool]:
    """Overlap where the pair is a leak, else None; and whether the numbers agree."""
    same_numbers = sorted(text.numbers) == sorted(bench.numbers)
    if text.words == bench.words:
        return 1.0, True
    if templated:
        same = text.numbers == bench.numbers
        if same and sorted(text.words) == sorted(bench.words):
            return 1.0, True
        alike = _unweighted_jaccard(text.exact, bench.exact)
        leak = same and len(text.numbers) >= TEMPLATE_NUMBERS and alike >= TEMPLATE_OVERLAP
        return (alike if leak else None), same_numbers
    weights = counts.weights(bench.shingles, BOILERPLATE_ROWS)
    shared = np.isin(bench.shingles, text.shingles, assume_unique=True)
    common, total = float(weights[shared].sum()), float(weights.sum())
    own = float(counts.weights(text.shingles, BOILERPLATE_ROWS).sum())
    overlap = common / total if total > 0 else 0.0
    if own >= 0.5 * total and own > 0:  # not a mere fragment: a shortened benchmark question
        overlap = max(overlap, common / own)
    if common < LEAST_WEIGHT:
        # Short, or nothing but common phrases: only the whole text can tell.
        alike = _unweighted_jaccard(text.exact, bench.exact)
        return (alike if same_numbers and alike >= 0.9 else None), same_numbers
    enough = SAME_NUMBERS_OVERLAP if same_numbers else OTHER_NUMBERS_OVERLAP
    return (overlap if overlap >= enough else None), same_numbers


def _by_text(pool: Sequence[_Text], bench: Sequence[_Text], counts: DocumentCounts) -> Iterator[tuple[int, int]]:
    """Pairs that share an n-gram, or several shingles that are no boilerplate, or the whole text."""
    by_ngram: dict[int, list[int]] = defaultdict(list)
    by_shingle: dict[int, list[int]] = defaultdict(list)
    by_text: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for j, text in enumerate(bench):
        by_text[tuple(text.words)].append(j)
        for gram in text.ngrams.tolist():
            by_ngram[gram].append(j)
        weights = counts.weights(text.shingles, BOILERPLATE_ROWS)
        for gram in text.shingles[weights > 0].tolist():
            by_shingle[gram].append(j)
    for i, text in enumerate(pool):
        found = set(by_text.get(tuple(text.words), ()))
        for gram in text.ngrams.tolist():
            found.update(by_ngram.get(gram, ()))
        shared: dict[int, int] = defaultdict(int)
        for gram in text.shingles.tolist():
            for j in by_shingle.get(gram, ()):
                shared[j] += 1
        found.update(j for j, count in shared.items() if count >= RARE_SHARED)
        yield from ((i, j) for j in found)


class _Cosines:
    """Cosines between pool and benchmark, a block at a time."""

    def __init__(self, pool: Embeddings | None, bench: Embeddings | None) -> None:
        self._pool, self._bench = pool, bench

    def pairs(self, similarity: float, block: int = 4096) -> Iterator[tuple[int, int]]:
        if self._pool is None or self._bench is None or not len(self._bench):
            return
        for start in range(0, len(self._pool), block):
            rows, columns = np.nonzero(self._pool[start : start + block] @ self._bench.T >= similarity)
            yield from zip((rows + start).tolist(), columns.tolist(), strict=True)

    def of(self, i: int, j: int) -> float | None:
        if self._pool is None or self._bench is None:
            return None
        return round(float(self._pool[i] @ self._bench[j]), 4)


def _unweighted_jaccard(a: Hashes, b: Hashes) -> float:
    union = len(np.union1d(a, b))
    return len(np.intersect1d(a, b, assume_unique=True)) / union if union else 0.0
