"""Every operation of a store over a proxy whose answers fail once: it is tried again, and done once."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.fs as pafs
import pytest

from thinkscale.chaos.s3 import FAULTS, ROOT, Proxy, S3Server
from thinkscale.store.filesystem import PART_BYTES, Store, StoreError

FOUND = [pafs.FileType.File, pafs.FileType.Directory, pafs.FileType.NotFound]
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


def kinds(store: Store, *paths: str) -> list[pafs.FileType]:
    return [info.type for info in store.fs.get_file_info([store.absolute(path) for path in paths])]


def fs_write(store: Store, data: bytes) -> bool:
    with store.fs.open_output_stream(store.absolute("by/new")) as stream:
        stream.write(data)
    return store.files("by") == {"new": len(data)}


def fs_read(store: Store, scratch: Path) -> bool:
    with store.fs.open_input_file(store.absolute("here/small")) as stream:
        return bytes(stream.read()) == b"small"


def fs_list(store: Store, scratch: Path) -> bool:
    found = store.fs.get_file_info(pafs.FileSelector(store.absolute("here"), recursive=True))
    return [info.base_name for info in found] == ["small"]


def fs_move(store: Store, scratch: Path) -> bool:
    store.fs.move(store.absolute("here/small"), store.absolute("there/small"))
    return store.read_bytes("there/small") == b"small" and not store.files("here")


def fs_delete(store: Store, scratch: Path) -> bool:
    store.fs.delete_file(store.absolute("here/small"))
    return not store.files("here")


def fs_delete_directory(store: Store, scratch: Path) -> bool:
    store.fs.delete_dir(store.absolute("here"))
    return not store.files("here")


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
    "fs info": lambda store, _: kinds(store, "here/small", "here", "none") == FOUND,
    "fs list": fs_list,
    "fs read": fs_read,
    "fs write": lambda store, _: fs_write(store, b"1"),
    "fs write big": lambda store, _: fs_write(store, BIG),
    "fs move": fs_move,
    "fs delete": fs_delete,
    "fs delete directory": fs_delete_directory,
}


CASES = [(name, fault) for name in OPERATIONS for fault in FAULTS if fault != "latency"]
CASES.remove(("fs write big", "cut"))  # what obstore's writer has taken cannot be asked for again: an OSError


@pytest.mark.parametrize("healthy", [0, 1, 2])
@pytest.mark.parametrize(("name", "fault"), CASES)
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
