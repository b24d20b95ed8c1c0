"""Thinking under a budget, told token by token while it runs.

Owns which tokens of a forced generation are thinking, which are the answer, and which were forced. Runs the
automaton inside the engine where there is one, else the continuation form. Knows no text and no protocol.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from thinkscale.domain.budget import Budget
from thinkscale.domain.engine import Engine, OnTokens
from thinkscale.domain.generation import Request, Sampling, TokenIds
from thinkscale.domain.sample import Thought
from thinkscale.forcing.formats import ForcingIds
from thinkscale.forcing.program import Ask, thinking_room
from thinkscale.forcing.program import think as thinking_program


@dataclass(frozen=True, slots=True)
class Told:
    """Tokens that came. Tokens of a delimiter are never told."""

    part: Literal["thinking", "answer"]
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
    if in_engine and len(ids.end) == 1 and isinstance(engine, ForcingEngine):
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
    cap = _cap(engine, prompt_ids, budget, ids)
    known, thinking_tokens = len(prompt_ids), 0
    reply = None
    while True:
        try:
            step = program.send(reply)
        except StopIteration as stop:
            thought: Thought = stop.value
            return thought
        assert isinstance(step, Ask), "one budget neither forks nor joins"
        request = step.request
        if tell is None:
            reply = await engine.generate(request)
            continue
        added = request.prompt_ids[known:]
        thinking = bool(request.stops)
        if not thinking:
            # After an end of its own the delimiter alone was added; at the cap a cut Wait may stand before it.
            by_cap = added != ids.close
            _tell_forced(tell, "thinking", added[: cap - thinking_tokens] if by_cap else ())
            _tell_forced(tell, "answer", ids.final_answer if by_cap else ())
        else:
            _tell_forced(tell, "thinking", added)
            thinking_tokens += len(added)
        held = _Held(request, "thinking" if thinking else "answer", tell)
        reply = await engine.generate(request, held)
        held.end(reply.ids)
        known = len(request.prompt_ids) + len(reply.ids)
        thinking_tokens += len(reply.ids) if thinking else 0


def _cap(engine: Engine, prompt_ids: TokenIds, budget: Budget, ids: ForcingIds) -> int:
    room = thinking_room(len(prompt_ids), budget, ids, engine.info.context_tokens)
    return room if budget.max_thinking_tokens is None else min(budget.max_thinking_tokens, room)


def _tell_forced(tell: Tell, part: Literal["thinking", "answer"], ids: TokenIds) -> None:
    if ids:
        tell(Told(part, ids, forced=True))


class _Held:
    """Tells tokens of one request late enough that the beginning of a stop is never told."""

    def __init__(self, request: Request, part: Literal["thinking", "answer"], tell: Tell) -> None:
        self._hold = max((len(stop) - 1 for stop in request.stops), default=0)
        self._part: Literal["thinking", "answer"] = part
        self._tell = tell
        self._come: list[int] = []
        self._told = 0

    def __call__(self, come: TokenIds) -> None:
        self._come += come
        self._tell_to(self._come, len(self._come) - self._hold)

    def end(self, ids: TokenIds) -> None:
        self._tell_to(list(ids), len(ids))

    def _tell_to(self, ids: list[int], position: int) -> None:
        if position > self._told:
            self._tell(Told(self._part, tuple(ids[self._told : position])))
            self._told = position
