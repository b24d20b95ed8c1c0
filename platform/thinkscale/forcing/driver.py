"""Running thinking programs on an engine, and telling their tokens as they come.
Owns which tokens of a forced generation are thinking, which are the answer, and which were forced. A budget is forced
by the automaton inside the engine where there is one, else by continuation. Knows no text and no protocol."""

import asyncio
from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

from thinkscale.domain.generation import Completion, Engine, Sampling, TokenIds
from thinkscale.domain.sample import Budget, Thought
from thinkscale.forcing.ending import Match
from thinkscale.forcing.formats import ForcingIds
from thinkscale.forcing.program import Fork, Generate, Part, Program, think, thinking_cap


@dataclass(frozen=True, slots=True)
class Told:
    """Tokens that came. Tokens of a delimiter are never told."""

    part: Part
    ids: TokenIds
    forced: bool = False  # whether a Wait put them there; known in the continuation form only


Tell = Callable[[Told], None]


async def force(
    engine: Engine,
    prompt_ids: TokenIds,
    budget: Budget,
    ids: ForcingIds,
    *,
    sampling: Sampling,
    tell: Tell | None = None,
    in_engine: bool = True,
) -> Thought:
    """Think about one prompt under one budget, wherever that is forced: in an engine that has a `force` as
    `engines.vllm` has it. `in_engine`: without it the continuation form in any case, which tells forced tokens apart.
    Raises EngineError and ValueError as the engine does."""
    context = engine.info.context_tokens
    in_one_request: Any = getattr(engine, "force", None)
    thought: Thought
    if in_engine and ids.fits_engine and in_one_request is not None:
        cap = thinking_cap(len(prompt_ids), budget, ids, context)
        on_tokens = None if tell is None else _Split(ids, cap, tell)
        thought = await in_one_request(prompt_ids, budget, ids, sampling=sampling, on_tokens=on_tokens)
        return thought
    if sampling.penalises_generated:
        raise ValueError(
            "presence and frequency penalties need forcing inside the engine: vllm, and thinking that opens and ends "
            "at one token"
        )
    program = think(prompt_ids, budget, ids, context_tokens=context, sampling=sampling)
    thought = await run(engine, program, tell)
    return thought


class _Split:
    """Tells the tokens of a generation that was forced inside an engine by their parts."""

    def __init__(self, ids: ForcingIds, cap: int, tell: Tell) -> None:
        self._end, self._close = ids.end[0], len(ids.close)
        self._left, self._tell = cap, tell
        self._closing = -1  # tokens of the delimiter that are still to come; -1 while thinking

    def __call__(self, come: TokenIds) -> None:
        parts: dict[Part, list[int]] = {"thinking": [], "answer": []}
        for token in come:
            if self._closing == 0:
                parts["answer"].append(token)
            elif self._closing > 0:
                self._closing -= 1
            elif token == self._end:
                self._closing = self._close - 1
            elif self._left > 0:  # at the cap a newline may come before the delimiter: no thinking
                self._left -= 1
                parts["thinking"].append(token)
        for part, ids in parts.items():
            if ids:
                self._tell(Told(part, tuple(ids)))


async def run(engine: Engine, program: Program, tell: Tell | None = None) -> Any:
    """Run a program to its end, its forks beside it; returns what it returns. Requests of a program's forks are under
    way together; only the program's own are told of. The first error ends all of them and is raised."""
    try:
        return await _run(engine, program, tell)
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from None


async def _run(engine: Engine, program: Program, tell: Tell | None) -> Any:
    forks: dict[Hashable, asyncio.Task[Any]] = {}
    async with asyncio.TaskGroup() as group:

        def start(fork: Fork) -> None:
            if fork.key not in forks:
                forks[fork.key] = group.create_task(run(engine, fork.program))

        reply: Any = None
        while True:
            try:
                step = program.send(reply)
            except StopIteration as stop:
                return stop.value
            match step:
                case Fork():
                    start(step)
                    reply = None
                case Generate():
                    reply = await _generate(engine, step, start, tell)
                case _:
                    reply = {key: await task for key, task in forks.items()}


async def _generate(engine: Engine, step: Generate, start: Callable[[Fork], None], tell: Tell | None) -> Completion:
    come: list[int] = []
    waiting = deque(sorted(step.marks))
    held = None if tell is None else _Held(step, tell)

    def on_tokens(tokens: TokenIds) -> None:
        come.extend(tokens)
        if held is not None:
            held.push(tokens)
        while waiting and waiting[0] <= len(come):
            mark = waiting.popleft()
            start(step.marks[mark](tuple(come[:mark])))

    completion = await engine.generate(step.request, on_tokens if step.marks or held else None)
    if held is not None:
        held.tell_to(completion.ids, len(completion.ids))
    return completion


class _Held:
    """Tells tokens of one request late enough that the beginning of a stop is never told."""

    def __init__(self, step: Generate, tell: Tell) -> None:
        for part, forced in step.forced:
            tell(Told(part, forced, forced=True))
        self._hold = max((len(stop) - 1 for stop in step.request.stops), default=0)
        self._match = None if step.request.stop_text is None else Match(step.request.stop_text)
        self._part, self._tell = step.part, tell
        self._come: TokenIds = ()
        self._told = 0

    def push(self, tokens: TokenIds) -> None:
        self._come += tokens
        safe = len(self._come) - self._hold
        if self._match is not None:
            for token in tokens:
                self._match.push(token)
            safe = self._match.first
        self.tell_to(self._come, safe)

    def tell_to(self, ids: TokenIds, position: int) -> None:
        if position > self._told:
            self._tell(Told(self._part, ids[self._told : position]))
            self._told = position
