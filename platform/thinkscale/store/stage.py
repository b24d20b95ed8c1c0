"""The writing of one artifact: segments as units of work, what of them is done, and the commit that ends it. A plan is
fixed with the configuration: a run that would cut the work otherwise is refused, for rows would be lost or doubled.
Committed artifacts are read by slices, or a column by the row's place. Knows nothing of how segments run."""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from thinkscale.store.artifact import Artifact, ArtifactError, StoredFile, fingerprint


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A unit of work. Its key and content are the same in every run."""

    key: str
    rows: int  # for the progress
    work: Any  # what `read` needs. Picklable.


@dataclass(frozen=True, kw_only=True)
class Slice:
    """Rows of a committed artifact that follow each other, perhaps over several parts."""

    artifact: Artifact
    ranges: tuple[tuple[StoredFile, int, int], ...]  # part, first row, row after the last

    def read(self, columns: list[str] | None = None) -> pa.Table:
        return pa.concat_tables(
            self.artifact.read_part(part, columns).slice(start, stop - start) for part, start, stop in self.ranges
        )


WHOLE = Segment(key="000000", rows=0, work=None)  # of artifacts that are made at once


def slices(artifact: Artifact, segment_rows: int) -> list[Segment]:
    """A committed artifact in segments of so many rows, whatever the sizes of its parts."""
    parts, found = artifact.parts(), list[Segment]()
    for ranges in cut([part.rows or 0 for part in parts], segment_rows):
        work = Slice(artifact=artifact, ranges=tuple((parts[n], start, stop) for n, start, stop in ranges))
        rows = sum(stop - start for _, start, stop in ranges)
        found.append(Segment(key=f"{len(found):06d}", rows=rows, work=work))
    return found


def cut(lengths: Sequence[int], rows: int) -> list[list[tuple[int, int, int]]]:
    """Runs of these lengths, end to end, in segments of so many rows: each a list of (run, start, stop)."""
    segments: list[list[tuple[int, int, int]]] = []
    room = 0
    for run, length in enumerate(lengths):
        start = 0
        while start < length:
            if room == 0:
                segments.append([])
                room = rows
            stop = min(start + room, length)
            segments[-1].append((run, start, stop))
            start, room = stop, room - (stop - start)
    return segments


@dataclass(frozen=True, kw_only=True)
class Stage:
    """An artifact that was begun and is not complete."""

    output: Artifact
    segments: tuple[Segment, ...]
    done: frozenset[str]  # keys of committed segments

    @property
    def pending(self) -> list[Segment]:
        return [segment for segment in self.segments if segment.key not in self.done]

    def engine(self) -> dict[str, Any] | None:
        """What drew the segments that are committed, as EngineInfo's fields; None where none says."""
        return next((r["extra"]["engine"] for r in self.output.segment_records() if "engine" in r["extra"]), None)

    def commit(self, schema: pa.Schema | str, **facts: Any) -> bool:
        """`Artifact.commit` once every planned segment is committed. Returns True: the stage did something."""
        self.output.commit(schema, **facts, expected_segments={segment.key for segment in self.segments})
        return True


Plan = Callable[[], Iterable[Segment]]


def begin_stage(
    output: Artifact, config: Mapping[str, Any], inputs: Mapping[str, str], plan: Plan = tuple
) -> Stage | None:
    """Begin an artifact or go on with it; None where it is complete, or its twin is and is the same.
    `config`: what its rows depend on, as JSON values. `inputs`: fingerprints of what is read, by name. `plan`: gives
    the segments; called only where the artifact is not complete. Raises ConfigDriftError where the artifact was begun
    with another configuration, other inputs or another plan."""
    if output.is_complete(config, inputs):
        output.sweep()  # whoever committed it may have been killed before
        return None
    segments = tuple(plan())
    rows = {segment.key: segment.rows for segment in segments}
    longest, total = max(rows.values(), default=0), sum(rows.values())
    planned = {"segments": len(segments), "segment_rows": longest, "rows": total, "keys": fingerprint(rows)}
    return Stage(output=output, segments=segments, done=frozenset(output.begin(config, inputs, planned)))


POOL = "part-pool="  # of embeddings, the parts that hold the pool's


class Column:
    """One column of a committed artifact by the row's place, read a part at a time: for few rows, in order."""

    def __init__(self, artifact: Artifact, name: str, prefix: str = "part-") -> None:
        """`prefix`: of the parts that count."""
        self._artifact, self._name = artifact, name
        self._parts = [part for part in artifact.parts() if part.path.startswith(prefix)]
        self._starts = [0, *accumulate(part.rows or 0 for part in self._parts)]
        self.part = lru_cache(maxsize=4)(self._read)

    def __getitem__(self, place: int) -> Any:
        number = bisect_right(self._starts, place) - 1
        return self.part(number)[place - self._starts[number]].as_py()

    def blocks(self) -> Iterator[tuple[int, pa.Array]]:
        """Each part's first place and values."""
        for number in range(len(self._parts)):
            yield self._starts[number], self._read(number)

    def _read(self, number: int) -> pa.Array:
        return self._artifact.read_part(self._parts[number], [self._name]).column(self._name).combine_chunks()


def matrix(vectors: pa.Array) -> npt.NDArray[np.float32]:
    """A part's embeddings, shape [rows, dimension]."""
    found: npt.NDArray[np.float32] = vectors.flatten().to_numpy().reshape(len(vectors), -1)
    return found


def stored_vectors(embeddings: Artifact, ids: Sequence[str]) -> npt.NDArray[np.float32]:
    """The embeddings of the pool's questions, in the order of `ids`, shape [len(ids), dimension]: 4 bytes a number."""
    result = np.zeros((0, 0), dtype=np.float32)
    for places, vectors in vector_blocks(embeddings, ids):
        if not len(result):
            result = np.zeros((len(ids), vectors.shape[1]), dtype=np.float32)
        result[places] = vectors
    if not len(result):
        raise ArtifactError(f"{embeddings.url} holds no embeddings of these questions")
    return result


def vector_blocks(
    embeddings: Artifact, ids: Sequence[str]
) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]]:
    """The same a part at a time: places in `ids`, and the vectors of those rows."""
    place = {row_id: i for i, row_id in enumerate(ids)}
    for part in embeddings.parts():
        if not part.path.startswith(POOL):
            continue
        rows = embeddings.read_part(part)
        places = np.array([place.get(row_id, -1) for row_id in rows.column("id").to_pylist()], dtype=np.int64)
        if (places >= 0).any():
            vectors = matrix(rows.column("embedding").combine_chunks())
            yield places[places >= 0], vectors[places >= 0]
