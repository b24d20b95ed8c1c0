"""When the next request may go to an endpoint: rates and daily quotas, counted in the root.
Owns the counts and their arithmetic. They are reserved for a few requests ahead by a conditional replacement of one
object, so that they hold over actors, campaigns and restarts: a crash loses at most what was reserved."""

import asyncio
import hashlib
import json
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from thinkscale.domain.generation import StopAskingError
from thinkscale.domain.models import Limits
from thinkscale.store.filesystem import Store

log = logging.getLogger(__name__)

Clock = Callable[[], float]
Sleep = Callable[[float], Awaitable[Any]]

AHEAD_S = 2.0  # so much time's requests are reserved at once
LONG_S = 900.0  # a server that wants a longer wait than this has a quota of its own that is used up


class Pace:
    """Admits requests to one endpoint one after another.
    `who`: the endpoint and the model that is limited. `clock`: seconds of wall time. `sleep`: as asyncio's."""

    def __init__(
        self, store: Store, who: str, limits: Limits, clock: Clock = time.time, sleep: Sleep = asyncio.sleep
    ) -> None:
        self._store, self._who, self._limits, self._clock, self._sleep = store, who, limits, clock, sleep
        self._path = f"replies/limits/{hashlib.sha256(who.encode()).hexdigest()[:16]}.json"
        self._turn = asyncio.Lock()
        self._reserved, self._next_at, self._each_s, self._each_tokens = 0, 0.0, 0.0, 0
        self._owed_tokens = 0  # what replies took beyond what was reserved for them
        self._not_before = 0.0
        self._is_counted = any(
            (limits.requests_per_minute, limits.tokens_per_minute, limits.requests_per_day, limits.tokens_per_day)
        )

    async def admit(self, tokens: int) -> int:
        """Wait until a request of about so many tokens may go; returns the tokens that were counted for it.
        Raises StopAskingError: the day's quota is used up and limits.at_quota is "end"."""
        if not self._is_counted and self._clock() >= self._not_before:
            return tokens
        async with self._turn:
            at = self._clock()
            if self._is_counted:
                while not self._reserved:
                    await asyncio.to_thread(self._reserve, tokens)
                    if not self._reserved:
                        await self._out(self._day_ends() - self._clock(), "its daily quota")
                self._reserved -= 1
                at, self._next_at, tokens = self._next_at, self._next_at + self._each_s, self._each_tokens
            while (wait_s := max(at, self._not_before) - self._clock()) > 0:
                await self._sleep(wait_s)
            return tokens

    def settle(self, counted: int, took: int) -> None:
        """A request that `counted` tokens were counted for took so many."""
        self._owed_tokens += took - counted

    async def hold_off(self, wait_s: float) -> None:
        """The endpoint wants no request for so long. Raises StopAskingError as `admit`."""
        if wait_s > LONG_S and self._limits.at_quota == "end":
            await self._out(wait_s, f"the server's quota (Retry-After: {wait_s:.0f} s)")
        self._not_before = max(self._not_before, self._clock() + wait_s)

    def release(self) -> None:
        if self._reserved:
            self._change(lambda state, now: self._take(state, now, -self._reserved, self._each_tokens))
            self._reserved = 0

    async def _out(self, wait_s: float, what: str) -> None:
        until = datetime.fromtimestamp(self._clock() + wait_s, UTC).strftime("%Y-%m-%d %H:%M UTC")
        if self._limits.at_quota == "end":
            raise StopAskingError(
                f"{self._who} has used up {what}, renewed at {until}: every reply is kept, the same command goes on "
                'from here then (or set limits.at_quota = "pause" to wait)'
            )
        log.warning("%s has used up %s: waiting until %s", self._who, what, until)
        await self._sleep(wait_s)

    def _reserve(self, tokens: int) -> None:
        limits = self._limits
        rates = [(limits.requests_per_minute, 1), (limits.tokens_per_minute, max(tokens, 1))]
        self._each_s = max((60.0 * each / rate for rate, each in rates if rate), default=0.0)
        ahead = int(AHEAD_S / self._each_s) if self._each_s else limits.concurrency
        most, owed = max(1, min(limits.concurrency, ahead)), self._owed_tokens

        def take(state: dict[str, Any], now: float) -> int:
            if state["day"] != self._day(now):
                state |= {"day": self._day(now), "requests": 0, "tokens": 0}
            state["tokens"] += owed
            left = most if limits.requests_per_day is None else limits.requests_per_day - state["requests"]
            if limits.tokens_per_day is not None:
                left = min(left, -(-(limits.tokens_per_day - state["tokens"]) // max(tokens, 1)))
            if limits.tokens_per_minute:
                state["at"] = max(now, state["at"]) + owed * 60.0 / limits.tokens_per_minute
            count = max(0, min(most, left))
            self._next_at = max(now, state["at"])
            return self._take(state, now, count, tokens)

        self._reserved, self._each_tokens = self._change(take), tokens
        self._owed_tokens -= owed

    def _take(self, state: dict[str, Any], now: float, count: int, tokens: int) -> int:
        state["at"] = max(now, state["at"]) + count * self._each_s if count >= 0 else state["at"] + count * self._each_s
        state["requests"] += count
        state["tokens"] += count * tokens
        return count

    def _change(self, change: Callable[[dict[str, Any], float], int]) -> int:
        while True:
            state: dict[str, Any] = {"serial": 0, "at": 0.0, "day": "", "requests": 0, "tokens": 0}
            write: Callable[..., bool] = self._store.create
            with suppress(FileNotFoundError):
                before = self._store.read_bytes(self._path)
                state, write = json.loads(before), partial(self._store.replace, expected=before)
            result = change(state, self._clock())
            state["serial"] += 1
            if write(self._path, data=json.dumps({**state, "who": self._who}).encode()):
                return result

    def _day(self, now: float) -> str:
        shifted = datetime.fromtimestamp(now, UTC) - timedelta(hours=self._limits.day_begins_utc_hour)
        return shifted.date().isoformat()

    def _day_ends(self) -> float:
        day = datetime.fromisoformat(self._day(self._clock())).replace(tzinfo=UTC)
        return (day + timedelta(days=1, hours=self._limits.day_begins_utc_hour)).timestamp()
