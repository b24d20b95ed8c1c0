"""A small object store on loopback that speaks S3, Google Cloud Storage (XML) and Azure, and fails when told to.

Conditional puts are honoured as the real ones do it. It keeps everything in memory and checks no signature.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape, unescape


@dataclass
class Stored:
    data: bytes
    generation: int
    written_s: float

    @property
    def etag(self) -> str:
        return f'"{hashlib.md5(self.data).hexdigest()}-{self.generation}"'


@dataclass
class Server:
    """What it holds, what it was asked, and what goes wrong with the next requests."""

    port: int = 0
    honest: bool = True
    """False: acknowledges conditional puts and overwrites all the same."""
    objects: dict[str, Stored] = field(default_factory=dict)
    parts: dict[str, bytes] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    """For the next requests that match, as `PUT 503`, `PUT lost` (done, but no answer comes), `GET cut`."""
    asked: list[str] = field(default_factory=list)
    lock: Any = field(default_factory=threading.Lock)
    generation: int = 0

    def environment(self, scheme: str) -> dict[str, str]:
        url = f"http://127.0.0.1:{self.port}"
        if scheme == "gs":
            account = {
                "gcs_base_url": url,
                "disable_oauth": True,
                "client_email": "",
                "private_key": "",
                "private_key_id": "",
            }
            return {"GOOGLE_SERVICE_ACCOUNT_KEY": json.dumps(account)}
        if scheme == "az":
            key = {"AZURE_STORAGE_ACCOUNT_NAME": "acc", "AZURE_STORAGE_ACCOUNT_KEY": "a2V5"}
            return {**key, "AZURE_STORAGE_ENDPOINT": url}
        keys = {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s", "AWS_REGION": "us-east-1"}
        return {**keys, "AWS_ENDPOINT_URL": url}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_state: Server

    def log_message(self, *_: object) -> None:
        pass

    def do_any(self) -> None:
        state, url = self.server_state, urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        query = {name: values[0] for name, values in parse_qs(url.query, keep_blank_values=True).items()}
        with state.lock:
            state.asked.append(self.command)
            fault = ""
            if state.faults and state.faults[0].startswith(f"{self.command} "):
                fault = state.faults.pop(0).partition(" ")[2]
            if fault.isdigit():
                self.answer(int(fault), b"<Error><Code>Told</Code></Error>")
                return
            if fault == "full":
                self.answer(507, b"<Error><Code>XMinioStorageFull</Code></Error>")
                return
            self.fault = fault
            getattr(self, f"on_{self.command.lower()}")(unquote(url.path).lstrip("/"), query, body)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = do_any  # noqa: N815

    def answer(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        if getattr(self, "fault", "") == "lost":
            self.close_connection = True
            self.connection.close()
            return
        self.send_response(status)
        for name, value in {"x-ms-request-id": "1", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", (headers or {}).get("Content-Length", str(len(body))))
        self.end_headers()
        if self.command != "HEAD":
            cut = getattr(self, "fault", "") == "cut"
            self.wfile.write(body[: len(body) // 2] if cut else body)
            if cut:
                self.wfile.flush()
                self.close_connection = True
                self.connection.close()

    def send_header(self, keyword: str, value: str) -> None:
        if not (
            keyword == "Content-Length" and any(b"Content-Length" in h for h in getattr(self, "_headers_buffer", []))
        ):
            super().send_header(keyword, value)

    def described(self, stored: Stored) -> dict[str, str]:
        return {
            "ETag": stored.etag,
            "x-goog-generation": str(stored.generation),
            "Last-Modified": formatdate(stored.written_s, usegmt=True),
        }

    def put(self, key: str, data: bytes) -> None:
        state, there = self.server_state, self.server_state.objects.get(key)
        wanted = self.headers.get("x-goog-if-generation-match")
        unmet = (
            (self.headers.get("If-None-Match") == "*" and there is not None)
            or (self.headers.get("If-Match") not in (None, there.etag if there else ""))
            or (wanted is not None and int(wanted) != (there.generation if there else 0))
        )
        if unmet and state.honest:
            azure_exists = "x-ms-version" in self.headers and self.headers.get("If-None-Match") == "*"
            self.answer(409 if azure_exists else 412, b"<Error><Code>BlobAlreadyExists</Code></Error>")
            return
        state.generation += 1
        state.objects[key] = stored = Stored(data, state.generation, time.time())
        self.answer(201 if "x-ms-version" in self.headers else 200, b"", self.described(stored))

    def on_put(self, key: str, query: dict[str, str], body: bytes) -> None:
        state = self.server_state
        source = next((v for h in ("amz", "goog", "ms") if (v := self.headers.get(f"x-{h}-copy-source"))), None)
        if source is not None:
            copied = state.objects[unquote(urlsplit(source).path).lstrip("/")]
            state.objects[key] = Stored(copied.data, copied.generation, time.time())
            headers = {**self.described(copied), "x-ms-copy-status": "success"}
            self.answer(202 if "x-ms-version" in self.headers else 200, b"<CopyObjectResult/>", headers)
        elif "partNumber" in query or query.get("comp") == "block":
            state.parts[f"{key} {query.get('partNumber', query.get('blockid'))}"] = body
            self.answer(201 if "blockid" in query else 200, b"", {"ETag": '"part"'})
        elif query.get("comp") == "blocklist":
            ids = re.findall(rb"<(?:Uncommitted|Latest)>(.*?)</", body)
            self.put(key, b"".join(state.parts[f"{key} {block.decode()}"] for block in ids))
        else:
            self.put(key, body)

    def on_post(self, key: str, query: dict[str, str], body: bytes) -> None:
        state = self.server_state
        if "uploads" in query:
            answer = "<InitiateMultipartUploadResult><UploadId>1</UploadId></InitiateMultipartUploadResult>"
            self.answer(200, answer.encode())
        elif "uploadId" in query:
            numbers = re.findall(rb"<PartNumber>(\d+)</PartNumber>", body)
            state.generation += 1
            data = b"".join(state.parts[f"{key} {number.decode()}"] for number in numbers)
            state.objects[key] = stored = Stored(data, state.generation, time.time())
            answer = (
                f"<CompleteMultipartUploadResult><ETag>{escape(stored.etag)}</ETag></CompleteMultipartUploadResult>"
            )
            self.answer(200, answer.encode(), self.described(stored))
        elif "delete" in query:
            for name in re.findall(rb"<Key>(.*?)</Key>", body):
                state.objects.pop(f"{key.rstrip('/')}/{unescape(name.decode())}", None)
            names = re.findall(r"<Key>.*?</Key>", body.decode())
            self.answer(
                200, f"<DeleteResult>{''.join(f'<Deleted>{n}</Deleted>' for n in names)}</DeleteResult>".encode()
            )
        else:
            self.batch(body)

    def batch(self, body: bytes) -> None:
        """Azure's deletions of many blobs in one request."""
        replies = []
        for number, path in enumerate(re.findall(rb"DELETE /(\S+) HTTP", body)):
            key = unquote(urlsplit(path.decode()).path)
            status = "202 Accepted" if self.server_state.objects.pop(key, None) else "404 Not Found"
            replies.append(
                f"--b\r\nContent-Type: application/http\r\nContent-ID: {number}\r\n\r\nHTTP/1.1 {status}\r\n\r\n"
            )
        self.answer(202, ("".join(replies) + "--b--").encode(), {"Content-Type": "multipart/mixed; boundary=b"})

    def on_delete(self, key: str, query: dict[str, str], body: bytes) -> None:
        there = self.server_state.objects.pop(key, None)
        s3 = "x-amz-date" in self.headers
        self.answer(
            204 if s3 else (202 if there else 404) if "x-ms-version" in self.headers else (204 if there else 404)
        )

    def on_get(self, key: str, query: dict[str, str], body: bytes) -> None:
        if "list-type" in query or query.get("comp") == "list":
            return self.listing(key.rstrip("/"), query)
        stored = self.server_state.objects.get(key)
        if stored is None:
            return self.answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
        headers, data, status = self.described(stored), stored.data, 200
        if wanted := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or ""):
            first, last = int(wanted[1]), int(wanted[2] or len(data) - 1)
            headers["Content-Range"] = f"bytes {first}-{min(last, len(data) - 1)}/{len(data)}"
            data, status = data[first : last + 1], 206
        return self.answer(status, data, {**headers, "Content-Length": str(len(data))})

    def on_head(self, key: str, query: dict[str, str], body: bytes) -> None:
        self.on_get(key, query, body)

    def listing(self, bucket: str, query: dict[str, str]) -> None:
        prefix, delimiter = f"{bucket}/{query.get('prefix', '')}", query.get("delimiter")
        found, prefixes = [], set()
        for key, stored in sorted(self.server_state.objects.items()):
            below = key.removeprefix(prefix)
            if key.startswith(prefix) and delimiter and delimiter in below:
                prefixes.add(f"{query.get('prefix', '')}{below.partition('/')[0]}/")
            elif key.startswith(prefix):
                found.append((escape(key.removeprefix(f"{bucket}/")), stored))
        if "comp" in query:
            blobs = "".join(
                f"<Blob><Name>{name}</Name><Properties><Last-Modified>{formatdate(s.written_s, usegmt=True)}"
                f"</Last-Modified><Content-Length>{len(s.data)}</Content-Length><Content-Type>a/b</Content-Type>"
                f"<Etag>{escape(s.etag)}</Etag></Properties></Blob>"
                for name, s in found
            ) + "".join(f"<BlobPrefix><Name>{escape(name)}</Name></BlobPrefix>" for name in sorted(prefixes))
            self.answer(200, f"<EnumerationResults><Blobs>{blobs}</Blobs><NextMarker/></EnumerationResults>".encode())
            return
        contents = "".join(
            f"<Contents><Key>{name}</Key><Size>{len(s.data)}</Size><ETag>{escape(s.etag)}</ETag><LastModified>"
            f"{time.strftime('%Y-%m-%dT%H:%M:%S.000Z', time.gmtime(s.written_s))}</LastModified></Contents>"
            for name, s in found
        ) + "".join(f"<CommonPrefixes><Prefix>{escape(name)}</Prefix></CommonPrefixes>" for name in sorted(prefixes))
        self.answer(200, f"<ListBucketResult>{contents}</ListBucketResult>".encode())


@contextmanager
def object_server() -> Iterator[Server]:
    state = Server()
    handler = type("Bound", (Handler,), {"server_state": state})
    http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    http.daemon_threads = True
    state.port = http.server_port
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        http.shutdown()
        http.server_close()
