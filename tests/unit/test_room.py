"""What a cluster will never have room for, told from what merely waits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from ray.core.generated.autoscaler_pb2 import DEAD, RUNNING, GetClusterStatusReply

from thinkscale.runtime.room import unmet

REPLICA, WORKER = {"CPU": 4.0, "GPU": 1.0}, {"CPU": 2.0}
SHAPES = {(4.0, 1.0), (2.0, 0.0)}


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
        (status([], infeasible=[REPLICA]), "1 x (4 CPUs, 1 GPUs) at a time are asked for"),
        (status([{"CPU": 64.0}], infeasible=[REPLICA]), "1 x (4 CPUs, 1 GPUs)"),
        (status([FULL], infeasible=[REPLICA]), ""),  # it waits for what is under way there
        (status([FULL], infeasible=[REPLICA], state=DEAD), "1 x (4 CPUs, 1 GPUs)"),
        (status([], infeasible=[{"CPU": 3.0}]), ""),  # somebody else's
        (status([], pending=[REPLICA]), ""),  # a node is on its way
        (status([], pending=[REPLICA], scales=False), "1 x (4 CPUs, 1 GPUs)"),
        (status([FULL], pending=[REPLICA], scales=False), ""),
        (status([], gang=[WORKER] * 3), "3 x (2 CPUs, 0 GPUs) at a time"),
        (status([{"CPU": 4.0}], gang=[WORKER] * 3), "3 x (2 CPUs, 0 GPUs)"),
        (status([{"CPU": 4.0}, {"CPU": 3.0}], gang=[WORKER] * 3), ""),
        (status([{"CPU": 3.0}, {"CPU": 3.0}], gang=[WORKER] * 3), "3 x (2 CPUs, 0 GPUs)"),
    ],
)
def test_what_will_never_be_there(found: Any, told: str) -> None:
    assert told in unmet(found, SHAPES)
    assert bool(unmet(found, SHAPES)) == bool(told)
