from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from thinkscale.domain.campaign import Campaign
from thinkscale.domain.generation import StopAskingError
from thinkscale.domain.question import Attempt
from thinkscale.forcing.reading import read_reply, split_thinking
from thinkscale.grading.pool import GradingPool
from thinkscale.runtime.asking import Failed
from thinkscale.runtime.engines import EngineLoop, EngineSettings
from thinkscale.runtime.segments import Result
from thinkscale.stages.attempts import FromSolutions, FromTeacher, each_attempt
from thinkscale.stages.distill import KeepTraces
from thinkscale.store.artifact import Artifact
from thinkscale.store.campaigns import load_source
from thinkscale.store.filesystem import Store
from thinkscale.store.ingest import plan, read
from thinkscale.store.schemas import ATTEMPTS, SELECTED, table
from tiny_model import write_tiny_model

ROWS = table(
    [
        {"id": f"q-{i}", "question": f"What is {i} + 2?", "answer": str(i + 2), "kind": "integer", "source": "pool",
         "solution": f"{i} + 2 = {i + 2}." if i % 2 else None}
        for i in range(8)
    ]
    + [{"id": "long", "question": "word " * 200, "answer": "1", "kind": "integer", "source": "pool"}],
    SELECTED,
)  # fmt: skip


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_tiny_model(tmp_path_factory.mktemp("tiny")))


def campaign(base: str, **teacher: Any) -> Campaign:
    source = {"type": "files", "name": "pool", "paths": ["pool.jsonl"]}
    terms = {"licence": "Apache-2.0", "may_train": True}
    return Campaign.model_validate(
        {
            "name": "distilled",
            "pool": [source],
            "model": {"base": base},
            "teacher": [{"model": base, "terms": terms, "temperature": 1.0, **teacher}],
            "distill": {"max_status_share": 1.0},
            "evaluate": {
                "benchmarks": [{"name": "b", "source": source}],
                "budgets": {"caps": [8], "max_answer_tokens": 8},
            },
            "serve": {"engine": "transformers", "dtype": "float32", "context_tokens": 512},
        }
    )


def from_teacher(settings: Campaign) -> FromTeacher:
    return FromTeacher(campaign=settings, teacher=settings.teacher[0])


def test_worked_solutions_are_attempts_and_others_have_none(tiny: str) -> None:
    rows = FromSolutions(tiny)(ROWS).kept.to_pylist()
    assert [row["thinking"] for row in rows if row["status"] == "ok"] == [f"{i} + 2 = {i + 2}." for i in (1, 3, 5, 7)]
    assert all(row["correct"] == (row["status"] == "ok") for row in rows)
    assert [row["status"] for row in rows].count("no_solution") == 5


def taught(settings: Campaign) -> list[dict[str, Any]]:
    """What the teacher's engine gives for all rows."""
    asks = from_teacher(settings)
    loop = EngineLoop(EngineSettings.of(settings, str(settings.teacher[0].model)))
    rows = each_attempt(ROWS, attempts=settings.teacher[0].attempts)

    async def answers() -> list[Any]:
        engine = await loop.engine()
        return list(await asyncio.gather(*(asks.ask(engine, loop.tokenizer, row) for row in rows)))

    return asks.collect(rows, loop.run(answers()), GradingPool().grade_all).kept.to_pylist()


def test_a_teacher_thinks_about_every_question_and_every_attempt_has_a_status(tiny: str) -> None:
    settings = campaign(tiny, max_thinking_tokens=200, max_answer_tokens=200, attempts=2)
    rows = taught(settings)
    assert len(rows) == 18
    statuses = {row["status"] for row in rows}
    assert {"ok", "prompt_too_long"} < statuses <= {
        "ok", "prompt_too_long", "cut_thinking", "cut_answer", "empty_thinking", "empty_answer",
    }  # fmt: skip
    assert all(row["thinking"] and row["answer"] for row in rows if row["status"] == "ok")
    assert all(row["teacher"] == tiny and row["correct"] is not None for row in rows)
    assert taught(settings) == rows


def test_a_question_that_no_engine_answers_has_the_error_for_a_status(tiny: str) -> None:
    asks = from_teacher(campaign(tiny))
    rows = each_attempt(ROWS, attempts=1)
    answers = [Failed(error="the engine is out of memory")] * len(rows)
    found = asks.collect(rows, answers, GradingPool().grade_all).kept.to_pylist()
    assert {(row["status"], row["words"]) for row in found} == {("error", "the engine is out of memory")}


def test_a_reply_that_came_twice_counts_once(tiny: str) -> None:
    asks = from_teacher(campaign(tiny))
    rows = each_attempt(ROWS, attempts=1)[:3]
    same = Attempt(status="ok", thinking="I know", answer="2", reply_id="chatcmpl-7")
    found = asks.collect(
        rows, [same, same, Attempt(status="ok", thinking="I know", answer="2")], GradingPool().grade_all
    )
    assert [row["status"] for row in found.kept.to_pylist()] == ["ok", "duplicate_reply", "ok"]
    later = asks.collect(each_attempt(ROWS, attempts=1)[3:4], [same], GradingPool().grade_all)  # another segment
    assert later.kept.to_pylist()[0]["status"] == "duplicate_reply"
    again = asks.collect(rows[:1], [same], GradingPool().grade_all)  # the segment was lost and is made again
    assert again.kept.to_pylist()[0]["status"] == "ok"


def test_too_much_of_one_status_ends_the_stage(tiny: str) -> None:
    raw = campaign(tiny, max_thinking_tokens=1, max_answer_tokens=8).model_dump()
    settings = Campaign.model_validate({**raw, "distill": {"max_status_share": 0.2}})
    asks = from_teacher(settings)
    loop = EngineLoop(EngineSettings.of(settings, tiny))

    async def answers() -> None:
        engine = await loop.engine()
        for number in range(7):
            for row in each_attempt(ROWS, attempts=1):
                await asks.ask(engine, loop.tokenizer, {**row, "attempt": number})

    with pytest.raises(StopAskingError, match=r"of 50 attempts .* ended as cut_thinking, more"):
        loop.run(answers())


def attempt(teacher: str, number: int, tokens: int, *, correct: bool, status: str = "ok") -> dict[str, Any]:
    return {
        "question_id": "q-0", "attempt": number, "teacher": teacher, "status": status, "words": "", "thinking": "t",
        "answer": f"{teacher}/{number}", "correct": correct, "thinking_tokens": tokens,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("keep", "kept"),
    [
        ("all", ["a/0", "a/1", "b/0", "b/1"]),
        ("all_correct", ["a/1", "b/0", "b/1"]),
        ("first_correct", ["a/1"]),
        ("shortest_correct", ["b/0"]),
        ("longest_correct", ["b/1"]),
    ],
)
def test_a_policy_keeps_attempts_of_all_teachers(tmp_path: Path, keep: str, kept: list[str]) -> None:
    attempts = [attempt("a", 0, 5, correct=False), attempt("a", 1, 7, correct=True)]
    others = [
        attempt("b", 0, 3, correct=True),
        attempt("b", 1, 9, correct=True),
        attempt("b", 2, 0, correct=False, status="refusal"),
        attempt("b", 3, 0, correct=False, status="error"),
    ]
    result = kept_of(tmp_path, keep, attempts, others)
    rows = result.kept.to_pylist()
    assert [row["answer"] for row in rows] == kept
    assert {(row["attempts"], round(row["pass_rate"], 3)) for row in rows} == {(5, 0.6)}
    assert result.dropped is not None
    reasons = result.dropped.column("reason").to_pylist()
    assert len(reasons) == 6 - len(kept)
    assert {"refusal", "error"} <= set(reasons) <= {"refusal", "error", "wrong_answer", "not_kept"}


def kept_of(root: Path, keep: str, *attempts: list[dict[str, Any]]) -> Result:
    work = []
    for number, rows in enumerate(attempts):
        artifact = Artifact(Store(str(root)), f"c/attempts-{number}")
        artifact.begin({}, {})
        artifact.commit_segment("0", table(rows, ATTEMPTS))
        artifact.commit(ATTEMPTS)
        work.append((artifact, artifact.parts()[0]))

    class First:
        def read(self) -> Any:
            return ROWS.slice(0, 1)

    return KeepTraces(keep)((First(), work))


@pytest.mark.parametrize(
    ("text", "thinking", "answer"),
    [
        ("<think>\nso\n</think>\n\nfour", "so", "four"),
        ("so</think>four", "so", "four"),
        ("<Thought>\nso\n</Thought>\n<Output>\nfour\n</Output>", "so", "four"),
        ("<|begin_of_thought|>so<|end_of_thought|>\n<|begin_of_solution|>four<|end_of_solution|>", "so", "four"),
        ("[THINK]so[/THINK]four", "so", "four"),
        ("four", "", "four"),
        ("İ<think>so</think>four", "so", "four"),
    ],
)
def test_thinking_and_answer_are_told_apart(text: str, thinking: str, answer: str) -> None:
    assert split_thinking(text) == (thinking, answer, False)


def test_thinking_that_is_not_ended_is_cut() -> None:
    assert split_thinking("<think>so it") == ("so it", "", True)
    reply = {"choices": [{"message": {"content": "<think>so it"}, "finish_reason": "stop"}]}
    assert read_reply(reply).status == "cut_thinking"


@pytest.mark.parametrize(
    ("choices", "status"),
    [
        (None, "malformed_reply"),
        ([], "malformed_reply"),
        ([None], "malformed_reply"),
        ([{"message": None, "finish_reason": "stop"}], "empty_thinking"),
        ([{"message": {"content": 7}, "finish_reason": "stop"}], "malformed_reply"),
        ([{"message": {"content": "4", "reasoning": "so"}, "finish_reason": None}], "malformed_reply"),
        ([{"message": {"content": "4", "reasoning": "so"}, "finish_reason": "tool_calls"}], "malformed_reply"),
        ([{"message": {"content": "4", "reasoning": "so"}, "finish_reason": "content_filter"}], "content_filter"),
        ([{"message": {"content": "4", "reasoning": "so"}, "finish_reason": "SAFETY"}], "content_filter"),
        ([{"message": {"content": "4", "reasoning": "so"}, "finish_reason": "length"}], "cut_answer"),
        ([{"message": {"content": "", "reasoning": "so"}, "finish_reason": "length"}], "cut_thinking"),
        ([{"message": {"content": "", "reasoning": "so"}, "finish_reason": "stop"}], "empty_answer"),
        ([{"message": {"content": [{"type": "refusal", "refusal": "no"}]}, "finish_reason": "stop"}], "refusal"),
        ([{"message": {"content": "4", "reasoning": "so"}, "finish_reason": "stop"}], "ok"),
    ],
)
def test_a_reply_has_a_status_whatever_it_looks_like(choices: Any, status: str) -> None:
    assert read_reply({"choices": choices}).status == status


IMPORTS = {
    "s1k": {"question": "What is 2 + 2?", "solution": "4", "cot_type": "math", "source_type": "aime", "metadata": "{}",
            "cot": None, "thinking_trajectories": ["so it is"], "attempt": "The answer is 4"},
    "s1k-1.1": {"question": "What is 2 + 2?", "solution": "4", "cot_type": "math", "source_type": "aime",
                "deepseek_thinking_trajectory": "so it is", "deepseek_attempt": "The answer is 4"},
    "openthoughts": {"system": "", "conversations": [
        {"from": "user", "value": "What is 2 + 2?"},
        {"from": "assistant", "value": "<|begin_of_thought|>\n\nso it is\n\n<|end_of_thought|>\n\n<|begin_of_solution|>"
                                       "\n\nThe answer is \\boxed{4}\n\n<|end_of_solution|>"}]},
    "openthoughts-metadata": {"problem": "What is 2 + 2?", "deepseek_reasoning": "so it is", "domain": "math",
                              "deepseek_solution": "The answer is 4", "ground_truth_solution": "\\boxed{4}",
                              "source": "numina"},
    "openr1": {"problem": "What is 2 + 2?", "answer": "4", "problem_type": "Algebra", "source": "olympiads",
               "generations": ["<think>\nso it is\n</think>\n\nThe answer is \\boxed{4}", "<think>hm</think>5"]},
    "marco-o1": {"instruction": "What is 2 + 2?",
                 "response": "<Thought>\nso it is\n</Thought>\n<Output>\n4\n</Output>"},
    "r1-sample": {"problem": "What is 2 + 2?", "gtruth_answer": "4", "message_thinking": "so it is",
                  "message_content": "The answer is \\boxed{4}"},
}  # fmt: skip


@pytest.mark.parametrize("preset", IMPORTS)
def test_traces_from_elsewhere_come_in_as_they_are(tmp_path: Path, tiny: str, preset: str) -> None:
    (tmp_path / "traces.jsonl").write_text(json.dumps(IMPORTS[preset]) + "\n")
    source = load_source({"name": "t", "preset": preset, "paths": [str(tmp_path / "traces.jsonl")]})
    (question,) = [each for piece in plan(source, 10) for each in read(piece)]
    assert (question.question, question.answer) == ("What is 2 + 2?", "4")
    row = {"id": "q", "question": question.question, "answer": question.answer, "kind": question.kind, "source": "t",
           "solution": question.solution, "metadata": json.dumps(dict(question.metadata))}  # fmt: skip
    (found,) = FromSolutions(tiny)(table([row], SELECTED)).kept.to_pylist()
    assert (found["status"], found["thinking"], found["correct"]) == ("ok", "so it is", True)
    assert found["answer"].startswith(("The answer is", "4"))
    assert found["teacher"] == source.traces_by
