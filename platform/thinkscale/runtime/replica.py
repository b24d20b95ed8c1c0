"""A replica: an engine in an actor of Ray Serve.

Owns how it is built, healed and ended. Knows nothing of the work that it is given.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Coroutine
from typing import Any, Concatenate, ParamSpec, TypeVar

import ray
from ray import serve
from thinkscale.domain.campaign import Serve
from thinkscale.domain.engine import Engine, EngineDiedError, EngineError
from thinkscale.engines.factory import build_engine
from thinkscale.engines.tokenizer import TEMPLATE_DATE, ModelTokenizer
from thinkscale.store.models import directory_hash, local_model

P = ParamSpec("P")
T = TypeVar("T")

OWNERS = "thinkscale-owners"
"""Ray namespace of the actors that stand for the processes that started replicas."""

WATCH_EVERY_S = 2.0


class Replica:
    """One engine and its tokenizer. Its node resolves the model reference for itself.

    Serve applications outlive the job that started them. Replicas that work for a campaign must not hold GPUs
    after it was killed: once their `owner`, a named actor of that job, is gone, they drop their work and delete
    their application.
    """

    async def __init__(  # type: ignore[misc]
        self, settings: Serve, threads: int, model_reference: str, owner: str | None = None, date: str = TEMPLATE_DATE
    ) -> None:
        directory = local_model(model_reference)
        self.tokenizer = ModelTokenizer(directory, date=date)
        self.engine: Engine = await build_engine(
            settings.engine,
            directory,
            dtype=settings.dtype,
            context_tokens=settings.context_tokens,
            max_concurrent_sequences=settings.max_concurrent_sequences,
            tensor_parallel=settings.tensor_parallel,
            gpu_memory_share=settings.gpu_memory_share,
            threads=threads,
        )
        self._info = dataclasses.replace(
            self.engine.info,
            model=model_reference,
            model_hash=directory_hash(directory, ("config.json", "*.safetensors")),
            tokenizer_hash=directory_hash(directory, ("tokenizer*", "*.model", "vocab*", "merges.txt")),
            chat_template_hash=self.tokenizer.template_hash,
        )
        self._died = ""
        self._calls: set[asyncio.Task[Any]] = set()
        self._watch = None if owner is None else asyncio.create_task(self._end_with(owner))

    async def info(self) -> dict[str, Any]:
        """`EngineInfo` as a dict, with the hashes of model, tokenizer and chat template."""
        return dataclasses.asdict(self._info)

    async def call(
        self,
        function: Callable[Concatenate[Engine, ModelTokenizer, P], Coroutine[Any, Any, T]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Await `function(engine, tokenizer, *args)` here. The function must be importable on the nodes."""
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
        """Take note of an error of the engine: it may have been its end."""
        if isinstance(error, EngineDiedError):
            self._died = str(error)

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
