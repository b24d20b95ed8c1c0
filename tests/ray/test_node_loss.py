"""A node dies under curation: what it had under way runs elsewhere, and the rows are those of an undisturbed run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from test_curation import STAGES, began, campaign, numbers, wait_until

from several_nodes import SeveralNodes
from thinkscale.domain.campaign import Campaign
from thinkscale.store.artifact import Artifact
from thinkscale.store.filesystem import Store

SLOTS, SEGMENTS = 2, 160  # of 0.3 s: many are left when the node is lost, however late the test sees that it may be
"""Segments that the lost node has under way at most."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[SeveralNodes]:
    """A head that works too."""
    found = SeveralNodes(num_cpus=SLOTS)
    yield found
    found.shutdown()


def run(cluster: SeveralNodes, code: str, *arguments: str) -> subprocess.Popen[bytes]:
    """A driver of its own on the cluster."""
    start = "import sys, ray; ray.init(address=sys.argv[1], log_to_driver=False); "
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[1]), *sys.path]
    return subprocess.Popen(
        [sys.executable, "-c", start + code, cluster.address, *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "RAY_USAGE_STATS_ENABLED": "0"},
    )


def parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def lose_a_node(cluster: SeveralNodes, driver: subprocess.Popen[bytes], ready: Callable[[int], bool]) -> None:
    """SIGKILL the other node's raylet once `ready` (told its pid) says so; the driver goes on to its end."""
    [node] = cluster.worker_nodes
    raylet = node.all_processes["raylet"][0].process.pid
    wait_until(lambda: ready(raylet) or driver.poll() is not None)
    assert driver.poll() is None, "the driver was done before"
    os.kill(raylet, signal.SIGKILL)
    assert driver.wait(900) == 0
    cluster.remove_node(node)


def test_a_lost_node_costs_its_segments_and_no_more(cluster: SeveralNodes, tmp_path: Path) -> None:
    store, marks = Store(str(tmp_path / "runs")), tmp_path / "marks"
    marks.mkdir()
    numbers(store, 5 * SEGMENTS)
    cluster.add_node(num_cpus=SLOTS)
    code = "from test_curation import resume; resume(sys.argv[2], sys.argv[3], 0.3, False)"
    driver = run(cluster, code, store.uri, str(marks))

    def has_worked(raylet: int) -> bool:
        pids = [int(mark.name.split("-")[1]) for mark in marks.iterdir()]
        return sum(parent(pid) == raylet for pid in pids) > SLOTS

    lose_a_node(cluster, driver, has_worked)
    ids = Artifact(store, "copied").read().column("id").to_pylist()
    assert ids == [str(i) for i in range(5 * SEGMENTS)]
    marked = began(marks)
    assert SEGMENTS <= sum(marked.values()) <= SEGMENTS + SLOTS


def curate(path: str) -> None:
    """In the driver: the benchmarks and the pool."""
    settings = Campaign.model_validate_json(Path(path).read_text())
    for stage in STAGES[:2]:
        stage(settings, Store(settings.root))


def curated(settings: Campaign) -> dict[str, Any]:
    """Rows and dropped rows of each artifact, by name."""
    store, found = Store(settings.root), {}
    for name in ("ingested", "pool"):
        artifact = Artifact(store, f"{settings.name}/{name}")
        dropped = artifact.read_dropped()
        found[name] = (artifact.read().to_pylist(), dropped and dropped.to_pylist())
    return found


def test_curation_that_loses_a_node_ends_with_the_rows_of_an_undisturbed_run(
    cluster: SeveralNodes, tmp_path: Path
) -> None:
    gym = {"type": "reasoning_gym", "name": "gym", "families": ["gcd", "chain_sum", "aiw"], "rows": 300}
    settings = campaign(tmp_path)
    pool = [settings.pool[0].model_dump(), gym]
    settings = campaign(tmp_path, pool=pool, curate={"segment_rows": 8, "near_duplicate_similarity": 0.6})
    code = "from test_node_loss import curate; curate(sys.argv[2])"
    found = []
    for name in ("disturbed", "undisturbed"):
        one = settings.model_copy(update={"root": str(tmp_path / name)})
        (tmp_path / f"{name}.json").write_text(json.dumps(one.model_dump()))
        if name == "disturbed":
            cluster.add_node(num_cpus=SLOTS)
        driver = run(cluster, code, str(tmp_path / f"{name}.json"))
        if name == "disturbed":
            segments = tmp_path / name / "curated" / "ingested" / "segments"
            lose_a_node(cluster, driver, lambda _, segments=segments: len(list(segments.glob("*.json"))) >= 6)
        assert driver.wait(900) == 0
        found.append(curated(one))
    assert len(found[0]["ingested"][0]) > 290
    assert found[0] == found[1]
