"""Paid replies in a directory: found by every process, whatever a crash left of the last one."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from thinkscale.store import replies as kept
from thinkscale.store.filesystem import Store

KEYS = [f"{n:02x}" * 32 for n in range(4)]


def put(replies: kept.Replies, key: str, reply: Any) -> Any:
    return asyncio.run(replies.put(key, {"reply": reply}))["reply"]


def got(replies: kept.Replies, *keys: str) -> list[Any]:
    return [record and record["reply"] for record in (asyncio.run(replies.get(key)) for key in keys)]


def opened(root: Path) -> kept.Replies:
    return kept.Replies(Store(str(root)))


def test_what_one_process_stored_another_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = opened(tmp_path), opened(tmp_path)
    assert got(first, KEYS[0]) == [None]
    assert put(first, KEYS[0], "ä\n") == "ä\n"
    assert put(first, KEYS[0], "paid again") == "ä\n"
    assert got(second, *KEYS[:2]) == ["ä\n", None]
    assert put(second, KEYS[1], "b") == "b"
    monkeypatch.setattr(kept, "FRESH_S", 0.0)
    assert got(first, *KEYS[:3]) == got(opened(tmp_path), *KEYS[:3]) == ["ä\n", "b", None]


@pytest.mark.parametrize("left", range(1, 90, 11))
def test_what_a_crash_left_is_asked_for_again(tmp_path: Path, left: int) -> None:
    replies = opened(tmp_path)
    for key in KEYS[:3]:
        put(replies, key, "x" * 40)
    (log,) = (tmp_path / "replies").glob("*.log")
    whole = log.read_bytes()
    log.write_bytes(whole[: len(whole) // 3 * 2 + left])
    again = opened(tmp_path)
    assert got(again, *KEYS[:3]) == ["x" * 40, "x" * 40, None]
    put(again, KEYS[2], "anew")
    assert got(opened(tmp_path), *KEYS[:3]) == ["x" * 40, "x" * 40, "anew"]


def test_zeros_that_a_power_loss_left_are_no_record(tmp_path: Path) -> None:
    replies = opened(tmp_path)
    for key in KEYS[:2]:
        put(replies, key, "x")
    (log,) = (tmp_path / "replies").glob("*.log")
    data = log.read_bytes()
    log.write_bytes(b"\0" * (data.index(b"\n") // 2) + data[data.index(b"\n") // 2 :])
    assert got(opened(tmp_path), *KEYS[:2]) == [None, "x"]
