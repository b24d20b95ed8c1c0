"""From a spot notice in the instance metadata to the saved step of a fine-tuning under way.

    python benchmarks/drain.py [ROUNDS]

A head and a worker on this machine, a training worker on each, a tiny model. The metadata is a fake server; watcher,
Ray Train and all else look as often as they do in production. In every round the drained node ends, training goes on
with one worker, and the losses of all steps are there.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from recording import record

TESTS = Path(__file__).parents[1] / "tests"
sys.path.insert(0, str(TESTS))
sys.path.insert(0, str(TESTS / "ray"))

from ray.cluster_utils import Cluster  # noqa: E402
from ray.train.v2._internal.constants import DEFAULT_PREEMPTION_POLL_INTERVAL_S  # noqa: E402
from test_curation import wait_until  # noqa: E402
from test_drained_nodes import in_seconds, watcher  # noqa: E402
from test_training import write_base  # noqa: E402
from test_training_interrupted import Run  # noqa: E402

from metadata_server import ACTION, metadata_server  # noqa: E402
from thinkscale.runtime.drain import EVERY_S  # noqa: E402

NOTICE_S = 120.0
EPOCHS = 9
"""So many that the training is not over before it hears."""
NODE: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 100 << 20}


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    cluster = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
    try:
        with tempfile.TemporaryDirectory(prefix="thinkscale-drain-") as scratch:
            (base := Path(scratch) / "base").mkdir()
            write_base(base)
            found = [one_round(cluster, Path(scratch) / str(number), base) for number in range(rounds)]
    finally:
        cluster.shutdown()
    saved = [each["saved_s"] for each in found]
    record(
        "drain",
        what="from a spot notice to the saved step",
        value=round(statistics.median(saved), 1),
        unit="s",
        baseline=f"the {NOTICE_S:.0f} s that EC2 gives",
        ratio=round(statistics.median(saved) / NOTICE_S, 3),
        goal="every step saved within the notice; none lost",
        most_s=max(saved),
        watcher_looks_every_s=EVERY_S,
        ray_train_looks_every_s=DEFAULT_PREEMPTION_POLL_INTERVAL_S,
        steps_lost=sum(each["lost"] for each in found),
        rounds=found,
    )


def one_round(cluster: Cluster, root: Path, base: Path) -> dict[str, Any]:
    node = cluster.add_node(**NODE)
    run = Run(cluster, root, base, fewest=1, epochs=EPOCHS)
    with metadata_server() as server, watcher(cluster, node.node_id, server, "--every", str(EVERY_S)) as watching:
        driver = run.start(poll_s=DEFAULT_PREEMPTION_POLL_INTERVAL_S)
        run.wait_for_checkpoint(driver)
        told = time.time()
        server.said[ACTION] = in_seconds(NOTICE_S)
        wait_until(lambda: "which is saved" in run.said() or driver.poll() is not None)
        step = run.stopped_after()
        [saved] = run.checkpoints.glob(f"step-{step}-*/.metadata")
        saved_s = saved.stat().st_mtime - told
        assert watching.wait(NOTICE_S) == 0
        gone_s = time.time() - told
    assert driver.wait(300) == 0, run.said()
    lost = set(range(1, run.total + 1)) - {each["step"] for each in run.steps()}
    cluster.remove_node(node)
    return {"step": step, "saved_s": round(saved_s, 1), "node_gone_s": round(gone_s, 1), "lost": len(lost)}


if __name__ == "__main__":
    main()
