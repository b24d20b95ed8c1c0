from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest

from thinkscale.curate.selection import STRATEGIES, Candidate, select
from thinkscale.domain.campaign import Select

POOL = [
    Candidate(id=f"{domain}{i}", source="aime" if i % 10 == 0 else "math", domain=domain, trace_tokens=100 * i)
    for domain, size in (("algebra", 40), ("geometry", 20), ("sets", 2))
    for i in range(size)
]


def chosen(settings: Select, seed: int = 0, pool: list[Candidate] = POOL) -> list[str]:
    return [pick.id for pick in select(pool, settings, seed)]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_gives_the_count_without_repeats_and_depends_on_the_seed_alone(strategy: str) -> None:
    settings = Select(strategy=strategy, count=25)  # type: ignore[arg-type]
    ids = chosen(settings)
    assert len(ids) == len(set(ids)) == 25
    shuffled = random.Random(1).sample(POOL, len(POOL))
    assert chosen(settings, pool=shuffled) == ids
    assert strategy == "longest" or chosen(settings, seed=1) != ids


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_fewer_candidates_than_asked_for_are_all_selected(strategy: str) -> None:
    assert sorted(chosen(Select(strategy=strategy, count=1000))) == sorted(c.id for c in POOL)  # type: ignore[arg-type]


def test_s1_takes_its_seeds_first() -> None:
    settings = Select(strategy="s1", count=20, always_sources=["aime"], long_sources={"math": 3700})
    picks = select(POOL, settings, 0)
    seeds = {c.id for c in POOL if c.source == "aime" or c.trace_tokens > 3700}
    assert {p.id for p in picks[: len(seeds)]} == seeds
    assert all(p.by.startswith("seed:") for p in picks[: len(seeds)])
    assert all(p.by.startswith("s1:") for p in picks[len(seeds) :])


def test_s1_draws_domains_uniformly_and_ranks_by_halving_probability() -> None:
    """The first draw: each of 2 domains with 1/2, rank r of n with 2^-r / (2 - 2^(1-n))."""
    pool = [
        Candidate(id=f"{d}{i}", source="s", domain=d, trace_tokens=-i)
        for d, n in (("a", 4), ("b", 30))
        for i in range(n)
    ]
    draws = 4000
    first = Counter(chosen(Select(count=1), seed=seed, pool=pool)[0] for seed in range(draws))
    for rank in range(4):
        expected = draws / 2 * 2.0**-rank / (2 - 2.0**-3)
        assert abs(first[f"a{rank}"] - expected) < 5 * expected**0.5
    assert abs(sum(n for id_, n in first.items() if id_[0] == "a") - draws / 2) < 5 * (draws / 4) ** 0.5


def test_longest_takes_the_longest() -> None:
    assert chosen(Select(strategy="longest", count=2)) == ["algebra39", "algebra38"]


def test_diverse_empties_small_domains_like_large_ones() -> None:
    domains = Counter(id_.rstrip("0123456789") for id_ in chosen(Select(strategy="diverse", count=42)))
    assert domains["sets"] == 2
    assert domains["geometry"] >= 15


def test_facility_represents_every_cluster_and_hard_ones_first() -> None:
    rng = np.random.default_rng(0)
    centres = np.eye(5, dtype=np.float32)
    pool, rows = [], []
    for cluster, (size, tokens) in enumerate(((50, 10), (5, 10), (20, 10), (30, 10), (40, 100_000))):
        for i in range(size):
            pool.append(Candidate(id=f"{cluster}-{i}", source="s", domain=str(cluster), trace_tokens=tokens))
            rows.append(centres[cluster] + 0.05 * rng.standard_normal(5))
    vectors = np.array(rows, dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    picks = select(pool, Select(strategy="facility", count=5), 0, vectors)
    assert {pick.id.split("-")[0] for pick in picks} == {"0", "1", "2", "3", "4"}
    assert picks[0].by == "facility:4"
    order = rng.permutation(len(pool))
    assert select([pool[i] for i in order], Select(strategy="facility", count=5), 0, vectors[order]) == picks
    with pytest.raises(ValueError, match="needs the embeddings"):
        select(pool, Select(strategy="facility", count=5), 0)
