"""Evaluation on real replicas of a tiny model: every benchmark in one queue, rounds of samples, what is recorded."""

from __future__ import annotations

from pathlib import Path

import pytest

from thinkscale.domain.campaign import Campaign
from thinkscale.stages.benchmarks import build_benchmarks
from thinkscale.stages.evaluate import evaluate
from thinkscale.store.artifact import Artifact, Manifest
from thinkscale.store.filesystem import Store
from tiny_model import write_tiny_model

pytestmark = pytest.mark.usefixtures("ray_cluster")


def test_benchmarks_share_a_queue_and_are_sampled_on(tmp_path: Path) -> None:
    for name, count in (("few", 3), ("more", 7)):
        (tmp_path / f"{name}.jsonl").write_text(
            "".join(f'{{"question": "{name} {i}?", "answer": "{i}"}}\n' for i in range(count))
        )
    sources = {name: {"type": "files", "name": name, "paths": [f"{tmp_path}/{name}.jsonl"]} for name in ("few", "more")}
    campaign = Campaign.model_validate(
        {
            "name": "evaluating",
            "pool": [sources["few"]],
            "model": {"base": str(write_tiny_model(tmp_path / "tiny"))},
            "teacher": {"source": "solutions"},
            "evaluate": {
                "models": ["base"],
                "benchmarks": [{"name": name, "source": source} for name, source in sources.items()],
                "budgets": {"caps": [2, 8], "max_answer_tokens": 2},
                "temperature": 1.0,
                "target_interval": 0.5,
                "max_samples": 2,
                "segment_questions": 2,
            },
            "serve": {
                "engine": "transformers", "dtype": "float32", "context_tokens": 512, "max_concurrent_sequences": 3,
            },
            "resources": {"replicas": 2, "gpus_per_replica": 0.0, "cpus_per_replica": 0.5, "threads_per_actor": 1},
        }
    )  # fmt: skip
    store = Store(str(tmp_path / "root"))
    build_benchmarks(campaign, store)
    assert evaluate(campaign, store)
    outputs = [Artifact(store, f"evaluating/samples/model=base/benchmark={name}") for name in ("few", "more")]
    manifests = [output.require() for output in outputs]
    assert [manifest.rows for manifest in manifests] == [3 * 2 * 2, 7 * 2 * 2]

    def read(benchmark: str) -> tuple[Manifest, list[dict[str, object]]]:
        artifact = Artifact(store, f"evaluating/samples/model=base/benchmark={benchmark}")
        return artifact.require(), artifact.read().to_pylist()

    for name, count in (("few", 3), ("more", 7)):
        manifest, rows = read(name)
        keys = {(row["question_id"], row["sample"], row["max_thinking_tokens"]) for row in rows}
        assert len(keys) == len(rows) == count * 2 * 2
        assert {row["status"] for row in rows} == {"ok"}
        assert manifest.extra["sampling"]["stopped"] == "max_samples reached"
        assert manifest.extra["engine"]["engine"] == "transformers"
        assert manifest.stats["cpu_busy_s"] > 0
        assert 0 <= manifest.extra["tail_share"] < 1
    assert not evaluate(campaign, store)  # nothing to do, no replica is started

    whole = read("more")[1]
    directory = tmp_path / "root/evaluating/samples/model=base/benchmark=more"
    (directory / "manifest.json").unlink()
    (directory / "segments/0000002-00001.json").unlink()
    assert evaluate(campaign, store)
    assert outputs[1].require().extra["sampling"] == manifests[1].extra["sampling"]
    assert read("more")[1] == whole
