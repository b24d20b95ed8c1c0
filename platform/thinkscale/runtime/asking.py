"""Many asks (rows put to an engine) of engines that may die: which go next, are tried again, and are given up. A death
is nobody's try: what was under way goes again, and what died twice is suspected: suspects run with nothing else under
way, in ever smaller groups, until the one that kills engines stands alone. Knows neither rows nor Ray; in one event
loop."""

import asyncio
import heapq
import logging
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

from thinkscale.domain.generation import EngineDiedError, EngineError, StopAskingError

log = logging.getLogger(__name__)

TRIES = 4  # times that an ask is put to an engine that fails on it without dying
DEATHS_UNSUSPECTED = 1  # engines that may die under an ask before it is suspected: nodes are taken back
DEATHS_ALONE = 2  # engines that an ask must kill alone before it is given up
GROUPS = 8  # parts into which suspects are split
GIVEN_UP_IN_A_ROW = 3  # asks given up for deaths without an answer between them: the engine is at fault
FAILED_SHARE, FAILED_LEAST = 0.2, 50  # of failed asks, of at least so many: not the rows are at fault


class EngineGoneError(EngineError):
    """The ask reached an engine that had died before; it was not begun."""


@dataclass(frozen=True, kw_only=True)
class Failed:
    """In place of an answer: no engine could give one."""

    error: str


@dataclass(kw_only=True, eq=False)
class _Ask:
    row: Any
    key: str
    answer: asyncio.Future[Any]
    tries: int = 0
    deaths: int = 0
    deaths_alone: int = 0
    company: int = 0  # suspects that it runs with, itself included; 0: it runs among others


class Asking:
    """Puts rows to engines, the longest expected first, as many at once as there is room for.
    `put`: puts a row to an engine. Raises EngineDiedError where the engine died under it, EngineGoneError where it had
    died before, another EngineError where it failed, ValueError where the row is impossible. `room`: the most asks
    under way. `changed`: told of each row that goes under way (+1) or ends (-1), and whether none waits. `witness`:
    told of each ask, by key, that it is `begun` among others or `alone`, or `ended`. `deaths`: asks by key under which
    an earlier process died, and how often alone."""

    def __init__(
        self,
        put: Callable[[Any], Awaitable[Any]],
        *,
        room: int,
        changed: Callable[[Any, int, bool], None] = lambda row, by, draining: None,
        witness: Callable[[str, str], None] = lambda key, what: None,
        deaths: Mapping[str, int] | None = None,
    ) -> None:
        self._put, self._room, self._changed, self._witness = put, room, changed, witness
        self._deaths = dict(deaths or {})
        self._waiting: list[tuple[float, int, _Ask]] = []
        self._numbers = count()
        self._under_way: set[_Ask] = set()
        self._suspects_under_way = 0
        self._suspects: list[_Ask] = []
        self._groups: list[list[_Ask]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._answered = self._failed = self._errors = self._given_up = 0
        self._again_after_death = len(self._deaths)
        self._fatal: Exception | None = None

    @property
    def wanted(self) -> int:
        """How many more rows would find room at once."""
        return self._room - len(self._under_way) - len(self._waiting) - len(self._suspects)

    def take_lost(self) -> dict[str, int]:
        """Times that a row was under way when its engine died, since this was asked last, as a sum of a manifest."""
        lost, self._again_after_death = self._again_after_death, 0
        return {"rows_asked_again": lost} if lost else {}

    def check(self, answers: Sequence[Any]) -> None:
        """Raises EngineError where these rows all failed and no other row was answered: the rows are not at fault."""
        silent = self._errors and not self._answered
        if silent and answers and all(isinstance(answer, Failed) for answer in answers):
            raise EngineError(f"all {len(answers)} rows failed, the last one: {answers[-1].error}")

    async def ask(self, row: Any, key: str, *, expected: float = 0.0) -> Any:
        """The answer to a row; Failed where engines fail or die on it again and again, or it is impossible.
        `key`: names the row over all processes. `expected`: tokens that its answer will take, about. Raises EngineError
        where so much fails that the engine or its settings are at fault."""
        one = _Ask(row=row, key=key, answer=asyncio.get_running_loop().create_future())
        if key in self._deaths:
            one.deaths, one.deaths_alone = DEATHS_UNSUSPECTED + 1, self._deaths[key]
            self._suspect(one)
        else:
            self._wait(one, expected)
        if self._fatal is not None:
            raise self._fatal
        self._fill()
        return await one.answer

    def _wait(self, one: _Ask, expected: float = float("inf")) -> None:
        heapq.heappush(self._waiting, (-expected, next(self._numbers), one))

    def _suspect(self, one: _Ask) -> None:
        if one.deaths_alone >= DEATHS_ALONE:
            self._give_up(one)
        else:
            self._suspects.append(one)

    def _fill(self) -> None:
        for one in self._next():
            self._start(one)

    def _next(self) -> list[_Ask]:
        """What may go under way now, and is counted as such."""
        found: list[_Ask] = []
        if self._suspects or self._groups:
            if self._under_way:
                return found
            if self._suspects:
                parts = min(GROUPS, len(self._suspects))  # of about the same size
                self._groups += [self._suspects[i::parts] for i in range(parts)]
                self._suspects = []
            found = self._groups.pop()
            for one in found:
                one.company = len(found)
            self._suspects_under_way = len(found)
        elif not self._suspects_under_way:
            room = self._room - len(self._under_way)
            found = [heapq.heappop(self._waiting)[2] for _ in range(min(room, len(self._waiting)))]
        self._under_way.update(found)
        return found

    def _start(self, one: _Ask) -> None:
        task = asyncio.create_task(self._run(one))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, one: _Ask) -> None:
        """One ask, then the next that finds room, in the same turn of the loop: answers that come together would
        otherwise be followed by asks that leave together, ever larger crowds of them."""
        following = [one]
        while following:
            one, *others = following
            for other in others:
                self._start(other)
            await self._put_once(one)
            following = self._next()

    async def _put_once(self, one: _Ask) -> None:
        self._changed(one.row, +1, not self._waiting)
        self._witness(one.key, "alone" if one.company == 1 else "begun")
        try:
            answer = await self._put(one.row)
        except EngineGoneError:
            await asyncio.sleep(1.0 + random.random())
            self._again(one)
        except EngineDiedError as error:
            log.warning("an engine died under %s (%d before): %s", one.key, one.deaths, error)
            self._died(one)
        except ValueError as error:  # the engine is well, the row is not
            self._answered += 1
            self._settle(one, Failed(error=str(error)))
        except StopAskingError as error:
            self._end(error)
        except EngineError as error:
            await self._failed_once(one, error)
        except Exception as error:
            self._end(error)
        else:
            self._answered += 1
            self._given_up = 0
            self._settle(one, answer)
        finally:
            self._under_way.discard(one)
            self._suspects_under_way -= one.company > 0
            self._witness(one.key, "ended")
            self._changed(one.row, -1, not self._waiting)

    def _again(self, one: _Ask) -> None:
        if one.company:
            self._suspects.append(one)
        else:
            self._wait(one)

    def _died(self, one: _Ask) -> None:
        one.deaths += 1
        self._again_after_death += 1
        one.deaths_alone += one.company == 1
        if one.deaths > DEATHS_UNSUSPECTED:
            self._suspect(one)
        else:
            self._wait(one)

    def _give_up(self, one: _Ask) -> None:
        self._given_up += 1
        error = f"engines died under this row {one.deaths_alone} times while it was alone on them"
        if self._given_up >= GIVEN_UP_IN_A_ROW:
            self._end(EngineError(f"{error}, and so under {self._given_up} rows in a row: look at the engine's log"))
        else:
            self._fail(one, error)

    async def _failed_once(self, one: _Ask, error: EngineError) -> None:
        one.tries += 1
        log.warning("%s failed (try %d of %d): %s", one.key, one.tries, TRIES, error)
        if one.tries < TRIES:
            await asyncio.sleep(2.0 ** (one.tries - 1) * (0.5 + random.random()))
            self._again(one)
        else:
            self._errors += 1
            self._fail(one, str(error))

    def _fail(self, one: _Ask, error: str) -> None:
        self._failed += 1
        told = self._failed + self._answered
        if told >= FAILED_LEAST and self._failed > FAILED_SHARE * told:
            self._end(EngineError(f"{self._failed} of {told} rows failed, the last one: {error}"))
        else:
            self._settle(one, Failed(error=error))

    def _settle(self, one: _Ask, answer: Any) -> None:
        if not one.answer.done():
            one.answer.set_result(answer)

    def _end(self, error: Exception) -> None:
        self._fatal = self._fatal or error
        open_asks = [one for _, _, one in self._waiting] + [*self._under_way, *self._suspects]
        open_asks += [one for group in self._groups for one in group]
        self._waiting, self._suspects, self._groups = [], [], []
        for one in open_asks:
            if not one.answer.done():
                one.answer.set_exception(error)
