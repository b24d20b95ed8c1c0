"""What a failure tells in one line, whatever it is wrapped in, and the logs that it leaves."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from ray.data.exceptions import UserCodeException
from ray.exceptions import (
    ActorDiedError,
    NodeDiedError,
    OutOfDiskError,
    RayTaskError,
    TaskUnschedulableError,
    WorkerCrashedError,
)
from ray.train import ControllerError, WorkerGroupError
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError

from thinkscale.learn.checkpoint import SaveError
from thinkscale.runtime.failure import cause, headline, keep_logs, may_pass
from thinkscale.store.filesystem import Store
from thinkscale.store.models import ModelError

FULL = OSError(errno.ENOSPC, "No space left on device", "/data/part-0.parquet")
TOLD = "OSError: [Errno 28] No space left on device: '/data/part-0.parquet'"
REMOTE = (
    "ray::map() (pid=7, ip=10.0.0.1)\n"
    '  File "/venv/lib/python3.11/site-packages/thinkscale/runtime/segments.py", line 190, in __call__\n'
    '  File "/venv/lib/python3.11/site-packages/thinkscale/stages/embed.py", line 77, in __call__\n'
    '  File "/venv/lib/python3.11/site-packages/numpy/core.py", line 5, in put\n'
)


def task_error(raised: Exception) -> BaseException:
    """As `ray.get` raises it."""
    return RayTaskError("map", REMOTE + f"{type(raised).__name__}: {raised}", raised).as_instanceof_cause()


def caused(outer: BaseException, inner: BaseException) -> BaseException:
    outer.__cause__ = inner
    return outer


def in_creation(raised: Exception) -> ActorDiedError:
    return ActorDiedError(
        RayTaskError("__init__", REMOTE + f"{type(raised).__name__}: {raised}", raised, actor_id="ab")
    )


LOST = WorkerHealthCheckFailedError("[rank=1] health check failed", ActorDiedError())
IN_DATA = f"""{TOLD}

The above exception was the direct cause of the following exception:

ray::map() (pid=7, ip=10.0.0.1)
ray.exceptions.UserCodeException: UDF failed to process a data block.
"""
IN_EMBED = "(thinkscale/stages/embed.py:77)"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (FULL, TOLD),
        (ModelError("no directory /models/x"), "no directory /models/x"),
        (task_error(ModelError("no directory /models/x")), "no directory /models/x"),
        (task_error(FULL), f"{TOLD} {IN_EMBED}"),
        (task_error(KeyError("answer")), f"KeyError: 'answer' {IN_EMBED}"),
        (task_error(ValueError("first\nsecond")), f"ValueError: first {IN_EMBED}"),
        (task_error(RuntimeError("")), f"RuntimeError {IN_EMBED}"),
        (caused(UserCodeException("failed"), task_error(FULL)), f"{TOLD} {IN_EMBED}"),
        (ExceptionGroup("unhandled errors in a TaskGroup", [ExceptionGroup("", [FULL]), KeyError("x")]), TOLD),
        (task_error(ExceptionGroup("in an actor", [SaveError("no room")])), "no room"),
        (in_creation(KeyError("x")), f"KeyError: 'x' {IN_EMBED}"),
        (
            RuntimeError(
                f"replicas of m cannot be started: failed 2 times. Error:\n{REMOTE}thinkscale.x.ModelError: no m\n\n"
            ),
            f"ModelError: no m {IN_EMBED}",
        ),
        (WorkerGroupError("two", {0: RuntimeError("Connection closed by peer"), 1: KeyError("x")}), "KeyError: 'x'"),
        (WorkerGroupError("two", {0: LOST, 1: KeyError("x")}), "KeyError: 'x'"),
        (WorkerGroupError(REMOTE + "KeyError: 'x'", {1: KeyError("x")}), f"KeyError: 'x' {IN_EMBED}"),
        (ControllerError(WorkerGroupError("", {3: task_error(SaveError("no room"))})), "no room"),
        (WorkerGroupError("", {1: LOST}), "ActorDiedError: The actor died unexpectedly before finishing this task."),
        (WorkerCrashedError(), "WorkerCrashedError: The worker died unexpectedly while executing this task."),
        (NodeDiedError("node gone\nnode_id: 12"), "NodeDiedError: node gone"),
        (TaskUnschedulableError("no node has 8 GPUs"), "TaskUnschedulableError: "),
        (OutOfDiskError("Local disk is full"), "OutOfDiskError: the local disk is full, where Ray keeps objects"),
        (
            RayTaskError("map", REMOTE + IN_DATA, UserCodeException("UDF failed")).as_instanceof_cause(),
            f"{TOLD} {IN_EMBED}",
        ),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
    ],
)
def test_an_error_is_one_line_with_what_was_raised_first(error: BaseException, line: str) -> None:
    told = headline(error)
    assert told.startswith(line)
    assert "\n" not in told
    assert "\x1b" not in told


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (FULL, True),
        (task_error(FULL), True),
        (RayTaskError("map", REMOTE + IN_DATA, UserCodeException("UDF failed")), True),
        (RayTaskError("map", REMOTE + "KeyError: 'x'", UserCodeException("UDF failed")), False),
        (caused(UserCodeException("failed"), task_error(KeyError("x"))), False),
        (WorkerCrashedError(), True),
        (in_creation(KeyError("x")), False),
        (in_creation(FULL), True),
        (WorkerGroupError("", {0: KeyError("x"), 1: LOST}), False),
        (WorkerGroupError("", {1: LOST}), True),
        (ModelError("no m"), False),
        (KeyError("x"), False),
    ],
)
def test_running_again_is_advised_only_where_it_may_get_further(error: BaseException, passes: bool) -> None:
    assert may_pass(error) == passes


def test_our_own_errors_keep_their_message_and_are_not_looked_behind() -> None:
    error = caused(ModelError("no m: get it"), FULL)
    assert cause(error) is error
    assert headline(error) == "no m: get it"


def test_an_error_raised_here_is_told_with_the_innermost_place_of_ours() -> None:
    with pytest.raises(TypeError) as raised:
        Store(3)  # type: ignore[arg-type]
    line = headline(raised.value)
    assert line.startswith("TypeError: ")
    assert "(thinkscale/store/filesystem.py:" in line


def test_logs_are_kept_below_the_campaign_and_named(tmp_path: Path) -> None:
    (tmp_path / "raylet.out").write_text("raylet")
    sentence = keep_logs(
        task_error(FULL), Store(str(tmp_path / "root")), "demo", {"x/raylet.out": tmp_path / "raylet.out"}
    )
    log = Path(sentence.removeprefix("full log: "))
    assert log.is_relative_to(tmp_path / "root" / "demo" / "logs")
    assert "stages/embed.py" in log.read_text()
    assert (log.parent / "x" / "raylet.out").read_text() == "raylet"


def test_logs_are_kept_here_where_the_root_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "file").write_text("a root must be a directory")
    sentence = keep_logs(FULL, Store(str(tmp_path / "file")), "demo", {})
    log = Path(sentence.removeprefix("full log: ").split(" (")[0])
    assert log.is_relative_to(tmp_path)
    assert "No space left" in log.read_text()
    assert str(tmp_path / "file") in sentence


@pytest.mark.parametrize("body", ["raise KeyError('x')", "raise ExceptionGroup('g', [KeyError('x')])"])
def test_the_command_line_tells_any_error_in_one_line_and_shows_the_traceback_when_asked(body: str) -> None:
    program = f"import thinkscale.cli as c\n@c.cli.command()\ndef fails(): {body}\nc.main()"
    run = [sys.executable, "-c", program, "fails"]
    told = subprocess.run(run, capture_output=True, text=True)
    assert (told.returncode, told.stderr) == (1, "thinkscale: KeyError: 'x'\n")
    shown = subprocess.run(run, capture_output=True, text=True, env={**os.environ, "THINKSCALE_TRACEBACK": "1"})
    assert shown.returncode == 1
    assert "Traceback (most recent call last)" in shown.stderr
