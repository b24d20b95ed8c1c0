"""The scripted and the transformers engine against the contract, and each one's own promises."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from engine_contract import CONTRACT, PROMPT
from thinkscale.domain.generation import Completion, Engine, EngineError, Request, Sampling, TokenIds
from thinkscale.domain.models import Serve
from thinkscale.engines.factory import build_engine
from thinkscale.engines.scripted import ScriptedEngine, by_heart, hashed_logits
from tiny_model import write_tiny_model


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("tiny"))


def rarely_ending(prefix: TokenIds) -> list[float]:
    """60 logits of which the engine may use 48; the two end-of-text ids come only at high temperatures."""
    logits = list(hashed_logits(vocab_size=60)(prefix))
    return [logits[0] - 6, *logits[1:47], logits[47] - 6, *logits[48:]]


@pytest.fixture(scope="module", params=["scripted", "transformers"])
def engine(request: pytest.FixtureRequest, tiny_model: Path) -> Iterator[tuple[Engine, asyncio.Runner]]:
    with asyncio.Runner() as runner:
        built: Engine
        if request.param == "scripted":
            built = ScriptedEngine(rarely_ending, vocab_size=48, eos_ids=(0, 47), context_tokens=512)
        else:
            built = runner.run(
                build_engine(tiny_model, Serve(engine="transformers", dtype="float32", context_tokens=512))
            )
        yield built, runner
        runner.run(built.close())


@pytest.mark.parametrize("promise", CONTRACT, ids=lambda promise: promise.__name__)
def test_contract(engine: tuple[Engine, asyncio.Runner], promise: Callable[[Engine], Awaitable[None]]) -> None:
    built, runner = engine
    runner.run(promise(built))


def test_transformers_equals_generate_of_transformers(tiny_model: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    async def ours() -> list[Completion]:
        engine = await build_engine(tiny_model, Serve(engine="transformers", dtype="float32", context_tokens=512))
        prompts = [PROMPT, PROMPT * 3, (1, 2)]
        return await asyncio.gather(*(engine.generate(Request(prompt_ids=p, max_tokens=40)) for p in prompts))

    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    beyond = [[i] for i in range(259, 288)]
    for prompt, completion in zip([PROMPT, PROMPT * 3, (1, 2)], asyncio.run(ours()), strict=True):
        out = model.generate(torch.tensor([prompt]), max_new_tokens=40, do_sample=False, bad_words_ids=beyond)
        assert completion.ids + completion.stop_ids == tuple(out[0, len(prompt) :].tolist())


def test_scripted_says_its_texts_by_heart_and_counts() -> None:
    texts = [(1, 2, 3, 4, 9), (1, 2, 3, 7, 7, 8, 9)]
    engine = ScriptedEngine(by_heart(texts, hashed_logits(vocab_size=10)), vocab_size=10, eos_ids=(9,))

    async def ask() -> None:
        first = await engine.generate(Request(prompt_ids=(1, 2), max_tokens=10))
        assert first == Completion(ids=(3, 4), finish="stop", stop_ids=(9,))
        after_forced = await engine.generate(Request(prompt_ids=(1, 2, 3, 7), max_tokens=10, stops=((8,),)))
        assert after_forced == Completion(ids=(7,), finish="stop", stop_ids=(8,))

    asyncio.run(ask())
    assert (engine.requests, engine.decoded_tokens, engine.most_concurrent) == (2, 5, 1)


def test_scripted_samples_from_its_distribution() -> None:
    """Frequencies of 4,000 draws lie within four standard errors of the probabilities."""
    logits = (1.0, 0.0, -1.0, 0.5)
    engine = ScriptedEngine(lambda prefix: logits, vocab_size=4, eos_ids=())
    weights = [math.exp(logit / 0.8) for logit in logits]

    async def draw() -> list[int]:
        request = Request(prompt_ids=(0,), max_tokens=4000, sampling=Sampling(temperature=0.8, seed=5))
        return list((await engine.generate(request)).ids)

    engine_ids = asyncio.run(draw())
    for i, weight in enumerate(weights):
        p = weight / sum(weights)
        assert abs(engine_ids.count(i) / 4000 - p) < 4 * math.sqrt(p * (1 - p) / 4000)


def test_context_beyond_the_model_is_refused(tiny_model: Path) -> None:
    with pytest.raises(EngineError, match=r"serve.context_tokens is 1024, the model .* has positions for 512"):
        asyncio.run(build_engine(tiny_model, Serve(engine="transformers", context_tokens=1024)))


def test_transformers_refuses_tensor_parallelism(tiny_model: Path) -> None:
    with pytest.raises(EngineError, match=r"serve.tensor_parallel is 2"):
        asyncio.run(build_engine(tiny_model, Serve(engine="transformers", context_tokens=512, tensor_parallel=2)))
