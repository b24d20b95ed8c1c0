"""Regrading and comparing campaigns in S3, where no directory exists and nothing is renamed."""

from __future__ import annotations

import pyarrow as pa
from click.testing import CliRunner

from made_samples import made_questions, made_samples
from thinkscale.cli import cli
from thinkscale.domain.sample import Verdict
from thinkscale.report.regrade import with_verdicts
from thinkscale.store.artifact import Artifact
from thinkscale.store.filesystem import Store
from thinkscale.store.samples import SampleSet
from thinkscale.store.schemas import QUESTIONS, SAMPLES


def stored(root: str, name: str, samples: pa.Table) -> SampleSet:
    found = SampleSet(store=Store(root), campaign=name, model="base", benchmark="sums")
    benchmark = Artifact(found.store, f"{name}/benchmarks/sums")
    benchmark.begin({}, {})
    benchmark.commit_segment("0", made_questions(questions=6))
    found.artifact.begin({}, {"benchmark": benchmark.commit(QUESTIONS).fingerprint})
    found.artifact.commit_segment("0", samples)
    found.artifact.commit(SAMPLES, extra={"engine": {"engine": "scripted"}})
    return found


def test_campaigns_in_s3_are_regraded_and_compared(s3_root: str) -> None:
    right = made_samples(models={"base": 0.9}, questions=6)
    unread = Verdict(verdict="unanswered", extracted_answer=None, grader="integer/0")
    root = f"{s3_root}/regrading"
    old = stored(root, "old", with_verdicts(right, [unread] * right.num_rows))
    stored(root, "new", right)
    compared = ["compare", f"{root}/old", f"{root}/new"]
    before = CliRunner().invoke(cli, compared, catch_exceptions=False).output.splitlines()
    CliRunner().invoke(cli, ["regrade", f"{root}/old"], catch_exceptions=False)
    assert pa.concat_tables(old.iter_tables()).equals(right)
    after = CliRunner().invoke(cli, compared, catch_exceptions=False).output.splitlines()
    assert before[-1].endswith("better")
    assert after[-1].endswith("inconclusive")
