"""The endpoint engine against servers that misbehave."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from thinkscale.domain.generation import Completion, EngineError, Request
from thinkscale.engines.endpoint import EndpointEngine
from tiny_model import write_tiny_model


class Server(BaseHTTPRequestHandler):
    """Serves one model; answers completions with what the test has laid ready."""

    answers: ClassVar[list[tuple[int, dict[str, Any]]]] = []
    asked: ClassVar[list[dict[str, Any]]] = []
    model: ClassVar[dict[str, Any]] = {"id": "tiny", "object": "model", "max_model_len": 512}

    def do_GET(self) -> None:
        self._answer(200, {"object": "list", "data": [self.model]})

    def do_POST(self) -> None:
        self.asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self._answer(*self.answers.pop(0))

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _answer(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Retry-After-Ms", "1")
        self.end_headers()
        self.wfile.write(data)


def answered(**choice: Any) -> tuple[int, dict[str, Any]]:
    return 200, {"id": "x", "object": "text_completion", "created": 0, "model": "tiny", "choices": [
        {"index": 0, "text": "", "finish_reason": "stop", "logprobs": None, **choice}
    ]}  # fmt: skip


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def url() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    Server.asked.clear()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()


def ask(url: str, directory: Path, request: Request, *answers: tuple[int, dict[str, Any]]) -> Completion:
    Server.answers[:] = answers

    async def run() -> Completion:
        engine = await EndpointEngine.connect(url, "tiny", directory, attempts=3)
        try:
            return await engine.generate(request)
        finally:
            await engine.close()

    return asyncio.run(run())


REQUEST = Request(prompt_ids=(1, 2), max_tokens=5)
FAILED = (503, {"error": {"message": "busy"}})


def test_a_failure_of_the_moment_is_tried_again(url: str, tiny_model: Path) -> None:
    completion = ask(url, tiny_model, REQUEST, FAILED, (429, {}), answered(token_ids=[7, 8, 258]))
    assert completion == Completion(ids=(7, 8), finish="stop", stop_ids=(258,))


def test_attempts_are_bounded(url: str, tiny_model: Path) -> None:
    with pytest.raises(EngineError, match="busy"):
        ask(url, tiny_model, REQUEST, FAILED, FAILED, FAILED, answered(token_ids=[258]))
    assert len(Server.asked) == 3


def test_a_server_without_token_ids_is_refused(url: str, tiny_model: Path) -> None:
    with pytest.raises(EngineError, match="answers without token ids: it must understand return_token_ids"):
        ask(url, tiny_model, REQUEST, answered(text="seven"))


def test_a_completion_that_just_ends_is_an_error(url: str, tiny_model: Path) -> None:
    with pytest.raises(EngineError, match="ended a completion after 1 tokens, no stop"):
        ask(url, tiny_model, REQUEST, answered(token_ids=[7]))


def test_a_refused_request_is_a_value_error(url: str, tiny_model: Path) -> None:
    with pytest.raises(ValueError, match=r"refuses the request.*too long"):
        ask(url, tiny_model, REQUEST, (400, {"error": {"message": "too long"}}))


def test_the_forbidden_first_is_a_request_of_its_own(url: str, tiny_model: Path) -> None:
    request = Request(prompt_ids=(1, 2), max_tokens=5, forbid_first=(9,))
    completion = ask(url, tiny_model, request, answered(token_ids=[7]), answered(token_ids=[9, 258]))
    assert completion.ids == (7, 9)
    first, rest = Server.asked
    assert (first["max_tokens"], rest["max_tokens"], rest["prompt"]) == (1, 4, [1, 2, 7])
    assert set(first["logit_bias"]) - set(rest["logit_bias"]) == {"9"}


def test_no_server_is_named(tiny_model: Path) -> None:
    with pytest.raises(EngineError, match=r"no answer from http://127.0.0.1:9/v1: is the server up"):
        asyncio.run(EndpointEngine.connect("http://127.0.0.1:9/v1", "tiny", tiny_model, attempts=1))
