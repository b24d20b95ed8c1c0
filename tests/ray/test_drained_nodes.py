"""A node that its cloud will take back, by a fake instance metadata: it is drained, and what runs there ends in order.

Fine-tuning's side is in test_training_interrupted.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from ray._private.state import GlobalState
from ray._raylet import GcsClientOptions
from test_curation import wait_until
from test_node_loss import run
from test_serving import campaign

import ray
from metadata_server import ACTION, REBALANCE, MetadataServer, metadata_server
from several_nodes import SeveralNodes
from thinkscale.engines.tokenizer import ModelTokenizer
from thinkscale.runtime.replicas import start_replicas, stop_replicas
from tiny_model import write_tiny_model

CALLS, CALL_S = 24, 1.5


def in_seconds(seconds: float) -> dict[str, str]:
    """An instance action of then."""
    at = datetime.now(UTC) + timedelta(seconds=seconds)
    return {"action": "terminate", "time": at.strftime("%Y-%m-%dT%H:%M:%SZ")}


@contextmanager
def watcher(
    cluster: SeveralNodes, node_id: str, server: MetadataServer, *options: str
) -> Iterator[subprocess.Popen[str]]:
    """The watcher, as cluster.yaml starts it on a worker."""
    process = subprocess.Popen(
        [
            sys.executable, "-m", "thinkscale.runtime.drain", "--address", cluster.address, "--node-id", node_id,
            *(options or ("--every", "0.2")),
        ],
        env={**os.environ, "AWS_EC2_METADATA_SERVICE_ENDPOINT": server.url, "PYTHONPATH": os.pathsep.join(sys.path)},
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def cluster() -> Iterator[SeveralNodes]:
    """A head without room for work."""
    found = SeveralNodes(num_cpus=0)
    yield found
    found.shutdown()


@pytest.fixture
def server() -> Iterator[MetadataServer]:
    with metadata_server() as found:
        yield found


def drained_until(cluster: SeveralNodes) -> dict[str, int]:
    """The nodes that are drained, with when they go (ms since 1970; 0: not known)."""
    state = GlobalState()
    state._initialize_global_state(
        GcsClientOptions.create(cluster.address, None, allow_cluster_id_nil=True, fetch_cluster_id_if_nil=True)
    )
    return dict(state.get_draining_nodes())


def calls_on_two_replicas(model: str, marks: str) -> None:
    """In the driver: calls that leave a mark where they begin and where they end, each once. None ends before the drain
    is marked."""
    settings = campaign(replicas=2, cpus_per_replica=1)
    serve = settings.serve.model_copy(update={"max_concurrent_sequences": 1})  # two calls on a replica at most
    handle = start_replicas(settings.model_copy(update={"serve": serve}), model, "drained")

    async def work(engine: Any, tokenizer: ModelTokenizer, number: int) -> None:
        node = ray.get_runtime_context().get_node_id()
        with (Path(marks) / f"begun-{number}-{node}").open("a") as mark:
            mark.write("x")
        while not (Path(marks) / "drained").exists():
            await asyncio.sleep(0.1)
        await asyncio.sleep(CALL_S)
        (Path(marks) / f"ended-{number}-{node}").touch()

    async def all_calls() -> None:
        await asyncio.gather(*(handle.call.remote(work, number) for number in range(CALLS)))

    asyncio.run(all_calls())
    stop_replicas("drained")


def test_replicas_end_their_calls_and_others_take_what_comes(
    cluster: SeveralNodes, server: MetadataServer, tmp_path: Path
) -> None:
    model, marks = write_tiny_model(tmp_path / "model"), tmp_path / "marks"
    marks.mkdir()
    stays, goes = (cluster.add_node(num_cpus=1) for _ in range(2))
    code = "from test_drained_nodes import calls_on_two_replicas; calls_on_two_replicas(sys.argv[2], sys.argv[3])"
    driver = run(cluster, code, str(model), str(marks))

    def numbers(kind: str, node: Any) -> set[str]:
        return {path.name.split("-")[1] for path in marks.glob(f"{kind}-*-{node.node_id}")}

    wait_until(lambda: bool(numbers("begun", stays) and numbers("begun", goes)) or driver.poll() is not None)
    with watcher(cluster, goes.node_id, server) as watching:
        server.said[ACTION] = in_seconds(600)
        wait_until(lambda: goes.node_id in drained_until(cluster))
        (marks / "drained").touch()
        assert driver.wait(900) == 0
        assert watching.wait(900) == 0, "the node has nothing to do, and stays"
    assert numbers("begun", goes) == numbers("ended", goes)
    begun = Counter(path.name.split("-")[1] for path in marks.glob("begun-*"))
    assert begun == Counter(map(str, range(CALLS)))
    assert {path.read_text() for path in marks.glob("begun-*")} == {"x"}
    assert len(numbers("ended", stays)) > len(numbers("ended", goes))
    for node in (stays, goes):
        cluster.remove_node(node)


def test_a_recommendation_drains_too_and_the_notice_sets_the_time(
    cluster: SeveralNodes, server: MetadataServer, tmp_path: Path
) -> None:
    server.said[REBALANCE] = {"noticeTime": "2026-09-18T08:00:00Z"}
    node = cluster.add_node(num_cpus=1)
    with busy(cluster, node.node_id, tmp_path / "busy") as holding, watcher(cluster, node.node_id, server) as watching:
        wait_until(lambda: drained_until(cluster) == {node.node_id: 0})
        server.said[ACTION] = in_seconds(3600)
        at_ms = round(datetime.fromisoformat(server.said[ACTION]["time"]).timestamp() * 1000)
        wait_until(lambda: drained_until(cluster) == {node.node_id: at_ms})
        assert watching.poll() is None
        holding.kill()
        assert watching.wait(900) == 0  # with the node, which has nothing to do any more
    cluster.remove_node(node)


def test_a_recommendation_can_be_ignored_and_a_pod_needs_no_metadata(
    cluster: SeveralNodes, server: MetadataServer, tmp_path: Path
) -> None:
    server.said[REBALANCE] = {"noticeTime": "2026-09-18T08:00:00Z"}
    node = cluster.add_node(num_cpus=1)
    with busy(cluster, node.node_id, tmp_path / "busy"):
        with watcher(cluster, node.node_id, server, "--every", "0.1", "--ignore-rebalance") as watching:
            wait_until(lambda: server.looks > 6)
            assert drained_until(cluster) == {}
            assert watching.poll() is None
        with watcher(cluster, node.node_id, server, "--now", "3600"):
            wait_until(lambda: drained_until(cluster).get(node.node_id, 0) > time.time() * 1000)
    with watcher(cluster, node.node_id, server, "--now", "3600") as ending:
        assert ending.wait(900) == 0
    cluster.remove_node(node)


def test_elsewhere_than_on_ec2_it_says_so(cluster: SeveralNodes, server: MetadataServer) -> None:
    server.server_close()
    with watcher(cluster, cluster.head_node.node_id, server) as watching:
        assert watching.wait(900) == 1
        assert "this is no EC2 instance" in (watching.stderr or sys.stdin).read()


@contextmanager
def busy(cluster: SeveralNodes, node_id: str, mark: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Hold the node's CPU until the block ends, or the driver that it yields; `mark` is made once it is held."""
    code = (
        "from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as On\n"
        "import time\n"
        "on = On(sys.argv[2], soft=False)\n"
        "hold = ray.remote(max_retries=0)(lambda mark: (open(mark, 'w').close(), time.sleep(600)))\n"
        "ray.get(hold.options(num_cpus=1, scheduling_strategy=on).remote(sys.argv[3]))"
    )
    driver = run(cluster, code, node_id, str(mark))
    wait_until(lambda: mark.exists() or driver.poll() is not None)
    try:
        assert driver.poll() is None
        yield driver
    finally:
        driver.kill()
        driver.wait()
