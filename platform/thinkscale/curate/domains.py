"""Domains without labels: clusters of embeddings, named by the words that mark them. Pure and seeded."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from thinkscale.curate.ngrams import tokens

TERMS = 3
"""Words in a cluster's name."""
LEAST_LETTERS = 3
ITERATIONS = 25

Vectors = npt.NDArray[np.float32]


def fit_clusters(vectors: Vectors, count: int, seed: int) -> Vectors:
    """Centroids of at most `count` clusters (k-means++), none of them empty, shape [clusters, dimension]."""
    from scipy.cluster.vq import kmeans2

    count = min(count, len(np.unique(vectors, axis=0)))
    centroids, _ = kmeans2(vectors, count, iter=ITERATIONS, minit="++", seed=seed, missing="warn")
    used = np.unique(nearest(vectors, centroids))
    return np.asarray(centroids[used], dtype=np.float32)


def nearest(vectors: Vectors, centroids: Vectors) -> npt.NDArray[np.int64]:
    """The cluster of each vector, shape [len(vectors)]."""
    from scipy.cluster.vq import vq

    return np.asarray(vq(vectors, centroids)[0], dtype=np.int64)


def cluster_names(questions: Sequence[str], labels: Sequence[int]) -> list[str]:
    """A name for each cluster: the words with the greatest TF-IDF, here share * log(share / share in all clusters).

    A word's share is that of the questions that have it, so that words of any question weigh nothing. Names are
    distinct. Every cluster has a question.
    """
    sizes = Counter(labels)
    held: list[Counter[str]] = [Counter() for _ in range(max(sizes) + 1)]
    for question, label in zip(questions, labels, strict=True):
        held[label].update({word for word in tokens(question) if word.isalpha() and len(word) >= LEAST_LETTERS})
    overall = sum(held, Counter[str]())
    names: list[str] = []
    for label, words in enumerate(held):
        scores = {
            word: count / sizes[label] * math.log(count / sizes[label] * len(questions) / overall[word])
            for word, count in words.items()
        }
        best = sorted(scores, key=lambda word: (-scores[word], word))[:TERMS]
        name = ", ".join(best) or "no words"
        names.append(name if name not in names else f"{name} ({label})")
    return names
