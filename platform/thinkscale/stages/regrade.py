"""Grading a campaign's stored samples again, and where that differs from the stored verdicts.

Reads samples, writes regradings. Runs in this process: no Ray, and without a judge no model and no device. Knows
nothing of how an answer is judged.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import pyarrow.compute as pc

from thinkscale import grading
from thinkscale.domain.engine import Engine
from thinkscale.domain.question import Question
from thinkscale.domain.sample import Verdict
from thinkscale.engines.endpoint import EndpointEngine
from thinkscale.engines.factory import build_engine, model_context
from thinkscale.engines.tokenizer import ModelTokenizer
from thinkscale.grading.judge import Judge, ReplyCache
from thinkscale.grading.pool import GradingPool
from thinkscale.grading.verdict import GRADERS
from thinkscale.report.regrade import Disagreement, Grade, by_rules, disagreements, with_second_opinion
from thinkscale.report.regrade import regrade as regrade_part
from thinkscale.stages.artifacts import fingerprints
from thinkscale.store.artifact import ArtifactError, Manifest, fingerprint
from thinkscale.store.filesystem import Store
from thinkscale.store.lease import hold
from thinkscale.store.models import cache_directory, directory_hash, local_model
from thinkscale.store.samples import SampleSet, sample_sets
from thinkscale.store.schemas import VERDICTS, questions

JUDGE_CONTEXT_TOKENS = 16_384
_GRADING_FILES = ("equivalence", "expressions", "extraction", "notation", "verdict", "vocabulary")
MODEL_FILES = ("config.json", "*.safetensors")

_COLUMNS = [*VERDICTS.names, "question_id", "model", "benchmark", "status", "answer"]
"""What grading reads: all but the thinking."""


@dataclass(frozen=True, kw_only=True)
class JudgeModel:
    """Who judges beside the rule graders: a model that runs in this process, or that a server serves."""

    model: str
    """A model reference (`store.models`); with an endpoint, the name by which it is served too."""
    endpoint: str | None = None
    """Base URL of an OpenAI-compatible server; its key comes from THINKSCALE_JUDGE_API_KEY."""
    engine: Literal["auto", "vllm", "transformers"] = "auto"
    ungradable_only: bool = False
    """A second opinion on what the rule graders could not settle; else it judges in their place."""


def regrade(
    store: Store,
    campaign: str,
    *,
    judge: JudgeModel | None = None,
    wait: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> list[tuple[SampleSet, Manifest]]:
    """Grade every stored sample with the installed graders, or a judge; from then on these verdicts count.

    The stored samples stay as they are. Where these very graders gave the verdicts that count, nothing is done.
    An earlier regrading by them is taken as it is, an interrupted one is resumed by the part.

    Args:
        campaign: The campaign's directory in the store.
        wait: For another driver that works on this campaign. False: refuse.
        say: Takes one line for each sample set, as it is done.

    Returns:
        The manifest of each regrading that was made or taken; its stats count `changed` verdicts.

    Raises:
        ArtifactError: there are no complete samples, or the benchmark is no longer the one they answer.
        thinkscale.store.filesystem.StoreError: the root cannot be written, or another driver works on the campaign.
    """
    store.check_writable()
    done = []
    sample_sets(store, campaign)  # where there are none, nothing is begun
    with hold(store, campaign, wait=wait, say=say) as lease, _grader(judge) as (grade, facts):
        for samples in sample_sets(lease.store, campaign):
            if samples.gradings() == [facts]:
                say(f"{samples.label}: these graders gave its verdicts already")
                continue
            manifest = _regrade_set(samples, grade, facts)
            changed = int(manifest.stats.get("changed", 0))
            say(f"{samples.label}: {manifest.rows:,} samples graded again, {changed:,} verdicts changed")
            done.append((samples, manifest))
    return done


def audit(store: Store, campaign: str, *, judge: JudgeModel | None = None) -> Iterator[tuple[Question, Disagreement]]:
    """Every stored verdict that the installed graders, or a judge, would not give, with its question.

    Stored are the verdicts that evaluation gave, whether they were regraded since or not.

    Raises:
        ArtifactError: as `regrade`.
    """
    with _grader(judge) as (grade, _):
        for samples in sample_sets(store, campaign):
            by_id = _questions(samples)
            for file in samples.artifact.parts():
                before = samples.artifact.read_part(file, _COLUMNS)
                for found in disagreements(before, regrade_part(before, by_id, grade)):
                    yield by_id[found.question_id], found


def _regrade_set(samples: SampleSet, grade: Grade, config: dict[str, Any]) -> Manifest:
    by_id = _questions(samples)
    inputs = fingerprints(samples=samples.artifact, benchmark=samples.benchmark_artifact)
    key = fingerprint({"inputs": inputs, "config": config})
    output = samples.regrading_artifact(key)
    done = output.begin(config, inputs)
    manifest = output.manifest()
    if manifest is None:
        parts = {f"{index:07d}": file for index, file in enumerate(samples.artifact.parts())}
        for segment, file in parts.items():
            if segment not in done:
                began = time.perf_counter()
                before = samples.artifact.read_part(file, _COLUMNS)
                after = regrade_part(before, by_id, grade)
                changed = pc.sum(pc.not_equal(before["verdict"], after["verdict"])).as_py() or 0
                stats = {"changed": changed, "cpu_busy_s": time.perf_counter() - began}
                output.commit_segment(segment, after.select(VERDICTS.names).cast(VERDICTS), stats=stats)
        extra = {"model": samples.model, "benchmark": samples.benchmark}
        manifest = output.commit(VERDICTS, extra=extra, expected_segments=set(parts))
    samples.count_regrading(key)
    return manifest


def _questions(samples: SampleSet) -> dict[str, Question]:
    """The questions that the samples answer, by id."""
    benchmark = samples.benchmark_artifact
    if benchmark.require().fingerprint != samples.artifact.require().inputs["benchmark"]:
        raise ArtifactError(
            f"{benchmark.url} is not the benchmark that {samples.artifact.url} answers: it was made anew since. "
            "Delete the samples and run the stage evaluate, or bring the benchmark back"
        )
    return {question.id: question for question in questions(benchmark.read())}


@contextmanager
def _grader(judge: JudgeModel | None) -> Iterator[tuple[Grade, dict[str, Any]]]:
    """Who grades, and what tells it from others."""
    if judge is None:
        with GradingPool(processes=os.cpu_count() or 1) as pool:
            yield by_rules(pool), grading_facts()
        return
    directory = local_model(judge.model)
    cache = ReplyCache(cache_directory() / "judge" / "replies.jsonl")
    with asyncio.Runner() as loop:
        engine = loop.run(_judge_engine(judge, directory))
        engine.info = replace(engine.info, model=judge.model, model_hash=directory_hash(directory, MODEL_FILES))
        asked, info = Judge(engine, ModelTokenizer(directory), cache), engine.info
        facts = {"judge": asked.grader, "engine": [info.engine, info.version, info.dtype, info.model_hash]}

        def judged(items: Sequence[tuple[Question, str]]) -> Sequence[Verdict]:
            return loop.run(asked.grade_all(items))

        try:
            if judge.ungradable_only:
                with GradingPool(processes=os.cpu_count() or 1) as pool:
                    yield with_second_opinion(by_rules(pool), judged), {**grading_facts(), "second_opinion": facts}
            else:
                yield judged, facts
        finally:
            loop.run(engine.close())


async def _judge_engine(judge: JudgeModel, directory: Path) -> Engine:
    if judge.endpoint is not None:
        return await EndpointEngine.connect(
            judge.endpoint, judge.model, directory, key_variable="THINKSCALE_JUDGE_API_KEY"
        )
    context_tokens = min(JUDGE_CONTEXT_TOKENS, model_context(directory) or JUDGE_CONTEXT_TOKENS)
    return await build_engine(judge.engine, directory, context_tokens=context_tokens, threads=os.cpu_count() or 1)


@cache
def grading_facts() -> dict[str, Any]:
    """What tells the installed graders from others: their versions, their code (a fix may forget to raise its
    version) and the version of math-verify."""
    digest = hashlib.sha256()
    for file in sorted(Path(str(grading.__file__)).parent.iterdir()):
        if file.name.partition(".")[0] in _GRADING_FILES:
            digest.update(file.read_bytes())
    return {"graders": GRADERS, "grading_code": digest.hexdigest()[:16], "math_verify": metadata.version("math-verify")}
