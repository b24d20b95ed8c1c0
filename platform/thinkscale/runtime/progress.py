"""Saying what a stage is doing: rows done, rate and time left, a line every few seconds."""

from __future__ import annotations

import sys
import time

LINE_EVERY_S = 5.0
MEASURED_S = 0.5
"""A rate over less time says nothing."""


class Progress:
    """Progress of one stage, printed as plain lines so that job logs can be read as well as a terminal."""

    def __init__(self, stage: str, total: int, unit: str = "rows", *, done: int = 0, elapsed_s: float = 0.0) -> None:
        """
        Args:
            total: 0 where it is not known yet (`extend`).
            elapsed_s: spent already on what is counted next.
        """
        self._stage, self._total, self._unit = stage, total, unit
        self._done = self._resumed = done
        self._last_line = time.monotonic()
        self._began = self._last_line - elapsed_s
        if total:
            self._say(f"{self._counts()}{' already done, resuming' if done else ''}")

    def advance(self, count: int, note: str = "") -> None:
        """Count work that is committed; `note` is appended (a loss, a share of drops)."""
        self._done += count
        now = time.monotonic()
        if now - self._last_line < LINE_EVERY_S and self._done < self._total:
            return
        self._last_line = now
        pace = _pace(self._done - self._resumed, self._total - self._done, now - self._began, self._unit)
        self._say(f"{self._counts()}{pace}  {note}".rstrip())

    def extend(self, count: int) -> None:
        """So much more is to do."""
        self._total += count
        self._say(self._counts())

    def note(self, text: str) -> None:
        """One line apart from the counts."""
        self._say(text)

    def _counts(self) -> str:
        return f"{self._done:,}/{self._total:,} {self._unit}"

    def _say(self, text: str) -> None:
        print(f"{self._stage:<12} {text}", file=sys.stderr, flush=True)


def _pace(done: int, left: int, elapsed_s: float, unit: str) -> str:
    """Rate and time left, once there is something to tell them from."""
    if done <= 0 or elapsed_s < MEASURED_S:
        return ""
    rate = done / elapsed_s
    return f"  {format(rate, ',.1f' if rate >= 1 else '.2g')} {unit}/s  {_clock(left / rate)} left"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"
