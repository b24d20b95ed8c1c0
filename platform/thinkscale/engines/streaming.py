"""Thinking under a budget, told token by token while it runs.

Owns which tokens of a forced generation are thinking, which are the answer, and which were forced. Runs the
automaton inside the engine where there is one, else the continuation form. Knows no text and no protocol.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from thinkscale.domain.budget import Budget
from thinkscale.domain.engine import Engine, OnTokens
from thinkscale.domain.generation import Sampling, TokenIds
from thinkscale.domain.sample import Thought
from thinkscale.forcing.ending import Match
from thinkscale.forcing.formats import ForcingIds
from thinkscale.forcing.program import Ask, Part, Program, thinking_room
from thinkscale.forcing.program import think as thinking_program


@dataclass(frozen=True, slots=True)
class Told:
    """Tokens that came. Tokens of a delimiter are never told."""

    part: Part
    ids: TokenIds
    forced: bool = False
    """Whether a Wait put them there; known in the continuation form only."""


Tell = Callable[[Told], None]


@runtime_checkable
class ForcingEngine(Protocol):
    """An engine that runs budget forcing inside."""

    async def force(
        self,
        prompt_ids: TokenIds,
        budget: Budget,
        ids: ForcingIds,
        *,
        sampling: Sampling,
        on_tokens: OnTokens | None = None,
    ) -> Thought: ...


async def think(
    engine: Engine,
    prompt_ids: TokenIds,
    budget: Budget,
    ids: ForcingIds,
    *,
    sampling: Sampling,
    tell: Tell | None = None,
    in_engine: bool = True,
) -> Thought:
    """Think about one prompt under one budget; `tell` is called as tokens come.

    Args:
        in_engine: False: the continuation form in any case, which tells forced tokens apart.

    Raises:
        EngineError, ValueError: as the engine.
    """
    in_pieces = bool(ids.end_text or ids.start_text)  # what is then told of before it can be taken back
    if in_engine and ids.fits_engine and isinstance(engine, ForcingEngine) and not (in_pieces and tell):
        on_tokens = None if tell is None else _Split(ids, _cap(engine, prompt_ids, budget, ids), tell)
        return await engine.force(prompt_ids, budget, ids, sampling=sampling, on_tokens=on_tokens)
    return await _continue(engine, prompt_ids, budget, ids, sampling, tell)


class _Split:
    """Tells the tokens of a generation that was forced inside an engine by their parts."""

    def __init__(self, ids: ForcingIds, cap: int, tell: Tell) -> None:
        self._end, self._close = ids.end[0], len(ids.close)
        self._left, self._tell = cap, tell
        self._closing = -1
        """Tokens of the delimiter that are still to come; -1 while thinking."""

    def __call__(self, come: TokenIds) -> None:
        for token in come:
            if self._closing == 0:
                self._tell(Told("answer", (token,)))
            elif self._closing > 0:
                self._closing -= 1
            elif token == self._end:
                self._closing = self._close - 1
            elif self._left > 0:  # at the cap a newline may come before the delimiter: no thinking
                self._left -= 1
                self._tell(Told("thinking", (token,)))


async def _continue(
    engine: Engine, prompt_ids: TokenIds, budget: Budget, ids: ForcingIds, sampling: Sampling, tell: Tell | None
) -> Thought:
    if sampling.penalises_generated:
        raise ValueError(
            "presence and frequency penalties need forcing inside the engine: vllm, and thinking that ends at one token"
        )
    program = thinking_program(prompt_ids, budget, ids, context_tokens=engine.info.context_tokens, sampling=sampling)
    thought: Thought = await tell_program(engine, program, tell)
    return thought


async def tell_program(engine: Engine, program: Program, tell: Tell | None) -> Any:
    """Run a program that neither forks nor joins, telling its tokens as they come; returns what it returns."""
    reply = None
    while True:
        try:
            step = program.send(reply)
        except StopIteration as stop:
            return stop.value
        assert isinstance(step, Ask), "one budget neither forks nor joins"
        if tell is None:
            reply = await engine.generate(step.request)
            continue
        for part, forced in step.forced:
            tell(Told(part, forced, forced=True))
        held = _Held(step, tell)
        reply = await engine.generate(step.request, held)
        held.end(reply.ids)


def _cap(engine: Engine, prompt_ids: TokenIds, budget: Budget, ids: ForcingIds) -> int:
    room = thinking_room(len(prompt_ids), budget, ids, engine.info.context_tokens)
    return room if budget.max_thinking_tokens is None else min(budget.max_thinking_tokens, room)


class _Held:
    """Tells tokens of one request late enough that the beginning of a stop is never told."""

    def __init__(self, step: Ask, tell: Tell) -> None:
        self._hold = max((len(stop) - 1 for stop in step.request.stops), default=0)
        self._match = None if step.request.stop_text is None else Match(step.request.stop_text)
        self._part, self._tell = step.part, tell
        self._come: list[int] = []
        self._told = 0

    def __call__(self, come: TokenIds) -> None:
        safe = len(self._come) + len(come) - self._hold
        if self._match is not None:
            for token in come:
                self._match.push(token)
            safe = self._match.first
        self._come += come
        self._tell_to(self._come, safe)

    def end(self, ids: TokenIds) -> None:
        self._tell_to(list(ids), len(ids))

    def _tell_to(self, ids: list[int], position: int) -> None:
        if position > self._told:
            self._tell(Told(self._part, tuple(ids[self._told : position])))
            self._told = position
