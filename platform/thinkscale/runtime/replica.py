"""A replica: an engine in an actor of Ray Serve.

Owns how it is built, healed and ended. Knows nothing of the work that it is given.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
from collections.abc import Callable, Coroutine
from typing import Any, Concatenate, ParamSpec, TypeVar

import ray
from ray import serve
from thinkscale.domain.engine import Engine, EngineDiedError, EngineError
from thinkscale.engines.tokenizer import ModelTokenizer
from thinkscale.runtime.asking import EngineGoneError
from thinkscale.runtime.engines import EngineSettings, start_engine
from thinkscale.store.models import local_model

P = ParamSpec("P")
T = TypeVar("T")

OWNERS = "thinkscale-owners"
"""Ray namespace of the actors that stand for the processes that started replicas."""

WATCH_EVERY_S = 2.0

DYING_S = 0.5


class Replica:
    """One engine and its tokenizer. Its node resolves the model reference for itself.

    Serve applications outlive the job that started them. Replicas that work for a campaign must not hold GPUs
    after it was killed: once their `owner`, a named actor of that job, is gone, they drop their work and delete
    their application.
    """

    async def __init__(self, settings: EngineSettings, owner: str | None = None) -> None:  # type: ignore[misc]
        directory = local_model(settings.reference)
        self.tokenizer = ModelTokenizer(directory, date=settings.date)
        self.engine: Engine = await start_engine(settings, directory, self.tokenizer)
        self._died = ""
        self._calls: set[asyncio.Task[Any]] = set()
        self._watch = None if owner is None else asyncio.create_task(self._end_with(owner))

    async def info(self) -> dict[str, Any]:
        """`EngineInfo` as a dict, with the hashes of model, tokenizer and chat template."""
        return dataclasses.asdict(self.engine.info)

    async def call(
        self,
        function: Callable[Concatenate[Engine, ModelTokenizer, P], Coroutine[Any, Any, T]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Await `function(engine, tokenizer, *args)` here. The function must be importable on the nodes."""
        if self._died:
            raise EngineGoneError(self._died)
        task = asyncio.create_task(function(self.engine, self.tokenizer, *args, **kwargs))
        self._calls.add(task)
        try:
            return await task
        except EngineError as error:
            self.note(error)
            raise
        finally:
            self._calls.discard(task)

    def note(self, error: EngineError) -> None:
        """Take note of an error of the engine: it may have been its end, and then it is this process's.

        Calls under way get their errors first. Serve sees a process that is gone at once, a sick one only at its next
        checks, and would send it calls until then.
        """
        if isinstance(error, EngineDiedError) and not self._died:
            self._died = str(error)
            asyncio.get_running_loop().call_later(DYING_S, os._exit, 1)

    async def check_health(self) -> None:
        """Serve replaces a replica whose engine has died."""
        if self._died:
            raise RuntimeError(self._died)

    async def _end_with(self, owner: str) -> None:
        while await asyncio.to_thread(_is_alive, owner):
            await asyncio.sleep(WATCH_EVERY_S)
        for task in self._calls:
            task.cancel()
        serve.delete(serve.get_replica_context().app_name, _blocking=False)


def _is_alive(owner: str) -> bool:
    try:
        ray.get_actor(owner, namespace=OWNERS)
    except ValueError:
        return False
    return True
