"""Evaluating models on benchmarks over a grid of budgets, through Serve replicas, resumably.

Reads benchmarks, streams questions to the replicas, grades what comes back, and commits it in segments.
Knows nothing of engines beyond the interface and nothing of how a program thinks.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from thinkscale.cluster.metering import Meter
from thinkscale.cluster.progress import Progress
from thinkscale.cluster.serving import start_replicas, stop_replicas
from thinkscale.domain.budget import Budget
from thinkscale.domain.campaign import Campaign
from thinkscale.domain.generation import Sampling
from thinkscale.domain.question import Question
from thinkscale.domain.sample import Thought
from thinkscale.engines.base import Engine, EngineError
from thinkscale.engines.driver import run
from thinkscale.engines.tokenizer import ModelTokenizer
from thinkscale.store.artifact import Artifact, Manifest
from thinkscale.store.filesystem import Store
from thinkscale.store.samples import SampleSet
from thinkscale.store.schemas import SAMPLES, questions, table
from thinkscale.thinking.formats import forcing_ids, resolve_format
from thinkscale.thinking.grading import Graded, GradingPool
from thinkscale.thinking.sweep import Cell, SweepResult, curve_cells, sweep

log = logging.getLogger(__name__)

ITEM_ATTEMPTS = 5
"""Times that one item is tried on replicas that die under it."""


@dataclass(frozen=True, kw_only=True)
class Item:
    """One sample of one question, over the whole grid."""

    segment: str
    question: Question
    sample: int
    seed: int


@dataclass(kw_only=True)
class _Segment:
    """Rows of one segment that came so far."""

    missing: int
    rows: list[dict[str, Any]] = field(default_factory=list)
    decoded_tokens: int = 0
    separate_tokens: int = 0


def evaluate(campaign: Campaign, store: Store) -> list[Manifest]:
    """Evaluate every model of the campaign on every benchmark; returns the manifests of the samples."""
    manifests = []
    for model in campaign.evaluate.models:
        reference, model_input = _model_reference(campaign, store, model)
        waiting = []
        for benchmark in campaign.evaluate.benchmarks:
            source = Artifact(store, f"{campaign.name}/benchmarks/{benchmark.name}")
            output = SampleSet(store=store, campaign=campaign.name, model=model, benchmark=benchmark.name).artifact
            done = output.begin(
                {
                    "model": campaign.model.model_dump(),
                    "evaluate": campaign.evaluate.model_dump(exclude={"benchmarks", "models", "segment_questions"}),
                    "segment_questions": campaign.evaluate.segment_questions,
                    "seed": campaign.seed,
                    "serve": campaign.serve.model_dump(include={"dtype", "context_tokens"}),
                },
                {"benchmark": source.require().fingerprint, "model": model_input},
            )
            if (manifest := output.manifest()) is not None:
                manifests.append(manifest)
            else:
                waiting.append((benchmark.name, source, output, done))
        if waiting:
            manifests += asyncio.run(_evaluate_model(campaign, model, reference, waiting))
    return manifests


async def _evaluate_model(
    campaign: Campaign, model: str, reference: str, waiting: Sequence[tuple[str, Artifact, Artifact, set[str]]]
) -> list[Manifest]:
    meter = Meter(
        workers=campaign.resources.replicas,
        cpus_each=campaign.resources.cpus_per_replica,
        gpus_each=campaign.resources.gpus_per_replica,
    )
    name = f"{campaign.name}-{model}"
    Progress(f"eval {model}", 0, "samples").note(f"starting {campaign.resources.replicas} replica(s) of {reference}")
    handle = await asyncio.to_thread(start_replicas, campaign, reference, name)
    try:
        info = await handle.info.remote()
        meter.started()
        return [await _evaluate_benchmark(campaign, model, handle, meter, info, *benchmark) for benchmark in waiting]
    finally:
        await asyncio.to_thread(stop_replicas, name)


async def _evaluate_benchmark(
    campaign: Campaign,
    model: str,
    handle: Any,
    meter: Meter,
    info: dict[str, Any],
    benchmark: str,
    source: Artifact,
    output: Artifact,
    done: set[str],
) -> Manifest:
    rows = questions(source.read())
    keys = _segment_keys(campaign, rows)
    items = [item for item in _items(campaign, rows) if item.segment not in done]
    segments = {key: _Segment(missing=0) for key in keys if key not in done}
    for item in items:
        segments[item.segment].missing += 1
    total = len(rows) * campaign.evaluate.samples
    progress = Progress(f"eval {model}", total, "samples", done=total - len(items))
    queue = iter(items)

    async def work() -> None:
        for item in queue:
            meter.change(+1)
            try:
                result = await _on_a_replica(handle, campaign, item, model, benchmark)
            finally:
                meter.change(-1)
            segment = segments[item.segment]
            segment.rows += result["rows"]
            segment.decoded_tokens += result["decoded_tokens"]
            segment.separate_tokens += result["separate_tokens"]
            segment.missing -= 1
            if segment.missing == 0:
                await asyncio.to_thread(_grade_and_commit, output, item.segment, segment, by_id, pool, meter, info)
                progress.advance(len({(row["question_id"], row["sample"]) for row in segment.rows}))
                segment.rows.clear()
        meter.draining()

    by_id = {question.id: question for question in rows}
    at_once = campaign.resources.replicas * campaign.serve.max_concurrent_sequences
    with GradingPool() as pool:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(at_once, len(items))):
                group.create_task(work())
    return output.commit(
        SAMPLES, extra={"model": model, "benchmark": benchmark, "engine": info}, expected_segments=keys
    )


def _segment_keys(campaign: Campaign, rows: Sequence[Question]) -> set[str]:
    return {f"{start:07d}" for start in range(0, len(rows), campaign.evaluate.segment_questions)}


def _items(campaign: Campaign, rows: Sequence[Question]) -> Iterator[Item]:
    size = campaign.evaluate.segment_questions
    for index, question in enumerate(rows):
        for sample in range(campaign.evaluate.samples):
            digest = hashlib.sha256(f"{campaign.seed}/{question.id}/{sample}".encode()).digest()
            yield Item(
                segment=f"{index // size * size:07d}",
                question=question,
                sample=sample,
                seed=int.from_bytes(digest[:4], "big") >> 1,
            )


async def _on_a_replica(handle: Any, campaign: Campaign, item: Item, model: str, benchmark: str) -> dict[str, Any]:
    """The item's rows; rows with status `failed` where the engine fails on it again and again.

    Raises what a replica died of where no replica stays up: the campaign resumes once that is mended.
    """
    for attempt in range(1, ITEM_ATTEMPTS + 1):
        try:
            return dict(await handle.call.remote(sample_question, campaign, item, model, benchmark))
        except Exception as error:
            # What was under way on a dead replica or engine fails; the same item, with the same seed, goes
            # to another one. A bad question is answered by sample_question itself, not by an exception.
            log.warning("%s, sample %d failed (try %d): %s", item.question.id, item.sample, attempt, error)
            if attempt == ITEM_ATTEMPTS:
                if isinstance(error, EngineError):
                    return _failed(campaign, item, model, benchmark, str(error))
                raise
            await asyncio.sleep(2**attempt * (0.5 + random.random()))
    raise AssertionError("unreachable")


async def sample_question(
    engine: Engine, tokenizer: ModelTokenizer, campaign: Campaign, item: Item, model: str, benchmark: str
) -> dict[str, Any]:
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
        sampling = Sampling(temperature=campaign.evaluate.temperature, seed=item.seed)
        program = sweep(prompt, cells, budget, ids, context_tokens=engine.info.context_tokens, sampling=sampling)
        result: SweepResult = await run(engine, program)
    except ValueError as error:  # the question itself is impossible; engine errors go back to the caller
        return _failed(campaign, item, model, benchmark, str(error))
    rows = [
        {
            **_row_key(item, cell, model, benchmark),
            "status": "ok",
            **_thought_columns(thought, tokenizer, keep_ids=campaign.evaluate.keep_token_ids),
        }
        for cell, thought in result.thoughts.items()
    ]
    return {"rows": rows, "decoded_tokens": result.decoded_tokens, "separate_tokens": result.separate_tokens}


def _row_key(item: Item, cell: Cell, model: str, benchmark: str) -> dict[str, Any]:
    return {
        "sample_id": f"{item.question.id}/{item.sample}/{cell.cap}/{cell.waits}",
        "question_id": item.question.id,
        "model": model,
        "benchmark": benchmark,
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


def _failed(campaign: Campaign, item: Item, model: str, benchmark: str, error: str) -> dict[str, Any]:
    budgets = campaign.evaluate.budgets
    rows = [
        {**_row_key(item, cell, model, benchmark), "status": "failed", "error": error}
        for cell in curve_cells(budgets.caps, budgets.waits)
    ]
    return {"rows": rows, "decoded_tokens": 0, "separate_tokens": 0}


def _grade_and_commit(
    output: Artifact,
    key: str,
    segment: _Segment,
    by_id: dict[str, Question],
    pool: GradingPool,
    meter: Meter,
    info: dict[str, Any],
) -> None:
    answered = [row for row in segment.rows if row["status"] == "ok"]
    for row, verdict in zip(answered, pool.grade_all(_graded(row, by_id) for row in answered), strict=True):
        row |= asdict(verdict)
    segment.rows.sort(key=lambda row: (row["question_id"], row["sample"], row["max_thinking_tokens"], row["num_waits"]))
    stats = {
        **meter.take(),
        "decoded_tokens": segment.decoded_tokens,
        "separate_tokens": segment.separate_tokens,
        "failed": sum(row["status"] == "failed" for row in segment.rows),
    }
    output.commit_segment(key, table(segment.rows, SAMPLES), stats=stats)


def _graded(row: dict[str, Any], by_id: dict[str, Question]) -> Graded:
    question = by_id[row["question_id"]]
    return Graded(kind=question.kind, reference=question.answer, response=row["answer"], options=question.options)


def _model_reference(campaign: Campaign, store: Store, model: str) -> tuple[str, str]:
    """Where the model lies, and what identifies it as an input."""
    if model == "base":
        return campaign.model.base, campaign.model.base
    artifact = Artifact(store, f"{campaign.name}/model")
    return f"{artifact.url}/export", artifact.require().fingerprint
