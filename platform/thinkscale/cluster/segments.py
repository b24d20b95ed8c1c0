"""The durable map: segments of an artifact, each read, transformed and committed once, on Ray Data.

Owns which segments are pending, how they run, and resuming. A segment travels as one row (its key, then its
tables as bytes), so that Ray Data can neither split nor merge one. Knows nothing of what the rows mean.
"""

from __future__ import annotations

import logging
import pickle
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa

from thinkscale.cluster.progress import Progress
from thinkscale.store.artifact import Artifact, ArtifactError, StoredFile
from thinkscale.store.locations import IngestError
from thinkscale.store.models import ModelError

TASK_CPUS = 0.25
"""Of reading and writing tasks: they wait for storage more than they compute, and must find room beside actors."""


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A unit of work. Its key and content are the same in every run."""

    key: str
    rows: int
    """For the progress."""
    work: Any
    """What `read` needs. Picklable."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """What became of a segment."""

    kept: pa.Table
    dropped: pa.Table | None = None
    stats: Mapping[str, float] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Facts for the manifest; of several segments' the last one's counts."""


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


@dataclass(frozen=True, kw_only=True)
class Actors:
    """A pool of actors that each hold something dear (a model) and transform one segment after another."""

    most: int
    cpus: float = 1
    gpus: float = 0
    at_once: int = 1
    """Segments under way in one actor; more than one needs a transform that may run in several threads."""


Read = Callable[[Any], Any]
Transform = Callable[[Any], Result]


def slices(artifact: Artifact, segment_rows: int) -> list[Segment]:
    """A committed artifact in segments of so many rows, whatever the sizes of its parts."""
    segments: list[list[tuple[StoredFile, int, int]]] = [[]]
    room = segment_rows
    for part in artifact.parts():
        start, rows = 0, part.rows or 0
        while start < rows:
            if room == 0:
                segments.append([])
                room = segment_rows
            count = min(room, rows - start)
            segments[-1].append((part, start, start + count))
            start, room = start + count, room - count
    return [
        Segment(
            key=f"{i:06d}",
            rows=sum(stop - start for _, start, stop in ranges),
            work=Slice(artifact=artifact, ranges=tuple(ranges)),
        )
        for i, ranges in enumerate(segments)
        if ranges
    ]


def itself(work: Any) -> Any:
    """For transforms that read for themselves."""
    return work


def read_slice(work: Slice) -> pa.Table:
    return work.read()


def run_segments(
    stage: str,
    output: Artifact,
    segments: Sequence[Segment],
    done: set[str],
    *,
    read: Read = read_slice,
    transform: Transform | type,
    arguments: tuple[Any, ...] = (),
    actors: Actors | None = None,
) -> None:
    """Run the segments that are not `done`, each committed by the worker that wrote it.

    Args:
        stage: for the progress.
        done: keys of committed segments, as `Artifact.begin` gives them.
        read: from a segment's work to the transform's input, in a task.
        transform: a function, or a class whose instances are called (built from `arguments` in each actor).
        actors: the pool for a class; None: `transform` is a function and runs in tasks.

    Raises:
        The transform's own error, once Ray's retries are spent. What was committed stays.
    """
    pending = [segment for segment in segments if segment.key not in done]
    total = sum(segment.rows for segment in segments)
    progress = Progress(stage, total, done=total - sum(segment.rows for segment in pending))
    if not pending:
        return
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.enable_operator_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    rows = [{"key": s.key, "rows": s.rows, "work": pickle.dumps(s.work)} for s in pending]
    dataset: Any = ray.data.from_items(rows, override_num_blocks=len(rows))
    options: dict[str, Any] = {"batch_size": 1, "batch_format": "pyarrow"}
    if actors is None:
        whole = _Whole(output, read, transform)
        dataset = dataset.map_batches(whole, num_cpus=1, **options)
    else:
        dataset = dataset.map_batches(_Reader(read), num_cpus=TASK_CPUS, **options)
        dataset = dataset.map_batches(
            _Transformer,
            fn_constructor_args=(transform, arguments, actors),
            compute=ray.data.ActorPoolStrategy(
                min_size=1,
                max_size=max(1, min(actors.most, len(rows))),
                max_concurrent_calls_per_actor=actors.at_once,
                enable_true_multi_threading=actors.at_once > 1,
                max_tasks_in_flight_per_actor=actors.at_once + 1,
            ),
            num_cpus=actors.cpus,
            num_gpus=actors.gpus,
            **options,
        )
        dataset = dataset.map_batches(_Writer(output), num_cpus=TASK_CPUS, **options)
    try:
        for row in dataset.iter_rows():
            progress.advance(int(row["rows"]), str(row["note"]))
    except ray.exceptions.RayTaskError as error:
        raise _told(error) from error


class _Whole:
    """Read, transform and write in one task."""

    def __init__(self, output: Artifact, read: Read, transform: Any) -> None:
        self._output, self._read, self._transform = output, read, transform

    def __call__(self, batch: pa.Table) -> pa.Table:
        began = time.perf_counter()
        result: Result = self._transform(self._read(pickle.loads(_cell(batch, "work"))))
        elapsed = {"cpu_busy_s": time.perf_counter() - began}
        return _commit(self._output, batch, result, elapsed)


class _Reader:
    def __init__(self, read: Read) -> None:
        self._read = read

    def __call__(self, batch: pa.Table) -> pa.Table:
        return _with(batch, work=pickle.dumps(self._read(pickle.loads(_cell(batch, "work")))))


class _Transformer:
    """An actor of a pool; it meters what it holds."""

    def __init__(self, transform: type, arguments: tuple[Any, ...], actors: Actors) -> None:
        self._actors = actors
        began = time.perf_counter()
        self._transform = transform(*arguments)
        self._startup_s = time.perf_counter() - began

    def __call__(self, batch: pa.Table) -> pa.Table:
        began = time.perf_counter()
        result: Result = self._transform(pickle.loads(_cell(batch, "work")))
        stats = {**self._spent("busy", time.perf_counter() - began), **self._spent("startup", self._startup_s)}
        self._startup_s = 0.0
        return _with(batch, work=pickle.dumps(replace(result, stats={**stats, **result.stats})))

    def _spent(self, what: str, elapsed_s: float) -> dict[str, float]:
        share = elapsed_s / self._actors.at_once if what == "busy" else elapsed_s
        held = {"cpu": self._actors.cpus, "gpu": self._actors.gpus}
        return {f"{device}_{what}_s": share * count for device, count in held.items() if share * count > 0}


class _Writer:
    def __init__(self, output: Artifact) -> None:
        self._output = output

    def __call__(self, batch: pa.Table) -> pa.Table:
        return _commit(self._output, batch, pickle.loads(_cell(batch, "work")), {})


def _commit(output: Artifact, batch: pa.Table, result: Result, stats: Mapping[str, float]) -> pa.Table:
    output.commit_segment(
        _cell(batch, "key"),
        result.kept,
        dropped=result.dropped,
        stats={**stats, **result.stats},
        extra=result.extra,
    )
    dropped = 0 if result.dropped is None else result.dropped.num_rows
    return pa.table({"rows": batch.column("rows"), "note": [f"{dropped:,} dropped" if dropped else ""]})


def _cell(batch: pa.Table, column: str) -> Any:
    if batch.num_rows != 1:
        raise AssertionError(f"a batch holds {batch.num_rows} segments, not 1")
    return batch.column(column)[0].as_py()


def _with(batch: pa.Table, *, work: bytes) -> pa.Table:
    return pa.table({"key": batch.column("key"), "rows": batch.column("rows"), "work": pa.array([work], pa.binary())})


def _told(error: Any) -> BaseException:
    """Our own error out of Ray's wrapping, where it is one: its message says what the user must do."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, IngestError | ModelError | ArtifactError | ValueError):
            return seen
        cause = getattr(seen, "cause", None)
        seen = cause if isinstance(cause, BaseException) else seen.__cause__
    return error  # type: ignore[no-any-return]
