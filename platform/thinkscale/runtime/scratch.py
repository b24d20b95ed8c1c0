"""Directories on the local disk that go with their owner.
An owner holds a lock on a file in its directory, which the kernel lets go of however the owner ends. What nobody holds
any longer is swept at the next start, with the processes that still work in it."""

import fcntl
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

OWNER = ".thinkscale-owner"  # a file that the directory's owner holds locked from the beginning
REMOVALS = 25
SHORT = "/tmp"  # where paths are short enough for Ray's sockets (107 bytes)


@contextmanager
def directory(prefix: str, parent: str | None = None) -> Iterator[Path]:
    """A new directory of this process, removed on leaving; default parent: that of temporary files (TMPDIR)."""
    path = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    descriptor = os.open(path / f"{OWNER}-new", os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        os.rename(path / f"{OWNER}-new", path / OWNER)
        yield path
    finally:
        remove(path)
        os.close(descriptor)


def remove(path: Path) -> None:
    """Remove a directory in which processes that end may still write for a moment."""
    for _ in range(REMOVALS):
        shutil.rmtree(path, ignore_errors=True)
        if not path.exists():
            return
        time.sleep(0.2)


def sweep() -> None:
    """Remove what dead owners of this user left on this machine, and end the processes that still work there."""
    for parent in {SHORT, tempfile.gettempdir()}:
        for marker in Path(parent).glob(f"t*/{OWNER}"):
            with suppress(OSError):
                _sweep(marker)
    for semaphore in Path("/dev/shm").glob("sem.loky-*-*"):
        maker = Path("/proc") / semaphore.name.split("-")[1]
        with suppress(OSError):
            if semaphore.stat().st_uid == os.getuid() and not maker.exists():
                semaphore.unlink()


def _sweep(marker: Path) -> None:
    descriptor = os.open(marker, os.O_RDWR)
    try:
        if os.fstat(descriptor).st_uid != os.getuid():
            return
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # its owner lives: BlockingIOError
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if f"{marker.parent}/".encode() in (process / "cmdline").read_bytes():
                    os.kill(int(process.name), signal.SIGKILL)
        remove(marker.parent)
    finally:
        os.close(descriptor)
