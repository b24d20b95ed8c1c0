"""Asks of engines that fail and die: nobody pays for another's poison, and nothing is asked for ever."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence

import pytest

from thinkscale.domain.generation import EngineDiedError, EngineError
from thinkscale.runtime.asking import FAILED_LEAST, Asking, EngineGoneError, Failed


class Engines:
    """Some engines. A row of `poison` kills the one it is on, with all that is under way there."""

    def __init__(self, count: int = 1, poison: Sequence[int] = (), kills: Sequence[int] = ()) -> None:
        self.asked: Counter[int] = Counter()
        self.deaths = self.most = 0
        self._poison, self._kills = set(poison), list(kills)
        self._on: list[set[asyncio.Future[None]]] = [set() for _ in range(count)]

    async def put(self, row: int) -> str:
        self.asked[row] += 1
        calls = min(self._on, key=len)
        death: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        calls.add(death)
        self.most = max(self.most, sum(map(len, self._on)))
        await asyncio.sleep(0)
        if row in self._poison or (self._kills and sum(self.asked.values()) >= self._kills[0]):
            if row not in self._poison:
                self._kills.pop(0)
            self.deaths += 1
            for other in calls:
                if not other.done():
                    other.set_exception(EngineDiedError("the engine is dead"))
            calls.clear()
        for _ in range(3):
            await asyncio.sleep(0)
            if death.done():
                await death
        calls.discard(death)
        death.cancel()
        return f"answer {row}"


def ask_all(asking: Callable[[], Asking], rows: Sequence[int]) -> list[object]:
    async def run() -> list[object]:
        one = asking()
        return list(await asyncio.gather(*(one.ask(row, str(row)) for row in rows)))

    return asyncio.run(asyncio.wait_for(run(), 60))


@pytest.mark.parametrize("replicas", [1, 3])
@pytest.mark.parametrize("poison", [[], [0], [17], [3, 40], [5, 6]])
def test_only_the_row_that_kills_engines_fails(replicas: int, poison: list[int]) -> None:
    engines = Engines(replicas, poison)
    answers = ask_all(lambda: Asking(engines.put, room=16 * replicas), range(64))
    failed = [row for row, answer in enumerate(answers) if isinstance(answer, Failed)]
    assert failed == poison
    assert all(answer == f"answer {row}" for row, answer in enumerate(answers) if row not in poison)
    assert engines.deaths <= 8 * max(1, len(poison))
    assert engines.most <= 16 * replicas


def test_deaths_by_other_hands_are_nobodys_try() -> None:
    engines = Engines(2, kills=range(20, 400, 20))
    made: list[Asking] = []

    def make() -> Asking:
        made.append(Asking(engines.put, room=16))
        return made[0]

    answers = ask_all(make, range(200))
    assert engines.deaths >= 10
    assert made[0].take_lost()["rows_asked_again"] >= engines.deaths
    assert made[0].take_lost() == {}
    assert answers == [f"answer {row}" for row in range(200)]


def test_an_engine_that_dies_under_every_row_ends_the_stage() -> None:
    engines = Engines(1, poison=range(100))
    with pytest.raises(EngineError, match="3 rows in a row: look at the engine's log"):
        ask_all(lambda: Asking(engines.put, room=8), range(100))


def test_an_error_is_tried_again_and_then_the_rows_status(monkeypatch: pytest.MonkeyPatch) -> None:
    tries: Counter[int] = Counter()

    async def put(row: int) -> str:
        tries[row] += 1
        if row == 3 or (row == 4 and tries[row] < 3):
            raise EngineError(f"no luck with {row}")
        if row == 5:
            raise ValueError("longer than the context")
        return "ok"

    monkeypatch.setattr(asyncio, "sleep", _at_once)
    answers = ask_all(lambda: Asking(put, room=4), range(8))
    assert answers[3] == Failed(error="no luck with 3")
    assert answers[5] == Failed(error="longer than the context")
    assert [answer for row, answer in enumerate(answers) if row not in (3, 5)] == ["ok"] * 6
    assert (tries[3], tries[4], tries[5]) == (4, 3, 1)


_sleep = asyncio.sleep


async def _at_once(seconds: float) -> None:
    await _sleep(0)


def test_so_many_failures_end_the_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    async def put(row: int) -> str:
        raise EngineError("the key is refused")

    monkeypatch.setattr(asyncio, "sleep", _at_once)
    with pytest.raises(EngineError, match=f"{FAILED_LEAST} of {FAILED_LEAST} rows failed, the last one: the key"):
        ask_all(lambda: Asking(put, room=4), range(200))


def test_a_few_rows_that_all_fail_are_not_at_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    async def put(row: int) -> str:
        if row < 0:
            raise ValueError("longer than the context")
        raise EngineError("the key is refused")

    monkeypatch.setattr(asyncio, "sleep", _at_once)

    async def checked(rows: Sequence[int]) -> None:
        asking = Asking(put, room=4)
        asking.check(await asyncio.gather(*(asking.ask(row, str(row)) for row in rows)))

    with pytest.raises(EngineError, match="all 3 rows failed, the last one: the key is refused"):
        asyncio.run(checked([1, 2, 3]))
    asyncio.run(checked([-1, -2]))


def test_an_engine_that_had_died_before_was_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = iter([True] * 30)

    async def put(row: int) -> str:
        if next(gone, False):
            raise EngineGoneError("it is being replaced")
        return "ok"

    monkeypatch.setattr(asyncio, "sleep", _at_once)
    assert ask_all(lambda: Asking(put, room=4), range(8)) == ["ok"] * 8


def test_a_bug_ends_the_stage_with_its_own_error() -> None:
    async def put(row: int) -> str:
        raise KeyError("no such column")

    with pytest.raises(KeyError, match="no such column"):
        ask_all(lambda: Asking(put, room=4), range(8))


def test_the_longest_expected_go_first_and_room_is_kept() -> None:
    order: list[int] = []

    async def run() -> None:
        async def put(row: int) -> None:
            order.append(row)
            await asyncio.sleep(0)

        asking = Asking(put, room=2)
        await asyncio.gather(*(asking.ask(row, str(row), expected=row) for row in range(10)))

    asyncio.run(run())
    assert order[2:] == sorted(order[2:], reverse=True)


def test_what_a_dead_process_had_alone_is_remembered() -> None:
    """A row under which a process died alone twice is given up by the next one, unasked."""
    engines, told = Engines(1), []
    asking = lambda: Asking(  # noqa: E731
        engines.put, room=4, deaths={"3": 2, "4": 1}, witness=lambda key, what: told.append((key, what))
    )
    answers = ask_all(asking, range(8))
    assert isinstance(answers[3], Failed)
    assert engines.asked[3] == 0
    assert answers[4] == "answer 4"
    assert ("4", "alone") in told
    assert ("0", "begun") in told
    assert ("0", "ended") in told
