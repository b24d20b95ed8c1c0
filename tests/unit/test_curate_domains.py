from __future__ import annotations

import numpy as np

from thinkscale.curate.domains import cluster_names, fit_clusters, nearest

TOPICS = {
    "circle": "Find the radius of the circle inscribed in the triangle number {}.",
    "prime": "Find the prime factor of the integer number {}.",
    "coin": "Find the probability that the coin number {} shows heads.",
}


def pool() -> tuple[list[str], np.ndarray]:
    """Nine questions of each topic, and vectors near the topic's axis."""
    noise = np.random.default_rng(0).normal(scale=0.05, size=(27, 4)).astype(np.float32)
    questions = [text.format(i) for i in range(9) for text in TOPICS.values()]
    vectors = np.tile(np.eye(3, 4, dtype=np.float32), (9, 1)) + noise
    return questions, vectors


def test_clusters_are_found_and_named_by_what_marks_them() -> None:
    questions, vectors = pool()
    centroids = fit_clusters(vectors, 3, seed=1)
    labels = nearest(vectors, centroids).tolist()
    assert [labels[i] == labels[i % 3] for i in range(27)] == [True] * 27
    names = cluster_names(questions, labels)
    for topic, label in zip(TOPICS, labels[:3], strict=True):
        assert topic in names[label]
    assert not {"find", "number", "the"} & {word for name in names for word in name.split(", ")}


def test_clusters_depend_on_the_seed_alone_and_are_never_empty() -> None:
    _, vectors = pool()
    assert np.array_equal(fit_clusters(vectors, 3, seed=5), fit_clusters(vectors, 3, seed=5))
    repeated = np.repeat(vectors[:2], 6, axis=0)
    assert len(fit_clusters(repeated, 6, seed=0)) == 2


def test_names_are_distinct() -> None:
    assert cluster_names(["an apple", "an apple", "12"], [0, 1, 2]) == ["apple", "apple (1)", "no words"]
