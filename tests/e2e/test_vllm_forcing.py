"""Budget forcing inside the real vLLM against the continuation form, token for token."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from thinkscale.domain.budget import Budget
from thinkscale.domain.generation import Request, Sampling, TokenIds
from thinkscale.domain.sample import Thought
from thinkscale.engines.driver import run
from thinkscale.engines.factory import build_engine
from thinkscale.thinking.forcing import think
from thinkscale.thinking.formats import ForcingIds
from thinkscale.thinking.sweep import curve_cells, sweep
from tiny_model import write_tiny_model

pytest.importorskip("vllm", reason="vLLM is not installed: pip install 'thinkscale[vllm]'")
pytestmark = pytest.mark.vllm
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")

CONTEXT = 512
PROMPTS: list[TokenIds] = [tuple(3 + (7 * i + j * j) % 50 for j in range(5 + i)) for i in range(24)]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, asyncio.Runner]]:
    model: Path = write_tiny_model(tmp_path_factory.mktemp("tiny"))
    with asyncio.Runner() as runner:
        built = runner.run(
            build_engine("vllm", model, dtype="float32", context_tokens=CONTEXT, max_concurrent_sequences=16)
        )
        yield built, runner
        runner.run(built.close())


def ids_that_the_model_uses(engine: Any, runner: asyncio.Runner) -> ForcingIds:
    """Delimiters and texts of tokens that this random model does write, so that thinking ends in every way."""

    async def write() -> Counter[int]:
        texts = await asyncio.gather(
            *(engine.generate(Request(prompt_ids=prompt, max_tokens=60)) for prompt in PROMPTS)
        )
        return Counter(token for text in texts for token in set(text.ids))

    common = [token for token, _ in runner.run(write()).most_common()]
    end = common[len(common) // 4]
    return ForcingIds(
        end=(end,),
        close=(end, common[2], common[3]),
        wait=(common[4], common[5]),
        final_answer=(common[6],),
        newline=(common[7],),
        newline_ending=frozenset(),
        eos=engine.info.eos_ids,
    )


BUDGETS = [
    Budget(max_thinking_tokens=cap, num_waits=waits, max_answer_tokens=answer)
    for cap, waits, answer in [(0, 0, 4), (5, 0, 4), (40, 0, 8), (40, 2, 8), (120, 3, 1), (None, 1, 6), (17, 6, 5)]
]


def test_forced_inside_equals_continuation_token_for_token(engine: tuple[Any, asyncio.Runner]) -> None:
    built, runner = engine
    ids = ids_that_the_model_uses(built, runner)
    jobs = [(prompt, BUDGETS[i % len(BUDGETS)]) for i, prompt in enumerate(PROMPTS * 3)]

    async def inside() -> list[Thought]:
        plain = [built.generate(Request(prompt_ids=prompt, max_tokens=30)) for prompt in PROMPTS[:6]]  # company
        forced = [built.force(prompt, budget, ids, sampling=Sampling()) for prompt, budget in jobs]
        return list((await asyncio.gather(*forced, *plain))[: len(jobs)])

    async def continued() -> list[Thought]:
        return await asyncio.gather(
            *(run(built, think(prompt, budget, ids, context_tokens=CONTEXT)) for prompt, budget in jobs)
        )

    expected = runner.run(continued())
    assert runner.run(inside()) == expected
    ends = Counter(thought.end for thought in expected)
    assert {"natural", "waits_used", "cap"} <= set(ends), ends


def test_a_forked_sweep_equals_separate_runs(engine: tuple[Any, asyncio.Runner]) -> None:
    built, runner = engine
    ids = ids_that_the_model_uses(built, runner)
    cells = curve_cells([3, 10, 30, 90], [0, 1, 2, 4])
    budget = Budget(max_answer_tokens=5)

    async def both(prompt: TokenIds) -> None:
        swept = await run(built, sweep(prompt, cells, budget, ids, context_tokens=CONTEXT))
        for cell in cells:
            alone = Budget(max_thinking_tokens=cell.cap, num_waits=cell.waits, max_answer_tokens=5)
            assert swept.thoughts[cell] == await built.force(prompt, alone, ids, sampling=Sampling()), cell
        assert swept.decoded_tokens < swept.separate_tokens

    async def all_prompts() -> None:
        await asyncio.gather(*(both(prompt) for prompt in PROMPTS[:8]))

    runner.run(all_prompts())


def test_sampled_with_limits_the_marginals_agree(engine: tuple[Any, asyncio.Runner]) -> None:
    """Lengths of thinking at temperature 1 with top-k and top-p: inside against continuation (KS, 1e-4)."""
    from scipy.stats import ks_2samp

    built, runner = engine
    ids = ids_that_the_model_uses(built, runner)
    budget = Budget(max_thinking_tokens=30, num_waits=1, max_answer_tokens=2)

    async def draw(inside: bool) -> list[int]:
        async def one(seed: int) -> Thought:
            sampling = Sampling(temperature=1.0, top_k=5, top_p=0.95, seed=seed)
            if inside:
                return await built.force(PROMPTS[0], budget, ids, sampling=sampling)
            return await run(built, think(PROMPTS[0], budget, ids, context_tokens=CONTEXT, sampling=sampling))

        thoughts = await asyncio.gather(*(one(seed) for seed in range(400)))
        return [thought.thinking_tokens + 100 * thought.waits_used for thought in thoughts]

    assert ks_2samp(runner.run(draw(True)), runner.run(draw(False))).pvalue > 1e-4


def test_a_cancelled_call_leaves_no_slot_behind(engine: tuple[Any, asyncio.Runner]) -> None:
    built, runner = engine
    ids = ids_that_the_model_uses(built, runner)

    async def cancel_many() -> Thought:
        budget = Budget(max_thinking_tokens=300, max_answer_tokens=5)
        for _ in range(40):
            calls = [asyncio.create_task(built.force(p, budget, ids, sampling=Sampling())) for p in PROMPTS[:16]]
            await asyncio.sleep(0.02)
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
        return await built.force(PROMPTS[0], BUDGETS[2], ids, sampling=Sampling())

    assert runner.run(cancel_many()).end in ("natural", "cap")


def test_a_delimiter_of_several_tokens_is_refused_inside(engine: tuple[Any, asyncio.Runner]) -> None:
    built, runner = engine
    ids = ForcingIds(
        end=(5, 6), close=(5, 6), wait=(7,), final_answer=(8,), newline=(9,), newline_ending=frozenset(), eos=(0,)
    )
    with pytest.raises(ValueError, match="2 tokens long"):
        runner.run(built.force(PROMPTS[0], BUDGETS[1], ids, sampling=Sampling()))


def test_too_many_forbidden_first_ids_are_refused_before_the_engine(engine: tuple[Any, asyncio.Runner]) -> None:
    built, runner = engine
    request = Request(prompt_ids=PROMPTS[0], max_tokens=2, forbid_first=tuple(range(9)))
    with pytest.raises(ValueError, match="at most 8"):
        runner.run(built.generate(request))
