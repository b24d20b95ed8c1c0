"""Grading, aggregating and reporting a million samples: time, peak memory and the size of the page.

    python benchmarks/report.py [--samples 1000000] [--text-characters 2000] [--keep DIRECTORY]

Writes the samples as Parquet parts first (not measured), then reads them part by part as a campaign's report
does: each part is graded again, and the graded parts become the page and the plots.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recording import record
from thinkscale.domain.campaign import Campaign
from thinkscale.domain.question import Question
from thinkscale.grading.pool import GradingPool
from thinkscale.report.page import build_report
from thinkscale.report.regrade import by_rules, regrade
from thinkscale.store.schemas import SAMPLES, questions_table

PART_ROWS = 20_000
CAPS = (512, 1024, 2048, 4096)
MODELS = ("base", "tuned")
WORDS = tuple(f"word{index}" for index in range(400))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=1_000_000)
    parser.add_argument("--text-characters", type=int, default=2_000, help="of thinking per sample")
    parser.add_argument("--keep", type=Path, help="write the page there")
    arguments = parser.parse_args()
    num_questions = max(1, arguments.samples // (len(CAPS) * len(MODELS) * 4))
    asked = {f"q{index}": _question(index) for index in range(num_questions)}
    with tempfile.TemporaryDirectory() as directory:
        paths = _write_parts(Path(directory), arguments.samples, num_questions, arguments.text_characters)
        stored_gb = sum(path.stat().st_size for path in paths) / 1e9
        began = time.perf_counter()
        with GradingPool(processes=2) as pool:
            parts: Iterator[pa.Table] = (regrade(pq.read_table(path), asked, by_rules(pool)) for path in paths)
            files = build_report(_campaign(), parts, {}, [], questions_table(asked.values()))
        elapsed = time.perf_counter() - began
    peak_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9
    if arguments.keep:
        for name, data in files.items():
            (arguments.keep / name).write_bytes(data)
    record(
        f"report-{arguments.samples}",
        what=f"{arguments.samples:,} stored samples graded, aggregated and reported, part by part",
        value=round(peak_gb, 2),
        unit="GB of peak memory",
        baseline="the goal: less than 4 GB, a page of less than 5 MB",
        ratio=round(peak_gb / 4, 2),
        elapsed_s=round(elapsed, 1),
        samples_per_second=round(arguments.samples / elapsed),
        page_mb=round(len(files["report.html"]) / 1e6, 2),
        stored_gb=round(stored_gb, 2),
        questions=num_questions,
    )


def _question(index: int) -> Question:
    return Question(
        id=f"q{index}", question=f"What is {index} + {index}?", answer=str(2 * index), kind="integer", source="sums",
        domain=f"group {index % 7}",
    )  # fmt: skip


def _write_parts(directory: Path, samples: int, num_questions: int, characters: int) -> list[Path]:
    rng = np.random.default_rng(0)
    words = np.array(WORDS)
    texts = [" ".join(rng.choice(words, characters // 5)) for _ in range(4_000)]
    paths = []
    for start in range(0, samples, PART_ROWS):
        index = np.arange(start, min(start + PART_ROWS, samples))
        question, rest = index % num_questions, index // num_questions
        cap = np.array(CAPS)[rest % len(CAPS)]
        model = np.array(MODELS)[rest // len(CAPS) % len(MODELS)]
        chance = np.log2(cap) / 16 + 0.2 * (model == "tuned")
        said = 2 * question + (rng.random(len(index)) > chance) * rng.integers(1, 4, len(index))
        columns = {
            "sample_id": [f"q{q}/{i}" for q, i in zip(question, index, strict=True)],
            "question_id": [f"q{q}" for q in question],
            "model": model.tolist(),
            "benchmark": ["sums"] * len(index),
            "sample": (rest // (len(CAPS) * len(MODELS))).tolist(),
            "max_thinking_tokens": cap.tolist(),
            "num_waits": [0] * len(index),
            "status": ["ok"] * len(index),
            "end": ["cap"] * len(index),
            "thinking_tokens": (cap - rng.integers(0, 100, len(index))).tolist(),
            "answer_tokens": [8] * len(index),
            "forced_tokens": [0] * len(index),
            "thinking": [f"{i}: {texts[rng.integers(len(texts))]}" for i in index],
            "answer": [f"Final Answer: {value}" for value in said],
        }
        arrays = [pa.array(columns.get(field.name, [None] * len(index)), field.type) for field in SAMPLES]
        paths.append(directory / f"part-{start:09d}.parquet")
        pq.write_table(pa.Table.from_arrays(arrays, schema=SAMPLES), paths[-1], compression="zstd")
    return paths


def _campaign() -> Campaign:
    source = {"type": "files", "name": "sums", "paths": ["sums.jsonl"]}
    return Campaign.model_validate(
        {
            "name": "scale",
            "pool": [source],
            "model": {"base": "some/model"},
            "teacher": {"source": "solutions"},
            "evaluate": {"benchmarks": [{"name": "sums", "source": source}], "budgets": {"caps": list(CAPS)}},
        }
    )


if __name__ == "__main__":
    main()
