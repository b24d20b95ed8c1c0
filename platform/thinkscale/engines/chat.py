"""A teacher behind any OpenAI-compatible endpoint: one request, one reply, and what a failure means.
Owns the request's form, the transport and the reading of errors. Knows no limits, no prices and no store: what is sent
when, and how often, is decided above."""

import email.utils
import json
import os
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

from pydantic_core import from_json, to_json
from pyreqwest.client import ClientBuilder
from pyreqwest.exceptions import PyreqwestError
from pyreqwest.runtime import runtime_worker_threads

from thinkscale.domain.generation import EngineError, StopAskingError
from thinkscale.domain.models import Teacher
from thinkscale.domain.question import Status

CONNECT_S = 30.0
WORDS = 500  # characters of a server's message that are kept
SECRET = 16  # characters from which on a key is no word of a reply
LONGEST_WAIT_S = 7 * 86_400.0

_FILTERED = re.compile(
    r"content[_ ](filter|management|policy|exists risk)|moderation|flagged|safety|prohibited", re.IGNORECASE
)
_TOO_LONG = re.compile(
    r"context[_ ](length|window)|maximum context|too (long|many tokens)|exceeds? .{0,40}(length|tokens)"
    r"|tokens`? .{0,40}must be <=",
    re.IGNORECASE,
)
_UNPAID = re.compile(r"insufficient[_ ](quota|balance|credit|funds)|billing", re.IGNORECASE)


class AgainError(EngineError):
    """A failure of the moment; `wait_s` is what the server asks to wait for, `is_limit` whether it was too much."""

    def __init__(self, words: str, wait_s: float | None = None, *, is_limit: bool = False) -> None:
        super().__init__(words)
        self.wait_s, self.is_limit = wait_s, is_limit


class RefusedError(EngineError):
    """The endpoint will not answer this request, whenever it is sent."""

    def __init__(self, status: Status, words: str) -> None:
        super().__init__(words)
        self.status = status


def chat_body(teacher: Teacher, question: str) -> dict[str, Any]:
    """What is sent about a question; the same for the same teacher and question in every campaign."""
    system = [] if teacher.system_prompt is None else [{"role": "system", "content": teacher.system_prompt}]
    body: dict[str, Any] = {"model": teacher.model, "messages": [*system, {"role": "user", "content": question}]}
    body |= {"temperature": teacher.temperature, "top_p": teacher.top_p, **teacher.extra_body}
    if "max_completion_tokens" not in body:
        body.setdefault("max_tokens", teacher.max_thinking_tokens + teacher.max_answer_tokens)
    return {name: value for name, value in body.items() if name not in teacher.omit}


def endpoint_key(teacher: Teacher) -> str:
    """The key of a teacher's endpoint; empty: none. Raises StopAskingError where its file cannot be read."""
    where, key = teacher.api_key_env, os.environ.get(teacher.api_key_env, "").strip()
    if teacher.api_key_file is not None:
        where = f"api_key_file {teacher.api_key_file} of teacher {teacher.model!r}"
        try:
            key = Path(teacher.api_key_file).expanduser().read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise StopAskingError(f"{where} cannot be read where the workers run: {type(error).__name__}") from None
    if not key.isprintable():
        raise StopAskingError(f"{where} holds more than a key: it has several lines, or characters that no key has")
    return key


class ChatEndpoint:
    """A client of one teacher's endpoint, for many requests at once."""

    def __init__(self, teacher: Teacher) -> None:
        assert teacher.endpoint is not None
        self._teacher, self._url, self._key = teacher, teacher.endpoint.rstrip("/"), endpoint_key(teacher)
        builder = ClientBuilder().timeout(timedelta(seconds=teacher.limits.timeout_s)).max_connections(None)
        builder = builder.connect_timeout(timedelta(seconds=min(CONNECT_S, teacher.limits.timeout_s)))
        # On the runtime of the current thread, a reply that waits for the interpreter would hold up all other requests;
        # with one worker to a core they would contend for it.
        with suppress(RuntimeError):  # somebody else's client runs on it already
            runtime_worker_threads(1)
        self._client = builder.runtime_multithreaded(True).build()

    async def send(self, key: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """The reply to a request, whole, in the form of /chat/completions.
        `key`: names the request. Raises AgainError, RefusedError: as their names say; StopAskingError: no request will
        be answered: the key, the account, the model or the URL is at fault."""
        if self._teacher.stream:
            body = {**body, "stream": True, "stream_options": {"include_usage": True}}
        return self.whole(await self.call("POST", "/chat/completions", body))

    async def call(self, method: str, path: str, body: Mapping[str, Any] | None = None, form: Any = None) -> Any:
        """What a path of the endpoint answers: parsed JSON, a stream's events, or a text. Raises as `send`."""
        request = self._client.request(method, self._url + path)
        if self._key:
            request = request.bearer_auth(self._key)
        if body is not None:
            request = request.header("Content-Type", "application/json").body_bytes(to_json(body))
        if form is not None:
            request = request.multipart(form)
        try:
            response = await request.build().send()
            data = bytes(await response.bytes())
        except PyreqwestError as error:
            causes = getattr(error, "details", None) or {}
            inner = [cause["message"] for cause in causes.get("causes") or []]
            words = f"no whole answer from {self._url}: {inner[-1] if inner else error}"
            raise AgainError(self._words(words)) from None
        kind = response.get_header("content-type") or ""
        if len(self._key) >= SECRET:  # some servers repeat it
            data = data.replace(self._key.encode(), b"***")
        found = parsed(data)
        text = data.decode("utf-8", "replace") if found is None else ""
        if response.status >= 300:
            raise self.fault(response.status, found or text, response.get_header)
        if found is None and ("event-stream" in kind or text.startswith("data:")):
            return _assembled(text)
        return text if found is None else found

    def whole(self, reply: Any) -> dict[str, Any]:
        """The reply, where it is one. Raises as `send`; a reply that was paid is given back whatever it looks like."""
        if not isinstance(reply, dict):
            raise AgainError(self._words(f"the reply is no JSON object: {reply!r}"))
        if error := reply.get("error"):
            code = str(error.get("code")) if isinstance(error, dict) else ""
            raise self.fault(int(code) if re.fullmatch("[45][0-9][0-9]", code) else 502, reply)
        usage = reply.get("usage")
        if reply.get("choices") or (isinstance(usage, dict) and usage.get("completion_tokens")):
            return reply
        raise AgainError(self._words(f"the reply holds no choices: {json.dumps(reply)}"))

    def fault(self, status: int, answer: Any, header: Any = lambda name: None) -> EngineError:
        """What an error of the endpoint means, as the error to raise.
        `answer`: the body. `header`: gives one of the answer's headers."""
        error = answer.get("error", answer) if isinstance(answer, dict) else answer
        message = (error.get("message") or error) if isinstance(error, dict) else error
        words = self._words(f"{status}: {message if isinstance(message, str) else json.dumps(message)}")
        told = f"{words} {json.dumps(error)}"
        where = f"{self._url} ({self._teacher.model})"
        if status in (400, 403, 413, 422) and _FILTERED.search(told):
            return RefusedError("content_filter", words)
        if status == 402 or (status in (400, 403, 429) and _UNPAID.search(told)):
            return StopAskingError(f"{where} wants to be paid first: {words}")
        if status in (401, 403):
            source = self._teacher.api_key_file or self._teacher.api_key_env
            return StopAskingError(f"{where} refuses the API key: set {source} where the workers run ({words})")
        if status in (404, 405):
            return StopAskingError(f"{where} has no such model or path: {words}")
        if status in (408, 409, 425, 429) or status >= 500:
            return AgainError(words, _wait_s(header), is_limit=status == 429)
        return RefusedError("prompt_too_long" if status == 413 or _TOO_LONG.search(told) else "error", words)

    async def close(self) -> None:
        await self._client.close()

    def _words(self, text: str) -> str:
        return (text.replace(self._key, "***") if self._key else text)[:WORDS]


def parsed(data: bytes | str) -> Any:
    """Parsed JSON, or None. A half of a character, as cut streams have it, becomes a question mark."""
    with suppress(ValueError):
        return from_json(data)
    with suppress(ValueError):
        found = json.loads(data if isinstance(data, str) else data.decode("utf-8-sig", "replace"))
        return json.loads(json.dumps(found, ensure_ascii=False).encode("utf-8", "replace"))
    return None


def _wait_s(header: Any) -> float | None:
    """Retry-After, in seconds from now: a number, or a date."""
    try:
        if (milliseconds := header("retry-after-ms")) is not None:
            wait_s = float(milliseconds) / 1000
        elif (value := header("retry-after")) is None:
            return None
        elif re.fullmatch(r"\s*\d+(\.\d*)?\s*", value):
            wait_s = float(value)
        else:
            wait_s = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
    except (ValueError, TypeError):
        return None
    return min(max(0.0, wait_s), LONGEST_WAIT_S)


def _assembled(text: str) -> dict[str, Any]:
    """A stream's events as one reply. Raises AgainError where it was cut."""
    reply: dict[str, Any] = {}
    message: dict[str, Any] = {}
    finish = None
    for line in text.split("\n"):  # splitlines would part texts too
        event = parsed(line[5:].strip()) if line.startswith("data:") else None
        if not isinstance(event, dict):
            continue
        if event.get("error"):
            return event
        reply |= {name: event[name] for name in ("id", "model", "usage") if event.get(name)}
        choices = event.get("choices")
        for choice in choices if isinstance(choices, list) else []:
            try:
                finish = choice.get("finish_reason") or finish
                parts = (choice.get("delta") or choice.get("message") or {}).items()
            except AttributeError:
                raise AgainError(f"the stream holds a choice that is none: {line[:WORDS]}") from None
            for name, value in parts:
                if isinstance(value, str | list):
                    message[name] = message[name] + value if type(message.get(name)) is type(value) else value
    if finish is None:
        raise AgainError(f"the stream was cut after {len(text):,} characters")
    message["role"] = "assistant"
    return {**reply, "choices": [{"index": 0, "message": message, "finish_reason": finish}]}
