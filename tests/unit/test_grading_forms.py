"""The many forms of one answer: pairs that are the same answer and pairs that are not, in three wrappings."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from thinkscale.thinking.extraction import extract
from thinkscale.thinking.grading import GradingPool
from thinkscale.thinking.notation import option_letters

EQUAL = [
    ("5", "$5$"),
    ("5", "5."),
    ("5", "x=5"),
    ("5", "x = 5."),
    ("5", r"5 \text{ cm}"),
    ("5", r"5\,\text{cm}^2"),
    ("5", "5 cm^2"),
    ("90", r"90^\circ"),
    (r"90^\circ", "90"),
    ("90", "90 degrees"),
    (r"\frac{3}{4}", "3/4"),
    (r"\frac34", "0.75"),
    (r"2\frac{1}{2}", "5/2"),
    (r"2\frac12", "2.5"),
    (r"\$18", "18"),
    ("18", r"\$18.00"),
    ("18.90", r"\$18.90"),
    (r"10\%", "10"),
    (r"10\%", "10%"),
    ("0.1", "10%"),
    ("1,234,567", "1234567"),
    ("1{,}000", "1000"),
    ("10{,}000", "10 000"),
    (r"\text{(B)}", "B"),
    ("(B)", "B"),
    (r"\text{east}", "East"),
    (r"\text{even}", "even"),
    ("x^2+2x+1", "(x+1)^2"),
    (r"\sqrt{50}", r"5\sqrt{2}"),
    (r"5\sqrt 2", "5√2"),
    (r"\pi/4", r"\frac{\pi}{4}"),
    (r"\frac{\pi}{4}", "pi/4"),
    ("(1,2)", "(1, 2)"),
    (r"\{1,2\}", r"\{2,1\}"),
    ("1,2", "2, 1"),
    ("1,2", "1 and 2"),
    ("1,2", "x=1 or x=2"),
    (r"\pm 3", "3,-3"),
    ("[0,1)", "[0, 1)"),
    (r"(-\infty,2]", r"x\le 2"),
    (r"(-\infty, 2]\cup[3,\infty)", r"(-\infty,2]\cup[3,\infty)"),
    ("x=3", "3"),
    ("y=2x+3", "2x+3"),
    ("2^{10}", "1024"),
    ("1024", "2^{10}"),
    ("6+9i", "9i+6"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}"),
    (r"11\sqrt2", r"11\sqrt{2}"),
    (r"\frac{1}{\sqrt{2}}", r"\frac{\sqrt{2}}{2}"),
    (r"\text{June 20}", "June 20"),
    ("3:00", "3:00"),
    ("4210_5", "4210_{5}"),
    ("2516_8", "2516"),
    (r"\dfrac{9}{7}", r"\frac{9}{7}"),
    (".5", "0.5"),
    (r"-\frac{1}{3}", r"\frac{-1}{3}"),
    (r"-\frac13", "-1/3"),
    (r"1.5\times10^3", "1500"),
    (r"\infty", "infinity"),
    (r"10\text{ inches}", "10"),
    (r"\left(\frac{3}{5},\frac{8}{3}\right]", r"(\frac35, \frac83]"),
    ("C", r"\text{C}"),
    (r"\text{Navin}", "Navin"),
    (r"3\sqrt{13}", "3√13"),
    ("p - q", "p-q"),
    (r"\frac{14}{3}", "4 2/3"),
    (r"1 \pm \sqrt{19}", r"1+\sqrt{19}, 1-\sqrt{19}"),
    ("3, 5, 7", "3,5,7"),
    ("{1}", "1"),
    (r"x \in [1,2]", "[1,2]"),
    ("[1,2]", r"x \in [1,2]"),
    ("f(x)=x^2", "x^2"),
    ("x^2", "f(x) = x^2"),
    ("(3,4)", "x=3, y=4"),
    ("(3,4)", "3, 4"),
    ("sqrt(2)", r"\sqrt{2}"),
    (r"\sqrt{2}/2", "sqrt(2)/2"),
    (r"2\sqrt{3}", "2*sqrt(3)"),
    ("x^2+1", "x**2+1"),
    (r"3\pi", "3π"),
    ("12", "12 square units"),
    ("12", r"12 \text{ units}^2"),
    (r"\frac{5}{6}\text{ hours}", "5/6"),
    ("7", r"\text{7}"),
    ("7", r"\mathbf{7}"),
    ("7", "{7}"),
    ("7", r"7\text{ apples}"),
    (r"\text{No solution}", "no solution"),
    ("0.333333", "1/3"),
    ("1/3", "0.333333"),
    (r"\frac{1}{2}", r"\frac{2}{4}"),
    ("-4", "−4"),
    ("5.0", "5"),
    ("5", "5.00"),
    ("1000000", "10^6"),
    ("1000000", "1 million"),
    (r"45\%", "0.45"),
    (r"120^\circ", "120°"),
    (r"\sin x", r"\sin(x)"),
    ("e^{2x}", "e^{2 x}"),
    ("a+b", "b+a"),
    (r"\frac{a}{b}", "a/b"),
    ("x<3", "x < 3"),
    ("3>x", "x<3"),
    (r"\text{Monday}", "monday"),
    ("1/2", r"50\%"),
    (r"8\text{ and }12", "8, 12"),
    ("2,3", "(2,3)"),
    ("-1", "-1.0"),
    (r"\frac{\sqrt{3}}{3}", r"\frac{1}{\sqrt{3}}"),
    (r"\log_2 3", r"\frac{\ln 3}{\ln 2}"),
    ("5:3", "5:3"),
    (r"\binom{5}{2}", "10"),
    ("10", r"\binom{5}{2}"),
    ("720", "6!"),
    (r"\frac{7}{20}", r"\boxed{\frac{7}{20}}"),
    ("2", r"\boxed{2}"),
    ("x=-2,y=5", "(-2,5)"),
    (r"3 \times 10^{8}", "300000000"),
    (r"3 \times 10^{8}", "3e8"),
    (r"\emptyset", r"\varnothing"),
    (r"4\text{ cm}", "4"),
    ("6 - 5i", "6-5 i"),
    ("0.05", r"\frac{1}{20}"),
    (r"\frac 59", r"\frac{5}{9}"),
    (r"\text{A}", "(A)"),
    (r"\text{(E)}", "E"),
    ("1,000", "1000"),
    ("2x-y", "-y+2x"),
    (r"\$36", "36 dollars"),
    ("36", r"36\text{ dollars}"),
    ("5", "5,"),
    ("(2,-3)", r"\left(2,-3\right)"),
    (r"(-\infty,0)", r"\left(-\infty , 0\right)"),
    (r"\mathbb{R}", r"\mathbb R"),
    ("all real numbers", "All real numbers"),
]  # fmt: skip

DIFFERENT = [
    ("5", "6"),
    ("5", "5x"),
    ("x", "5x"),
    ("(1,2)", "(2,1)"),
    ("1,2", "1,3"),
    ("[0,1)", "(0,1)"),
    ("[0,1]", "(0,1]"),
    (r"\frac{1}{2}", r"\frac{1}{3}"),
    ("144", r"144\pi"),
    (r"\sqrt{2}", r"\sqrt{3}"),
    ("x^2", "x^3"),
    ("5", "-5"),
    ("0.5", "0.05"),
    ("1,2", "1"),
    ("1", "1,2"),
    (r"\{1,2,3\}", r"\{1,2\}"),
    ("1,-2", "(-2,1)"),
    (r"\text{east}", "west"),
    ("B", "C"),
    (r"10\%", "0.01"),
    (r"2\sqrt{3}", r"3\sqrt{2}"),
    ("1/3", "0.33"),
    ("x=3", "x=4"),
    ("y=2x", "y=3x"),
    ("2^{10}", "210"),
    ("12", "1,2"),
    (r"\pi", "3.14"),
    ("5", "5i"),
    ("x+1", "y+1"),
    ("3:00", "4:00"),
    ("4210_5", "4211_5"),
    (r"(-\infty,2]", "x<2"),
    (r"\infty", r"-\infty"),
    (r"\text{Evelyn}", "Evelyn and Bob"),
    ("1000", "1,00"),
    ("7", "17"),
    ("7", "71"),
    ("6!", "72"),
    ("3", r"3\text{ or }4"),
    ("10", "10^2"),
]  # fmt: skip


@pytest.fixture(scope="module")
def pool() -> Iterator[GradingPool]:
    with GradingPool(limit_s=20) as pool:
        yield pool


@pytest.mark.parametrize("wrapping", ["So \\boxed{%s}.", "Final Answer: $%s$", "Answer: %s"])
def test_equal_answers_are_correct_and_others_wrong(pool: GradingPool, wrapping: str) -> None:
    same = {pair: pool.grade("math", pair[0], wrapping % pair[1]).verdict for pair in EQUAL}
    other = {pair: pool.grade("math", pair[0], wrapping % pair[1]).verdict for pair in DIFFERENT}
    assert {pair: verdict for pair, verdict in same.items() if verdict != "correct"} == {}
    assert {pair: verdict for pair, verdict in other.items() if verdict != "wrong"} == {}


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("The answer is 7.\nWait.\nSo the answer is 8.", "8"),
        ("First \\boxed{7}, but in fact \\boxed{8}.", "8"),
        ("\\boxed{8}. We can check our answer: $7 + 1 = 8 = 2^3$.", "8"),
        ("\\boxed{8}. So our answer is correct.", "8"),
        ("Answer: 8\n\nQuestion: What is 3 + 4?\nAnswer: 7", "8"),
        ("I guess 7</think>\nFinal Answer: 8", "8"),
        ("Final Answer: 8<|im_end|>\n<|im_start|>user\nThanks, and 3 + 4? Answer: 7", "8"),
        ("**Final Answer**\n\n$$\n\\boxed{8}\n$$", "8"),
        ("### Answer\n8", "8"),
        ("The final answer is: $\\boxed{8}$. I hope it is correct.", "8"),
        ("Final Answer: The largest $n$ is 8.", "8"),
        ("**Answer:** 8 apples", "8 apples"),
        ("the roots are \\boxed{7} and \\boxed{8}", "7, 8"),
        ("the roots are $\\boxed{7} \\quad \\text{and} \\quad \\boxed{8}$", "7, 8"),
        ("x is $7$ or $8$", "7, 8"),
        ("It costs $7 for one and $8 for two.\nA: 8", "8"),
        ("One is $5. First, $\\frac{16}{2}$", "\\frac{16}{2}"),
        ("unbalanced \\boxed{9 and then\nAnswer: 8", "8"),
        ("I do not know what this means at all", None),
        ("Final Answer:", None),
        ("\\boxed{}", None),
    ],
)
def test_the_last_announced_answer_is_read(response: str, answer: str | None) -> None:
    assert extract("math", response) == answer


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"), ("(B)", "B"), ("B.", "B"), ("B) 12 metres", "B"), ("**B**", "B"), ("\\text{B}", "B"),
        ("\\textbf{(B)}\\ 12", "B"), ("Option B", "B"), ("option (b)", "B"), ("$\\boxed{B}$", "B"), ("b", "B"),
        ("clearly B: 12", "B"), ("12 metres", "B"), ("A and C", "A,C"), ("A, C", "A,C"),
        ("A dog", None), ("I think so", None), ("A because it is shorter", "A"), ("E", None), ("", None),
        ("none", None),
    ],
)  # fmt: skip
def test_option_letters_in_their_wrappings(text: str, letter: str | None) -> None:
    options = ("10 metres", "12 metres", "14 metres", "16 metres")
    assert option_letters(text, options, announced=True) == letter


@pytest.mark.parametrize(
    ("response", "letter"),
    [
        ("The correct option is (C).", "C"),
        ("Therefore, the answer is **C**.", "C"),
        ("It cannot be (A) or (B), so I choose C.", "C"),
        ("A is wrong because of the length.\n\nC", "C"),
        ("Both (A) and (B) fail. (C)", "C"),
        ("A long text about a dog, as I said.", None),
        ("", None),
    ],
)
def test_a_choice_is_never_a_default(response: str, letter: str | None) -> None:
    assert extract("choice", response, ("1", "2", "3", "4")) == letter
