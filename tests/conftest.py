"""What tests of several folders share."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

# Models of the tests come from installed packages; nothing may ask a hub.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def _free_ports(count: int) -> list[int]:
    """Ports whose gRPC twins (port + 10000) are valid too."""
    ports: list[int] = []
    while len(ports) < count:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1] % 20000 + 20000
        if all(_is_free(p) for p in (port, port + 10000)) and port not in ports:
            ports.append(port)
    return ports


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


@pytest.fixture(scope="session")
def s3_root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A bucket of a real S3 server (SeaweedFS) on loopback; the environment points at it."""
    weed = shutil.which("weed") or str(Path(os.sys.executable).parent / "weed")  # type: ignore[attr-defined]
    s3, master, volume, filer, admin = _free_ports(5)
    credentials = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test-secret"}
    command = [
        weed, "mini", f"-dir={tmp_path_factory.mktemp('weed')}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
        f"-s3.port={s3}", f"-master.port={master}", f"-volume.port={volume}", f"-filer.port={filer}",
        f"-admin.port={admin}", "-webdav=false", "-admin.ui=false", "-s3.port.iceberg=0", "-s3.port.lance=0",
        "-master.telemetry=false", "-master.volumeSizeLimitMB=64", "-bucket=bkt",
    ]  # fmt: skip
    server = subprocess.Popen(
        command,
        env={**os.environ, **credentials, "GOMEMLIMIT": "512MiB"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    settings = {**credentials, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{s3}", "AWS_REGION": "us-east-1"}
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        _wait_for_bucket(server)
        yield "s3://bkt"
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        server.kill()  # it would wait for connections that clients keep open
        server.wait(20)


def _wait_for_bucket(server: subprocess.Popen[bytes]) -> None:
    from thinkscale.store.filesystem import Store, StoreError

    for _ in range(100):
        assert server.poll() is None, "the S3 server ended by itself"
        try:
            Store("s3://bkt/ready").check_writable()
            return
        except StoreError:
            time.sleep(0.2)
    raise AssertionError("the S3 server did not answer in 20 s")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A directory on a disk of 1 MiB."""
    directory = tmp_path / "disk"
    directory.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", directory], capture_output=True).returncode:
        pytest.skip("needs the permission to mount")
    yield directory
    subprocess.run(["umount", directory], check=True)
