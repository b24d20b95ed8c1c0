"""Difficulty: models attempt each question, the weakest first; a question that one of them solves is dropped.
Owns what is asked and what becomes of the answers."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa

from thinkscale.domain.campaign import Campaign
from thinkscale.domain.generation import Engine, Request, Sampling, derived_seed
from thinkscale.domain.question import Question
from thinkscale.engines.tokenizer import ModelTokenizer
from thinkscale.report.regrade import graded
from thinkscale.runtime.asks import GradeAll, answered, run_asks
from thinkscale.runtime.engines import EngineSettings, tokenizer_of
from thinkscale.runtime.segments import Actors, Result, run_segments
from thinkscale.stages.artifacts import campaign_artifact, fingerprints, template_hash
from thinkscale.store.artifact import Artifact
from thinkscale.store.filesystem import Store
from thinkscale.store.schemas import DIFFICULTY, DROPPED, dropped_row, question_row, questions, table
from thinkscale.store.stage import begin_stage, slices


def score_difficulty(campaign: Campaign, store: Store) -> bool:
    """`difficulty`: what each model of the cascade failed; a question that one of them solves is dropped.
    Every model but the last writes an artifact of its own, `difficulty-<n>`, that the next one reads."""
    source, did = campaign_artifact(campaign, store, "unique"), False
    models: list[str | None] = [*campaign.difficulty.models] or [None]
    for place, model in enumerate(models, 1):
        output = campaign_artifact(campaign, store, "difficulty" if place == len(models) else f"difficulty-{place}")
        did |= _attempt(campaign, source, output, model)
        source = output
    return did


def _attempt(campaign: Campaign, source: Artifact, output: Artifact, model: str | None) -> bool:
    base, rows = campaign.model.base, campaign.difficulty.segment_rows
    reference = base if model == "base" else model
    config: dict[str, Any] = {"models": [], "base": base}
    if reference is not None:
        config = {
            "model": reference,
            "template": template_hash(campaign, reference),
            "difficulty": campaign.difficulty.model_dump(exclude={"models"}),
            "serve": campaign.serve.model_dump(include={"dtype", "context_tokens"}),
            "base": base,
            "seed": campaign.seed,
        }
    stage = begin_stage(output, config, fingerprints(questions=source), lambda: slices(source, rows))
    if stage is None:
        return False
    if reference is None:
        run_segments("difficulty", stage, transform=partial(untried, base=base))
    else:
        attempts, settings = Attempts(campaign=campaign, name=str(model)), EngineSettings.of(campaign, reference)
        run_asks("difficulty", stage, attempts, settings, engine_actors(campaign), questions)
    return stage.commit(DIFFICULTY)


def untried(rows: pa.Table, base: str) -> Result:
    """Every question as it is, with the length of its trace."""
    encode, asked = tokenizer_of(base).encode, questions(rows)
    tokens = [len(encode(question.solution or "")) for question in asked]
    kept = [{**question_row(q), "attempts": 0, "trace_tokens": n} for q, n in zip(asked, tokens, strict=True)]
    return Result(kept=table(kept, DIFFICULTY))


def engine_actors(campaign: Campaign) -> Actors:
    resources = campaign.resources
    return Actors(most=resources.difficulty_actors, cpus=resources.cpus_per_replica, gpus=resources.gpus_per_replica)


@dataclass(frozen=True, kw_only=True)
class Attempted:
    texts: list[str]
    prompt_tokens: int
    decoded_tokens: int
    is_unread: bool  # the prompt leaves no room for an answer


@dataclass(frozen=True, kw_only=True)
class Attempts:
    """Attempts at questions by one model; dropped are the solved ones, and at last the unread ones."""

    campaign: Campaign
    name: str  # as in `difficulty.models`, for the reason of drops

    def key(self, row: Question) -> str:
        return row.id

    def expected(self, row: Question) -> float:
        return len(row.question)

    async def ask(self, engine: Engine, tokenizer: ModelTokenizer, row: Question) -> Attempted:
        settings, context = self.campaign.difficulty, engine.info.context_tokens
        prompt = tokenizer.prompt_ids(row.question, None, self.campaign.model.system_prompt)
        room = min(settings.max_tokens, context - len(prompt))
        if room < 1:
            texts = [""] * settings.attempts
            return Attempted(texts=texts, prompt_tokens=len(prompt), decoded_tokens=0, is_unread=True)
        seeds = [derived_seed(self.campaign.seed, row.id, number) for number in range(settings.attempts)]
        drawn = [Sampling(temperature=settings.temperature, seed=seed) for seed in seeds]
        requests = [Request(prompt_ids=prompt, max_tokens=room, sampling=sampling) for sampling in drawn]
        completions = await asyncio.gather(*map(engine.generate, requests))
        return Attempted(
            texts=[tokenizer.decode(completion.ids) for completion in completions],
            prompt_tokens=len(prompt) * len(requests),
            decoded_tokens=sum(len(completion.ids) + len(completion.stop_ids) for completion in completions),
            is_unread=False,
        )

    def collect(self, rows: Sequence[Question], answers: Sequence[Any], grade_all: GradeAll) -> Result:
        attempts, tokenizer = self.campaign.difficulty.attempts, tokenizer_of(self.campaign.model.base)
        asked, failed = answered(rows, answers)
        responses = [(question, text) for question, attempted in asked for text in attempted.texts]
        verdicts = grade_all([graded(question, text) for question, text in responses])
        kept = []
        dropped = [dropped_row("difficulty", row.id, "failed", {"error": lost.error}, row) for row, lost in failed]
        for i, (question, attempted) in enumerate(asked):
            right = sum(each.verdict == "correct" for each in verdicts[i * attempts : (i + 1) * attempts])
            pass_rate, texts = right / attempts, attempted.texts
            longest = max(len(tokenizer.encode(text)) for text in ([question.solution] if question.solution else texts))
            found = {"attempts": attempts, "pass_rate": pass_rate, "trace_tokens": longest, "attempt_answers": texts}
            row = {**question_row(question), **found}
            if pass_rate >= self.campaign.difficulty.solved_pass_rate:
                detail: dict[str, Any] = {"pass_rate": pass_rate, "attempts": attempts}
                dropped.append(dropped_row("difficulty", question.id, f"solved_by:{self.name}", detail, row))
            elif attempted.is_unread and self.name == self.campaign.difficulty.models[-1]:
                detail = {"prompt_tokens": attempted.prompt_tokens}  # not hard: nobody could even read it
                detail["context_tokens"] = self.campaign.serve.context_tokens
                dropped.append(dropped_row("difficulty", question.id, "prompt_too_long", detail, row))
            else:
                kept.append(row)
        read = [attempted for _, attempted in asked if not attempted.is_unread]
        return Result(
            kept=table(kept, DIFFICULTY),
            dropped=table(dropped, DROPPED),
            stats={
                "attempts": attempts * len(asked),
                "prompt_tokens": sum(attempted.prompt_tokens for attempted in read),
                "attempt_tokens": sum(attempted.decoded_tokens for attempted in read),
            },
        )
