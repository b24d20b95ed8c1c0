"""On a replica: one sample of one question over the whole grid of budgets, as rows of SAMPLES without verdicts.

Knows the engine's interface and the program that thinks. Knows nothing of segments, grading or other samples.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from thinkscale.domain.budget import Budget
from thinkscale.domain.campaign import Campaign
from thinkscale.domain.engine import Engine
from thinkscale.domain.generation import Sampling
from thinkscale.domain.question import Question
from thinkscale.domain.sample import Thought
from thinkscale.engines.tokenizer import ModelTokenizer
from thinkscale.forcing.driver import run
from thinkscale.forcing.formats import forcing_ids, resolve_format
from thinkscale.forcing.sweep import Cell, SweepResult, curve_cells, sweep


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """One sample of one question."""

    model: str
    benchmark: str
    question: Question
    sample: int

    def seed(self, campaign_seed: int) -> int:
        """The same in every run, and another for every sample."""
        digest = hashlib.sha256(f"{campaign_seed}/{self.question.id}/{self.sample}".encode()).digest()
        return int.from_bytes(digest[:4], "big") >> 1


async def sample_question(engine: Engine, tokenizer: ModelTokenizer, campaign: Campaign, item: Item) -> dict[str, Any]:
    """On a replica: one sample of one question over the whole grid, as rows of SAMPLES without verdicts."""
    budgets = campaign.evaluate.budgets
    cells = curve_cells(budgets.caps, budgets.waits)
    budget = Budget(
        wait_text=budgets.wait_text,
        final_answer_text=budgets.final_answer_text,
        max_answer_tokens=budgets.max_answer_tokens,
    )
    thinking_format = resolve_format(campaign.model, tokenizer)
    ids = forcing_ids(tokenizer, thinking_format, budget)
    try:
        prompt = tokenizer.prompt_ids(item.question.question, thinking_format, campaign.model.system_prompt)
        sampling = Sampling(temperature=campaign.evaluate.temperature, seed=item.seed(campaign.seed))
        program = sweep(prompt, cells, budget, ids, context_tokens=engine.info.context_tokens, sampling=sampling)
        result: SweepResult = await run(engine, program)
    except ValueError as error:  # the question itself is impossible; engine errors go back to the caller
        return failed(campaign, item, str(error))
    rows = [
        {
            **_row_key(item, cell),
            "status": "ok",
            **_thought_columns(thought, tokenizer, keep_ids=campaign.evaluate.keep_token_ids),
        }
        for cell, thought in result.thoughts.items()
    ]
    return {"rows": rows, "decoded_tokens": result.decoded_tokens, "separate_tokens": result.separate_tokens}


def _row_key(item: Item, cell: Cell) -> dict[str, Any]:
    return {
        "sample_id": f"{item.question.id}/{item.sample}/{cell.cap}/{cell.waits}",
        "question_id": item.question.id,
        "model": item.model,
        "benchmark": item.benchmark,
        "sample": item.sample,
        "max_thinking_tokens": cell.cap,
        "num_waits": cell.waits,
    }


def _thought_columns(thought: Thought, tokenizer: ModelTokenizer, *, keep_ids: bool) -> dict[str, Any]:
    def characters(position: int) -> int:
        return len(tokenizer.decode(thought.thinking_ids[:position]))

    columns: dict[str, Any] = {
        "end": thought.end,
        "waits_used": thought.waits_used,
        "prompt_tokens": thought.prompt_tokens,
        "thinking_tokens": thought.thinking_tokens,
        "forced_tokens": thought.forced_tokens,
        "answer_tokens": len(thought.answer_ids),
        "thinking": tokenizer.decode(thought.thinking_ids),
        "answer": tokenizer.decode(thought.answer_ids),
        "forced_spans": [characters(position) for span in thought.forced_positions for position in span],
    }
    if keep_ids:
        columns |= {"thinking_ids": list(thought.thinking_ids), "answer_ids": list(thought.answer_ids)}
    return columns


def failed(campaign: Campaign, item: Item, error: str) -> dict[str, Any]:
    """The rows of an item that no engine can answer."""
    budgets = campaign.evaluate.budgets
    rows = [
        {**_row_key(item, cell), "status": "failed", "error": error}
        for cell in curve_cells(budgets.caps, budgets.waits)
    ]
    return {"rows": rows, "decoded_tokens": 0, "separate_tokens": 0}
