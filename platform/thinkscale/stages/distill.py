"""A reasoning trace for each selected question, from the pool's worked solutions or from a teacher.

Owns the teacher's terms: no trace is made where they do not allow training on it.
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import Mapping
from dataclasses import asdict
from functools import lru_cache
from typing import Any

import pyarrow as pa

from thinkscale.domain.budget import Budget
from thinkscale.domain.campaign import Campaign
from thinkscale.domain.generation import Sampling, TokenIds
from thinkscale.domain.sample import Thought
from thinkscale.engines.tokenizer import ModelTokenizer
from thinkscale.forcing.driver import run
from thinkscale.forcing.formats import detect_format, forcing_ids
from thinkscale.forcing.program import think
from thinkscale.grading.pool import GradingPool
from thinkscale.grading.verdict import Graded
from thinkscale.runtime.dropping import dropped_row, licences
from thinkscale.runtime.segments import Actors, Result, run_segments, slices
from thinkscale.stages.difficulty import EngineLoop
from thinkscale.store.artifact import Artifact, Manifest
from thinkscale.store.filesystem import Store
from thinkscale.store.models import local_model
from thinkscale.store.schemas import DROPPED, TRACES, table


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


def distill(campaign: Campaign, store: Store) -> Manifest:
    """`traces`: thinking and answer for each selected question.

    Raises:
        TermsError: as `check_terms`.
    """
    check_terms(campaign)
    source = Artifact(store, f"{campaign.name}/selected")
    output = Artifact(store, f"{campaign.name}/traces")
    done = output.begin(
        {"teacher": campaign.teacher.model_dump(), "base": campaign.model.base, "seed": campaign.seed},
        {"selected": source.require().fingerprint},
    )
    if (manifest := output.manifest()) is not None:
        return manifest
    segments = slices(source, campaign.difficulty.segment_rows)
    if campaign.teacher.source == "solutions":
        run_segments("distill", output, segments, done, transform=FromSolutions(campaign.model.base))
    else:
        resources = campaign.resources
        gpus = 0 if campaign.teacher.endpoint else resources.gpus_per_replica
        pool = Actors(most=resources.replicas, cpus=resources.cpus_per_replica, gpus=gpus, at_once=2)
        run_segments("distill", output, segments, done, transform=FromTeacher, arguments=(campaign,), actors=pool)
    if not sum(record["file"]["rows"] for record in output.segment_records()):
        raise DistillError(
            f"{output.url}: no trace came of {source.require().rows:,} questions; the reasons stand in "
            f"{output.url}/dropped"
        )
    return output.commit(TRACES, extra=_terms(campaign, source), expected_segments={s.key for s in segments})


class FromSolutions:
    """Worked solutions as traces."""

    def __init__(self, base: str) -> None:
        self._base = base

    def __call__(self, rows: pa.Table) -> Result:
        tokenizer = _tokenizer(self._base)
        kept, dropped = [], []
        for row in rows.to_pylist():
            if not row["solution"]:
                dropped.append(dropped_row("distill", row["id"], "no_solution", {}, row))
                continue
            tokens = len(tokenizer.encode(row["solution"]))
            trace = _trace(row, "solutions", row["solution"], row["answer"])
            kept.append({**trace, "thinking_tokens": tokens, "correct": True})
        return Result(kept=table(kept, TRACES), dropped=table(dropped, DROPPED))


class FromTeacher:
    """In an actor: a model thinks about each question under the teacher's budget."""

    def __init__(self, campaign: Campaign) -> None:
        self._campaign, teacher = campaign, campaign.teacher
        assert teacher.model is not None
        self._engine = EngineLoop(campaign, teacher.model, teacher.endpoint)
        tokenizer = self._engine.tokenizer
        self._format = detect_format(tokenizer)
        self._budget = Budget(
            max_thinking_tokens=teacher.max_thinking_tokens, max_answer_tokens=teacher.max_answer_tokens
        )
        self._ids = forcing_ids(tokenizer, self._format, self._budget)
        self._grading, self._grader = threading.Lock(), GradingPool()

    def __call__(self, rows: pa.Table) -> Result:
        asked = rows.to_pylist()
        thoughts = self._engine.run(self._think_all(asked))
        texts = [(self._text(thought.thinking_ids), self._text(thought.answer_ids)) for thought in thoughts]
        items = [
            Graded(kind=row["kind"], reference=row["answer"], response=answer, options=tuple(row["options"] or ()))
            for row, (_, answer) in zip(asked, texts, strict=True)
        ]
        with self._grading:  # the pool serves one thread at a time
            verdicts = self._grader.grade_all(items)
        base = _tokenizer(self._campaign.model.base)
        kept, dropped = [], []
        for row, thought, (thinking, answer), verdict in zip(asked, thoughts, texts, verdicts, strict=True):
            correct = verdict.verdict == "correct"
            trace = {
                **_trace(row, str(self._campaign.teacher.model), thinking, answer),
                "thinking_tokens": len(base.encode(thinking)),
                "correct": correct,
            }
            fault = self._fault(thought, thinking, answer, correct=correct)
            if fault is None:
                kept.append(trace)
            else:
                dropped.append(dropped_row("distill", row["id"], fault, {"end": thought.end}, {**row, **trace}))
        return Result(
            kept=table(kept, TRACES),
            dropped=table(dropped, DROPPED),
            stats={"decoded_tokens": sum(thought.decoded_tokens for thought in thoughts)},
            extra={"engine": asdict(self._engine.engine.info)},
        )

    def _fault(self, thought: Thought, thinking: str, answer: str, *, correct: bool) -> str | None:
        if thought.end == "overflow":
            return "overflow"
        if thought.end == "cap":
            return "unfinished_thinking"
        if not thinking or not answer:
            return "empty_trace"
        return "wrong_answer" if self._campaign.teacher.only_correct and not correct else None

    async def _think_all(self, asked: list[dict[str, Any]]) -> list[Thought]:
        return list(await asyncio.gather(*(self._think(row) for row in asked)))

    async def _think(self, row: dict[str, Any]) -> Thought:
        engine, tokenizer = self._engine.engine, self._engine.tokenizer
        prompt = tokenizer.prompt_ids(row["question"], self._format)
        digest = hashlib.sha256(f"{self._campaign.seed}/{row['id']}".encode()).digest()
        sampling = Sampling(temperature=self._campaign.teacher.temperature, seed=int.from_bytes(digest[:4], "big") >> 1)
        program = think(prompt, self._budget, self._ids, context_tokens=engine.info.context_tokens, sampling=sampling)
        thought: Thought = await run(engine, program)
        return thought

    def _text(self, ids: TokenIds) -> str:
        return self._engine.tokenizer.decode(ids).strip()


def _trace(row: Mapping[str, Any], teacher: str, thinking: str, answer: str) -> dict[str, Any]:
    return {
        "question_id": row["id"],
        "question": row["question"],
        "thinking": thinking,
        "answer": answer,
        "teacher": teacher,
        "domain": row["domain"],
        "source": row["source"],
    }


@lru_cache(maxsize=1)
def _tokenizer(reference: str) -> ModelTokenizer:
    return ModelTokenizer(local_model(reference))


def _terms(campaign: Campaign, source: Artifact) -> Mapping[str, Any]:
    """What the traces may be used for: the teacher's terms, and the licences of the questions."""
    teacher = campaign.teacher
    return {
        "teacher": teacher.model or "solutions",
        "terms": None if teacher.terms is None else teacher.terms.model_dump(),
        **licences(source.read(["source", "licence"]).to_pylist()),
    }
