"""Every operation of a store over a proxy whose answers fail once: it is tried again, and done once."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from thinkscale.chaos.proxy import FAULTS, Proxy
from thinkscale.chaos.s3_server import ROOT, S3Server
from thinkscale.store.filesystem import PART_BYTES, Store, StoreError

BIG = b"big " * (PART_BYTES // 4 + 1)


@pytest.fixture(scope="module")
def proxy(s3_root: str) -> Iterator[Proxy]:
    """Between this process and the server."""
    endpoint = os.environ["AWS_ENDPOINT_URL"]
    with Proxy(endpoint, seed=0) as found:
        os.environ["AWS_ENDPOINT_URL"] = found.endpoint
        yield found
        os.environ["AWS_ENDPOINT_URL"] = endpoint


@pytest.fixture
def store(s3_root: str, tmp_path: Path) -> Store:
    found = Store(f"{s3_root}{tmp_path}")
    found.write_bytes("here/small", b"small")
    return found


def replace(store: Store, scratch: Path) -> bool:
    return store.replace("here/small", b"small", b"new") and store.read_bytes("here/small") == b"new"


def delete(store: Store, scratch: Path) -> bool:
    store.delete("here/small")
    return "small" not in store.files("here")


def delete_directory(store: Store, scratch: Path) -> bool:
    store.delete_directory("here")
    return not store.files("here")


def download(store: Store, scratch: Path) -> bool:
    store.download("here/small", scratch)
    return scratch.read_bytes() == b"small"


def upload(store: Store, scratch: Path) -> bool:
    scratch.write_bytes(BIG)
    store.upload(scratch, "up")
    return store.files("")["up"] == len(BIG)


def read_nothing(store: Store, scratch: Path) -> bool:
    with pytest.raises(FileNotFoundError):
        store.read_bytes("here/nothing")
    with pytest.raises(FileNotFoundError):
        store.download("here/nothing", scratch)
    with pytest.raises(FileNotFoundError):
        store.replace("here/nothing", b"0", b"1")
    return True


OPERATIONS: dict[str, Callable[[Store, Path], bool]] = {
    "create": lambda store, _: store.create("new", b"1") and not store.create("new", b"2"),
    "create where another did": lambda store, _: not store.create("here/small", b"other"),
    "list": lambda store, _: set(store.files("here", recursive=True)) == {"small"},
    "list directories": lambda store, _: store.directories("") == ["here"],
    "read": lambda store, _: store.read_bytes("here/small") == b"small",
    "read what is not there": read_nothing,
    "replace": replace,
    "delete": delete,
    "delete directory": delete_directory,
    "download": download,
    "upload": upload,
}


@pytest.mark.parametrize("healthy", [0, 1, 2])
@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault != "latency"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_an_answer_that_fails_is_asked_for_again(
    proxy: Proxy, store: Store, tmp_path: Path, name: str, fault: str, healthy: int
) -> None:
    proxy.next = [fault, *[""] * healthy]  # the last one is met first
    try:
        assert OPERATIONS[name](store, tmp_path / "local")
    finally:
        proxy.next = []


def test_expired_credentials_are_told(proxy: Proxy, store: Store) -> None:
    proxy.next = ["expired"]
    with pytest.raises(StoreError, match=r"^the credentials for s3://\S+ have expired while writing new: renew them"):
        store.write_bytes("new", b"1")


def test_a_server_that_is_down_for_some_seconds_is_waited_for(tmp_path: Path) -> None:
    with S3Server(tmp_path) as server:
        store = Store(f"{ROOT}/here")
        server.kill()
        back = threading.Timer(6, server.start)
        back.start()
        try:
            assert store.create("new", b"1")
        finally:
            back.join()  # else it would start a server that nobody ends
        assert store.read_bytes("new") == b"1"
