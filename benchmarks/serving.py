"""What is left of vLLM's own speed on every way to it: engine, forcing, Serve's handles, HTTP and streams.

The same requests are asked in turn of vLLM's own `LLM.generate`, in a process of its own on the same device, and of
one replica: inside its engine, forced inside it, through Serve's handles, over the OpenAI route, and as streams.
Ways alternate round by round; figures are medians, ratios are those of each round against `LLM.generate`.

    python benchmarks/serving.py --shape 1.5b --cells 256x512 1024x512 --gpus 1
    python benchmarks/serving.py --shape tiny --cells 32x64 --rounds 2          (without a GPU)
    python benchmarks/serving.py --shape 1.5b --cells 256x512 --gpus 2 --replicas 2 --ways handles
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp

from recording import record
from shapes import SHAPES, TOKENIZER_IDS, write_shape

PORT, PROMPT_TOKENS, ANSWER_TOKENS, WAITS = 8131, 128, 20, 4
WAYS = ("engine", "forced", "handles", "http", "stream")


def prompt(number: int) -> list[int]:
    """No two of a run begin alike, so that no cache helps."""
    return [20 + (number * 7919 + i * i * 31 + i) % (TOKENIZER_IDS - 40) for i in range(PROMPT_TOKENS)]


def raw_engine(pipe: Any, model: str, context: int, sequences: int, share: float) -> None:
    """A process: vLLM's own `LLM` with its own defaults; every message is a load, every answer its seconds."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("VLLM_USE_FLASHINFER_SAMPLER", "0")
    import torch
    from vllm import LLM, SamplingParams

    from thinkscale.engines.vllm import _set_cpu_environment

    on_gpu: dict[str, Any] = {"gpu_memory_utilization": share}
    if not torch.cuda.is_available():
        _set_cpu_environment(1)
        on_gpu = {"enforce_eager": True}
    llm = LLM(
        model, max_model_len=context, max_num_seqs=sequences, skip_tokenizer_init=True, generation_config="vllm",
        dtype="bfloat16", **on_gpu,
    )  # fmt: skip
    pipe.send("ready")
    while (load := pipe.recv()) is not None:
        first, requests, tokens = load
        asked = [{"prompt_token_ids": prompt(number)} for number in range(first, first + requests)]
        sampling = SamplingParams(temperature=1.0, max_tokens=tokens, ignore_eos=True, detokenize=False)
        began = time.monotonic()
        done = llm.generate(asked, sampling, use_tqdm=False)
        pipe.send((sum(len(each.outputs[0].token_ids) for each in done), time.monotonic() - began))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="tiny")
    parser.add_argument("--cells", nargs="+", default=["256x512"], help="requests x tokens")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--gpus", type=int, default=0, help="of all replicas together")
    parser.add_argument("--replicas", type=int, default=1)
    parser.add_argument("--name", default="serving")
    arguments = parser.parse_args()
    cells = [(int(requests), int(tokens)) for requests, tokens in (cell.split("x") for cell in arguments.cells)]
    context = PROMPT_TOKENS + max(tokens for _, tokens in cells) + 64
    sequences = max(requests for requests, _ in cells)
    share = 0.42 if arguments.gpus else 0.9
    with tempfile.TemporaryDirectory() as directory:
        model = str(write_shape(arguments.shape, Path(directory), weights=True))
        spawn = multiprocessing.get_context("spawn")
        pipe, other = spawn.Pipe()
        raw = spawn.Process(target=raw_engine, args=(other, model, context, sequences, share), daemon=False)
        raw.start()
        pipe.recv()
        try:
            serve_and_measure(arguments, model, cells, context, sequences, share, pipe)
        finally:
            pipe.send(None)
            raw.join()


def serve_and_measure(
    arguments: argparse.Namespace,
    model: str,
    cells: list[tuple[int, int]],
    context: int,
    sequences: int,
    share: float,
    pipe: Any,
) -> None:
    from ray import serve
    from thinkscale.domain.service import Service
    from thinkscale.runtime.replicas import run_application
    from thinkscale.runtime.session import connect, disconnect
    from thinkscale.server.service import application

    service = Service.model_validate(
        {
            "model": {"base": model, "format": "s1"},
            "name": "benchmark",
            "serve": {
                "context_tokens": context, "max_concurrent_sequences": sequences, "gpu_memory_share": share,
                "dtype": "bfloat16",
            },
            "min_replicas": arguments.replicas,
            "max_replicas": arguments.replicas,
            "gpus_per_replica": arguments.gpus / arguments.replicas,
            "cpus_per_replica": 1.0,
            "threads": max(1, (os.cpu_count() or 2) - 1),
            "max_requests_per_replica": 2 * sequences,
            "max_waiting_requests": 2 * sequences,
        }
    )  # fmt: skip
    connect("local")
    serve.start(http_options={"host": "127.0.0.1", "port": PORT})
    began = time.monotonic()
    handle = run_application(application(service), "benchmark", route_prefix="/", what="the replica")
    start_s = time.monotonic() - began
    info = asyncio.run(facts(handle))
    rows: list[dict[str, Any]] = []
    for requests, tokens in cells:
        rates = asyncio.run(measure(handle, pipe, arguments.ways, requests, tokens, arguments.rounds))
        ratios = {
            f"{way}_ratio": round(statistics.median(a / b for a, b in zip(rates[way], rates["raw"], strict=True)), 3)
            for way in arguments.ways
        }
        medians = {way: round(statistics.median(each)) for way, each in rates.items()}
        row = {"shape": arguments.shape, "replicas": arguments.replicas, "requests": requests, "tokens": tokens}
        rows.append({**row, **ratios, "tokens_per_s": medians, "all_rounds": rates})
        record(
            arguments.name,
            what=f"tokens/s of {rows[0]['requests']} requests of {rows[0]['tokens']} tokens at once, by "
            f"{arguments.ways[-1]}; rows: each way to the engine",
            value=rows[0]["tokens_per_s"][arguments.ways[-1]],
            unit="tokens/s",
            baseline="vLLM's own LLM.generate, same device, same requests, rounds in turn",
            ratio=rows[0][f"{arguments.ways[-1]}_ratio"],
            goal="engine 0.97, forced 0.95, handles 0.95, http 0.90, stream 0.80",
            rows=rows,
            start_s=round(start_s, 1),
            engine={name: info[name] for name in ("engine", "version", "dtype", "device")},
        )
    disconnect()


async def facts(handle: Any) -> dict[str, Any]:
    return dict(await handle.info.remote())


async def measure(
    handle: Any, pipe: Any, chosen: list[str], requests: int, tokens: int, rounds: int
) -> dict[str, list[float]]:
    """Tokens/s by way and round."""
    from thinkscale.domain.generation import Request, Sampling
    from thinkscale.domain.sample import Budget
    from thinkscale.forcing.formats import ForcingIds

    ids = ForcingIds(
        end=(5,), close=(5, 6), wait=(7, 8), final_answer=(9, 10), newline=(TOKENIZER_IDS - 1,),
        newline_ending=frozenset({TOKENIZER_IDS - 1}), eos=(),
    )  # fmt: skip
    sampling = Sampling(temperature=1.0)
    budget = Budget(max_thinking_tokens=tokens - ANSWER_TOKENS - 5, waits=WAITS, max_answer_tokens=ANSWER_TOKENS)

    # Functions within this one: they travel to the replica by value, for this file is not importable there.
    async def one(engine: Any, tokenizer: Any, asked: list[int]) -> int:
        done = await engine.generate(Request(prompt_ids=tuple(asked), max_tokens=tokens, sampling=sampling))
        return len(done.ids)

    async def one_forced(engine: Any, tokenizer: Any, asked: list[int]) -> int:
        from dataclasses import replace

        thought = await engine.force(tuple(asked), budget, replace(ids, eos=engine.info.eos_ids), sampling=sampling)
        return int(thought.thinking_tokens + 3 + len(thought.answer_ids))

    async def all_at_once(engine: Any, tokenizer: Any, make: Any, asked: list[list[int]]) -> tuple[int, float]:
        began = time.monotonic()
        return sum(await asyncio.gather(*(make(engine, tokenizer, each) for each in asked))), time.monotonic() - began

    async def timed(calls: list[Awaitable[int]]) -> tuple[int, float]:
        began = time.monotonic()
        return sum(await asyncio.gather(*calls)), time.monotonic() - began

    async def awaited(response: Any) -> int:
        return int(await response)

    async def ask(session: aiohttp.ClientSession, asked: list[int], stream: bool) -> int:
        body = {"model": "benchmark", "prompt": asked, "max_tokens": tokens, "temperature": 1.0, "stream": stream}
        if stream:
            body["stream_options"] = {"include_usage": True}
        async with session.post("/v1/completions", json=body) as response:
            text = (await response.read()).decode()
        assert response.status == 200, text
        told = json.loads(text) if not stream else json.loads(text.split("data: ")[-2])
        return int(told["usage"]["completion_tokens"])

    async with aiohttp.ClientSession(
        f"http://127.0.0.1:{PORT}", connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(1200)
    ) as session:

        async def raw(first: int) -> tuple[int, float]:
            pipe.send((first, requests, tokens))
            told: tuple[int, float] = await asyncio.to_thread(pipe.recv)
            return told

        def asked(first: int) -> list[list[int]]:
            return [prompt(number) for number in range(first, first + requests)]

        ways: dict[str, Callable[[int], Awaitable[tuple[int, float]]]] = {
            "raw": raw,
            "engine": lambda first: handle.call.remote(all_at_once, one, asked(first)),
            "forced": lambda first: handle.call.remote(all_at_once, one_forced, asked(first)),
            "handles": lambda first: timed([awaited(handle.call.remote(one, each)) for each in asked(first)]),
            "http": lambda first: timed([ask(session, each, False) for each in asked(first)]),
            "stream": lambda first: timed([ask(session, each, True) for each in asked(first)]),
        }
        rates: dict[str, list[float]] = {way: [] for way in ("raw", *chosen)}
        first = 0
        for number in range(rounds + 1):
            for way in rates:
                came, seconds = await ways[way](first)
                first += requests
                if number:  # the first round warms up
                    rates[way].append(round(came / seconds, 1))
                print(f"{way}: {came} tokens in {seconds:.2f} s, {came / seconds:.0f} tokens/s", flush=True)
    return rates


if __name__ == "__main__":
    main()
