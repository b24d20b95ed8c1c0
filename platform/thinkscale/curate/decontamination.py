"""Which pool questions give away a benchmark: candidates by shared n-grams or embeddings, then a verdict.
Owns what counts as a leak. The plain rule (any shared 8-gram) hits boilerplate; here shared text counts by how rare it
is, and must make up most of the benchmark question. Knows nothing of where rows come from."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np
import numpy.typing as npt

from thinkscale.curate.fingerprints import (
    BOILERPLATE_ROWS,
    SHINGLE_WORDS,
    Fingerprints,
    Pool,
    Ragged,
    fingerprint,
    jaccard,
    rarity,
    take,
)
from thinkscale.curate.normalise import Hashes, mask, mask_letters, numbers, shingles, tokens

SHARED_WEIGHT = 2.0  # pairs that share so much rare text are examined too, n-gram or not
SAME_NUMBERS_OVERLAP = 0.5  # share of a benchmark question's rare text, numbers as they are, that makes a leak
OTHER_NUMBERS_OVERLAP = 0.75  # the same with numbers masked: a question reworded with other numbers
LEAST_WEIGHT = 3.0  # rare shingles that must be shared for a verdict on a part of the text
TELLING_DIGITS = 2  # digits of all numbers together from which equal numbers are no chance
TELLING_NUMBERS_WORDS = 0.5  # share of the pairs of words that a question with the same telling numbers must have
COPY_OVERLAP = 0.5  # questions with the same numbers and so much of the text count as copies of one, not as boilerplate
TEMPLATE_OVERLAP = 0.8  # of procedural questions with the same numbers: how much of all text must agree
TEMPLATE_NUMBERS = 3  # fewer numbers agree by chance: then all words must agree too

Pair = tuple[int, int]  # places of a pool question and of a benchmark question
Pairs = Iterable[Pair]


@dataclass(frozen=True, kw_only=True)
class BenchmarkRow:
    benchmark: str
    id: str
    question: str
    templated: bool = False  # procedurally generated: the same template with other numbers is no leak


@dataclass(frozen=True, kw_only=True)
class Leak:
    """A pool question that gives away a benchmark question, and the evidence."""

    row: int  # place of the pool question
    benchmark: str
    benchmark_id: str
    overlap: float  # share of the benchmark question's rare text that the pool question holds
    similarity: float | None  # cosine of the embeddings, where there are any
    same_numbers: bool


class Similarities(Protocol):
    """Similarities of embeddings between pool and benchmark."""

    def pairs(self) -> Iterator[Pair]: ...

    def of(self, i: int, j: int) -> float: ...


class Texts(Protocol):
    def __getitem__(self, place: int, /) -> str: ...


class BenchmarkIndex:
    """The questions of all benchmarks by what pool questions are looked up with. Picklable."""

    def __init__(self, rows: Sequence[BenchmarkRow], ngram: int) -> None:
        """`ngram`: words in a row, numbers masked, that make a pair worth examining."""
        self.rows, self._ngram = list(rows), ngram
        self.prints = Fingerprints.of([fingerprint(row.question) for row in rows])
        self.tells = [sum(map(len, numbers(tokens(row.question)))) >= TELLING_DIGITS for row in rows]
        self._by_ngram: dict[int, list[int]] = defaultdict(list)
        for j, row in enumerate(self.rows):
            if not row.templated:  # all questions of a template share its n-grams
                for gram in self._ngrams(row.question):
                    self._by_ngram[gram].append(j)

    def sharing_ngrams(self, question: str) -> list[int]:
        """Places of the benchmark questions that share an n-gram with a pool question."""
        return sorted({j for gram in self._ngrams(question) for j in self._by_ngram.get(gram, ())})

    def _ngrams(self, question: str) -> list[int]:
        words = mask(tokens(question))
        return [] if len(words) < self._ngram else np.unique(shingles(words, self._ngram)).tolist()


def find_leaks(
    questions: Texts, prints: Pool, index: BenchmarkIndex, sharing_ngrams: Pairs, cosines: Similarities | None = None
) -> list[Leak]:
    """At most one leak a pool question: the benchmark question that it gives away most.
    `questions`: the pool. Only those of pairs worth examining are read. `prints`: fingerprints of the pool, in the same
    order; read block by block, some times over. `sharing_ngrams`: what `index.sharing_ngrams` found for the pool."""
    views = [_View(name, index.prints) for name in ("shingles", "numbered")]
    pairs, whole_texts = set(sharing_ngrams), _WholeTexts(index)
    for first, block in prints.blocks():
        pairs.update(whole_texts.pairs(first, block))
        for view in views:
            view.count(block)
    natural = np.array([not row.templated for row in index.rows], dtype=bool)
    finders = [view.rare_text(natural) for view in views]
    for first, block in prints.blocks():
        for find in finders:
            pairs.update(find(first, block))
    if cosines is not None:
        pairs.update(cosines.pairs())
    seen = sorted({i for i, _ in pairs})
    place, own = {i: k for k, i in enumerate(seen)}, take(prints, seen)
    examined = [_Pair(i, j, place[i], questions, own, index) for i, j in sorted(pairs)]
    for view in views:
        view.know(own)
    for _, block in prints.blocks():
        for view in views:
            view.count(block)
    copies = Counter(pair.j for pair in examined if pair.is_copy(views[0]))
    renumbered = Counter(pair.j for pair in examined if pair.same_skeleton and not pair.same_numbers)
    best: dict[int, Leak] = {}
    for pair in examined:
        overlap = _overlap_of_leak(pair, *views, copies=max(copies[pair.j] - 1, 0))
        if overlap is None and pair.same_skeleton and renumbered[pair.j] < BOILERPLATE_ROWS:
            overlap = 1.0  # nothing but the numbers differs, and few other questions are such
        if overlap is None or (pair.i in best and best[pair.i].overlap >= overlap):
            continue
        row = index.rows[pair.j]
        best[pair.i] = Leak(
            row=pair.i,
            benchmark=row.benchmark,
            benchmark_id=row.id,
            overlap=overlap,
            similarity=cosines.of(pair.i, pair.j) if cosines else None,
            same_numbers=pair.same_numbers,
        )
    return [best[i] for i in sorted(best)]


class _View:
    """One kind of shingles: the benchmarks', the examined pool questions', and how rare each is in the pool."""

    def __init__(self, name: str, bench: Fingerprints) -> None:
        self._name = name
        self.bench: Ragged = getattr(bench, name)
        self.know(bench)

    def know(self, own: Fingerprints) -> None:
        """Have the shingles of these questions counted too, from the pool's first block on again."""
        self.own = getattr(own, self._name)
        self._known = np.unique(np.concatenate([self.bench.flat, self.own.flat]))
        self._counts = self.bench.counts(self._known)

    def count(self, block: Fingerprints) -> None:
        self._counts += getattr(block, self._name).counts(self._known)

    def weight(self, hashes: Hashes, copies: int) -> float:
        return float(rarity(self._counts[np.searchsorted(self._known, hashes)] - copies).sum())

    def rare_text(self, natural: npt.NDArray[np.bool_]) -> Callable[[int, Fingerprints], Iterator[Pair]]:
        """What finds the pairs with a natural benchmark question whose shared shingles weigh enough, or most of it."""
        weights = rarity(self._counts)
        rare = np.nonzero(weights)[0]
        weights = weights[rare]
        # Benchmark rows by rare shingle, as a compressed sparse matrix.
        rows, at = self.bench.matches(self._known[rare])
        order = np.argsort(at, kind="stable")
        order = order[natural[rows[order]]]
        rows, at = rows[order], at[order]
        wanted = np.minimum(SHARED_WEIGHT, 0.6 * np.bincount(rows, weights=weights[at], minlength=len(natural)))
        starts = np.searchsorted(at, np.arange(len(rare) + 1))

        def find(first: int, block: Fingerprints) -> Iterator[Pair]:
            found_rows, found = getattr(block, self._name).matches(self._known[rare])
            sizes = starts[found + 1] - starts[found]
            within = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
            j = rows[np.repeat(starts[found], sizes) + within]
            i = np.repeat(found_rows, sizes)
            pairs, inverse = np.unique(i * len(natural) + j, return_inverse=True)
            shared = np.bincount(inverse, weights=np.repeat(weights[found], sizes), minlength=len(pairs))
            for pair in pairs[shared >= wanted[pairs % len(natural)]].tolist():
                yield first + pair // len(natural), pair % len(natural)

        return find


class _Pair:
    """A pool question and a benchmark question side by side."""

    def __init__(self, i: int, j: int, k: int, questions: Texts, own: Fingerprints, index: BenchmarkIndex) -> None:
        """`k`: place of the pool question in `own`."""
        bench = index.prints
        self.i, self.j, self.k = i, j, k
        self.templated = index.rows[j].templated
        self.same_text = bool(own.text[k] == bench.text[j])
        self.same_words = bool(own.bag[k] == bench.bag[j])
        self.same_numbers = bool(own.numbers[k] == bench.numbers[j])
        self.number_count = int(bench.number_count[j])
        self.same_skeleton = bool(own.skeleton[k] == bench.skeleton[j] != 0) and not self.templated
        self.tells = index.tells[j]
        self._questions, self._bench = questions, index.rows[j].question

    def is_copy(self, view: _View) -> bool:
        theirs = view.bench.row(self.j)
        return self.same_numbers and len(_common(view.own.row(self.k), theirs)) >= COPY_OVERLAP * len(theirs)

    def alike(self) -> float:
        """Jaccard similarity of the texts with their numbers."""
        return jaccard(*(np.unique(shingles(words, SHINGLE_WORDS)) for words in self._words()))

    def words_held(self) -> float:
        """Share of the benchmark question's pairs of neighbouring words that the pool question has, letters masked."""
        own, theirs = (set(pairwise(mask_letters(words))) for words in self._words())
        return len(own & theirs) / max(len(theirs), 1)

    def _words(self) -> tuple[list[str], list[str]]:
        return tokens(self._questions[self.i]), tokens(self._bench)


def _overlap_of_leak(pair: _Pair, masked: _View, numbered: _View, *, copies: int) -> float | None:
    """The overlap where the pair is a leak, else None. `copies`: questions not to count as other ones."""
    if pair.same_text or (pair.templated and pair.same_words):
        return 1.0
    if pair.templated:
        if not pair.same_numbers or pair.number_count < TEMPLATE_NUMBERS:
            return None
        alike = pair.alike()
        return alike if alike >= TEMPLATE_OVERLAP else None
    own, theirs = masked.own.row(pair.k), masked.bench.row(pair.j)
    own_numbered, their_numbered = numbered.own.row(pair.k), numbered.bench.row(pair.j)
    as_it_is = [(masked, own[own % 2 == 0], theirs[theirs % 2 == 0]), (numbered, own_numbered, their_numbered)]
    for parts, least in ((as_it_is, SAME_NUMBERS_OVERLAP), ([(masked, own, theirs)], OTHER_NUMBERS_OVERLAP)):
        common, share = _shared(parts, copies)
        if common >= LEAST_WEIGHT and share >= least:
            return share
    # Short, or nothing but common phrases: only its numbers can tell.
    held = pair.words_held() if pair.same_numbers and pair.tells else 0.0
    return held if held >= TELLING_NUMBERS_WORDS else None


def _shared(parts: Sequence[tuple[_View, Hashes, Hashes]], copies: int) -> tuple[float, float]:
    """How much rare text a pool question and a benchmark question share, by their shingles in each view.
    And the share that it is of the benchmark question's; or of the pool question's where that is no mere fragment."""
    common = sum(view.weight(_common(own, theirs), copies) for view, own, theirs in parts)
    total = sum(view.weight(theirs, copies) for view, _, theirs in parts)
    whole = sum(view.weight(own, copies) for view, own, _ in parts)
    share = common / total if total > 0 else 0.0
    return common, max(share, common / whole) if whole >= 0.5 * total and whole > 0 else share


def _common(a: Hashes, b: Hashes) -> Hashes:
    return np.intersect1d(a, b, assume_unique=True)


class _WholeTexts:
    """Finds pairs with the same words, the same telling numbers, or the same skeleton."""

    def __init__(self, index: BenchmarkIndex) -> None:
        prints = index.prints
        self._tables: dict[str, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
        for j, row in enumerate(index.rows):
            telling = prints.number_count[j] >= TEMPLATE_NUMBERS if row.templated else index.tells[j]
            skeleton = prints.skeleton[j] and not row.templated
            for name, counts in (("bag", True), ("numbers", telling), ("skeleton", skeleton)):
                if counts:
                    self._tables[name][int(getattr(prints, name)[j])].append(j)

    def pairs(self, first: int, block: Fingerprints) -> Iterator[Pair]:
        for name, table in self._tables.items():
            column = getattr(block, name)
            for i in np.nonzero(np.isin(column, np.array(list(table), dtype=np.uint64)))[0].tolist():
                yield from ((first + i, j) for j in table[int(column[i])])
