"""Near duplicates and benchmark leaks: fingerprints in segments on Ray Data, then one decision over all of them.
Owns the artifacts `fingerprints` and `unique`. The driver reads fingerprints a part at a time, and texts and embeddings
only where it must; what is a duplicate or a leak is decided in `curate`."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from thinkscale.curate.decontamination import BenchmarkIndex, BenchmarkRow, Pair, find_leaks
from thinkscale.curate.duplicates import near_duplicates
from thinkscale.curate.fingerprints import COLUMN_TYPES, COLUMNS, PERMUTATIONS, Fingerprints, Ragged, fingerprint
from thinkscale.domain.campaign import Campaign
from thinkscale.runtime.progress import Progress
from thinkscale.runtime.segments import Drop, Result, drop_rows, itself, run_segments
from thinkscale.stages.artifacts import benchmark_artifacts, campaign_artifact, fingerprints
from thinkscale.store.artifact import Artifact
from thinkscale.store.filesystem import Store
from thinkscale.store.schemas import QUESTIONS
from thinkscale.store.stage import POOL, Column, Slice, begin_stage, matrix, slices

_HASHES = pa.list_(pa.uint64())
FINGERPRINTS = pa.schema(
    [
        pa.field("shingles", _HASHES),
        pa.field("numbered", _HASHES),
        *(pa.field(name, pa.int64() if name in COLUMN_TYPES else pa.uint64()) for name in COLUMNS),
        pa.field("minhash", pa.binary(4 * PERMUTATIONS)),
        pa.field("sharing_ngrams", pa.list_(pa.int32())),  # places of benchmark questions
    ],
    metadata={"thinkscale.schema": "fingerprints/1"},
)


def deduplicate(campaign: Campaign, store: Store) -> bool:
    """`unique`: near duplicates and questions that give away a benchmark dropped."""
    settings = campaign.curate
    names = ("pool", "embeddings", "fingerprints", "unique")
    pool, embeddings, prints, output = (campaign_artifact(campaign, store, name) for name in names)
    benchmarks = benchmark_artifacts(campaign, store)
    inputs = fingerprints(pool=pool, **benchmarks)
    index = _benchmark_index(campaign, benchmarks)
    fingerprinting = settings.model_dump(include={"decontaminate_ngram", "segment_rows"})
    did, stage = False, begin_stage(prints, fingerprinting, inputs, lambda: slices(pool, settings.segment_rows))
    if stage is not None:
        run_segments("fingerprint", stage, read=itself, transform=partial(fingerprint_rows, index=index))
        did = stage.commit(FINGERPRINTS)

    def decide() -> dict[int, Drop]:
        progress = Progress("deduplicate", pool.require().rows)
        progress.note(f"comparing with {len(index.rows):,} questions of {len(benchmarks)} benchmark(s)")
        rows = StoredFingerprints(prints)
        cosines = StoredCosines(embeddings, benchmarks, settings.decontaminate_similarity)
        leaks = find_leaks(Column(pool, "question"), rows, index, rows.sharing_ngrams(), cosines)
        progress.note(f"{len(leaks):,} give away a benchmark question; comparing with each other")
        drops, ids = {}, Column(pool, "id")
        for found in sorted(near_duplicates(rows, settings.near_duplicate_similarity), key=lambda found: found.kept):
            detail = {"kept": ids[found.kept], "similarity": round(found.similarity, 4)}
            drops[found.row] = Drop("near_duplicate", detail)
        for leak in leaks:
            detail = {"benchmark_id": leak.benchmark_id, "overlap": round(leak.overlap, 4)}
            detail |= {"similarity": leak.similarity, "same_numbers": leak.same_numbers}
            drops[leak.row] = Drop(f"leak:{leak.benchmark}", detail)
        return drops

    config = settings.model_dump(
        include={"near_duplicate_similarity", "decontaminate_ngram", "decontaminate_similarity"}
    )
    inputs = inputs | fingerprints(embeddings=embeddings)
    return drop_rows("deduplicate", pool, output, config, inputs, decide, QUESTIONS, settings.segment_rows) or did


def _benchmark_index(campaign: Campaign, benchmarks: dict[str, Artifact]) -> BenchmarkIndex:
    templated = {b.name for b in campaign.evaluate.benchmarks if b.source.type == "reasoning_gym"}
    rows = [
        BenchmarkRow(benchmark=name, id=row["id"], question=row["question"], templated=name in templated)
        for name, artifact in benchmarks.items()
        for row in artifact.read(["id", "question"]).to_pylist()
    ]
    return BenchmarkIndex(rows, campaign.curate.decontaminate_ngram)


def fingerprint_rows(work: Slice, index: BenchmarkIndex) -> Result:
    made: dict[str, list[Any]] = {name: [] for name in FINGERPRINTS.names}
    for row in work.read(["question", "answer", "solution"]).to_pylist():
        found = fingerprint(row["question"], row["answer"], solved=bool(row["solution"]))
        for name in ("shingles", "numbered", *COLUMNS):
            made[name].append(getattr(found, name))
        made["minhash"].append(found.minhash.tobytes())
        made["sharing_ngrams"].append(index.sharing_ngrams(row["question"]))
    return Result(kept=pa.table(made, schema=FINGERPRINTS))


@dataclass(frozen=True)
class StoredFingerprints:
    """A pool's fingerprints, a part at a time."""

    artifact: Artifact

    def blocks(self) -> Iterator[tuple[int, Fingerprints]]:
        first = 0
        for rows in self.artifact.iter_tables():
            if rows.num_rows:
                yield first, _fingerprints(rows)
            first += rows.num_rows

    def sharing_ngrams(self) -> Iterator[Pair]:
        first = 0
        for rows in self.artifact.iter_tables(["sharing_ngrams"]):
            places = _ragged(rows, "sharing_ngrams")
            at = first + np.repeat(np.arange(rows.num_rows), np.diff(places.offsets))
            yield from zip(at.tolist(), places.flat.tolist(), strict=True)
            first += rows.num_rows


def _fingerprints(rows: pa.Table) -> Fingerprints:
    signatures = b"".join(rows.column("minhash").to_pylist())
    return Fingerprints(
        shingles=_ragged(rows, "shingles"),
        numbered=_ragged(rows, "numbered"),
        minhash=np.frombuffer(signatures, dtype=np.uint32).reshape(-1, PERMUTATIONS),
        **{name: rows.column(name).to_numpy() for name in COLUMNS},
    )


def _ragged(rows: pa.Table, name: str) -> Ragged:
    lists = rows.column(name).combine_chunks()
    offsets = lists.offsets.to_numpy().astype(np.int64)
    return Ragged(lists.flatten().to_numpy(zero_copy_only=False), offsets - offsets[0])


class StoredCosines:
    """Cosines between the pool and the benchmarks from the stored embeddings, a part at a time."""

    def __init__(self, embeddings: Artifact, benchmarks: Iterable[str], similarity: float) -> None:
        """`benchmarks`: their names, in the index's order. `similarity`: cosine that makes a pair worth examining."""
        self._pool = Column(embeddings, "embedding", POOL)
        asked = [Column(embeddings, "embedding", f"part-benchmark={name}=") for name in benchmarks]
        self._bench = np.concatenate([matrix(block) for column in asked for _, block in column.blocks()])
        self._similarity = similarity

    def pairs(self) -> Iterator[Pair]:
        for start, block in self._pool.blocks():
            rows, columns = np.nonzero(matrix(block) @ self._bench.T >= self._similarity)
            yield from zip((rows + start).tolist(), columns.tolist(), strict=True)

    def of(self, i: int, j: int) -> float:
        return round(float(np.array(self._pool[i], dtype=np.float32) @ self._bench[j]), 4)
