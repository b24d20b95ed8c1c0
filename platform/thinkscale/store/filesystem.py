"""One interface to a local directory and to S3: whole-object writes and a conditional create.

Owns paths, retries and atomicity. Knows nothing of what the bytes mean.
"""

from __future__ import annotations

import os
import shutil
import uuid
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import pyarrow.fs as pafs

S3_ATTEMPTS = 10
PROBE_ATTEMPTS = 2
"""Of the first write to a root: a wrong endpoint shall be named soon."""


class StoreError(RuntimeError):
    """A root cannot be used; the message names the root and what to do."""


@dataclass(frozen=True)
class Store:
    """A root that holds campaigns: `runs`, `/data/runs`, `file:///data/runs` or `s3://bucket/prefix`.

    S3 credentials and endpoint come from the environment (AWS_ACCESS_KEY_ID, AWS_PROFILE,
    AWS_ENDPOINT_URL, ...), never from the URI. A Store is picklable: each process opens its own client.
    """

    uri: str

    def __post_init__(self) -> None:
        scheme = urlparse(self.uri).scheme
        if scheme in ("", "file"):
            local = urlparse(self.uri).path if scheme else self.uri
            object.__setattr__(self, "uri", str(Path(local).expanduser().absolute()))
        elif scheme == "s3":
            if not urlparse(self.uri).netloc:
                raise StoreError(f"root {self.uri!r} names no bucket: use s3://bucket/prefix")
            object.__setattr__(self, "uri", self.uri.rstrip("/"))
        else:
            raise StoreError(f"root {self.uri!r}: {scheme}:// is not supported; use a directory or s3://bucket/prefix")

    @property
    def is_s3(self) -> bool:
        return self.uri.startswith("s3://")

    @property
    def fs(self) -> pafs.FileSystem:
        return _s3_filesystem(_endpoint(), _region()) if self.is_s3 else pafs.LocalFileSystem()

    def absolute(self, path: str) -> str:
        """The path as `fs` wants it: `bucket/prefix/path` or `/root/path`."""
        root = self.uri.removeprefix("s3://")
        return f"{root}/{path}" if path else root

    def url(self, path: str) -> str:
        """The path as a user would type it."""
        return f"{self.uri}/{path}" if path else self.uri

    def read_bytes(self, path: str) -> bytes:
        """The object's content. Raises FileNotFoundError where there is none."""
        with self.fs.open_input_stream(self.absolute(path)) as stream:
            return bytes(stream.read())

    def exists(self, path: str) -> bool:
        return bool(self.fs.get_file_info(self.absolute(path)).type == pafs.FileType.File)

    def files(self, path: str, *, recursive: bool = False) -> dict[str, int]:
        """Files below a directory, relative to it, with their sizes; empty where there is no directory."""
        return {name: info.size for name, info in self._infos(path, recursive=recursive)}

    def written(self, path: str) -> dict[str, int]:
        """All files below a directory, relative to it, with when they were written (ns)."""
        return {name: info.mtime_ns for name, info in self._infos(path, recursive=True)}

    def _infos(self, path: str, *, recursive: bool) -> list[tuple[str, pafs.FileInfo]]:
        base = self.absolute(path)
        infos = self.fs.get_file_info(pafs.FileSelector(base, allow_not_found=True, recursive=recursive))
        return [
            (info.path[len(base) + 1 :], info)
            for info in sorted(infos, key=lambda info: info.path)
            if info.type == pafs.FileType.File and not info.base_name.startswith(".tmp-")
        ]

    def directories(self, path: str) -> list[str]:
        """Names of the directories directly below a directory."""
        infos = self.fs.get_file_info(pafs.FileSelector(self.absolute(path), allow_not_found=True))
        return sorted(info.base_name for info in infos if info.type == pafs.FileType.Directory)

    def write_bytes(self, path: str, data: bytes) -> None:
        """Write or replace a whole object: a reader sees the old or the new content, never a part."""
        if self.is_s3:
            with self.fs.open_output_stream(self.absolute(path)) as stream:
                stream.write(data)
            return
        target = Path(self.absolute(path))
        temporary = self._write_temporary(target, data)
        os.replace(temporary, target)

    def create(self, path: str, data: bytes, *, attempts: int = S3_ATTEMPTS) -> bool:
        """Write an object only if there is none of that name; say whether this call wrote it."""
        if self.is_s3:
            return self._create_s3(path, data, attempts)
        target = Path(self.absolute(path))
        temporary = self._write_temporary(target, data)
        try:
            os.link(temporary, target)
        except FileExistsError:
            return False
        finally:
            os.unlink(temporary)
        return True

    def delete(self, path: str) -> None:
        self.fs.delete_file(self.absolute(path))

    def delete_directory(self, path: str) -> None:
        """Delete a directory and all that is in it."""
        self.fs.delete_dir(self.absolute(path))

    def upload(self, source: Path, path: str) -> None:
        """Copy one local file into the store, streaming."""
        if self.is_s3:
            with source.open("rb") as file, self.fs.open_output_stream(self.absolute(path)) as stream:
                shutil.copyfileobj(file, stream, 16 << 20)
            return
        target = Path(self.absolute(path))
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.parent / f".tmp-{uuid.uuid4().hex}"
        shutil.copyfile(source, temporary)
        os.replace(temporary, target)

    def download(self, path: str, directory: Path) -> Path:
        """A local directory with the content of a stored one: the directory itself where the root is local."""
        if not self.is_s3:
            return Path(self.absolute(path))
        for name, size in self.files(path, recursive=True).items():
            target = directory / name
            if target.exists() and target.stat().st_size == size:
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary = target.with_name(f".tmp-{uuid.uuid4().hex}")
            with (
                self.fs.open_input_stream(self.absolute(f"{path}/{name}")) as stream,
                temporary.open("wb") as file,
            ):
                shutil.copyfileobj(stream, file, 16 << 20)
            os.replace(temporary, target)
        return directory

    def check_writable(self) -> None:
        """Write, conditionally write again and delete a probe object.

        Raises:
            StoreError: the root cannot be written, or ignores conditional writes (some S3 servers
                acknowledge `If-None-Match` and overwrite all the same; commits there would not be safe).
        """
        probe = f".probe-{uuid.uuid4().hex}"
        try:
            self.create(probe, b"1", attempts=PROBE_ATTEMPTS)
            refused = not self.create(probe, b"2")
            self.delete(probe)
        except Exception as error:
            raise StoreError(
                f"root {self.uri} cannot be written: {error}. Check that it exists and that you may write "
                "there (for S3: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL, the bucket's name)."
            ) from error
        if not refused:
            raise StoreError(
                f"root {self.uri} ignores conditional writes (If-None-Match), so that two drivers could both "
                "commit. Use a server that honours them: AWS S3, MinIO, SeaweedFS, Ceph 18 or newer."
            )

    def _write_temporary(self, target: Path, data: bytes) -> Path:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.parent / f".tmp-{uuid.uuid4().hex}"
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        return temporary

    def _create_s3(self, path: str, data: bytes, attempts: int) -> bool:
        from botocore.exceptions import ClientError

        bucket, _, key = self.absolute(path).partition("/")
        client = _s3_client(_endpoint(), _region(), attempts)
        for attempt in range(attempts):
            try:
                client.put_object(Bucket=bucket, Key=key, Body=data, IfNoneMatch="*")
                return True
            except ClientError as error:
                status = error.response["ResponseMetadata"]["HTTPStatusCode"]
                if status == 412:
                    # A retried put can find the object that its own first try wrote.
                    return self.read_bytes(path) == data
                if status != 409 or attempt == attempts - 1:  # 409: another writer is at it right now
                    raise
        raise AssertionError("unreachable")


def _endpoint() -> str | None:
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None


def _region() -> str | None:
    return os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or None


@lru_cache(maxsize=4)
def _s3_filesystem(endpoint: str | None, region: str | None) -> pafs.FileSystem:
    options: dict[str, Any] = {
        "retry_strategy": pafs.AwsStandardS3RetryStrategy(max_attempts=S3_ATTEMPTS),
        "allow_delayed_open": True,
    }
    if endpoint:
        parsed = urlparse(endpoint)
        options |= {"endpoint_override": parsed.netloc, "scheme": parsed.scheme}
    if region:
        options["region"] = region
    return pafs.S3FileSystem(**options)


@lru_cache(maxsize=4)
def _s3_client(endpoint: str | None, region: str | None, attempts: int) -> Any:
    import boto3
    from botocore.config import Config

    if region is None and endpoint:
        region = "us-east-1"  # own servers take any region, but the signature needs one
    config = Config(
        connect_timeout=10,
        retries={"total_max_attempts": attempts, "mode": "standard"},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    return boto3.client("s3", endpoint_url=endpoint, region_name=region, config=config)
