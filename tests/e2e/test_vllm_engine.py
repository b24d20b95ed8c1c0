"""The real vLLM against the engines' contract, against transformers, and when its process dies."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import torch

from engine_contract import CONTRACT, PROMPT
from thinkscale.domain.generation import Completion, Engine, EngineDiedError, Request, Sampling
from thinkscale.domain.models import Serve
from thinkscale.engines.factory import build_engine
from thinkscale.engines.vllm import VllmEngine
from tiny_model import write_tiny_model

pytest.importorskip("vllm", reason="vLLM is not installed: pip install 'thinkscale[vllm]'")
pytestmark = pytest.mark.vllm
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def engine(tiny_model: Path) -> Iterator[tuple[Engine, asyncio.Runner]]:
    with asyncio.Runner() as runner:
        built = runner.run(
            build_engine(
                tiny_model,
                Serve(gpu_memory_share=0.3, dtype="float32", context_tokens=512, max_concurrent_sequences=32),
            )
        )
        assert built.info.engine == "vllm"
        yield built, runner
        runner.run(built.close())


@pytest.mark.parametrize("promise", CONTRACT, ids=lambda promise: promise.__name__)
def test_contract(engine: tuple[Engine, asyncio.Runner], promise: Callable[[Engine], Awaitable[None]]) -> None:
    built, runner = engine
    runner.run(promise(built))


def test_greedy_equals_transformers(engine: tuple[Engine, asyncio.Runner], tiny_model: Path) -> None:
    built, runner = engine
    requests = [
        Request(prompt_ids=PROMPT * (1 + i), max_tokens=100, stops=((i, 2 * i),), forbid_first=(3 * i,))
        for i in range(1, 24)
    ]

    async def ask(engine: Engine) -> list[Completion]:
        return await asyncio.gather(*map(engine.generate, requests))

    async def ask_transformers() -> list[Completion]:
        return await ask(
            await build_engine(tiny_model, Serve(engine="transformers", dtype="float32", context_tokens=512))
        )

    differing = [a != b for a, b in zip(runner.run(ask(built)), asyncio.run(ask_transformers()), strict=True)]
    assert sum(differing) <= (len(differing) // 8 if torch.cuda.is_available() else 0)  # near ties, where kernels round


def test_seeded_prompts_beyond_one_step(engine: tuple[Engine, asyncio.Runner]) -> None:
    """More prompt tokens at once than a step holds, each with a seed of its own."""
    built, runner = engine

    async def ask() -> list[Completion]:
        requests = [
            Request(prompt_ids=(i, *PROMPT * 100), max_tokens=4, sampling=Sampling(temperature=1.0, seed=i))
            for i in range(30)
        ]
        return await asyncio.gather(*map(built.generate, requests))

    assert runner.run(ask()) == runner.run(ask())


@pytest.mark.parametrize("how", [signal.SIGSTOP, signal.SIGKILL], ids=["hung", "dead"])
def test_a_dead_or_hung_engine_says_so(tiny_model: Path, how: signal.Signals) -> None:
    async def ask() -> None:
        built = await build_engine(
            tiny_model, Serve(gpu_memory_share=0.3, dtype="float32", context_tokens=512, max_concurrent_sequences=32)
        )
        assert isinstance(built, VllmEngine)
        long = asyncio.ensure_future(built.generate(Request(prompt_ids=PROMPT, max_tokens=500)))
        await built.generate(Request(prompt_ids=PROMPT, max_tokens=1))
        built.check()
        built.hung_s = 1.0
        for process in built._llm.engine_core.resources.engine_manager.processes:
            os.kill(process.pid, how)
        with pytest.raises(EngineDiedError, match="died"):
            await long
        with pytest.raises(EngineDiedError, match="died"):
            built.check()
        with pytest.raises(EngineDiedError, match="died"):
            await built.generate(Request(prompt_ids=PROMPT, max_tokens=1))
        await built.close()

    asyncio.run(asyncio.wait_for(ask(), 900))
