"""How long the stages of curation without models take, and how much memory the driver needs.

    python benchmarks/curation.py --data DIRECTORY [--rows 59029] [--cpus 2]

DIRECTORY holds pool/{aime_1983_2023.json,math_train.json,gsm8k_train.jsonl} and benchmarks/math500.jsonl. Rows
are made of the real ones by other numbers; one of fifty is an exact copy, one of fifty a reworded one. Timed:
ingest (reading, normalising, quality, exact duplicates), deduplicate (fingerprints, leaks, near duplicates),
select. Embeddings are random vectors, written beforehand and not timed; so are the trace lengths.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import resource
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from recording import record
from thinkscale.cluster import curation
from thinkscale.cluster.session import connect, disconnect
from thinkscale.domain.campaign import Campaign
from thinkscale.store.artifact import Artifact
from thinkscale.store.filesystem import Store
from thinkscale.store.schemas import DIFFICULTY, EMBEDDINGS, table

DIMENSION = 384


def write_pool(data: Path, path: Path, count: int) -> None:
    rng = random.Random(0)
    real = [
        row["problem"]
        for name in ("aime_1983_2023", "math_train")
        for row in json.loads((data / f"pool/{name}.json").read_text())
    ]
    real += [json.loads(line)["question"] for line in (data / "pool/gsm8k_train.jsonl").read_text().splitlines()]
    last, answer = real[0], "0"
    with path.open("w") as file:
        for i in range(count):
            kind = rng.random()
            if kind < 0.02:
                text = last
            elif kind < 0.04:
                text = f"{last} Explain it."
            else:
                text, answer = real[i % len(real)], str(i % 7)
                if i >= len(real):
                    text = re.sub(
                        r"\d+", lambda m: str(int(m[0]) + rng.randint(1, 99)) if len(m[0]) < 9 else m[0], text
                    )
                last = text
            row = {"question": text, "answer": answer, "solution": "so it is" if i % 3 else None}
            file.write(json.dumps(row) + "\n")


def settings(data: Path, directory: Path) -> Campaign:
    pool = {
        "type": "files",
        "name": "pool",
        "paths": [str(directory / "pool.jsonl")],
        "columns": {"solution": "solution"},
    }
    bench = str(data / "benchmarks/math500.jsonl")
    math500 = {"type": "files", "name": "math500", "paths": [bench], "columns": {"question": "problem"}}
    return Campaign.model_validate(
        {
            "name": "curation",
            "root": str(directory),
            "pool": [pool],
            "model": {"base": "none"},
            "teacher": {"source": "solutions"},
            "evaluate": {"benchmarks": [{"name": "math500", "source": math500}], "budgets": {"caps": [8]}},
        }
    )


def write_embeddings(campaign: Campaign, store: Store) -> None:
    """Random unit vectors where `embed` would put the model's."""
    output = Artifact(store, "curation/embeddings")
    output.begin({}, {})
    rng = np.random.default_rng(0)
    for label, name in (("benchmark=math500", "benchmarks/math500"), ("pool", "pool")):
        for i, rows in enumerate(Artifact(store, f"curation/{name}").iter_tables(["id"])):
            vectors = rng.standard_normal((rows.num_rows, DIMENSION), dtype=np.float32)
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
            ids = rows.column("id").to_pylist()
            found = [{"id": id_, "embedding": vector} for id_, vector in zip(ids, vectors, strict=True)]
            output.commit_segment(f"{label}={i:06d}", table(found, EMBEDDINGS))
    output.commit(EMBEDDINGS)


def write_difficulty(store: Store) -> None:
    """Random trace lengths and domains where `difficulty` would put what models did."""
    output = Artifact(store, "curation/difficulty")
    output.begin({}, {})
    rng = random.Random(0)
    for i, rows in enumerate(Artifact(store, "curation/unique").iter_tables()):
        found = [
            {**row, "domain": str(rng.randrange(61)), "trace_tokens": rng.randrange(20000)} for row in rows.to_pylist()
        ]
        output.commit_segment(f"{i:06d}", table(found, DIFFICULTY))
    output.commit(DIFFICULTY)


class WorkersMemory:
    """The most memory that this process and its descendants held together (proportional set sizes), sampled."""

    def __init__(self) -> None:
        self.most = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._stop.wait(0.5):
            self.most = max(self.most, sum(_pss(pid) for pid in _ray_workers()))

    def stop(self) -> int:
        self._stop.set()
        self._thread.join()
        return self.most


def _ray_workers() -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if path.read_bytes().startswith(b"ray::MapBatches"):
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def _pss(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    return int(re.search(r"^Pss:\s+(\d+)", text, re.MULTILINE)[1]) * 1024  # type: ignore[index]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=59029)
    parser.add_argument("--cpus", type=int, default=2)
    arguments = parser.parse_args()
    seconds: dict[str, float] = {}
    funnel: dict[str, Any] = {"rows": arguments.rows}
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        write_pool(arguments.data, directory / "pool.jsonl", arguments.rows)
        campaign = settings(arguments.data.absolute(), directory)
        store = Store(campaign.root)
        began = time.perf_counter()
        connect("local", cpus=arguments.cpus)
        seconds["start of Ray"] = time.perf_counter() - began
        curation.build_benchmarks(campaign, store)
        memory = WorkersMemory()
        for stage, before in (
            (curation.ingest, None),
            (curation.deduplicate, lambda: write_embeddings(campaign, store)),
            (curation.select, lambda: write_difficulty(store)),
        ):
            if before:
                before()
            began = time.perf_counter()
            manifest = stage(campaign, store)
            seconds[stage.__name__] = time.perf_counter() - began
            funnel[stage.__name__] = {"rows": manifest.rows, "dropped": manifest.dropped}
        workers = memory.stop()
        disconnect()
    driver = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    timed = sum(seconds[name] for name in ("ingest", "deduplicate", "select"))
    record(
        "curation" if arguments.rows < 100_000 else f"curation-{arguments.rows // 1000}k",
        what=f"the stages of curation without models over {arguments.rows:,} rows on {arguments.cpus} cores",
        value=round(timed, 1),
        unit="s",
        baseline="none",
        ratio=None,
        goal="59K rows in 60 s and 2 GB; 1M rows in 4 GB, time growing linearly",
        rows_per_s=round(arguments.rows / timed, 1),
        seconds={name: round(value, 2) for name, value in seconds.items()},
        driver_gb=round(driver / 1e9, 2),
        workers_gb=round(workers / 1e9, 2),
        funnel=funnel,
    )


if __name__ == "__main__":
    main()
