"""What a cluster will never have room for, told from what merely waits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from ray.core.generated.autoscaler_pb2 import DEAD, RUNNING, GetClusterStatusReply

from thinkscale.domain.campaign import Resources
from thinkscale.runtime.room import _shapes, unmet

REPLICA, WORKER = {"CPU": 4.0, "GPU": 1.0}, {"CPU": 2.0}
SHAPES = {(4.0, 1.0): "the replica's settings", (2.0, 0.0): "the worker's settings"}


def status(
    nodes: list[dict[str, float]],
    *,
    infeasible: list[Mapping[str, float]] | None = None,
    gang: list[Mapping[str, float]] | None = None,
    pending: list[Mapping[str, float]] | None = None,
    scales: bool = True,
    state: int = RUNNING,
) -> Any:
    reply = GetClusterStatusReply()
    scaling, cluster = reply.autoscaling_state, reply.cluster_resource_state
    scaling.autoscaler_state_version = int(scales)
    for total in nodes:
        cluster.node_states.add(status=state, total_resources=total)
    for needs in infeasible or []:
        scaling.infeasible_resource_requests.add(resources_bundle=needs)
    if gang:
        request = scaling.infeasible_gang_resource_requests.add().bundle_selectors.add()
        for needs in gang:
            request.resource_requests.add(resources_bundle=needs)
    for needs in pending or []:
        cluster.pending_resource_requests.add(count=2).request.resources_bundle.update(needs)
    return reply


FULL = {"CPU": 8.0, "GPU": 1.0, "memory": 1e9}


@pytest.mark.parametrize(
    ("found", "told"),
    [
        (status([]), ""),
        (status([], infeasible=[REPLICA]), "one node with 4 CPUs and 1 GPUs are asked for"),
        (status([{"CPU": 64.0}], infeasible=[REPLICA]), "lower the replica's settings, or add such nodes"),
        (status([FULL], infeasible=[REPLICA]), ""),  # it waits for what is under way there
        (status([FULL], infeasible=[REPLICA], state=DEAD), "the replica's settings"),
        (status([], infeasible=[{"CPU": 3.0}]), ""),  # somebody else's
        (status([], pending=[REPLICA]), ""),  # a node is on its way
        (status([], pending=[REPLICA], scales=False), "the replica's settings"),
        (status([FULL], pending=[REPLICA], scales=False), ""),
        (status([], gang=[WORKER] * 3), "3 workers at a time with 2 CPUs each"),
        (status([{"CPU": 4.0}], gang=[WORKER] * 3), "lower the worker's settings, or the number of them, or add"),
        (status([{"CPU": 4.0}, {"CPU": 3.0}], gang=[WORKER] * 3), ""),
        (status([{"CPU": 3.0}, {"CPU": 3.0}], gang=[WORKER] * 3), "3 workers at a time"),
    ],
)
def test_what_will_never_be_there(found: Any, told: str) -> None:
    assert told in unmet(found, SHAPES)
    assert bool(unmet(found, SHAPES)) == bool(told)


def test_the_settings_are_those_of_the_campaign() -> None:
    found = _shapes(Resources(cpus_per_replica=8, gpus_per_replica=2, cpus_per_train_worker=3, gpus_per_train_worker=1))
    assert "replica" in found[8.0, 2.0]
    assert "train_worker" in found[3.0, 1.0]
    assert "embed_actor" in found[1.0, 0.0]


def test_two_kinds_of_actors_of_one_shape_are_both_named() -> None:
    [setting] = [each for shape, each in _shapes(Resources()).items() if shape == (4.0, 1.0)]
    assert all(f"resources.{kind}" in setting for kind in ("cpus_per_replica", "cpus_per_train_worker"))
