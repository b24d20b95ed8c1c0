"""Choosing the questions to train on: named strategies with one interface, pure and seeded.
Owns who is selected and why. A strategy never sees texts: domains, sources and trace lengths suffice."""

import math
import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from thinkscale.domain.campaign import Select


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    id: str
    source: str
    domain: str
    trace_tokens: int
    may_seed: bool = True  # False: its trace is known to be wrong


@dataclass(frozen=True, kw_only=True, slots=True)
class Pick:
    """One selected question; picks come in the order in which they were selected."""

    id: str
    by: str  # `seed:<why>` or `<strategy>:<domain>`


EPSILON = 0.1
REPRESENTED = 10_000

Vectors = npt.NDArray[np.float32]
Strategy = Callable[[list[Candidate], Select, random.Random], list[Pick]]


def select(candidates: Sequence[Candidate], settings: Select, seed: int, vectors: Vectors | None = None) -> list[Pick]:
    """`settings.count` distinct candidates, or all where there are fewer.
    The result depends on the set of candidates, the settings and the seed, not on the candidates' order. `vectors`:
    embeddings of the candidates in their order, rows of length 1; only `facility` needs them."""
    order = sorted(range(len(candidates)), key=lambda i: candidates[i].id)
    ordered, rng = [candidates[i] for i in order], random.Random(seed)
    if settings.strategy == "facility":
        if vectors is None:
            raise ValueError("select.strategy = 'facility' needs the embeddings")
        in_order = order == list(range(len(order)))  # a copy of a million vectors takes 1.5 GB
        return facility(ordered, settings, rng, vectors if in_order else vectors[order])
    return STRATEGIES[settings.strategy](ordered, settings, rng)[: settings.count]


def s1(candidates: list[Candidate], settings: Select, rng: random.Random) -> list[Pick]:
    """Algorithm 1 of arXiv 2501.19393. Seeds first, but for those with wrong traces: all of `always_sources`, and of
    `long_sources` those with longer traces. Then, until the count is reached: a domain uniformly, and within it the
    question of rank r (longest trace first, counted from 0 among those left) with probability proportional to 2^-r."""
    seeds = [each for each in candidates if each.may_seed and settings.is_seed(each.source, each.trace_tokens)]
    picks = [Pick(id=each.id, by=f"seed:{each.source}") for each in seeds]
    if len(picks) > settings.count:
        rng.shuffle(picks)
    chosen = {pick.id for pick in picks}
    left = sorted((each for each in candidates if each.id not in chosen), key=_longest_first)
    return picks + _by_domain(left, settings.count - len(picks), rng, "s1", lambda count: _halving_rank(count, rng))


def diverse(candidates: list[Candidate], settings: Select, rng: random.Random) -> list[Pick]:
    """The paper's `diverse only`: a domain uniformly, and any of its questions."""
    return _by_domain(candidates, settings.count, rng, "diverse", rng.randrange)


def longest(candidates: list[Candidate], settings: Select, rng: random.Random) -> list[Pick]:
    """The paper's `longest only`; ties by id."""
    ordered = sorted(candidates, key=_longest_first)
    return [Pick(id=candidate.id, by=f"longest:{candidate.domain}") for candidate in ordered[: settings.count]]


def uniform(candidates: list[Candidate], settings: Select, rng: random.Random) -> list[Pick]:
    """The paper's `random`."""
    count = min(settings.count, len(candidates))
    return [Pick(id=candidate.id, by=f"random:{candidate.domain}") for candidate in rng.sample(candidates, count)]


def facility(candidates: list[Candidate], settings: Select, rng: random.Random, vectors: Vectors) -> list[Pick]:
    """Facility location weighted by difficulty: the set S that makes sum over i of w_i * max_{j in S} cos(i, j) large.
    w_i is the logarithm of the trace length, so that hard regions are represented best. Chosen by stochastic greedy
    (arXiv 1409.7938): each step takes the best of a random sample of those left, which comes within 1 - 1/e - EPSILON
    of the optimum in expectation. Represented are at most REPRESENTED random candidates."""
    shown = rng.sample(range(len(candidates)), min(REPRESENTED, len(candidates)))
    represented = vectors[shown]
    weights = np.log1p(np.array([candidates[i].trace_tokens for i in shown], dtype=np.float32)) + 1e-6
    covered = np.zeros(len(shown), dtype=np.float32)
    count = min(settings.count, len(candidates))
    sample = math.ceil(len(candidates) / count * math.log(1 / EPSILON)) if count else 0
    left = list(range(len(candidates)))
    picks: list[Pick] = []
    while len(picks) < count:
        places = rng.sample(range(len(left)), min(sample, len(left)))
        cosines = vectors[[left[place] for place in places]] @ represented.T
        gains = np.maximum(cosines - covered, 0.0) @ weights
        best = int(np.argmax(gains))
        covered = np.maximum(covered, cosines[best])
        chosen = candidates[left[places[best]]]
        picks.append(Pick(id=chosen.id, by=f"facility:{chosen.domain}"))
        left[places[best]] = left[-1]
        left.pop()
    return picks


STRATEGIES: dict[str, Strategy] = {"s1": s1, "random": uniform, "longest": longest, "diverse": diverse}  # no embeddings


def _longest_first(candidate: Candidate) -> tuple[int, str]:
    return -candidate.trace_tokens, candidate.id


def _by_domain(
    candidates: Iterable[Candidate], count: int, rng: random.Random, strategy: str, place: Callable[[int], int]
) -> list[Pick]:
    """A domain uniformly, and the candidate at `place` of those left in it, until there are `count` or none is left."""
    domains: dict[str, list[Candidate]] = defaultdict(list)
    for candidate in candidates:
        domains[candidate.domain].append(candidate)
    names, picks = sorted(domains), list[Pick]()
    while len(picks) < count and names:
        at = rng.randrange(len(names))
        members = domains[names[at]]
        picks.append(Pick(id=members.pop(place(len(members))).id, by=f"{strategy}:{names[at]}"))
        if not members:
            del names[at]
    return picks


def _halving_rank(count: int, rng: random.Random) -> int:
    """A rank below `count` with probability proportional to 2^-rank, exactly: tails until heads, again if too far."""
    while True:
        rank = 0
        while rank < count and rng.getrandbits(1):
            rank += 1
        if rank < count:
            return rank
