from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thinkscale.curate.normalise import canonical, normalise, normalise_question
from thinkscale.domain.question import Question, question_id


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("e\u0301tale", "\u00e9tale"),
        ("a\u00a0b\u2009c", "a b c"),
        ("zero\u200bwidth\ufeff", "zerowidth"),
        ("line  \r\nnext\r\n\r\n\r\n\r\nlast \n", "line\nnext\n\nlast"),
        ("$10{,}000$ and $f(1{,}2)$", "$10,000$ and $f(1{,}2)$"),
        (r"$\int\! x$ and $\alpha\!b$", r"$\int x$ and $\alpha\!b$"),
        ("\n  drawn\n    line", "  drawn\n    line"),
        (r"a \\! b", r"a \\! b"),
    ],
)
def test_normalise_changes_spelling_and_not_meaning(text: str, expected: str) -> None:
    assert normalise(text) == expected


@given(st.text())
def test_normalise_and_canonical_are_idempotent_and_total(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)
    canonical(text)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (r"Find $\dfrac{1}{2}\,x$.", r"find \(\frac{1}{2} x\)."),
        (r"$\left( a \right)$", "$( a )$"),
        (r"\textbf{Let} $\text{area}$ be", "let area be"),
        ("It\u2019s 3 \u2212 2", "it's 3 - 2"),
    ],
)
def test_texts_that_differ_in_markup_are_canonically_equal(one: str, other: str) -> None:
    assert canonical(one) == canonical(other)


def test_canonical_keeps_what_distinguishes_questions() -> None:
    assert canonical("What is 3 + 4?") != canonical("What is 3 - 4?")
    assert canonical("Let $x = 12$") != canonical("Let $x = 13$")
    assert canonical("What is 2\u00b2?") == canonical("What is 2^2?") != canonical("What is 22?")


def test_a_normalised_question_gets_the_id_of_its_normalised_text() -> None:
    raw = Question(id="old", question="  a\u00a0b ", answer=" 4 ", kind="integer", source="s", solution="  ")
    question = normalise_question(raw)
    assert (question.question, question.answer, question.solution) == ("a b", "4", None)
    assert question.id == question_id("s", "a b", "4")
