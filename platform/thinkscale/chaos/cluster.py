"""A private Ray cluster of several nodes on this machine, whose processes can be found and killed.
A process is known by a variable that it inherits, whoever its parent becomes. Knows nothing of campaigns."""

import os
import re
import secrets
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import psutil

from thinkscale.chaos.s3 import free_ports
from thinkscale.runtime.failure import ClusterError

MARK = "THINKSCALE_CHAOS"
STARTS_WITHIN_S, START_TRIES = 300, 3
OBJECT_STORE_BYTES = 200 << 20
HEAD, DRIVER = "head", "driver"
BUSY = re.compile(r"ray::(?!IDLE|DashboardAgent|RuntimeEnvAgent)")  # of workers with an actor or a task


class Cluster:
    """A head and other nodes, of as many logical CPUs each. `ray stop` is never called: it ends what is not ours."""

    def __init__(self, directory: Path, environment: Mapping[str, str], *, nodes: int, cpus: int) -> None:
        directory.mkdir()
        self._directory, self._size, self._cpus = directory, nodes, cpus
        auth = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        self._environment, self._token = {**os.environ, **auth, **environment}, secrets.token_hex(4)
        self._started: dict[str, subprocess.Popen[bytes]] = {}
        self._count = 0
        self.pids: set[int] = set()  # of every process that was met

    def environment(self, name: str) -> dict[str, str]:
        return {**self._environment, MARK: f"{self._token}/{name}"}

    def processes(self, name: str | None = None) -> dict[psutil.Process, str]:
        """Those that live, with their titles: a node's or the driver's, or all of them."""
        found = {}
        for process in psutil.process_iter():
            with suppress(psutil.Error):  # it ended meanwhile, or is another user's
                token, _, where = process.environ().get(MARK, "").partition("/")
                if token == self._token and name in (None, where):
                    found[process] = " ".join(process.cmdline())[:120].strip()
        self.pids |= {process.pid for process in found}
        return found

    @property
    def nodes(self) -> list[str]:
        return [name for name in self._started if name != HEAD]

    def start(self) -> None:
        """Start all nodes anew, on another port; what was there of them ends."""
        self.stop()
        port, client_port = free_ports(2)
        self.address = f"127.0.0.1:{port}"
        self._add(
            HEAD, "--head", f"--port={port}", f"--ray-client-server-port={client_port}", "--include-dashboard=false",
            f"--temp-dir={self._directory}",
        )  # fmt: skip
        self.fill()

    def fill(self) -> None:
        while len(self._started) < self._size:
            self._count += 1
            self._add(f"node-{self._count}", f"--address={self.address}")

    def lose(self, name: str) -> None:
        """SIGKILL to a node's raylet, its workers and all else of it."""
        while processes := self.processes(name):
            for process in processes:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(processes, timeout=5)
        if name in self._started:
            self._started.pop(name).wait()

    def stop(self) -> None:
        for name in list(self._started):
            self.lose(name)

    def _add(self, name: str, *options: str) -> None:
        for left in reversed(range(START_TRIES)):  # `ray start` gives itself 30 s, too few beside other work
            try:
                return self._try_to_add(name, *options)
            except ClusterError:
                self.lose(name)
                if not left:
                    raise
        raise AssertionError

    def _try_to_add(self, name: str, *options: str) -> None:
        command = [
            str(Path(sys.executable).parent / "ray"), "start", "--block", *options, f"--num-cpus={self._cpus}",
            f"--object-store-memory={OBJECT_STORE_BYTES}", "--disable-usage-stats", "--include-log-monitor=false",
        ]  # fmt: skip
        log = self._directory / f"{name}.log"
        with log.open("wb") as out:
            self._started[name] = subprocess.Popen(
                command, env=self.environment(name), stdout=out, stderr=out, start_new_session=True
            )
        deadline = time.monotonic() + STARTS_WITHIN_S
        while "Ray runtime started" not in (text := log.read_text(errors="replace")):
            if self._started[name].poll() is not None or time.monotonic() > deadline:
                raise ClusterError(f"node {name} of the private cluster did not start:\n{text[-2000:]}")
            time.sleep(0.2)
