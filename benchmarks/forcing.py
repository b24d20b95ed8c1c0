"""Budget forcing inside vLLM against plain decoding, continuation and lock-step rounds, in one engine.

    python benchmarks/forcing.py --shape 1.5b --requests 256 --tokens 1024 --repeats 5

All ways draw at temperature 1 from a model with random weights that ends its thinking once in 512 tokens;
up to six Waits are forced, then the cap. Ways alternate in one process on one warm engine; medians count.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import replace
from typing import Any

from recording import record
from shapes import TOKENIZER_IDS, start_engine
from thinkscale.domain.generation import Request, Sampling, TokenIds
from thinkscale.domain.sample import Budget
from thinkscale.engines.vllm import VllmEngine
from thinkscale.forcing.driver import run
from thinkscale.forcing.formats import ForcingIds
from thinkscale.forcing.program import Trunk, answer, continue_thinking, think

PROMPT_TOKENS, ANSWER_TOKENS, WAITS = 100, 20, 6
IDS = ForcingIds(
    end=(5,),
    close=(5, 6),
    wait=(7, 8),
    final_answer=(9, 10),
    newline=(TOKENIZER_IDS - 1,),
    newline_ending=frozenset({TOKENIZER_IDS - 1}),
    eos=(),
)
SAMPLING = Sampling(temperature=1.0)
Way = Callable[[list[TokenIds], int], Awaitable[int]]


def prompts(count: int, draw: random.Random) -> list[TokenIds]:
    return [tuple(draw.randrange(20, TOKENIZER_IDS - 1) for _ in range(PROMPT_TOKENS)) for _ in range(count)]


def ways(engine: VllmEngine) -> dict[str, Way]:
    """Each generates `tokens` tokens for every prompt and returns how many came in all."""
    ids = replace(IDS, eos=engine.info.eos_ids)
    context = engine.info.context_tokens

    def budget(tokens: int) -> Budget:
        # newline, delimiter and final-answer text: 5 tokens
        return Budget(max_thinking_tokens=tokens - ANSWER_TOKENS - 5, waits=WAITS, max_answer_tokens=ANSWER_TOKENS)

    async def plain(asked: list[TokenIds], tokens: int) -> int:
        done = await asyncio.gather(
            *(engine.generate(Request(prompt_ids=p, max_tokens=tokens, sampling=SAMPLING)) for p in asked)
        )
        assert all(len(completion.ids) == tokens for completion in done)  # nothing ended early: the batch stays full
        return sum(len(completion.ids) for completion in done)

    async def forced(asked: list[TokenIds], tokens: int) -> int:
        done = await asyncio.gather(*(engine.force(p, budget(tokens), ids, sampling=SAMPLING) for p in asked))
        return sum(thought.thinking_tokens + 3 + len(thought.answer_ids) for thought in done)

    async def continuation(asked: list[TokenIds], tokens: int) -> int:
        done = await asyncio.gather(
            *(run(engine, think(p, budget(tokens), ids, context_tokens=context, sampling=SAMPLING)) for p in asked)
        )
        return sum(thought.thinking_tokens + 3 + len(thought.answer_ids) for thought in done)

    async def lockstep(asked: list[TokenIds], tokens: int) -> int:
        """Every round waits for its slowest request."""
        limits = budget(tokens)
        cap = limits.max_thinking_tokens or 0
        trunks = [Trunk(prompt_ids=p) for p in asked]
        ended = [False] * len(asked)
        for number in range(WAITS + 1):
            going = [i for i, trunk in enumerate(trunks) if not ended[i] and len(trunk.thinking) < cap]
            done = await asyncio.gather(
                *(engine.generate(continue_thinking(trunks[i], cap, ids, SAMPLING)) for i in going)
            )
            for i, completion in zip(going, done, strict=True):
                trunks[i] = trunks[i].with_completion(completion)
                if completion.finish == "stop" and number < WAITS:
                    trunks[i] = trunks[i].with_wait(ids.wait[: cap - len(trunks[i].thinking)])
                else:
                    ended[i] = True
        thoughts = await asyncio.gather(*(run(engine, answer(trunk, "cap", limits, ids, SAMPLING)) for trunk in trunks))
        return sum(thought.thinking_tokens + 3 + len(thought.answer_ids) for thought in thoughts)

    return {"plain": plain, "forced": forced, "continuation": continuation, "lockstep": lockstep}


async def measure(arguments: argparse.Namespace) -> AsyncGenerator[list[dict[str, Any]]]:
    """The rows so far, after every cell."""
    draw = random.Random(0)
    cells = [tuple(int(part) for part in cell.split("x")) for cell in arguments.cells]
    engine = await start_engine(
        arguments.shape,
        context_tokens=max(tokens for _, tokens in cells) + PROMPT_TOKENS + 64,
        max_concurrent_sequences=max(requests for requests, _ in cells),
    )
    rows = []
    for requests, tokens in cells:
        chosen = {name: way for name, way in ways(engine).items() if name in arguments.ways}
        for name in ("plain", "forced"):  # warm
            await chosen[name](prompts(requests, draw), min(tokens, 256))
        speeds: dict[str, list[float]] = {name: [] for name in chosen}
        for repeat in range(arguments.repeats):
            # Back and forth, so that what drifts over an engine's life falls on all ways alike.
            for name, way in list(chosen.items())[:: 1 if repeat % 2 == 0 else -1]:
                if name in ("continuation", "lockstep") and repeat >= arguments.slow_repeats:
                    continue
                asked = prompts(requests, draw)
                began = time.perf_counter()
                came = await way(asked, tokens)
                speeds[name].append(came / (time.perf_counter() - began))
                print(requests, tokens, name, round(speeds[name][-1]), flush=True)
        median = {name: statistics.median(values) for name, values in speeds.items() if values}
        rows.append(
            {
                "shape": arguments.shape,
                "requests": requests,
                "tokens": tokens,
                "tokens_per_s": {name: round(value) for name, value in median.items()},
                "all_runs": {name: [round(value) for value in values] for name, values in speeds.items()},
                "ratio": round(median["forced"] / median["plain"], 4),
                **{
                    f"forced_over_{name}": round(median["forced"] / median[name], 3)
                    for name in ("continuation", "lockstep")
                    if name in median
                },
            }
        )
        yield rows
    await engine.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", default="1.5b")
    parser.add_argument("--cells", nargs="+", default=["256x1024"], help="requests x tokens")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--slow-repeats", type=int, default=2, help="of continuation and lockstep")
    parser.add_argument("--ways", nargs="+", default=["plain", "forced", "continuation", "lockstep"])
    parser.add_argument("--name", default="forcing")
    arguments = parser.parse_args()
    asyncio.run(write(arguments))


async def write(arguments: argparse.Namespace) -> None:
    async for rows in measure(arguments):
        record(
            arguments.name,
            what="budget forcing inside the engine against plain decoding on the same engine, tokens a second",
            value=rows[0]["tokens_per_s"]["forced"],
            unit="tokens/s",
            baseline="plain decoding of as many tokens; continuation and lock-step rounds in the rows",
            ratio=rows[0]["ratio"],
            goal="forced over plain >= 0.97, forced over lock-step >= 3",
            rows=rows,
        )


if __name__ == "__main__":
    main()
