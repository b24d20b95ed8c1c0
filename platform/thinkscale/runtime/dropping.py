"""Rows that a stage drops: never lost, each with the stage, a named reason and the evidence.

Owns the form of dropped rows and the stage that writes an artifact without the rows a global decision named.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from thinkscale.domain.question import Question
from thinkscale.runtime.segments import Result, itself, run_segments
from thinkscale.store.artifact import Artifact
from thinkscale.store.ingest import Unreadable
from thinkscale.store.schemas import DROPPED, question_row, table
from thinkscale.store.stage import Slice, begin_stage, slices


@dataclass(frozen=True)
class Drop:
    """Why a row goes."""

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

    Args:
        name: of the stage, for the progress and the dropped rows.
        config: as in `begin_stage`, and so `inputs`.
        decide: gives drops by the row's place in the source, over all its parts.
        schema: of the output; columns of the source that it lacks are left out.
    """
    stage = begin_stage(output, config, inputs, lambda: slices(source, segment_rows))
    if stage is None:
        return False
    drops, segments, first = decide(), [], 0
    for segment in stage.segments:
        local = {at: drops[first + at] for at in range(segment.rows) if first + at in drops}
        segments.append(replace(segment, work=(segment.work, local)))
        first += segment.rows
    work = replace(stage, segments=tuple(segments))
    run_segments(name, work, read=itself, transform=FilterRows(name, schema.names))
    return stage.commit(schema)


class FilterRows:
    """Drops the rows of a slice that a global decision named."""

    def __init__(self, stage: str, columns: Sequence[str]) -> None:
        self._stage, self._columns = stage, list(columns)

    def __call__(self, work: tuple[Slice, Mapping[int, Drop]]) -> Result:
        rows, drops = work[0].read(self._columns), work[1]
        keep = np.ones(rows.num_rows, dtype=bool)
        keep[list(drops)] = False
        lost = rows.filter(pa.array(~keep)).to_pylist()
        dropped = [
            dropped_row(self._stage, row["id"], drops[at].reason, drops[at].detail, row)
            for at, row in zip(sorted(drops), lost, strict=True)
        ]
        return Result(kept=rows.filter(pa.array(keep)), dropped=table(dropped, DROPPED))


def licences(rows: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Rows by source and licence, for the manifest."""
    counts = Counter((row["source"], row["licence"] or "unknown") for row in rows)
    return {
        "licences": [
            {"source": source, "licence": licence, "rows": count} for (source, licence), count in sorted(counts.items())
        ]
    }


def unreadable_row(stage: str, row: Unreadable) -> dict[str, Any]:
    detail = {"locator": row.locator, "error": row.error}
    return {**dropped_row(stage, None, "unreadable_line", detail), "row": row.text}


def dropped_row(
    stage: str,
    id_: str | None,
    reason: str,
    detail: Mapping[str, Any],
    row: Question | Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    content = question_row(row) if isinstance(row, Question) else row
    return {
        "id": id_,
        "stage": stage,
        "reason": reason,
        "detail": json.dumps(detail, ensure_ascii=False),
        "row": None if content is None else json.dumps(content, ensure_ascii=False, default=str),
    }
