"""Traces that look back: what they say, what is learned of them, and that a forced Wait meets what was learned."""

from __future__ import annotations

import json
from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from thinkscale.curate.self_check import CHECK, arithmetic, find_equations, holds, self_check
from thinkscale.domain.campaign import Campaign
from thinkscale.domain.question import Trace
from thinkscale.domain.sample import Budget
from thinkscale.domain.terms import TermsError, check_terms
from thinkscale.engines.tokenizer import ModelTokenizer
from thinkscale.forcing.formats import S1, THINK, forcing_ids, literal
from thinkscale.learn.masking import tokenize
from thinkscale.stages.attempts import FromSolutions
from thinkscale.stages.self_check import LooksBack
from thinkscale.store.schemas import SELECTED, table
from tiny_model import SPECIAL, write_tiny_model

SOLUTION = "Natalia sold 48/2 = 24 clips in May.\nNatalia sold 48+24 = 72 clips altogether in April and May."
OPEN = f"\nWait{CHECK}"


def made(seed: int, solution: str = SOLUTION, answer: str = "72", **changes: Any) -> Any:
    shares = (changes.pop("check_share", 1.0), changes.pop("confirmation_share", 0.0))
    given: dict[str, Any] = {"wrong": [], "right": [], **changes}
    return self_check(solution, answer, wait="\nWait", seed=seed, shares=shares, **given)


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("48/2", 24), ("2 + 3 * 4", 14), ("(2+3) x $4", 20), ("1,000 − 250", 750), ("17 mod 5", 2), ("10 ÷ 4", "5/2"),
        ("0.2 × 50", 10), ("20% * 50", 10), ("08 + 1", 9), ("3 / 0", None), ("9**9**9", None), ("a + 1", None),
    ],
)  # fmt: skip
def test_arithmetic_is_exact_or_none(expression: str, value: Any) -> None:
    assert arithmetic(expression) == (None if value is None else Fraction(value))


def test_equations_are_found_with_what_they_round() -> None:
    found = find_equations("It is $10 / 3 = $3.33 each, x + 2 = 5, then 3 * 4 = 13. And 2^2 * 3 = 12, 7 = 7.")
    assert [(e[0].replace("$", ""), holds(e)) for e in found] == [("10 / 3 = 3.33", True), ("3 * 4 = 13", False)]


def test_a_correction_begins_with_what_is_wrong_which_is_not_learned_and_ends_right() -> None:
    kinds = Counter[str]()
    for seed in range(60):
        trace = made(seed, wrong=[(3, "She sold 48 clips. The answer is 48.")])
        kinds[trace.made_of] += 1
        first, second = trace.thinking[: trace.unlearned_characters], trace.thinking[trace.unlearned_characters :]
        if trace.made_of == "completion:solution":
            first, second = second.split("\n", 1)  # half the solution is right: it is learned
            assert SOLUTION.startswith(first)
        else:
            assert first.endswith("\n")
            assert "72" not in first  # the answer is in nothing that stands before it is computed
        assert second.startswith(f"Wait{CHECK} ")
        assert find_equations(second)[-1]["right"] == "72"
        assert all(map(holds, find_equations(second)))
    assert set(kinds) == {"correction:attempt 3", "correction:slip", "completion:solution"}


def test_a_slip_is_one_wrong_result_with_all_that_follows_from_it() -> None:
    solution = "3 - 2 = 1. 1 * 14 = 14. 14 - 1 = 13"
    traces = [trace for seed in range(80) if (trace := made(seed, solution, "13")).made_of == "correction:slip"]
    for trace in traces:
        first, second = trace.thinking.split(OPEN)
        assert sum(not holds(equation) for equation in find_equations(first)) == 1
        wrong = next(equation for equation in find_equations(first) if not holds(equation))
        assert f"not {wrong['right']}." in second
        assert "1, not 1." not in second
    assert len({trace.thinking for trace in traces}) > 5


def test_a_confirmation_recomputes_and_holds() -> None:
    kinds = Counter(made(seed, confirmation_share=1.0).thinking.count(OPEN) for seed in range(10))
    assert kinds == {4: 10}
    trace = made(0, check_share=0.5, confirmation_share=1.0)
    told = f"{SOLUTION}{OPEN} 48/2 = 24. 48+24 = 72. That holds."
    assert any(made(seed, check_share=0.5, confirmation_share=1.0).thinking == told for seed in range(20)), trace
    other = made(1, confirmation_share=1.0, right=[(2, "Half of 48 is 24, so 72.")])
    assert other.made_of == "confirmation:attempt 2"
    assert other.thinking.startswith(f"Half of 48 is 24, so 72.{OPEN} {SOLUTION}")


def test_the_shares_are_what_is_asked() -> None:
    kinds = Counter(
        made(seed, check_share=0.5, confirmation_share=0.5).made_of.partition(":")[0] for seed in range(4000)
    )
    assert kinds["solution"] / 4000 == pytest.approx(0.5, abs=0.03)
    assert kinds["confirmation"] / 4000 == pytest.approx(0.25, abs=0.03)


@pytest.mark.parametrize(("solution", "answer"), [("It is clear.", "72"), (SOLUTION, "73"), ("2 + 2 = 5.", "5")])
def test_what_cannot_be_recomputed_is_not_said_to_hold(solution: str, answer: str) -> None:
    assert all(made(seed, solution, answer, confirmation_share=1.0).made_of == "solution" for seed in range(20))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_tiny_model(tmp_path_factory.mktemp("tiny"), special=(*SPECIAL, "<think>", "</think>")))


def campaign(base: str, **changes: Any) -> Campaign:
    source = {"type": "files", "name": "pool", "paths": ["pool.jsonl"]}
    return Campaign.model_validate(
        {
            "name": "looks-back",
            "pool": [source],
            "model": {"base": base, "format": "think"},
            "teacher": {"source": "self_check", "check_share": 1.0, "confirmation_share": 0.0},
            "evaluate": {"benchmarks": [{"name": "b", "source": source}], "budgets": {"caps": [8]}},
            **changes,
        }
    )


def row(name: str, **changes: Any) -> dict[str, Any]:
    asked = {"id": name, "question": "How many?", "answer": "72", "kind": "integer", "source": "pool", "metadata": "{}"}
    return asked | changes


def test_attempts_are_graded_and_only_wrong_ones_are_corrected(tiny: str) -> None:
    rows = [
        row("plain", solution="It is clear.",
            attempt_answers=["I do not know.", "The answer is 48.", "The answer is 72."]),
        row("own", attempt_answers=["The answer is 72.", "The answer is 48."]),
        row("none", attempt_answers=["The answer is 48."]),
        row("thought", solution="It is clear.", attempt_answers=["<think>\nSo 48\n</think>\n\nThe answer is 48."]),
        row("trace", solution="It is clear.", attempt_answers=["The answer is 48."],
            metadata=json.dumps({"traces_by": "m"})),
    ]  # fmt: skip
    settings = campaign(tiny)
    looks = LooksBack(settings, settings.teacher[0])
    found = {each["question_id"]: each for each in FromSolutions(tiny, looks)(table(rows, SELECTED)).kept.to_pylist()}
    said = {name: (each["status"], each["made_of"], each["thinking"]) for name, each in found.items()}
    assert said == {
        "plain": ("ok", "correction:attempt 1", f"The answer is 48.{OPEN} It is clear."),
        "own": ("ok", "correction:attempt 1", f"The answer is 48.{OPEN} The answer is 72."),
        "none": ("no_solution", "", ""),
        "thought": ("ok", "correction:attempt 0", f"So 48{OPEN} It is clear."),
        "trace": ("ok", "", "It is clear."),
    }
    assert all(each["correct"] == (each["status"] == "ok") for each in found.values())


def test_a_forced_wait_finds_the_tokens_that_were_learned_and_loss_begins_at_it(tiny: str) -> None:
    tokenizer = ModelTokenizer(Path(tiny), date="2025-01-01")
    for thinking_format in (THINK, S1):
        trace = Trace(question_id="q", question="How many?", thinking=f"So 48.{OPEN} No, 72.", answer="72", teacher="t",
                      unlearned_characters=len("So 48.\n"))  # fmt: skip

        def prompt_ids(question: str, opened: Any, thinks: Any = thinking_format) -> tuple[int, ...]:
            return tokenizer.prompt_ids(question, thinks if opened else None, None)

        (sample,) = tokenize([trace], tokenizer=tokenizer, prompt_ids=prompt_ids, thinking_format=thinking_format,
                             context_tokens=500, overlong="drop").samples  # fmt: skip
        ids = forcing_ids(tokenizer, thinking_format, Budget(max_thinking_tokens=8, max_answer_tokens=8))
        forced = [*prompt_ids("How many?", thinking_format), *literal(tokenizer, "So 48.\n"), *ids.wait]
        assert sample.ids[: len(forced)].tolist() == forced
        assert sample.loss_from == len(forced) - len(ids.wait)


def test_attempts_of_another_model_stand_under_its_terms(tiny: str) -> None:
    check_terms(campaign(tiny))
    with pytest.raises(TermsError, match="gpt-4o"):
        check_terms(campaign(tiny, difficulty={"models": ["base", "gpt-4o"]}))


def test_settings_of_looking_back_change_no_other_teacher() -> None:
    assert "check_share" not in Campaign.model_validate(
        campaign("m").model_dump() | {"teacher": [{"source": "solutions"}]}
    ).teacher[0].identity  # fmt: skip
    assert campaign("m").teacher[0].identity["check_share"] == 1.0
