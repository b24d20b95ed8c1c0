"""The report's files: complete, safe against what models write, and within their size."""

from __future__ import annotations

import base64
import json
import re
import zlib
from typing import Any

import pyarrow as pa
import pytest

from made_samples import made_campaign, made_manifests, made_questions, made_samples
from thinkscale.domain.question import WITHHELD
from thinkscale.report.browsing import SampleBrowser
from thinkscale.report.comparison import engine_differences, renamed
from thinkscale.report.page import build_report
from thinkscale.store.schemas import QUESTIONS, table

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)> \u2028 &amp; $\\frac$ "


def embedded(page: str) -> tuple[dict[str, Any], dict[str, Any]]:
    facts = re.search(r'<script id="facts" type="application/json">(.*?)</script>', page, re.DOTALL)
    samples = re.search(r'<script id="samples" type="text/plain">(.*?)</script>', page, re.DOTALL)
    assert facts
    assert samples
    return json.loads(facts[1]), json.loads(zlib.decompress(base64.b64decode(samples[1])))


def page_of(samples: pa.Table, **options: Any) -> str:
    files = build_report(made_campaign(), samples, made_manifests(), [{"step": 1, "loss": 2.5}], **options)
    assert files["curve.png"].startswith(b"\x89PNG")
    assert b"<svg" in files["curve.svg"]
    return files["report.html"].decode()


def test_the_page_carries_points_comparison_costs_funnel_and_samples() -> None:
    samples = made_samples(models={"base": 0.3, "tuned": 0.8}, failures=2)
    facts, carried = embedded(page_of(samples, questions=made_questions()))
    assert len(facts["points"]) == 12
    assert facts["points"][0]["failed"] == 2
    assert facts["comparisons"][-1]["budget"] == "all budgets"
    assert facts["comparisons"][-1]["gate"] == "better"
    assert facts["stages"]["select"]["rows"] == 300
    assert facts["stages"]["ingest"]["dropped"] == {"missing_field": 20}
    assert facts["terms"] == [{"licence": "Apache-2.0", "may_train": True}]
    cost = {row["stage"]: row for row in facts["spending"]}
    assert cost["train"]["usd"] == pytest.approx(3600 * 3 / 3600)
    assert cost["samples/base"]["correct"] == sum(p["correct"] for p in facts["points"] if p["model"] == "base")
    assert facts["samples_shown"] == facts["samples_total"] == len(carried["rows"]) == samples.num_rows
    assert carried["questions"]["sums-q3"]["answer"] == "3"


def test_nothing_that_a_model_writes_becomes_markup() -> None:
    samples = made_samples(models={HOSTILE: 0.5}, questions=3, thinking=HOSTILE + "\0", benchmark=HOSTILE)
    page = page_of(samples, questions=made_questions(questions=3, benchmark=HOSTILE))
    assert page.count("<script") == 3
    assert page.count("</script>") == 3
    assert "onerror" not in page.split('<script id="facts"')[0]
    facts, carried = embedded(page)
    assert facts["points"][0]["model"] == HOSTILE
    assert carried["rows"][0]["thinking"].startswith(HOSTILE)


def test_a_training_loss_that_is_not_a_number_does_not_break_the_page() -> None:
    files = build_report(
        made_campaign(), made_samples(models={"base": 0.5}), {}, [{"step": 1, "loss": float("nan")}], None
    )
    facts, _ = embedded(files["report.html"].decode())
    assert facts["training"] == [{"step": 1, "loss": None}]


def test_a_run_without_samples_still_has_a_page() -> None:
    facts, carried = embedded(page_of(made_samples(models={})))
    assert facts["points"] == []
    assert carried["rows"] == []


def test_the_same_input_gives_the_same_bytes() -> None:
    samples = made_samples(models={"base": 0.5})
    first = build_report(made_campaign(), samples, made_manifests(), [])
    assert first == build_report(made_campaign(), samples, made_manifests(), [])


def test_a_large_run_shows_whole_questions_within_the_limit() -> None:
    samples = made_samples(models={"base": 0.3, "tuned": 0.8}, questions=60, samples=2)
    browser = SampleBrowser(limit_rows=100)
    for start in range(0, samples.num_rows, 77):
        browser.add(samples.slice(start, 77))
    [kept] = browser.pages()
    assert browser.total_rows == samples.num_rows
    assert 60 <= len(kept) <= 100
    per_question = len(samples) // 60
    questions = [row["question_id"] for row in kept]
    assert {questions.count(question) for question in questions} == {per_question}
    whole = SampleBrowser(limit_rows=100)
    whole.add(samples)
    assert list(whole.pages()) == [kept]


def test_bytes_limit_the_samples_too() -> None:
    browser = SampleBrowser(limit_bytes=20_000)
    browser.add(made_samples(models={"base": 0.3}, questions=200))
    [kept] = browser.pages()
    assert 0 < len(kept) < 200


def test_what_does_not_fit_the_page_comes_in_files_beside_it() -> None:
    samples = made_samples(models={"base": 0.3, "tuned": 0.8}, questions=50)
    browser = SampleBrowser()
    browser.add(samples)
    pages = list(browser.pages(first=(1_000_000, 100), later=(1_000_000, 150)))
    assert [len(page) for page in pages] == [96, 144, 144, 144, 72]
    shown = [row["question_id"] for page in pages for row in page]
    assert sorted(shown) == sorted(samples["question_id"].to_pylist())
    assert not {row["question_id"] for row in pages[0]} & {row["question_id"] for row in pages[1]}


def test_withheld_questions_are_counted_but_not_shown() -> None:
    rows = made_questions(questions=4).to_pylist()
    for row in rows:
        row["metadata"] = [(WITHHELD, "yes")] if row["answer"] == "2" else None
    samples = made_samples(models={"base": 0.5}, questions=4, thinking="What is secret? ")
    _, carried = embedded(page_of(samples, questions=table(rows, QUESTIONS)))
    hidden = [row for row in carried["rows"] if row["question_id"] == "sums-q2"]
    assert len(hidden) == 6
    assert all(row["thinking"] is None and row["answer"] is None and row["verdict"] for row in hidden)
    assert carried["questions"]["sums-q2"]["question"] == "sums-q2: its text may not be published"
    assert carried["questions"]["sums-q1"]["question"].startswith("What is")


def test_two_runs_of_one_model_stand_on_one_page() -> None:
    first, second = made_samples(models={"base": 0.3}), made_samples(models={"base": 0.8})
    both = [*renamed([first], "run-a"), *renamed([second], "run-b")]
    facts, _ = embedded(page_of(pa.concat_tables(both), notes=["The engines differ: version 1 against 2."]))
    assert {(c["model_a"], c["model_b"]) for c in facts["comparisons"]} == {("run-a base", "run-b base")}
    assert facts["notes"] == ["The engines differ: version 1 against 2."]


def test_engines_that_differ_are_named() -> None:
    one = {"engine": "vllm", "version": "0.32.0", "dtype": "bfloat16", "model": "a"}
    assert engine_differences([one], [{**one, "model": "b"}]) == []
    assert engine_differences([one], [{**one, "version": "0.33.0"}]) == ["version: 0.32.0 against 0.33.0"]


def test_published_figures_stand_beside_benchmarks_of_that_name() -> None:
    facts, _ = embedded(page_of(made_samples(models={"base": 0.3}, benchmark="AIME-24")))
    assert {f["model"]: f["accuracy"] for f in facts["published"]}["s1-32B"] == pytest.approx(0.567)
    assert embedded(page_of(made_samples(models={"base": 0.3})))[0]["published"] == []
