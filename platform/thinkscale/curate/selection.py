"""Choosing the questions to train on: named strategies with one interface, pure and seeded.

Owns who is selected and why. A strategy never sees texts: domains, sources and trace lengths suffice.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from thinkscale.domain.campaign import Select


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    id: str
    source: str
    domain: str
    trace_tokens: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Pick:
    """One selected question; picks come in the order in which they were selected."""

    id: str
    by: str
    """`seed:<why>` or `<strategy>:<domain>`."""


Strategy = Callable[[list[Candidate], Select, random.Random], list[Pick]]


def select(candidates: Sequence[Candidate], settings: Select, seed: int) -> list[Pick]:
    """`settings.count` distinct candidates, or all where there are fewer.

    The result depends on the set of candidates, the settings and the seed, not on the candidates' order.
    """
    ordered = sorted(candidates, key=lambda candidate: candidate.id)
    return STRATEGIES[settings.strategy](ordered, settings, random.Random(seed))[: settings.count]


def s1(candidates: list[Candidate], settings: Select, rng: random.Random) -> list[Pick]:
    """Algorithm 1 of arXiv 2501.19393.

    Seeds first: all of `always_sources`, and of `long_sources` those with longer traces. Then, until the
    count is reached: a domain uniformly, and within it the question of rank r (longest trace first, counted
    from 0 among those left) with probability proportional to 2^-r.
    """
    picks = [
        Pick(id=candidate.id, by=f"seed:{candidate.source}")
        for candidate in candidates
        if _is_seed(candidate, settings)
    ]
    if len(picks) > settings.count:
        rng.shuffle(picks)
    seeds = {pick.id for pick in picks}
    domains = _by_domain(candidate for candidate in candidates if candidate.id not in seeds)
    for members in domains.values():
        members.sort(key=lambda candidate: (-candidate.trace_tokens, candidate.id))
    names = sorted(domains)
    while len(picks) < settings.count and names:
        at = rng.randrange(len(names))
        members = domains[names[at]]
        chosen = members.pop(_halving_rank(len(members), rng))
        picks.append(Pick(id=chosen.id, by=f"s1:{names[at]}"))
        if not members:
            del names[at]
    return picks


def diverse(candidates: list[Candidate], settings: Select, rng: random.Random) -> list[Pick]:
    """The paper's `diverse only`: a domain uniformly, and any of its questions."""
    domains = _by_domain(candidates)
    names = sorted(domains)
    picks: list[Pick] = []
    while len(picks) < settings.count and names:
        at = rng.randrange(len(names))
        members = domains[names[at]]
        picks.append(Pick(id=members.pop(rng.randrange(len(members))).id, by=f"diverse:{names[at]}"))
        if not members:
            del names[at]
    return picks


def longest(candidates: list[Candidate], settings: Select, rng: random.Random) -> list[Pick]:
    """The paper's `longest only`; ties by id."""
    ordered = sorted(candidates, key=lambda candidate: (-candidate.trace_tokens, candidate.id))
    return [Pick(id=candidate.id, by=f"longest:{candidate.domain}") for candidate in ordered[: settings.count]]


def uniform(candidates: list[Candidate], settings: Select, rng: random.Random) -> list[Pick]:
    """The paper's `random`."""
    count = min(settings.count, len(candidates))
    return [Pick(id=candidate.id, by=f"random:{candidate.domain}") for candidate in rng.sample(candidates, count)]


STRATEGIES: dict[str, Strategy] = {"s1": s1, "random": uniform, "longest": longest, "diverse": diverse}


def _is_seed(candidate: Candidate, settings: Select) -> bool:
    if candidate.source in settings.always_sources:
        return True
    least = settings.long_sources.get(candidate.source)
    return least is not None and candidate.trace_tokens > least


def _by_domain(candidates: Iterable[Candidate]) -> dict[str, list[Candidate]]:
    domains: dict[str, list[Candidate]] = defaultdict(list)
    for candidate in candidates:
        domains[candidate.domain].append(candidate)
    return domains


def _halving_rank(count: int, rng: random.Random) -> int:
    """A rank below `count` with probability proportional to 2^-rank, exactly: tails until heads, again if too far."""
    while True:
        rank = 0
        while rank < count and rng.getrandbits(1):
            rank += 1
        if rank < count:
            return rank
