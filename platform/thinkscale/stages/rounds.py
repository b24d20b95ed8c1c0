"""What is sampled of one benchmark by one model: segments, rounds of samples, when enough are drawn, the commits.

Segments hold the same questions and samples in every run, so that a resumed evaluation draws what is missing and
decides on further rounds as the first one would have. Knows nothing of replicas.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa

from thinkscale.domain.campaign import Evaluate
from thinkscale.domain.question import Question
from thinkscale.grading.pool import GradingPool
from thinkscale.grading.verdict import Graded
from thinkscale.report.metrics import COLUMNS, points, tally
from thinkscale.stages.regrade import grading_facts
from thinkscale.stages.sampling import Item
from thinkscale.store.artifact import Artifact, Manifest, StoredFile
from thinkscale.store.schemas import SAMPLES, questions, table


@dataclass(kw_only=True)
class Segment:
    """Some questions' samples of one round, which are committed together."""

    key: str
    items: list[Item]
    """The longest expected one first."""
    expected_tokens: float
    """Of the longest."""
    missing: int
    rows: list[dict[str, Any]] = field(default_factory=list)
    stats: dict[str, float] = field(default_factory=lambda: {"decoded_tokens": 0.0, "separate_tokens": 0.0})

    def add(self, result: Mapping[str, Any]) -> bool:
        """Take in one item's rows; says whether the segment is now whole."""
        self.rows += result["rows"]
        for name in self.stats:
            self.stats[name] += result[name]
        self.missing -= 1
        return self.missing == 0


class BenchmarkRun:
    """One model on one benchmark.

    Args:
        output: begun; `done` are the keys of its committed segments.
        known_tokens: thinking tokens that earlier samples of a question took, by its id.
    """

    def __init__(
        self,
        settings: Evaluate,
        seed: int,
        model: str,
        benchmark: str,
        source: Artifact,
        output: Artifact,
        done: set[str],
        known_tokens: Mapping[str, float],
    ) -> None:
        self.label = f"{model} {benchmark}"
        self._settings, self._seed, self._model, self._benchmark = settings, seed, model, benchmark
        self._output, self._done, self._known_tokens = output, done, dict(known_tokens)
        self._questions = questions(source.read())
        self._by_id = {question.id: question for question in self._questions}
        self._keys: set[str] = set()
        self._open = 0
        self.samples = 0
        """Of each question, drawn or asked for."""
        self.resumed = 0
        """Samples of earlier runs."""

    def more(self) -> list[Segment]:
        """The segments of the next round that are not committed; empty where enough is drawn.

        Only to be called at first and when a round's last segment is closed: the next one is decided on from all
        that is committed.
        """
        while (upto := self._upto()) > self.samples:
            planned = self._segments(self.samples, upto)
            found = [segment for segment in planned if segment.key not in self._done]
            self.resumed += sum(segment.missing for segment in planned) - sum(segment.missing for segment in found)
            self.samples = upto
            if found:
                self._open = len(found)
                return found
        return []

    def commit_segment(self, segment: Segment, pool: GradingPool, spent: Mapping[str, float]) -> None:
        """Grade and commit a whole segment."""
        answered = [row for row in segment.rows if row["status"] == "ok"]
        for row, verdict in zip(answered, pool.grade_all(self._graded(row) for row in answered), strict=True):
            row |= asdict(verdict)
        segment.rows.sort(key=lambda r: (r["question_id"], r["sample"], r["max_thinking_tokens"], r["num_waits"]))
        failed = sum(row["status"] == "failed" for row in segment.rows)
        self._output.commit_segment(
            segment.key,
            table(segment.rows, SAMPLES),
            stats={**spent, **segment.stats, "failed": failed},
            extra={"grading": grading_facts()},
        )

    def close_segment(self) -> bool:
        """Count one more segment of the round as committed; says whether it was the last one."""
        self._open -= 1
        return self._open == 0

    def commit(self, engine: Mapping[str, Any]) -> Manifest:
        """Write the manifest: nothing is open, and nothing more to draw."""
        records = self._output.segment_records()
        gradings: list[object] = []
        for record in records:
            if record["extra"]["grading"] not in gradings:
                gradings.append(record["extra"]["grading"])
        seconds, tail = (
            sum(value for record in records for name, value in record["stats"].items() if name.endswith(ending))
            for ending in ("_s", "_tail_s")
        )
        extra = {
            "model": self._model,
            "benchmark": self._benchmark,
            "engine": engine,
            "grading": gradings,
            "tail_share": round(tail / seconds, 4) if seconds else 0.0,
            "sampling": self._sampling(),
        }
        return self._output.commit(SAMPLES, extra=extra, expected_segments=self._keys)

    def _upto(self) -> int:
        """How many samples of each question there shall be, by what is committed."""
        settings = self._settings
        if not self.samples:
            return settings.samples
        target = settings.target_interval
        if target is None or self.samples >= settings.max_samples or self._uncertainty() <= target:
            return self.samples
        return min(2 * self.samples, settings.max_samples)

    def _sampling(self) -> dict[str, Any]:
        """Why sampling stopped."""
        target = self._settings.target_interval
        if target is None:
            return {"stopped": "all samples drawn", "samples": self.samples}
        reached = (width := self._uncertainty()) <= target
        return {
            "stopped": "target interval reached" if reached else "max_samples reached",
            "samples": self.samples,
            "target_points": target,
            "interval_points": round(width, 3),
        }

    def _uncertainty(self) -> float:
        """How far the 95% interval of any budget reaches from its accuracy, in points."""
        found = points(tally(self._committed(COLUMNS)), seed=self._seed)
        return max(100 * max(point.high - point.accuracy, point.accuracy - point.low) for point in found)

    def _committed(self, columns: list[str]) -> Iterable[pa.Table]:
        for record in self._output.segment_records():
            if record["key"] in self._keys:
                yield self._output.read_part(StoredFile(**record["file"]), columns)

    def _segments(self, first: int, stop: int) -> list[Segment]:
        """The segments of samples first .. stop - 1 of each question."""
        if first:
            self._known_tokens = longest_thinking(self._committed(["question_id", "thinking_tokens"]))
        found = []
        for start in range(0, len(self._questions), self._settings.segment_questions):
            asked = self._questions[start : start + self._settings.segment_questions]
            asked = sorted(asked, key=self._expected_tokens, reverse=True)
            items = [
                Item(model=self._model, benchmark=self._benchmark, question=question, sample=sample)
                for question in asked
                for sample in range(first, stop)
            ]
            key = f"{start:07d}-{first:05d}" if first else f"{start:07d}"
            expected = self._expected_tokens(asked[0])
            found.append(Segment(key=key, items=items, expected_tokens=expected, missing=len(items)))
        self._keys |= {segment.key for segment in found}
        return found

    def _expected_tokens(self, question: Question) -> float:
        """Thinking tokens of a question's longest budget: as before, else the budget's own."""
        return self._known_tokens.get(question.id, max(self._settings.budgets.caps))

    def _graded(self, row: Mapping[str, Any]) -> Graded:
        question = self._by_id[row["question_id"]]
        return Graded(kind=question.kind, reference=question.answer, response=row["answer"], options=question.options)


def longest_thinking(parts: Iterable[pa.Table]) -> dict[str, float]:
    """By question the thinking tokens of its longest sample; parts have question_id and thinking_tokens."""
    longest: dict[str, float] = {}
    for part in parts:
        found = part.group_by("question_id").aggregate([("thinking_tokens", "max")])
        for row in found.to_pylist():
            question, tokens = row["question_id"], row["thinking_tokens_max"] or 0
            longest[question] = max(longest.get(question, 0), tokens)
    return longest
