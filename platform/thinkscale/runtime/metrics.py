"""Figures of a campaign's run for Prometheus, through Ray's metrics: names, meanings, and how they are set.
Whoever counts something for progress, the ledger or a manifest tells it here too; nothing is counted here alone. Ray
exports each name as `ray_<name>` on the cluster's nodes. Without Ray nothing is done."""

import re
import sys
from collections.abc import Mapping
from typing import Any

GAUGES = {
    "thinkscale_rows_done": "Rows of the stage at work that are committed: questions, traces, steps or samples.",
    "thinkscale_rows_left": "Rows of the stage at work that are not committed yet.",
    "thinkscale_rows_per_second": "Rows a second that the stage at work commits in this run.",
    "thinkscale_seconds_left": "Seconds that the run will still take, by its rate and its plan.",
    "thinkscale_seconds_without_progress": "Seconds since anything was committed.",
    "thinkscale_usd": "Dollars over all runs of the campaign, by the stage that held what they paid.",
    "thinkscale_replicas": "Replicas that are held, or workers of fine-tuning.",
}
COUNTERS = {
    "thinkscale_gpu_seconds": "GPU-seconds held, by use: busy, startup, idle or tail.",
    "thinkscale_cpu_seconds": "CPU-seconds held, by use: busy, startup, idle or tail.",
    "thinkscale_tokens": "Tokens, by kind: decoded, attempt (decoded in attempts), prompt or trained.",
    "thinkscale_lost_workers": "Workers of fine-tuning and replicas that died and were replaced.",
    "thinkscale_retries": "Times that a row was asked again because its engine died.",
}
_STATS = (  # the sums of manifests, by what they are exported as and the label that tells them apart
    (r"gpu_(busy|startup|idle|tail)_s", "thinkscale_gpu_seconds", "use"),
    (r"cpu_(busy|startup|idle|tail)_s", "thinkscale_cpu_seconds", "use"),
    (r"(decoded|attempt|prompt|trained)_tokens", "thinkscale_tokens", "kind"),
    (r"lost_workers", "thinkscale_lost_workers", None),
    (r"rows_asked_again", "thinkscale_retries", None),
)

at = {"campaign": "", "stage": ""}  # what this driver works on
_made: dict[str, Any] = {}


def set_gauge(name: str, value: float, stage: str | None = None) -> None:
    """Set one of GAUGES, of the stage at work unless another is named."""
    if (gauge := _metric(name, "Gauge", GAUGES[name])) is not None:
        gauge.set(value, {**at, "stage": stage or at["stage"]})


def count(stats: Mapping[str, float]) -> None:
    """Add what a committed segment took, or a step, by the names of a manifest's sums; others are left out."""
    for stat, value in stats.items():
        for pattern, name, label in _STATS:
            if value > 0 and (found := re.fullmatch(pattern, stat)):
                tags = {label: found[1]} if label else {}
                if (counter := _metric(name, "Counter", COUNTERS[name], *tags)) is not None:
                    counter.inc(value, at | tags)


def _metric(name: str, kind: str, told: str, *labels: str) -> Any:
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return None
    from ray.util import metrics

    if name not in _made:
        _made[name] = getattr(metrics, kind)(name, told, (*at, *labels))
    return _made[name]
