from __future__ import annotations

import asyncio
from typing import Any

import pytest

from thinkscale.domain.campaign import Campaign
from thinkscale.grading.pool import GradingPool
from thinkscale.runtime.asking import Failed
from thinkscale.runtime.engines import EngineLoop, EngineSettings
from thinkscale.runtime.segments import Result
from thinkscale.stages.distill import FromSolutions, FromTeacher
from thinkscale.store.schemas import SELECTED, TRACES, table
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


def campaign(model: str, **teacher: Any) -> Campaign:
    source = {"type": "files", "name": "pool", "paths": ["pool.jsonl"]}
    terms = {"licence": "Apache-2.0", "may_train": True}
    return Campaign.model_validate(
        {
            "name": "distilled",
            "pool": [source],
            "model": {"base": model},
            "teacher": {"source": "engine", "model": model, "terms": terms, "temperature": 1.0, **teacher},
            "evaluate": {
                "benchmarks": [{"name": "b", "source": source}],
                "budgets": {"caps": [8], "max_answer_tokens": 8},
            },
            "serve": {"engine": "transformers", "dtype": "float32", "context_tokens": 512},
        }
    )


def test_worked_solutions_become_traces_and_others_are_dropped(tiny: str) -> None:
    result = FromSolutions(tiny)(ROWS)
    assert result.kept.schema.equals(TRACES)
    assert [row["thinking"] for row in result.kept.to_pylist()] == [f"{i} + 2 = {i + 2}." for i in (1, 3, 5, 7)]
    assert result.dropped is not None
    assert result.dropped.column("reason").to_pylist() == ["no_solution"] * 5


def taught(settings: Campaign) -> Result:
    """What the teacher's engine gives for all rows."""
    asks, loop = FromTeacher(campaign=settings), EngineLoop(EngineSettings.of(settings, str(settings.teacher.model)))

    async def answers(rows: list[dict[str, Any]]) -> list[Any]:
        engine = await loop.engine()
        return list(await asyncio.gather(*(asks.ask(engine, loop.tokenizer, row) for row in rows)))

    rows = ROWS.to_pylist()
    return asks.collect(rows, loop.run(answers(rows)), GradingPool().grade_all)


def test_a_teacher_thinks_about_every_question_and_unusable_traces_are_dropped_by_name(tiny: str) -> None:
    settings = campaign(tiny, max_thinking_tokens=200, max_answer_tokens=8)
    result = taught(settings)
    assert result.dropped is not None
    reasons = dict(
        zip(result.dropped.column("id").to_pylist(), result.dropped.column("reason").to_pylist(), strict=True)
    )
    kept = result.kept.to_pylist()
    assert len(kept) + len(reasons) == 9
    assert reasons["long"] == "overflow"
    assert set(reasons.values()) <= {"overflow", "unfinished_thinking", "empty_trace"}
    assert kept
    assert all(row["thinking"] and row["answer"] and row["thinking_tokens"] > 0 for row in kept)
    assert all(row["teacher"] == tiny and row["correct"] is not None for row in kept)
    assert taught(settings).kept.equals(result.kept)


def test_only_correct_traces_are_kept_where_asked(tiny: str) -> None:
    result = taught(campaign(tiny, max_thinking_tokens=200, max_answer_tokens=8, only_correct=True))
    assert all(row["correct"] for row in result.kept.to_pylist())
    assert result.dropped is not None
    assert "wrong_answer" in result.dropped.column("reason").to_pylist()


def test_a_question_that_no_engine_answers_is_dropped_with_the_error(tiny: str) -> None:
    asks = FromTeacher(campaign=campaign(tiny))
    rows = ROWS.to_pylist()
    result = asks.collect(rows, [Failed(error="the engine is out of memory")] * len(rows), GradingPool().grade_all)
    assert result.kept.num_rows == 0
    assert result.dropped is not None
    assert set(result.dropped.column("reason").to_pylist()) == {"failed"}
    assert "out of memory" in result.dropped.column("detail")[0].as_py()
