"""What a failure tells and leaves: one line, wherever and in whatever it was raised, and the logs beside it.

Knows Ray's wrappers by their shape alone, so that the command line can use it without loading Ray.
"""

from __future__ import annotations

import re
import tempfile
import time
import traceback
import uuid
from collections.abc import Mapping
from pathlib import Path

from thinkscale.store.filesystem import Store

ERROR_LOG = "error.log"
_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_FRAME = re.compile(r'File "[^"]*/(thinkscale\w*/[^"]+)", line (\d+)')
_RAISED = re.compile(r"^\s*(?:[\w.]+\.)?(\w*(?:Error|Exception|Exit|Interrupt|Timeout))(?:: (.*))?$", re.MULTILINE)


def cause(error: BaseException) -> BaseException:
    """What was raised first, under groups and the wrappers of Ray's tasks, actors and worker groups."""
    return _chain(error)[-1]


def is_rays(error: BaseException) -> bool:
    """Whether Ray itself raised it: a worker, an actor or a node was lost."""
    return type(error).__module__.partition(".")[0] == "ray"


def headline(error: BaseException) -> str:
    """An error in one line: its message where it is one of ours, else its kind, message and place too."""
    chain = _chain(error)
    root = chain[-1]
    text = _ANSI.sub("", str(root)).strip()
    place = next(filter(None, map(_place, reversed(chain))), "")
    name = type(root).__name__
    if "Traceback (most recent call last)" in text or "ray::" in text:  # told by Ray as text alone
        place = _place_in(text) or place
        raised = _RAISED.findall(text)
        name, text = raised[-1] if raised else (name, text)
    elif type(root).__module__.startswith("thinkscale"):
        return text or name
    elif is_rays(root):
        place = ""
        text = f"{text.partition(chr(10))[0]} {_detail(text)}".strip()
    first = text.partition("\n")[0].strip()
    return (f"{name}: {first}" if first else name) + (f" ({place})" if place else "")


def keep_logs(error: BaseException, store: Store, campaign: str, logs: Mapping[str, Path]) -> str:
    """Keep the whole error and the logs below the campaign, or on the local disk; returns a sentence with where.

    Args:
        logs: files by the names that they get.
    """
    attempt = f"{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:4]}"
    text = "".join(traceback.format_exception(error))
    try:
        return f"full log: {_keep(text, logs, store, f'{campaign}/logs/{attempt}')}"
    except Exception as refused:  # whatever a store may raise: the error itself must be told
        local = Path(tempfile.gettempdir()) / f"thinkscale-logs-{attempt}"
        try:
            return f"full log: {_keep(text, logs, Store(str(local)), campaign)} ({store.uri} takes none)"
        except OSError:
            return f"no log could be kept: {headline(refused)}"


def _keep(text: str, logs: Mapping[str, Path], store: Store, path: str) -> str:
    store.write_bytes(f"{path}/{ERROR_LOG}", text.encode())
    for name, file in logs.items():
        store.upload(file, f"{path}/{name}")
    return store.url(f"{path}/{ERROR_LOG}")


def _chain(error: BaseException) -> list[BaseException]:
    """The error and all that it wraps, the innermost last."""
    found = [error]
    while (inner := _wrapped(found[-1])) is not None:
        found.append(inner)
    return found


def _wrapped(error: BaseException) -> BaseException | None:
    if isinstance(error, BaseExceptionGroup):
        return error.exceptions[0]
    if not is_rays(error):
        return None
    failures: dict[int, BaseException] = getattr(error, "worker_failures", {})
    if failures:  # what a worker raised tells more than the loss of its neighbours
        return min(failures.values(), key=lambda each: (is_rays(cause(each)), "onnection" in str(each)))
    for name in ("cause", "controller_failure", "health_check_failure", "__cause__"):
        inner = getattr(error, name, None)
        if isinstance(inner, BaseException) and inner is not error:
            return inner
    return None


def _place(error: BaseException) -> str:
    raised_here = "".join(traceback.format_tb(error.__traceback__))
    return _place_in(str(error)) or _place_in(raised_here)


def _place_in(text: str) -> str:
    """The innermost line of ours in a traceback."""
    frames = [frame for frame in _FRAME.findall(text) if frame[0] != "thinkscale/cli.py"]
    return ":".join(frames[-1]) if frames else ""


def _detail(text: str) -> str:
    """What follows the first line of Ray's message and is no list of ids."""
    lines = [line.strip() for line in text.split("\n")[1:] if line.strip() and not re.match(r"\s*\w+: ", line)]
    return lines[0] if lines else ""
