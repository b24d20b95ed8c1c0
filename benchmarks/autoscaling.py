"""A campaign on a cluster that starts with its head alone: nodes over time, and what each stage leaves on them.

    python benchmarks/autoscaling.py

tests/campaigns/tiny.toml with a random model, on real Ray nodes of 2 CPUs that Ray's fake provider starts and ends on
this machine: at most 3 of them, idle ones go after 6 s. Then campaigns that no such nodes can hold: how long until they
are told.
"""

from __future__ import annotations

import os
import re
import secrets
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16), "RAY_USAGE_STATS_ENABLED": "0"}

from ray._private.state import GlobalState
from ray._raylet import GcsClientOptions
from ray.core.generated.autoscaler_pb2 import NodeStatus

from recording import record

TESTS = Path(__file__).parents[1] / "tests"
sys.path.insert(0, str(TESTS))

from autoscaling_cluster import autoscaling_cluster, worker_nodes  # noqa: E402
from tiny_model import write_tiny_model  # noqa: E402

CPUS, MOST, IDLE_S, DOWN_WITHIN_S = 2, 3, 6.0, 60.0
STAGE = re.compile(r"\[\d+/\d+\] (\w+)")
SETTINGS = {
    "resources.replicas": MOST, "resources.cpus_per_replica": CPUS, "resources.cpus_per_train_worker": CPUS,
    "resources.threads_per_actor": 1, "train.pack_tokens": 512,
}  # fmt: skip
REFUSED = {
    "an actor that is larger than a node": {"resources.cpus_per_train_worker": 2 * CPUS, "resources.train_workers": 1},
    "more workers at a time than nodes": {"resources.train_workers": MOST + 1},
}


class Watch:
    """Samples of a cluster, twice a second."""

    def __init__(self, address: str) -> None:
        self._address, self._began, self.stage = address, time.monotonic(), ""
        self._actors = GlobalState()
        self._actors._initialize_global_state(
            GcsClientOptions.create(address, None, allow_cluster_id_nil=True, fetch_cluster_id_if_nil=True)
        )
        self.samples: list[tuple[float, str, int, int, frozenset[str]]] = []
        """Seconds since the beginning, stage, worker nodes, busy ones of them, actors on them."""

    def look(self) -> int:
        workers = worker_nodes(self._address)
        ids = {node.node_id.hex() for node in workers}
        actors = frozenset(
            f"{actor['ActorClassName']} {id}"
            for id, actor in self._actors.actor_table(None, actor_state_name="ALIVE").items()
            if actor["Address"]["NodeID"] in ids
        )
        busy = sum(node.status == NodeStatus.RUNNING for node in workers)
        self.samples.append((round(time.monotonic() - self._began, 1), self.stage, len(workers), busy, actors))
        return len(workers)

    @contextmanager
    def going(self) -> Iterator[None]:
        over = threading.Event()

        def watch() -> None:
            while not over.wait(0.5):
                self.look()

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def curve(self) -> list[list[Any]]:
        """Seconds, stage, nodes and busy nodes, where any of them changed."""
        kept: list[list[Any]] = []
        for second, *rest, _ in self.samples:
            if not kept or kept[-1][1:] != rest:
                kept.append([second, *rest])
        return kept

    def released_s(self, stage: str) -> float | None:
        """From a stage's end until none of its actors was on a worker node; None where that was never."""
        last = [each for each in self.samples if each[1] == stage][-1]
        later = [each for each in self.samples if each[0] >= last[0]]
        return next((round(each[0] - last[0], 1) for each in later if not each[4] & last[4]), None)


def command(address: str, root: str, model: Path, **settings: object) -> list[str]:
    found = [str(Path(sys.executable).parent / "thinkscale"), "run", str(TESTS / "campaigns" / "tiny.toml")]
    found += ["--root", root, "--address", address, "--set", f'model.base="{model}"']
    return found + [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="ta-", dir="/tmp") as scratch:
        model = write_tiny_model(Path(scratch) / "model")
        with autoscaling_cluster(Path(scratch) / "r", {"cpu": ({"CPU": CPUS}, MOST)}, idle_s=IDLE_S) as address:
            watch = Watch(address)
            with watch.going():
                run = subprocess.Popen(
                    command(address, f"{scratch}/runs", model, **SETTINGS), stdout=subprocess.PIPE, text=True
                )
                for line in run.stdout or ():
                    print(line, end="", flush=True)
                    if found := STAGE.match(line):
                        watch.stage = found[1]
                if run.wait():
                    sys.exit(run.returncode)
                watch.stage, over = "after", time.monotonic()
                while watch.look() and time.monotonic() - over < DOWN_WITHIN_S:
                    time.sleep(0.5)
                down_s = time.monotonic() - over
            refusals = {
                name: refused(command(address, f"{scratch}/{name}", model, **{**SETTINGS, **settings}))
                for name, settings in REFUSED.items()
            }
    write(watch, down_s, refusals)


def refused(command: list[str]) -> dict[str, Any]:
    """What a run that no node can hold says at its end, and how long after the beginning of the stage that asks."""
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    began, stage = 0.0, ""
    for line in run.stdout or ():
        if (found := STAGE.match(line)) and found[1] != stage:
            began, stage = time.monotonic(), found[1]
    told_s = time.monotonic() - began
    _, errors = run.communicate()
    message = errors.strip().splitlines()[-1]
    return {"stage": stage, "told_s": round(told_s, 1), "code": run.returncode, "message": message}


def write(watch: Watch, down_s: float, refusals: dict[str, dict[str, Any]]) -> None:
    nodes = [sample[2] for sample in watch.samples]
    stages = dict.fromkeys(sample[1] for sample in watch.samples if sample[1] not in ("", "after"))
    record(
        "autoscaling",
        what="worker nodes at most, from and back to none, over a campaign on a cluster that scales",
        value=max(nodes),
        unit="nodes",
        baseline=f"the {MOST} nodes that there may be",
        ratio=max(nodes) / MOST,
        goal="from 0 to all and back to 0; no actor stays on a node after its stage; refusals within 60 s",
        first=nodes[0],
        last=nodes[-1],
        down_s=round(down_s, 1),
        actors_released_after_s={stage: watch.released_s(stage) for stage in stages},
        columns=["second", "stage", "nodes", "busy"],
        nodes=watch.curve(),
        refused=refusals,
    )


if __name__ == "__main__":
    main()
