"""Asks on replicas: what cannot be committed ends the stage with its own error and no other."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from thinkscale.domain.generation import EngineInfo
from thinkscale.runtime.asks import ReplicaAsks
from thinkscale.runtime.meter import Meter
from thinkscale.runtime.progress import Progress
from thinkscale.runtime.segments import Result
from thinkscale.store.schemas import SAMPLES, table
from thinkscale.store.stage import Segment

ENGINE = EngineInfo(
    engine="scripted", version="1", model="m", dtype="float32", device="cpu", context_tokens=1, vocab_size=1,
    eos_ids=(),
)  # fmt: skip


class Replica:
    """Answers in turn, the higher numbers later."""

    @property
    def call(self) -> Replica:
        return self

    async def remote(self, ask: Any, row: int) -> int:
        await asyncio.sleep(0.001 * row)
        return row


class Work:
    """One round of one row a segment, on a full disk from the `full`th commit on."""

    label, resumed = "base", 0

    def __init__(self, rows: int, full: int) -> None:
        self._rounds, self._left = [[Segment(key=f"{n:06d}", rows=1, work=[n]) for n in range(rows)]], full
        self.asks = self.output = self

    def more(self) -> list[Segment]:
        return self._rounds.pop() if self._rounds else []

    def key(self, row: int) -> str:
        return str(row)

    def expected(self, row: int) -> float:
        return 1.0

    async def ask(self, engine: Any, tokenizer: Any, row: Any) -> Any: ...

    def collect(self, rows: Any, answers: Any, grade_all: Any) -> Result:
        return Result(kept=table([], SAMPLES))

    def commit_segment(self, key: str, *_: Any, **__: Any) -> None:
        self._left -= 1
        if self._left <= 0:
            raise OSError(28, f"no space left for {key}")


@pytest.mark.parametrize("full", [1, 3])
def test_a_full_disk_is_the_only_error(full: int, caplog: pytest.LogCaptureFixture) -> None:
    asks = ReplicaAsks(
        Replica(), ENGINE, room=4, meter=Meter(workers=1, cpus_each=1, gpus_each=0), progress=Progress("eval", 0)
    )
    with caplog.at_level(logging.WARNING), pytest.raises(BaseException) as raised:
        asyncio.run(asks.run([Work(40, full)]))  # type: ignore[list-item]
    error: Any = raised.value
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert "no space left for" in str(error)
    assert caplog.text == ""
