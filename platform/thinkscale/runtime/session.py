"""Joining a Ray cluster, or starting a private local one."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import ray

OBJECT_STORE_BYTES = 1 << 30
"""Of a private cluster; what does not fit is spilled to disk."""

_own: str | None = None
"""Directory of the private cluster that this process started."""


def connect(address: str | None = None, *, cpus: int | None = None) -> None:
    """Join the cluster at `address`, or the one this process is a job of; start a local one where there is none.

    Args:
        address: `auto`, `host:port`, or `local` for a private cluster in any case.
        cpus: logical CPUs of a cluster that is started here; default: the machine's, but at least 4, so
            that small stages (which hold whole logical CPUs) do not wait for each other on a laptop.
    """
    if ray.is_initialized():
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray's own default is one thread a worker too; tokenizers and BLAS in workers follow it.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    if address != "local":
        ray.init(address=address, log_to_driver=False)
        return
    global _own
    # On one machine memory is dear: freed tensors go back at once instead of staying in malloc's arenas.
    for name, value in {
        "MALLOC_ARENA_MAX": "2",
        "MALLOC_MMAP_THRESHOLD_": "1048576",
        "MALLOC_TRIM_THRESHOLD_": "1048576",
    }.items():
        os.environ.setdefault(name, value)
    # A short path of our own: Unix sockets allow 107 bytes, and a stale /tmp/ray slows every start.
    _own = tempfile.mkdtemp(prefix="ts-", dir="/tmp")
    ray.init(
        "local",
        num_cpus=cpus or max(4, os.cpu_count() or 1),
        object_store_memory=OBJECT_STORE_BYTES,
        include_dashboard=False,
        log_to_driver=False,
        _temp_dir=_own,
        # Idle workers keep what they have imported, half a GB with torch: on one machine that is dear.
        _system_config={"num_workers_soft_limit": 0, "idle_worker_killing_time_threshold_ms": 5000},
    )
    token = Path.home() / ".ray" / "auth_token"
    if token.exists():  # Ray leaves it readable for everybody
        token.chmod(0o600)


def owns_cluster() -> bool:
    """Whether the cluster is a private one that this process started: it ends with it, and nobody else is on it."""
    return _own is not None


def disconnect() -> None:
    """Leave the cluster; a private one ends, with its logs."""
    global _own
    ray.shutdown()
    if _own is not None:
        shutil.rmtree(_own, ignore_errors=True)  # processes that end may still write there
    _own = None
