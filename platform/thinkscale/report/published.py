"""Published accuracies, to be drawn beside a curve as what they are: not measured here.

Figures of arXiv 2501.19393v3 (s1: Simple test-time scaling), table 1, in %.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

SOURCE = "arXiv 2501.19393v3, table 1"

_FIGURES = {
    "aime24": {
        "o1-preview": 44.6, "Qwen2.5-32B-Instruct": 26.7, "QwQ-32B-preview": 50.0, "r1": 79.8, "r1-distill-32B": 72.6,
        "s1-32B without budget forcing": 50.0, "s1-32B": 56.7,
    },
    "math500": {
        "o1-preview": 85.5, "Qwen2.5-32B-Instruct": 84.0, "QwQ-32B-preview": 90.6, "r1": 97.3, "r1-distill-32B": 94.3,
        "s1-32B without budget forcing": 92.6, "s1-32B": 93.0,
    },
    "gpqadiamond": {
        "o1-preview": 73.3, "Qwen2.5-32B-Instruct": 49.0, "QwQ-32B-preview": 54.5, "r1": 71.5, "r1-distill-32B": 62.1,
        "s1-32B without budget forcing": 56.6, "s1-32B": 59.6,
    },
}  # fmt: skip
_OTHER_NAMES = {"aime2024": "aime24", "gpqad": "gpqadiamond"}


def published(benchmarks: Iterable[str]) -> list[dict[str, Any]]:
    """The figures of those benchmarks that have some, known by their names (`AIME24`, `math-500`, ...).

    Each has the benchmark's name in the campaign, the model, its accuracy (0..1) and the source.
    """
    found = []
    for benchmark in benchmarks:
        name = re.sub(r"[^a-z0-9]", "", benchmark.lower())
        figures = _FIGURES.get(_OTHER_NAMES.get(name, name), {})
        found += [
            {"benchmark": benchmark, "model": model, "accuracy": percent / 100, "source": SOURCE}
            for model, percent in figures.items()
        ]
    return found
