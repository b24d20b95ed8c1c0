"""What a campaign ran on and from, from its settings and manifests: inputs, hardware, losses, duration.

Owns their reading for the report. Knows no stage.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from thinkscale.domain.campaign import Campaign
from thinkscale.store.artifact import Manifest, distinct

LOSSES = {
    "worker_restarts": "restarts of the training's workers",
    "rows_asked_again": "rows asked again after their engine died",
}
"""Sums of a manifest that count what was lost on the way and made good."""


def inputs(campaign: Campaign, manifests: Mapping[str, Manifest]) -> list[dict[str, Any]]:
    """Base model, pool sources and benchmarks: where each comes from, and its licence, rows or hash where known."""
    engines = [engine for manifest in manifests.values() for engine in manifest.engines]
    hashes = distinct(e["model_hash"] for e in engines if e.get("model") == campaign.model.base and "model_hash" in e)
    found = [("base model", campaign.model.base, ", ".join(f"hash {each}" for each in hashes))]
    found += [(f"pool {each.name}", _place(each), f"licence: {each.licence or 'not stated'}") for each in campaign.pool]
    for benchmark in campaign.evaluate.benchmarks:
        manifest = manifests.get(f"benchmarks/{benchmark.name}")
        rows = f"{manifest.rows:,} questions, hash {manifest.fingerprint}" if manifest else ""
        found.append((f"benchmark {benchmark.name}", _place(benchmark.source), rows))
    return [{"input": name, "source": source, "detail": detail} for name, source, detail in found]


def _place(source: Any) -> str:
    if source.type == "files":
        return ", ".join(source.paths)
    if source.type == "added":
        return "added under the root"
    return f"{len(source.families)} procedural families, {source.rows:,} questions, seed {source.seed}"


def hardware(campaign: Campaign, manifests: Mapping[str, Manifest]) -> list[dict[str, Any]]:
    """Per stage with a model: its workers, the device of each, what runs on it, and what was lost on the way."""
    resources, rows = campaign.resources, []
    for name, manifest in manifests.items():
        kind = manifest.schema.partition("/")[0]
        losses = [f"{int(manifest.stats[key]):,} {what}" for key, what in LOSSES.items() if manifest.stats.get(key)]
        workers, cpus, gpus = {
            "model": (manifest.extra.get("workers"), resources.cpus_per_train_worker, resources.gpus_per_train_worker),
            "difficulty": (resources.difficulty_actors, resources.cpus_per_replica, resources.gpus_per_replica),
        }.get(kind, (resources.replicas, resources.cpus_per_replica, resources.gpus_per_replica))
        for engine in manifest.engines:
            software = {key: engine.get(key) for key in ("engine", "version", "torch", "attention", "dtype")}
            rows.append(
                {
                    "stage": name,
                    "workers": workers,
                    "each": f"{cpus:g} CPU" + (f", {gpus:g} GPU" if gpus else ""),
                    "device": engine.get("device", ""),
                    "software": " ".join(f"torch {v}" if k == "torch" else str(v) for k, v in software.items() if v),
                    "lost": ", ".join(losses) or "nothing",
                }
            )
    return rows


def duration_s(manifests: Mapping[str, Manifest]) -> float:
    """Seconds in which some stage was open, from its beginning to its commit; breaks between stages do not count."""
    spans = [(m.began_at, m.created_at) for m in manifests.values() if m.began_at and m.created_at]
    total, until = 0.0, 0.0
    for began, ended in sorted([datetime.fromisoformat(text).timestamp() for text in span] for span in spans):
        total += max(0.0, ended - max(began, until))
        until = max(until, ended)
    return total
