"""Grading, regrading, auditing and comparing from the command line, over small stored campaigns."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from click.testing import CliRunner, Result

from made_samples import ENGINE, QUESTION_COUNT, made_campaign, made_questions, made_samples, stored_campaign
from thinkscale.cli import cli
from thinkscale.domain.reference import commented_toml
from thinkscale.domain.sample import Verdict
from thinkscale.report.regrade import with_verdicts
from thinkscale.stages.regrade import grading_facts
from thinkscale.stages.report import report
from thinkscale.store.artifact import Artifact, ArtifactError
from thinkscale.store.campaigns import CampaignError
from thinkscale.store.filesystem import Store
from thinkscale.store.samples import SampleSet, locate_campaign
from thinkscale.store.schemas import QUESTIONS


def thinkscale(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def misgraded(count: int = 2) -> pa.Table:
    """Samples, some of whose right answers an older grader could not read."""
    samples = made_samples(models={"base": 0.5}, questions=QUESTION_COUNT, failures=1)
    unread = Verdict(verdict="unanswered", extracted_answer=None, grader="integer/0")
    right = [index for index, verdict in enumerate(samples["verdict"].to_pylist()) if verdict == "correct"]
    return with_verdicts(samples, [unread if index in right[-count:] else None for index in range(samples.num_rows)])


def test_grade_prints_the_counts_and_writes_the_verdicts(tmp_path: Path) -> None:
    rows = [("42", "The answer is 42."), ("42", "Final Answer: 41"), ("7", "I do not know.")]
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(json.dumps({"gold": gold, "said": said}) + "\n" for gold, said in rows))
    options = ("--reference-field", "gold", "--response-field", "said")
    out = thinkscale("grade", "--kind", "integer", *options, source, target)
    assert out.exit_code == 0, out.output
    assert re.findall(r"^(\w+) +(\d+)", out.output, re.M) == [
        ("correct", "1"), ("wrong", "1"), ("unanswered", "1"), ("ungradable", "0"), ("rows", "3"),
    ]  # fmt: skip
    assert [json.loads(line)["verdict"] for line in target.read_text().splitlines()] == [
        "correct", "wrong", "unanswered",
    ]  # fmt: skip


def test_grade_reads_the_options_of_choice_questions(tmp_path: Path) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text(json.dumps({"gold": "B", "said": "Final Answer: the cat", "options": ["the dog", "the cat"]}))
    fields = ("--reference-field", "gold", "--response-field", "said", "--options-field", "options")
    out = thinkscale("grade", "--kind", "choice", *fields, source, target)
    assert out.exit_code == 0, out.output
    assert json.loads(target.read_text())["extracted_answer"] == "B"


def test_audit_lists_both_readings_and_writes_nothing(tmp_path: Path) -> None:
    stored_campaign(tmp_path, samples=misgraded())
    before = Store(str(tmp_path)).written("demo")
    out = thinkscale("audit", tmp_path / "demo")
    assert out.exit_code == 0, out.output
    assert "reference '10', answer ends 'Final Answer: 10'" in out.output
    assert out.output.count("stored unanswered None (integer/0)") == 2
    assert out.output.count("now    correct    '10' (integer/3)") == 2
    assert "2 stored verdicts" in out.output
    assert Store(str(tmp_path)).written("demo") == before


def test_regraded_verdicts_count_and_the_samples_stay(tmp_path: Path) -> None:
    samples = stored_campaign(tmp_path, samples=misgraded())
    stored = samples.artifact.read()
    out = thinkscale("regrade", "demo", "--root", tmp_path)
    assert out.exit_code == 0, out.output
    assert "base sums: 72 samples graded again, 2 verdicts changed" in out.output
    assert samples.artifact.read().equals(stored)
    right = made_samples(models={"base": 0.5}, questions=QUESTION_COUNT, failures=1)
    assert pa.concat_tables(samples.iter_tables()).equals(right)
    columns = ["verdict", "question_id"]
    assert pa.concat_tables(samples.iter_tables(columns)).equals(right.select(columns))


def test_a_second_regrading_finds_the_first(tmp_path: Path) -> None:
    stored_campaign(tmp_path, samples=misgraded())
    thinkscale("regrade", tmp_path / "demo")
    pointers = ("current.json", "lease.json")
    written = {name: when for name, when in Store(str(tmp_path)).written("demo").items() if not name.endswith(pointers)}
    out = thinkscale("regrade", tmp_path / "demo")
    assert "base sums: these graders gave its verdicts already" in out.output
    again = Store(str(tmp_path)).written("demo")
    assert {name: again[name] for name in written} == written


def test_samples_that_the_installed_graders_graded_need_no_regrading(tmp_path: Path) -> None:
    graded = stored_campaign(tmp_path, "new", grading=[grading_facts()])
    stored_campaign(tmp_path, "old", grading=[{**grading_facts(), "math_verify": "0.1"}])
    assert "these graders gave its verdicts already" in thinkscale("regrade", tmp_path / "new").output
    assert graded.regrading() is None
    assert "note: base sums: " in thinkscale("compare", tmp_path / "old", tmp_path / "new").output
    assert "72 samples graded again" in thinkscale("regrade", tmp_path / "old").output
    assert "note: " not in thinkscale("compare", tmp_path / "old", tmp_path / "new").output


def test_an_interrupted_regrading_is_resumed(tmp_path: Path) -> None:
    samples = stored_campaign(tmp_path, samples=misgraded())
    thinkscale("regrade", tmp_path / "demo")
    regrading = samples.regrading()
    assert regrading is not None
    whole = regrading.read()
    for path in ("manifest.json", "segments/0000001.json", "../current.json"):
        (tmp_path / regrading.path / path).unlink()
    assert samples.regrading() is None
    assert thinkscale("regrade", tmp_path / "demo").exit_code == 0
    assert regrading.read().equals(whole)
    assert len(list((tmp_path / regrading.path).glob("part-*.parquet"))) == 2


def test_verdicts_of_other_samples_do_not_count(tmp_path: Path) -> None:
    samples = stored_campaign(tmp_path, samples=misgraded())
    thinkscale("regrade", tmp_path / "demo")
    samples.store.delete_directory("demo/samples")
    samples.store.delete_directory("demo/benchmarks")
    anew = stored_campaign(tmp_path, samples=misgraded(3))
    assert anew.regrading() is None
    assert pa.concat_tables(anew.iter_tables()).equals(misgraded(3))


def test_samples_of_another_benchmark_are_not_regraded(tmp_path: Path) -> None:
    samples = stored_campaign(tmp_path)
    samples.store.delete_directory("demo/benchmarks")
    benchmark = Artifact(samples.store, "demo/benchmarks/sums")
    benchmark.begin({}, {})
    benchmark.commit_segment("000000", made_questions(questions=3))
    benchmark.commit(QUESTIONS)
    out = thinkscale("regrade", tmp_path / "demo")
    assert isinstance(out.exception, ArtifactError)
    assert "made anew" in str(out.exception)


def test_the_report_takes_the_regraded_verdicts(tmp_path: Path) -> None:
    samples = stored_campaign(tmp_path, samples=misgraded())
    made = Artifact(samples.store, "demo/report")
    assert report(made_campaign(), samples.store)
    first = made.require()
    assert not report(made_campaign(), samples.store)
    before = (tmp_path / "demo/report/summary.txt").read_text()
    thinkscale("regrade", tmp_path / "demo")
    assert report(made_campaign(), samples.store)
    assert made.require().inputs.keys() - first.inputs.keys() == {"regraded base sums"}
    after = (tmp_path / "demo/report/summary.txt").read_text()
    assert len(accuracies(before)) == 6
    assert sum(new > old for new, old in zip(accuracies(after), accuracies(before), strict=True)) >= 1
    assert "of a later grading: 2 changed" in (tmp_path / "demo/report/report.html").read_text()


def accuracies(summary: str) -> list[float]:
    return [float(line.split("%")[0].split()[-1]) for line in summary.splitlines() if line.startswith("base")]


def test_compare_pairs_what_both_have(tmp_path: Path) -> None:
    stored_campaign(tmp_path, "demo", accuracy=0.3)
    stored_campaign(tmp_path / "elsewhere", "demo2", accuracy=0.9)
    stored_campaign(tmp_path, "demo3", model="tuned")
    out = thinkscale("compare", tmp_path / "demo", tmp_path / "elsewhere" / "demo2")
    assert out.exit_code == 0, out.output
    header, *rows = out.output.splitlines()
    assert header.split()[:3] == ["model", "benchmark", "budget"]
    assert len(rows) == 7  # six budgets and all of them together
    assert all(row.startswith("base       sums ") for row in rows)
    assert rows[-1].split()[2:4] == ["all", "budgets"]
    assert rows[-1].endswith("better")
    refused = thinkscale("compare", "demo", "demo3", "--root", tmp_path)
    assert "base on sums against tuned on sums" in str(refused.exception)


@pytest.mark.parametrize(
    ("second", "options", "code"),
    [
        (0.3, ("--fail-on", "worse"), 1),
        (0.3, (), 0),
        (0.3, ("--fail-on", "worse", "--margin", "99"), 0),
        (0.9, ("--fail-on", "worse"), 0),
        (0.9, ("--fail-on", "inconclusive"), 1),  # the same answers, to few questions
        (0.9, ("--fail-on", "inconclusive", "--margin", "20"), 0),
        (0.8, ("--fail-on", "inconclusive"), 1),
        (0.8, ("--fail-on", "inconclusive", "--margin", "60"), 0),
    ],
)
def test_the_gate_of_compare_is_its_exit_code(
    second: float, options: tuple[str, ...], code: int, tmp_path: Path
) -> None:
    stored_campaign(tmp_path, "demo", accuracy=0.9)
    stored_campaign(tmp_path, "demo2", accuracy=second)
    out = thinkscale("compare", "demo", "demo2", "--root", tmp_path, *options)
    assert out.exit_code == code, out.output
    assert ("--fail-on" in out.stderr) == bool(code)


def test_compare_prints_json(tmp_path: Path) -> None:
    stored_campaign(tmp_path, "demo", accuracy=0.9)
    stored_campaign(tmp_path, "demo2", accuracy=0.3)
    rows = json.loads(thinkscale("compare", "demo", "demo2", "--root", tmp_path, "--json").stdout)
    assert [row["budget"] for row in rows][-2:] == ["cap 256, 2 waits", "all budgets"]
    assert rows[-1]["gate"] == "worse"
    assert rows[-1]["low"] <= rows[-1]["difference"] <= rows[-1]["high"] < 0


@pytest.mark.parametrize("command", [("compare", "demo", "nope"), ("regrade", "nope"), ("audit", "nope")])
def test_a_campaign_that_is_not_there_is_told_as_such(command: tuple[str, ...], tmp_path: Path) -> None:
    stored_campaign(tmp_path, "demo")
    refused = thinkscale(*command, "--root", tmp_path)
    assert f"there is no campaign 'nope' under {tmp_path}; there are: demo" in str(refused.exception)


def test_reading_what_is_stored_starts_no_ray(tmp_path: Path) -> None:
    stored_campaign(tmp_path, "demo")
    settings = tmp_path / "demo.toml"
    settings.write_text("\n".join(commented_toml(made_campaign())))
    program = (
        "import sys; from thinkscale.cli import cli; cli(sys.argv[1:], standalone_mode=False); "
        "sys.exit('ray' in sys.modules)"
    )
    for command in (["report", str(settings)], ["why", str(settings)], ["compare", "demo", "demo"]):
        done = subprocess.run(
            [sys.executable, "-c", program, *command, "--root", str(tmp_path)], capture_output=True, text=True
        )
        assert done.returncode == 0, (command, done.stderr)


def test_grade_asks_on_a_terminal_before_it_overwrites(tmp_path: Path) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text(json.dumps({"gold": "1", "said": "1"}))
    words = ["grade", "--kind", "math", "--reference-field", "gold", "--response-field", "said"]
    program = "from thinkscale.cli import main; main()"
    for answer, kept in ((b"n\n", True), (b"y\n", False)):
        target.write_text("mine")
        ours, theirs = os.openpty()
        os.write(ours, answer)
        command = [sys.executable, "-c", program, *words, str(source), str(target)]
        done = subprocess.run(command, stdin=theirs, capture_output=True, text=True)
        os.close(ours)
        os.close(theirs)
        assert done.returncode == kept, done.stderr
        assert (target.read_text() == "mine") == kept


def test_compare_refuses_other_engines_unless_told(tmp_path: Path) -> None:
    stored_campaign(tmp_path, "demo")
    stored_campaign(tmp_path, "demo2", engine={**ENGINE, "version": "0.33.0"})
    refused = thinkscale("compare", tmp_path / "demo", tmp_path / "demo2")
    assert refused.exit_code == 1
    assert "version: 0.32.0 against 0.33.0" in refused.output
    assert "--across-engines" in refused.output
    out = thinkscale("compare", tmp_path / "demo", tmp_path / "demo2", "--across-engines")
    assert out.exit_code == 0, out.output
    assert "note: The engines differ: version: 0.32.0 against 0.33.0." in out.output


def test_compare_tells_of_different_gradings(tmp_path: Path) -> None:
    stored_campaign(tmp_path, "demo")
    stored_campaign(tmp_path, "demo2")
    thinkscale("regrade", tmp_path / "demo")
    assert "note: base sums: " in thinkscale("compare", tmp_path / "demo", tmp_path / "demo2").output
    thinkscale("regrade", tmp_path / "demo2")
    assert "note: " not in thinkscale("compare", tmp_path / "demo", tmp_path / "demo2").output


def test_compare_writes_a_page_of_both(tmp_path: Path) -> None:
    first = stored_campaign(tmp_path, "demo", accuracy=0.3)
    stored_campaign(tmp_path, "demo2", accuracy=0.9)
    arguments = ("compare", tmp_path / "demo", tmp_path / "demo2", "--html", tmp_path / "page")
    refused = thinkscale(*arguments)
    assert "has no report" in str(refused.exception)
    for name in ("demo", "demo2"):
        report(made_campaign().model_copy(update={"name": name}), first.store)
    out = thinkscale(*arguments)
    assert out.exit_code == 0, out.output
    page = (tmp_path / "page" / "report.html").read_text()
    assert "<title>demo2 against demo" in page
    assert '"model_a":"demo base","model_b":"demo2 base"' in page
    assert (tmp_path / "page" / "curve.png").stat().st_size > 1000


def test_campaigns_are_located_by_path_url_and_name(tmp_path: Path) -> None:
    assert locate_campaign("runs/demo2") == (Store("runs"), "demo2")
    assert locate_campaign("s3://bucket/prefix/demo/") == (Store("s3://bucket/prefix"), "demo")
    assert locate_campaign("other", "s3://bucket/prefix") == (Store("s3://bucket/prefix"), "other")
    assert locate_campaign("demo", str(tmp_path)) == (Store(str(tmp_path)), "demo")
    with pytest.raises(CampaignError, match="--root"):
        locate_campaign("runs/demo", str(tmp_path))


def test_these_commands_load_no_ray() -> None:
    program = "import sys, thinkscale.stages.regrade, thinkscale.stages.compare; print('ray' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (("--judge-endpoint", "http://localhost:1/v1"), "--judge-endpoint needs --judge"),
        (("--judge-ungradable",), "--judge-ungradable needs --judge"),
        (("--judge-set", "top_p=0.9"), "--judge-set needs --judge"),
    ],
)
def test_settings_of_a_judge_need_one(tmp_path: Path, given: tuple[str, ...], told: str) -> None:
    stored_campaign(tmp_path)
    for command in ("regrade", "audit"):
        out = thinkscale(command, tmp_path / "demo", *given)
        assert out.exit_code == 2
        assert told in out.output


def test_an_unknown_setting_of_a_judge_is_refused_by_name(tmp_path: Path) -> None:
    out = thinkscale("regrade", tmp_path / "demo", "--judge", "m", "--judge-set", "max_tokens=12")
    assert str(out.exception).startswith(
        "judge m: max_tokens: unknown key (value 12); did you mean max_answer_tokens? There"
    )


def test_the_report_warns_of_points_without_verdicts(tmp_path: Path) -> None:
    samples = stored_campaign(tmp_path, samples=misgraded(3))
    report(made_campaign(), samples.store)
    told = "of the samples (cap "
    assert "note: base on sums: up to " in (tmp_path / "demo/report/summary.txt").read_text()
    page = (tmp_path / "demo/report/report.html").read_text()
    assert told in page
    assert ") are unanswered, neither right nor wrong" in page
    assert "are ungradable" not in page


def test_grade_says_accuracy_and_keeps_what_is_there(tmp_path: Path) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text(json.dumps({"gold": "7", "said": ["Answer: 7", "Answer: 8"]}) + "\n")
    options = ("--kind", "math", "--reference-field", "gold", "--response-field", "said", source, target)
    out = thinkscale("grade", *options)
    assert out.exit_code == 0, out.output
    assert "responses          2" in out.output
    assert "accuracy: 50.0% (95%: " in out.output
    assert "maj@2: 50.0%" in out.output
    assert "pass@2: 100.0%" in out.output
    assert "--force" in str(thinkscale("grade", *options).exception)
    assert thinkscale("grade", "--force", *options).exit_code == 0


def regraded_rows(samples: SampleSet) -> list[dict[str, Any]]:
    return [row for part in samples.iter_tables() for row in part.to_pylist()]
