"""A whole scaling curve against its longest point alone, and against one run for each point, in one engine.

    python benchmarks/sweep.py --shape 1.5b --prompts 64

Two curves: five caps, and five numbers of Waits. Greedy would repeat itself on random weights, so all ways
draw at temperature 1; the model ends its thinking once in 512 tokens. Ways alternate on one warm engine.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import time
from dataclasses import replace
from typing import Any

from forcing import IDS, prompts
from recording import record
from shapes import start_engine
from thinkscale.domain.generation import Sampling, TokenIds
from thinkscale.domain.sample import Budget
from thinkscale.engines.vllm import VllmEngine
from thinkscale.forcing.driver import run
from thinkscale.forcing.formats import ForcingIds
from thinkscale.forcing.sweep import Cell, SweepResult, sweep

ANSWER_TOKENS = 32


async def draw_cells(
    engine: VllmEngine, asked: list[TokenIds], cells: list[Cell], ids: ForcingIds, seed: int
) -> tuple[int, float]:
    """Tokens decoded and seconds for a sweep over these cells, all prompts at once."""
    budget = Budget(max_answer_tokens=ANSWER_TOKENS)
    context = engine.info.context_tokens
    began = time.perf_counter()
    results: list[SweepResult] = await asyncio.gather(
        *(
            run(
                engine,
                sweep(
                    prompt, cells, budget, ids, context_tokens=context,
                    sampling=Sampling(temperature=1.0, seed=seed + i),
                ),
            )
            for i, prompt in enumerate(asked)
        )
    )  # fmt: skip
    return sum(result.decoded_tokens for result in results), time.perf_counter() - began


async def measure(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    longest = max(arguments.caps)
    engine = await start_engine(arguments.shape, context_tokens=longest + 256, max_concurrent_sequences=256)
    # For the caps the trace must not end by itself: its longest point is the cap.
    endless = replace(IDS, eos=engine.info.eos_ids, end=(engine.info.eos_ids[0],))
    ending = replace(IDS, eos=engine.info.eos_ids)
    curves = {
        "caps": ([Cell(cap, 0) for cap in arguments.caps], endless),
        "waits": ([Cell(arguments.wait_cap, waits) for waits in arguments.waits], ending),
    }
    draw = random.Random(0)
    await draw_cells(engine, prompts(arguments.prompts, draw), [Cell(256, 0)], endless, 0)
    rows = []
    for name, (cells, ids) in curves.items():
        alone: list[tuple[int, float]] = []
        curve: list[tuple[int, float]] = []
        separate: list[tuple[int, float]] = []
        for repeat in range(arguments.repeats):
            asked, seed = prompts(arguments.prompts, draw), 1000 * repeat
            alone.append(await draw_cells(engine, asked, cells[-1:], ids, seed))
            # Other prompts of the same kind: the trunk must not come from the cache.
            asked = prompts(arguments.prompts, draw)
            curve.append(await draw_cells(engine, asked, cells, ids, seed))
            if name in arguments.separate and repeat == 0:
                separate = [
                    await draw_cells(engine, prompts(arguments.prompts, draw), [cell], ids, seed) for cell in cells
                ]
            print(name, alone[-1], curve[-1], separate, flush=True)
        tokens = {
            "longest": statistics.median(tokens for tokens, _ in alone),
            "curve": statistics.median(tokens for tokens, _ in curve),
        }
        seconds = {
            "longest": statistics.median(seconds for _, seconds in alone),
            "curve": statistics.median(seconds for _, seconds in curve),
        }
        if separate:
            tokens["separate"] = sum(count for count, _ in separate)
            seconds["separate"] = sum(elapsed for _, elapsed in separate)
        rows.append(
            {
                "curve": name,
                "points": arguments.caps if name == "caps" else arguments.waits,
                "prompts": arguments.prompts,
                "tokens": tokens,
                "seconds": {way: round(value, 2) for way, value in seconds.items()},
                "tokens_ratio": round(tokens["curve"] / tokens["longest"], 4),
                "seconds_ratio": round(seconds["curve"] / seconds["longest"], 4),
                **(
                    {
                        "separate_over_curve_tokens": round(tokens["separate"] / tokens["curve"], 3),
                        "separate_over_curve_seconds": round(seconds["separate"] / seconds["curve"], 3),
                    }
                    if separate
                    else {}
                ),
            }
        )
    await engine.close()
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", default="1.5b")
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--caps", type=int, nargs="+", default=[512, 1024, 2048, 4096, 8192])
    parser.add_argument("--waits", type=int, nargs="+", default=[0, 1, 2, 4, 6])
    parser.add_argument("--wait-cap", type=int, default=8192, help="thinking tokens at most in the curve of Waits")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--separate", nargs="*", default=["caps", "waits"], help="curves also run cell by cell, once")
    arguments = parser.parse_args()
    rows = asyncio.run(measure(arguments))
    record(
        "sweep",
        what="seconds of a whole scaling curve over those of its longest point alone",
        value=rows[0]["seconds"]["curve"],
        unit="s",
        baseline="the curve's longest point alone, on the same engine",
        ratio=rows[0]["seconds_ratio"],
        goal="tokens <= 1.1, seconds <= 1.15 of the longest point, for caps and for Waits",
        rows=rows,
    )


if __name__ == "__main__":
    main()
