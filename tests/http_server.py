"""The HTTP interface in a thread of the tests."""

from __future__ import annotations

import threading
import time

import uvicorn

from thinkscale.server.api import OpenAiApi


class Running:
    """A server in a thread."""

    def __init__(self, api: OpenAiApi) -> None:
        config = uvicorn.Config(api.app(), host="127.0.0.1", port=0, log_level="error")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        while not self._server.started:
            time.sleep(0.01)
        self.port: int = self._server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/v1"

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(300)
