"""Rows in, each put to an engine, what comes back collected into committed segments: difficulty, domains, distillation
and evaluation are each an `Asks` on it. Two kinds of engines stand below: actors of Ray Data, which take whole
segments, and replicas of Ray Serve, which take rows. What is asked next, again, or given up is the same on both
(`asking`)."""

import asyncio
import heapq
import math
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import count
from typing import Any, Protocol

import pyarrow as pa
from ray.exceptions import RayActorError
from ray.serve.exceptions import RayServeException

import ray
from thinkscale.domain.generation import Engine, EngineDiedError, EngineError, EngineInfo, Sampling
from thinkscale.domain.models import Judge, Teacher
from thinkscale.domain.sample import Budget, Thought, Verdict
from thinkscale.engines.tokenizer import ModelTokenizer
from thinkscale.forcing.driver import run
from thinkscale.forcing.formats import forcing_ids, resolve_format
from thinkscale.forcing.program import think
from thinkscale.grading.pool import GradingPool
from thinkscale.grading.verdict import Graded
from thinkscale.runtime import ending, metrics
from thinkscale.runtime.asking import Asking, Failed
from thinkscale.runtime.engines import EngineLoop, EngineSettings, check_same_engine
from thinkscale.runtime.meter import Meter
from thinkscale.runtime.progress import Progress
from thinkscale.runtime.segments import Actors, Result, run_segments
from thinkscale.store.artifact import Artifact
from thinkscale.store.stage import Segment, Stage

Rows = Callable[[pa.Table], list[Any]]
GradeAll = Callable[[Sequence[Graded]], list[Verdict]]


class Asks(Protocol):
    """What a stage asks about each row, and what it makes of the answers. Picklable."""

    def key(self, row: Any) -> str:
        """Names a row over the whole stage."""

    def expected(self, row: Any) -> float:
        """Tokens that an answer will take, about: the longest go first."""

    async def ask(self, engine: Any, tokenizer: Any, row: Any) -> Any:
        """Beside the engine: the answer to one row. Raises ValueError where the row is impossible."""

    def collect(self, rows: Sequence[Any], answers: Sequence[Any], grade_all: GradeAll) -> Result:
        """A segment's rows to what is kept and dropped; an answer is what `ask` gave, or Failed."""


def answered(rows: Sequence[Any], answers: Sequence[Any]) -> tuple[list[tuple[Any, Any]], list[tuple[Any, Failed]]]:
    """Rows with their answers, and those without one."""
    pairs = list(zip(rows, answers, strict=True))
    return [p for p in pairs if not isinstance(p[1], Failed)], [p for p in pairs if isinstance(p[1], Failed)]


async def thought(engine: Engine, tokenizer: ModelTokenizer, text: str, thinker: Teacher | Judge, seed: int) -> Thought:
    """What a model thinks of a text and answers to it, as its settings ask it to."""
    thinking_format = resolve_format(thinker, tokenizer)
    budget = Budget(max_thinking_tokens=thinker.max_thinking_tokens, max_answer_tokens=thinker.max_answer_tokens)
    ids, context = forcing_ids(tokenizer, thinking_format, budget), engine.info.context_tokens
    prompt = tokenizer.prompt_ids(text, thinking_format, thinker.system_prompt)
    sampling = Sampling(temperature=thinker.temperature, top_p=thinker.top_p, seed=seed)
    found: Thought = await run(engine, think(prompt, budget, ids, context_tokens=context, sampling=sampling))
    return found


def run_asks(
    name: str, stage: Stage, asks: Asks, settings: EngineSettings, actors: Actors, rows: Rows = pa.Table.to_pylist
) -> None:
    """Ask about the rows of every segment that is not committed, on a pool of Ray Data's actors. `actors`: how many
    there may be, of which size; each holds one engine, kept full by several segments. Raises EngineError: no engine can
    be built, or so much fails that it is at fault; MixedEnginesError: committed segments are of another engine."""
    if not stage.pending:
        return
    room = settings.room
    longest = max(segment.rows for segment in stage.pending)
    witness = ray.remote(Witness).options(num_cpus=0, max_restarts=-1, max_task_retries=-1).remote()
    before = None if settings.serve.mixed_engines else stage.engine()
    run_segments(
        name,
        stage,
        transform=_AskingActor,
        arguments=(asks, rows, settings, before, stage.output.url, witness),
        actors=replace(actors, at_once=min(len(stage.pending), 1 + math.ceil(room / longest))),
    )


class Witness:
    """An actor that outlives the others: what they had under way when their process died."""

    def __init__(self) -> None:
        self._under_way: defaultdict[str, dict[str, bool]] = defaultdict(dict)
        self._deaths: Counter[str] = Counter()

    def tell(self, actor: str, key: str, what: str) -> None:
        if what == "ended":
            self._under_way[actor].pop(key, None)
        else:
            self._under_way[actor][key] = what == "alone"

    def left_by(self, actor: str) -> dict[str, int]:
        """What an earlier process of this actor died under, by key, and how often alone."""
        left = self._under_way.pop(actor, {})
        self._deaths.update({key: int(was_alone) for key, was_alone in left.items()})
        return {key: self._deaths[key] for key in left}


class _AskingActor:
    def __init__(
        self, asks: Asks, rows: Rows, settings: EngineSettings, before: dict[str, Any] | None, where: str, witness: Any
    ) -> None:
        actor = ray.get_runtime_context().get_actor_id()
        deaths: dict[str, int] = ray.get(witness.left_by.remote(actor))
        self._asks, self._rows, self._pool = asks, rows, GradingPool()
        self._engines = EngineLoop(settings)
        check_same_engine(before, self._engines.info, where)
        self._asking = Asking(
            self._put,
            room=settings.room,
            # A question cannot kill a server elsewhere: there is nothing to witness.
            witness=lambda key, what: None if settings.teacher else witness.tell.remote(actor, key, what),
            deaths=deaths,
        )

    def __call__(self, table: pa.Table) -> Result:
        rows = self._rows(table)
        answers = self._engines.run(self._answers(rows))
        self._asking.check(answers)
        result = self._asks.collect(rows, answers, self._pool.grade_all)
        failed = sum(isinstance(answer, Failed) for answer in answers)
        stats = {"failed": failed, **result.stats, **self._asking.take_lost()}
        return replace(result, stats=stats, extra={**result.extra, "engine": asdict(self._engines.info)})

    async def _answers(self, rows: Sequence[Any]) -> list[Any]:
        asks = self._asks
        work = (self._asking.ask(row, asks.key(row), expected=asks.expected(row)) for row in rows)
        return list(await asyncio.gather(*work))

    async def _put(self, row: Any) -> Any:
        engine = await self._engines.engine()
        try:
            return await self._asks.ask(engine, self._engines.tokenizer, row)
        except EngineError as error:
            self._engines.note(engine, error)
            raise


class Rounds(Protocol):
    """Segments that are asked about round by round; a segment's work is the list of its rows."""

    label: str
    asks: Asks
    output: Artifact
    resumed: int  # rows of earlier runs

    def more(self) -> list[Segment]:
        """The next round's segments; called at first, and once all of the last round's are committed."""


class ReplicaAsks:
    """Asks about all rounds of several works on one model's replicas, and commits each segment once it is whole.
    One queue for all works: segments by the longest row that they are expected to hold, so that it ends short."""

    def __init__(self, handle: Any, info: EngineInfo, *, room: int, meter: Meter, progress: Progress) -> None:
        """`handle`: as `replicas.start_replicas` gives it. `info`: of its engines. `room`: rows that all replicas take
        at once."""
        self._handle, self._engine = handle, asdict(info)
        self._room, self._meter, self._progress = room, meter, progress
        self._queue: list[tuple[float, int, Rounds, Segment]] = []
        self._numbers = count()
        self._open_rows = 0  # rows of begun segments that have no answer yet
        self._left: Counter[str] = Counter()  # segments of the round that are not committed, by work
        self._asking = Asking(self._put, room=room, changed=self._changed)
        self._lost = set[Any]()  # replicas that died

    async def run(self, works: Sequence[Rounds]) -> None:
        """Ask until no work has more. Raises the reason where the run is wound up before that, EngineError where no
        replica stays up, or so much fails that the engine is at fault."""
        with GradingPool() as self._pool:
            for work in works:
                await self._queue_more(work)
            async with asyncio.TaskGroup() as self._group:
                self._open()
        if self._queue and ending.winding_up is not None:
            raise ending.winding_up

    async def _queue_more(self, work: Rounds) -> None:
        segments = await asyncio.to_thread(work.more)
        for segment in segments:
            expected = max(map(work.asks.expected, segment.work))
            heapq.heappush(self._queue, (-expected, next(self._numbers), work, segment))
        self._left[work.label] = len(segments)
        if work.resumed:
            self._progress.note(f"{work.label}: {work.resumed:,} samples already done, resuming")
        if segments:
            self._progress.extend(sum(segment.rows for segment in segments))

    def _open(self) -> None:
        while ending.winding_up is None and self._queue and self._open_rows < self._room:
            _, _, work, segment = heapq.heappop(self._queue)
            self._open_rows += len(segment.work)
            self._group.create_task(self._ask_segment(work, segment))

    async def _ask_segment(self, work: Rounds, segment: Segment) -> None:
        def ask(row: Any) -> Awaitable[Any]:
            key = f"{work.label}/{work.asks.key(row)}"
            return self._asking.ask((work, row), key, expected=work.asks.expected(row))

        try:
            answers = await asyncio.gather(*map(ask, segment.work))
            self._asking.check(answers)
            spent = self._meter.take(work.label)
            await asyncio.to_thread(self._commit, work, segment, answers, spent)
        except BaseException:
            self._queue.clear()  # what ends now opens nothing more
            raise
        self._progress.advance(segment.rows)
        self._left[work.label] -= 1
        if not self._left[work.label]:
            await self._queue_more(work)
        self._open()

    def _commit(self, work: Rounds, segment: Segment, answers: Sequence[Any], spent: Mapping[str, float]) -> None:
        result = work.asks.collect(segment.work, answers, self._pool.grade_all)
        stats = {**spent, **result.stats, **self._asking.take_lost()}
        extra = {**result.extra, "engine": self._engine}
        work.output.commit_segment(segment.key, result.kept, dropped=result.dropped, stats=stats, extra=extra)
        metrics.count(stats)

    def _changed(self, row: tuple[Rounds, Any], by: int, draining: bool) -> None:
        self._meter.change(row[0].label, by)
        if by < 0:
            self._open_rows -= 1
            self._open()
        self._meter.draining(draining and not self._queue)

    async def _put(self, row: tuple[Rounds, Any]) -> Any:
        try:
            return await self._handle.call.remote(row[0].asks.ask, row[1])
        except RayActorError as error:  # the replica's process has died, its engine with it
            if error.actor_id not in self._lost:
                self._lost.add(error.actor_id)
                metrics.count({"lost_workers": 1})
            raise EngineDiedError(str(error)) from error
        except RayServeException as error:
            raise EngineError(f"no replica can be reached: {error}") from error
