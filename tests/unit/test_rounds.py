"""What evaluation draws of a benchmark: rounds until the interval is tight enough, the same after every crash."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from made_samples import made_campaign, made_questions
from thinkscale.domain.campaign import Campaign
from thinkscale.grading.pool import GradingPool
from thinkscale.stages.regrade import grading_facts
from thinkscale.stages.rounds import BenchmarkRun, Item, longest_thinking
from thinkscale.store.artifact import Artifact, Manifest
from thinkscale.store.filesystem import Store
from thinkscale.store.schemas import QUESTIONS
from thinkscale.store.stage import Segment, begin_stage

QUESTIONS_ASKED = 10


def settings(**changed: Any) -> Campaign:
    raw = made_campaign().model_dump()
    raw["evaluate"] |= {"segment_questions": 4, "temperature": 1.0, "budgets": {"caps": [8, 32]}, **changed}
    return Campaign.model_validate(raw)


def begin(root: Path, campaign: Campaign, known: dict[str, float] | None = None) -> tuple[BenchmarkRun, Artifact]:
    store = Store(str(root))
    source = Artifact(store, "demo/benchmarks/sums")
    source.begin({}, {})
    if source.manifest() is None:
        source.commit_segment("000000", made_questions(questions=QUESTIONS_ASKED))
        source.commit(QUESTIONS)
    output = Artifact(store, "demo/samples/model=base/benchmark=sums")
    run = BenchmarkRun(campaign, "base", "sums", source, output, lambda: known or {})
    stage = begin_stage(output, {}, {}, run.first_round)
    assert stage is not None
    run.resume(stage.done)
    return run, output


def answered(item: Item) -> dict[str, Any]:
    """What a replica gives for an item: the question's number, or one more, by chance."""
    rows = []
    for cap in (8, 32):
        number = int(item.question.answer) + random.Random(f"{item.question.id}/{item.sample}/{cap}").choice([0, 1])
        rows.append(
            {
                "sample_id": f"{item.question.id}/{item.sample}/{cap}/0", "question_id": item.question.id,
                "model": "base", "benchmark": "sums", "sample": item.sample, "max_thinking_tokens": cap,
                "num_waits": 0, "status": "ok", "end": "cap", "thinking_tokens": cap, "forced_tokens": 0,
                "answer_tokens": 1, "thinking": "", "answer": f"Answer: {number}",
            }
        )  # fmt: skip
    return {"rows": rows, "decoded_tokens": 33.0, "separate_tokens": 42.0}


def draw(run: BenchmarkRun, segments: list[Segment], pool: GradingPool) -> list[str]:
    """Every further round, to the end; returns the keys of the segments that were drawn."""
    drawn = []
    while segments:
        for segment in segments:
            result = run.asks.collect(segment.work, [answered(item) for item in segment.work], pool.grade_all)
            stats = {"cpu_busy_s": 3.0, "cpu_tail_s": 1.0, **result.stats}
            extra = {**result.extra, "engine": {"engine": "none"}}
            run.output.commit_segment(segment.key, result.kept, stats=stats, extra=extra)
            drawn.append(segment.key)
        segments = run.more()
    return drawn


def finish(run: BenchmarkRun) -> tuple[Manifest, list[str]]:
    with GradingPool() as pool:
        drawn = draw(run, run.more(), pool)
    return run.commit(), drawn


def test_all_samples_are_drawn_at_once_without_a_target(tmp_path: Path) -> None:
    run, output = begin(tmp_path, settings(samples=3))
    manifest, drawn = finish(run)
    assert drawn == ["0000000", "0000004", "0000008"]
    assert manifest.rows == len(set(output.read()["sample_id"].to_pylist())) == QUESTIONS_ASKED * 3 * 2
    assert manifest.extra["sampling"] == {"stopped": "all samples drawn", "samples": 3}
    assert manifest.extra["grading"] == [grading_facts()]
    assert manifest.extra["tail_share"] == 0.25
    assert manifest.stats["decoded_tokens"] == 33.0 * QUESTIONS_ASKED * 3


def test_sampling_goes_on_until_the_interval_is_tight_enough(tmp_path: Path) -> None:
    run, output = begin(tmp_path, settings(samples=1, target_interval=12.0))
    manifest, drawn = finish(run)
    told = manifest.extra["sampling"]
    assert told["stopped"] == "target interval reached"
    assert told["interval_points"] <= told["target_points"] == 12.0
    assert told["samples"] in (4, 8, 16, 32)
    assert drawn[:6] == ["0000000", "0000004", "0000008", "0000000-00001", "0000004-00001", "0000008-00001"]
    rows = output.read(["question_id", "sample", "max_thinking_tokens"]).to_pylist()
    assert len(rows) == len({tuple(row.values()) for row in rows}) == QUESTIONS_ASKED * told["samples"] * 2
    assert {row["sample"] for row in rows} == set(range(told["samples"]))


def test_sampling_ends_at_the_limit(tmp_path: Path) -> None:
    run, _ = begin(tmp_path, settings(samples=2, target_interval=0.5, max_samples=5))
    manifest, _ = finish(run)
    told = manifest.extra["sampling"]
    assert (told["stopped"], told["samples"]) == ("max_samples reached", 5)
    assert told["interval_points"] > 0.5
    assert manifest.rows == QUESTIONS_ASKED * 5 * 2


def test_a_killed_evaluation_draws_what_is_missing_and_ends_the_same(tmp_path: Path) -> None:
    campaign = settings(samples=1, target_interval=12.0)
    whole, _ = begin(tmp_path / "whole", campaign)
    finish(whole)
    killed, _ = begin(tmp_path / "killed", campaign)
    with GradingPool() as pool:
        draw(killed, killed.more(), pool)
    segments = tmp_path / "killed/demo/samples/model=base/benchmark=sums/segments"
    lost = {"0000004-00001", "0000008-00002"}
    for key in lost:
        (segments / f"{key}.json").unlink()
    resumed, output = begin(tmp_path / "killed", campaign)
    manifest, drawn = finish(resumed)
    assert set(drawn) == lost
    assert resumed.resumed == QUESTIONS_ASKED * resumed.samples - 4 - 2 * 2
    unbroken = Artifact(Store(str(tmp_path / "whole")), output.path)
    assert output.read().equals(unbroken.read())
    assert manifest.extra["sampling"] == unbroken.require().extra["sampling"]


def test_the_longest_expected_question_comes_first_and_an_unknown_one_may_take_all(tmp_path: Path) -> None:
    known = {f"sums-q{index}": float(index) for index in range(QUESTIONS_ASKED) if index != 5}
    run, _ = begin(tmp_path, settings(samples=2), known)
    segments = run.more()
    assert [max(map(run.asks.expected, segment.work)) for segment in segments] == [3.0, 32.0, 9.0]
    assert {item.question.id for item in segments[1].work if run.asks.expected(item) == 32} == {"sums-q5"}


def test_a_later_round_goes_by_the_lengths_of_the_first(tmp_path: Path) -> None:
    run, output = begin(tmp_path, settings(samples=1, target_interval=0.1, max_samples=2))
    finish(run)
    assert set(longest_thinking([output.read()]).values()) == {32}


def test_sampling_on_is_refused_at_temperature_zero() -> None:
    with pytest.raises(ValueError, match="all the same at temperature 0"):
        settings(target_interval=2.0, temperature=0.0)
