"""What a run that makes no progress waits for: workers that the cluster has no room for.

Asks Serve and the cluster's own list of what is asked of it and not there. Knows no stage.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping

from ray._raylet import GcsClient  # type: ignore[attr-defined]
from ray.autoscaler.v2.sdk import get_cluster_resource_state

import ray

_LABELS = ("CPU", "GPU")


def waits_for() -> str:
    """In words, with what each needs and what is free; empty where nothing that was asked for is missing.

    Raises RayError or RuntimeError where the cluster does not answer.
    """
    pending = _pending()
    if not pending:
        return ""
    total, free = ray.cluster_resources(), ray.available_resources()
    names = [_needs(dict(needs)) for needs in pending]
    has = ", ".join(f"{free.get(label, 0.0):g} of {total.get(label, 0.0):g} {label}s free" for label in _LABELS
                    if any(label in dict(needs) for needs in pending))  # fmt: skip
    needed = "; ".join(
        f"{count} x {name}" if count > 1 else name for name, count in zip(names, pending.values(), strict=True)
    )
    what = _replicas() or f"{pending.total()} worker{'s' if pending.total() > 1 else ''}"
    return f"waits for {what} (needs {needed}; the cluster has {has or 'no such node'})"


def _replicas() -> str:
    """Replicas that Serve wants and has not got."""
    serve = sys.modules.get("ray.serve")
    if serve is None or not serve.context._global_client:
        return ""
    starting, wanted = 0, 0
    for application in serve.status().applications.values():
        for deployment in application.deployments.values():
            states = {str(getattr(state, "value", state)): n for state, n in deployment.replica_states.items()}
            wanted += sum(states.values())
            starting += states.get("STARTING", 0)
    return f"{starting} of {wanted} replicas" if starting else ""


def _pending() -> Counter[tuple[tuple[str, float], ...]]:
    """What tasks, actors and placement groups ask for and have not got, with how often."""
    state = get_cluster_resource_state(GcsClient(address=ray.get_runtime_context().gcs_address))
    found: Counter[tuple[tuple[str, float], ...]] = Counter()
    for each in state.pending_resource_requests:
        found[_bundle(each.request.resources_bundle)] += each.count
    for gang in state.pending_gang_resource_requests:
        for request in (each for selector in gang.bundle_selectors for each in selector.resource_requests):
            found[_bundle(request.resources_bundle)] += 1
    return found


def _bundle(resources: Mapping[str, float]) -> tuple[tuple[str, float], ...]:
    return tuple(sorted((name, n) for name, n in resources.items() if not name.startswith(("bundle_", "node:"))))


def _needs(resources: Mapping[str, float]) -> str:
    return ", ".join(f"{n:g} {name}{'s' if n > 1 else ''}" for name, n in resources.items()) or "nothing"
