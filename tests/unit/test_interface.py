"""What `import thinkscale` offers: lazily, and on an engine of one's own."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

import thinkscale
from tiny_model import write_tiny_model


def test_importing_thinkscale_loads_nothing_and_every_name_is_there() -> None:
    program = """
import sys, thinkscale
loaded = [m for m in ("ray", "torch", "pyarrow", "numpy", "pydantic") if m in sys.modules]
assert not loaded, loaded
for name in thinkscale.__all__:
    getattr(thinkscale, name)
assert "ray" not in sys.modules and "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=600)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = thinkscale.nothing


def test_a_list_of_questions_is_evaluated_under_every_budget(tmp_path: Path) -> None:
    write_tiny_model(tmp_path)
    rows = thinkscale.evaluate(
        str(tmp_path),
        [("1+1?", "2"), thinkscale.Question(id="q", question="A or B?", answer="A", kind="choice", source="mine")],
        caps=[8, 4],
        waits=[0, 1],
        max_answer_tokens=6,
        engine="transformers",
        dtype="float32",
        thinking_format="s1",
        context_tokens=256,
    )
    assert [(r.question.id[:4], r.max_thinking_tokens, r.num_waits) for r in rows[:4]] == [
        ("list", 4, 0), ("list", 8, 0), ("list", 8, 1), ("q", 4, 0),
    ]  # fmt: skip
    assert len(rows) == 6
    assert all(r.thought.thinking_tokens <= r.max_thinking_tokens for r in rows)
    assert {r.verdict.verdict for r in rows} <= {"correct", "wrong", "unanswered", "ungradable"}
    assert {r.verdict.grader.partition("/")[0] for r in rows} == {"math", "choice"}


class OwnEngine:
    """Says what it is told to, whatever it is asked."""

    def __init__(self, tokenizer: thinkscale.ModelTokenizer, text: str) -> None:
        self.info = thinkscale.EngineInfo(
            engine="own", version="1", model="mine", dtype="none", device="none", context_tokens=256,
            vocab_size=tokenizer.vocab_size, eos_ids=tokenizer.eos_ids,
        )  # fmt: skip
        self._ids = tuple(tokenizer.encode(text))

    async def generate(self, request: thinkscale.Request, on_tokens: object = None) -> thinkscale.Completion:
        return thinkscale.Completion(ids=self._ids[: request.max_tokens], finish="length")

    def check(self) -> None:
        return

    async def close(self) -> None:
        pass


def test_thinking_is_forced_on_an_engine_of_ones_own(tmp_path: Path) -> None:
    tokenizer = thinkscale.ModelTokenizer(write_tiny_model(tmp_path) or tmp_path)
    budget = thinkscale.Budget(max_thinking_tokens=5, max_answer_tokens=3)
    engine = OwnEngine(tokenizer, "hmm, well, 42")
    thinking, answer, thought = asyncio.run(
        thinkscale.think(engine, tokenizer, "6 times 7?", budget, thinking_format="s1")
    )
    assert thinking == "hmm, "
    assert answer == "Final Answer:hmm"
    assert thought.end == "cap"
    [row] = thinkscale.evaluate(
        str(tmp_path), [("6 times 7?", "42")], caps=[5], engine=engine, thinking_format="s1", max_answer_tokens=40
    )
    assert row.thinking == "hmm, "
    assert (row.answer, row.verdict.verdict) == ("Final Answer:hmm, well, 42", "correct")
