"""The difficulty cascade gives the verdicts of running every model over everything, and says what it saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from test_curation import campaign

from thinkscale.domain.campaign import Campaign
from thinkscale.domain.sample import Verdict
from thinkscale.grading.extraction import extract
from thinkscale.grading.pool import GradingPool
from thinkscale.grading.verdict import Graded
from thinkscale.stages.difficulty import score_difficulty
from thinkscale.store import lineage
from thinkscale.store.artifact import Artifact
from thinkscale.store.filesystem import Store
from thinkscale.store.schemas import QUESTIONS, table
from tiny_model import write_tiny_model

pytestmark = pytest.mark.usefixtures("ray_cluster")
COUNT = 24


def other_model(directory: Path) -> Path:
    """A model that says other things than the tiny one."""
    from transformers import AutoModelForCausalLM

    write_tiny_model(directory)
    model = AutoModelForCausalLM.from_pretrained(directory)
    model.lm_head.weight.data[:200] = model.lm_head.weight.data[:200].roll(7, dims=0)
    model.save_pretrained(directory)
    return directory


def attempts(
    settings: Campaign, name: str, models: list[str], answers: list[str], *, asked: str = "Say {}."
) -> tuple[Campaign, Store]:
    """A campaign whose questions with these reference answers were attempted by these models."""
    difficulty = settings.difficulty.model_copy(update={"models": models, "temperature": 0.0, "max_tokens": 8})
    one = settings.model_copy(update={"name": name, "difficulty": difficulty})
    store = Store(one.root)
    unique = Artifact(store, f"{name}/unique")
    unique.begin({}, {})
    rows = [
        {"id": f"q{i}", "question": asked.format(i), "answer": answer, "kind": "text", "source": "hand"}
        for i, answer in enumerate(answers)
    ]
    unique.commit_segment("000000", table(rows, QUESTIONS))
    unique.commit(QUESTIONS)
    score_difficulty(one, store)
    return one, store


def left(settings: Campaign, store: Store) -> list[dict[str, Any]]:
    return list(Artifact(store, f"{settings.name}/difficulty").read().to_pylist())


def graded(texts: list[str], answers: list[str]) -> list[Verdict]:
    items = [
        Graded(kind="text", reference=answer, response=text, options=())
        for text, answer in zip(texts, answers, strict=True)
    ]
    return list(GradingPool().grade_all(items))


def test_a_cascade_decides_as_both_models_over_everything_at_less_cost(tmp_path: Path) -> None:
    weak, strong = str(write_tiny_model(tmp_path / "tiny")), str(other_model(tmp_path / "other"))
    settings = campaign(tmp_path, prices={"cpu_hour_usd": 3600.0})
    alone = [
        attempts(settings, name, [model], ["no such answer"] * COUNT)
        for name, model in (("weak", weak), ("strong", strong))
    ]
    said = [[row["attempt_answers"][0] for row in left(*one)] for one in alone]
    read = [[extract("text", text, ()) or "none" for text in texts] for texts in said]
    answers = [read[i % 3][i] if i % 3 < 2 else "no such answer" for i in range(COUNT)]
    failed = [
        {f"q{i}" for i, verdict in enumerate(verdicts) if verdict.verdict != "correct"}
        for verdicts in (graded(texts, answers) for texts in said)
    ]

    both, store = attempts(settings, "cascade", [weak, strong], answers)
    of_weak, of_strong = failed
    assert {row["id"] for row in left(both, store)} == of_weak & of_strong
    assert COUNT > len(of_weak) > len(of_weak & of_strong) > 0

    first, second = lineage.cascade(both, store)
    assert (first.model, first.questions, first.solved) == (weak, COUNT, COUNT - len(of_weak))
    assert (second.model, second.questions) == (strong, len(of_weak))
    [over_all] = lineage.cascade(*alone[1])
    assert second.tokens < over_all.tokens
    assert second.tokens_over_all == pytest.approx(over_all.tokens, rel=0.2)
    assert first.tokens == first.tokens_over_all == lineage.cascade(*alone[0])[0].tokens
    assert 0 < second.usd < second.usd_over_all


def test_a_question_that_the_last_model_cannot_read_is_not_hard(tmp_path: Path) -> None:
    weak, strong = str(write_tiny_model(tmp_path / "tiny")), str(other_model(tmp_path / "other"))
    settings, store = attempts(campaign(tmp_path), "long", [weak, strong], ["none"], asked="Say {0}. " * 1000)
    assert left(settings, store) == []
    first, last = (Artifact(store, f"long/{name}").require() for name in ("difficulty-1", "difficulty"))
    assert (first.rows, last.dropped) == (1, {"prompt_too_long": 1})
    assert lineage.cascade(settings, store)[-1].solved == 0
