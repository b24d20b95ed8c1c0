"""Ending this process from outside, in order: SIGTERM, or the loss of its cluster.

A signal's handler raises SystemExit in the main thread: that alone gets out of waits inside Ray and asyncio, though
Ray passes on another one in its place. So the reason is kept here. Knows no Ray.
"""

from __future__ import annotations

import logging

TERMINATED = 143
"""Exit code after SIGTERM, as shells count."""

_reason: BaseException | None = None
_heard = False


def end(reason: BaseException) -> None:
    """For handlers of signals: leave whatever the main thread is at, unless it is ending for this reason already."""
    global _reason, _heard
    if _heard and _reason is reason:
        return
    _reason, _heard = reason, False
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # tasks that are dropped now would each be lamented
    raise SystemExit(1)


def terminate(*_: object) -> None:
    """The handler of SIGTERM."""
    end(SystemExit(TERMINATED))


def reason_for(error: BaseException) -> BaseException:
    """Why this process is to end, whatever came of it on the way; the error itself where nothing outside asked."""
    global _heard
    _heard = True
    return _reason or error
