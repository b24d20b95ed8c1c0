"""What a campaign's runs hold while they go, stage by stage, and the limits that end a run in order. Owns
`<campaign>/spent.json`: device-seconds over all runs, lost work included, which no manifest knows. Knows no stage."""

import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Self

from thinkscale.domain.campaign import Campaign, moment
from thinkscale.domain.ledger import dollars
from thinkscale.runtime import ending
from thinkscale.store.artifact import Artifact
from thinkscale.store.filesystem import Store, StoreError

LOOK_EVERY_S, LEAVE_S = 0.5, 2.0
KEEP_EVERY_S = 30.0
NEARLY = 0.95  # share of a limit from which on nothing new is begun: what is under way may end until all of it is used


class LimitError(RuntimeError):
    """A run came to its max_usd or deadline; what it did is committed."""


def check_limits(campaign: Campaign) -> None:
    """Raises LimitError where max_usd cannot be counted, or the deadline is over."""
    free = not any(campaign.prices.model_dump().values()) and not any(teacher.endpoint for teacher in campaign.teacher)
    if campaign.max_usd is not None and free:
        raise LimitError("max_usd is counted by [prices], which are 0: set prices.gpu_hour_usd, prices.cpu_hour_usd")
    now = datetime.now(UTC)
    if campaign.deadline is not None and moment(campaign.deadline, now) <= now:
        raise LimitError(f"deadline = {campaign.deadline} is over: give a later one")


class Spending:
    """Meters what is held on the cluster, by whomever, from a thread, while it is entered; and what endpoints asked."""

    def __init__(self, campaign: Campaign, store: Store) -> None:
        self._campaign, self._store, self._file = campaign, store, f"{campaign.name}/spent.json"
        spent = store.read_json(self._file) or {}
        self.stages = {stage: Counter[str](seconds) for stage, seconds in spent.items()}
        """Elapsed and device-seconds by stage."""
        self._began = datetime.now(UTC)
        self._deadline = None if campaign.deadline is None else moment(campaign.deadline, self._began)
        self._stage, self._looked, self._kept = "", time.monotonic(), time.monotonic()
        self._over = threading.Event()
        self._replies_usd = self._asked_usd()
        self.works = False  # something was held
        self._ended = False  # it was told to end
        ending.winding_up = None
        self._check()

    @property
    def usd(self) -> float:
        """By the campaign's prices, over all runs."""
        return sum(self.usd_of(stage) for stage in self.stages) + self._replies_usd

    def usd_of(self, stage: str) -> float:
        seconds = self.stages.get(stage, Counter[str]())
        held = {"cpu_busy_s": seconds["cpu_s"], "gpu_busy_s": seconds["gpu_s"]}
        return dollars(held, self._campaign.prices)

    def _asked_usd(self) -> float:
        paths = (f"{self._campaign.name}/attempts-{number}" for number, _ in enumerate(self._campaign.teacher, 1))
        made = (Artifact(self._store, path, partial=True).manifest() for path in paths)
        return sum(manifest.stats.get("reply_usd", 0.0) for manifest in made if manifest is not None)

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(LEAVE_S)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """What is held meanwhile is this stage's; it is written down where anything was."""
        began, self._stage = time.monotonic(), name
        seconds = self.stages.setdefault(name, Counter())
        try:
            yield
        finally:
            self._stage = ""
            self._replies_usd = self._asked_usd() if name == "distill" else self._replies_usd
            seconds["elapsed_s"] += time.monotonic() - began  # type: ignore[assignment]
            if self.works:
                self.keep()

    def keep(self) -> None:
        seconds = {stage: dict(seconds) for stage, seconds in dict(self.stages).items()}
        self._store.write_bytes(self._file, json.dumps(seconds, indent=1).encode())
        self._kept = time.monotonic()

    def _watch(self) -> None:
        """The only one that asks the cluster: where that is lost, the main thread does not wait for an answer."""
        while not self._over.wait(LOOK_EVERY_S):
            cpus, gpus = _held()
            now = time.monotonic()
            elapsed, self._looked = now - self._looked, now
            if (seconds := self.stages.get(self._stage)) is not None:
                self.works |= cpus + gpus > 0
                seconds["cpu_s"] += elapsed * cpus  # type: ignore[assignment]
                seconds["gpu_s"] += elapsed * gpus  # type: ignore[assignment]
            self._check()
            if self.works and time.monotonic() - self._kept > KEEP_EVERY_S:
                with suppress(StoreError):  # the next time, or the stage's end, which tells
                    self.keep()

    def _check(self) -> None:
        usd, most, now = self.usd, self._campaign.max_usd, datetime.now(UTC)
        told = {}
        if most is not None:
            told[f"max_usd = {most:g}: ${usd:.4g} are spent on campaign {self._campaign.name!r}"] = usd / most
        if self._deadline is not None:
            past, whole = now - self._began, self._deadline - self._began
            told[f"deadline = {self._campaign.deadline}"] = past / whole if whole.total_seconds() > 0 else 1.0
        line, share = max(told.items(), key=lambda each: each[1], default=("", 0.0))
        if share >= NEARLY and ending.winding_up is None:
            ending.winding_up = LimitError(f"{line}; what is committed is kept, and with more the same command goes on")
        if share >= 1 and self._stage and not self._ended and ending.winding_up is not None:
            self._ended = True
            ending.in_order(ending.winding_up)


def _held() -> tuple[float, float]:
    ray = sys.modules.get("ray")  # a report needs none
    if ray is None or not ray.is_initialized():
        return 0.0, 0.0
    try:
        total, free = ray.cluster_resources(), ray.available_resources()
    except (ray.exceptions.RayError, RuntimeError, ConnectionError):  # it is lost: `session` ends the run
        return 0.0, 0.0
    return total.get("CPU", 0.0) - free.get("CPU", 0.0), total.get("GPU", 0.0) - free.get("GPU", 0.0)
