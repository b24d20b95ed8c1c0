"""The distill stage with teachers behind endpoints, on Ray, killed and resumed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from distilling import begun, kill_and_resume
from teacher_server import KEY, TeacherServer
from thinkscale.domain.generation import StopAskingError
from thinkscale.stages.distill import distill
from thinkscale.store.artifact import Artifact

pytestmark = pytest.mark.usefixtures("ray_cluster")
FAULTS = ("[filter] ", "[null] ", "[refuse] ", "[length] ", "[no-thinking] ", "[500] ", "[429] ", "[wrong] ")


def read(artifact: Artifact) -> list[dict[str, Any]]:
    return list(artifact.read().to_pylist())


def test_a_stage_with_two_teachers_ends_whatever_the_endpoint_does(tmp_path: Path) -> None:
    server = TeacherServer().start()
    questions = [f"What is {i} + 2?" for i in range(20)] + [f"{fault}What is 7 + 2?" for fault in FAULTS]
    teachers = [{"model": "reasoning", "attempts": 2}, {"model": "think-tags"}]
    campaign, store = begun(tmp_path, server.url, questions, teachers, distill={"s1k": True, "max_usd": 1.0})
    assert distill(campaign, store)
    traces, asked = Artifact(store, "c/traces"), server.asked.total()
    rows, manifest = read(traces), traces.require()
    assert len(rows) == (20 + 3) * 3
    assert {(row["attempts"], row["pass_rate"]) for row in rows} == {(3, 1.0), (3, 0.0)}
    assert manifest.dropped == dict.fromkeys(
        ("content_filter", "malformed_reply", "refusal", "cut_answer", "empty_thinking"), 3
    )
    words = {r["reason"]: json.loads(r["detail"])["words"] for r in traces.read_dropped().to_pylist()}  # type: ignore[union-attr]
    assert words["content_filter"] == "400: The response was filtered due to the prompt"
    assert [each["teacher"] for each in manifest.extra["terms"]] == ["reasoning", "think-tags"]
    first = Artifact(store, "c/attempts-1").require().stats
    assert (first["prompt_tokens"], first["reply_usd"]) == (27 * 2 * 10, pytest.approx(27 * 2 * 50e-6))
    card = traces.read_file("README.md").decode()
    assert "| reasoning | 56 | 540 | 1,080 | 0.00 |" in card
    assert "Terms of the output of think-tags: MIT\n- They allow training other models: yes" in card
    assert not distill(campaign, store)
    other = campaign.model_copy(update={"name": "other"})
    begun(tmp_path, server.url, questions, teachers, name="other")
    assert distill(other, store)
    assert server.asked.total() == asked + 3  # the refused one alone is asked about again: it was not paid
    assert len(read(Artifact(store, "other/traces"))) == len(rows)
    check_loads(tmp_path)


def check_loads(root: Path) -> None:
    """Both directories as data sets; s1K's columns."""
    datasets = pytest.importorskip("datasets")
    traces = datasets.load_dataset(str(root / "runs/c/traces"), split="train", cache_dir=str(root / "cache"))
    s1k = datasets.load_dataset(str(root / "runs/c/traces-s1k"), split="train", cache_dir=str(root / "cache"))
    assert len(traces) == len(s1k)
    assert s1k.column_names == [
        "solution", "question", "cot_type", "source_type", "metadata", "cot", "thinking_trajectories", "attempt",
    ]  # fmt: skip
    assert s1k[0]["thinking_trajectories"] == [traces[0]["thinking"]]


def test_too_many_refusals_and_spent_money_end_it_in_order(tmp_path: Path) -> None:
    server = TeacherServer().start()
    questions = [f"[refuse] What is {i} + 2?" for i in range(60)]
    campaign, store = begun(tmp_path, server.url, questions, [{"model": "m", "limits": {"concurrency": 4}}])
    with pytest.raises(StopAskingError, match=r"50 of 50 attempts .* ended as refusal"):
        distill(campaign, store)
    spent = server.paid.total()
    assert spent <= 53
    limited = campaign.model_copy(update={"distill": campaign.distill.model_copy(update={"max_usd": 50e-6 * 30})})
    with pytest.raises(StopAskingError, match=r"--max-usd is reached|ended as refusal"):
        distill(limited, store)
    assert server.paid.total() == spent


def test_no_teacher_waits_for_another(tmp_path: Path) -> None:
    slow, quick = TeacherServer().start(), TeacherServer().start()
    slow.may_answer = lambda: quick.asked.total() >= 20
    teachers = [
        {"model": "a", "endpoint": slow.url, "limits": {"requests_per_day": 8, "timeout_s": 600, "tries": 1}},
        {"model": "b", "endpoint": quick.url},
    ]
    questions = [f"What is {i} + 2?" for i in range(20)]
    campaign, store = begun(tmp_path, slow.url, questions, teachers)
    with pytest.raises(StopAskingError, match="has used up its daily quota"):
        distill(campaign, store)
    assert (slow.paid.total(), quick.paid.total()) == (8, 20)
    assert Artifact(store, "c/attempts-2").require().rows == 20
    assert Artifact(store, "c/traces").manifest() is None


@pytest.mark.parametrize("api", ["chat", "batch"])
def test_kills_pay_nothing_twice_and_lose_nothing(tmp_path: Path, api: str) -> None:
    found = kill_and_resume(tmp_path, kills=2, questions=120, seed=1, api=api)
    assert found["rows"] == 120
    assert found["paid"] <= 120 + found["kills"] * found["concurrency"]
    assert found["lost"] == 0


def test_no_key_is_written_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = TeacherServer(key=KEY).start()
    (tmp_path / "key").write_text(KEY)
    teacher = {"model": "m", "api_key_file": str(tmp_path / "key")}
    campaign, store = begun(tmp_path, server.url, ["What is 1 + 2?"], [teacher])
    assert distill(campaign, store)
    assert not [path for path in (tmp_path / "runs").rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]
