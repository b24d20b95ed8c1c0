"""One sample of one question over the whole grid of budgets, and a segment of them as graded rows of SAMPLES.

Knows the engine's interface and the program that thinks. Knows nothing of replicas, rounds or other samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from thinkscale.domain.budget import Budget
from thinkscale.domain.campaign import Campaign
from thinkscale.domain.engine import Engine
from thinkscale.domain.generation import Sampling, derived_seed
from thinkscale.domain.question import Question
from thinkscale.domain.sample import Thought
from thinkscale.engines.tokenizer import ModelTokenizer
from thinkscale.forcing.driver import run
from thinkscale.forcing.formats import forcing_ids, resolve_format
from thinkscale.forcing.sweep import Cell, SweepResult, curve_cells, sweep
from thinkscale.report.regrade import graded
from thinkscale.runtime.asks import Grade, answered
from thinkscale.runtime.segments import Result
from thinkscale.stages.regrade import grading_facts
from thinkscale.store.schemas import SAMPLES, table


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """One sample of one question."""

    model: str
    benchmark: str
    question: Question
    sample: int
    expected_tokens: float = 0.0
    """Of thinking."""


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Samples over the campaign's grid of budgets."""

    campaign: Campaign

    def key(self, row: Item) -> str:
        return f"{row.benchmark}/{row.question.id}/{row.sample}"

    def expected(self, row: Item) -> float:
        return row.expected_tokens

    async def ask(self, engine: Engine, tokenizer: ModelTokenizer, row: Item) -> dict[str, Any]:
        """On a replica: the rows of one sample, a cell each, and the tokens that they took."""
        campaign, budgets = self.campaign, self.campaign.evaluate.budgets
        budget = Budget(
            wait_text=budgets.wait_text,
            final_answer_text=budgets.final_answer_text,
            max_answer_tokens=budgets.max_answer_tokens,
        )
        thinking_format = resolve_format(campaign.model, tokenizer)
        seed = derived_seed(campaign.seed, row.question.id, row.sample)
        program = sweep(
            tokenizer.prompt_ids(row.question.question, thinking_format, campaign.model.system_prompt),
            self._cells(),
            budget,
            forcing_ids(tokenizer, thinking_format, budget),
            context_tokens=engine.info.context_tokens,
            sampling=Sampling(temperature=campaign.evaluate.temperature, seed=seed),
        )
        result: SweepResult = await run(engine, program)
        keep_ids = campaign.evaluate.keep_token_ids
        rows = [
            _row_key(row, cell) | {"status": "ok"} | _thought_columns(thought, tokenizer, keep_ids=keep_ids)
            for cell, thought in result.thoughts.items()
        ]
        return {"rows": rows, "decoded_tokens": result.decoded_tokens, "separate_tokens": result.separate_tokens}

    def collect(self, rows: Sequence[Item], answers: Sequence[Any], grade: Grade) -> Result:
        found, failed = answered(rows, answers)
        drawn = [(item.question, row) for item, answer in found for row in answer["rows"]]
        for (_, row), verdict in zip(
            drawn, grade([graded(question, row["answer"]) for question, row in drawn]), strict=True
        ):
            row |= asdict(verdict)
        lost = [
            {**_row_key(item, cell), "status": "failed", "error": answer.error}
            for item, answer in failed
            for cell in self._cells()
        ]
        kept = [*(row for _, row in drawn), *lost]
        kept.sort(key=lambda r: (r["question_id"], r["sample"], r["max_thinking_tokens"], r["num_waits"]))
        stats = {name: float(sum(each[name] for _, each in found)) for name in ("decoded_tokens", "separate_tokens")}
        stats["failed"] = len(lost)
        return Result(kept=table(kept, SAMPLES), stats=stats, extra={"grading": grading_facts()})

    def _cells(self) -> list[Cell]:
        return curve_cells(self.campaign.evaluate.budgets.caps, self.campaign.evaluate.budgets.waits)


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
