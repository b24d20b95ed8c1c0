"""Grading a campaign's stored samples again, and where that differs from the stored verdicts.

Reads samples, writes regradings. Runs in this process on its cores: no Ray, no model, no device. Knows nothing
of how an answer is judged.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from thinkscale.domain.question import Question
from thinkscale.report.regrade import Disagreement, disagreements
from thinkscale.report.regrade import regrade as regrade_part
from thinkscale.store.artifact import Artifact, ArtifactError, Manifest, StoredFile, fingerprint
from thinkscale.store.filesystem import Store
from thinkscale.store.samples import SampleSet, sample_sets
from thinkscale.store.schemas import VERDICTS, questions
from thinkscale.thinking import equivalence, extraction, grading, notation
from thinkscale.thinking.grading import GRADERS, GradingPool

_COLUMNS = [*VERDICTS.names, "question_id", "model", "benchmark", "status", "answer"]


def regrade(
    store: Store, campaign: str, *, say: Callable[[str], None] = lambda line: None
) -> list[tuple[SampleSet, Manifest]]:
    """Grade every stored sample with the installed graders; from then on these verdicts count.

    The stored samples stay as they are. Where these very graders gave the verdicts that count, nothing is done.
    An earlier regrading by them is taken as it is, an interrupted one is resumed by the part.

    Args:
        campaign: The campaign's directory in the store.
        say: Takes one line for each sample set, as it is done.

    Returns:
        The manifest of each regrading that was made or taken; its stats count `changed` verdicts.

    Raises:
        ArtifactError: there are no complete samples, or the benchmark is no longer the one they answer.
        thinkscale.store.filesystem.StoreError: the root cannot be written.
    """
    store.check_writable()
    done = []
    with _pool() as pool:
        for samples in sample_sets(store, campaign):
            if samples.gradings() == [grading_facts()]:
                say(f"{samples.label}: these graders gave its verdicts already")
                continue
            manifest = _regrade_set(samples, pool)
            changed = int(manifest.stats.get("changed", 0))
            say(f"{samples.label}: {manifest.rows:,} samples graded again, {changed:,} verdicts changed")
            done.append((samples, manifest))
    return done


def audit(store: Store, campaign: str) -> Iterator[tuple[Question, Disagreement]]:
    """Every stored verdict that the installed graders would not give, with its question; nothing is written.

    Stored are the verdicts that evaluation gave, whether they were regraded since or not.

    Raises:
        ArtifactError: as `regrade`.
    """
    with _pool() as pool:
        for samples in sample_sets(store, campaign):
            by_id = _questions(samples)
            for file in samples.artifact.parts():
                before, after = _graded(samples, file, by_id, pool)
                for found in disagreements(before, after):
                    yield by_id[found.question_id], found


def _regrade_set(samples: SampleSet, pool: GradingPool) -> Manifest:
    by_id = _questions(samples)
    inputs = {
        "samples": samples.artifact.require().fingerprint,
        "benchmark": _benchmark(samples).require().fingerprint,
    }
    config = grading_facts()
    key = fingerprint({"inputs": inputs, "config": config})
    output = samples.regrading_artifact(key)
    done = output.begin(config, inputs)
    manifest = output.manifest()
    if manifest is None:
        parts = {f"{index:07d}": file for index, file in enumerate(samples.artifact.parts())}
        for segment, file in parts.items():
            if segment not in done:
                began = time.perf_counter()
                before, after = _graded(samples, file, by_id, pool)
                changed = pc.sum(pc.not_equal(before["verdict"], after["verdict"])).as_py() or 0
                stats = {"changed": changed, "cpu_busy_s": time.perf_counter() - began}
                output.commit_segment(segment, after.select(VERDICTS.names).cast(VERDICTS), stats=stats)
        extra = {"model": samples.model, "benchmark": samples.benchmark}
        manifest = output.commit(VERDICTS, extra=extra, expected_segments=set(parts))
    samples.count_regrading(key)
    return manifest


def _graded(
    samples: SampleSet, file: StoredFile, by_id: dict[str, Question], pool: GradingPool
) -> tuple[pa.Table, pa.Table]:
    """A part as it is stored and as it is graded now, without the thinking."""
    before = samples.artifact.read_part(file, _COLUMNS)
    return before, regrade_part(before, by_id, pool)


def _questions(samples: SampleSet) -> dict[str, Question]:
    """The questions that the samples answer, by id."""
    benchmark = _benchmark(samples)
    if benchmark.require().fingerprint != samples.artifact.require().inputs["benchmark"]:
        raise ArtifactError(
            f"{benchmark.url} is not the benchmark that {samples.artifact.url} answers: it was made anew since. "
            "Delete the samples and run the stage evaluate, or bring the benchmark back"
        )
    return {question.id: question for question in questions(benchmark.read())}


def _benchmark(samples: SampleSet) -> Artifact:
    return Artifact(samples.store, f"{samples.campaign}/benchmarks/{samples.benchmark}")


def _pool() -> AbstractContextManager[GradingPool]:
    return GradingPool(processes=os.cpu_count() or 1)


@cache
def grading_facts() -> dict[str, Any]:
    """What tells the installed graders from others: their versions, their code (a fix may forget to raise its
    version) and the version of math-verify."""
    digest = hashlib.sha256()
    for module in (equivalence, extraction, grading, notation):
        digest.update(Path(str(module.__file__)).read_bytes())
    return {"graders": GRADERS, "grading_code": digest.hexdigest()[:16], "math_verify": metadata.version("math-verify")}
