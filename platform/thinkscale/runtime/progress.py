"""Saying what a stage is doing: rows done, rate and time left, a line every few seconds."""

from __future__ import annotations

import sys
import time

LINE_EVERY_S = 5.0


class Progress:
    """Progress of one stage, printed as plain lines so that job logs can be read as well as a terminal."""

    def __init__(self, stage: str, total: int, unit: str = "rows", *, done: int = 0) -> None:
        self._stage, self._total, self._unit = stage, total, unit
        self._done = self._resumed = done
        self._began = self._last_line = time.monotonic()
        self._say(f"{self._counts()}{' already done, resuming' if done else ''}")

    def advance(self, count: int, note: str = "") -> None:
        """Count work that is committed; `note` is appended (a loss, a share of drops)."""
        self._done += count
        now = time.monotonic()
        if now - self._last_line < LINE_EVERY_S and self._done < self._total:
            return
        self._last_line = now
        rate = (self._done - self._resumed) / max(now - self._began, 1e-9)
        left = (self._total - self._done) / rate if rate > 0 else 0.0
        self._say(f"{self._counts()}  {rate:,.1f} {self._unit}/s  {_clock(left)} left  {note}".rstrip())

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


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"
