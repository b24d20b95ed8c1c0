"""Requests to a teacher's endpoint: what asking costs beside waiting, and kills under a stage that pays.

    python benchmarks/distillation.py                 # 10,000 requests of 50 ms at concurrency 256
    python benchmarks/distillation.py --kills 50      # instead: kills of a process that asks, and what was paid twice

Measured is what every request passes: the queue of asks, the look-up and the storing of the reply in the root, the
client. The teacher answers in 50 ms, in a process of its own. Memory is sampled while it runs.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import Any

import uvloop

from recording import record

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from distilling import kill_and_resume, ledger
from thinkscale.domain.models import Teacher
from thinkscale.runtime.asking import Asking
from thinkscale.runtime.teaching import EndpointSettings, EndpointTeacher
from thinkscale.store.filesystem import Store

PORT = 18_765
SEGMENT_ROWS = 256  # `[distillation] segment_rows`; as many at once as keep an actor full
THINKING = "Let me think about this step by step. " * 50


class Answering(asyncio.Protocol):
    """An HTTP server that answers everything alike after a while, as cheaply as can be."""

    delay_s = 0.05

    def connection_made(self, transport: Any) -> None:
        self._transport, self._come = transport, b""

    def data_received(self, data: bytes) -> None:
        self._come += data
        while (end := self._come.find(b"\r\n\r\n")) >= 0:
            head = self._come[:end].lower()
            at = head.find(b"content-length:")
            length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(self._come) < end + 4 + length:
                return
            self._come = self._come[end + 4 + length :]
            asyncio.get_running_loop().call_later(self.delay_s, self._transport.write, self.answer)

    @staticmethod
    def made() -> bytes:
        message = {"role": "assistant", "reasoning_content": THINKING, "content": "The answer is 4"}
        body = json.dumps(
            {
                "id": "",
                "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
                "usage": {"prompt_tokens": 30, "completion_tokens": 500},
            }
        ).encode()
        return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body


async def answer(delay_s: float) -> None:
    Answering.delay_s, Answering.answer = delay_s, Answering.made()  # type: ignore[attr-defined]
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Answering, "127.0.0.1", PORT, backlog=2048)
    await server.serve_forever()


async def ask(root: str, requests: int, concurrency: int) -> dict[str, Any]:
    """Ask so many questions; seconds, CPU seconds and resident memory after each tenth."""
    teacher = Teacher.model_validate(
        {
            "model": "m",
            "endpoint": f"http://127.0.0.1:{PORT}/v1",
            "limits": {"concurrency": concurrency},
            "prices": {"prompt_usd_per_million": 1.0, "completion_usd_per_million": 2.0},
        }
    )
    engine = EndpointTeacher(EndpointSettings(teacher=teacher, store=Store(root), campaign="c"))

    async def put(row: int) -> Any:
        return await engine.attempt(f"Question number {row}: what is 2 + 2?", 0)

    asking = Asking(put, room=concurrency)
    await asyncio.gather(*(engine.attempt(f"warm {i}", 0) for i in range(concurrency)))
    memory, ok = [], 0
    began, cpu = time.perf_counter(), time.process_time()
    rows = iter(range(requests))

    async def segments() -> None:  # one after another, as an actor takes them: no more rows in memory than that
        nonlocal ok
        while segment := list(islice(rows, SEGMENT_ROWS)):
            attempts = await asyncio.gather(*(asking.ask(row, str(row)) for row in segment))
            before, ok = ok, ok + sum(attempt.status == "ok" for attempt in attempts)
            if ok // (requests // 10) > before // (requests // 10):
                memory.append(resident_mib())

    await asyncio.gather(*(segments() for _ in range(1 + math.ceil(concurrency / SEGMENT_ROWS))))
    elapsed_s, cpu_s = time.perf_counter() - began, time.process_time() - cpu
    await engine.close()
    return {"ok": ok, "elapsed_s": elapsed_s, "cpu_s": cpu_s, "memory_mib": memory}


async def only_sleep(requests: int, concurrency: int, delay_s: float) -> float:
    """Seconds that as many tasks take which wait as long and do nothing: what this machine leaves of the ideal."""
    left = iter(range(requests))

    async def worker() -> None:
        for _ in left:
            await asyncio.sleep(delay_s)

    began = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(concurrency)))
    return time.perf_counter() - began


def resident_mib() -> float:
    fields = Path("/proc/self/statm").read_text().split()
    return round(int(fields[1]) * resource.getpagesize() / 2**20, 1)


def kill(kills: int) -> None:
    questions = 600
    with tempfile.TemporaryDirectory() as root:
        found = kill_and_resume(Path(root), kills=kills, questions=questions, seed=1, how="asking")
    twice, most = found["paid"] - questions, found["kills"] * found["concurrency"]
    record(
        "distillation_kills",
        what=f"{found['kills']} kills at random moments of a process that asks {questions} questions; replies that "
        "were paid for twice",
        value=twice,
        unit="replies",
        baseline=f"what was under way at the kills, at most {most} replies",
        ratio=round(twice / most, 3),
        goal="at most what was under way, no row lost",
        **found,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--concurrency", type=int, default=256)
    parser.add_argument("--delay", type=float, default=0.05)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--serve", action="store_true")
    given = parser.parse_args()
    if given.serve:
        uvloop.run(answer(given.delay))
        return
    if given.kills:
        kill(given.kills)
        return
    server = subprocess.Popen([sys.executable, __file__, "--serve", "--delay", str(given.delay)])
    load = os.getloadavg()[0]
    try:
        runs = []
        ledger(PORT)
        for _ in range(given.repeats):
            with tempfile.TemporaryDirectory() as root:
                runs.append(uvloop.run(ask(root, given.requests, given.concurrency)))
                print(runs[-1], flush=True)
    finally:
        server.kill()
        server.wait()
    middle = sorted(runs, key=lambda run: run["elapsed_s"])[len(runs) // 2]
    sleeping_s = uvloop.run(only_sleep(given.requests, given.concurrency, given.delay))
    rate, ideal = given.requests / middle["elapsed_s"], given.concurrency / given.delay
    record(
        "distillation",
        what=f"{given.requests:,} requests to a local endpoint of {given.delay * 1000:g} ms at concurrency "
        f"{given.concurrency}, each reply stored in the root before it is used; the median of its repeats",
        value=round(rate, 1),
        unit="requests/s",
        baseline=f"the ideal rate, concurrency over delay: {ideal:,.0f} requests/s",
        ratio=round(rate / ideal, 3),
        goal=0.9,
        ratios_of_repeats=[round(given.requests / run["elapsed_s"] / ideal, 3) for run in runs],
        ratio_of_tasks_that_only_sleep=round(given.requests / sleeping_s / ideal, 3),
        cpu_us_per_request=round(middle["cpu_s"] / given.requests * 1e6, 1),
        memory_mib=middle["memory_mib"],
        root=tempfile.gettempdir(),
        load_average_before=round(load, 1),
        note="the goal leaves delay / concurrency / 0.9 a request (217 us at the defaults); cpu_us_per_request is what "
        "asking took of all cores. Where cores are shared with other work, it waits for them beside that, "
        "as tasks that only sleep do",
    )


if __name__ == "__main__":
    main()
