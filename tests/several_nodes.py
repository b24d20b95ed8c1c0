"""A Ray cluster of several nodes that this process starts, and can lose."""

from __future__ import annotations

from typing import Any

from ray._private.services import node_ip_address_from_perspective
from ray.cluster_utils import Cluster


class SeveralNodes(Cluster):
    """A head, and nodes that are added; a death is seen after a second. They have the machine's own address, where
    drivers look for them: without it they took that of this process's node, which on a private cluster is loopback's.
    """

    def __init__(self, **head: Any) -> None:
        health = {
            "health_check_initial_delay_ms": 0,
            "health_check_period_ms": 300,
            "health_check_failure_threshold": 3,
        }
        args = {**head, "_system_config": health, "include_dashboard": False}
        super().__init__(initialize_head=True, head_node_args=args)

    def add_node(self, **args: Any) -> Any:
        address = node_ip_address_from_perspective()
        return super().add_node(node_ip_address=address, object_store_memory=100 << 20, **args)
