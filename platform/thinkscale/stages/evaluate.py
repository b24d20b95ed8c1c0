"""Evaluating models on benchmarks over a grid of budgets, through Serve replicas, resumably.

Streams the questions of all benchmarks to the replicas of a model, the longest expected ones first, and commits
what comes back segment by segment. Knows nothing of engines beyond the interface and nothing of how a program thinks.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import random
from collections.abc import Iterator, Sequence
from itertools import count
from typing import Any

from thinkscale.domain.campaign import Campaign
from thinkscale.domain.engine import EngineError
from thinkscale.grading.pool import GradingPool
from thinkscale.runtime.meter import Meter
from thinkscale.runtime.progress import Progress
from thinkscale.runtime.replicas import replicas_held, start_replicas, stop_replicas
from thinkscale.stages.rounds import BenchmarkRun, Segment, longest_thinking
from thinkscale.stages.sampling import Item, failed, sample_question
from thinkscale.store.artifact import Artifact, Manifest
from thinkscale.store.filesystem import Store
from thinkscale.store.samples import SampleSet

log = logging.getLogger(__name__)

ITEM_ATTEMPTS = 5
"""Times that one item is tried on replicas that die under it."""

WATCH_EVERY_S = 5.0


def evaluate(campaign: Campaign, store: Store) -> list[Manifest]:
    """Evaluate every model of the campaign on every benchmark; returns the manifests of the samples."""
    manifests = []
    for model in campaign.evaluate.models:
        reference, model_input = _model_reference(campaign, store, model)
        runs = []
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
                continue
            known = _known_tokens(campaign, store, benchmark.name)
            runs.append(
                BenchmarkRun(campaign.evaluate, campaign.seed, model, benchmark.name, source, output, done, known)
            )
        if runs:
            manifests += asyncio.run(_evaluate_model(campaign, model, reference, runs))
    return manifests


async def _evaluate_model(
    campaign: Campaign, model: str, reference: str, runs: Sequence[BenchmarkRun]
) -> list[Manifest]:
    meter = Meter(
        workers=campaign.resources.replicas,
        cpus_each=campaign.resources.cpus_per_replica,
        gpus_each=campaign.resources.gpus_per_replica,
    )
    name = f"{campaign.name}-{model}"
    progress = Progress(f"eval {model}", 0, "samples")
    progress.note(f"starting {campaign.resources.replicas} replica(s) of {reference}")
    handle = await asyncio.to_thread(start_replicas, campaign, reference, name)
    watch = asyncio.create_task(_watch(name, meter))
    try:
        info = dict(await handle.info.remote())
        meter.started()
        with GradingPool() as pool:
            await _Evaluation(campaign, handle, meter, pool, runs, progress).finish()
        return [run.commit(info) for run in runs]
    finally:
        watch.cancel()
        await asyncio.to_thread(stop_replicas, name)


async def _watch(name: str, meter: Meter) -> None:
    """Replicas are let go as the queue drains: what is metered is those that are held."""
    while True:
        await asyncio.sleep(WATCH_EVERY_S)
        meter.hold(await asyncio.to_thread(replicas_held, name))


class _Evaluation:
    """The items of all benchmarks of one model, as many under way as the replicas take.

    Segments go by the longest item that they are expected to hold, and so do the items of each: the queue ends
    with short ones, and what is under way stays within few segments.
    """

    def __init__(
        self,
        campaign: Campaign,
        handle: Any,
        meter: Meter,
        pool: GradingPool,
        runs: Sequence[BenchmarkRun],
        progress: Progress,
    ) -> None:
        self._campaign, self._handle, self._meter, self._pool = campaign, handle, meter, pool
        self._runs, self._progress = runs, progress
        self._queue: list[tuple[float, int, BenchmarkRun, Segment]] = []
        self._numbers = count()
        self._items = self._next_items()
        self._free = campaign.resources.replicas * campaign.serve.max_concurrent_sequences

    async def finish(self) -> None:
        """Sample until every benchmark has enough."""
        for run in self._runs:
            await self._queue_more(run)
        async with asyncio.TaskGroup() as group:
            self._fill(group)

    async def _queue_more(self, run: BenchmarkRun) -> None:
        segments = await asyncio.to_thread(run.more)
        for segment in segments:
            heapq.heappush(self._queue, (-segment.expected_tokens, next(self._numbers), run, segment))
        if run.resumed:
            self._progress.note(f"{run.label}: {run.resumed:,} samples already done, resuming")
        if segments:
            self._progress.extend(sum(segment.missing for segment in segments))

    def _next_items(self) -> Iterator[tuple[BenchmarkRun, Segment, Item]]:
        while self._queue:
            _, _, run, segment = heapq.heappop(self._queue)
            for item in segment.items:
                yield run, segment, item

    def _fill(self, group: asyncio.TaskGroup) -> None:
        """Put items under way while there is room."""
        while self._free:
            found = next(self._items, None)
            if found is None:
                self._items = self._next_items()  # a later round may bring more
                found = next(self._items, None)
            if found is None:
                break
            self._free -= 1
            group.create_task(self._work(group, *found))
        self._meter.draining(self._free > 0)

    async def _work(self, group: asyncio.TaskGroup, run: BenchmarkRun, segment: Segment, item: Item) -> None:
        self._meter.change(run.label, +1)
        try:
            result = await _on_a_replica(self._handle, self._campaign, item)
        finally:
            self._meter.change(run.label, -1)
        self._free += 1
        whole = segment.add(result)
        self._fill(group)
        if whole:
            await asyncio.to_thread(run.commit_segment, segment, self._pool, self._meter.take(run.label))
            self._progress.advance(len(segment.items))
            segment.rows.clear()
            if run.close_segment():
                await self._queue_more(run)
                self._fill(group)


async def _on_a_replica(handle: Any, campaign: Campaign, item: Item) -> dict[str, Any]:
    """The item's rows; rows with status `failed` where the engine fails on it again and again.

    Raises what a replica died of where no replica stays up: the campaign resumes once that is mended.
    """
    for attempt in range(1, ITEM_ATTEMPTS + 1):
        try:
            return dict(await handle.call.remote(sample_question, campaign, item))
        except Exception as error:
            # What was under way on a dead replica or engine fails; the same item, with the same seed, goes
            # to another one. A bad question is answered by sample_question itself, not by an exception.
            log.warning("%s, sample %d failed (try %d): %s", item.question.id, item.sample, attempt, error)
            if attempt == ITEM_ATTEMPTS:
                if isinstance(error, EngineError):
                    return failed(campaign, item, str(error))
                raise
            await asyncio.sleep(2**attempt * (0.5 + random.random()))
    raise AssertionError("unreachable")


def _known_tokens(campaign: Campaign, store: Store, benchmark: str) -> dict[str, float]:
    """Thinking tokens that models evaluated before took for each question."""
    sets = [
        SampleSet(store=store, campaign=campaign.name, model=model, benchmark=benchmark)
        for model in campaign.evaluate.models
    ]
    columns = ["question_id", "thinking_tokens"]
    return longest_thinking(part for one in sets if one.is_complete for part in one.iter_tables(columns))


def _model_reference(campaign: Campaign, store: Store, model: str) -> tuple[str, str]:
    """Where the model lies, and what identifies it as an input."""
    if model == "base":
        return campaign.model.base, campaign.model.base
    artifact = Artifact(store, f"{campaign.name}/model")
    return f"{artifact.url}/export", artifact.require().fingerprint
