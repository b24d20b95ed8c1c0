"""Attempts of a teacher behind an endpoint: paid for once, within its limits, each with what became of it.
Owns the order of things: look whether a reply is stored, wait for the limits, send, try again, store, then use."""

import asyncio
import random
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from thinkscale.domain.generation import EngineInfo, StopAskingError
from thinkscale.domain.models import Teacher
from thinkscale.domain.question import Attempt
from thinkscale.engines.chat import AgainError, ChatEndpoint, RefusedError, chat_body
from thinkscale.forcing.reading import read_reply
from thinkscale.runtime.batches import BatchEndpoint
from thinkscale.runtime.limits import Pace
from thinkscale.store.filesystem import Store
from thinkscale.store.replies import Replies, request_key

LONGEST_PAUSE_S = 60.0
BATCH_PRICE = 0.5
MOST_TOKENS, MOST_USD = 10**9, 10**4  # of one reply: what says more is not believed
CHARACTERS_A_TOKEN = 4  # about; of prompts, before a reply says how many there were


@dataclass(frozen=True, kw_only=True)
class EndpointSettings:
    """A teacher and where its replies are kept. Picklable."""

    teacher: Teacher
    store: Store
    campaign: str
    usd_left: float | Callable[[], float] | None = None  # what may still be spent, or what tells; None: any sum


class EndpointTeacher:
    """What `run_asks` takes for an engine: it answers questions, not token ids."""

    def __init__(self, settings: EndpointSettings) -> None:
        self._settings, self._teacher = settings, settings.teacher
        teacher = self._teacher
        self.info = EngineInfo(
            engine="endpoint", version="chat", model=str(teacher.model), dtype="unknown",
            device=str(teacher.endpoint), context_tokens=0, vocab_size=0, eos_ids=(),
        )  # fmt: skip
        store = Store(settings.store.uri)  # replies are every campaign's: none holds a lease on them
        self._replies, self._pace = Replies(store), Pace(store, f"{teacher.endpoint} {teacher.model}", teacher.limits)
        self._client: ChatEndpoint | BatchEndpoint = (
            BatchEndpoint(teacher, store, self._keep) if teacher.api == "batch" else ChatEndpoint(teacher)
        )
        self._marks = () if not (teacher.start and teacher.end) else ((teacher.start, teacher.end),)
        self._room = asyncio.Semaphore(teacher.limits.concurrency)
        left = settings.usd_left
        if callable(left):  # asked anew by a process that takes another's place; in a thread, for it has its own loop
            with ThreadPoolExecutor(1) as pool:
                left = pool.submit(left).result()
        self._usd_left = left
        self._usd, self._completion_tokens, self._replied = 0.0, 0, 0
        self._under_way = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._stopped: StopAskingError | None = None

    async def attempt(self, question: str, number: int) -> Attempt:
        """One attempt at a question, of several by number.
        Raises StopAskingError: no further request shall be made; what was under way is stored."""
        body = chat_body(self._teacher, question)
        key = request_key(str(self._teacher.endpoint), body, number)
        record = await self._replies.get(key)
        if record is None:
            try:
                async with self._room:
                    record = await self._paid(key, body)
            except StopAskingError as error:
                await self.stop(error)
            except RefusedError as error:
                return Attempt(status=error.status, words=str(error))
            except AgainError as error:
                return Attempt(status="error", words=str(error))
        assert record is not None
        return attempt_of(record, self._settings.campaign, self._marks)

    async def stop(self, error: StopAskingError) -> None:
        """Send nothing more, and raise the error once what is under way is stored."""
        self._stopped = self._stopped or error
        if self._teacher.api == "chat":  # a batch is found again by its id
            await self._idle.wait()
        await asyncio.to_thread(self._pace.release)
        raise self._stopped

    async def close(self) -> None:
        await asyncio.to_thread(self._pace.release)
        await self._client.close()

    async def _paid(self, key: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """The stored reply to a request that is sent now. Raises as ChatEndpoint.send, after retries."""
        limits, began, tries, again = self._teacher.limits, time.monotonic(), 0, 0
        while True:
            counted = await self._pace.admit(self._expected_tokens(body))
            if self._stopped is not None:
                raise self._stopped
            left = self._usd_left
            if left is not None and self._usd >= left:
                raise StopAskingError(
                    f"--max-usd is reached: {self._usd:.4f} USD were spent in this run, {left:.4f} were left. Every "
                    "reply is kept: a higher --max-usd goes on from here"
                )
            self._under_way, took = self._under_way + 1, 0
            self._idle.clear()
            try:
                reply = await self._client.send(key, body)
                kept = await self._replies.get(key) if self._teacher.api == "batch" else None
                record = kept or await self._keep(key, reply)
                took = sum(record["tokens"])
                return record
            except AgainError as error:
                tries, again = tries + (not error.is_limit), again + 1
                if tries >= limits.tries or (error.is_limit and time.monotonic() - began > limits.timeout_s):
                    raise AgainError(f"{error} (tried {tries} times)") from None
                pause_s = await self._pause_s(error, again)
            finally:
                self._pace.settle(counted, took)
                self._under_way -= 1
                if not self._under_way:
                    self._idle.set()
            await asyncio.sleep(pause_s)

    async def _pause_s(self, error: AgainError, again: int) -> float:
        pause_s = min(LONGEST_PAUSE_S, 2.0 ** min(again - 1, 10)) * (0.5 + random.random() / 2)
        if error.wait_s is None:
            return pause_s
        if error.is_limit:
            await self._pace.hold_off(error.wait_s)
        return error.wait_s + random.random() * min(pause_s, 0.1 * error.wait_s)

    async def _keep(self, key: str, reply: Mapping[str, Any]) -> dict[str, Any]:
        tokens, cost = _usage(reply)
        prices = self._teacher.prices
        usd = (tokens[0] * prices.prompt_usd_per_million + tokens[1] * prices.completion_usd_per_million) / 1e6
        usd = cost or usd * (BATCH_PRICE if self._teacher.api == "batch" else 1.0)
        self._usd += usd
        self._completion_tokens += tokens[1]
        self._replied += 1
        where = {"endpoint": self._teacher.endpoint, "model": self._teacher.model, "at": round(time.time(), 3)}
        record = {"reply": reply, "tokens": tokens, "usd": usd, "paid_by": self._settings.campaign}
        return await self._replies.put(key, {**where, **record})

    def _expected_tokens(self, body: Mapping[str, Any]) -> int:
        prompt = sum(len(message["content"]) for message in body["messages"]) // CHARACTERS_A_TOKEN
        teacher = self._teacher
        first = (teacher.max_thinking_tokens + teacher.max_answer_tokens) // 4
        return prompt + (self._completion_tokens // self._replied if self._replied else first)


def attempt_of(record: Mapping[str, Any], campaign: str, marks: Any = ()) -> Attempt:
    """A stored reply as an attempt; its dollars are those of the campaign that paid for it."""
    prompt, completion = record["tokens"]
    usd = float(record["usd"]) if record["paid_by"] == campaign else 0.0
    return read_reply(record["reply"], marks, prompt_tokens=prompt, completion_tokens=completion, usd=usd)


async def spent_usd(settings: EndpointSettings, questions: list[tuple[str, int]]) -> float:
    """What the campaign has paid for the stored replies to these attempts."""
    teacher, replies = settings.teacher, Replies(Store(settings.store.uri))
    room = asyncio.Semaphore(teacher.limits.concurrency)

    async def usd(question: str, number: int) -> float:
        async with room:
            record = await replies.get(request_key(str(teacher.endpoint), chat_body(teacher, question), number))
        return float(record["usd"]) if record is not None and record["paid_by"] == settings.campaign else 0.0

    return sum(await asyncio.gather(*(usd(*each) for each in questions)))


def _usage(reply: Mapping[str, Any]) -> tuple[list[int], float]:
    """Tokens of the prompt and of the completion, and what it cost in dollars; 0 where the reply says nothing that
    can be."""
    usage = reply.get("usage")
    if not isinstance(usage, dict):
        return [0, 0], 0.0
    counts, cost = (usage.get("prompt_tokens"), usage.get("completion_tokens")), usage.get("cost")
    tokens = [int(n) if isinstance(n, int) and 0 < n <= MOST_TOKENS else 0 for n in counts]
    return tokens, float(cost) if isinstance(cost, int | float) and 0 < cost <= MOST_USD else 0.0
