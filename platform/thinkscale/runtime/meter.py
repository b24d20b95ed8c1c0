"""Metering the devices that a stage holds: busy, starting, idle and tail seconds (domain.ledger).
Knows nothing of prices and nothing of what the devices do."""

import time
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Literal


class Meter:
    """Device-seconds of a pool of equal workers, taken in slices, so that each committed segment carries what was spent
    since the one before and a resumed stage sums to what all its runs held. Seconds go to the works that have items
    under way, by their share of these; those in which there is nothing under way go to the work that takes its slice
    next."""

    def __init__(
        self, *, workers: int, cpus_each: float, gpus_each: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._workers = workers
        self._devices = {"cpu": cpus_each, "gpu": gpus_each}
        self._under_way: Counter[str] = Counter()
        self._starting, self._draining = True, False
        self._clock = clock
        self._since = clock()
        self._spent: defaultdict[str | None, Counter[str]] = defaultdict(Counter)

    def started(self) -> None:
        """The workers are up: what was spent so far was start-up."""
        self._settle()
        self._starting = False

    def hold(self, workers: int) -> None:
        """So many workers are held from here on."""
        self._settle()
        self._workers = workers

    def change(self, work: str, items: int) -> None:
        """So many more (or fewer) items of a work are under way."""
        self._settle()
        self._under_way[work] += items

    def draining(self, is_draining: bool) -> None:
        """Whether no item is left to hand out: idle workers are a tail while that is so."""
        self._settle()
        self._draining = is_draining

    def take(self, work: str) -> dict[str, float]:
        """Seconds of a work by `<device>_<what>_s` since it took the last ones."""
        self._settle()
        taken = self._spent.pop(work, Counter()) + self._spent.pop(None, Counter())
        return {name: round(seconds, 6) for name, seconds in taken.items()}

    def _settle(self) -> None:
        now = self._clock()
        elapsed, self._since = now - self._since, now
        if self._starting:
            self._add("startup", elapsed * self._workers)
            return
        busy = min(self._workers, self._under_way.total())
        self._add("busy", elapsed * busy)
        self._add("tail" if self._draining else "idle", elapsed * (self._workers - busy))

    def _add(self, what: Literal["startup", "busy", "idle", "tail"], worker_seconds: float) -> None:
        total = self._under_way.total()
        shares = {work: items / total for work, items in self._under_way.items()} if total else {None: 1.0}
        for device, each in self._devices.items():
            for work, share in shares.items():
                self._spent[work][f"{device}_{what}_s"] += worker_seconds * each * share  # type: ignore[assignment]
