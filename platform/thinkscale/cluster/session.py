"""Joining a Ray cluster, or starting a private local one."""

from __future__ import annotations

import os
import tempfile

import ray

_own = False


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
    # A short path of our own: Unix sockets allow 107 bytes, and a stale /tmp/ray slows every start.
    directory = tempfile.mkdtemp(prefix="ts-", dir="/tmp")
    ray.init(
        "local",
        num_cpus=cpus or max(4, os.cpu_count() or 1),
        include_dashboard=False,
        log_to_driver=False,
        _temp_dir=directory,
    )
    global _own
    _own = True


def owns_cluster() -> bool:
    """Whether the cluster is a private one that this process started: it ends with it, and nobody else is on it."""
    return _own


def disconnect() -> None:
    global _own
    _own = False
    ray.shutdown()
