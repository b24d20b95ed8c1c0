"""The writing of one artifact: what is planned, what of it is done, and the commit that ends it.

Owns segments as units of work and the ritual around them. A plan is fixed with the configuration when an artifact
is begun: a run that would cut the work otherwise is refused, for rows would be lost or doubled. Knows nothing of
how segments run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from thinkscale.store.artifact import Artifact, StoredFile, fingerprint


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A unit of work. Its key and content are the same in every run."""

    key: str
    rows: int
    """For the progress."""
    work: Any
    """What `read` needs. Picklable."""


@dataclass(frozen=True, kw_only=True)
class Slice:
    """Rows of a committed artifact that follow each other, perhaps over several parts."""

    artifact: Artifact
    ranges: tuple[tuple[StoredFile, int, int], ...]
    """Part, first row, row after the last."""

    def read(self, columns: list[str] | None = None) -> pa.Table:
        return pa.concat_tables(
            self.artifact.read_part(part, columns).slice(start, stop - start) for part, start, stop in self.ranges
        )


WHOLE = Segment(key="000000", rows=0, work=None)
"""Of artifacts that are made at once."""


def slices(artifact: Artifact, segment_rows: int) -> list[Segment]:
    """A committed artifact in segments of so many rows, whatever the sizes of its parts."""
    parts = artifact.parts()
    return [
        Segment(
            key=f"{i:06d}",
            rows=sum(stop - start for _, start, stop in ranges),
            work=Slice(artifact=artifact, ranges=tuple((parts[n], start, stop) for n, start, stop in ranges)),
        )
        for i, ranges in enumerate(cut([part.rows or 0 for part in parts], segment_rows))
    ]


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
    done: frozenset[str]
    """Keys of committed segments."""

    @property
    def pending(self) -> list[Segment]:
        return [segment for segment in self.segments if segment.key not in self.done]

    def engine(self) -> dict[str, Any] | None:
        """What drew the segments that are committed, as EngineInfo's fields; None where none says."""
        return next((r["extra"]["engine"] for r in self.output.segment_records() if "engine" in r["extra"]), None)

    def commit(
        self,
        schema: pa.Schema | str,
        *,
        extra: Mapping[str, Any] | None = None,
        files: list[StoredFile] | None = None,
        stats: Mapping[str, float] | None = None,
    ) -> bool:
        """Write the manifest: every planned segment is committed. Returns True: the stage did something."""
        expected = {segment.key for segment in self.segments}
        self.output.commit(schema, extra=extra, files=files, stats=stats, expected_segments=expected)
        return True


def begin_stage(
    output: Artifact,
    config: Mapping[str, Any],
    inputs: Mapping[str, str],
    plan: Callable[[], Iterable[Segment]] = tuple,
) -> Stage | None:
    """Begin an artifact or go on with it; None where it is complete, or its twin is and is the same.

    Args:
        config: what its rows depend on, as JSON values.
        inputs: fingerprints of what is read, by name.
        plan: gives the segments; called only where the artifact is not complete.

    Raises:
        ConfigDriftError: the artifact was begun with another configuration, other inputs or another plan.
    """
    if output.is_complete(config, inputs) or output.take_over(config, inputs):
        output.sweep()  # whoever committed it may have been killed before
        return None
    segments = tuple(plan())
    rows = {segment.key: segment.rows for segment in segments}
    planned = {
        "segments": len(segments),
        "segment_rows": max(rows.values(), default=0),
        "rows": sum(rows.values()),
        "keys": fingerprint(rows),
    }
    return Stage(output=output, segments=segments, done=frozenset(output.begin(config, inputs, planned)))
