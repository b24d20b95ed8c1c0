"""Bodies are limited before anything reads them, told or untold."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from thinkscale.server.proxy import LIMIT, BodyLimit, middlewares


async def reads_all(scope: Any, receive: Any, send: Any) -> None:
    """Answers with the length of the body; drops a request whose client has gone."""
    length, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        length += len(message["body"])
        more = message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(length).encode()})


def ask(parts: list[int], headers: dict[str, str]) -> tuple[int, bytes, int]:
    """Status, body and the number of parts that were read."""
    sent: list[Any] = []
    read = 0

    async def receive() -> dict[str, Any]:
        nonlocal read
        read += 1
        return {"type": "http.request", "body": b"x" * parts[read - 1], "more_body": read < len(parts)}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "headers": [(name.encode(), value.encode()) for name, value in headers.items()]}
    asyncio.run(BodyLimit(reads_all, max_bytes=100)(scope, receive, send))
    return sent[0]["status"], sent[1]["body"], read


@pytest.mark.parametrize(
    ("parts", "headers", "status", "read"),
    [
        ([60, 40], {}, 200, 2),
        ([100], {"content-length": "100"}, 200, 1),
        ([60, 41, 5000, 5000], {}, 413, 2),
        ([101], {"content-length": "101"}, 413, 0),
        ([101], {"content-length": "broken"}, 413, 1),
    ],
)
def test_what_is_read_and_answered(parts: list[int], headers: dict[str, str], status: int, read: int) -> None:
    answered, body, parts_read = ask(parts, headers)
    assert (answered, parts_read) == (status, read)
    assert (b"larger than 100 bytes" in body) == (status == 413)


def test_the_limit_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LIMIT, "123")
    (middleware,) = middlewares()
    assert middleware.kwargs == {"max_bytes": 123}
