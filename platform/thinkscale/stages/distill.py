"""A reasoning trace for each selected question, from the pool's worked solutions or from a teacher.

Owns the teacher's terms: no trace is made where they do not allow training on it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from thinkscale.domain.campaign import Campaign
from thinkscale.domain.generation import Engine, Sampling, derived_seed
from thinkscale.domain.sample import Budget, ThinkingEnd, Thought
from thinkscale.engines.tokenizer import ModelTokenizer
from thinkscale.forcing.driver import run
from thinkscale.forcing.formats import forcing_ids, resolve_format
from thinkscale.forcing.program import think
from thinkscale.grading.verdict import Graded
from thinkscale.runtime.asks import GradeAll, answered, run_asks
from thinkscale.runtime.engines import EngineSettings, tokenizer_of
from thinkscale.runtime.segments import Actors, Result, licences, run_segments
from thinkscale.stages.artifacts import campaign_artifact, fingerprints, template_hash
from thinkscale.store.artifact import Artifact
from thinkscale.store.filesystem import Store
from thinkscale.store.schemas import DROPPED, TRACES, dropped_row, table
from thinkscale.store.stage import begin_stage, slices


class DistillError(RuntimeError):
    """No trace could be made; the message says where the reasons stand."""


class TermsError(ValueError):
    """A teacher's terms are not stated, or do not allow training other models on its output."""


def check_terms(campaign: Campaign) -> None:
    """Raises TermsError where the campaign's teacher may not be used."""
    teacher = campaign.teacher
    if teacher.source == "solutions":
        return
    if teacher.terms is None:
        raise TermsError(
            f"teacher {teacher.model!r} has no terms: state its licence and whether its output may train other models "
            '([teacher.terms] licence = "...", may_train = true)'
        )
    if not teacher.terms.may_train:
        raise TermsError(
            f"the terms of teacher {teacher.model!r} ({teacher.terms.licence}) do not allow training other models on "
            "its output: choose another teacher"
        )


def distill(campaign: Campaign, store: Store) -> bool:
    """`traces`: thinking and answer for each selected question.

    Raises:
        TermsError: as `check_terms`.
    """
    check_terms(campaign)
    source, output = (campaign_artifact(campaign, store, name) for name in ("selected", "traces"))
    teacher, resources = campaign.teacher, campaign.resources
    config = {"teacher": teacher.model_dump(), "base": campaign.model.base, "seed": campaign.seed}
    if teacher.model is not None:
        config["template"] = template_hash(campaign, teacher.model)
    inputs, rows = fingerprints(selected=source), campaign.difficulty.segment_rows
    stage = begin_stage(output, config, inputs, lambda: slices(source, rows))
    if stage is None:
        return False
    if teacher.source == "solutions":
        run_segments("distill", stage, transform=FromSolutions(campaign.model.base))
    else:
        assert teacher.model is not None
        settings = EngineSettings.of(campaign, teacher.model, teacher.endpoint)
        gpus = 0 if teacher.endpoint else resources.gpus_per_replica
        actors = Actors(most=resources.replicas, cpus=resources.cpus_per_replica, gpus=gpus)
        run_asks("distill", stage, FromTeacher(campaign=campaign), settings, actors)
    if not sum(record["file"]["rows"] for record in output.segment_records()):
        raise DistillError(
            f"{output.url}: no trace came of {source.require().rows:,} questions; the reasons stand in "
            f"{output.url}/dropped"
        )
    return stage.commit(TRACES, extra=_terms(campaign, source))


class FromSolutions:
    """Worked solutions as traces."""

    def __init__(self, base: str) -> None:
        self._base = base

    def __call__(self, rows: pa.Table) -> Result:
        tokenizer = tokenizer_of(self._base)
        kept, dropped = [], []
        for row in rows.to_pylist():
            if not row["solution"]:
                dropped.append(dropped_row("distill", row["id"], "no_solution", {}, row))
                continue
            tokens = len(tokenizer.encode(row["solution"]))
            kept.append(_trace(row, "solutions", row["solution"], row["answer"], tokens, correct=True))
        return Result(kept=table(kept, TRACES), dropped=table(dropped, DROPPED))


@dataclass(frozen=True, kw_only=True)
class Thinking:
    """What a teacher thought and answered."""

    end: ThinkingEnd
    thinking: str
    answer: str
    decoded_tokens: int


@dataclass(frozen=True, kw_only=True)
class FromTeacher:
    """A model thinks about each question under the teacher's budget."""

    campaign: Campaign

    def key(self, row: dict[str, Any]) -> str:
        return str(row["id"])

    def expected(self, row: dict[str, Any]) -> float:
        return float(row["trace_tokens"] or 0)

    async def ask(self, engine: Engine, tokenizer: ModelTokenizer, row: dict[str, Any]) -> Thinking:
        teacher = self.campaign.teacher
        thinking_format = resolve_format(teacher, tokenizer)
        budget = Budget(max_thinking_tokens=teacher.max_thinking_tokens, max_answer_tokens=teacher.max_answer_tokens)
        prompt = tokenizer.prompt_ids(row["question"], thinking_format, teacher.system_prompt)
        ids, context = forcing_ids(tokenizer, thinking_format, budget), engine.info.context_tokens
        seed = derived_seed(self.campaign.seed, row["id"], 0)
        sampling = Sampling(temperature=teacher.temperature, top_p=teacher.top_p, seed=seed)
        thought: Thought = await run(engine, think(prompt, budget, ids, context_tokens=context, sampling=sampling))
        return Thinking(
            end=thought.end,
            thinking=tokenizer.decode(thought.thinking_ids).strip(),
            answer=tokenizer.decode(thought.answer_ids).strip(),
            decoded_tokens=thought.decoded_tokens,
        )

    def collect(self, rows: Sequence[dict[str, Any]], answers: Sequence[Any], grade_all: GradeAll) -> Result:
        thought, failed = answered(rows, answers)
        asked = ((row["kind"], row["answer"], tuple(row["options"] or ()), found.answer) for row, found in thought)
        verdicts = grade_all([Graded(kind=k, reference=r, options=o, response=said) for k, r, o, said in asked])
        base, kept = tokenizer_of(self.campaign.model.base), []
        dropped = [dropped_row("distill", row["id"], "failed", {"error": answer.error}, row) for row, answer in failed]
        for (row, found), verdict in zip(thought, verdicts, strict=True):
            correct, tokens = verdict.verdict == "correct", len(base.encode(found.thinking))
            trace = _trace(row, str(self.campaign.teacher.model), found.thinking, found.answer, tokens, correct=correct)
            fault = self._fault(found, correct=correct)
            if fault is None:
                kept.append(trace)
            else:
                dropped.append(dropped_row("distill", row["id"], fault, {"end": found.end}, {**row, **trace}))
        return Result(
            kept=table(kept, TRACES),
            dropped=table(dropped, DROPPED),
            stats={"decoded_tokens": sum(found.decoded_tokens for _, found in thought)},
        )

    def _fault(self, found: Thinking, *, correct: bool) -> str | None:
        if found.end in ("overflow", "cap"):
            return "overflow" if found.end == "overflow" else "unfinished_thinking"
        if not found.thinking or not found.answer:
            return "empty_trace"
        return "wrong_answer" if self.campaign.teacher.only_correct and not correct else None


def _trace(
    row: Mapping[str, Any], teacher: str, thinking: str, answer: str, thinking_tokens: int, *, correct: bool
) -> dict[str, Any]:
    return {
        "question_id": row["id"],
        **{name: row[name] for name in ("question", "domain", "source")},
        "thinking": thinking,
        "answer": answer,
        "teacher": teacher,
        "thinking_tokens": thinking_tokens,
        "correct": correct,
    }


def _terms(campaign: Campaign, source: Artifact) -> Mapping[str, Any]:
    """What the traces may be used for: the teacher's terms, and the licences of the questions."""
    teacher = campaign.teacher
    return {
        "teacher": teacher.model or "solutions",
        "terms": None if teacher.terms is None else teacher.terms.model_dump(),
        **licences(source.read(["source", "licence"]).to_pylist()),
    }
