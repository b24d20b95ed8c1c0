"""Directories that go with their owner: swept after its death, never before."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from thinkscale.runtime import scratch

OWNER = """
import sys, time
from thinkscale.runtime import scratch
with scratch.directory("thinkscale-train-", sys.argv[1]) as path:
    (path / "left").write_text("x")
    print(path, flush=True)
    time.sleep(600)
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only this test's directory is swept."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(scratch, "SHORT", str(tmp_path))


def start(stack: ExitStack, parent: Path) -> tuple[subprocess.Popen[str], Path]:
    owner = subprocess.Popen([sys.executable, "-c", OWNER, str(parent)], stdout=subprocess.PIPE, text=True)
    stack.callback(owner.wait)
    stack.callback(owner.kill)
    assert owner.stdout is not None
    return owner, Path(owner.stdout.readline().strip())


def test_what_a_killed_owner_left_is_swept_with_the_processes_in_it_and_what_a_living_one_has_stays(
    tmp_path: Path,
) -> None:
    with ExitStack() as stack:
        _, living = start(stack, tmp_path)
        dead, left = start(stack, tmp_path)
        waits = "import time; print(flush=True); time.sleep(600)"
        orphan = subprocess.Popen([sys.executable, "-c", waits, f"{left}/raylet"], stdout=subprocess.PIPE)
        stack.callback(orphan.kill)
        assert orphan.stdout is not None
        assert orphan.stdout.readline()
        scratch.sweep()
        assert (left / "left").exists()
        dead.kill()
        dead.wait()
        scratch.sweep()
        assert not left.exists()
        assert orphan.wait(300) == -signal.SIGKILL
        assert (living / "left").exists()


def test_directories_of_others_are_never_touched(tmp_path: Path) -> None:
    for name in ("ts-project", "thinkscale-train-notes"):
        (tmp_path / name).mkdir()
    scratch.sweep()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["thinkscale-train-notes", "ts-project"]


def test_a_directory_is_gone_when_its_owner_leaves_it_in_whatever_way(tmp_path: Path) -> None:
    with pytest.raises(KeyError), scratch.directory("ts-") as path:
        raise KeyError
    assert not path.exists()
    assert path.parent == tmp_path


def test_semaphores_of_dead_processes_are_swept(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    of_dead, of_living = (Path(f"/dev/shm/sem.loky-{pid}-thinkscaletest") for pid in (dead.pid, os.getpid()))
    for semaphore in (of_dead, of_living):
        semaphore.touch()
    try:
        scratch.sweep()
        assert not of_dead.exists()
        assert of_living.exists()
    finally:
        of_living.unlink()
        of_dead.unlink(missing_ok=True)
