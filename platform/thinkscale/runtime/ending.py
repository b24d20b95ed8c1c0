"""Ending this process from outside, in order: SIGTERM, or the loss of its cluster.

A signal's handler raises SystemExit in the main thread: that alone gets out of waits inside Ray and asyncio, though
Ray passes on another one in its place. So the reason is kept here. Knows no Ray.
"""

from __future__ import annotations

import logging

TERMINATED = 143
"""Exit code after SIGTERM, as shells count."""

reason: BaseException | None = None
"""Why this process is to end, once something outside asked it to."""
_heard = False


def end(why: BaseException) -> None:
    """For handlers of signals: leave whatever the main thread is at, unless it is ending for this reason already."""
    global reason, _heard
    if _heard and reason is why:
        return
    reason, _heard = why, False
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # tasks that are dropped now would each be lamented
    raise SystemExit(1)


def terminate(*_: object) -> None:
    """The handler of SIGTERM."""
    end(SystemExit(TERMINATED))


def reason_for(error: BaseException) -> BaseException:
    """The reason to end, whatever came of it on the way; the error itself where nothing outside asked."""
    global _heard
    _heard = True
    return reason or error
