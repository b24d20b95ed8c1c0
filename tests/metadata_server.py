"""EC2's instance metadata on loopback, by tokens (IMDSv2) alone."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ACTION, REBALANCE = "spot/instance-action", "events/recommendations/rebalance"


class MetadataServer(ThreadingHTTPServer):
    """`said` holds what the instance is told, by path; `tokens` those that it takes."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.said: dict[str, Any] = {}
        self.tokens: set[str] = set()
        self.given = self.looks = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: MetadataServer

    def do_PUT(self) -> None:
        if self.path != "/latest/api/token" or not self.headers.get("X-aws-ec2-metadata-token-ttl-seconds"):
            return self._answer(400)
        self.server.given += 1
        token = f"token-{self.server.given}"
        self.server.tokens.add(token)
        return self._answer(200, token)

    def do_GET(self) -> None:
        if self.headers.get("X-aws-ec2-metadata-token") not in self.server.tokens:
            return self._answer(401)
        self.server.looks += 1
        said = self.server.said.get(self.path.removeprefix("/latest/meta-data/"))
        if said is None:
            return self._answer(404)
        return self._answer(200, said if isinstance(said, str) else json.dumps(said))

    def _answer(self, code: int, body: str = "") -> None:
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def metadata_server() -> Iterator[MetadataServer]:
    server = MetadataServer()
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
