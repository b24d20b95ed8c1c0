from __future__ import annotations

from dataclasses import replace

import pytest

from thinkscale.curate.quality import RULES, first_fault
from thinkscale.domain.campaign import Curate
from thinkscale.domain.question import Question

GOOD = Question(id="q", question="What is the sum of 2 and 3?", answer="5", kind="integer", source="pool")


def faults(**changes: object) -> str | None:
    found = first_fault(replace(GOOD, **changes), list(RULES))  # type: ignore[arg-type]
    return found[0] if found else None


@pytest.mark.parametrize(
    ("rule", "changes"),
    [
        ("missing_field", {"question": ""}),
        ("missing_field", {"answer": ""}),
        ("missing_field", {"kind": "choice", "answer": "A", "options": ("one",)}),
        ("ascii_art", {"question": "Find the area.\n[asy]\ndraw((0,0)--(1,1));\n[/asy]"}),
        ("ascii_art", {"question": "What does this say?\n ____\n |__]\n |__]\n |__]\n"}),
        ("ascii_art", {"question": "Which output?\n───┐\n───┘ the gate"}),
        ("absent_image", {"question": "What is the angle? ![Image](a.png)"}),
        ("absent_image", {"question": "In the figure below, find the length of AB."}),
        ("absent_image", {"question": "A square is cut as shown. Find the area of it."}),
        ("absent_image", {"question": "Find the colour of it.", "metadata": {"image": "a.png"}}),
        ("inconsistent_numbering", {"question": "p12. Find the sum of 2 and 3."}),
        ("inconsistent_numbering", {"question": "**3.** Find the sum of 2 and 3."}),
        ("truncated", {"question": "Find the value of $x if x = 2."}),
        ("truncated", {"question": "Find the number of ways such that"}),
        ("truncated", {"question": r"Solve \begin{align} x = 2"}),
        ("wrong_language", {"question": "求方程的所有解并证明你的结论是正确的"}),
        (
            "wrong_language",
            {
                "question": "Considerăm un sistem ecuații liniare necunoscute care sunt soluțiile "
                "sistemului folosind regula lui Cramer"
            },
        ),
        ("absurd_answer", {"answer": "see solution", "kind": "math"}),
        ("absurd_answer", {"answer": "three"}),
        ("absurd_answer", {"answer": "F", "kind": "choice", "options": ("1", "2")}),
        ("absurd_answer", {"answer": "$.$", "kind": "math"}),
        ("absurd_answer", {"answer": "x" * 3000, "kind": "text"}),
    ],
)
def test_each_rule_finds_its_fault(rule: str, changes: dict[str, object]) -> None:
    assert faults(**changes) == rule


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"question": "Simplify x**3 + 2*x**2, that is (x+1)**2*(y**3)."},
        {"question": "He sells each apple for $.5. How much does he make for 10 apples at $2 each?"},
        {"question": r"The probability is $p/q$. Find $p+q.\,$"},
        {"question": "Which of the systems of equations shown above has the solution 2?\n$x + y = 2$"},
        {"question": "Let $f(3)=$"},
        {"question": "Spell this word backward: the"},
        {"question": "Find the area.\n[asy]\ndraw((0,0));\n[/asy]", "source": "aime-1983-2021"},
        {"question": "Sort these: -12.5, 3.1, -7. What is the first of them?"},
        {"question": r"Let $\alpha$, $\beta$ and $\gamma$ be the roots. Find $\alpha+\beta+\gamma$."},
        {"answer": "1,200"},
        {"answer": "∞", "kind": "math"},
        {"answer": "B", "kind": "choice", "options": ("1", "2")},
    ],
)
def test_good_questions_pass_every_rule(changes: dict[str, object]) -> None:
    assert faults(**changes) is None


def test_an_unknown_rule_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"quality_rules\.1\n.*'missing_field', 'ascii_art'.*input_value='ascii'"):
        Curate.model_validate({"quality_rules": ["missing_field", "ascii"]})
    assert list(RULES) == [*Curate().quality_rules, "missing_reference"]  # which is asked for by name
