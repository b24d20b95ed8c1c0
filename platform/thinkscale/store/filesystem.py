"""One interface to a local directory, S3, Google Cloud Storage and Azure: whole-object writes, plain and conditional.
Owns paths, retries, atomicity and the words for what can go wrong. Knows nothing of what the bytes mean."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import random
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import pyarrow.fs as pafs
from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError

from thinkscale.store.clients import LASTING, RETRIES, Files, connect, whole, words
from thinkscale.store.clients import StoreError as StoreError

if TYPE_CHECKING:
    from thinkscale.store.lease import Lease

REMOTE = ("s3://", "gs://", "az://")
PROBE_RETRIES = 1  # of the first write to a root: a wrong endpoint shall be named soon
PART_BYTES = 16 << 20  # of a large upload; more where it would take more than the 10,000 parts that S3 allows


@dataclass(frozen=True)
class Store:
    """A root that holds campaigns: a directory, `s3://bucket/prefix`, `gs://bucket/prefix` or `az://container/prefix`.
    Credentials and endpoint come from the environment (AWS_*, GOOGLE_*, AZURE_*), never from the URI. A Store is
    picklable: each process opens its own client. Every method raises StoreError where a read or write fails for
    good."""

    uri: str
    lease: Lease | None = field(default=None, compare=False, repr=False)  # lost: no writes; None: anyone may

    def __post_init__(self) -> None:
        object.__setattr__(self, "uri", _root(self.uri))

    @property
    def is_remote(self) -> bool:
        return self.uri.startswith(REMOTE)

    @property
    def fs(self) -> pafs.FileSystem:
        """The same place for what needs pyarrow's interface."""
        scheme: Any = self.uri.partition(":")[0]
        return pafs.PyFileSystem(pafs.FSSpecHandler(Files(scheme))) if self.is_remote else pafs.LocalFileSystem()

    def absolute(self, path: str) -> str:
        """The path as `fs` wants it: `bucket/prefix/path` or `/root/path`."""
        root = self.uri.partition("://")[2] if self.is_remote else self.uri
        return f"{root}/{path}" if path else root

    def url(self, path: str) -> str:
        """The path as a user would type it."""
        return f"{self.uri}/{path}" if path else self.uri

    def check(self) -> None:
        """Raises LeaseLostError where another driver has taken the campaign over."""
        if self.lease is not None:
            self.lease.check()

    def read_bytes(self, path: str) -> bytes:
        """The object's content. Raises FileNotFoundError where there is none."""
        objects, key = self._at(path)
        with self._told("reading", path):
            return whole(lambda: bytes(objects.get(key).bytes()))

    def read_json(self, path: str) -> Any:
        """What stands in an object of JSON; None where there is none."""
        try:
            return json.loads(self.read_bytes(path))
        except FileNotFoundError:
            return None

    def files(self, path: str, *, recursive: bool = False) -> dict[str, int]:
        """Files below a directory, relative to it, with their sizes; empty where there is no directory."""
        return {name: meta["size"] for name, meta in self._listed(path, recursive=recursive).items()}

    def written(self, path: str) -> dict[str, str]:
        """All files below a directory, relative to it, with what changes when one is written again."""
        metas = self._listed(path, recursive=True)
        return {name: f"{meta['last_modified']} {meta['size']} {meta['e_tag']}" for name, meta in metas.items()}

    def directories(self, path: str) -> list[str]:
        """Names of the directories directly below a directory."""
        objects, key = self._at(path)
        with self._told("listing", path):
            found = whole(lambda: objects.list_with_delimiter(key)["common_prefixes"])
            return sorted(name.rpartition("/")[2] for name in found)

    def age_s(self, path: str) -> float:
        """Seconds since an object was written, by the store's own clock."""
        now = f"{path}.{uuid.uuid4().hex}"
        self.write_bytes(now, b"")
        with self._told("reading", path):
            written, today = (objects.head(key)["last_modified"] for objects, key in map(self._at, (path, now)))
        self.delete(now)
        return float((today - written).total_seconds())

    def download(self, path: str, target: Path) -> str:
        """Copy an object into a local file, streaming; returns the SHA-256 of what came."""
        digest = hashlib.sha256()
        with Store(str(target.parent))._told("storing", target.name), target.open("wb") as file:
            for block in self._blocks(path):
                digest.update(block)
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
        return digest.hexdigest()

    def upload(self, source: Path, path: str) -> None:
        if not self.is_remote:
            with source.open("rb") as original:
                self._write_local(path, partial(shutil.copyfileobj, original), os.replace)
            return
        objects, key = self._at(path)
        with self._told("writing", path):
            part_bytes = max(PART_BYTES, source.stat().st_size // 9_000)
            whole(lambda: objects.put(key, source, chunk_size=part_bytes, max_concurrency=4))

    def write_bytes(self, path: str, data: bytes) -> None:
        """Write or replace a whole object: a reader sees the old or the new content, never a part."""
        if self.is_remote:
            self._put(path, data, "overwrite")
        else:
            self._write_local(path, lambda file: file.write(data), os.replace)

    def create(self, path: str, data: bytes, *, retries: int = RETRIES) -> bool:
        """Write an object only if there is none of that name; say whether this call wrote it."""
        if self.is_remote:
            return self._put(path, data, "create", retries)
        return self._write_local(path, lambda file: file.write(data), os.link)

    def opened(self, path: str) -> FileIO:
        """A new local file, for `write_at`."""
        with self._told("writing", path):
            os.makedirs(os.path.dirname(self.absolute(path)), exist_ok=True)
            return FileIO(self.absolute(path), "wb")

    def write_at(self, path: str, file: FileIO, offset: int, data: bytes) -> None:
        """Write into an opened file from an offset on. A crash of the machine may leave a part of the data."""
        with self._told("writing", path):
            while data:
                written = os.pwrite(file.fileno(), data, offset)
                data, offset = data[written:], offset + written

    async def read_async(self, path: str) -> bytes:
        """As `read_bytes`, from a bucket, beside many others in one event loop."""
        objects, key = self._at(path)
        with self._told("reading", path):
            return bytes(await (await objects.get_async(key)).bytes_async())

    async def create_async(self, path: str, data: bytes, *, replace: bool = False) -> bool:
        """As `create`, in a bucket, beside many others in one event loop. `replace`: what is there."""
        objects, key = self._at(path)
        with self._told("writing", path):
            try:
                await objects.put_async(key, data, mode="overwrite" if replace else "create")
            except (AlreadyExistsError, PreconditionError):
                return False
        return True

    def replace(self, path: str, expected: bytes, data: bytes) -> bool:
        """Replace an object only if it holds what is expected, which it never held before; say whether this call did.
        Raises FileNotFoundError where there is no object."""
        if self.is_remote:
            objects, key = self._at(path)
            with self._told("reading", path):
                found = whole(lambda: objects.get(key))
                matches = bytes(found.bytes()) == expected
            version = {name: found.meta[name] for name in ("e_tag", "version") if found.meta[name] is not None}
            return matches and self._put(path, data, version)
        while True:
            with self._told("replacing", path), open(self.absolute(path), "r+b") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                if os.path.samestat(os.fstat(file.fileno()), os.stat(self.absolute(path))):
                    if matches := file.read() == expected:
                        self.write_bytes(path, data)
                    return matches

    def delete(self, path: str) -> None:
        self.check()
        objects, key = self._at(path)
        with self._told("deleting", path), suppress(FileNotFoundError):
            whole(lambda: objects.delete(key))

    def delete_directory(self, path: str) -> None:
        """Delete a directory, if it is there, and all that is in it, a manifest first."""
        self.delete(f"{path}/manifest.json")
        with self._told("deleting", path), suppress(FileNotFoundError):
            if not self.is_remote:
                shutil.rmtree(self.absolute(path))
            elif keys := [meta["path"] for meta in self._listed(path, recursive=True).values()]:
                whole(lambda: self._at(path)[0].delete(keys))

    def check_writable(self) -> None:
        """Write, conditionally write again and delete a probe object.
        Raises StoreError where the root cannot be written, or ignores conditional writes (some S3 servers acknowledge
        `If-None-Match` and overwrite all the same; commits there would not be safe)."""
        probe = f".probe-{uuid.uuid4().hex}"
        try:
            self.create(probe, b"1", retries=PROBE_RETRIES)
            refused = not self.create(probe, b"2")
            if self.is_remote:
                refused = refused and not self._put(probe, b"3", {"e_tag": f'"{"0" * 32}"', "version": "0"})
            self.delete(probe)
        except Exception as error:
            raise StoreError(
                f"root {self.uri} cannot be written: {error}. Check that it exists and that you may write "
                "there (for S3: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL, the bucket's name)."
            ) from error
        if not refused:
            raise StoreError(
                f"root {self.uri} ignores conditional writes (If-None-Match, If-Match), so that two drivers could both "
                "commit. Use a server that honours them: AWS S3, MinIO, SeaweedFS, Ceph 18 or newer."
            )

    def _at(self, path: str, retries: int = RETRIES) -> tuple[Any, str]:
        bucket, _, key = self.absolute(path).partition("/")
        return connect(self.uri.partition(":")[0] if self.is_remote else "file", bucket, retries), key

    def _blocks(self, path: str) -> Iterator[bytes]:
        objects, key = self._at(path)
        with self._told("reading", path):
            yield from whole(lambda: objects.get(key)).stream()

    def _listed(self, path: str, *, recursive: bool) -> dict[str, Any]:
        objects, key = self._at(path)
        with self._told("listing", path):
            metas: Any = whole(
                lambda: objects.list(key).collect() if recursive else objects.list_with_delimiter(key)["objects"]
            )
        below = f"{key}/" if key else ""  # some servers keep a mark of the directory itself
        named = {meta["path"].removeprefix(below): meta for meta in metas if meta["path"].startswith(below)}
        return {name: named[name] for name in sorted(named) if not name.rpartition("/")[2].startswith(".tmp-")}

    def _put(self, path: str, data: bytes, mode: Any, retries: int = RETRIES) -> bool:
        objects, key = self._at(path, retries)
        for attempt in range(RETRIES):
            with self._told("writing", path):
                try:
                    whole(lambda: objects.put(key, data, mode=mode))
                    return True
                except (AlreadyExistsError, PreconditionError) as error:
                    # A retried put can find the object that its own first try wrote. If there is none, or a status
                    # of 409 (told as AlreadyExists), another writer is at it right now, perhaps in vain.
                    with suppress(FileNotFoundError):
                        there = whole(lambda: bytes(objects.get(key).bytes()))
                        if there == data or mode == "create" or isinstance(error, PreconditionError):
                            return there == data
            time.sleep(random.uniform(0, 0.05 * 2**attempt))
        raise StoreError(f"writing {path} under {self.uri} failed: other writers are at it without end")

    def _write_local(
        self, path: str, fill: Callable[[BinaryIO], object], publish: Callable[[Path, Path], object]
    ) -> bool:
        """Write a file beside its place, then put it there; says whether `publish` could, where a file may exist."""
        target = Path(self.absolute(path))
        temporary = target.parent / f".tmp-{uuid.uuid4().hex}"
        with self._told("writing", path):
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                with temporary.open("xb") as file:
                    fill(file)
                    file.flush()
                    os.fsync(file.fileno())
                with suppress(FileExistsError):
                    publish(temporary, target)
                    return True
            finally:
                with suppress(OSError):
                    temporary.unlink()
        return False

    @contextmanager
    def _told(self, doing: str, path: str) -> Iterator[None]:
        """What fails is told in one sentence; what is looked for and not there stays a FileNotFoundError."""
        try:
            yield
        except (OSError, BaseError, ValueError) as error:
            if isinstance(error, FileNotFoundError) and doing != "writing":
                raise
            text = words(error)
            number = getattr(error, "errno", None) or int((re.findall(r"\(os error (\d+)\)", text) or [0])[-1])
            for numbers, pattern, what, remedy in LASTING:
                if number in numbers or re.search(pattern, text):
                    told = f"{what.format(self.uri)} while {doing} {path}: {remedy} and run the same command again"
                    raise StoreError(told, min(numbers)) from error
            raise StoreError(f"{doing} {path} under {self.uri} failed: {text}") from error


def mistyped(url: str) -> str | None:
    """What is wrong with a place that reads like a URL and names none, as s3:/x or gs://; None: nothing that shows."""
    parsed = re.match(r"(?i)([a-z][a-z0-9+.-]+):/", url)
    if parsed is None or re.fullmatch(r"(s3|gs|az|hf)://[^/]+(/.*)?", url):
        return None
    scheme = parsed[1].lower()
    known = f"{scheme}://" in (*REMOTE, "hf://")
    return f"{url!r}: use {scheme}://bucket/path" if known else f"{url!r}: {scheme}:// is not supported"


def _root(uri: str) -> str:
    parsed = re.match(r"(?i)(s3|gs|az|[a-z][a-z0-9+.-]+(?=:/)):(.*)", uri)
    if parsed is None:
        return os.path.abspath(os.path.expanduser(uri))
    scheme, rest = parsed[1].lower(), parsed[2]
    if scheme == "file" and (local := re.fullmatch(r"(?://(?:localhost)?)?(/(?!/).*)", rest)):
        return os.path.abspath(local[1])
    if f"{scheme}://" not in REMOTE:
        places = "a directory, s3://bucket/prefix, gs://bucket/prefix or az://container/prefix"
        raise StoreError(f"root {uri!r}: {scheme}:// is not supported; use {places}")
    if not re.fullmatch(r"//[^/]+(/[^/]+)*/*", rest):
        raise StoreError(f"root {uri!r} names no bucket, or has an empty part: use {scheme}://bucket/prefix")
    return f"{scheme}:{rest.rstrip('/')}"
