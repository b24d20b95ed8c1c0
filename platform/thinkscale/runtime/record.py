"""What a run is at, told to the outside while it goes on: a record in the root, and figures for Prometheus.
Owns `<campaign>/run.json`, which `stages.status` reads, and when a run counts as stalled. Counts nothing itself."""

import json
import os
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Self

from thinkscale.runtime import metrics, progress
from thinkscale.runtime.failure import redacted
from thinkscale.runtime.spend import Spending
from thinkscale.store.filesystem import Store, StoreError

TELL_EVERY_S, LEAVE_S = 5.0, 2.0
STALLED_S = 30.0  # after so long without progress it is looked at what the run waits for
COMPLETE = "complete"


class Record:
    """Tells, from a thread while it is entered; in the root only where the run holds anything, or fails. `minutes`:
    that each stage of this run is planned to take, in order."""

    def __init__(self, campaign: str, store: Store, spent: Spending, minutes: Mapping[str, float]) -> None:
        self._store, self._path, self._spent = store, f"{campaign}/run.json", spent
        self._minutes, self._left, self._began = minutes, dict(minutes), _now()
        job = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR") or "{}")  # set by Ray for the driver of a job
        self._job = job.get("metadata", {}).get("job_submission_id")
        self._waits, self._told_of, self._ended = "", 0.0, threading.Event()
        metrics.at["campaign"] = campaign
        self.at("")

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(LEAVE_S)

    def at(self, stage: str) -> None:
        """This stage begins."""
        self._stage = metrics.at["stage"] = stage
        self._since = progress.moved_at = time.monotonic()
        progress.latest = {}

    def over(self, stage: str) -> None:
        self._left.pop(stage)

    def end(self, outcome: str, *, failed: bool) -> None:
        """How the run ended, in words."""
        if failed or self._spent.works:
            with suppress(StoreError):  # the error that ends the run may be the store's
                self._write(outcome)

    def _watch(self) -> None:
        while not self._ended.wait(TELL_EVERY_S):
            self._look()
            if self._spent.works:
                with suppress(StoreError):
                    self._write("")

    def _look(self) -> None:
        """Set the gauges, and find what the run waits for where it is stalled."""
        facts, still_s = progress.latest, time.monotonic() - progress.moved_at
        if facts:
            metrics.set_gauge("thinkscale_rows_done", facts["done"])
            metrics.set_gauge("thinkscale_rows_left", facts["total"] - facts["done"])
            metrics.set_gauge("thinkscale_rows_per_second", facts.get("per_s", 0.0))
        metrics.set_gauge("thinkscale_seconds_left", self._left_s())
        metrics.set_gauge("thinkscale_seconds_without_progress", still_s)
        for stage in list(self._spent.stages):
            metrics.set_gauge("thinkscale_usd", self._spent.usd_of(stage), stage)
        self._waits = _waits_for() if still_s > STALLED_S else ""
        if self._waits and self._told_of != progress.moved_at:  # once for each time that it stands still
            self._told_of = progress.moved_at
            progress.Progress(self._stage, 0).note(f"no progress for {still_s:.0f} s: {self._waits}")

    def _left_s(self) -> float:
        """By the rate of the stage at work, and the plan of those that come; the plan's minutes hold at first."""
        seconds = {stage: 60 * minutes for stage, minutes in list(self._left.items())}
        return float(
            sum((seconds | {self._stage: progress.latest.get("left_s", seconds.get(self._stage, 0))}).values())
        )

    def _write(self, outcome: str) -> None:
        elapsed = {name: float(seconds["elapsed_s"]) for name, seconds in dict(self._spent.stages).items()}
        if self._stage in elapsed and not outcome:
            elapsed[self._stage] += time.monotonic() - self._since
        stages = {
            stage: {
                "over": stage not in self._left,
                "usd": self._spent.usd_of(stage),
                "elapsed_s": elapsed.get(stage, 0.0),
            }
            for stage in {**self._minutes, **elapsed}
        }
        at = {"stage": self._stage, "progress": progress.latest, "usd": self._spent.usd, "stages": stages}
        left = {} if outcome else {"left_s": round(self._left_s()), "waits_for": self._waits}
        told = {"outcome": outcome, "began": self._began, "at": _now(), "job": self._job, **at, **left}
        self._store.check()
        text = redacted(json.dumps({**told, "lines": list(progress.said)}, indent=1))
        self._store.write_bytes(self._path, text.encode())


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _waits_for() -> str:
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return ""
    from thinkscale.runtime.room import waits_for

    try:
        return waits_for()
    except (ray.exceptions.RayError, RuntimeError, OSError):  # it is lost: `session` ends the run
        return ""
