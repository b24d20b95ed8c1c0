"""Paid replies, each stored once by the hash of its request, for every campaign of a root."""

import hashlib
import time
import uuid
from collections import Counter
from collections.abc import Mapping
from io import FileIO
from typing import Any

from pydantic_core import from_json, to_json

from thinkscale.store.filesystem import Store

FRESH_S = 1.0  # what other processes stored is looked for when so much time has passed


def request_key(endpoint: str, body: Mapping[str, Any], attempt: int) -> str:
    """Names a request: the endpoint, what is sent, and which of several attempts it is."""
    facts = [endpoint.rstrip("/"), attempt, *sorted(body.items())]
    return hashlib.sha256(to_json(facts)).hexdigest()


class Replies:
    """In a bucket `<root>/replies/<xx>/<key>.json`. In a directory `<root>/replies/<id>.log`, one for each process that
    asked, a line `<key> <record>` for each reply: a file for each would take a disk longer than all else."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._log, self._end = f"replies/{uuid.uuid4().hex}.log", 0
        self._file: FileIO | None = None
        self._places: dict[str, tuple[str, int]] = {}  # log and offset, by the first half of a key
        self._seen: Counter[str] = Counter()  # bytes of each log that stand in `_places`
        self._looked_at = -FRESH_S

    async def get(self, key: str) -> dict[str, Any] | None:
        """The record of a request that was paid; None where there is none, or a crash left only a part."""
        try:
            data = await self.store.read_async(self._path(key)) if self.store.is_remote else self._line(key)
            record = from_json(data)
        except (FileNotFoundError, ValueError):
            return None
        return record if isinstance(record, dict) else None

    async def put(self, key: str, record: Mapping[str, Any]) -> dict[str, Any]:
        """Store a record; returns the one that counts, which another campaign may have stored before."""
        if not self.store.is_remote:
            if key[:32] in self._places and (there := await self.get(key)) is not None:
                return there
            line = b"%s %s\n" % (key.encode(), to_json(record))
            self._file = self._file or self.store.opened(self._log)
            self.store.write_at(self._log, self._file, self._end, line)
            self._places[key[:32]] = self._log, self._end
            self._end += len(line)
        elif not await self.store.create_async(self._path(key), data := to_json(record)):
            if (there := await self.get(key)) is not None:
                return there
            await self.store.create_async(self._path(key), data, replace=True)  # what lay there was broken
        return dict(record)

    def _line(self, key: str) -> bytes:
        """A record as it was written. Raises FileNotFoundError where there is none."""
        if key[:32] not in self._places and time.monotonic() - self._looked_at >= FRESH_S:
            self._look()
        if (place := self._places.get(key[:32])) is None:
            raise FileNotFoundError(key)
        with open(self.store.absolute(place[0]), "rb") as file:
            file.seek(place[1])
            return file.readline().partition(b" ")[2]

    def _look(self) -> None:
        """Take note of what stands in the logs of all processes."""
        self._looked_at = time.monotonic()
        for name, size in self.store.files("replies").items():
            log = f"replies/{name}"
            if not name.endswith(".log") or log == self._log or size <= self._seen[log]:
                continue
            with open(self.store.absolute(log), "rb") as file:
                file.seek(self._seen[log])
                for line in file:
                    if not line.endswith(b"\n"):  # it is being written, or a crash left a part
                        break
                    self._places.setdefault(line[:32].decode("ascii", "replace"), (log, self._seen[log]))
                    self._seen[log] += len(line)

    def _path(self, key: str) -> str:
        return f"replies/{key[:2]}/{key}.json"
