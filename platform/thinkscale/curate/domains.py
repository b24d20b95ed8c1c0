"""Domains without labels: clusters of embeddings, named by the words that mark them, or an LLM's classes.
Owns the classes of the Mathematics Subject Classification (2020), the prompt, its version and the strict reading of a
reply. Pure and seeded. Knows nothing of pools or Ray."""

import math
import re
from collections import Counter
from collections.abc import Sequence
from functools import cache
from importlib import resources

import numpy as np
import numpy.typing as npt

from thinkscale.curate.normalise import tokens
from thinkscale.domain.generation import Engine, Request
from thinkscale.forcing.formats import Tokenizer

TERMS = 3  # words in a cluster's name
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
    distinct. Every cluster has a question."""
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


PROMPT_VERSION = 1  # changes with the prompt, the classes or the reading of the reply
UNCLASSIFIED = "unclassified"  # the domain of a question whose reply names no class

_TAG = re.compile(r"</?\s*question\s*>", re.IGNORECASE)
_CLASS = re.compile(r"^[ \t]*CLASS:[ \t]*(\d\d)[ \t.]*$", re.MULTILINE)


@cache
def msc_classes() -> dict[str, str]:
    """The 61 classes: their two digits, and `digits name`."""
    return {line[:2]: line for line in _lines("msc_classes.txt")}


@cache
def _lines(file: str) -> list[str]:
    return resources.files(__package__).joinpath(file).read_text("utf-8").splitlines()


def class_prompt(question: str) -> str:
    """The prompt about one question, whose own tags cannot end the place where it stands."""
    prompt = "\n".join(_lines("classify.txt"))
    return prompt.format(classes="\n".join(msc_classes().values()), question=_TAG.sub("[tag]", question))


def read_class(reply: str) -> str | None:
    """The class that a reply names; None where it names none, one that is not in the list, or several."""
    found = set(_CLASS.findall(reply))
    return msc_classes().get(found.pop()) if len(found) == 1 else None


async def classify(engine: Engine, tokenizer: Tokenizer, question: str, *, max_tokens: int) -> tuple[str | None, int]:
    """The class of a question and the tokens decoded, greedily; no class either where the prompt does not fit.
    Raises EngineError where the engine failed."""
    ids = tokenizer.prompt_ids(class_prompt(question), None)
    if len(ids) + max_tokens > engine.info.context_tokens:
        return None, 0
    completion = await engine.generate(Request(prompt_ids=ids, max_tokens=max_tokens))
    return read_class(tokenizer.decode(completion.ids)), len(completion.ids) + len(completion.stop_ids)
