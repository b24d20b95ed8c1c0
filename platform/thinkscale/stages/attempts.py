"""A teacher's attempts at each selected question, with what became of every one: solutions, an engine or an endpoint.
Owns what is asked and what an attempt's status is. Which attempts become traces is decided in `distill`."""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache, partial
from typing import Any

import pyarrow as pa

from thinkscale.domain.campaign import Campaign
from thinkscale.domain.generation import Engine, StopAskingError, derived_seed
from thinkscale.domain.models import Teacher
from thinkscale.domain.question import TRACE_ANSWER, TRACES_BY, Attempt
from thinkscale.engines.tokenizer import ModelTokenizer
from thinkscale.forcing.reading import complete, split_thinking
from thinkscale.grading.pool import GradingPool
from thinkscale.runtime.asking import Failed
from thinkscale.runtime.asks import GradeAll, run_asks, thought
from thinkscale.runtime.engines import EngineSettings, tokenizer_of
from thinkscale.runtime.segments import Actors, Result, run_segments
from thinkscale.runtime.teaching import EndpointSettings, EndpointTeacher
from thinkscale.stages.artifacts import fingerprints, template_hash
from thinkscale.stages.self_check import LooksBack, graded_row
from thinkscale.store.artifact import Artifact
from thinkscale.store.schemas import ATTEMPTS, table
from thinkscale.store.stage import begin_stage, slices

STATUS_LEAST = 50  # attempts of a run before the share of one status can end it


def make_attempts(
    campaign: Campaign, source: Artifact, output: Artifact, teacher: Teacher, usd_left: Callable[[], float] | None
) -> bool:
    """`attempts-<n>`: what one teacher gave for each selected question.
    `usd_left`: tells what an endpoint may still cost. Raises EngineError: no engine can be built, or so much fails that
    it is at fault; StopAskingError: a quota, a key, an account, distill.max_usd or distill.max_status_share ends the
    stage."""
    config: dict[str, Any] = {"teacher": teacher.identity, "base": campaign.model.base}
    if teacher.source == "engine" and teacher.endpoint is None:
        config |= {"seed": campaign.seed, "template": template_hash(campaign, str(teacher.model))}
    looks = LooksBack(campaign, teacher) if teacher.source == "self_check" else None
    if looks is not None:
        config |= {"seed": campaign.seed, "wait": looks.wait}
    rows = campaign.difficulty.segment_rows
    stage = begin_stage(output, config, fingerprints(selected=source), lambda: slices(source, rows))
    if stage is None:
        return False
    if teacher.source != "engine":
        run_segments("distill", stage, transform=FromSolutions(campaign.model.base, looks))
        return stage.commit(ATTEMPTS)
    settings, resources = EngineSettings.of(campaign, str(teacher.model)), campaign.resources
    actors = Actors(most=resources.replicas, cpus=resources.cpus_per_replica, gpus=resources.gpus_per_replica)
    if teacher.endpoint is not None:
        endpoint = EndpointSettings(teacher=teacher, store=output.store, campaign=campaign.name, usd_left=usd_left)
        # One counts what is under way. It mostly waits, and others may be asked beside it.
        settings, actors = replace(settings, teacher=endpoint), Actors(most=1, cpus=0.5 / len(campaign.teacher))
    asks = FromTeacher(campaign=campaign, teacher=teacher)
    name = "distill" if len(campaign.teacher) == 1 else f"distill {teacher.model}"
    run_asks(name, stage, asks, settings, actors, partial(each_attempt, attempts=teacher.attempts))
    return stage.commit(ATTEMPTS)


def each_attempt(rows: pa.Table, *, attempts: int) -> list[dict[str, Any]]:
    """The questions, each as often as it is attempted."""
    return [{**row, "attempt": number} for row in rows.to_pylist() for number in range(attempts)]


class FromSolutions:
    """The pool's worked solutions, and traces that were made elsewhere, as attempts."""

    def __init__(self, base: str, looks: LooksBack | None = None) -> None:
        self._base, self._looks = base, looks

    def __call__(self, rows: pa.Table) -> Result:
        found = [(row, *_ready_made({**row, "attempt": 0})) for row in rows.to_pylist()]
        if self._looks is not None:
            found = self._looks(found, _pool().grade_all)
        graded = _pool().grade_all if any(own for *_, own in found) else lambda items: [None] * len(items)
        kept = _attempt_rows(
            [{**row, "attempt": 0} for row, *_ in found],
            [attempt for _, attempt, _ in found],
            [json.loads(row["metadata"] or "{}").get(TRACES_BY, "solutions") for row, *_ in found],
            graded,
            tokenizer_of(self._base),
        )
        for row, (*_, own) in zip(kept, found, strict=True):
            row["correct"] = row["correct"] if own else row["status"] == "ok"  # a worked solution ends at the reference
        return Result(kept=table(kept, ATTEMPTS))


def _ready_made(row: Mapping[str, Any]) -> tuple[Attempt, bool]:
    """A row's solution as an attempt, and whether it has an answer of its own beside the reference."""
    if not row["solution"]:
        return Attempt(status="no_solution"), False
    thinking, answer, is_open = split_thinking(row["solution"])
    own = json.loads(row["metadata"] or "{}").get(TRACE_ANSWER, "")
    if is_open:
        return Attempt(status="cut_thinking", thinking=thinking), False
    if not thinking:  # no marks: all of it is thinking
        thinking, answer = answer, ""
    answer = own or answer
    return Attempt(status="ok", thinking=thinking, answer=answer or row["answer"]), bool(answer)


@lru_cache(maxsize=1)
def _pool() -> GradingPool:
    return GradingPool()


@dataclass(frozen=True, kw_only=True)
class FromTeacher:
    """A model thinks about each question, as often as its teacher says."""

    campaign: Campaign
    teacher: Teacher
    seen: Counter[str] = field(default_factory=Counter)  # statuses of this process's attempts
    replied: dict[int, str] = field(default_factory=dict)  # whose replies came in this process, by their hash

    def key(self, row: dict[str, Any]) -> str:
        return f"{row['id']}/{row['attempt']}"

    def expected(self, row: dict[str, Any]) -> float:
        return float(row["trace_tokens"] or 0)

    async def ask(self, engine: Any, tokenizer: Any, row: dict[str, Any]) -> Attempt:
        if isinstance(engine, EndpointTeacher):
            attempt = await engine.attempt(row["question"], row["attempt"])
        else:
            attempt = await self._think(engine, tokenizer, row)
        self.seen[attempt.status] += 1
        told, most = self.seen.total(), self.campaign.distill.max_status_share
        count = self.seen[attempt.status]
        if attempt.status != "ok" and told >= STATUS_LEAST and count > most * told:
            error = StopAskingError(
                f"{count} of {told} attempts of teacher {self.teacher.model!r} ended as {attempt.status}, more than "
                f"distill.max_status_share = {most:g}; the last one: {attempt.words or 'it said nothing'}. Mend that, "
                "or raise the share; what came is kept"
            )
            if isinstance(engine, EndpointTeacher):
                await engine.stop(error)
            raise error
        return attempt

    async def _think(self, engine: Engine, tokenizer: ModelTokenizer, row: Mapping[str, Any]) -> Attempt:
        """One attempt in the campaign's own engine, under the teacher's budget."""
        seed = derived_seed(self.campaign.seed, row["id"], row["attempt"])
        found = await thought(engine, tokenizer, row["question"], self.teacher, seed)
        thinking, answer = (tokenizer.decode(part).strip() for part in (found.thinking_ids, found.answer_ids))
        status = complete(thinking, answer)
        if found.end in ("overflow", "cap"):
            status = "prompt_too_long" if found.end == "overflow" else "cut_thinking"
        elif found.answer_finish == "length":
            status = "cut_answer"
        return Attempt(
            status=status,
            words="" if status == "ok" else f"{len(found.thinking_ids)} and {len(found.answer_ids)} tokens",
            thinking=thinking,
            answer=answer,
            prompt_tokens=found.prompt_tokens,
            completion_tokens=found.decoded_tokens,
        )

    def collect(self, rows: Sequence[dict[str, Any]], answers: Sequence[Any], grade_all: GradeAll) -> Result:
        attempts = [Attempt(status="error", words=a.error) if isinstance(a, Failed) else a for a in answers]
        attempts = [self._once(*pair) for pair in zip(rows, attempts, strict=True)]
        base = tokenizer_of(self.campaign.model.base)
        kept = _attempt_rows(rows, attempts, [str(self.teacher.model)] * len(rows), grade_all, base)
        stats = {
            "prompt_tokens": sum(attempt.prompt_tokens for attempt in attempts),
            "decoded_tokens": sum(attempt.completion_tokens for attempt in attempts),
            "reply_usd": sum(attempt.usd for attempt in attempts),
        }
        return Result(kept=table(kept, ATTEMPTS), stats=stats)

    def _once(self, row: dict[str, Any], attempt: Attempt) -> Attempt:
        """A reply that a server gave twice, by its id and text, was made for one request at most."""
        if not attempt.reply_id or attempt.status != "ok":
            return attempt
        reply = hash((attempt.reply_id, attempt.thinking, attempt.answer))
        if self.replied.setdefault(reply, self.key(row)) == self.key(row):
            return attempt
        words = f"the reply {attempt.reply_id} came for another request too"
        return replace(attempt, status="duplicate_reply", words=words)


def _attempt_rows(
    rows: Sequence[Mapping[str, Any]],
    attempts: Sequence[Attempt],
    teachers: Sequence[str],
    grade: Any,
    tokenizer: ModelTokenizer,
) -> list[dict[str, Any]]:
    """Rows of ATTEMPTS; those that are whole are graded."""
    whole = [(row, attempt) for row, attempt in zip(rows, attempts, strict=True) if attempt.status == "ok"]
    verdicts = iter(grade([graded_row(row, attempt.answer) for row, attempt in whole]))
    found = []
    for row, attempt, teacher in zip(rows, attempts, teachers, strict=True):
        verdict = next(verdicts) if attempt.status == "ok" else None
        facts = {name: value for name, value in asdict(attempt).items() if name != "reply_id"}
        found.append(
            {
                "question_id": row["id"],
                "attempt": row["attempt"],
                "teacher": teacher,
                **facts,
                "correct": verdict is not None and verdict.verdict == "correct",
                "thinking_tokens": len(tokenizer.encode(attempt.thinking)),
            }
        )
    return found
