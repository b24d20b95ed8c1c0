"""The HTTP interface with the real OpenAI client, over a scripted engine."""

from __future__ import annotations

import asyncio
import http.client
import json
import math
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from http_server import Running
from thinkscale.domain.generation import (
    Completion,
    EngineDiedError,
    EngineError,
    EngineInfo,
    OnTokens,
    Request,
    ScoredId,
    TokenIds,
)
from thinkscale.domain.models import Model
from thinkscale.domain.service import Service
from thinkscale.engines.scripted import ScriptedEngine, by_heart, hashed_logits
from thinkscale.engines.tokenizer import ModelTokenizer
from thinkscale.forcing.formats import S1, resolve_format
from thinkscale.server.api import OpenAiApi
from thinkscale.server.metrics import Exchange, Metrics, summed
from tiny_model import write_tiny_model

QUESTION = [{"role": "user", "content": "2+2?"}]
EOS = 258


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> ModelTokenizer:
    return ModelTokenizer(write_tiny_model(tmp_path_factory.mktemp("tiny")))


@pytest.fixture(scope="module")
def engine(tokenizer: ModelTokenizer) -> ScriptedEngine:
    """Knows one sum by heart, with thinking, after one Wait, without thinking, and in one raw text."""
    thinking = tokenizer.chat_ids(QUESTION, S1)
    close = tokenizer.encode("<|im_start|>answer\n")

    def text(prompt: tuple[int, ...], *parts: str) -> tuple[int, ...]:
        return (*prompt, *(i for part in parts for i in tokenizer.encode(part)), EOS)

    texts = [  # the first that fits is said: a prompt without thinking begins those with it
        text(tokenizer.chat_ids(QUESTION, None), "Four, at once."),
        text(thinking, "naïve: 4", "<|im_start|>answer\n", "It is 4 🙂."),
        text(thinking, "naïve: 4", "Wait", ", yes", "<|im_start|>answer\n", "Four."),
        (*thinking, *tokenizer.encode("naï\n"), *close, *tokenizer.encode("Final Answer: 5"), EOS),
        text(tuple(tokenizer.encode("1, 2, ")), "3, 4"),
    ]
    return ScriptedEngine(
        by_heart(texts, hashed_logits(vocab_size=259, seed=1)), vocab_size=259, eos_ids=(EOS,), context_tokens=256
    )


def service(**settings: Any) -> Service:
    return Service.model_validate({"model": {"base": "tiny"}, "answer_tokens": 64, **settings})


@pytest.fixture(scope="module")
def server(engine: ScriptedEngine, tokenizer: ModelTokenizer) -> Iterator[Running]:
    running = Running(OpenAiApi(engine, tokenizer, S1, service(max_body_bytes=20_000)))
    yield running
    running.stop()


@pytest.fixture
def client(server: Running) -> openai.OpenAI:
    return openai.OpenAI(base_url=server.url, api_key="none", max_retries=0)


def chat(client: openai.OpenAI, **options: Any) -> Any:
    return client.chat.completions.create(**{"model": "tiny", "messages": QUESTION, "temperature": 0, **options})


@pytest.mark.parametrize(("given", "suffix"), [({}, "\n"), ({"end_suffix": ""}, "")])
def test_a_custom_format_may_have_no_suffix(tokenizer: ModelTokenizer, given: dict[str, str], suffix: str) -> None:
    model = Model.model_validate({"base": "tiny", "format": "custom", "start": "[", "end": "]", **given})
    assert resolve_format(model, tokenizer).end_suffix == suffix


def test_thinking_and_answer_arrive_apart(client: openai.OpenAI) -> None:
    reply = chat(client)
    (choice,) = reply.choices
    assert choice.message.content == "It is 4 🙂."
    assert choice.message.reasoning_content == "naïve: 4"
    assert choice.finish_reason == "stop"
    assert choice.thinking == {"end": "natural", "tokens": 9, "forced_tokens": 0, "waits_used": 0}
    assert reply.usage.completion_tokens_details.reasoning_tokens == 9
    assert reply.usage.completion_tokens == 9 + len("It is 4 🙂.".encode())
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens


def test_waits_are_forced_and_counted(client: openai.OpenAI) -> None:
    reply = chat(client, extra_body={"thinking": {"waits": 1}})
    assert reply.choices[0].message.reasoning_content == "naïve: 4Wait, yes"
    assert reply.choices[0].message.content == "Four."
    assert reply.choices[0].thinking["end"] == "waits_used"
    assert reply.usage.completion_tokens_details.forced_tokens == 4
    assert reply.usage.completion_tokens_details.reasoning_tokens == 18


def test_a_cap_gives_the_final_answer(client: openai.OpenAI) -> None:
    reply = chat(client, extra_body={"thinking": {"max_tokens": 4}})
    assert reply.choices[0].message.reasoning_content == "naï"
    assert reply.choices[0].message.content == "Final Answer: 5"
    assert reply.choices[0].thinking["end"] == "cap"
    assert reply.usage.completion_tokens_details.forced_tokens == len("Final Answer:"), "what the cap forces counts"
    (stopped,) = chat(client, stop=" 5", extra_body={"thinking": {"max_tokens": 4}}).choices
    assert stopped.thinking["forced_tokens"] == len("Final Answer:")


@pytest.mark.parametrize(("length", "answer", "finish"), [(53, "It is 4 🙂.", "stop"), (30, "It is 4 ", "length")])
def test_what_the_thinking_leaves_goes_to_the_answer(
    client: openai.OpenAI, length: int, answer: str, finish: str
) -> None:
    """Of 53 tokens 13 are the final-answer text's and a quarter of the rest, 10, is kept: too few for the answer."""
    reply = chat(client, max_completion_tokens=length)
    assert (reply.choices[0].message.content, reply.choices[0].finish_reason) == (answer, finish)
    assert reply.usage.completion_tokens == 9 + len(answer.encode())
    parts = [part.choices[0] for part in chat(client, max_completion_tokens=length, stream=True)]
    assert "".join(part.delta.content or "" for part in parts) == answer
    assert parts[-1].finish_reason == finish
    stopped = chat(client, max_completion_tokens=length, stop="never").choices[0]
    assert (stopped.message.content, stopped.finish_reason) == (answer, finish)


def test_thinking_can_be_left_out(client: openai.OpenAI) -> None:
    reply = chat(client, extra_body={"thinking": {"enabled": False}})
    assert reply.choices[0].message.content == "Four, at once."
    assert not hasattr(reply.choices[0].message, "reasoning_content")


@pytest.mark.parametrize(
    "switch",
    [
        {"chat_template_kwargs": {"enable_thinking": False}},
        {"chat_template_kwargs": {"thinking": False}},
        {"reasoning_effort": "none"},
        {"reasoning": {"enabled": False}},
        {"reasoning": {"effort": "none"}},
    ],
)
def test_thinking_is_left_out_by_the_names_of_other_servers(client: openai.OpenAI, switch: dict[str, Any]) -> None:
    reply = chat(client, extra_body=switch)
    assert reply.choices[0].message.content == "Four, at once."
    assert reply.usage.completion_tokens_details.reasoning_tokens == 0


@pytest.mark.parametrize(
    "cap",
    [
        {"thinking": {"max_tokens": 4}},
        {"thinking_token_budget": 4},
        {"reasoning": {"max_tokens": 4}},
        {"reasoning_effort": "low"},
        {"reasoning": {"effort": "low"}},
        {"reasoning_effort": "high", "thinking_token_budget": 4},
    ],
)
def test_thinking_is_capped_by_the_names_of_other_servers(
    engine: ScriptedEngine, tokenizer: ModelTokenizer, cap: dict[str, Any]
) -> None:
    efforts = {"low": 4, "high": 30}
    running = Running(OpenAiApi(engine, tokenizer, S1, service(reasoning_efforts=efforts)))
    try:
        reply = chat(openai.OpenAI(base_url=running.url, api_key="none", max_retries=0), extra_body=cap)
        refused = {"reasoning_effort": "medium"}
        with pytest.raises(openai.BadRequestError, match="'medium' is unknown: low, high"):
            chat(openai.OpenAI(base_url=running.url, api_key="none", max_retries=0), extra_body=refused)
    finally:
        running.stop()
    assert reply.choices[0].message.content == "Final Answer: 5"
    assert reply.choices[0].message.reasoning_content == reply.choices[0].message.reasoning == "naï"
    assert reply.choices[0].thinking["end"] == "cap"
    assert reply.usage.completion_tokens_details.reasoning_tokens == 4


def test_an_effort_takes_no_more_than_there_is_room_for(client: openai.OpenAI) -> None:
    reply = chat(client, max_tokens=40, extra_body={"reasoning_effort": "high"})
    assert reply.choices[0].message.reasoning == "naïve: 4"


def test_no_budget_is_no_cap(client: openai.OpenAI) -> None:
    assert chat(client, extra_body={"thinking_token_budget": -1}).choices[0].message.reasoning == "naïve: 4"


@pytest.mark.parametrize("thinking", [{}, {"waits": 1}, {"max_tokens": 4}, {"enabled": False}])
def test_a_stream_says_the_same(client: openai.OpenAI, thinking: dict[str, Any]) -> None:
    whole = chat(client, extra_body={"thinking": thinking})
    reasoning, content, finish, usage, parts = "", "", None, None, 0
    stream = chat(client, extra_body={"thinking": thinking}, stream=True, stream_options={"include_usage": True})
    for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            assert not (content and getattr(choice.delta, "reasoning_content", None)), "thinking after the answer"
            reasoning += getattr(choice.delta, "reasoning_content", None) or ""
            content += choice.delta.content or ""
            finish = choice.finish_reason or finish
            parts += 1
    message = whole.choices[0].message
    assert (reasoning or None, content) == (getattr(message, "reasoning_content", None), message.content)
    assert (finish, usage) == (whole.choices[0].finish_reason, whole.usage)
    assert parts > 5


@pytest.mark.parametrize("stream", [False, True])
def test_stop_texts_end_the_answer(client: openai.OpenAI, stream: bool) -> None:
    """The stop text lies across tokens; text before its beginning comes, and thinking is not searched."""
    options = {"stop": ["4 🙂", "naïve"], "extra_body": {"thinking": {}}}
    if stream:
        chunks = [chunk.choices[0] for chunk in chat(client, stream=True, **options)]
        content = "".join(chunk.delta.content or "" for chunk in chunks)
        finish = chunks[-1].finish_reason
    else:
        reply = chat(client, **options)
        content, finish = reply.choices[0].message.content, reply.choices[0].finish_reason
        assert reply.choices[0].message.reasoning_content == "naïve: 4"
        assert reply.usage.completion_tokens_details.reasoning_tokens == 9
    assert (content, finish) == ("It is ", "stop")


def test_a_stop_text_after_the_cap_leaves_the_cap_as_the_end_of_thinking(client: openai.OpenAI) -> None:
    (choice,) = chat(client, stop=" 5", extra_body={"thinking": {"max_tokens": 4}}).choices
    assert (choice.message.content, choice.thinking["end"]) == ("Final Answer:", "cap")


def test_what_only_begins_like_a_stop_text_comes(client: openai.OpenAI) -> None:
    assert chat(client, stop="🙂. And").choices[0].message.content == "It is 4 🙂."


def test_length_is_shared_out_and_ends_the_answer(client: openai.OpenAI) -> None:
    reply = chat(client, max_completion_tokens=27, extra_body={"thinking": {"max_tokens": 9}})
    assert reply.choices[0].finish_reason == "length"
    assert reply.choices[0].thinking["tokens"] == 9
    assert reply.usage.completion_tokens == 27, "9 of thinking, 13 of the final-answer text, 5 of answer"


def test_several_choices_differ_and_repeat_by_seed(client: openai.OpenAI) -> None:
    def texts() -> list[str]:
        reply = chat(client, n=3, seed=7, temperature=2, max_tokens=40, extra_body={"thinking": {"enabled": False}})
        assert [choice.index for choice in reply.choices] == [0, 1, 2]
        return [choice.message.content for choice in reply.choices]

    messages = [{"role": "user", "content": "something unknown"}]
    reply = chat(client, n=3, seed=7, temperature=2, max_tokens=40, messages=messages)
    assert len({choice.message.content + choice.message.reasoning_content for choice in reply.choices}) == 3
    assert texts() == texts()


def test_completions_continue_text_and_ids(client: openai.OpenAI, tokenizer: ModelTokenizer) -> None:
    ids = tokenizer.encode("1, 2, ")
    reply = client.completions.create(
        model="tiny", prompt=["1, 2, ", "1, 2, "], temperature=0, extra_body={"return_token_ids": True}
    )
    assert [choice.text for choice in reply.choices] == ["3, 4", "3, 4"]
    assert reply.choices[0].token_ids == [*tokenizer.encode("3, 4"), EOS]
    assert reply.usage.prompt_tokens == 2 * len(ids)
    stream = client.completions.create(
        model="tiny", prompt=ids, temperature=0, stream=True, extra_body={"return_token_ids": True}
    )
    told = [choice for chunk in stream for choice in chunk.choices]
    assert "".join(choice.text for choice in told) == "3, 4"
    assert [i for choice in told for i in getattr(choice, "token_ids", [])] == reply.choices[0].token_ids


def test_completions_can_think(client: openai.OpenAI) -> None:
    prompt = "<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n"
    reply = client.completions.create(
        model="tiny", prompt=prompt, temperature=0, max_tokens=100, extra_body={"thinking": {}}
    )
    assert (reply.choices[0].text, reply.choices[0].reasoning_content) == ("It is 4 🙂.", "naïve: 4")


def test_models(client: openai.OpenAI) -> None:
    (model,) = client.models.list().data
    assert (model.id, model.max_model_len) == ("tiny", 256)
    assert client.models.retrieve("tiny") == model
    with pytest.raises(openai.NotFoundError, match="no model 'other' here"):
        client.models.retrieve("other")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"extra_body": {"thinkin": {}}}, "thinkin: unknown field"),
        ({"extra_body": {"thinking": {"wait": 1}}}, "thinking.wait: unknown field"),
        ({"extra_body": {"thinking": {"waits": -1}}}, r"thinking.waits: .*greater than or equal to 0 \(it is -1\)"),
        ({"extra_body": {"thinking": {"waits": 1, "wait_text": "x<|im_end|>"}}}, "ends thinking or the text"),
        (
            {"extra_body": {"thinking": {"max_tokens": 50}}, "max_tokens": 20},
            "20 tokens: 50 of thinking and the 13 of .* leave none for an answer",
        ),
        ({"temperature": 3}, r"temperature: .*less than or equal to 2 \(it is 3\)"),
        ({"n": 33}, "33 completions in one request: at most 32"),
        ({"logprobs": True}, "logprobs"),
        ({"presence_penalty": 0.5}, "the scripted engine has no presence"),
        ({"frequency_penalty": 3}, "frequency_penalty: .*less than or equal to 2"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"extra_body": {"thinking": {"waits": 17}}}, r"thinking.waits: .*less than or equal to 16 \(it is 17\)"),
        ({"extra_body": {"thinking": {"wait_text": "🙂" * 99}}}, "are 409 tokens: at most 400"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": None}]}, "messages.0: .*a user message needs content"),
        ({"messages": [{"role": "tool", "content": "x", "tool_call_id": "1"}]}, "messages.0"),
        ({"messages": [{"role": "user", "content": "x" * 400}]}, "the prompt fills the model's context: .* too many"),
        ({"max_tokens": 13}, "13 tokens: 0 of thinking and the 13 of .* leave none for an answer"),
        ({"max_tokens": 240}, "may have 240 tokens, but the prompt leaves room for"),
    ],
)
def test_what_is_impossible_is_refused_by_name(client: openai.OpenAI, options: dict[str, Any], words: str) -> None:
    with pytest.raises(openai.BadRequestError, match=words):
        chat(client, **options)


def test_an_over_long_completion_prompt_is_refused(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match=r"prompt of 300 tokens .* more than the context of 256") as caught:
        client.completions.create(model="tiny", prompt=[65] * 300)
    assert caught.value.code == "context_length_exceeded"


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b'{"model": "tiny", "prompt": "\xff"}', 400, "not UTF-8"),
        (rb'{"model": "tiny", "prompt": "\ud800"}', 400, "not UTF-8"),
        (b'{"model": "tiny", "prompt": ', 400, "not JSON"),
        (b"[" * 9000, 400, "not JSON"),
        (b'{"model": "tiny", "prompt": "x", "temperature": NaN}', 400, "NaN is not a JSON number"),
        (b"[1]", 400, "must be a JSON object"),
        (b'{"model": "tiny", "prompt": "x", "seed": 1e999}', 400, "seed"),
        (b'{"model": "tiny", "prompt": []}', 400, "prompt is empty"),
        (b'{"model": "tiny", "prompt": [-1]}', 400, "outside the vocabulary"),
        (b'{"model": "other", "prompt": "x"}', 404, "no model 'other' here"),
        (b" " * 20_001, 413, "larger than 20000 bytes"),
    ],
)
def test_broken_bodies(server: Running, body: bytes, status: int, words: str) -> None:
    answer = post(server, "/v1/completions", body)
    assert answer[0] == status
    assert words in answer[1]["error"]["message"]


def test_a_body_without_end_is_not_read_to_its_end(server: Running) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=300)
    connection.putrequest("POST", "/v1/completions")
    connection.putheader("Transfer-Encoding", "chunked")
    connection.endheaders()
    for _ in range(3):
        connection.send(b"%x\r\n" % 9000 + b" " * 9000 + b"\r\n")
    assert connection.getresponse().status == 413


def test_unknown_paths_are_errors_of_the_interface(server: Running) -> None:
    status, body = post(server, "/v1/embeddings", b"{}")
    assert (status, body["error"]["type"]) == (404, "invalid_request_error")


@pytest.mark.parametrize("endless", ["chat", "completions"])
def test_a_cancelled_stream_leaves_the_engine(tokenizer: ModelTokenizer, endless: str) -> None:
    engine = ScriptedEngine(
        by_heart([], hashed_logits(vocab_size=259, spread=0.01)), vocab_size=259, eos_ids=(), context_tokens=50_000,
        token_s=0.001,
    )  # fmt: skip
    running = Running(OpenAiApi(engine, tokenizer, S1, service()))
    client = openai.OpenAI(base_url=running.url, api_key="none")
    try:
        if endless == "chat":
            stream: Any = chat(client, stream=True, temperature=1, max_tokens=40_000)
        else:
            stream = client.completions.create(model="tiny", prompt="x", max_tokens=40_000, stream=True)
        for count, _ in enumerate(stream):
            if count == 10:
                break
        stream.close()
        for _ in range(15_000):
            if engine.under_way == 0:
                break
            time.sleep(0.02)
        assert engine.under_way == 0
        assert engine.decoded_tokens < 40_000
    finally:
        running.stop()


def test_keys(engine: ScriptedEngine, tokenizer: ModelTokenizer) -> None:
    running = Running(OpenAiApi(engine, tokenizer, S1, service(), keys=["one", "zwölf"]))
    try:
        for key in ("one", "zwölf"):
            headers = {"Authorization": f"Bearer {key}".encode()}
            assert get(running, "/v1/models", headers) == 200
        for wrong in ("two", "on", "onee", ""):
            assert get(running, "/v1/models", {"Authorization": f"Bearer {wrong}"}) == 401
        assert get(running, "/v1/models", {}) == 401
        assert get(running, "/v1/models", {"Authorization": "Basic one"}) == 401
        assert get(running, "/health", {}) == 200
        with pytest.raises(openai.AuthenticationError, match="missing or wrong API key"):
            chat(openai.OpenAI(base_url=running.url, api_key="wrong", max_retries=0))
    finally:
        running.stop()


class BrokenEngine:
    """Fails after three tokens."""

    info: EngineInfo = ScriptedEngine(vocab_size=259, eos_ids=(EOS,)).info

    async def generate(self, request: Any, on_tokens: Any = None) -> Any:
        for token in (65, 66, 67):
            await asyncio.sleep(0)
            if on_tokens is not None:
                on_tokens((token,))
        raise EngineDiedError("out of memory")

    def check(self) -> None:
        raise EngineDiedError("out of memory")

    async def close(self) -> None:
        pass


def test_a_dead_engine_is_an_error_that_is_passed_on(tokenizer: ModelTokenizer) -> None:
    died: list[EngineError] = []
    running = Running(OpenAiApi(BrokenEngine(), tokenizer, S1, service(), on_engine_error=died.append))
    client = openai.OpenAI(base_url=running.url, api_key="none", max_retries=0)
    try:
        with pytest.raises(openai.InternalServerError, match="out of memory"):
            chat(client)
        with pytest.raises(openai.APIError, match="out of memory"):
            list(chat(client, stream=True))
        assert len(died) == 2
        assert get(running, "/health", {}) == 503
    finally:
        running.stop()


def post(server: Running, path: str, body: bytes) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=300)
    connection.request("POST", path, body)
    answer = connection.getresponse()
    return answer.status, json.loads(answer.read())


def get(server: Running, path: str, headers: dict[str, Any]) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=300)
    connection.request("GET", path, headers=headers)
    return connection.getresponse().status


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"logprobs": True}, "logprobs: the scripted engine does not have it, vllm has"),
        ({"logprobs": True, "top_logprobs": 3, "stream": True}, "logprobs: the scripted engine does not have it"),
        ({"logprobs": True, "extra_body": {"thinking": {"enabled": False}}}, "logprobs: the scripted engine"),
        ({"top_logprobs": 3}, "top_logprobs needs logprobs: true"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs: .*less than or equal to 20"),
        ({"response_format": {"type": "json_object"}}, "response_format: the scripted engine does not have it"),
        ({"response_format": {"type": "yaml"}}, "response_format.type: .*'json_object'"),
        ({"response_format": {"type": "json_schema"}}, "response_format: .*json_schema goes with the type"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools: this service has no tool calls"),
        ({"tool_choice": "required"}, "tool_choice: this service has no tool calls"),
    ],
)
def test_what_the_engine_does_not_give_is_refused_by_name(
    client: openai.OpenAI, options: dict[str, Any], told: str
) -> None:
    with pytest.raises(openai.BadRequestError, match=told):
        chat(client, **options)


class ScoringEngine(ScriptedEngine):
    """As vLLM does it, of what the scripted engine draws: every id with its score. Notes what it was asked for."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.info = replace(self.info, engine="vllm")
        self.asked: list[Request] = []

    async def generate(self, request: Request, on_tokens: OnTokens | None = None) -> Completion:
        self.asked.append(request)
        scores = request.sampling.scores

        def scored(ids: TokenIds) -> TokenIds:
            if scores is None:
                return ids
            return tuple(ScoredId(i, -0.5, ((i, -0.5), (0, -math.inf))[:scores]) for i in ids)

        completion = await super().generate(request, on_tokens and (lambda ids: on_tokens(scored(ids))))
        return replace(completion, ids=scored(completion.ids))


@pytest.fixture(scope="module")
def scoring(engine: ScriptedEngine, tokenizer: ModelTokenizer) -> Iterator[tuple[ScoringEngine, openai.OpenAI]]:
    known = ScoringEngine(engine._next_logits, vocab_size=259, eos_ids=(EOS,), context_tokens=256)
    running = Running(OpenAiApi(known, tokenizer, S1, service()))
    yield known, openai.OpenAI(base_url=running.url, api_key="none", max_retries=0)
    running.stop()


def scores_of(reply: Any) -> list[Any]:
    return [each for part in reply for each in (part.choices[0].logprobs and part.choices[0].logprobs.content) or []]


@pytest.mark.parametrize(
    ("options", "content", "forced"),
    [
        ({}, "It is 4 🙂.", 0),
        ({"stop": " 🙂"}, "It is 4", 0),
        ({"stop": "never"}, "It is 4 🙂.", 0),
        ({"extra_body": {"thinking": {"max_tokens": 4}}}, "Final Answer: 5", 13),
        ({"extra_body": {"thinking": {"enabled": False}}}, "Four, at once.", 0),
    ],
    ids=str,
)
def test_the_answers_tokens_come_with_their_log_probabilities(
    scoring: tuple[ScoringEngine, openai.OpenAI], options: dict[str, Any], content: str, forced: int
) -> None:
    _, client = scoring
    options = {"logprobs": True, "top_logprobs": 2, **options}
    whole = scores_of([chat(client, **options)])
    assert [each.model_dump() for each in scores_of(chat(client, stream=True, **options))] == [
        each.model_dump() for each in whole
    ]
    assert b"".join(bytes(each.bytes) for each in whole).decode() == content
    assert [each.logprob for each in whole] == [0.0] * forced + [-0.5] * (len(whole) - forced)
    assert {len(each.top_logprobs) for each in whole[forced:]} == {2}
    assert whole[-1].top_logprobs[0].token == whole[-1].token
    assert whole[-1].top_logprobs[1].logprob == -9999.0, "minus infinity is no JSON"


def test_completions_have_log_probabilities_too(scoring: tuple[ScoringEngine, openai.OpenAI]) -> None:
    _, client = scoring
    (choice,) = client.completions.create(model="tiny", prompt="1, 2, ", temperature=0, logprobs=1).choices
    assert choice.logprobs.tokens == ["3", ",", " ", "4"]
    assert choice.logprobs.text_offset == [0, 1, 2, 3]
    assert choice.logprobs.top_logprobs[0] == {"3": -0.5}


SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}


@pytest.mark.parametrize(
    ("form", "schema"),
    [
        ({"type": "json_object"}, {"type": "object"}),
        ({"type": "json_schema", "json_schema": {"name": "s", "schema": SCHEMA, "strict": True}}, SCHEMA),
        ({"type": "text"}, None),
    ],
)
@pytest.mark.parametrize("thinking", [{}, {"max_tokens": 4}, {"enabled": False}], ids=str)
def test_json_is_asked_of_the_answer_alone(
    scoring: tuple[ScoringEngine, openai.OpenAI], form: dict[str, Any], schema: Any, thinking: dict[str, Any]
) -> None:
    engine, client = scoring
    engine.asked.clear()
    reply = chat(client, response_format=form, extra_body={"thinking": thinking}, max_tokens=60)
    *before, answer = engine.asked
    assert [each.sampling.json_schema for each in before] == [None] * len(before)
    assert answer.sampling.json_schema == (None if schema is None else json.dumps(schema))
    if schema is not None:
        assert not answer.stops, "a grammar ends at the end-of-text ids alone"
        assert reply.usage.completion_tokens_details.forced_tokens == 0, "the final-answer text is no JSON"
        thought = reply.usage.completion_tokens_details.reasoning_tokens
        assert answer.max_tokens == 60 - thought, "what the thinking leaves is the answer's from its start"


def figures(text: str) -> dict[str, float]:
    lines = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in lines}


def test_figures_and_the_log_count_requests_and_hold_no_texts(
    engine: ScriptedEngine, tokenizer: ModelTokenizer, tmp_path: Path
) -> None:
    log = tmp_path / "requests.log"
    running = Running(OpenAiApi(engine, tokenizer, S1, service(request_log=str(log)), keys=["secret-key"]))
    try:
        client = openai.OpenAI(base_url=running.url, api_key="secret-key", max_retries=0)
        chat(client, extra_body={"thinking": {"max_tokens": 4}})
        list(chat(client, stream=True, n=2))
        with pytest.raises(openai.BadRequestError):
            chat(client, temperature=3)
        with pytest.raises(openai.AuthenticationError):
            chat(openai.OpenAI(base_url=running.url, api_key="wrong", max_retries=0))
        told = httpx.get(running.url.replace("/v1", "/metrics")).text
    finally:
        running.stop()
    path, found = "/v1/chat/completions", figures(told)
    for status, count in ((200, 2), (400, 1), (401, 1)):
        assert found[f'thinkscale_requests_total{{path="{path}",status="{status}"}}'] == count
    assert found[f'thinkscale_request_seconds_count{{path="{path}"}}'] == 4
    assert found["thinkscale_requests_under_way"] == 0
    natural = len("It is 4 🙂.".encode())
    for kind, count in (("thinking", 4 + 2 * 9), ("answer", 15 + 2 * natural), ("forced", 13)):
        assert found[f'thinkscale_tokens_total{{kind="{kind}"}}'] == count, kind
    lines = log.read_text().splitlines()
    assert [line.split()[3] for line in lines] == ["200", "200", "400", "401"]
    assert re.search(r" s choices=2 prompt_tokens=\d+ thinking_tokens=18 answer_tokens=26 forced_tokens=0$", lines[1])
    for secret in ("secret-key", "wrong", "naïve", "It is", "Final"):
        assert secret not in log.read_text() + told


def test_figures_of_several_replicas_are_summed() -> None:
    first, second = Metrics(), Metrics()
    for metrics, statuses in ((first, (200, 200)), (second, (200, 503))):
        for status in statuses:
            Exchange(metrics, "/v1/models").end(status)
    Exchange(second, "/v1/models")
    text = summed([first.text(), second.text()]).decode()
    found = figures(text)
    assert found['thinkscale_requests_total{path="/v1/models",status="200"}'] == 3
    assert found['thinkscale_requests_total{path="/v1/models",status="503"}'] == 1
    assert found['thinkscale_request_seconds_bucket{le="+Inf",path="/v1/models"}'] == 4
    assert found["thinkscale_requests_under_way"] == 1
    assert "# TYPE thinkscale_request_seconds histogram" in text
    assert "# HELP thinkscale_requests_total Requests answered" in text
