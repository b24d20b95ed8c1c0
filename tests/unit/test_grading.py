"""Verdicts of the rule graders, and the process that no answer can hang or kill."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thinkscale.domain.question import AnswerKind
from thinkscale.grading.pool import GradingPool
from thinkscale.grading.verdict import Graded, grade, judge_plainly


@pytest.mark.parametrize(
    ("kind", "reference", "response", "answer"),
    [
        ("integer", "18", "Final Answer: 18", "18"),
        ("integer", "18", "9 * 2 = 18 dollars.\n#### 18", "18"),
        ("integer", "70000", "The answer is $70,000.", "70000"),
        ("integer", "5", "**Final Answer**\n\n\\[\\boxed{5}\\]", "5"),
        ("integer", "-3", "Answer: −3.", "-3"),
        ("integer", "204", "so \\boxed{204 \\text{ minutes}}.", "204"),
        ("integer", "1024", "\\boxed{2^{10}}", "2^{10}"),
        ("integer", "12", "Answer: She has 3 apples and 9 pears, so 12 fruits", "12"),
        ("integer", "12", "Answer: 12 fruits of 3 kinds", "12"),
        ("integer", "7", "Answer: 6. Wait, that is wrong.\nFinal Answer: 7", "7"),
        ("math", "\\frac{1}{2}", "Answer: 0.5", "0.5"),
        ("math", "x^2+1", "Final Answer: $1+x^2$", "1+x^2"),
        ("math", "\\text{Evelyn}", "\\boxed{Evelyn}", "Evelyn"),
        ("choice", "B", "Answer: (B) 12 metres", "B"),
        ("choice", "B", "\\boxed{\\text{(B)}}", "B"),
        ("text", "yes", "Final Answer: Yes.", "Yes"),
    ],
)
def test_right_answers_are_correct(kind: AnswerKind, reference: str, response: str, answer: str) -> None:
    verdict = grade(kind, reference, response)
    assert (verdict.verdict, verdict.extracted_answer) == ("correct", answer)


@pytest.mark.parametrize(
    ("kind", "reference", "response"),
    [
        ("integer", "18", "Final Answer: 19"),
        ("integer", "7", "Answer: 7\nFinal Answer: 6"),
        ("integer", "-3", "Answer: 3"),
        ("math", "x^2+1", "Final Answer: $1+x^3$"),
        ("choice", "B", "The correct answer is **C**."),
        ("text", "yes", "no"),
    ],
)
def test_other_answers_are_wrong(kind: AnswerKind, reference: str, response: str) -> None:
    assert grade(kind, reference, response).verdict == "wrong"


@pytest.mark.parametrize("kind", ["integer", "math", "choice", "text"])
@pytest.mark.parametrize("response", ["", "Final Answer:", "  \n", "Answer: \n\n"])
def test_no_answer_is_unanswered(kind: AnswerKind, response: str) -> None:
    verdict = grade(kind, "5" if kind != "choice" else "B", response)
    assert (verdict.verdict, verdict.extracted_answer) == ("unanswered", None)


def test_an_impossible_reference_is_ungradable() -> None:
    assert grade("integer", "a few", "Answer: 3").verdict == "ungradable"
    assert grade("choice", "the fifth", "Answer: B").verdict == "ungradable"


def test_a_comparison_that_hangs_is_ungradable_and_costs_no_other() -> None:
    endless = Graded(kind="math", reference="\\binom{10^{9}}{5 \\cdot 10^{8}}+x", response="\\boxed{(10^{10^{7}})!+x}")
    sound = Graded(kind="math", reference="x^2+1", response="Answer: $1+x^2$")
    with GradingPool(limit_s=1.0) as pool:
        verdicts = pool.grade_all([sound, endless, sound])
        assert [v.verdict for v in verdicts] == ["correct", "ungradable", "correct"]
        assert pool.grade("math", "2x", "Answer: $x+x$").verdict == "correct"


FRAGMENTS = [
    "\\boxed{", "}", "{", "$", "\\[", "\\(", "\\)", "\\frac", "^", "9^9^9^9", "\0", "\n", "Answer:", "Final Answer: ",
    "#### ", "(B)", "1,", "111,", "000", "1e999", "/0", "\\text{", "\\\\", "x", "=", "😀", "\ud800", "٣", "the ", "** ",
    "-", " ", "%", "½", "²", ";", "or", "A",
]  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(["integer", "math", "choice", "text"]),
    st.lists(st.sampled_from(FRAGMENTS), max_size=30).map("".join),
    st.sampled_from(["5", "x^2", "B", "yes", "\\{1,2\\}", ""]),
)
def test_no_text_is_too_odd_to_judge(kind: AnswerKind, response: str, reference: str) -> None:
    verdict, _, answer = judge_plainly(Graded(kind=kind, reference=reference, response=response, options=("1", "2")))
    assert verdict is not None or answer


@pytest.mark.parametrize("kind", ["integer", "math", "choice", "text"])
@pytest.mark.parametrize("fragment", [*FRAGMENTS, "Answer: (", "aaaa bbbb ", "\\boxed{1} and "])
def test_megabytes_of_anything_are_judged_at_once(kind: AnswerKind, fragment: str) -> None:
    response = fragment * (1_000_000 // len(fragment))
    verdict, _, answer = judge_plainly(Graded(kind=kind, reference="B" if kind == "choice" else "5", response=response))
    assert verdict is not None or answer
