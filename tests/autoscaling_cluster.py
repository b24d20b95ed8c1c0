"""A Ray cluster on this machine whose autoscaler starts and ends real nodes, by Ray's fake provider.

Every process inherits a variable by which it is found at the end: `ray stop` would end other clusters too.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
from ray._raylet import GcsClient
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID
from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply, NodeStatus

from thinkscale.chaos.s3 import free_ports

HEAD = "ray.head.default"
MARK = "THINKSCALE_AUTOSCALING"
STARTS_WITHIN_S = 300


@contextmanager
def autoscaling_cluster(
    directory: Path, groups: Mapping[str, tuple[Mapping[str, float], int]], *, idle_s: float = 6.0
) -> Iterator[str]:
    """Start a head that takes no work; returns its address. Nothing of the cluster outlives the block.

    Args:
        directory: a new one, of a short path, for sockets and logs.
        groups: what each kind of node has, and how many of it there may be.
        idle_s: time after which an idle node is ended.
    """
    directory.mkdir()
    port, client_port = free_ports(2)
    address, mark = f"127.0.0.1:{port}", secrets.token_hex(8)
    config = directory / "autoscaling.json"
    config.write_text(json.dumps(_config(address, groups, idle_s)))
    environment = {
        **os.environ, MARK: mark, "AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_FAKE_CLUSTER": "1",
        "RAY_enable_autoscaler_v2": "1", "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID, "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1",
        "RAY_NODE_TYPE_NAME": HEAD,
    }  # fmt: skip
    command = [
        str(Path(sys.executable).parent / "ray"), "start", "--head", "--block", f"--port={port}", "--num-cpus=0",
        "--node-ip-address=127.0.0.1", f"--ray-client-server-port={client_port}", "--include-dashboard=false",
        f"--temp-dir={directory}", f"--autoscaling-config={config}", f"--object-store-memory={200 << 20}",
        "--include-log-monitor=false",
    ]  # fmt: skip
    log = directory / "head.log"
    with log.open("wb") as out:
        head = subprocess.Popen(command, env=environment, stdout=out, stderr=out, start_new_session=True)
    try:
        deadline = time.monotonic() + STARTS_WITHIN_S
        while "Ray runtime started" not in log.read_text(errors="replace"):
            if head.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the head did not start: {log.read_text(errors='replace')}")
            time.sleep(0.2)
        yield address
    finally:
        while processes := _marked(mark):
            for process in processes:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(processes, timeout=5)
        head.wait()


def worker_nodes(address: str, *, gone: bool = False) -> list[Any]:
    """What the cluster knows of each node beside the head; `gone`: of those that it had, too."""
    status = GetClusterStatusReply.FromString(GcsClient(address=address).get_cluster_status())
    nodes = status.cluster_resource_state.node_states
    return [each for each in nodes if (gone or each.status != NodeStatus.DEAD) and each.ray_node_type_name != HEAD]


def _config(address: str, groups: Mapping[str, tuple[Mapping[str, float], int]], idle_s: float) -> dict[str, Any]:
    kinds = {
        name: {"resources": dict(resources), "node_config": {}, "min_workers": 0, "max_workers": most}
        for name, (resources, most) in groups.items()
    }
    return {
        "cluster_name": "autoscaling",
        "max_workers": sum(most for _, most in groups.values()),
        "upscaling_speed": 4.0,
        "idle_timeout_minutes": idle_s / 60,
        "provider": {
            "type": "external",
            "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
            "launch_multiple": True,
            "head_node_id": FAKE_HEAD_NODE_ID,
            "gcs_address": address,
        },
        "auth": {},
        "available_node_types": {
            **kinds,
            HEAD: {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
        },
        "head_node_type": HEAD,
        "file_mounts": {}, "cluster_synced_files": [], "file_mounts_sync_continuously": False, "rsync_exclude": [],
        "rsync_filter": [], "initialization_commands": [], "setup_commands": [], "head_setup_commands": [],
        "worker_setup_commands": [], "head_start_ray_commands": [], "worker_start_ray_commands": [],
    }  # fmt: skip


def _marked(mark: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):  # it ended meanwhile, or is another user's
            if process.environ().get(MARK) == mark:
                found.append(process)
    return found
