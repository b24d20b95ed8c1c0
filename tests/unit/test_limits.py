from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from thinkscale.domain.generation import StopAskingError
from thinkscale.domain.models import Limits
from thinkscale.runtime.limits import Pace
from thinkscale.store.filesystem import Store

DAY_S = 86_400.0


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self, now: float = 20_000 * DAY_S) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


def pace(root: Path, clock: Clock, **limits: Any) -> Pace:
    return Pace(Store(str(root)), "http://host/v1 m", Limits(**limits), clock, clock.sleep)


def admitted(made: Pace, clock: Clock, count: int, tokens: int = 100, took: int | None = None) -> list[float]:
    """When each of so many requests went, in seconds from now."""

    async def run() -> list[float]:
        began, found = clock.now, []
        for _ in range(count):
            counted = await made.admit(tokens)
            found.append(clock.now - began)
            made.settle(counted, tokens if took is None else took)
        return found

    return asyncio.run(run())


def test_without_limits_nothing_is_counted(tmp_path: Path) -> None:
    clock = Clock()
    assert admitted(pace(tmp_path, clock), clock, 100)[-1] == 0
    assert not list(tmp_path.rglob("*.json"))


def test_requests_a_minute_are_kept_over_restarts_and_campaigns(tmp_path: Path) -> None:
    clock = Clock()
    whole = []
    for _ in range(6):  # each a process of its own that dies
        whole += [clock.now + 0 * at for at in admitted(pace(tmp_path, clock, requests_per_minute=60), clock, 15)]
    assert clock.now - 20_000 * DAY_S >= 6 * 15 - 1


def test_tokens_a_minute_follow_what_replies_took(tmp_path: Path) -> None:
    clock = Clock()
    made = pace(tmp_path, clock, tokens_per_minute=6_000, concurrency=1)
    took = admitted(made, clock, 61, tokens=100, took=200)
    assert took[-1] == pytest.approx(60 * 2.0, rel=0.05)


def test_the_days_quota_ends_the_run_and_is_renewed(tmp_path: Path) -> None:
    clock = Clock(20_000 * DAY_S + 3600)
    for _ in range(2):
        made = pace(tmp_path, clock, requests_per_day=10, concurrency=4)
        admitted(made, clock, 5)
        made.release()
    with pytest.raises(StopAskingError, match=r"used up its daily quota, renewed at 2024-10-05 00:00 UTC.*goes on"):
        admitted(pace(tmp_path, clock, requests_per_day=10), clock, 1)
    clock.now += 23 * 3600
    assert admitted(pace(tmp_path, clock, requests_per_day=10), clock, 10)[-1] == 0


def test_a_quota_is_never_exceeded_by_those_that_crash(tmp_path: Path) -> None:
    clock, went = Clock(), 0
    for _ in range(5):
        try:
            went += len(admitted(pace(tmp_path, clock, requests_per_day=10, concurrency=4), clock, 3))
        except StopAskingError:
            break
    assert 6 <= went <= 10


def test_a_run_may_wait_for_the_quota(tmp_path: Path) -> None:
    clock = Clock(20_000 * DAY_S)
    took = admitted(pace(tmp_path, clock, requests_per_day=2, at_quota="pause", day_begins_utc_hour=7), clock, 5)
    assert took == [0, 0, 7 * 3600, 7 * 3600, 31 * 3600]


def test_tokens_a_day(tmp_path: Path) -> None:
    clock = Clock()
    made = pace(tmp_path, clock, tokens_per_day=1_000, concurrency=1)
    with pytest.raises(StopAskingError):
        admitted(made, clock, 11, tokens=100)
    assert admitted(pace(tmp_path / "other", clock, tokens_per_day=1_000, concurrency=1), clock, 10)[-1] == 0


def test_what_a_server_asks_to_wait_holds_for_all(tmp_path: Path) -> None:
    clock = Clock()
    made = pace(tmp_path, clock)
    asyncio.run(made.hold_off(30.0))
    assert admitted(made, clock, 2) == [30.0, 30.0]
    with pytest.raises(StopAskingError, match=r"used up the server's quota \(Retry-After: 7200 s\)"):
        asyncio.run(made.hold_off(7200.0))
