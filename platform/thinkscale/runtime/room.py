"""What a run waits for that its cluster has no room for, in words, and the end of one that waits for what will never be
there: an actor larger than any node, more workers than fit. Never: no node can be started for it, and those that are
there could not hold it if they were empty. What waits for others to end goes on waiting. Knows no stage."""

import sys
import threading
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from ray._raylet import GcsClient  # type: ignore[attr-defined]
from ray.core.generated import autoscaler_pb2 as protocol

import ray
from thinkscale.domain.campaign import Resources
from thinkscale.runtime import ending
from thinkscale.runtime.failure import ClusterError
from thinkscale.runtime.session import owns_cluster

LOOK_EVERY_S = 5.0
PATIENCE_S = 30.0  # the autoscaler's word may be of a moment in which a node came or went
ANSWER_S = 5

Shape = tuple[float, float]  # CPUs and GPUs that one actor holds
Needs = tuple[tuple[str, float], ...]


@contextmanager
def watched(resources: Resources) -> Iterator[None]:
    """End what the main thread is at with a ClusterError, where what it waits for will never come."""
    over = threading.Event()
    shapes: set[Shape] = {  # what others ask for is others' business
        (1.0, resources.gpus_per_embed_actor),
        (resources.cpus_per_replica, resources.gpus_per_replica),
        (resources.cpus_per_train_worker, resources.gpus_per_train_worker),
    }

    def watch(gcs: Any) -> None:
        since = time.monotonic()
        while not over.wait(LOOK_EVERY_S):
            try:
                status = _status(gcs)
            except ray.exceptions.RpcError:  # the session hears of a loss
                continue
            if not (never := unmet(status, shapes)):
                since = time.monotonic()
            elif time.monotonic() - since >= PATIENCE_S and not over.is_set():
                ending.interrupt(ClusterError(never))
                return

    if not owns_cluster():  # of that one preflight knows all
        threading.Thread(target=watch, args=(_gcs(),), daemon=True).start()
    try:
        yield
    finally:
        over.set()


def unmet(status: Any, shapes: Collection[Shape]) -> str:
    """What of these shapes is asked for and will never be there, in words, with what to do; empty: nothing.
    `status`: the GCS's GetClusterStatusReply."""
    scaling, cluster = status.autoscaling_state, status.cluster_resource_state
    single, gangs = scaling.infeasible_resource_requests, scaling.infeasible_gang_resource_requests
    if not scaling.autoscaler_state_version:  # nobody starts nodes
        single = [each.request for each in cluster.pending_resource_requests]
        gangs = cluster.pending_gang_resource_requests
    groups = [[each] for each in single]
    groups += [_bundles(gang) for gang in gangs]
    nodes = [node.total_resources for node in cluster.node_states if node.status != protocol.DEAD]  # type: ignore[attr-defined]
    for wanted in ([dict(each.resources_bundle) for each in group] for group in groups):
        cpus, gpus = (wanted[0].get(kind, 0.0) for kind in ("CPU", "GPU"))
        if (cpus, gpus) in shapes and not _fit(wanted, nodes):
            return (
                f"{len(wanted)} x ({cpus:g} CPUs, {gpus:g} GPUs) at a time are asked for: the cluster has no nodes "
                "with room for that and can start none: lower resources.cpus_per_..., gpus_per_... or the number of "
                "workers, or add such nodes"
            )
    return ""


def _fit(wanted: Sequence[Mapping[str, float]], nodes: Sequence[Mapping[str, float]]) -> bool:
    """Whether the nodes could hold all at the same time, if they were empty."""
    left = [dict(node) for node in nodes]
    for needs in wanted:
        place = next((n for n in left if all(n.get(kind, 0.0) >= amount for kind, amount in needs.items())), None)
        if place is None:
            return False
        for kind, amount in needs.items():
            place[kind] -= amount
    return True


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
    state, found = _status(_gcs()).cluster_resource_state, Counter[Needs]()
    for each in state.pending_resource_requests:
        found[_needs(each.request.resources_bundle)] += each.count
    for gang in state.pending_gang_resource_requests:
        found.update(_needs(each.resources_bundle) for each in _bundles(gang))
    return found


def _needs(resources: Mapping[str, float]) -> Needs:
    return tuple(sorted((name, n) for name, n in resources.items() if not name.startswith(("bundle_", "node:"))))


def _gcs() -> Any:
    return GcsClient(address=ray.get_runtime_context().gcs_address)


def _status(gcs: Any) -> Any:
    return protocol.GetClusterStatusReply.FromString(gcs.get_cluster_status(timeout_s=ANSWER_S))  # type: ignore[attr-defined]


def _bundles(gang: Any) -> list[Any]:
    return [each for selector in gang.bundle_selectors for each in selector.resource_requests]
