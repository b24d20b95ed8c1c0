"""Running thinking programs on an engine. Knows nothing of what a program is for."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Hashable
from typing import Any

from thinkscale.domain.engine import Engine
from thinkscale.domain.generation import Completion, TokenIds
from thinkscale.forcing.program import Ask, Fork, Program


async def run(engine: Engine, program: Program) -> Any:
    """Run a program to its end, its forks beside it; returns what it returns.

    Requests of a program's forks are under way together. The first error ends all of them and is raised.
    """
    try:
        return await _run(engine, program)
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from None


async def _run(engine: Engine, program: Program) -> Any:
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
                case Ask():
                    reply = await _ask(engine, step, start)
                case _:
                    reply = {key: await task for key, task in forks.items()}


async def _ask(engine: Engine, step: Ask, start: Callable[[Fork], None]) -> Completion:
    """Run one request; its marks fork while it runs."""
    come: list[int] = []
    waiting = deque(sorted(step.marks))

    def on_tokens(tokens: TokenIds) -> None:
        come.extend(tokens)
        while waiting and waiting[0] <= len(come):
            mark = waiting.popleft()
            start(step.marks[mark](tuple(come[:mark])))

    return await engine.generate(step.request, on_tokens if step.marks else None)
