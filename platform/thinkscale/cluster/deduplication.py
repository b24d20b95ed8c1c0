"""Near duplicates and benchmark leaks: fingerprints in segments on Ray Data, then one decision over all of them.

Owns the artifacts `fingerprints` and `unique`. The driver holds the fingerprints of the whole pool in flat
arrays and reads texts and embeddings only where it must; what is a duplicate or a leak is decided in `curate`.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import accumulate
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from thinkscale.cluster.dropping import Drop, drop_rows
from thinkscale.cluster.progress import Progress
from thinkscale.cluster.segments import Result, Slice, itself, run_segments, slices
from thinkscale.curate.decontamination import BenchmarkIndex, BenchmarkRow, Leak, Pair, find_leaks
from thinkscale.curate.duplicates import near_duplicates
from thinkscale.curate.fingerprints import PERMUTATIONS, Fingerprints, Ragged, fingerprint
from thinkscale.domain.campaign import Campaign
from thinkscale.store.artifact import Artifact, ArtifactError, Manifest
from thinkscale.store.filesystem import Store
from thinkscale.store.schemas import QUESTIONS

_HASHES = pa.list_(pa.uint64())
FINGERPRINTS = pa.schema(
    [
        pa.field("shingles", _HASHES),
        pa.field("numbered", _HASHES),
        *(pa.field(name, pa.uint64()) for name in ("text", "bag", "numbers", "formula", "answer")),
        pa.field("number_count", pa.int32()),
        pa.field("minhash", pa.binary(4 * PERMUTATIONS)),
        pa.field("sharing_ngrams", pa.list_(pa.int32())),  # places of benchmark questions
        pa.field("has_solution", pa.bool_()),
        pa.field("characters", pa.int32()),
    ],
    metadata={"thinkscale.schema": "fingerprints/1"},
)


def deduplicate(campaign: Campaign, store: Store) -> Manifest:
    """`unique`: near duplicates and questions that give away a benchmark dropped."""
    settings = campaign.curate
    pool, embeddings = (Artifact(store, f"{campaign.name}/{name}") for name in ("pool", "embeddings"))
    benchmarks = {b.name: Artifact(store, f"{campaign.name}/benchmarks/{b.name}") for b in campaign.evaluate.benchmarks}
    inputs = {name: a.require().fingerprint for name, a in {"pool": pool, **benchmarks}.items()}
    index = _benchmark_index(campaign, benchmarks)
    prints = _fingerprint_pool(campaign, store, pool, index, inputs)
    output = Artifact(store, f"{campaign.name}/unique")
    done = output.begin(
        settings.model_dump(include={"near_duplicate_similarity", "decontaminate_ngram", "decontaminate_similarity"}),
        {**inputs, "embeddings": embeddings.require().fingerprint},
    )
    if (manifest := output.manifest()) is not None:
        return manifest
    progress = Progress("deduplicate", pool.require().rows)
    progress.note(f"comparing with {len(index.rows):,} questions of {len(benchmarks)} benchmark(s)")
    table = prints.read()
    rows = fingerprints(table)
    cosines = StoredCosines(embeddings, index, settings.decontaminate_similarity)
    leaks = find_leaks(Column(pool, "question"), rows, index, _sharing_ngrams(table), cosines)
    progress.note(f"{len(leaks):,} give away a benchmark question; comparing with each other")
    merits = list(zip(table.column("has_solution").to_pylist(), table.column("characters").to_pylist(), strict=True))
    drops = {}
    ids = Column(pool, "id")
    for found in near_duplicates(rows, settings.near_duplicate_similarity, merits):
        detail = {"kept": ids[found.kept], "similarity": round(found.similarity, 4)}
        drops[found.row] = Drop("near_duplicate", detail)
    drops |= {leak.row: _leak(leak) for leak in leaks}
    return drop_rows("deduplicate", pool, output, done, drops, QUESTIONS, settings.segment_rows)


def _leak(leak: Leak) -> Drop:
    evidence = {
        "benchmark_id": leak.benchmark_id,
        "overlap": round(leak.overlap, 4),
        "similarity": leak.similarity,
        "same_numbers": leak.same_numbers,
    }
    return Drop(f"leak:{leak.benchmark}", evidence)


def _benchmark_index(campaign: Campaign, benchmarks: dict[str, Artifact]) -> BenchmarkIndex:
    templated = {b.name for b in campaign.evaluate.benchmarks if b.source.type == "reasoning_gym"}
    rows = [
        BenchmarkRow(benchmark=name, id=row["id"], question=row["question"], templated=name in templated)
        for name, artifact in benchmarks.items()
        for row in artifact.read(["id", "question"]).to_pylist()
    ]
    return BenchmarkIndex(rows, campaign.curate.decontaminate_ngram)


def _fingerprint_pool(
    campaign: Campaign, store: Store, pool: Artifact, index: BenchmarkIndex, inputs: dict[str, str]
) -> Artifact:
    output = Artifact(store, f"{campaign.name}/fingerprints")
    settings = campaign.curate.model_dump(include={"decontaminate_ngram", "segment_rows"})
    done = output.begin(settings, inputs)
    if output.manifest() is None:
        segments = slices(pool, campaign.curate.segment_rows)
        run_segments("fingerprint", output, segments, done, read=itself, transform=FingerprintRows(index))
        output.commit(FINGERPRINTS, expected_segments={segment.key for segment in segments})
    return output


class FingerprintRows:
    """Questions to fingerprints, in the same order."""

    def __init__(self, index: BenchmarkIndex) -> None:
        self._index = index

    def __call__(self, work: Slice) -> Result:
        rows = work.read(["question", "answer", "solution"])
        made: dict[str, list[Any]] = {name: [] for name in FINGERPRINTS.names}
        for row in rows.to_pylist():
            found = fingerprint(row["question"], row["answer"])
            for name in ("shingles", "numbered", "text", "bag", "numbers", "formula", "answer", "number_count"):
                made[name].append(getattr(found, name))
            made["minhash"].append(found.minhash.tobytes())
            made["sharing_ngrams"].append(self._index.sharing_ngrams(row["question"]))
            made["has_solution"].append(bool(row["solution"]))
            made["characters"].append(len(row["question"]))
        return Result(kept=pa.table(made, schema=FINGERPRINTS))


def fingerprints(rows: pa.Table) -> Fingerprints:
    """Stored fingerprints as flat arrays, mostly without copies."""

    def column(name: str) -> npt.NDArray[Any]:
        return np.asarray(rows.column(name).combine_chunks().to_numpy(zero_copy_only=False))

    def ragged(name: str) -> Ragged:
        flat, offsets = _lists(rows.column(name))
        return Ragged(flat, offsets)

    signatures = b"".join(chunk.buffers()[1][chunk.offset * 4 * PERMUTATIONS :][: len(chunk) * 4 * PERMUTATIONS]
                          for chunk in rows.column("minhash").chunks)  # fmt: skip
    return Fingerprints(
        shingles=ragged("shingles"),
        numbered=ragged("numbered"),
        text=column("text"),
        bag=column("bag"),
        numbers=column("numbers"),
        number_count=column("number_count"),
        formula=column("formula"),
        answer=column("answer"),
        minhash=np.frombuffer(signatures, dtype=np.uint32).reshape(-1, PERMUTATIONS),
    )


def _sharing_ngrams(rows: pa.Table) -> Iterator[Pair]:
    flat, offsets = _lists(rows.column("sharing_ngrams"))
    places = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    yield from zip(places.tolist(), flat.tolist(), strict=True)


def _lists(column: pa.ChunkedArray) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
    """All values of a column of lists, and where each row's begin; with 64 bits, for a chunk's own have 32."""
    flat = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in column.chunks]
    lengths = [np.diff(chunk.offsets.to_numpy()) for chunk in column.chunks]
    values = np.concatenate(flat) if flat else np.empty(0, dtype=np.uint64)
    return values, np.concatenate([np.zeros(1, dtype=np.int64), *lengths]).cumsum(dtype=np.int64)


class Column(Sequence[Any]):
    """One column of a committed artifact by the row's place, read a part at a time: for few rows, in order."""

    def __init__(self, artifact: Artifact, name: str, prefix: str = "part-") -> None:
        """`prefix`: of the parts that count."""
        self._artifact, self._name = artifact, name
        self._parts = [part for part in artifact.parts() if part.path.startswith(prefix)]
        self._starts = [0, *accumulate(part.rows or 0 for part in self._parts)]
        self.part = lru_cache(maxsize=4)(self._read)

    def __len__(self) -> int:
        return self._starts[-1]

    @overload
    def __getitem__(self, place: int) -> Any: ...
    @overload
    def __getitem__(self, place: slice) -> list[Any]: ...
    def __getitem__(self, place: int | slice) -> Any:
        if isinstance(place, slice):
            return [self[i] for i in range(*place.indices(len(self)))]
        number = bisect_right(self._starts, place) - 1
        return self.part(number)[place - self._starts[number]].as_py()

    def blocks(self) -> Iterator[tuple[int, pa.Array]]:
        """Each part's first place and values."""
        for number in range(len(self._parts)):
            yield self._starts[number], self._read(number)

    def _read(self, number: int) -> pa.Array:
        return self._artifact.read_part(self._parts[number], [self._name]).column(self._name).combine_chunks()


class StoredCosines:
    """Cosines between the pool and the benchmarks from the stored embeddings, a part at a time."""

    def __init__(self, embeddings: Artifact, index: BenchmarkIndex, similarity: float) -> None:
        """`similarity`: cosine that makes a pair worth examining."""
        self._pool = Column(embeddings, "embedding", "part-pool=")
        of_bench: dict[tuple[str, str], npt.NDArray[np.float32]] = {}
        for name in {row.benchmark for row in index.rows}:
            ids = Column(embeddings, "id", f"part-benchmark={name}=")
            vectors = Column(embeddings, "embedding", f"part-benchmark={name}=")
            of_bench |= {(name, ids[i]): np.array(vectors[i], dtype=np.float32) for i in range(len(ids))}
        self._bench = np.array([of_bench[row.benchmark, row.id] for row in index.rows])
        self._similarity = similarity

    def pairs(self) -> Iterator[Pair]:
        for start, block in self._pool.blocks():
            vectors = block.flatten().to_numpy().reshape(len(block), -1)
            rows, columns = np.nonzero(vectors @ self._bench.T >= self._similarity)
            yield from zip((rows + start).tolist(), columns.tolist(), strict=True)

    def of(self, i: int, j: int) -> float:
        return round(float(np.array(self._pool[i], dtype=np.float32) @ self._bench[j]), 4)


def stored_vectors(embeddings: Artifact, ids: Sequence[str]) -> npt.NDArray[np.float32]:
    """The embeddings of pool questions, in the order of `ids`, shape [len(ids), dimension]."""
    place = {row_id: i for i, row_id in enumerate(ids)}
    result: npt.NDArray[np.float32] | None = None
    vectors = Column(embeddings, "embedding", "part-pool=")
    for (_, block), (_, names) in zip(vectors.blocks(), Column(embeddings, "id", "part-pool=").blocks(), strict=True):
        values = block.flatten().to_numpy().reshape(len(block), -1)
        if result is None:
            result = np.zeros((len(ids), values.shape[1]), dtype=np.float32)
        for i, row_id in enumerate(names.to_pylist()):
            if row_id in place:
                result[place[row_id]] = values[i]
    if result is None:
        raise ArtifactError(f"{embeddings.url} holds no embeddings of the pool")
    return result
