"""Benchmarks: any source of questions as Parquet of one schema (QUESTIONS), for a campaign or for all of a root.
Owns which rows can be a benchmark's and where the benchmarks of a root lie, `<root>/benchmarks/<name>`. Knows nothing
of models or samples."""

import json
import re
from pathlib import Path
from typing import Any

from thinkscale.curate.normalise import normalise_question
from thinkscale.curate.quality import is_no_answer
from thinkscale.domain.question import Question
from thinkscale.domain.source import FilesSource, ReasoningGymSource
from thinkscale.grading.verdict import Graded, judge_plainly
from thinkscale.store.artifact import Artifact, Manifest
from thinkscale.store.filesystem import Store
from thinkscale.store.ingest import CODE_SETS, Unreadable, plan, read, source_fingerprints
from thinkscale.store.locations import COMPRESSIONS, FORMATS, IngestError
from thinkscale.store.schemas import DROPPED, QUESTIONS, dropped_row, questions_table, table

SEGMENT_ROWS = 1024
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def added_benchmark(store: Store, name: str) -> Artifact:
    """Where the benchmark lies that every campaign under this root can use by its name."""
    return Artifact(store, f"benchmarks/{name}")


def added_manifest(store: Store, name: str) -> Manifest:
    """Raises IngestError where that benchmark was not added."""
    added = added_benchmark(store, name)
    if (manifest := added.manifest()) is None:
        raise IngestError(
            f"the campaign names the benchmark {name!r} without a source, and {added.url} is not there: thinkscale "
            f"benchmark add {name} --root {store.uri}"
        )
    return manifest


def dataset_path(path: str) -> str:
    """A path of a source; `owner/name`, where no such file is, is a data set of Hugging Face."""
    is_id = _HUB_ID.fullmatch(path) and Path(path).suffix not in {*FORMATS, *COMPRESSIONS} and not Path(path).exists()
    return f"hf://datasets/{path}" if is_id else path


def add_benchmark(store: Store, source: FilesSource, limit: int | None = None) -> tuple[Manifest, list[dict[str, Any]]]:
    """Build the benchmark of the source's name under the root; nothing is written before all of it is read.
    Returns the manifest, and the rows that are not in it (schema DROPPED). Raises IngestError: a file cannot be opened
    or read on, a column is in none of its rows (the message lists those there are), or no row can be used;
    ConfigDriftError: a benchmark of this name was made of something else."""
    store.check_writable()
    questions, bad = read_benchmark(source, limit)
    output = added_benchmark(store, source.name)
    output.begin({**source.model_dump(), "limit": limit}, source_fingerprints(source))
    output.commit_segment("000000", questions_table(questions), dropped=table(bad, DROPPED))
    return output.commit(QUESTIONS, extra={"licence": source.licence}), bad


def read_benchmark(
    source: FilesSource | ReasoningGymSource, limit: int | None
) -> tuple[list[Question], list[dict[str, Any]]]:
    """The first `limit` usable questions of a source, normalised, and the rows before them that are not usable.
    Raises IngestError as `add_benchmark`."""
    if isinstance(source, FilesSource) and (source.kind == "code" or CODE_SETS.search(source.name)):
        raise IngestError(
            f"benchmark {source.name!r} asks for programs, which cannot be graded here: such questions can be in a "
            "pool, for training, and in no benchmark"
        )
    kept: dict[str, Question] = {}
    bad: list[dict[str, Any]] = []
    for piece in plan(source, SEGMENT_ROWS):
        for row in read(piece):
            if limit is not None and len(kept) >= limit:
                break
            if isinstance(row, Unreadable):
                bad.append(_bad("unreadable_line", row.locator, row.error, row.text))
                continue
            question = normalise_question(row)
            if question.id in kept:
                bad.append(_bad("exact_duplicate", row.locator, f"the same as {kept[question.id].locator}", question))
            elif fault := _fault(question):
                bad.append(_bad(fault[0], row.locator, fault[1], question))
            else:
                kept[question.id] = question
    if not kept:
        told = f"; the first at {json.loads(bad[0]['detail'])}" if bad else ""
        raise IngestError(f"benchmark {source.name!r} is empty: {len(bad)} rows, none of them readable{told}")
    return list(kept.values()), bad


def _fault(question: Question) -> tuple[str, str] | None:
    if question.kind == "code":
        told = f"{question.source} asks for a program, which cannot be graded: such rows are for training only"
        return "ungradable_kind", told
    for name in ("question", "answer"):
        if not getattr(question, name):
            return "missing_field", f"no {name}"
    if not all(question.options):
        return "missing_field", "an option is empty"
    if is_no_answer(question.answer):
        return "missing_field", f"no answer: {question.answer!r}"
    graded = Graded(kind=question.kind, reference=question.answer, response="", options=question.options)
    verdict, _, _ = judge_plainly(graded)
    if verdict is not None and verdict.verdict == "ungradable":
        return "ungradable_reference", f"the reference answer cannot be graded against as {question.kind}"
    return None


def _bad(reason: str, locator: str, error: str, row: Question | str) -> dict[str, Any]:
    id_ = row.id if isinstance(row, Question) else None
    return dropped_row("benchmarks", id_, reason, {"locator": locator, "error": error}, row)
