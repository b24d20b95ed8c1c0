"""Budget forcing inside the real vLLM against the continuation form, token for token."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import pytest
import torch

from thinkscale.domain.generation import Request, Sampling, TokenIds
from thinkscale.domain.models import Serve
from thinkscale.domain.sample import Budget, Thought
from thinkscale.engines.factory import build_engine
from thinkscale.engines.tokenizer import ModelTokenizer
from thinkscale.engines.vllm import VllmEngine
from thinkscale.forcing.driver import force, run
from thinkscale.forcing.formats import ForcingIds, ThinkingFormat, forcing_ids
from thinkscale.forcing.program import think
from thinkscale.forcing.sweep import curve_cells, sweep
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
            build_engine(
                model,
                Serve(
                    gpu_memory_share=0.3,
                    engine="vllm",
                    dtype="float32",
                    context_tokens=CONTEXT,
                    max_concurrent_sequences=16,
                ),
            )
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
    Budget(max_thinking_tokens=cap, waits=waits, max_answer_tokens=answer)
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
    # A GPU's kernels for prompts and for single tokens round differently: now and then the two
    # best tokens of this random model change places.
    allowed = len(jobs) // 20 if torch.cuda.is_available() else 0
    assert sum(got != want for got, want in zip(runner.run(inside()), expected, strict=True)) <= allowed
    ends = Counter(thought.end for thought in expected)
    assert {"natural", "waits_used", "cap"} <= set(ends), ends


@pytest.mark.parametrize(
    "penalties", [{"repetition_penalty": 1.6}, {"presence_penalty": 1.5}, {"frequency_penalty": 1}]
)
def test_penalties_are_those_of_plain_decoding(engine: tuple[Any, asyncio.Runner], penalties: dict[str, float]) -> None:
    """Greedy, to the cap or an end of its own: the thinking is what plain decoding writes up to there."""
    built, runner = engine
    ids = ids_that_the_model_uses(built, runner)
    sampling = Sampling(**penalties)
    budget = Budget(max_thinking_tokens=40, max_answer_tokens=8)

    async def both(prompt: TokenIds) -> bool:
        plain = await built.generate(Request(prompt_ids=prompt, max_tokens=40, sampling=sampling))
        free = await built.generate(Request(prompt_ids=prompt, max_tokens=40))
        thought = await built.force(prompt, budget, ids, sampling=sampling)
        assert thought.thinking_ids == plain.ids[: thought.thinking_tokens]
        assert thought.thinking_tokens == (plain.ids.index(ids.end[0]) if ids.end[0] in plain.ids else len(plain.ids))
        return free.ids != plain.ids

    async def all_prompts() -> list[bool]:
        return list(await asyncio.gather(*(both(prompt) for prompt in PROMPTS)))

    assert any(runner.run(all_prompts())), "the penalty changed nothing"


def test_a_repetition_penalty_counts_forced_tokens(engine: tuple[Any, asyncio.Runner]) -> None:
    built, runner = engine
    ids = ids_that_the_model_uses(built, runner)
    sampling = Sampling(repetition_penalty=1.6)
    budget = Budget(max_thinking_tokens=60, waits=3, max_answer_tokens=8)

    async def both(prompt: TokenIds) -> Thought:
        inside = await built.force(prompt, budget, ids, sampling=sampling)
        program = think(prompt, budget, ids, context_tokens=CONTEXT, sampling=sampling)
        assert inside == await run(built, program)
        return inside

    async def all_prompts() -> list[Thought]:
        return list(await asyncio.gather(*(both(prompt) for prompt in PROMPTS)))

    assert sum(thought.waits_used for thought in runner.run(all_prompts())) > 0


def test_a_seed_repeats_a_forced_request_in_other_company(engine: tuple[Any, asyncio.Runner]) -> None:
    built, runner = engine
    ids = ids_that_the_model_uses(built, runner)
    budget = Budget(max_thinking_tokens=40, waits=2, max_answer_tokens=8)

    async def draw(company: int) -> list[Thought]:
        beside = [
            built.generate(Request(prompt_ids=prompt, max_tokens=50, sampling=Sampling(temperature=1.0)))
            for prompt in PROMPTS[:company]
        ]
        seeded = [
            built.force(prompt, budget, ids, sampling=Sampling(temperature=1.0, seed=i))
            for i, prompt in enumerate(PROMPTS[:8])
        ]
        return list(await asyncio.gather(*seeded, *beside))[: len(seeded)]

    assert runner.run(draw(0)) == runner.run(draw(12))


@pytest.mark.parametrize("asynchronous", [True, False])
def test_preempted_requests_end_as_undisturbed_ones(
    engine: tuple[Any, asyncio.Runner], tmp_path: Path, *, asynchronous: bool
) -> None:
    """With room for the keys and values of a few requests only, and with either way of scheduling."""
    from vllm.v1.metrics.prometheus import unregister_vllm_metrics

    built, runner = engine
    ids = ids_that_the_model_uses(built, runner)
    tight = {
        "num_gpu_blocks_override": 18, "block_size": 32, "disable_log_stats": False,
        "async_scheduling": asynchronous,
    }  # fmt: skip

    async def forced(built: VllmEngine) -> list[Thought]:
        jobs = [(prompt, BUDGETS[4 + i % 3]) for i, prompt in enumerate(PROMPTS)]
        calls = [built.force(prompt, budget, ids, sampling=Sampling()) for prompt, budget in jobs]
        return list(await asyncio.gather(*calls))

    async def preempting() -> list[Thought]:
        small = await VllmEngine.start(
            write_tiny_model(tmp_path),
            Serve(gpu_memory_share=0.3, dtype="float32", context_tokens=CONTEXT, max_concurrent_sequences=16),
            options=tight,
        )
        try:
            return await forced(small)
        finally:
            await small.close()

    unregister_vllm_metrics()  # else those of an engine that ended are still there
    assert preemptions() == 0
    assert asyncio.run(preempting()) == runner.run(forced(built))
    assert preemptions() > 0


def preemptions() -> float:
    """Requests that the engine with statistics in this process has preempted so far."""
    from prometheus_client import REGISTRY

    samples = (sample for metric in REGISTRY.collect() for sample in metric.samples)
    return sum(sample.value for sample in samples if sample.name == "vllm:num_preemptions_total")


def test_a_forked_sweep_equals_separate_runs(engine: tuple[Any, asyncio.Runner]) -> None:
    built, runner = engine
    ids = ids_that_the_model_uses(built, runner)
    cells = curve_cells([3, 10, 30, 90], [0, 1, 2, 4])
    budget = Budget(max_answer_tokens=5)

    async def both(prompt: TokenIds) -> None:
        swept = await run(built, sweep(prompt, cells, budget, ids, context_tokens=CONTEXT))
        for cell in cells:
            alone = Budget(max_thinking_tokens=cell.cap, waits=cell.waits, max_answer_tokens=5)
            assert swept.thoughts[cell] == await built.force(prompt, alone, ids, sampling=Sampling()), cell
        assert swept.decoded_tokens < swept.separate_tokens

    async def all_prompts() -> None:
        await asyncio.gather(*(both(prompt) for prompt in PROMPTS[:8]))

    runner.run(all_prompts())


def test_sampled_with_limits_the_marginals_agree(engine: tuple[Any, asyncio.Runner]) -> None:
    """Lengths of thinking at temperature 1 with top-k, top-p and min-p: inside against continuation (KS, 1e-4)."""
    from scipy.stats import ks_2samp

    built, runner = engine
    ids = ids_that_the_model_uses(built, runner)
    budget = Budget(max_thinking_tokens=30, waits=1, max_answer_tokens=2)

    async def draw(inside: bool) -> list[int]:
        async def one(seed: int) -> Thought:
            sampling = Sampling(temperature=1.0, top_k=5, top_p=0.95, min_p=0.03, seed=seed)
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
    with pytest.raises(ValueError, match="several tokens"):
        runner.run(built.force(PROMPTS[0], BUDGETS[1], ids, sampling=Sampling()))


@pytest.mark.parametrize("opening", ["", "st"])
def test_a_delimiter_in_the_text_is_forced_by_continuation(
    engine: tuple[Any, asyncio.Runner], opening: str, tmp_path: Path
) -> None:
    """One that this random model does write, in two tokens: it never comes in thinking or answer, however it is cut."""
    built, runner = engine
    tokenizer = ModelTokenizer(write_tiny_model(tmp_path))

    async def write() -> Counter[str]:
        texts = await asyncio.gather(*(built.generate(Request(prompt_ids=p, max_tokens=60)) for p in PROMPTS))
        pairs = (text for each in texts for text in set(map(tokenizer.decode, pairwise(each.ids))))
        return Counter(text for text in pairs if text.isascii() and text.isprintable())

    end = runner.run(write()).most_common(1)[0][0]
    thinking_format = ThinkingFormat(name="custom", start=opening or "<none>", end=end, end_suffix="\n")

    async def thought(prompt: TokenIds, budget: Budget) -> str:
        ids = forcing_ids(tokenizer, thinking_format, budget)
        assert not ids.fits_engine
        made = await force(built, prompt, budget, ids, sampling=Sampling())
        assert made == await run(built, think(prompt, budget, ids, context_tokens=CONTEXT)) or torch.cuda.is_available()
        spans = [0, *(at for span in made.forced_positions for at in span), made.thinking_tokens]
        free = [made.thinking_ids[a:b] for a, b in zip(spans[::2], spans[1::2], strict=True)]
        assert not any(end in tokenizer.decode(each) for each in free)
        return made.end

    async def everything() -> Counter[str]:
        jobs = product(PROMPTS, [*BUDGETS, Budget(max_thinking_tokens=200, max_answer_tokens=8)])
        return Counter(await asyncio.gather(*(thought(*job) for job in jobs)))

    ends = runner.run(everything())
    assert {"cap", "natural", "waits_used"} <= set(ends), (end, ends)


def test_too_many_forbidden_first_ids_are_refused_before_the_engine(engine: tuple[Any, asyncio.Runner]) -> None:
    built, runner = engine
    request = Request(prompt_ids=PROMPTS[0], max_tokens=2, forbid_first=tuple(range(9)))
    with pytest.raises(ValueError, match="at most 8"):
        runner.run(built.generate(request))
