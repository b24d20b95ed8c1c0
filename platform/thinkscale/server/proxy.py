"""A limit on request bodies in Serve's proxies, which read a body to its end into their own memory. Serve asks the
function that RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH names (`middlewares`) for what stands in front of its proxies;
`thinkscale serve` sets it on a cluster of its own, on another it must stand in the nodes' environment."""

import os

from starlette.middleware import Middleware
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from thinkscale.server.bodies import ApiError

CALLBACK = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"
CALLBACK_PATH = "thinkscale.server.proxy:middlewares"
LIMIT = "THINKSCALE_PROXY_MAX_BODY_BYTES"


def middlewares() -> list[Middleware]:
    """Called by each proxy when it starts."""
    return [Middleware(BodyLimit, max_bytes=int(os.environ.get(LIMIT) or 8 << 20))]


class BodyLimit:
    """Answers 413 to a body that is too large, and reads no more of it."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app, self._max_bytes = app, max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        error = ApiError(f"the body is larger than {self._max_bytes} bytes", status=413)
        # A client that still sends would not read an answer on a connection that it thinks is kept.
        refusal = JSONResponse(error.body(), error.status, {"connection": "close"})
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if length.isdigit() and int(length) > self._max_bytes:
            await refusal(scope, receive, send)
            return
        seen, answered = 0, False

        async def limited_receive() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            # To the application it looks as if the client had gone: it drops the request.
            return message if seen <= self._max_bytes else {"type": "http.disconnect"}

        async def counted_send(message: Message) -> None:
            nonlocal answered
            if seen <= self._max_bytes or answered:
                answered = True
                await send(message)

        await self._app(scope, limited_receive, counted_send)
        if seen > self._max_bytes and not answered:
            await refusal(scope, receive, send)
