"""An engine and the event loop it lives on, for processes whose own code runs in threads.
Owns how an engine is built from a campaign's settings, what tells it from others, and that a dead one is replaced."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import threading
from collections.abc import Coroutine, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import uvloop

from thinkscale.domain.campaign import Campaign
from thinkscale.domain.generation import Engine, EngineDiedError, EngineError, EngineInfo
from thinkscale.domain.models import Serve
from thinkscale.engines.factory import build_engine
from thinkscale.engines.tokenizer import TEMPLATE_DATE, ModelTokenizer
from thinkscale.runtime.teaching import EndpointSettings, EndpointTeacher
from thinkscale.store.models import directory_hash, local_model

T = TypeVar("T")

IDENTITY = ("engine", "version", "dtype", "model_hash", "tokenizer_hash", "chat_template_hash")
"""Facts of EngineInfo that two engines share whose rows may stand in one artifact."""


class MixedEnginesError(ValueError):
    """Rows of another engine stand in an artifact already; the message says in what the two differ."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EngineSettings:
    """Which model runs how. Picklable."""

    reference: str
    serve: Serve
    threads: int
    date: str = TEMPLATE_DATE  # what a chat template that prints a date takes for today
    json_mode: bool = False  # whether answers can be held to a JSON schema, where the engine is vLLM
    teacher: EndpointSettings | None = None  # one that is asked over the network: no tokenizer, no model here

    @property
    def room(self) -> int:
        """Requests under way at once."""
        limits = None if self.teacher is None else self.teacher.teacher.limits
        return self.serve.max_concurrent_sequences if limits is None else limits.concurrency

    @classmethod
    def of(cls, campaign: Campaign, reference: str) -> EngineSettings:
        """How a campaign runs a model."""
        threads, date = campaign.resources.threads_per_actor, campaign.model.date
        return cls(reference=reference, serve=campaign.serve, threads=threads, date=date)


async def start_engine(settings: EngineSettings, directory: Path, tokenizer: ModelTokenizer) -> Engine:
    """An engine whose info names the model and what its files hold. Raises EngineError where it cannot be built."""
    engine = await build_engine(directory, settings.serve, threads=settings.threads, json_mode=settings.json_mode)
    engine.info = dataclasses.replace(
        engine.info,
        model=settings.reference,
        model_hash=directory_hash(directory, ("config.json", "*.safetensors")),
        tokenizer_hash=directory_hash(directory, ("tokenizer*", "*.model", "vocab*", "merges.txt")),
        chat_template_hash=tokenizer.template_hash,
    )
    return engine


def check_same_engine(before: Mapping[str, Any] | None, now: EngineInfo, where: str) -> None:
    """Raises MixedEnginesError where an artifact's rows were drawn by another engine."""
    if before is None:
        return
    differing = [name for name in IDENTITY if before.get(name) != getattr(now, name)]
    if differing:
        told = ", ".join(f"{name} was {before.get(name)!r}, is {getattr(now, name)!r}" for name in differing)
        raise MixedEnginesError(
            f"{where} was begun by another engine: {told}. Bring that engine back, delete {where}, or accept rows of "
            "both (--set serve.mixed_engines=true)"
        )


class EngineLoop:
    """One engine in a thread of its own: several threads may have work done there. A dead engine is replaced."""

    def __init__(self, settings: EngineSettings) -> None:
        self._settings = settings
        self.tokenizer: Any = None  # the model's; None of a teacher that is asked over the network
        if settings.teacher is None:
            self._directory = local_model(settings.reference)
            self.tokenizer = ModelTokenizer(self._directory, date=settings.date)
        # An endpoint is asked thousands of times a second, which asyncio's own loop takes longer over.
        self._loop = asyncio.new_event_loop() if settings.teacher is None else uvloop.new_event_loop()
        self._building = asyncio.Lock()
        self._is_dead = False
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        self._engine: Any = self.run(self._start())

    @property
    def info(self) -> EngineInfo:
        info: EngineInfo = self._engine.info
        return info

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _start(self) -> Any:
        if self._settings.teacher is not None:
            return EndpointTeacher(self._settings.teacher)
        return await start_engine(self._settings, self._directory, self.tokenizer)

    async def engine(self) -> Any:
        """The engine, alive as far as is known. Raises EngineError where a dead one cannot be replaced."""
        async with self._building:
            if self._is_dead:
                with contextlib.suppress(Exception):  # what is dead may not even end
                    await self._engine.close()
                self._engine = await self._start()
                self._is_dead = False
        return self._engine

    def note(self, engine: Any, error: EngineError) -> None:
        """Take note of an engine's error: it may have been its end."""
        if isinstance(error, EngineDiedError) and engine is self._engine:
            self._is_dead = True


@lru_cache(maxsize=2)
def tokenizer_of(reference: str) -> ModelTokenizer:
    """A model's tokenizer, loaded once in a process."""
    return ModelTokenizer(local_model(reference))
