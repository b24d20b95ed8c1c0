"""A head of Ray with a job server, on this machine, that can be lost and started again on the same ports."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

from thinkscale.chaos.cluster import HEAD, Cluster
from thinkscale.chaos.s3 import free_ports

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent


class JobHead(Cluster):
    """`token`: demanded of every client; None: of none. `environment`: of the head and its clients too."""

    def __init__(self, directory: Path, token: str | None, environment: Mapping[str, str] | None = None) -> None:
        auth = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token} if token else {"RAY_AUTH_MODE": "disabled"}
        auth = {**(environment or {}), **auth}
        self.client = {**os.environ, **auth, "PATH": f"{BIN}:{os.environ['PATH']}"}  # a job's python is the head's
        self._ports = free_ports(5)
        self.server = f"http://127.0.0.1:{self._ports[1]}"
        self.metrics = f"http://127.0.0.1:{self._ports[4]}/metrics"
        self.temporary = Path(f"/tmp/ts-test-{secrets.token_hex(3)}")
        super().__init__(directory, {**auth, "PATH": self.client["PATH"]}, nodes=1, cpus=4)

    def start(self) -> None:
        self.stop()
        port, dashboard, agent, client, metrics = self._ports
        self._add(
            HEAD, "--head", f"--port={port}", f"--dashboard-port={dashboard}", f"--temp-dir={self.temporary}",
            f"--dashboard-agent-listen-port={agent}", f"--ray-client-server-port={client}",
            f"--metrics-export-port={metrics}",
        )  # fmt: skip
        for _ in range(2400):
            try:
                urlopen(f"{self.server}/api/version", timeout=2)
            except HTTPError:  # it wants the token
                return
            except OSError:
                time.sleep(0.25)
            else:
                return
        raise AssertionError(f"no job server at {self.server}")

    def thinkscale(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [str(BIN / "thinkscale"), *arguments], cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={**self.client, "PYTHONPATH": str(ROOT / "platform"), **environment},
        )  # fmt: skip

    def said(self, *arguments: str, code: int = 0, **environment: str) -> str:
        """What a command prints that ends with this exit code."""
        process = self.thinkscale(*arguments, **environment)
        out, errors = process.communicate(timeout=600)
        assert process.returncode == code, (process.returncode, out, errors)
        return out if code == 0 else out + errors
