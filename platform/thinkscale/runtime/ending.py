"""Ending this process from outside, in order: SIGTERM, the loss of its cluster, of its lease on the campaign.
A signal's handler raises SystemExit in the main thread: that alone gets out of waits inside Ray and asyncio, though Ray
passes on another one in its place. So the reason is kept here. Knows no Ray."""

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

TERMINATED = 143  # exit code after SIGTERM, as shells count


class CancelledRun(SystemExit):
    """Somebody asked, in the root, for this run's end."""


reason: BaseException | None = None  # why this process is to end, once something outside asked it to
_heard = False
_told: BaseException | None = None  # what a thread wants the main thread to end for
_ordered: BaseException | None = None  # what `in_order` was called for
winding_up: BaseException | None = None
"""Why nothing new is to be begun, once that is so; what is under way goes on until `interrupt` or `in_order`."""


@contextmanager
def listening() -> Iterator[None]:
    """Have SIGTERM and `interrupt` end what the main thread is at, and Ctrl-C raise KeyboardInterrupt as ever.
    Ray sets handlers of its own and leaves them: enter this after it has. From other threads it does nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers: dict[int, Callable[..., object]] = {
        signal.SIGUSR1: _interrupted,
        signal.SIGTERM: terminate,
        signal.SIGINT: signal.default_int_handler,
    }
    before: dict[int, Any] = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def interrupt(why: BaseException) -> None:
    """For threads: end what the main thread is at. Raises nothing here."""
    global _told
    _told = why
    if signal.getsignal(signal.SIGUSR1) is not signal.SIG_DFL:  # else nobody listens, and it would kill
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)


def in_order(why: BaseException) -> None:
    """For threads: end as SIGTERM does, for this reason: fine-tuning saves first. Call it once."""
    global _ordered
    _ordered = why
    if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)


def cancel() -> None:
    """For threads: end in order, for somebody asked for it in the root."""
    in_order(CancelledRun(TERMINATED))


def word_for(error: BaseException) -> str:
    """In a word, where somebody asked for the end; else empty."""
    if isinstance(error, SystemExit) and error is reason:
        return "cancelled" if isinstance(error, CancelledRun) else "terminated"
    return "interrupted" if isinstance(error, KeyboardInterrupt) else ""


def forget() -> None:
    """The reason to end was dealt with: this process may go on."""
    global reason, winding_up, _ordered
    reason = winding_up = _ordered = None


def _interrupted(*_: object) -> None:
    if _told is not None:
        end(_told)


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
    end(_ordered or SystemExit(TERMINATED))


def reason_for(error: BaseException) -> BaseException:
    """The reason to end, whatever came of it on the way; the error itself where nothing outside asked."""
    global _heard
    _heard = True
    return reason or error
