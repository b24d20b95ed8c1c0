"""Ending this process from outside, in order: SIGTERM, or the loss of its cluster.

A signal's handler raises SystemExit in the main thread: that alone gets out of waits inside Ray and asyncio, though
Ray passes on another one in its place. So the reason is kept here. Knows no Ray.
"""

from __future__ import annotations

TERMINATED = 143
"""Exit code after SIGTERM, as shells count."""

_reason: BaseException | None = None
_heard = False


def end(reason: BaseException) -> None:
    """For handlers of signals: leave whatever the main thread is at, unless it is at its end for this reason."""
    global _reason
    if not _heard or _reason is not reason:
        _reason = reason
        raise SystemExit(1)


def terminate(*_: object) -> None:
    """The handler of SIGTERM."""
    end(SystemExit(TERMINATED))


def reason_for(error: BaseException) -> BaseException:
    """The reason of an end, where `error` is how it was brought about; else the error itself."""
    global _heard
    if not isinstance(error, SystemExit) or _reason is None:
        return error
    _heard = True
    return _reason
