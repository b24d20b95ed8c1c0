"""obstore's clients, built under the environment as it is, and the same behind pyarrow's interface.
Owns credentials, retries and the numbers of errors. Knows nothing of roots and paths."""

import asyncio
import errno
import os
import random
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import lru_cache, wraps
from typing import Any, TypeVar

from obstore.exceptions import BaseError
from obstore.fsspec import BufferedFile, FsspecStore
from obstore.store import AzureStore, GCSStore, LocalStore, S3Store

T = TypeVar("T")

RETRIES = 9
BACKOFF = {"init_backoff": timedelta(seconds=0.5), "base": 3, "max_backoff": timedelta(seconds=15)}
"""Between retries: a server that is down or throttles for half a minute is mostly waited for; never less than 7 s."""

LASTING = (
    ({errno.ENOSPC}, r"StorageFull|InsufficientStorage|status code: 507", "no space left on {}", "free some"),
    ({errno.EDQUOT, errno.EFBIG}, "QuotaExceeded", "the quota is used up on {}", "raise it or free some"),
    ({errno.EKEYEXPIRED}, "ExpiredToken|RequestExpired", "the credentials for {} have expired", "renew them"),
    ({errno.EACCES, errno.EPERM, errno.EROFS}, "code: 40[13]", "no permission on {}", "give it"),
)  # what the next try would meet again: error numbers, an object store's words, what is told, what to do

CREDENTIALS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
}


class StoreError(RuntimeError):
    """A root cannot be used; the message names the root and what to do."""

    def __init__(self, message: str, errno: int | None = None) -> None:
        super().__init__(message)
        self.errno = errno  # of a failure that the next try would meet again


def words(error: Exception) -> str:
    """An error's message without the structures that obstore prints behind it."""
    return str(error).partition("\n\nDebug source")[0].rstrip(".")


def whole(call: Callable[[], T]) -> T:
    """What a call gives, again where the answer broke off: the one fault that obstore does not try again."""
    for pause_s in _pauses():
        try:
            return call()
        except BaseError as error:
            _check_broken_off(error)
            time.sleep(pause_s)
    return call()


def wholly(method: Any) -> Any:
    """The same for a coroutine function."""

    @wraps(method)
    async def call(*arguments: Any, **options: Any) -> Any:
        for pause_s in _pauses():
            try:
                return await method(*arguments, **options)
            except BaseError as error:
                _check_broken_off(error)
                await asyncio.sleep(pause_s)
        return await method(*arguments, **options)

    return call


def _pauses() -> Iterator[float]:
    return (random.uniform(0, 0.05 * 2**attempt) for attempt in range(RETRIES))


def _check_broken_off(error: BaseError) -> None:
    if "response body error" not in str(error):
        raise error


def connect(scheme: str, bucket: str, retries: int = RETRIES) -> Any:
    """The client of a bucket, or of this machine's files ("file"), under the environment as it is now."""
    settings = tuple(sorted(item for item in os.environ.items() if item[0].startswith(("AWS_", "GOOGLE_", "AZURE_"))))
    return _client(scheme, bucket, retries, settings, os.getpid())


@lru_cache(maxsize=16)
def _client(scheme: str, bucket: str, retries: int, settings: tuple[tuple[str, str], ...], pid: int) -> Any:
    if pid != _first_user():
        raise StoreError("a process forked from one that used a store cannot use it too: use multiprocessing's spawn")
    if scheme == "file":
        return LocalStore()
    options: dict[str, Any] = {"retry_config": {"max_retries": retries, "backoff": BACKOFF}}
    options["client_options"] = {
        "allow_http": True,  # where the endpoint says so
        "connect_timeout": timedelta(seconds=10),
        "read_timeout": timedelta(seconds=60),
        "timeout": timedelta(hours=6),  # of a whole download
    }
    own = {"AWS_ACCESS_KEY_ID", "AWS_SKIP_SIGNATURE", "AWS_WEB_IDENTITY_TOKEN_FILE"}
    try:
        if scheme == "s3" and not own & dict(settings).keys():
            from obstore.auth.boto3 import Boto3CredentialProvider  # profiles, SSO, an instance's role

            options["credential_provider"] = Boto3CredentialProvider()
        return {"s3": S3Store, "gs": GCSStore, "az": AzureStore}[scheme](bucket, **options)
    except (BaseError, ValueError) as error:
        raise StoreError(f"{scheme}://{bucket} needs {CREDENTIALS[scheme]}: {words(error)}") from error


@lru_cache(maxsize=1)
def _first_user() -> int:
    """The first process that used a store: its client's threads do not live on in a fork of it."""
    return os.getpid()


class Files(FsspecStore):
    """The same clients behind fsspec's interface."""

    cachable = False  # the environment may be another one

    def _construct_store(self, bucket: str) -> Any:
        return connect(str(self.protocol), bucket)

    _info = wholly(FsspecStore._info)
    _ls = wholly(FsspecStore._ls)
    _cp_file = wholly(FsspecStore._cp_file)

    async def _rm_file(self, path: str, **options: Any) -> None:
        with suppress(FileNotFoundError):  # a directory, which is no object
            await wholly(super()._rm_file)(path, **options)

    def _open(self, path: str, mode: Any = "rb", *args: Any, **options: Any) -> BufferedFile:
        return _File(self, path, mode)


class _File(BufferedFile):
    """A file whose failures are OSErrors with a number, as every other file's."""

    def read(self, length: int = -1) -> bytes:
        with _numbered():
            return super().read(length)

    def write(self, data: Any) -> int:
        with _numbered():
            return super().write(bytes(data))  # obstore keeps what it is given, pyarrow's buffers end with the call

    def close(self) -> None:
        with _numbered():
            super().close()


@contextmanager
def _numbered() -> Iterator[None]:
    try:
        yield
    except (OSError, BaseError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        numbers = (min(numbers) for numbers, pattern, *_ in LASTING if re.search(pattern, str(error)))
        raise OSError(next(numbers, errno.EIO), words(error)) from error
