"""Fine-tuning that is told to end, or loses its driver or a node: what it costs, and that the losses stay."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_curation import wait_until
from test_drained_nodes import in_seconds, watcher
from test_training import base, make_campaign, write_traces  # noqa: F401

from metadata_server import ACTION, metadata_server
from several_nodes import SeveralNodes
from thinkscale.domain.campaign import Campaign, Prices
from thinkscale.domain.reference import commented_toml
from thinkscale.store.artifact import Artifact
from thinkscale.store.filesystem import Store

STEPS = 120
DRIVER = """
import sys, ray
ray.init(address=sys.argv[1], log_to_driver=False)
from pathlib import Path
from thinkscale.stages.train import train
from thinkscale.domain.campaign import Campaign
from thinkscale.store.filesystem import Store
campaign = Campaign.model_validate_json(Path(sys.argv[2]).read_text())
train(campaign, Store(campaign.root))
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[SeveralNodes]:
    """Two nodes with room for one worker each."""
    found = SeveralNodes(num_cpus=1, num_gpus=1)  # a device that a test holds, to spend
    found.add_node(num_cpus=1)
    yield found
    found.shutdown()


class Run:
    """One campaign's fine-tuning, by one driver process after the other."""

    def __init__(
        self, cluster: SeveralNodes, root: Path, base: Path, *, fewest: int | None = None, epochs: int = 3  # noqa: F811
    ) -> None:  # fmt: skip
        self.total = STEPS // 3 * epochs
        campaign = make_campaign(root, base, epochs=epochs, checkpoint_every_steps=20)
        resources = campaign.resources.model_copy(update={"min_train_workers": fewest})
        write_traces(root, count=STEPS // 3 * 4)
        (root / "campaign.json").write_text(campaign.model_copy(update={"resources": resources}).model_dump_json())
        self.root, self.address = root, cluster.address
        self.checkpoints = root / "tiny" / "model" / "checkpoints"

    def start(self, poll_s: float = 0.2) -> subprocess.Popen[str]:
        """A driver; `poll_s`: how often Ray Train looks for nodes that are drained."""
        settings = {
            "PYTHONPATH": os.pathsep.join(sys.path), "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1",
            "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": str(poll_s), "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "5",
        }  # fmt: skip
        return subprocess.Popen(
            [sys.executable, "-c", DRIVER, self.address, str(self.root / "campaign.json")],
            env={**os.environ, **settings}, stderr=(self.root / "said").open("a"), text=True,
        )  # fmt: skip

    def wait_for_checkpoint(self, driver: subprocess.Popen[str], above: int = 0) -> None:
        def newest() -> int:
            return max((int(p.parent.name.split("-")[1]) for p in self.checkpoints.glob("step-*/.metadata")), default=0)

        wait_until(lambda: newest() > above or driver.poll() is not None)
        assert driver.poll() is None, self.said()

    def said(self) -> str:
        return (self.root / "said").read_text()

    def stopped_after(self) -> int:
        found = re.search(rf"stopped after step (\d+) of {self.total}, which is saved", self.said())
        assert found, self.said()
        return int(found[1])

    def steps(self) -> list[dict[str, Any]]:
        lines = Artifact(Store(str(self.root)), "tiny/model").read_file("metrics.jsonl").splitlines()
        return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def undisturbed(cluster: SeveralNodes, tmp_path_factory: pytest.TempPathFactory, base: Path) -> list[float]:  # noqa: F811
    run = Run(cluster, tmp_path_factory.mktemp("undisturbed"), base)
    assert run.start().wait(900) == 0, run.said()
    return [step["loss"] for step in run.steps()]


def test_a_drained_node_costs_no_step_and_training_goes_on_with_one_worker_less(
    cluster: SeveralNodes, tmp_path: Path, base: Path, undisturbed: list[float]  # noqa: F811
) -> None:  # fmt: skip
    run = Run(cluster, tmp_path, base, fewest=1)
    driver = run.start()
    run.wait_for_checkpoint(driver)
    (node,) = cluster.worker_nodes
    with metadata_server() as server, watcher(cluster, node.node_id, server) as watching:
        server.said[ACTION] = in_seconds(60)
        wait_until(lambda: "a node is to be taken back" in run.said() or driver.poll() is not None)
        stopped = run.stopped_after()
        assert watching.wait(900) == 0  # once it has nothing to do any more the node ends by itself
    assert driver.wait(900) == 0, run.said()
    steps = run.steps()
    assert [step["step"] for step in steps] == list(range(1, STEPS + 1))
    assert [step["ranks"] for step in steps] == [2] * stopped + [1] * (STEPS - stopped)
    assert [step["loss"] for step in steps] == pytest.approx(undisturbed, rel=1e-4)
    cluster.add_node(num_cpus=1)


def test_a_driver_that_is_told_to_end_and_then_killed_resumes_each_time(
    cluster: SeveralNodes, tmp_path: Path, base: Path, undisturbed: list[float]  # noqa: F811
) -> None:  # fmt: skip
    run = Run(cluster, tmp_path, base)
    driver = run.start()
    run.wait_for_checkpoint(driver)
    driver.send_signal(signal.SIGTERM)
    assert driver.wait(900) in (1, 143)  # outside of the command line Ray's wait may have made it 1
    stopped = run.stopped_after()
    assert list(run.checkpoints.glob(f"step-{stopped}-*/.metadata"))
    driver = run.start()
    run.wait_for_checkpoint(driver, above=stopped)
    driver.kill()
    driver.wait(900)
    assert run.start().wait(900) == 0, run.said()
    assert [step["loss"] for step in run.steps()] == pytest.approx(undisturbed, rel=1e-5)


HOLDS = """
import sys, ray
ray.init(address=sys.argv[1], log_to_driver=False)
print("ready", flush=True)
sys.stdin.readline()
group = ray.util.placement_group([{"GPU": 1}])  # needs no process to start
sys.stdin.read()
"""


def test_max_usd_and_deadline_end_training_in_order_and_with_more_it_goes_on(
    cluster: SeveralNodes, tmp_path: Path, base: Path, undisturbed: list[float]  # noqa: F811
) -> None:  # fmt: skip
    """Training itself costs nothing here: the dollars begin when the test takes the cluster's GPU."""
    run = Run(cluster, tmp_path, base)
    campaign = Campaign.model_validate_json((tmp_path / "campaign.json").read_text())
    campaign = campaign.model_copy(update={"prices": Prices(gpu_hour_usd=36000.0)})
    (tmp_path / "campaign.toml").write_text("\n".join(commented_toml(campaign)))

    def start(*limits: str) -> subprocess.Popen[str]:
        command = ["train", str(tmp_path / "campaign.toml"), "--address", cluster.address, *limits]
        return subprocess.Popen(
            [sys.executable, "-c", "from thinkscale.cli import main; main()", *command],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}, stdout=subprocess.DEVNULL,
            stderr=(tmp_path / "said").open("w"), text=True,
        )  # fmt: skip

    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDS, cluster.address], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdin is not None
    assert holder.stdout.readline() == "ready\n"
    limited = start("--max-usd", "2")
    run.wait_for_checkpoint(limited)
    holder.stdin.write("go\n")
    holder.stdin.flush()
    assert limited.wait(900) == 1, run.said()
    holder.communicate("")
    stopped = run.stopped_after()
    assert list(run.checkpoints.glob(f"step-{stopped}-*/.metadata"))
    assert re.search(r"^thinkscale: max_usd = 2: \$[\d.]+ are spent on campaign 'tiny'; what is", run.said(), re.M)

    late = start("--deadline", "0.05m")
    assert late.wait(900) == 1, run.said()
    assert "thinkscale: deadline = 0.05m; what is committed is kept, and with more" in run.said()
    assert "Traceback" not in run.said()

    assert start("--max-usd", "1000").wait(900) == 0, run.said()
    resumed = re.search(rf"(\d+)/{STEPS} steps  already done, resuming", run.said())
    assert resumed, run.said()
    assert int(resumed[1]) >= stopped
    assert [step["loss"] for step in run.steps()] == pytest.approx(undisturbed, rel=1e-5)
