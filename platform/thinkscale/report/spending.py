"""What the stages of a campaign held, dropped and cost, from their manifests.
Owns the reading of manifests for the report, and accuracies that others have published (arXiv 2501.19393v3, table 1, in
%), to be drawn beside a curve as what they are: not measured here. Knows the ledger's names and no stage."""

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from importlib import resources
from typing import Any

from thinkscale.domain.campaign import Campaign
from thinkscale.domain.ledger import USES, device_seconds, dollars
from thinkscale.report.metrics import Point
from thinkscale.store.artifact import Manifest, distinct


def spending(campaign: Campaign, manifests: Mapping[str, Manifest], found: Sequence[Point]) -> list[dict[str, Any]]:
    """Per stage that held a device: seconds by device and use, dollars, and for samples what a right answer cost."""
    rows = []
    for name, manifest in manifests.items():
        stats = manifest.stats
        cpu_s, gpu_s = device_seconds(stats, "cpu"), device_seconds(stats, "gpu")
        if not (seconds := cpu_s + gpu_s):
            continue
        correct = None
        key = (manifest.extra.get("model"), manifest.extra.get("benchmark"))
        if manifest.schema.startswith("samples/"):
            correct = sum(point.correct for point in found if (point.model, point.benchmark) == key)
        rows.append(
            {
                "stage": name,
                "cpu_s": cpu_s,
                "gpu_s": gpu_s,
                **{use: (stats.get(f"cpu_{use}_s", 0.0) + stats.get(f"gpu_{use}_s", 0.0)) / seconds for use in USES},
                "usd": dollars(stats, campaign.prices),
                "correct": correct,
                "samples_of": None if correct is None else key,
                "decoded_tokens": stats.get("decoded_tokens"),
                "separate_tokens": stats.get("separate_tokens"),
            }
        )
    return rows


def terms(manifests: Mapping[str, Manifest]) -> list[dict[str, Any]]:
    """The teachers' terms that the manifests carry, each once."""
    return distinct(each for manifest in manifests.values() for each in manifest.extra.get("terms") or ())


def duration_s(manifests: Mapping[str, Manifest]) -> float:
    """Seconds in which some stage was open, from its beginning to its commit; breaks between stages do not count."""
    spans = [(m.began_at, m.created_at) for m in manifests.values() if m.began_at and m.created_at]
    total = until = 0.0
    for began, ended in sorted([datetime.fromisoformat(text).timestamp() for text in span] for span in spans):
        total, until = total + max(0.0, ended - max(began, until)), max(until, ended)
    return total


SOURCE = "arXiv 2501.19393v3, table 1"

_FIGURES = tomllib.loads((resources.files("thinkscale") / "published.toml").read_text("utf-8"))
_OTHER_NAMES = {"aime2024": "aime24", "gpqad": "gpqadiamond"}


def published(benchmarks: Iterable[str]) -> list[dict[str, Any]]:
    """The figures of those benchmarks that have some, known by their names (`AIME24`, `math-500`, ...).
    Each has the benchmark's name in the campaign, the model, its accuracy (0..1) and the source."""
    found = []
    for benchmark in benchmarks:
        name = re.sub(r"[^a-z0-9]", "", benchmark.lower())
        figures = _FIGURES.get(_OTHER_NAMES.get(name, name), {})
        found += [
            {"benchmark": benchmark, "model": model, "accuracy": percent / 100, "source": SOURCE}
            for model, percent in figures.items()
        ]
    return found
