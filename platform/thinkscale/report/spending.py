"""What the stages of a campaign held, dropped and cost, from their manifests.

Owns the reading of manifests for the report. Knows the ledger's names and no stage.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, Protocol

from thinkscale.domain.campaign import Campaign
from thinkscale.domain.ledger import Ledger
from thinkscale.report.metrics import Point


class StageRecord(Protocol):
    """What the report reads of a stage's manifest (`store.artifact.Manifest`)."""

    @property
    def schema(self) -> str: ...
    @property
    def rows(self) -> int: ...
    @property
    def dropped(self) -> Mapping[str, int]: ...
    @property
    def stats(self) -> Mapping[str, float]: ...
    @property
    def extra(self) -> Mapping[str, Any]: ...
    @property
    def code_version(self) -> str: ...
    @property
    def created_at(self) -> str: ...


_LEDGER = [field.name for field in fields(Ledger)]
_FUNNEL_SCHEMAS = ("questions", "difficulty", "selected", "traces")


def ledger(manifest: StageRecord) -> Ledger:
    """The device-seconds that a manifest sums up."""
    return Ledger(**{name: float(manifest.stats.get(name, 0.0)) for name in _LEDGER})


def spending(campaign: Campaign, manifests: Mapping[str, StageRecord], found: Sequence[Point]) -> list[dict[str, Any]]:
    """Per stage that held a device: seconds by device and use, dollars, and for samples what a right answer cost."""
    rows = []
    for name, manifest in manifests.items():
        spent = ledger(manifest)
        if not (spent.seconds("cpu") or spent.seconds("gpu")):
            continue
        usd = spent.usd(cpu_hour_usd=campaign.prices.cpu_hour_usd, gpu_hour_usd=campaign.prices.gpu_hour_usd)
        correct = None
        key = (manifest.extra.get("model"), manifest.extra.get("benchmark"))
        if manifest.schema.startswith("samples/"):
            correct = sum(point.correct for point in found if (point.model, point.benchmark) == key)
        seconds = spent.seconds("cpu") + spent.seconds("gpu")
        rows.append(
            {
                "stage": name,
                "cpu_s": spent.seconds("cpu"),
                "gpu_s": spent.seconds("gpu"),
                **{
                    use: sum(float(getattr(spent, f"{device}_{use}_s")) for device in ("cpu", "gpu")) / seconds
                    for use in ("busy", "startup", "idle", "tail")
                },
                "usd": usd,
                "correct": correct,
                "samples_of": None if correct is None else key,
                "decoded_tokens": manifest.stats.get("decoded_tokens"),
                "separate_tokens": manifest.stats.get("separate_tokens"),
            }
        )
    return rows


def funnel(manifests: Mapping[str, StageRecord]) -> list[dict[str, Any]]:
    """Rows that each curating stage kept, and what it dropped by reason."""
    return [
        {"stage": name, "rows": manifest.rows, "dropped": manifest.dropped}
        for name, manifest in manifests.items()
        if manifest.schema.partition("/")[0] in _FUNNEL_SCHEMAS and not _is_benchmark(name)
    ]


def _is_benchmark(name: str) -> bool:
    return "benchmark" in name


def terms(manifests: Mapping[str, StageRecord]) -> list[dict[str, Any]]:
    """The teachers' terms that the manifests carry, each once."""
    found = []
    for manifest in manifests.values():
        carried = manifest.extra.get("terms")
        if isinstance(carried, Mapping) and dict(carried) not in found:
            found.append(dict(carried))
    return found
