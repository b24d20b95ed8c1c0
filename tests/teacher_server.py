"""An OpenAI-compatible teacher that misbehaves on purpose, and remembers what it was paid for.

A question `What is 2 + 3?` is answered right. Words in brackets within the question make the server misbehave:
`[429]`, `[429-after]`, `[500]`, `[cut]`, `[html]`, `[slow]` the first time; `[always-500]`, `[filter]`,
`[long]`, `[null]`, `[refuse]`, `[length]`, `[no-thinking]`, `[wrong]`, `[same]` every time. The model's name says how
thinking arrives.
As a program: `python teacher_server.py PORT [SECONDS]`.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import threading
from collections import Counter
from typing import Any

KEY = "sk-secret-of-the-tests"


class TeacherServer:
    """Serves on loopback, in a thread of its own or in the loop it is run in.

    Args:
        delay_s: of each reply.
        key: that requests must carry; None: any.
    """

    def __init__(self, *, delay_s: float = 0.0, key: str | None = None) -> None:
        self.delay_s, self.key = delay_s, key
        self.asked: Counter[str] = Counter()
        self.paid: Counter[str] = Counter()
        """Whole replies by the question's text, the attempt not told apart."""
        self.bodies: list[dict[str, Any]] = []
        self.canned: dict[str, list[tuple[int, bytes, bytes]]] = {}
        """By question: statuses, content types and bodies, one after another, the last one for ever."""
        self.files: dict[str, str] = {}
        self.batches: dict[str, dict[str, Any]] = {}
        self.polls_to_completion = 2
        self.ends_as: list[str] = []
        """How batches end, one after another; then all complete."""
        self.mangle: Any = lambda lines, number: lines
        """What becomes of the output's lines of the batch of that number."""
        self.lost: Counter[str] = Counter()
        """Calls of the batch API, as `POST /batches`, that are carried out, and whose answers are lost."""
        self.cost: float | None = None
        self.may_answer: Any = lambda: True
        self.under_way = self.most_under_way = 0
        self.keep_bodies = True

    def start(self) -> TeacherServer:
        ready = threading.Event()
        threading.Thread(target=lambda: asyncio.run(self.serve(0, ready)), daemon=True).start()
        ready.wait()
        return self

    async def serve(self, port: int, ready: threading.Event | None = None) -> None:
        server = await asyncio.start_server(self._connection, "127.0.0.1", port, backlog=2048)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        if ready is not None:
            ready.set()
        await server.serve_forever()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                method, path, _ = head.split(b" ", 2)
                length = re.search(rb"(?i)content-length: *(\d+)", head)
                body = await reader.readexactly(int(length[1]) if length else 0)
                self.under_way += 1
                self.most_under_way = max(self.most_under_way, self.under_way)
                try:
                    if not await self._answer(writer, method.decode(), path.decode(), head.decode(), body):
                        break
                finally:
                    self.under_way -= 1
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _answer(self, writer: Any, method: str, path: str, head: str, body: bytes) -> bool:
        """Says whether the connection goes on."""
        if self.key is not None and f"bearer {self.key}".lower() not in head.lower():
            return await self._send(writer, 401, error(f"Incorrect API key provided: {head[:2000]}"))
        if path == "/ledger":
            return await self._send(writer, 200, {"asked": self.asked, "paid": self.paid})
        if "/chat/completions" not in path:
            for call in self.lost:
                if f"{method} {path.removeprefix('/v1')}".startswith(call) and self.lost[call] > 0:
                    self.lost[call] -= 1
                    await self._batch_call(Nobody(), method, path, body)
                    return await self._send(writer, 500, error("the machine is on fire"))
            return await self._batch_call(writer, method, path, body)
        asked = json.loads(body)
        if self.keep_bodies:
            self.bodies.append(asked)
        question = asked["messages"][-1]["content"]
        self.asked[question] += 1
        await asyncio.sleep(self.delay_s)
        while not self.may_answer():
            await asyncio.sleep(0.02)
        if canned := self.canned.get(question):
            code, kind, data = canned[min(self.asked[question], len(canned)) - 1]
            return await self._raw(writer, kind, data, status=code)
        first, faults = self.asked[question] == 1, set(re.findall(r"\[([a-z0-9-]+)\]", question))
        if "always-500" in faults or (first and "500" in faults):
            return await self._send(writer, 500, error("the machine is on fire"))
        if first and "429-after" in faults:
            return await self._send(writer, 429, error("slow down"), "Retry-After: 1")
        if first and "429" in faults:
            return await self._send(writer, 429, error("slow down"))
        if "filter" in faults:
            told = error("The response was filtered due to the prompt", code="content_filter")
            return await self._send(writer, 400, told)
        if "long" in faults:
            told = error("This model's maximum context length is 512 tokens", code="context_length_exceeded")
            return await self._send(writer, 400, told)
        if first and "html" in faults:
            return await self._raw(writer, b"text/html", b"<html>bad gateway</html>")
        reply = self.reply(asked, question, faults)
        if asked.get("stream"):
            data = b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events(reply))
            kind = b"text/event-stream"
        else:
            data, kind = json.dumps(reply).encode(), b"application/json"
        if first and "cut" in faults:
            await self._raw(writer, kind, data, sent=len(data) // 2)
            return False
        if first and "slow" in faults:
            await self._raw(writer, kind, data, sent=10)
            await asyncio.sleep(30)
            return False
        self.paid[question] += 1
        return await self._raw(writer, kind, data)

    def reply(self, asked: dict[str, Any], question: str, faults: set[str]) -> dict[str, Any]:
        numbers = [int(n) for n in re.findall(r"(\d+) \+ (\d+)", question)[-1]] if "+" in question else [0, 0]
        total = sum(numbers) + ("wrong" in faults)
        thinking = f"I add {numbers[0]} and {numbers[1]}. " + "Let me check that again. " * (self.paid[question] % 5)
        usage = {"prompt_tokens": 10, "completion_tokens": 20, **({} if self.cost is None else {"cost": self.cost})}
        if "null" in faults:
            return {"id": "x", "choices": None, "usage": usage}
        message = arriving(asked["model"], thinking.strip(), f"The answer is {total}")
        finish = "stop"
        if "no-thinking" in faults:
            message = {"role": "assistant", "content": f"The answer is {total}"}
        if "refuse" in faults:
            message = {"role": "assistant", "content": None, "refusal": "I cannot help with that"}
        if "VERDICT:" in question:  # a judge is asked
            message = {"role": "assistant", "content": "The same.\nVERDICT: correct"}
        if "length" in faults:
            finish = "length"
        name = "same" if "same" in faults else f"{question}/{self.asked[question]}"
        if "same" in faults:
            message = arriving(asked["model"], "I remember this one.", "The answer is 1")
        choice = {"index": 0, "message": message, "finish_reason": finish}
        return {"id": f"chatcmpl-{name}", "choices": [choice], "usage": usage}

    async def _batch_call(self, writer: Any, method: str, path: str, body: bytes) -> bool:
        path = path.removeprefix("/v1")
        if method == "POST" and path == "/files":
            name = f"file-{len(self.files)}"
            self.files[name] = "".join(re.findall(r'\{"custom_id".*\n', body.decode()))
            return await self._send(writer, 200, {"id": name})
        if method == "POST" and path == "/batches":
            name = f"batch-{len(self.batches)}"
            self.batches[name] = {**json.loads(body), "id": name, "status": "in_progress", "polls": 0}
            return await self._send(writer, 200, self.batches[name])
        if path.startswith("/batches?"):
            return await self._send(writer, 200, {"data": list(self.batches.values()), "has_more": False})
        if path.startswith("/batches/"):
            batch = self.batches[path.rpartition("/")[2]]
            batch["polls"] += 1
            if batch["polls"] >= self.polls_to_completion and batch["status"] == "in_progress":
                self._complete(batch)
            return await self._send(writer, 200, batch)
        return await self._raw(writer, b"application/octet-stream", self.files[path.split("/")[2]].encode())

    def _complete(self, batch: dict[str, Any]) -> None:
        lines = []
        for line in map(json.loads, self.files[batch["input_file_id"]].splitlines()):
            question = line["body"]["messages"][-1]["content"]
            faults = set(re.findall(r"\[([a-z0-9-]+)\]", question))
            self.asked[question] += 1
            status, reply = 200, self.reply(line["body"], question, faults)
            if "filter" in faults:
                status, reply = 400, error("filtered", code="content_filter")
            self.paid[question] += status == 200
            response = {"status_code": status, "body": reply}
            lines.append(json.dumps({"custom_id": line["custom_id"], "response": response, "error": None}))
        self.files[f"out-{batch['id']}"] = "\n".join(self.mangle(lines, len(self.batches) - 1))
        status = self.ends_as.pop(0) if self.ends_as else "completed"
        batch |= {"status": status, "output_file_id": f"out-{batch['id']}"}

    async def _send(self, writer: Any, status: int, body: dict[str, Any], *headers: str) -> bool:
        data = json.dumps(body).encode()
        return await self._raw(writer, b"application/json", data, status=status, headers=headers)

    async def _raw(
        self, writer: Any, kind: bytes, data: bytes, *, status: int = 200, sent: int | None = None, headers: Any = ()
    ) -> bool:
        lines = [b"HTTP/1.1 %d X" % status, b"Content-Type: " + kind, b"Content-Length: %d" % len(data)]
        lines += [header.encode() for header in headers]
        writer.write(b"\r\n".join(lines) + b"\r\n\r\n" + data[:sent])
        await writer.drain()
        return sent is None


class Nobody:
    """Reads an answer that is lost."""

    def write(self, data: bytes) -> None:
        return

    async def drain(self) -> None:
        return


def error(message: str, **more: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": "test", **more}}


def arriving(model: str, thinking: str, answer: str) -> dict[str, Any]:
    """A message whose thinking arrives as the model's name says."""
    forms: dict[str, dict[str, Any]] = {
        "reasoning_content": {"reasoning_content": thinking, "content": answer},
        "reasoning": {"reasoning": thinking, "content": answer},
        "reasoning_details": {
            "reasoning_details": [{"type": "reasoning.text", "text": thinking}], "content": answer,
        },
        "think-tags": {"content": f"<think>\n{thinking}\n</think>\n\n{answer}"},
        "end-tag": {"content": f"{thinking}\n</think>\n\n{answer}"},
        "thought-tags": {"content": f"<thought>{thinking}</thought>{answer}"},
        "content-parts": {
            "content": [
                {"type": "thinking", "thinking": [{"type": "text", "text": thinking}]},
                {"type": "text", "text": answer},
            ]
        },
    }  # fmt: skip
    return {"role": "assistant", **forms.get(model, forms["reasoning_content"])}


def events(reply: dict[str, Any]) -> list[dict[str, Any]]:
    """A reply as a stream's events, texts in two halves."""
    choice = reply["choices"][0]
    halves: list[dict[str, Any]] = [{}, {}]
    for name, value in choice["message"].items():
        if isinstance(value, str) and name != "role":
            halves[0][name], halves[1][name] = value[: len(value) // 2], value[len(value) // 2 :]
        else:
            halves[0][name] = value
    found = [{"id": reply["id"], "choices": [{"index": 0, "delta": half, "finish_reason": None}]} for half in halves]
    found.append({"id": reply["id"], "choices": [{"index": 0, "delta": {}, "finish_reason": choice["finish_reason"]}]})
    return [*found, {"id": reply["id"], "choices": [], "usage": reply["usage"]}]


if __name__ == "__main__":
    server = TeacherServer(delay_s=float(sys.argv[2]) if len(sys.argv) > 2 else 0.0)
    server.keep_bodies = False
    asyncio.run(server.serve(int(sys.argv[1])))
