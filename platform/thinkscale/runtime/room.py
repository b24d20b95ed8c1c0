"""Ending a run that waits for what its cluster will never have: an actor larger than any node, more workers than fit.

Owns what counts as never: the autoscaler (where there is none, nobody) can start a node for it, and the nodes that are
there could not hold it if they were empty. What merely waits for others to end goes on waiting.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from ray._raylet import GcsClient  # type: ignore[attr-defined]
from ray.core.generated import autoscaler_pb2

import ray
from thinkscale.domain.campaign import Resources
from thinkscale.runtime import ending
from thinkscale.runtime.failure import ClusterError
from thinkscale.runtime.session import owns_cluster

LOOK_EVERY_S = 5.0
PATIENCE_S = 30.0
"""The autoscaler's word may be of a moment in which a node came or went."""
ANSWER_S = 5

Shape = tuple[float, float]
"""CPUs and GPUs of one actor."""


@contextmanager
def watched(resources: Resources) -> Iterator[None]:
    """End what the main thread is at with a ClusterError, where what it waits for will never come."""
    if owns_cluster():  # one node, whose room was looked at before
        yield
        return
    over = threading.Event()
    shapes = _shapes(resources)
    thread = threading.Thread(target=_watch, args=(over, ray.get_runtime_context().gcs_address, shapes), daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _shapes(resources: Resources) -> dict[Shape, str]:
    """What the campaign's actors hold each, with the settings that say so; others' requests are others' business."""
    found: dict[Shape, str] = {}
    for unit, kinds in (("embed_actor", ("gpus",)), ("replica", ("cpus", "gpus")), ("train_worker", ("cpus", "gpus"))):
        held = [float(getattr(resources, f"{kind}_per_{unit}")) for kind in kinds]
        shape = (held[0], held[1]) if len(held) > 1 else (1.0, held[0])
        names = [f"resources.{kind}_per_{unit}" for kind in kinds]
        found[shape] = ", ".join(filter(None, [found.get(shape), *names]))
    return found


def _watch(over: threading.Event, address: str, shapes: Mapping[Shape, str]) -> None:
    gcs, since = GcsClient(address=address), None
    while not over.wait(LOOK_EVERY_S):
        try:
            reply = autoscaler_pb2.GetClusterStatusReply.FromString(gcs.get_cluster_status(timeout_s=ANSWER_S))  # type: ignore[attr-defined]
        except ray.exceptions.RpcError:  # the session hears of a loss
            continue
        never = unmet(reply, shapes)
        since = (since or time.monotonic()) if never else None
        if since is not None and time.monotonic() - since >= PATIENCE_S:
            ending.interrupt(ClusterError(never))
            return


def unmet(status: Any, shapes: Mapping[Shape, str]) -> str:
    """What of these shapes is asked for and will never be there, in words, with what to do; empty: nothing.

    Args:
        status: the GCS's GetClusterStatusReply.
    """
    scaling, cluster = status.autoscaling_state, status.cluster_resource_state
    nodes = [node.total_resources for node in cluster.node_states if node.status != autoscaler_pb2.DEAD]  # type: ignore[attr-defined]
    if scaling.autoscaler_state_version:
        single, gangs = scaling.infeasible_resource_requests, scaling.infeasible_gang_resource_requests
    else:
        single = [each.request for each in cluster.pending_resource_requests]
        gangs = cluster.pending_gang_resource_requests
    groups = [[each] for each in single]
    groups += [list(each.requests) or [r for s in each.bundle_selectors for r in s.resource_requests] for each in gangs]
    for group in groups:
        wanted = [dict(each.resources_bundle) for each in group]
        setting = shapes.get((wanted[0].get("CPU", 0.0), wanted[0].get("GPU", 0.0)))
        if setting is not None and not _fits(wanted, nodes):
            needs = " and ".join(f"{wanted[0][kind]:g} {kind}s" for kind in ("CPU", "GPU") if wanted[0].get(kind))
            what = f"{len(wanted)} workers at a time with {needs} each" if len(wanted) > 1 else f"one node with {needs}"
            return (
                f"{what} are asked for, this cluster has no room for that and can start none: lower "
                f"{setting}{', or the number of them' if len(wanted) > 1 else ''}, or add such nodes"
            )
    return ""


def _fits(wanted: Sequence[Mapping[str, float]], nodes: Sequence[Mapping[str, float]]) -> bool:
    """Whether the nodes could hold all at the same time, if they were empty."""
    left = [dict(node) for node in nodes]
    for needs in wanted:
        place = next((n for n in left if all(n.get(kind, 0.0) >= amount for kind, amount in needs.items())), None)
        if place is None:
            return False
        for kind, amount in needs.items():
            place[kind] -= amount
    return True
