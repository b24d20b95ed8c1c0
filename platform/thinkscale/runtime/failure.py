"""What a failure tells and leaves: one line, wherever and in whatever it was raised, and the logs beside it.
Knows Ray's wrappers by their shape alone, so that the command line can use it without loading Ray."""

import builtins
import os
import re
import sys
import tempfile
import time
import traceback
import uuid
from collections.abc import Mapping
from pathlib import Path

from thinkscale.store.filesystem import Store


class ClusterError(RuntimeError):
    """The Ray cluster cannot be joined or started, has too little, or is lost; the message says which and why."""


class ClusterLostError(ClusterError):
    """The cluster went away under the work. This process can join no other one."""


SECRET_LENGTH = 8  # shorter ones are words, paths and numbers
_SECRET = re.compile(r"(?i)(key|token|secret|password|credential)s?$")
_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_FRAME = re.compile(r'File "[^"]*/(thinkscale\w*/(?!cli/)[^"]+)", line (\d+)')
_RAISED = re.compile(r"^(?:[\w.]+\.)?(\w*(?:Error|Exception|Exit|Interrupt)): *(.*)$", re.MULTILINE)
_LATER = "\nThe above exception was"
_SPILLED = (
    "the local disk is full, where Ray keeps objects that memory has no room for (/tmp unless told): make room there"
)


def cause(error: BaseException) -> BaseException:
    """What was raised first, under groups and the wrappers of Ray's tasks, actors and worker groups."""
    return _chain(error)[-1]


def is_rays(error: BaseException) -> bool:
    """Whether Ray itself raised it: a worker, an actor or a node was lost."""
    return type(error).__module__.partition(".")[0] == "ray"


def may_pass(error: BaseException) -> bool:
    """Whether the same work may get further: a disk, the network, a worker or a node was at fault."""
    name, root = _told(error)[0], cause(error)
    if name == type(root).__name__:
        return isinstance(root, OSError) or is_rays(root)
    return issubclass(getattr(builtins, name, Exception), OSError)


def headline(error: BaseException) -> str:
    """An error in one line: its message where it is one of ours, else its kind, message and place too."""
    name, text, place = _told(error)
    if type(cause(error)).__module__.startswith("thinkscale") and text:
        return text
    return (f"{name}: {text}" if text else name) + (f" ({place})" if place else "")


def tell(error: BaseException, line: str | None = None) -> None:
    """Say on standard error what happened (default: the error's headline), and what is noted on the error."""
    notes = getattr(error, "__notes__", [])
    told = "\n".join([f"thinkscale: {line or headline(error)}", *notes])
    print(redacted(told), file=sys.stderr, flush=True)


def redacted(text: str) -> str:
    """The text without the values of this environment's secrets, by their names."""
    for name, value in os.environ.items():
        if len(value) >= SECRET_LENGTH and _SECRET.search(name):
            text = text.replace(value, "***")
    return text


def keep_logs(error: BaseException, store: Store, campaign: str, logs: Mapping[str, Path]) -> str:
    """Keep the whole error and the logs below the campaign, or on the local disk; returns a sentence with where.
    `logs`: files by the names that they get."""
    attempt = f"{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:4]}"
    text = redacted("".join(traceback.format_exception(error))).encode()

    def keep(store: Store, path: str) -> str:
        store.write_bytes(f"{path}/error.log", text)
        for name, file in logs.items():
            store.upload(file, f"{path}/{name}")
        return store.url(f"{path}/error.log")

    try:
        return f"full log: {keep(store, f'{campaign}/logs/{attempt}')}"
    except Exception as refused:  # whatever a store may raise: the error itself must be told
        try:
            here = keep(Store(tempfile.gettempdir()), f"thinkscale-logs-{attempt}")
            return f"full log: {here} ({store.uri} takes none)"
        except OSError:
            return f"no log could be kept: {headline(refused)}"


def _told(error: BaseException) -> tuple[str, str, str]:
    """Kind, message and place of what was raised first. Some of it Ray passes on as text alone."""
    chain = _chain(error)
    root, texts = chain[-1], [_ANSI.sub("", str(each)).strip() for each in reversed(chain)]
    name, text = type(root).__name__, texts[0]
    remote = next((each for each in texts if "ray::" in each or "Traceback (most" in each), "")
    if remote == text or is_rays(root):
        raised = _RAISED.findall(remote.partition(_LATER)[0])
        name, text = raised[-1] if raised else (name, text)
    if name == "OutOfDiskError":
        text = _SPILLED
    elif name == "ActorDiedError" and (details := re.findall(r"^(?!\s*\w+: )\s*(\S.*)", text, re.MULTILINE)[1:]):
        text = details[0]
    elif not type(root).__module__.startswith("thinkscale"):
        text = text.partition("\n")[0]
    traces = ("".join(traceback.format_tb(each.__traceback__)) + str(each) for each in chain)
    frames = [frame for trace in traces for frame in _FRAME.findall(trace)]
    return name, text, "" if is_rays(root) and name == type(root).__name__ else ":".join(frames[-1]) if frames else ""


def _chain(error: BaseException) -> list[BaseException]:
    found = [error]
    while (inner := _wrapped(found[-1])) is not None:
        found.append(inner)
    return found


def _wrapped(error: BaseException) -> BaseException | None:
    if isinstance(error, BaseExceptionGroup):
        return error.exceptions[0]
    failures: dict[int, BaseException] = getattr(error, "worker_failures", {})
    if failures:  # what a worker raised tells more than the loss of its neighbours
        return min(failures.values(), key=lambda each: (is_rays(cause(each)), "onnection" in str(each)))
    names = ("cause", "controller_failure", "health_check_failure", "__cause__") if is_rays(error) else ()
    inners = [inner for name in names if isinstance(inner := getattr(error, name, None), BaseException)]
    return inners[0] if inners and inners[0] is not error else None
