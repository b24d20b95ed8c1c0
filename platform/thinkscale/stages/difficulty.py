"""Difficulty on an actor: a model's attempts at a segment of questions, graded.

Owns how attempts run on an engine. What they mean is decided in `curate.difficulty`.
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import Coroutine
from dataclasses import asdict
from typing import Any, TypeVar

import pyarrow as pa

from thinkscale.curate.difficulty import judge
from thinkscale.domain.campaign import Campaign
from thinkscale.domain.engine import Engine
from thinkscale.domain.generation import Request, Sampling, TokenIds
from thinkscale.domain.question import Question
from thinkscale.engines.endpoint import EndpointEngine
from thinkscale.engines.factory import build_engine
from thinkscale.engines.tokenizer import ModelTokenizer
from thinkscale.grading.pool import GradingPool
from thinkscale.grading.verdict import Graded
from thinkscale.runtime.dropping import dropped_row
from thinkscale.runtime.segments import Actors, Result, run_segments, slices
from thinkscale.stages.artifacts import campaign_artifact, fingerprints
from thinkscale.store.artifact import Artifact, Manifest
from thinkscale.store.filesystem import Store
from thinkscale.store.models import local_model
from thinkscale.store.schemas import DIFFICULTY, DROPPED, question_row, questions, table

T = TypeVar("T")


def score_difficulty(campaign: Campaign, store: Store) -> Manifest:
    """`difficulty`: what each model of the cascade failed; a question that one of them solves is dropped.

    Every model but the last writes an artifact of its own, `difficulty-<n>`, that the next one reads.
    """
    source = campaign_artifact(campaign, store, "unique")
    models = campaign.difficulty.models
    manifest = source.require()
    for place, model in enumerate(models, 1):
        output = campaign_artifact(campaign, store, "difficulty" if place == len(models) else f"difficulty-{place}")
        manifest = _attempt(campaign, source, output, model)
        source = output
    return manifest


def engine_actors(campaign: Campaign) -> Actors:
    """The pool of actors that hold an engine each."""
    resources = campaign.resources
    return Actors(
        most=resources.difficulty_actors,
        cpus=resources.cpus_per_replica,
        gpus=resources.gpus_per_replica,
        at_once=2,
    )


class EngineLoop:
    """An engine and the event loop it lives on, in a thread of its own: several threads may have work done there."""

    def __init__(self, campaign: Campaign, reference: str, endpoint: str | None = None) -> None:
        """`endpoint`: base URL of a server that serves `reference`; None: the engine runs in this process."""
        serve = campaign.serve
        directory = local_model(reference)
        self.tokenizer = ModelTokenizer(directory)
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        if endpoint is not None:
            self.engine: Engine = self.run(EndpointEngine.connect(endpoint, reference, directory))
            return
        self.engine = self.run(
            build_engine(
                serve.engine,
                directory,
                dtype=serve.dtype,
                context_tokens=serve.context_tokens,
                max_concurrent_sequences=serve.max_concurrent_sequences,
                tensor_parallel=serve.tensor_parallel,
                gpu_memory_share=serve.gpu_memory_share,
                threads=campaign.resources.threads_per_actor,
            )
        )

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()


class Attempter:
    """In an actor: attempts at questions by one model; dropped are the solved ones, and at last the unread ones."""

    def __init__(self, campaign: Campaign, reference: str, name: str) -> None:
        """`name`: as in `difficulty.models`, for the reason of drops."""
        self._campaign, self._name = campaign, name
        self._is_last = name == campaign.difficulty.models[-1]
        self._engine = EngineLoop(campaign, reference)
        same = reference == campaign.model.base
        self._base_tokenizer = self._engine.tokenizer if same else ModelTokenizer(local_model(campaign.model.base))
        self._grading, self._grader = threading.Lock(), GradingPool()

    def __call__(self, rows: pa.Table) -> Result:
        settings = self._campaign.difficulty
        asked = questions(rows)
        tokenizer, context = self._engine.tokenizer, self._engine.engine.info.context_tokens
        prompts = [tokenizer.prompt_ids(q.question, None, self._campaign.model.system_prompt) for q in asked]
        answers, prompt_tokens, decoded_tokens = self._engine.run(self._attempt_all(asked, prompts))
        items = [
            Graded(kind=q.kind, reference=q.answer, response=text, options=q.options)
            for q, texts in zip(asked, answers, strict=True)
            for text in texts
        ]
        with self._grading:  # the pool serves one thread at a time
            verdicts = self._grader.grade_all(items)
        kept, dropped = [], []
        for i, (question, texts) in enumerate(zip(asked, answers, strict=True)):
            attempts = judge(verdicts[i * settings.attempts : (i + 1) * settings.attempts], settings.solved_pass_rate)
            row = {
                **question_row(question),
                "attempts": settings.attempts,
                "pass_rate": attempts.pass_rate,
                "trace_tokens": self._trace_tokens(question, texts),
                "attempt_answers": texts,
            }
            if attempts.solved:
                detail = {"pass_rate": attempts.pass_rate, "attempts": settings.attempts}
                dropped.append(dropped_row("difficulty", question.id, f"solved_by:{self._name}", detail, row))
            elif self._is_last and len(prompts[i]) >= context:  # not hard: nobody could even read it
                detail = {"prompt_tokens": len(prompts[i]), "context_tokens": context}
                dropped.append(dropped_row("difficulty", question.id, "prompt_too_long", detail, row))
            else:
                kept.append(row)
        return Result(
            kept=table(kept, DIFFICULTY),
            dropped=table(dropped, DROPPED),
            stats={"attempts": len(items), "prompt_tokens": prompt_tokens, "attempt_tokens": decoded_tokens},
            extra={"engine": asdict(self._engine.engine.info)},
        )

    async def _attempt_all(self, asked: list[Question], prompts: list[TokenIds]) -> tuple[list[list[str]], int, int]:
        """The answers to each question, and the tokens of all prompts and of all answers."""
        count = self._campaign.difficulty.attempts
        made = await asyncio.gather(
            *(self._attempt(q, prompt, n) for q, prompt in zip(asked, prompts, strict=True) for n in range(count))
        )
        texts = [text for text, _, _ in made]
        answers = [texts[i * count : (i + 1) * count] for i in range(len(asked))]
        return answers, sum(prompt for _, prompt, _ in made), sum(decoded for _, _, decoded in made)

    async def _attempt(self, question: Question, prompt: TokenIds, number: int) -> tuple[str, int, int]:
        """One answer, its prompt's and its own tokens; empty and a failed attempt where the prompt leaves no room."""
        engine, tokenizer, settings = self._engine.engine, self._engine.tokenizer, self._campaign.difficulty
        room = min(settings.max_tokens, engine.info.context_tokens - len(prompt))
        if room < 1:
            return "", 0, 0
        digest = hashlib.sha256(f"{self._campaign.seed}/{question.id}/{number}".encode()).digest()
        sampling = Sampling(temperature=settings.temperature, seed=int.from_bytes(digest[:4], "big") >> 1)
        completion = await engine.generate(Request(prompt_ids=prompt, max_tokens=room, sampling=sampling))
        return tokenizer.decode(completion.ids), len(prompt), len(completion.ids) + len(completion.stop_ids)

    def _trace_tokens(self, question: Question, attempts: list[str]) -> int:
        if question.solution:
            return len(self._base_tokenizer.encode(question.solution))
        return max(len(self._base_tokenizer.encode(text)) for text in attempts)


def _attempt(campaign: Campaign, source: Artifact, output: Artifact, model: str) -> Manifest:
    reference = campaign.model.base if model == "base" else model
    settings = campaign.difficulty
    done = output.begin(
        {
            "model": reference,
            "difficulty": settings.model_dump(exclude={"models"}),
            "serve": campaign.serve.model_dump(include={"dtype", "context_tokens"}),
            "base": campaign.model.base,
            "seed": campaign.seed,
        },
        fingerprints(questions=source),
    )
    if (manifest := output.manifest()) is not None:
        return manifest
    segments = slices(source, settings.segment_rows)
    run_segments(
        "difficulty",
        output,
        segments,
        done,
        transform=Attempter,
        arguments=(campaign, reference, model),
        actors=engine_actors(campaign),
    )
    return output.commit(DIFFICULTY, expected_segments={segment.key for segment in segments})
