"""Paid replies, each stored once by the hash of its request, for every campaign of a root."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from thinkscale.store.filesystem import Store


def request_key(endpoint: str, body: Mapping[str, Any], attempt: int) -> str:
    """Names a request: the endpoint, what is sent, and which of several attempts it is."""
    facts = [endpoint.rstrip("/"), attempt, *sorted(body.items())]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


@dataclass(frozen=True)
class Replies:
    """`<root>/replies/<xx>/<key>.json`."""

    store: Store

    async def get(self, key: str) -> dict[str, Any] | None:
        """The record of a request that was paid; None where there is none, or a power loss left only a part."""
        try:
            record = json.loads(await self.store.read_async(self._path(key)))
        except (FileNotFoundError, ValueError):
            return None
        return record if isinstance(record, dict) else None

    async def put(self, key: str, record: Mapping[str, Any]) -> dict[str, Any]:
        """Store a record; returns the one that counts, which another campaign may have stored before."""
        data = json.dumps(record).encode()
        if await self.store.create_async(self._path(key), data):
            return dict(record)
        if (there := await self.get(key)) is not None:
            return there
        await self.store.create_async(self._path(key), data, replace=True)  # what lay there was broken
        return dict(record)

    def _path(self, key: str) -> str:
        return f"replies/{key[:2]}/{key}.json"
