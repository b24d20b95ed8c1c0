"""Metering the devices that a stage holds: busy, starting, idle and tail seconds (domain.ledger).

Knows nothing of prices and nothing of what the devices do.
"""

from __future__ import annotations

import time
from collections import defaultdict
from typing import Literal


class Meter:
    """Device-seconds of a pool of equal workers, taken in slices, so that each committed segment carries
    what was spent since the one before and a resumed stage sums to what all its runs held."""

    def __init__(self, *, workers: int, cpus_each: float, gpus_each: float) -> None:
        self._workers = workers
        self._devices = {"cpu": cpus_each, "gpu": gpus_each}
        self._under_way = 0
        self._starting, self._draining = True, False
        self._since = time.monotonic()
        self._spent: defaultdict[str, float] = defaultdict(float)

    def started(self) -> None:
        """The workers are up: what was spent so far was start-up."""
        self._settle()
        self._starting = False

    def change(self, items: int) -> None:
        """So many more (or fewer) items are under way."""
        self._settle()
        self._under_way += items

    def draining(self) -> None:
        """No item is left to hand out: idle workers are a tail from here on."""
        self._settle()
        self._draining = True

    def take(self) -> dict[str, float]:
        """Seconds by `<device>_<what>_s` since the last call."""
        self._settle()
        taken = {name: round(seconds, 6) for name, seconds in self._spent.items() if seconds}
        self._spent.clear()
        return taken

    def _settle(self) -> None:
        now = time.monotonic()
        elapsed, self._since = now - self._since, now
        if self._starting:
            self._add("startup", elapsed * self._workers)
            return
        busy = min(self._workers, self._under_way)
        self._add("busy", elapsed * busy)
        self._add("tail" if self._draining else "idle", elapsed * (self._workers - busy))

    def _add(self, what: Literal["startup", "busy", "idle", "tail"], worker_seconds: float) -> None:
        for device, each in self._devices.items():
            self._spent[f"{device}_{what}_s"] += worker_seconds * each
