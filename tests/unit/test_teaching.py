"""A teacher behind an endpoint, against a server that misbehaves on purpose."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from teacher_server import KEY, TeacherServer
from thinkscale.domain.generation import StopAskingError
from thinkscale.domain.models import Teacher
from thinkscale.domain.question import Attempt
from thinkscale.runtime.teaching import EndpointSettings, EndpointTeacher, spent_usd
from thinkscale.store.filesystem import Store
from thinkscale.store.schemas import ATTEMPTS, table

PRICES = {"prompt_usd_per_million": 1.0, "completion_usd_per_million": 2.0}
USD = (10 * 1.0 + 20 * 2.0) / 1e6


@pytest.fixture
def server() -> TeacherServer:
    return TeacherServer().start()


def settings(server: TeacherServer, root: Path, **teacher: Any) -> EndpointSettings:
    given = {"model": "m", "endpoint": server.url, "prices": PRICES, **teacher}
    return EndpointSettings(teacher=Teacher.model_validate(given), store=Store(str(root)), campaign="mine")


def ask(made: EndpointSettings, *questions: str, attempts: int = 1) -> list[Attempt]:
    async def run() -> list[Attempt]:
        engine = EndpointTeacher(made)
        try:
            asked = [engine.attempt(question, number) for question in questions for number in range(attempts)]
            return list(await asyncio.gather(*asked))
        finally:
            await engine.close()

    return asyncio.run(run())


FORMS = (
    "reasoning_content",
    "reasoning",
    "reasoning_details",
    "think-tags",
    "end-tag",
    "thought-tags",
    "content-parts",
)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_thinking_arrives_in_any_form(server: TeacherServer, tmp_path: Path, form: str, stream: bool) -> None:
    (found,) = ask(settings(server, tmp_path, model=form, stream=stream), "What is 2 + 3?")
    assert (found.status, found.thinking, found.answer) == ("ok", "I add 2 and 3.", "The answer is 5")
    assert (found.prompt_tokens, found.completion_tokens, found.usd) == (10, 20, pytest.approx(USD))


@pytest.mark.parametrize(
    ("fault", "status", "words", "requests"),
    [
        ("500", "ok", "", 2),
        ("429", "ok", "", 2),
        ("cut", "ok", "", 2),
        ("html", "ok", "", 2),
        ("slow", "ok", "", 2),
        ("always-500", "error", "the machine is on fire (tried 2 times)", 2),
        ("filter", "content_filter", "filtered due to the prompt", 1),
        ("long", "prompt_too_long", "maximum context length is 512", 1),
        ("null", "malformed_reply", "choices", 1),
        ("refuse", "refusal", "I cannot help with that", 1),
        ("length", "cut_answer", "length", 1),
        ("no-thinking", "empty_thinking", "", 1),
    ],
)
def test_what_goes_wrong_is_a_status_with_the_servers_words(
    server: TeacherServer, tmp_path: Path, fault: str, status: str, words: str, requests: int
) -> None:
    question = f"[{fault}] What is 2 + 3?"
    made = settings(server, tmp_path, limits={"tries": 2, "timeout_s": 2.0 if fault == "slow" else 300.0})
    found, other = ask(made, question, "What is 1 + 1?")
    assert (found.status, other.status) == (status, "ok")
    assert words in found.words
    assert server.asked[question] == requests


JSON, EVENTS = b"application/json", b"text/event-stream"
MESSAGE = {"reasoning": "so", "content": "4"}
CHOICE = {"index": 0, "message": MESSAGE, "finish_reason": "stop"}


def whole(**changes: Any) -> dict[str, Any]:
    return {"id": "x", "choices": [CHOICE], "usage": {"prompt_tokens": 10, "completion_tokens": 20}, **changes}


def events(*choices: Any) -> bytes:
    lines = ("data: " + json.dumps({"id": "x", "choices": [each]}, ensure_ascii=False) for each in choices)
    return (": they are thinking\n\n" + "\n\n".join(lines) + "\n\ndata: [DONE]\n\n").encode()


def refused(status: int, words: str) -> tuple[int, bytes, bytes]:
    return status, JSON, json.dumps({"error": {"message": words}}).encode()


@pytest.mark.parametrize(
    ("answer", "status", "thinking"),
    [
        ((200, JSON, b"\xef\xbb\xbf" + json.dumps(whole()).encode()), "ok", "so"),
        ((200, EVENTS, json.dumps(whole()).encode()), "ok", "so"),
        ((200, b"text/plain", json.dumps(whole()).encode()), "ok", "so"),
        ((200, JSON, json.dumps(whole()).replace('"so"', '"so \\ud83d"').encode()), "ok", "so ?"),
        ((200, JSON, json.dumps(whole()).encode().replace(b'"so"', b'"so \xff"')), "ok", "so \ufffd"),
        ((200, EVENTS, events({"delta": MESSAGE}, {"delta": None, "finish_reason": "stop"})), "ok", "so"),
        ((200, EVENTS, events(CHOICE)), "ok", "so"),
        ((200, EVENTS, events({"delta": {"reasoning": "a\u2028b\x85c"}}, CHOICE)), "ok", "a\u2028b\x85cso"),
        ((200, EVENTS, events(3)), "error", ""),
        ((200, EVENTS, events({"delta": ["x"], "finish_reason": "stop"})), "error", ""),
        ((200, JSON, json.dumps(whole(usage={"prompt_tokens": 10**30, "completion_tokens": -7})).encode()), "ok", "so"),
        ((200, JSON, json.dumps(whole(usage={"cost": float("inf"), "prompt_tokens": True})).encode()), "ok", "so"),
        (refused(400, "Content Exists Risk"), "content_filter", ""),
        (refused(422, "`inputs` tokens + `max_new_tokens` must be <= 4096. Given: 5000"), "prompt_too_long", ""),
        (refused(400, "Input length 5000 exceeds the model's limit of 4096 tokens"), "prompt_too_long", ""),
        (refused(400, "temperature must be <= 2"), "error", ""),
    ],
)
def test_whatever_a_server_sends_is_a_status(
    server: TeacherServer, tmp_path: Path, answer: tuple[int, bytes, bytes], status: str, thinking: str
) -> None:
    server.canned["q"] = [answer]
    (found,) = ask(settings(server, tmp_path, limits={"tries": 1, "timeout_s": 300.0}), "q")
    assert (found.status, found.thinking) == (status, thinking)
    row = {name: value for name, value in asdict(found).items() if name in ATTEMPTS.names}
    assert table([{**row, "question_id": "q", "attempt": 0, "teacher": "m", "correct": False}], ATTEMPTS).num_rows == 1
    assert 0 <= found.usd < 1
    assert found.prompt_tokens in (0, 1, 10)


def test_what_went_wrong_within_a_choice_is_told(server: TeacherServer, tmp_path: Path) -> None:
    choice = {**CHOICE, "finish_reason": "error", "error": {"code": 502, "message": "the provider died"}}
    server.canned["q"] = [(200, JSON, json.dumps(whole(choices=[choice])).encode())]
    (found,) = ask(settings(server, tmp_path), "q")
    assert found.status == "malformed_reply"
    assert "the provider died" in found.words


def test_a_server_that_is_busy_is_asked_ever_less_often(
    server: TeacherServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.canned["q"] = [refused(429, "slow down")] * 8 + [(200, JSON, json.dumps(whole()).encode())]
    pauses: list[float] = []
    sleep = asyncio.sleep

    async def at_once(seconds: float, result: Any = None) -> None:
        pauses.append(seconds)
        await sleep(0)

    monkeypatch.setattr(asyncio, "sleep", at_once)
    (found,) = ask(settings(server, tmp_path, limits={"tries": 1}), "q")
    assert found.status == "ok"
    assert max(pauses) > 30
    assert max(pauses) <= 60


def test_failed_requests_take_no_tokens_of_the_quota(
    server: TeacherServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sleep = asyncio.sleep
    monkeypatch.setattr(asyncio, "sleep", lambda seconds: sleep(0))
    limits = {"tries": 8, "tokens_per_day": 12_000, "concurrency": 1}  # about 4,400 are reckoned for each
    found = ask(settings(server, tmp_path, limits=limits), "[always-500] What is 2 + 3?", "What is 1 + 1?")
    assert [each.status for each in found] == ["error", "ok"]


@pytest.mark.parametrize("wait", ["999999999999999", "Fri, 31 Dec 9999 23:59:59 GMT"])
def test_a_wait_beyond_all_measure_ends_it_in_order(server: TeacherServer, tmp_path: Path, wait: str) -> None:
    server.canned["q"] = [(429, JSON + b"\r\nRetry-After: " + wait.encode(), b"{}")]
    with pytest.raises(StopAskingError, match="the server's quota"):
        ask(settings(server, tmp_path), "q")


def test_a_key_that_a_server_repeats_is_stored_nowhere(
    server: TeacherServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ECHOED_KEY", KEY)
    said = {"reasoning": f"You sent {KEY}", "content": "4"}
    server.canned["q"] = [(200, JSON, json.dumps(whole(choices=[{"message": said, "finish_reason": None}])).encode())]
    (found,) = ask(settings(server, tmp_path, api_key_env="ECHOED_KEY"), "q")
    assert found.thinking == "You sent ***"
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and KEY.encode() in p.read_bytes()]


def test_retry_after_is_waited_for(server: TeacherServer, tmp_path: Path) -> None:
    async def run() -> float:
        engine = EndpointTeacher(settings(server, tmp_path))
        began = asyncio.get_running_loop().time()
        await engine.attempt("[429-after] What is 2 + 3?", 0)
        return asyncio.get_running_loop().time() - began

    assert asyncio.run(run()) >= 1.0


def test_a_reply_is_paid_once_for_all_campaigns_of_a_root(server: TeacherServer, tmp_path: Path) -> None:
    made = settings(server, tmp_path)
    questions = [f"What is {i} + 1?" for i in range(5)] + ["[null] What is 9 + 1?"]
    first = ask(made, *questions, attempts=2)
    assert server.paid.total() == 12
    assert ask(made, *questions, attempts=2) == first
    other = EndpointSettings(teacher=made.teacher, store=made.store, campaign="other")
    again = ask(other, *questions, attempts=2)
    assert server.paid.total() == 12
    assert [(a.status, a.answer) for a in again] == [(a.status, a.answer) for a in first]
    assert sum(a.usd for a in again) == 0
    asked = [(question, number) for question in questions for number in range(2)]
    assert asyncio.run(spent_usd(made, asked)) == pytest.approx(12 * USD)
    assert asyncio.run(spent_usd(other, asked)) == 0


def test_spending_ends_with_the_requests_under_way(server: TeacherServer, tmp_path: Path) -> None:
    server.delay_s = 0.01
    made = settings(server, tmp_path, limits={"concurrency": 4})
    limited = EndpointSettings(teacher=made.teacher, store=made.store, campaign="mine", usd_left=10 * USD)
    questions = [f"What is {i} + 1?" for i in range(40)]

    async def run() -> None:
        engine = EndpointTeacher(limited)
        results = await asyncio.gather(*(engine.attempt(q, 0) for q in questions), return_exceptions=True)
        stopped = [each for each in results if isinstance(each, StopAskingError)]
        assert stopped
        assert "--max-usd is reached" in str(stopped[0])

    asyncio.run(run())
    assert 10 <= server.paid.total() <= 13
    assert asyncio.run(spent_usd(made, [(q, 0) for q in questions])) == pytest.approx(server.paid.total() * USD)


def test_a_process_that_takes_anothers_place_spends_what_that_left(server: TeacherServer, tmp_path: Path) -> None:
    made = settings(server, tmp_path, limits={"concurrency": 2})
    asked = [(f"What is {i} + 1?", 0) for i in range(40)]
    limited = replace(made, usd_left=lambda: 10 * USD - asyncio.run(spent_usd(made, asked)))
    ask(limited, *(question for question, _ in asked[:8]))
    with pytest.raises(StopAskingError, match="--max-usd is reached"):
        ask(limited, *(question for question, _ in asked))
    assert 10 <= server.paid.total() <= 11


def test_concurrency_is_kept(server: TeacherServer, tmp_path: Path) -> None:
    server.delay_s = 0.02
    ask(settings(server, tmp_path, limits={"concurrency": 3}), *(f"What is {i} + 1?" for i in range(12)))
    assert server.most_under_way == 3


def test_a_wrong_key_ends_it_and_is_not_told(
    server: TeacherServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.key = KEY
    monkeypatch.setenv("OTHER_KEY", "sk-wrong-and-secret")
    with pytest.raises(StopAskingError, match="refuses the API key: set OTHER_KEY") as raised:
        ask(settings(server, tmp_path, api_key_env="OTHER_KEY"), "What is 2 + 3?")
    assert "sk-wrong" not in str(raised.value)
    (tmp_path / "key").write_text(f"{KEY}\n")
    (found,) = ask(settings(server, tmp_path, api_key_file=str(tmp_path / "key")), "What is 2 + 3?")
    assert found.status == "ok"
    assert not [p for p in tmp_path.rglob("replies/*") if p.is_file() and KEY in p.read_text()]


def test_a_file_with_more_than_a_key_is_refused_without_its_words(server: TeacherServer, tmp_path: Path) -> None:
    (tmp_path / "key").write_text(f"# mine\n{KEY}\n")
    with pytest.raises(StopAskingError, match="holds more than a key") as raised:
        ask(settings(server, tmp_path, api_key_file=str(tmp_path / "key")), "What is 2 + 3?")
    assert KEY not in str(raised.value)
    assert not server.asked


def test_an_endpoint_that_holds_a_key_is_refused() -> None:
    for url in ("https://user:key@host/v1", "https://host/v1?key=secret"):
        with pytest.raises(ValueError, match="keys come from api_key_env"):
            Teacher(model="m", endpoint=url)


def test_a_batch_is_submitted_once_and_taken_up_by_its_id(server: TeacherServer, tmp_path: Path) -> None:
    made = settings(server, tmp_path, api="batch")
    questions = [f"What is {i} + 1?" for i in range(5)] + ["[filter] What is 9 + 1?"]
    server.polls_to_completion = 10_000

    async def crash() -> None:
        engine = EndpointTeacher(made)
        tasks = [asyncio.create_task(engine.attempt(question, 0)) for question in questions]
        while not any(batch["polls"] for batch in server.batches.values()):
            await asyncio.sleep(0.05)
        for task in tasks:
            task.cancel()

    asyncio.run(crash())
    journal = next((tmp_path / "replies" / "batches").rglob("*.json"))
    assert '"batch_id": "batch-0"' in journal.read_text()
    journal.write_text(journal.read_text().replace('"batch-0"', "null"))  # the crash came before the id was written
    server.polls_to_completion = 1
    found = ask(made, *questions, "What is 7 + 7?")
    assert [each.status for each in found] == ["ok"] * 5 + ["content_filter", "ok"]
    assert found[0].usd == pytest.approx(USD / 2)
    assert len(server.batches) == 2
    assert max(server.asked.values()) == 1
    assert not list((tmp_path / "replies" / "batches").rglob("*.json"))
    ask(made, *questions[:5])
    assert len(server.batches) == 2


def test_what_a_reply_says_that_it_cost_counts(server: TeacherServer, tmp_path: Path) -> None:
    server.cost = 0.25
    for api in ("chat", "batch"):
        (found,) = ask(settings(server, tmp_path / api, api=api), "What is 2 + 3?")
        assert found.usd == 0.25


def batch_of(server: TeacherServer, root: Path, **teacher: Any) -> list[Attempt]:
    made = settings(server, root, api="batch", **{"limits": {"timeout_s": 300.0, "concurrency": 4}, **teacher})
    return ask(made, *(f"What is {i} + 1?" for i in range(4)))


@pytest.mark.parametrize(
    "mangle",
    [
        lambda lines: lines[::-1],
        lambda lines: [*lines, *lines],
        lambda lines: ["", "<html>", "7", '{"custom_id": null}', '{"custom_id": "other", "response": 7}', *lines],
        lambda lines: [line.replace("I add", "I\u2028add") for line in lines],
        lambda lines: [line.replace('"status_code": 200', '"status_code": "200"') for line in lines],
    ],
)
def test_lines_of_a_batch_come_as_they_like(server: TeacherServer, tmp_path: Path, mangle: Any) -> None:
    server.mangle = lambda lines, number: mangle(lines)
    found = batch_of(server, tmp_path)
    assert [(each.status, each.answer) for each in found] == [("ok", f"The answer is {i + 1}") for i in range(4)]
    assert max(server.paid.values()) == 1


def test_what_a_batch_leaves_out_is_asked_again(server: TeacherServer, tmp_path: Path) -> None:
    server.mangle = lambda lines, number: lines[:1] if number == 0 else lines
    server.ends_as = ["expired", "completed"]
    assert {each.status for each in batch_of(server, tmp_path)} == {"ok"}
    assert sorted(server.asked.values()) == [1, 2, 2, 2]


def test_a_batch_that_somebody_cancelled_ends_it_and_keeps_what_came(server: TeacherServer, tmp_path: Path) -> None:
    server.mangle = lambda lines, number: lines[:1] if number == 0 else lines
    server.ends_as = ["cancelled", "completed"]
    with pytest.raises(StopAskingError, match="batch-0 cancelled"):
        batch_of(server, tmp_path)
    assert {each.status for each in batch_of(server, tmp_path)} == {"ok"}
    assert sorted(server.asked.values()) == [1, 2, 2, 2]


@pytest.mark.parametrize("call", ["POST /files", "POST /batches", "GET /batches/", "GET /files/"])
def test_a_batch_whose_answers_are_lost_is_paid_once(server: TeacherServer, tmp_path: Path, call: str) -> None:
    server.lost[call] = 3
    assert {each.status for each in batch_of(server, tmp_path)} == {"ok"}
    assert len(server.batches) == 1
    assert max(server.asked.values()) == 1


def test_a_server_that_is_away_for_long_loses_no_batch(server: TeacherServer, tmp_path: Path) -> None:
    server.lost["GET /batches/"] = 10**6
    with pytest.raises(StopAskingError, match=r"batch-0.*the same command again"):
        batch_of(server, tmp_path, limits={"timeout_s": 1.0})
    server.lost.clear()
    assert {each.status for each in batch_of(server, tmp_path)} == {"ok"}
    assert len(server.batches) == 1
