"""What a run that makes no progress waits for: workers that the cluster has no room for. Knows no stage."""

import sys
from collections import Counter
from collections.abc import Mapping

from ray._raylet import GcsClient  # type: ignore[attr-defined]
from ray.autoscaler.v2.sdk import get_cluster_resource_state

import ray

Needs = tuple[tuple[str, float], ...]


def waits_for() -> str:
    """In words, with what each needs and what is free; empty where nothing that was asked for is missing. Raises
    RayError or RuntimeError where the cluster does not answer."""
    if not (pending := _pending()):
        return ""
    total, free = ray.cluster_resources(), ray.available_resources()
    each = (", ".join(f"{n:g} {name}{'s' if n > 1 else ''}" for name, n in needs) or "nothing" for needs in pending)
    needed = "; ".join(f"{n} x {text}" if n > 1 else text for text, n in zip(each, pending.values(), strict=True))
    asked = [name for name in ("CPU", "GPU") if any(name in dict(needs) for needs in pending)]
    has = ", ".join(f"{free.get(name, 0.0):g} of {total.get(name, 0.0):g} {name}s free" for name in asked)
    what = _replicas() or f"{pending.total()} worker{'s' if pending.total() > 1 else ''}"
    return f"waits for {what} (needs {needed}; the cluster has {has or 'no such node'})"


def _replicas() -> str:
    """Replicas that Serve, where this process uses it, wants and has not got."""
    serve = sys.modules.get("ray.serve")
    if serve is None or not serve.context._global_client:
        return ""
    deployments = [each for app in serve.status().applications.values() for each in app.deployments.values()]
    states = Counter[str]()
    for deployment in deployments:
        states.update({str(getattr(state, "value", state)): n for state, n in deployment.replica_states.items()})
    return f"{states['STARTING']} of {states.total()} replicas" if states["STARTING"] else ""


def _pending() -> Counter[Needs]:
    """What tasks, actors and placement groups ask for and have not got, with how often."""
    state = get_cluster_resource_state(GcsClient(address=ray.get_runtime_context().gcs_address))
    found = Counter[Needs]()
    for each in state.pending_resource_requests:
        found[_needs(each.request.resources_bundle)] += each.count
    for selector in (selector for gang in state.pending_gang_resource_requests for selector in gang.bundle_selectors):
        found.update(_needs(request.resources_bundle) for request in selector.resource_requests)
    return found


def _needs(resources: Mapping[str, float]) -> Needs:
    return tuple(sorted((name, n) for name, n in resources.items() if not name.startswith(("bundle_", "node:"))))
