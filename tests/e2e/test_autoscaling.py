"""A run on a cluster that starts with its head alone: nodes come, what none can hold is told, and all go again.

benchmarks/autoscaling.py runs a whole campaign there.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from autoscaling_cluster import autoscaling_cluster, worker_nodes
from thinkscale.runtime import scratch
from tiny_model import write_tiny_model

CAMPAIGN = Path(__file__).parents[1] / "campaigns" / "tiny.toml"
WITHIN_S = 600


@pytest.fixture
def address(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with (
        scratch.directory("ta-", scratch.SHORT) as directory,
        autoscaling_cluster(directory / "r", {"cpu": ({"CPU": 2}, 2)}, idle_s=3.0) as found,
    ):
        yield found


def test_nodes_come_and_go_and_what_none_can_hold_is_told(address: str, tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "model")
    assert len(worker_nodes(address)) == 0
    run = subprocess.Popen(
        [
            sys.executable, "-c", "from thinkscale.cli import main; main()", "run", str(CAMPAIGN), "--to", "difficulty",
            "--root", str(tmp_path / "runs"), "--address", address, "--set", f'model.base="{model}"',
            "--set", "resources.cpus_per_replica=3",
        ],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    try:
        said, told = run.communicate(timeout=2 * WITHIN_S)
    finally:
        run.kill()
        run.wait()
    assert worker_nodes(address, gone=True), told
    assert run.returncode == 1
    assert "1 x (3 CPUs, 0 GPUs) at a time are asked for: the cluster has no nodes with room for that" in told
    assert "difficulty:" in said
    over = time.monotonic()
    while worker_nodes(address):
        assert time.monotonic() - over < WITHIN_S, "an idle node stays"
        time.sleep(0.5)
