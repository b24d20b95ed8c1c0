"""The durable map: segments of an artifact, each read, transformed and committed once, on Ray Data.
A segment travels as one row (its key, then its work as bytes), so that Ray Data can neither split nor merge one. Each
dropped row has the stage, a named reason and the evidence. Knows nothing of what the rows mean."""

import logging
import pickle
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from operator import methodcaller
from typing import Any

import numpy as np
import pyarrow as pa

from thinkscale.domain.generation import EngineError
from thinkscale.runtime import metrics
from thinkscale.runtime.meter import Meter
from thinkscale.runtime.progress import Progress
from thinkscale.store.artifact import Artifact, ArtifactError
from thinkscale.store.filesystem import StoreError
from thinkscale.store.models import ModelError
from thinkscale.store.schemas import DROPPED, dropped_row, table
from thinkscale.store.stage import Slice, Stage, begin_stage, slices


@dataclass(frozen=True, kw_only=True)
class Result:
    """What became of a segment."""

    kept: pa.Table
    dropped: pa.Table | None = None
    stats: Mapping[str, float] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)  # for the manifest; the last segment's count


@dataclass(frozen=True, kw_only=True)
class Actors:
    """A pool of actors that each hold something dear (a model) and transform one segment after another."""

    most: int
    cpus: float = 1
    gpus: float = 0
    at_once: int = 1  # segments under way in one actor; more than one needs a transform that may run in several threads


TOLD = (ValueError, ModelError, ArtifactError, EngineError, StoreError)
"""Errors that come back to the driver as they are, for their message says what to do (IngestError and others are
ValueErrors). Ray would bring them wrapped in its own, without their cause."""

Read = Callable[[Any], Any]
Transform = Callable[[Any], Result]


def itself(work: Any) -> Any:
    """For transforms that read for themselves."""
    return work


def run_segments(
    name: str,
    stage: Stage,
    *,
    read: Read = methodcaller("read"),
    transform: Transform | type,
    arguments: tuple[Any, ...] = (),
    actors: Actors | None = None,
) -> None:
    """Run the segments that are not done, each committed by the worker that wrote it.
    `read`: from a segment's work to the transform's input. `transform`: a function, or a class whose
    instances are called (built from `arguments` in each actor). `actors`: the pool for a class; None: `transform` is a
    function and runs in tasks. Raises the error of the first segment that failed; what was committed stays."""
    output, pending = stage.output, stage.pending
    total = sum(segment.rows for segment in stage.segments)
    progress = Progress(name, total, done=total - sum(segment.rows for segment in pending))
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
        told = {"output": output, "read": read, "transform": transform}
        dataset = dataset.map_batches(_in_task, fn_kwargs=told, num_cpus=1, **options)
    else:
        most = min(actors.most, len(rows))
        dataset = dataset.map_batches(
            _Transformer,
            fn_constructor_args=(output, read, transform, arguments, actors),
            compute=ray.data.ActorPoolStrategy(
                min_size=most if actors.gpus else 1,  # engines on GPUs start together; on CPUs a pool grows
                max_size=most,
                max_concurrent_calls_per_actor=actors.at_once,
                enable_true_multi_threading=actors.at_once > 1,
                max_tasks_in_flight_per_actor=max(2, actors.at_once),
            ),
            num_cpus=actors.cpus,
            num_gpus=actors.gpus,
            **options,
        )
    for row in dataset.iter_rows():
        outcome = pickle.loads(row["outcome"])
        if isinstance(outcome, Exception):
            raise outcome
        rows_done, note, stats = outcome
        metrics.count(stats)
        progress.advance(rows_done, note)


def _in_task(batch: pa.Table, *, output: Artifact, read: Read, transform: Any) -> pa.Table:
    began = time.perf_counter()

    def work(_: str, given: Any) -> Result:
        result: Result = transform(read(given))
        return replace(result, stats={"cpu_busy_s": time.perf_counter() - began, **result.stats})

    return _committed(batch, output, work)


class _Transformer:
    def __init__(
        self, output: Artifact, read: Read, transform: type, arguments: tuple[Any, ...], actors: Actors
    ) -> None:
        self._output, self._read = output, read
        self._meter = Meter(workers=1, cpus_each=actors.cpus, gpus_each=actors.gpus)
        self._metering = threading.Lock()  # the meter serves one thread at a time
        self._error: Exception | None = None
        try:
            self._transform = transform(*arguments)
        except TOLD as error:  # an actor that dies as it starts is told by Ray without its reason
            self._error = error
        self._meter.started()

    def __call__(self, batch: pa.Table) -> pa.Table:
        return _committed(batch, self._output, self._work)

    def _work(self, key: str, given: Any) -> Result:
        if self._error is not None:
            raise self._error
        rows = self._read(given)
        with self._metering:
            self._meter.change(key, +1)
        try:
            result: Result = self._transform(rows)
        finally:
            with self._metering:
                self._meter.change(key, -1)
                spent = self._meter.take(key)
        return replace(result, stats={**spent, **result.stats})


def _committed(batch: pa.Table, output: Artifact, work: Callable[[str, Any], Result]) -> pa.Table:
    """Do a segment's work and commit its result. Gives its rows, a note and the sums, or what went wrong."""
    [segment] = batch.to_pylist()
    outcome: Any
    try:
        result = work(segment["key"], pickle.loads(segment["work"]))
        output.commit_segment(
            segment["key"], result.kept, dropped=result.dropped, stats=result.stats, extra=result.extra
        )
        dropped = 0 if result.dropped is None else result.dropped.num_rows
        outcome = segment["rows"], f"{dropped:,} dropped" if dropped else "", result.stats
    except TOLD as error:
        outcome = error
    return pa.table({"outcome": pa.array([pickle.dumps(outcome)], pa.binary())})


@dataclass(frozen=True)
class Drop:
    reason: str
    detail: Mapping[str, Any]


def drop_rows(
    name: str,
    source: Artifact,
    output: Artifact,
    config: Mapping[str, Any],
    inputs: Mapping[str, str],
    decide: Callable[[], Mapping[int, Drop]],
    schema: pa.Schema,
    segment_rows: int,
) -> bool:
    """Write the source without the rows that were decided to go; says whether there was anything to do.
    `decide`: gives drops by the row's place in the source, over all its parts. `schema`: of the output; columns of the
    source that it lacks are left out."""
    stage = begin_stage(output, config, inputs, lambda: slices(source, segment_rows))
    if stage is None:
        return False
    drops, segments, first = decide(), [], 0
    for segment in stage.segments:
        local = {at: drops[first + at] for at in range(segment.rows) if first + at in drops}
        segments.append(replace(segment, work=(segment.work, local)))
        first += segment.rows
    work = replace(stage, segments=tuple(segments))
    filtered = partial(_filtered, stage=name, columns=schema.names)
    run_segments(name, work, read=itself, transform=filtered)
    return stage.commit(schema)


def _filtered(work: tuple[Slice, Mapping[int, Drop]], *, stage: str, columns: Sequence[str]) -> Result:
    """The rows of a slice without those that a global decision named."""
    rows, drops = work[0].read(list(columns)), work[1]
    keep = np.ones(rows.num_rows, dtype=bool)
    keep[list(drops)] = False
    lost = rows.filter(pa.array(~keep)).to_pylist()
    dropped = [
        dropped_row(stage, row["id"], drops[at].reason, drops[at].detail, row)
        for at, row in zip(sorted(drops), lost, strict=True)
    ]
    return Result(kept=rows.filter(pa.array(keep)), dropped=table(dropped, DROPPED))


def licences(rows: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Rows by source and licence, for the manifest."""
    counts = sorted(Counter((row["source"], row["licence"] or "unknown") for row in rows).items())
    return {"licences": [{"source": source, "licence": licence, "rows": n} for (source, licence), n in counts]}
