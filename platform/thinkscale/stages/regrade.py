"""Grading a campaign's stored samples again, and where that differs from the stored verdicts.
Reads samples, writes regradings. The rule graders run in this process: no Ray, no model and no device. Knows nothing of
how an answer is judged."""

import hashlib
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from thinkscale import grading
from thinkscale.domain.models import Judge
from thinkscale.domain.question import Question
from thinkscale.engines.tokenizer import ModelTokenizer
from thinkscale.grading.pool import GradingPool
from thinkscale.grading.verdict import GRADERS
from thinkscale.report.regrade import Disagreement, by_rules, disagreements
from thinkscale.report.regrade import regrade as regrade_part
from thinkscale.runtime import ending
from thinkscale.stages.artifacts import fingerprints
from thinkscale.store.artifact import Artifact, ArtifactError, Manifest, StoredFile, fingerprint
from thinkscale.store.filesystem import Store
from thinkscale.store.lease import Say, hold, unsaid
from thinkscale.store.models import directory_hash, local_model
from thinkscale.store.samples import SampleSet, sample_sets, with_verdicts_of
from thinkscale.store.schemas import VERDICTS, questions
from thinkscale.store.stage import Segment, Stage, begin_stage

_GRADING_FILES = (
    "choice", "equivalence", "expressions", "extraction", "forms", "notation", "sentences", "verdict", "vocabulary",
)  # fmt: skip
MODEL_FILES = ("config.json", "*.safetensors")

_COLUMNS = [*VERDICTS.names, "question_id", "model", "benchmark", "status", "answer"]  # all but the thinking


@dataclass(frozen=True, kw_only=True)
class SamplesPart:
    """A part of the samples, with the verdicts that evaluation gave, or a regrading."""

    samples: Artifact
    file: StoredFile
    regrading: tuple[Artifact, StoredFile] | None = None

    def read(self) -> pa.Table:
        part = self.samples.read_part(self.file, _COLUMNS)
        return part if self.regrading is None else with_verdicts_of(part, *self.regrading)


def regrade(
    store: Store,
    campaign: str,
    *,
    judge: Judge | None = None,
    address: str | None = None,
    wait: bool = False,
    say: Say = unsaid,
) -> list[tuple[SampleSet, Manifest]]:
    """Grade every stored sample with the installed graders, or a judge; from then on these verdicts count.
    Where these very graders gave the verdicts that count, nothing is done; an earlier regrading by them is taken as it
    is, an interrupted one is resumed by the part. `judge`: a model that grades, on Ray; None: the rule graders, in this
    process. `address`: as for `session.connect`. `wait`: for another driver on this campaign, else it is refused.
    Returns the manifest of each regrading made or taken; its stats count `changed` verdicts. Raises ArtifactError: no
    complete samples, or not of this benchmark; StoreError: the root cannot be written, or another driver works here."""
    done = []
    facts = _facts(judge)
    for samples, output in _regraded(store, campaign, judge, address=address, wait=wait, say=say, but=facts):
        manifest = output.require()
        changed = int(manifest.stats.get("changed", 0))
        say(f"{samples.label}: {manifest.rows:,} samples graded again, {changed:,} verdicts changed")
        samples.count_regrading(Path(output.path).name)
        done.append((samples, manifest))
    return done


def audit(
    store: Store, campaign: str, *, judge: Judge | None = None, address: str | None = None, say: Say = unsaid
) -> Iterator[tuple[Question, Disagreement]]:
    """Every stored verdict that the installed graders, or a judge, would not give, with its question.
    Stored are the verdicts that evaluation gave, whether they were regraded since or not. What a judge says is kept as
    a regrading that does not count, so that nothing is asked twice; the rule graders' verdicts are not. Raises
    ArtifactError: as `regrade`."""
    if judge is None:
        with GradingPool(processes=os.cpu_count() or 1) as pool:
            for samples in sample_sets(store, campaign):
                by_id = _questions(samples)
                for part in _parts(samples):
                    before = part.read()
                    for found in disagreements(before, regrade_part(before, by_id, by_rules(pool))):
                        yield by_id[found.question_id], found
        return
    for samples, output in _regraded(store, campaign, judge, address=address, say=say):
        by_id = _questions(samples)
        for part, judged in zip(_parts(samples), _parts(samples, output), strict=True):
            for found in disagreements(part.read(), judged.read()):
                yield by_id[found.question_id], found


def _regraded(
    store: Store,
    campaign: str,
    judge: Judge | None,
    *,
    address: str | None,
    say: Say,
    wait: bool = False,
    but: Mapping[str, Any] | None = None,
) -> Iterator[tuple[SampleSet, Artifact]]:
    """Every complete sample set with its regrading, made where there is none; `but`: whose verdicts need none."""
    store.check_writable()
    sample_sets(store, campaign)  # where there are none, nothing is begun
    held = hold(store, campaign, wait=wait, say=say, lost=ending.interrupt)
    with ending.listening(), held as lease, _connected(judge, address):
        for samples in sample_sets(lease.store, campaign):
            if but is not None and samples.gradings() == [but]:
                say(f"{samples.label}: these graders gave its verdicts already")
            else:
                yield samples, _regrading(samples, judge)


@contextmanager
def _connected(judge: Judge | None, address: str | None) -> Iterator[None]:
    if judge is None:
        yield
        return
    from thinkscale.runtime import session  # loads Ray

    try:
        session.connect(address)
        yield
    finally:
        session.disconnect()


def _facts(judge: Judge | None) -> dict[str, Any]:
    if judge is None:
        return grading_facts()
    from thinkscale.stages.judge import judge_name

    apart = {"endpoint", "ungradable_only", "serve", "actors", "gpus", "limits"}
    facts = {"judge": judge_name(judge), "settings": judge.model_dump(mode="json", exclude=apart)}
    if judge.endpoint is None:
        directory = local_model(judge.model)
        facts |= {
            "serve": judge.serve.model_dump(mode="json", include={"dtype", "context_tokens"}),
            "template": ModelTokenizer(directory, date=judge.date).template_hash,
            "model_hash": directory_hash(directory, MODEL_FILES),
        }
    return {**grading_facts(), "second_opinion": facts} if judge.ungradable_only else facts


def _regrading(samples: SampleSet, judge: Judge | None) -> Artifact:
    """Verdicts on all samples of a set, by the rule graders or a judge; the former's where it is asked only about the
    rest."""
    rules = _regrading(samples, None) if judge is not None and judge.ungradable_only else None
    inputs = fingerprints(samples=samples.artifact, benchmark=samples.benchmark_artifact)
    config = _facts(judge)
    output = samples.regrading_artifact(fingerprint({"inputs": inputs, "config": config}))

    def plan() -> list[Segment]:
        parts = enumerate(_parts(samples, rules))
        return [Segment(key=f"{n:07d}", rows=part.file.rows or 0, work=part) for n, part in parts]

    stage = begin_stage(output, config, inputs, plan)
    if stage is None:
        return output
    if judge is None:
        _grade(stage, _questions(samples))
    else:
        from thinkscale.stages.judge import run_judge

        run_judge(f"judge {samples.label}", stage, judge, _questions(samples))
    stage.commit(VERDICTS, extra={"model": samples.model, "benchmark": samples.benchmark})
    return output


def _grade(stage: Stage, by_id: Mapping[str, Question]) -> None:
    with GradingPool(processes=os.cpu_count() or 1) as pool:
        for segment in stage.pending:
            began = time.perf_counter()
            before = segment.work.read()
            after = regrade_part(before, by_id, by_rules(pool))
            changed = pc.sum(pc.not_equal(before["verdict"], after["verdict"])).as_py() or 0
            stats = {"changed": changed, "cpu_busy_s": time.perf_counter() - began}
            stage.output.commit_segment(segment.key, after.select(VERDICTS.names).cast(VERDICTS), stats=stats)


def _parts(samples: SampleSet, regrading: Artifact | None = None) -> Iterator[SamplesPart]:
    files = samples.artifact.parts()
    regraded = [None] * len(files) if regrading is None else [(regrading, file) for file in regrading.parts()]
    for file, verdicts in zip(files, regraded, strict=True):
        yield SamplesPart(samples=samples.artifact, file=file, regrading=verdicts)


def _questions(samples: SampleSet) -> dict[str, Question]:
    benchmark = samples.benchmark_artifact
    if benchmark.require().fingerprint != samples.artifact.require().inputs["benchmark"]:
        raise ArtifactError(
            f"{benchmark.url} is not the benchmark that {samples.artifact.url} answers: it was made anew since. "
            "Delete the samples and run the stage evaluate, or bring the benchmark back"
        )
    return {question.id: question for question in questions(benchmark.read())}


@cache
def grading_facts() -> dict[str, Any]:
    """What tells the installed graders from others: their versions, their code (a fix may forget to raise its
    version) and the version of math-verify."""
    digest = hashlib.sha256()
    for file in sorted(Path(str(grading.__file__)).parent.iterdir()):
        if file.name.partition(".")[0] in _GRADING_FILES:
            digest.update(file.read_bytes())
    return {"graders": GRADERS, "grading_code": digest.hexdigest()[:16], "math_verify": metadata.version("math-verify")}
