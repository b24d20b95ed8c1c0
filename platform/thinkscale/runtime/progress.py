"""Saying what a stage is doing: rows done, rate and time left. Bars on a terminal, elsewhere a line every few seconds.
Owns the forms: bars, plain lines, JSON lines, nothing. Knows nothing of what stages there are."""

from __future__ import annotations

import json
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

LINE_EVERY_S = 5.0
MEASURED_S = 0.5  # a rate over less time says nothing

Form = Literal["text", "json", "quiet"]
form: Form = "text"  # of this process's progress; text: bars on a terminal, plain lines elsewhere
_bars: _Bars | None = None

latest: dict[str, Any] = {}  # what was counted last in this process, for `runtime.record`
moved_at = time.monotonic()  # when that was
said: deque[str] = deque(maxlen=200)  # the last lines, in every form but bars


class Progress:
    def __init__(self, stage: str, total: int, unit: str = "rows", *, done: int = 0, elapsed_s: float = 0.0) -> None:
        """`total`: 0 where it is not known yet (`extend`). `elapsed_s`: spent already on what is counted next."""
        self._stage, self._total, self._unit = stage, total, unit
        self._done = self._resumed = done
        self._last_line = time.monotonic()
        self._began = self._last_line - elapsed_s
        if total:
            self._tell("already done, resuming" if done else "")

    def advance(self, count: int, note: str = "") -> None:
        """Count work that is committed; `note` is appended (a loss, a share of drops)."""
        self._done += count
        now = time.monotonic()
        if _bars is None and now - self._last_line < LINE_EVERY_S and self._done < self._total:
            self._facts(note, now - self._began)
            return
        self._last_line = now
        self._tell(note, now - self._began)

    def extend(self, count: int) -> None:
        """So much more is to do."""
        self._total += count
        self._tell()

    def note(self, text: str) -> None:
        self._say(text, {"message": text})

    def _tell(self, note: str = "", elapsed_s: float = 0.0) -> None:
        facts, counts = self._facts(note, elapsed_s), f"{self._done:,}/{self._total:,} {self._unit}"
        if rate := facts.get("per_s"):
            counts += f"  {format(rate, ',.1f' if rate >= 1 else '.2g')} {self._unit}/s  {clock(facts['left_s'])} left"
        self._say(f"{counts}  {note}".rstrip(), facts)

    def _facts(self, note: str, elapsed_s: float) -> dict[str, Any]:
        """The counts, with rate and time left once there is something to tell them from."""
        global latest, moved_at
        facts: dict[str, Any] = {"done": self._done, "total": self._total, "unit": self._unit, "note": note}
        if (done := self._done - self._resumed) > 0 and elapsed_s >= MEASURED_S:
            rate = done / elapsed_s
            facts |= {"per_s": round(rate, 4), "left_s": round((self._total - self._done) / rate)}
        latest, moved_at = {"label": self._stage, **facts}, time.monotonic()
        return facts

    def _say(self, text: str, facts: Mapping[str, Any]) -> None:
        if _bars is not None:
            _bars.show(self._stage, text, facts)
        else:
            say(f"{self._stage:<12} {text}", stage=self._stage, **facts)


def say(text: str, **facts: Any) -> None:
    """One line on standard error, in this process's form. With JSON it holds the facts; without any, the text."""
    said.append(text)
    if form == "json":
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        text = json.dumps({"time": stamp, **(facts or {"message": text})}, ensure_ascii=False)
    if form != "quiet":
        print(text, file=sys.stderr, flush=True)


@contextmanager
def shown(shares: Mapping[str, float]) -> Iterator[Callable[[str, bool], None]]:
    """Show bars where standard error is a terminal: one for the stage at work, one for all stages together.
    `shares`: of the time that each stage usually takes, in order. Yields a function that is told of each stage that is
    over, and whether there was anything to do in it."""
    global _bars
    if form != "text" or not sys.stderr.isatty():
        yield lambda stage, did: None
        return
    bars = _Bars(shares)
    with bars.display:
        bars.display.console.show_cursor(True)  # nothing hides it for good where the process has to end at once
        _bars = bars
        try:
            yield bars.over
        finally:
            _bars = None


class _Bars:
    def __init__(self, shares: Mapping[str, float]) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Display

        self._left, self._done = dict(shares), 0.0
        columns = (TextColumn("{task.description:<12}"), BarColumn(20), TextColumn("{task.fields[text]}"))
        # Standard error is looked up anew for each line: a session puts another in its place.
        self.display = Display(
            *columns, TimeRemainingColumn(compact=True), console=Console(stderr=True), transient=True,
            redirect_stdout=sys.stdout.isatty(), speed_estimate_period=3600.0,
        )  # fmt: skip
        self._stage = self.display.add_task("", total=None, text="")
        self._all = self.display.add_task("all stages", total=sum(shares.values()), text="")

    def show(self, stage: str, text: str, facts: Mapping[str, Any]) -> None:
        if "total" not in facts:
            self.display.console.print(f"{stage:<12} {text}", markup=False, highlight=False, soft_wrap=True)
            return
        self.display.update(
            self._stage, description=stage, completed=facts["done"], total=facts["total"] or None, text=text
        )
        share = next(iter(self._left.values()), 0.0) * facts["done"] / max(facts["total"], 1)
        self.display.update(self._all, completed=max(self.display.tasks[1].completed, self._done + share), refresh=True)

    def over(self, stage: str, did: bool) -> None:
        """A stage that had nothing to do counts for nothing: the time left is told from work."""
        share = self._left.pop(stage)
        self._done += share if did else 0.0
        self.display.update(self._all, completed=self._done, total=self._done + sum(self._left.values()))
        self.display.reset(self._stage, total=None, description="", text="")


def clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"
