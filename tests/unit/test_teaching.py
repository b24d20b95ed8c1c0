"""A teacher behind an endpoint, against a server that misbehaves on purpose."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from teacher_server import KEY, TeacherServer
from thinkscale.domain.generation import StopAskingError
from thinkscale.domain.models import Teacher
from thinkscale.domain.question import Attempt
from thinkscale.runtime.teaching import EndpointSettings, EndpointTeacher, spent_usd
from thinkscale.store.filesystem import Store

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
    made = settings(server, tmp_path, limits={"tries": 2, "timeout_s": 2.0})
    found, other = ask(made, question, "What is 1 + 1?")
    assert (found.status, other.status) == (status, "ok")
    assert words in found.words
    assert server.asked[question] == requests


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
    assert not [p for p in tmp_path.rglob("*.json") if KEY in p.read_text()]


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
