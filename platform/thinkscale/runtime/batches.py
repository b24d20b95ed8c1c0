"""A teacher's requests by way of a Batch API: submitted together, polled, and resumed by the batch's id.
Owns which requests went in which batch: written to the root before a batch is submitted, and found again by the batch's
metadata where a crash came before its id was written. Knows no prices and no questions."""

import asyncio
import contextlib
import hashlib
import json
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from pyreqwest.multipart import FormBuilder, PartBuilder

from thinkscale.domain.generation import EngineError, StopAskingError
from thinkscale.domain.models import Teacher
from thinkscale.engines.chat import WORDS, AgainError, ChatEndpoint, parsed
from thinkscale.store.filesystem import Store

QUIET_S = 2.0  # a batch is submitted once no request has come for so long, or as many wait as limits.concurrency says
FIRST_POLL_S, LAST_POLL_S = 1.0, 60.0
OVER = {"completed", "expired", "cancelled", "failed"}


class BatchEndpoint:
    """As ChatEndpoint; each request waits for its batch.
    `keep`: stores a reply of a batch by its request's key, for a batch may hold more than is asked for now."""

    def __init__(self, teacher: Teacher, store: Store, keep: Callable[[str, dict[str, Any]], Awaitable[Any]]) -> None:
        self._chat, self._limits, self._store, self._keep = ChatEndpoint(teacher), teacher.limits, store, keep
        where = hashlib.sha256(f"{teacher.endpoint} {teacher.model}".encode()).hexdigest()[:16]
        self._journals = f"replies/batches/{where}"
        self._futures: dict[str, asyncio.Future[dict[str, Any]]] = {}
        self._waiting: dict[str, Mapping[str, Any]] = {}
        self._submitted: set[str] = set()
        self._came = 0.0
        self._collecting: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._resumed = False

    async def send(self, key: str, body: Mapping[str, Any]) -> dict[str, Any]:
        if key not in self._futures:
            self._futures[key] = asyncio.get_running_loop().create_future()
            if key not in self._submitted:
                self._waiting[key] = body
        self._came = time.monotonic()
        if self._collecting is None or self._collecting.done():
            self._collecting = asyncio.create_task(self._collect())
        try:
            return self._chat.whole(await self._futures[key])
        finally:
            self._futures.pop(key, None)

    async def close(self) -> None:
        await self._chat.close()

    async def _collect(self) -> None:
        try:
            if not self._resumed:
                self._resumed = True
                for name in await asyncio.to_thread(self._store.files, self._journals):
                    journal = json.loads(await asyncio.to_thread(self._store.read_bytes, f"{self._journals}/{name}"))
                    if journal["batch_id"] is not None or await self._named(journal):
                        self._follow(journal)
                    else:  # it was never submitted
                        await asyncio.to_thread(self._store.delete, f"{self._journals}/{name}")
            while self._waiting:
                while len(self._waiting) < self._limits.concurrency and (
                    (left_s := self._came + QUIET_S - time.monotonic()) > 0
                ):
                    await asyncio.sleep(left_s)
                keys = list(self._waiting)[: self._limits.concurrency]
                if group := {key: self._waiting.pop(key) for key in keys}:
                    await self._submit(group)
        except Exception as error:
            self._fail(self._futures, _later(error, "no batch could be submitted"))
            self._waiting.clear()

    async def _submit(self, group: Mapping[str, Mapping[str, Any]]) -> None:
        name = hashlib.sha256("".join(sorted(group)).encode() + str(time.time()).encode()).hexdigest()[:32]
        journal: dict[str, Any] = {"name": name, "keys": sorted(group), "batch_id": None}
        await self._write(journal)
        path = "/v1/chat/completions"
        lines = ({"custom_id": key, "method": "POST", "url": path, "body": body} for key, body in group.items())
        data = "".join(json.dumps(line) + "\n" for line in lines).encode()

        def form() -> Any:
            part = PartBuilder.from_bytes(data).file_name("requests.jsonl").mime("application/jsonl")
            return FormBuilder().text("purpose", "batch").part("file", part)

        file = (await self._call("POST", "/files", form=form))["id"]
        journal["file_id"] = file
        await self._write(journal)
        asked = {"input_file_id": file, "endpoint": path, "completion_window": "24h", "metadata": {"thinkscale": name}}
        # An answer that was lost may have been a yes.
        batch = await self._call("POST", "/batches", asked, done=lambda: self._named(journal))
        journal["batch_id"] = batch["id"]
        await self._write(journal)
        self._follow(journal)

    async def _named(self, journal: dict[str, Any]) -> dict[str, Any] | None:
        """The batch of a journal that has no id of one, if the server has it; its id then stands there."""
        after, more = "", True
        while more:
            page = await self._call("GET", f"/batches?limit=100{after}")
            batches = page.get("data") or []
            for batch in batches:
                name, file = (batch.get("metadata") or {}).get("thinkscale"), batch.get("input_file_id")
                if name == journal["name"] or (file and file == journal.get("file_id")):
                    journal["batch_id"] = batch["id"]
                    return dict(batch)
            more = bool(page.get("has_more") and batches)
            after = f"&after={batches[-1]['id']}" if more else ""
        return None

    def _follow(self, journal: dict[str, Any]) -> None:
        self._submitted.update(journal["keys"])
        for key in journal["keys"]:
            self._waiting.pop(key, None)
        task = asyncio.create_task(self._finish(journal))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _finish(self, journal: dict[str, Any]) -> None:
        keys, began, pause_s = journal["keys"], time.monotonic(), FIRST_POLL_S
        try:
            while (batch := await self._call("GET", f"/batches/{journal['batch_id']}")).get("status") not in OVER:
                if time.monotonic() - began > self._limits.timeout_s:
                    raise StopAskingError(
                        f"batch {journal['batch_id']} is {batch.get('status')} after limits.timeout_s = "
                        f"{self._limits.timeout_s:g}: run the same command again later, it goes on with this batch"
                    )
                await asyncio.sleep(pause_s)
                pause_s = min(LAST_POLL_S, 1.5 * pause_s)
            left = set(keys)
            for name in ("output_file_id", "error_file_id"):
                if batch.get(name):
                    text = await self._call("GET", f"/files/{batch[name]}/content")
                    await self._take(text if isinstance(text, str) else json.dumps(text), left)
            await asyncio.to_thread(self._store.delete, self._path(journal))
            self._submitted.difference_update(keys)
            told = f"batch {journal['batch_id']} {batch['status']}"
            if batch["status"] in ("failed", "cancelled"):
                why = f": {json.dumps(batch.get('errors'))[:500]}" if batch.get("errors") else ""
                raise StopAskingError(f"{told}{why}. What it gave is kept; the same command submits the rest")
            self._fail(keys, AgainError(f"{told} without this request's reply"))
        except Exception as error:
            self._fail(keys, _later(error, f"batch {journal['batch_id']} cannot be read"))

    async def _take(self, lines: str, left: set[str]) -> None:
        """Lines of a batch's output, the first of each key that is left; anything else is passed over."""
        for line in lines.split("\n"):  # splitlines would part texts too
            result = parsed(line)
            key = result.get("custom_id") if isinstance(result, dict) else None
            if not isinstance(key, str) or key not in left:
                continue
            left.remove(key)
            response = result.get("response")
            response = response if isinstance(response, dict) else {}
            code, reply, future = str(response.get("status_code")), response.get("body"), self._futures.get(key)
            if code == "200" and isinstance(reply, dict):
                with contextlib.suppress(EngineError):
                    await self._keep(key, self._chat.whole(reply))
                if future is not None and not future.done():
                    future.set_result(reply)
            elif future is not None and not future.done():
                answer = reply if reply is not None else {"error": result.get("error") or "no response"}
                future.set_exception(self._chat.fault(int(code) if code.isdecimal() else 502, answer))

    def _fail(self, keys: Any, error: Exception) -> None:
        for key in list(keys):
            if (future := self._futures.get(key)) is not None and not future.done():
                future.set_exception(error)

    async def _call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        form: Callable[[], Any] | None = None,
        done: Callable[[], Awaitable[dict[str, Any] | None]] | None = None,
    ) -> Any:
        """What the endpoint answers, as soon as it does. `done`: the answer to a call that was carried out though its
        own answer was lost. Raises AgainError after limits.timeout_s, others as ChatEndpoint.call."""
        began, number = time.monotonic(), 0
        while True:
            try:
                answer = await self._chat.call(method, path, body, None if form is None else form())
                if path.endswith("/content") or (isinstance(answer, dict) and (method == "GET" or "id" in answer)):
                    return answer
                raise AgainError(f"{method} {path} gave {str(answer)[:WORDS]!r}")
            except AgainError as error:
                if time.monotonic() - began > self._limits.timeout_s:
                    raise
                wait_s = error.wait_s
            number += 1
            pause_s = min(LAST_POLL_S, 2.0 ** min(number, 10) / 4) * (0.5 + random.random() / 2)
            await asyncio.sleep(pause_s if wait_s is None else wait_s)
            if done is not None and (there := await done()) is not None:
                return there

    async def _write(self, journal: Mapping[str, Any]) -> None:
        await asyncio.to_thread(self._store.write_bytes, self._path(journal), json.dumps(journal).encode())

    def _path(self, journal: Mapping[str, Any]) -> str:
        return f"{self._journals}/{journal['name']}.json"


def _later(error: Exception, what: str) -> Exception:
    """What could not be had for long is no row's fault."""
    if not isinstance(error, AgainError):
        return error
    return StopAskingError(f"{what}: {error}. Run the same command again later: it goes on with what was submitted")
