"""What is sampled of one benchmark by one model: segments, rounds of samples, when enough are drawn, the commits.
Segments hold the same in every run, so that a resumed evaluation draws what is missing and decides on further rounds as
the first one would have. A sample is one question over the whole grid of budgets. Knows nothing of replicas."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa

from thinkscale.domain.campaign import Campaign
from thinkscale.domain.generation import Engine, Sampling, derived_seed
from thinkscale.domain.question import Question
from thinkscale.domain.sample import Budget, Thought
from thinkscale.engines.tokenizer import ModelTokenizer
from thinkscale.forcing.driver import run
from thinkscale.forcing.formats import forcing_ids, resolve_format
from thinkscale.forcing.sweep import Cell, SweepResult, curve_cells, sweep
from thinkscale.report.metrics import COLUMNS, points, tally
from thinkscale.report.regrade import graded
from thinkscale.runtime.asks import Asks, GradeAll, answered
from thinkscale.runtime.segments import Result
from thinkscale.stages.regrade import grading_facts
from thinkscale.store.artifact import Artifact, Manifest, StoredFile, distinct
from thinkscale.store.schemas import SAMPLES, questions, table
from thinkscale.store.stage import Segment

Known = Callable[[], Mapping[str, float]]


class BenchmarkRun:
    """One model on one benchmark.
    `known_tokens`: gives the thinking tokens that earlier samples of a question took, by its id."""

    def __init__(
        self, campaign: Campaign, model: str, benchmark: str, source: Artifact, output: Artifact, known_tokens: Known
    ) -> None:
        self.label = f"{model} {benchmark}"
        self.asks: Asks = Samples(campaign=campaign)
        self.output = output
        self._settings, self._seed, self._model, self._benchmark = campaign.evaluate, campaign.seed, model, benchmark
        self._source, self._known = source, known_tokens
        self._done: frozenset[str] = frozenset()
        self._keys: set[str] = set()
        self.samples = 0  # of each question, drawn or asked for
        self.resumed = 0  # samples of earlier runs

    @cached_property
    def _questions(self) -> list[Question]:
        return questions(self._source.read())

    @cached_property
    def _known_tokens(self) -> Mapping[str, float]:
        return self._known()

    def first_round(self) -> list[Segment]:
        """The segments that are planned whatever comes of them."""
        return self._segments(0, self._settings.samples)

    def resume(self, done: frozenset[str]) -> None:
        """Segments with these keys are committed."""
        self._done = done

    def more(self) -> list[Segment]:
        """The segments of the next round that are not committed; empty where enough is drawn. Only to be called at
        first and when a round's last segment is committed: the next one is decided on from all that is committed."""
        while (upto := self._upto()) > self.samples:
            planned = self._segments(self.samples, upto)
            found = [segment for segment in planned if segment.key not in self._done]
            self._keys |= {segment.key for segment in planned}
            self.resumed += sum(segment.rows for segment in planned) - sum(segment.rows for segment in found)
            self.samples = upto
            if found:
                return found
        return []

    def commit(self) -> Manifest:
        """Write the manifest: nothing is open, and nothing more to draw."""
        records = self.output.segment_records()
        spent = [item for record in records for item in record["stats"].items()]
        seconds, tail = (sum(s for name, s in spent if name.endswith(ending)) for ending in ("_s", "_tail_s"))
        extra = {
            "model": self._model,
            "benchmark": self._benchmark,
            "grading": distinct(record["extra"]["grading"] for record in records),
            "tail_share": round(tail / seconds, 4) if seconds else 0.0,
            "sampling": self._sampling(),
        }
        return self.output.commit(SAMPLES, extra=extra, expected_segments=self._keys)

    def _upto(self) -> int:
        settings = self._settings
        if not self.samples:
            return settings.samples
        target = settings.target_interval
        if target is None or self.samples >= settings.max_samples or self._uncertainty() <= target:
            return self.samples
        return min(2 * self.samples, settings.max_samples)

    def _sampling(self) -> dict[str, Any]:
        target = self._settings.target_interval
        if target is None:
            return {"stopped": "all samples drawn", "samples": self.samples}
        stopped = "target interval reached" if (width := self._uncertainty()) <= target else "max_samples reached"
        found = {"target_points": target, "interval_points": round(width, 3)}
        return {"stopped": stopped, "samples": self.samples, **found}

    def _uncertainty(self) -> float:
        """How far the 95% interval of any budget reaches from its accuracy, in points."""
        found = points(tally(self._committed(COLUMNS)), seed=self._seed)
        return max(100 * max(point.high - point.accuracy, point.accuracy - point.low) for point in found)

    def _committed(self, columns: list[str]) -> Iterable[pa.Table]:
        for record in self.output.segment_records():
            if record["key"] in self._keys:
                yield self.output.read_part(StoredFile(**record["file"]), columns)

    def _segments(self, first: int, stop: int) -> list[Segment]:
        if first:
            self._known_tokens = longest_thinking(self._committed(["question_id", "thinking_tokens"]))
        found, most = [], max(self._settings.budgets.caps)
        whose = {"model": self._model, "benchmark": self._benchmark}
        for start in range(0, len(self._questions), self._settings.segment_questions):
            items = [
                Item(question=each, sample=n, expected_tokens=self._known_tokens.get(each.id, most), **whose)
                for each in self._questions[start : start + self._settings.segment_questions]
                for n in range(first, stop)
            ]
            key = f"{start:07d}-{first:05d}" if first else f"{start:07d}"
            found.append(Segment(key=key, rows=len(items), work=items))
        return found


def longest_thinking(parts: Iterable[pa.Table]) -> dict[str, float]:
    """By question the thinking tokens of its longest sample; parts have question_id and thinking_tokens."""
    longest: dict[str, float] = {}
    for part in parts:
        found = part.group_by("question_id").aggregate([("thinking_tokens", "max")])
        for row in found.to_pylist():
            question, tokens = row["question_id"], row["thinking_tokens_max"] or 0
            longest[question] = max(longest.get(question, 0), tokens)
    return longest


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    model: str
    benchmark: str
    question: Question
    sample: int
    expected_tokens: float = 0.0  # of thinking


@dataclass(frozen=True, kw_only=True)
class Samples:
    campaign: Campaign

    def key(self, row: Item) -> str:
        return f"{row.benchmark}/{row.question.id}/{row.sample}"

    def expected(self, row: Item) -> float:
        return row.expected_tokens

    async def ask(self, engine: Engine, tokenizer: ModelTokenizer, row: Item) -> dict[str, Any]:
        """On a replica: the rows of one sample, a cell each, and the tokens that they took."""
        campaign, budgets = self.campaign, self.campaign.evaluate.budgets
        budget = Budget(**budgets.model_dump(include={"wait_text", "final_answer_text", "max_answer_tokens"}))
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

    def collect(self, rows: Sequence[Item], answers: Sequence[Any], grade_all: GradeAll) -> Result:
        found, failed = answered(rows, answers)
        drawn = [(item.question, row) for item, answer in found for row in answer["rows"]]
        for (_, row), verdict in zip(
            drawn, grade_all([graded(question, row["answer"]) for question, row in drawn]), strict=True
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
