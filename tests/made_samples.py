"""A made-up samples table with known accuracies, for tests and measurements of the report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from thinkscale.domain.campaign import Campaign
from thinkscale.store.artifact import Artifact, Manifest
from thinkscale.store.filesystem import Store
from thinkscale.store.samples import SampleSet
from thinkscale.store.schemas import QUESTIONS, SAMPLES, table

ENGINE = {"engine": "vllm", "version": "0.32.0", "dtype": "bfloat16", "device": "cpu"}
QUESTION_COUNT = 12
CELLS = [(32, 0), (64, 0), (128, 0), (256, 0), (256, 1), (256, 2)]


def made_samples(
    *,
    models: dict[str, float],
    questions: int = 40,
    samples: int = 1,
    seed: int = 0,
    benchmark: str = "sums",
    thinking: str = "First I add the tens, then the ones. ",
    failures: int = 0,
) -> pa.Table:
    """Samples of models whose accuracy grows with the budget.

    Args:
        models: Accuracy at the largest budget, by model.
        failures: So many questions fail for every model.
    """
    rng = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    for model, best in models.items():
        for index in range(questions):
            ease = rng.random()
            for sample in range(samples):
                luck = rng.random() * 0.5 + ease * 0.5
                for cap, waits in CELLS:
                    key = {
                        "sample_id": f"q{index}/{sample}/{cap}/{waits}",
                        "question_id": f"{benchmark}-q{index}",
                        "model": model,
                        "benchmark": benchmark,
                        "sample": sample,
                        "max_thinking_tokens": cap,
                        "num_waits": waits,
                    }
                    if index < failures:
                        rows.append({**key, "status": "failed", "error": "the engine ran out of memory"})
                        continue
                    right = bool(luck < best * (0.3 + 0.7 * cap / 256) + 0.02 * waits)
                    text = thinking * max(1, cap // 16)
                    forced = [len(text), len(text) + 4] if waits else []
                    rows.append(
                        {
                            **key,
                            "status": "ok",
                            "end": "waits_used" if waits else "cap",
                            "waits_used": waits,
                            "prompt_tokens": 20,
                            "thinking_tokens": cap - 8 + waits,
                            "forced_tokens": waits,
                            "answer_tokens": 6,
                            "thinking": text + ("Wait, let me check." if waits else ""),
                            "answer": f"Final Answer: {index if right else index + 1}",
                            "forced_spans": forced,
                            "verdict": "correct" if right else "wrong",
                            "extracted_answer": str(index if right else index + 1),
                            "grader": "integer/3",
                        }
                    )
    return table(rows, SAMPLES)


def made_questions(*, questions: int = 40, benchmark: str = "sums") -> pa.Table:
    """The questions that `made_samples` answers."""
    rows = [
        {
            "id": f"{benchmark}-q{index}",
            "question": f"What is ${index} + 0$? Give $\\frac{{{index}}}{{1}}$ as an integer.",
            "answer": str(index),
            "kind": "integer",
            "source": benchmark,
            "domain": "odd" if index % 2 else "even",
        }
        for index in range(questions)
    ]
    return table(rows, QUESTIONS)


def made_campaign() -> Campaign:
    """A campaign as small as one can be, with prices."""
    return Campaign.model_validate(
        {
            "name": "demo",
            "pool": [{"type": "files", "name": "pool", "paths": ["pool.jsonl"]}],
            "model": {"base": "some/model"},
            "teacher": {"source": "solutions"},
            "evaluate": {
                "benchmarks": [{"name": "sums", "source": {"type": "files", "name": "sums", "paths": ["sums.jsonl"]}}],
                "budgets": {"caps": [32, 64, 128, 256], "waits": [0, 1, 2]},
            },
            "prices": {"cpu_hour_usd": 0.04, "gpu_hour_usd": 3.0},
        }
    )


def made_manifests(*, benchmark: str = "sums") -> dict[str, Manifest]:
    """Manifests of the stages that the report speaks of."""

    def manifest(schema: str, rows: int = 0, **facts: Any) -> Manifest:
        return Manifest(
            artifact="", schema=schema, rows=rows, files=[], inputs={}, config={}, config_fingerprint="",
            began_at="2026-01-01T00:00:00+00:00", created_at="2026-01-01T00:10:00+00:00", **facts,
        )  # fmt: skip

    engine = {"engine": "vllm", "version": "0.32.0", "dtype": "bfloat16", "device": "cpu"}
    return {
        "benchmarks/sums": manifest("questions/1", 40),
        "ingest": manifest("questions/1", 1900, dropped={"missing_field": 20}, stats={"cpu_busy_s": 20.0}),
        "select": manifest("selected/1", 300, dropped={"not_selected": 1600}),
        "distill": manifest("traces/1", 300, extra={"terms": [{"licence": "Apache-2.0", "may_train": True}]}),
        "train": manifest("model/1", stats={"gpu_busy_s": 3000.0, "gpu_startup_s": 600.0}),
        **{
            f"samples/{model}": manifest(
                "samples/1",
                stats={
                    "rows_asked_again": 3,
                    "cpu_busy_s": 300.0,
                    "cpu_tail_s": 30.0,
                    "decoded_tokens": 1e4,
                    "separate_tokens": 4e4,
                },
                extra={"model": model, "benchmark": benchmark, "engine": engine},
            )
            for model in ("base", "tuned")
        },
    }


def stored_campaign(
    root: Path,
    name: str = "demo",
    *,
    accuracy: float = 0.5,
    model: str = "base",
    engine: dict[str, Any] = ENGINE,
    samples: pa.Table | None = None,
    grading: Sequence[object] = (),
) -> SampleSet:
    """A campaign's benchmark and samples, in two parts, as evaluation leaves them."""
    store = Store(str(root))
    benchmark = Artifact(store, f"{name}/benchmarks/sums")
    benchmark.begin({}, {})
    benchmark.commit_segment("000000", made_questions(questions=QUESTION_COUNT))
    asked = benchmark.commit(QUESTIONS).fingerprint
    found = SampleSet(store=store, campaign=name, model=model, benchmark="sums")
    if samples is None:
        samples = made_samples(models={model: accuracy}, questions=QUESTION_COUNT, failures=1)
    found.artifact.begin({"seed": 0}, {"benchmark": asked, "model": "m"})
    half = samples.num_rows // 2
    found.artifact.commit_segment("0000000", samples.slice(0, half))
    found.artifact.commit_segment("0000006", samples.slice(half))
    found.artifact.commit(
        SAMPLES, extra={"model": model, "benchmark": "sums", "engine": engine, "grading": list(grading)}
    )
    return found
