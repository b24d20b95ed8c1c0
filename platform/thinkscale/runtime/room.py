"""Ending a run that waits for what its cluster will never have: an actor larger than any node, more workers than fit.
Never: no node can be started for it, and those that are there could not hold it if they were empty. What waits for
others to end goes on waiting."""

import threading
import time
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
                status = protocol.GetClusterStatusReply.FromString(gcs.get_cluster_status(timeout_s=ANSWER_S))  # type: ignore[attr-defined]
            except ray.exceptions.RpcError:  # the session hears of a loss
                continue
            if not (never := unmet(status, shapes)):
                since = time.monotonic()
            elif time.monotonic() - since >= PATIENCE_S and not over.is_set():
                ending.interrupt(ClusterError(never))
                return

    if not owns_cluster():  # of that one preflight knows all
        gcs = GcsClient(address=ray.get_runtime_context().gcs_address)
        threading.Thread(target=watch, args=(gcs,), daemon=True).start()
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
    groups += [[each for selector in gang.bundle_selectors for each in selector.resource_requests] for gang in gangs]
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
