"""How time, storage and memory of curation's stages without models grow with the pool.

    python benchmarks/curation.py --data DIRECTORY [--rows 59029] [--cpus 2]

DIRECTORY holds pool/{aime_1983_2023.json,math_train.json,gsm8k_train.jsonl} and benchmarks/math500.jsonl. Rows are
the real ones, then made of them by other numbers and, for every third word, another word of the corpus; one of fifty
is an exact copy, one of fifty a reworded one. Timed: ingest (reading, normalising, quality, exact duplicates),
deduplicate (fingerprints, leaks, near duplicates), select. Embeddings are random vectors, written beforehand and not
timed; so are the trace lengths. Each size becomes an entry of the same result file.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import os
import pstats
import random
import re
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from recording import record
from thinkscale.curate.decontamination import BenchmarkIndex, BenchmarkRow
from thinkscale.domain.campaign import Campaign
from thinkscale.runtime import session
from thinkscale.runtime.segments import slices
from thinkscale.stages import benchmarks, deduplicate, ingest, select
from thinkscale.stages.deduplicate import fingerprint_rows
from thinkscale.stages.ingest import ingest_piece
from thinkscale.store.artifact import Artifact
from thinkscale.store.filesystem import Store
from thinkscale.store.ingest import plan
from thinkscale.store.schemas import DIFFICULTY, EMBEDDINGS

DIMENSION = 384
WORD = re.compile(r"(?<![\\\\A-Za-z])[A-Za-z]{4,}(?![A-Za-z])")
NUMBER = re.compile(r"\d{1,8}")
STAGES = {"ingest": ingest.ingest, "deduplicate": deduplicate.deduplicate, "select": select.select}
ARTIFACTS = ("ingested", "pool", "fingerprints", "unique", "selected")


def write_pool(data: Path, path: Path, count: int) -> None:
    rng = random.Random(0)
    real = [
        row["problem"]
        for name in ("aime_1983_2023", "math_train")
        for row in json.loads((data / f"pool/{name}.json").read_text())
    ]
    real += [json.loads(line)["question"] for line in (data / "pool/gsm8k_train.jsonl").read_text().splitlines()]
    vocabulary = [word for text in real for word in WORD.findall(text)]

    def varied(text: str) -> str:
        text = NUMBER.sub(lambda m: str(int(m[0]) + rng.randint(1, 99)), text)
        return WORD.sub(lambda m: rng.choice(vocabulary) if rng.random() < 1 / 3 else m[0], text)

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
                last = text = text if i < len(real) else varied(text)
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
            lists = pa.ListArray.from_arrays(
                np.arange(rows.num_rows + 1, dtype=np.int32) * DIMENSION, vectors.reshape(-1)
            )
            output.commit_segment(
                f"{label}={i:06d}", pa.Table.from_arrays([rows.column("id"), lists], schema=EMBEDDINGS)
            )
    output.commit(EMBEDDINGS)


def write_difficulty(campaign: Campaign, store: Store) -> None:
    """Random trace lengths and domains where `difficulty` would put what models did."""
    output = Artifact(store, "curation/difficulty")
    output.begin({"model": "none"}, {})
    rng = np.random.default_rng(0)
    for i, rows in enumerate(Artifact(store, "curation/unique").iter_tables()):
        made = {
            "domain": pa.array(rng.integers(61, size=rows.num_rows)).cast(pa.string()),
            "trace_tokens": pa.array(rng.integers(20000, size=rows.num_rows), pa.int32()),
        }
        columns = [
            made.get(f.name, rows.column(f.name) if f.name in rows.column_names else pa.nulls(rows.num_rows, f.type))
            for f in DIFFICULTY
        ]
        output.commit_segment(f"{i:06d}", pa.Table.from_arrays(columns, schema=DIFFICULTY))
    output.commit(DIFFICULTY)


class Memory:
    """The most memory of this process, of Ray's workers, of the rest of Ray and of all at once, sampled.

    Proportional set sizes: what is shared (the object store) counts once.
    """

    def __init__(self) -> None:
        self.most: Counter[str] = Counter()
        self.spilled = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._stop.wait(1.0):
            now: Counter[str] = Counter()
            for pid in _tree(os.getpid()):
                now["driver" if pid == os.getpid() else "workers" if _is_worker(pid) else "Ray"] += _pss(pid)
            now["total"] = now.total()
            self.most |= now
            if session._own is not None:
                spilled = Path(session._own).glob("session_*/ray_spilled_objects*/*")
                self.spilled = max(self.spilled, sum(_size(path) for path in spilled))

    def stop(self) -> dict[str, float]:
        self._stop.set()
        self._thread.join()
        return {name: round(size / 1e9, 2) for name, size in self.most.items()}


def _tree(root: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        children.setdefault(parent, []).append(int(path.parent.name))
    found = [root]
    for pid in found:
        found += children.get(pid, [])
    return found


def _is_worker(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"ray::")
    except OSError:
        return False


def _pss(pid: int) -> int:
    try:
        found = re.search(r"^Pss:\s+(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
    except OSError:
        return 0
    return int(found[1]) * 1024 if found else 0


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def driver_steps(profile: cProfile.Profile) -> dict[str, float]:
    """Seconds of this process in the steps of a stage, each with all that it calls; a step may hold others."""
    steps = {
        "run_segments": "waiting for the workers' segments",
        "find_leaks": "leaks",
        "near_duplicates": "near duplicates",
        "take": "fingerprints of candidates",
        "blocks": "reading fingerprints",
        "pairs": "whole texts and cosines",
        "groups": "equal keys",
        "select": "the strategy",
    }
    seconds: Counter[str] = Counter()
    for (path, _, name), (_, _, _, cumulative, _) in pstats.Stats(profile).stats.items():  # type: ignore[attr-defined]
        if name in steps and "thinkscale" in path and not path.endswith("stages/select.py"):
            seconds[steps[name]] += cumulative
    return {name: round(value, 2) for name, value in seconds.most_common() if value >= 0.05}


def worker_functions(work: Callable[[], object]) -> dict[str, float]:
    """Shares of a worker's time in the functions that take most of it themselves."""
    profile = cProfile.Profile()
    profile.runcall(work)
    found = sorted(pstats.Stats(profile).stats.items(), key=lambda item: -item[1][2])  # type: ignore[attr-defined]
    total = sum(own for _, (_, _, own, _, _) in found)
    return {f"{Path(path).stem}.{name}": round(own / total, 3) for (path, _, name), (_, _, own, _, _) in found[:8]}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=59029)
    parser.add_argument("--cpus", type=int, default=2)
    arguments = parser.parse_args()
    seconds: dict[str, float] = {}
    steps: dict[str, Any] = {}
    funnel: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        write_pool(arguments.data, directory / "pool.jsonl", arguments.rows)
        campaign = settings(arguments.data.absolute(), directory)
        store = Store(campaign.root)
        session.connect("local", cpus=arguments.cpus)
        benchmarks.build_benchmarks(campaign, store)
        memory = Memory()
        before = {"deduplicate": write_embeddings, "select": write_difficulty}
        for stage, work in STAGES.items():
            if stage in before:
                before[stage](campaign, store)
            profile, began = cProfile.Profile(), time.perf_counter()
            manifest = profile.runcall(work, campaign, store)
            seconds[stage] = time.perf_counter() - began
            steps[stage] = driver_steps(profile)
            funnel[stage] = {"rows": manifest.rows, "dropped": manifest.dropped}
        most = memory.stop()
        session.disconnect()
        manifests = {name: Artifact(store, f"curation/{name}").require() for name in ARTIFACTS}
        index = BenchmarkIndex(
            [
                BenchmarkRow(benchmark="math500", id=row["id"], question=row["question"])
                for row in Artifact(store, "curation/benchmarks/math500").read().to_pylist()
            ],
            campaign.curate.decontaminate_ngram,
        )
        piece = plan(campaign.pool[0], 1024)[-2]
        sample = slices(Artifact(store, "curation/pool"), 1024)[-2].work
        functions = {
            "ingested": worker_functions(lambda: ingest_piece(piece, campaign.curate.quality_rules)),
            "fingerprints": worker_functions(lambda: fingerprint_rows(sample, index)),
        }
    timed = sum(seconds.values())
    thousands = arguments.rows / 1000
    size = {
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
        "seconds_per_1000_rows": round(timed / thousands, 4),
        "peak_gb": most,
        "stored_gb": {name: round(sum(f.size for f in m.files) / 1e9, 3) for name, m in manifests.items()},
        "stored_mb_per_1000_rows": round(sum(f.size for m in manifests.values() for f in m.files) / 1e6 / thousands, 3),
        "spilled_by_ray_gb": round(memory.spilled / 1e9, 3),
        "profile": {
            "driver_s": steps,
            "workers_cpu_s": {
                name: round(m.stats["cpu_busy_s"], 1) for name, m in manifests.items() if "cpu_busy_s" in m.stats
            },
            "share_of_a_worker": functions,
        },
        "funnel": funnel,
        "cpus": arguments.cpus,
    }
    results = Path(os.environ.get("BENCHMARK_RESULTS") or Path(__file__).parent / "results") / "curation.json"
    known = json.loads(results.read_text()).get("sizes", {}) if results.exists() else {}
    sizes = dict(sorted({**known, str(arguments.rows): size}.items(), key=lambda item: int(item[0])))
    smallest, largest = (list(sizes.values())[i]["seconds_per_1000_rows"] for i in (0, -1))
    record(
        "curation",
        what=f"seconds for 1,000 rows in the stages of curation without models, of {list(sizes)[-1]} rows",
        value=largest,
        unit="s per 1,000 rows",
        baseline=f"the same of {next(iter(sizes))} rows: 1 where time grows linearly",
        ratio=round(largest / smallest, 3),
        goal="59K rows in 60 s and 2 GB; 1M rows in 4 GB, time growing linearly",
        sizes=sizes,
    )


if __name__ == "__main__":
    main()
