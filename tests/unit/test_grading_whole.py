r"""An answer counts only if all of it was read, and what stands around it does not count."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from thinkscale.domain.question import AnswerKind
from thinkscale.grading.pool import GradingPool

READ_IN_PART = [
    ("4", r"\boxed{4\sqrt(2)}"),
    (r"1-\frac1{\mathrm e}", r"\boxed{1+\frac1{\mathrm e}}"),
    (r"\{x \mid 1<x<2\}", r"\boxed{\{x \mid 1<x<3\}}"),
    (r"\begin{cases} x & x>0 \\ -x & x\le 0 \end{cases}", r"\boxed{\begin{cases} x & x>0 \\ 2x & x\le 0 \end{cases}}"),
    (r"\begin{cases} 1 & \text{if } x>0 \\ 0 & \text{otherwise} \end{cases}",
     r"\boxed{\begin{cases} 1 & \text{if } x<0 \\ 0 & \text{otherwise} \end{cases}}"),
    (r"\langle 3,-1\rangle", r"\boxed{\langle -1,3\rangle}"),
    ("10:15 a.m.", "Answer: 10:45 a.m."),
    ("4", r"\boxed{\ge 4}"),
    ("7", r"\boxed{7 +}"),
    ("101_2", r"\boxed{101_3}"),
    (r"1,2,\ldots,n", r"\boxed{1,3,5,\ldots,2n-1}"),
    ("5", "Answer: not 5"),
    # siblings
    ("4", r"\boxed{4 \oplus 3}"),
    ("3", r"\boxed{3 \mod 5}"),
    ("3", r"\boxed{3 \cdot}"),
    ("12", r"\boxed{12\%\%x}"),
    ("2", r"\boxed{2 \to \infty}"),
    ("5", r"\boxed{5 \star}"),
    ("x^2", r"\boxed{x^2 \text{ plus a constant}}"),
    ("f'(x)", r"\boxed{f(x)}"),
    ("f''(0)", r"\boxed{f'(0)}"),
    ("a_1", r"\boxed{a_2}"),
    ("a_{n+1}", r"\boxed{a_{n-1}}"),
    ("1011_2", r"\boxed{1011_8}"),
    ("1A_{16}", r"\boxed{1B_{16}}"),
    ("4", r"\boxed{<4}"),
    ("4", "Answer: > 4"),
    ("4", r"\boxed{\le 4}"),
    ("4", r"\boxed{\ne 4}"),
    ("3:00", "Answer: 3:00:30"),
    ("7", r"\boxed{7 = }"),
    ("8", r"\boxed{8/}"),
    ("6", r"\boxed{6, \ldots}"),
    (r"\{x \mid x>2\}", r"\boxed{\{x \mid x\ge 2\}}"),
    (r"\{x : x^2<4\}", r"\boxed{\{x : x^2<9\}}"),
    (r"\langle 1,2,3\rangle", r"\boxed{\langle 1,3,2\rangle}"),
    (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\boxed{\begin{pmatrix}1&2\\4&3\end{pmatrix}}"),
    (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\boxed{\begin{pmatrix}1&3\\2&4\end{pmatrix}}"),
    (r"\begin{bmatrix}1\\2\end{bmatrix}", r"\boxed{\begin{bmatrix}2\\1\end{bmatrix}}"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\boxed{\begin{pmatrix}1\\2\\0\end{pmatrix}}"),
    ("x\\equiv 1 \\pmod 3", r"\boxed{x\equiv 1 \pmod 5}"),
    (r"2^n", r"\boxed{2^{n}+1}"),
    (r"\overline{AB}", r"\boxed{\overline{BC}}"),
    (r"\vec{a}+\vec{b}", r"\boxed{\vec{a}-\vec{b}}"),
    ("3", "Answer: 3 or so, maybe 4"),
    ("12", "Answer: no more than 12"),
    ("12", "Answer: It cannot be 12"),
    ("10", "Answer: 10 if x is even, otherwise 3"),
    (r"p \land q", r"\boxed{p \lor q}"),
    (r"\frac{dy}{dx}", r"\boxed{\frac{dx}{dy}}"),
    (r"\int_0^1 x\,dx", r"\boxed{\int_0^2 x\,dx}"),
    (r"\sum_{k=1}^{5} k", r"\boxed{\sum_{k=1}^{6} k}"),
    (r"A \cup B", r"\boxed{A \cap B}"),
    (r"CH_4", r"\boxed{C_2H_4}"),
    (r"H_2O", r"\boxed{HO_2}"),
]  # fmt: skip

TINY = [
    (r"\frac1{20!}", r"\boxed{\frac1{19!}}"), ("10^{-20}", r"\boxed{10^{-21}}"), (r"2\times10^{-9}", r"\boxed{3\times10^{-9}}"),
    ("0.0000001", r"\boxed{0.0000002}"), (r"6.63\times 10^{-34}", "Answer: $6.62 \\times 10^{-34}$"), ("e^{-50}", r"\boxed{e^{-49}}"),
    (r"\frac{1}{10^{30}}", r"\boxed{0}"), (r"2^{-100}", r"\boxed{2^{-99}}"), (r"1-10^{-12}", r"\boxed{1}"),
    (r"\frac{1}{52!}", r"\boxed{\frac{1}{51!}}"), (r"\sqrt{10^{-30}}", r"\boxed{10^{-14}}"), (r"10^{-20}x", r"\boxed{10^{-21}x}"),
    (r"\frac{x}{10^{18}}", r"\boxed{\frac{x}{10^{17}}}"), ("1.6e-19", "Answer: 1.6e-18"),
]  # fmt: skip

STATEMENTS = [
    ("I=3", r"\boxed{I=4}"), (r"\log_2 32=5", r"\boxed{\log_2 8=3}"), ("P=I^2R", r"\boxed{P=IR}"), ("2+2=4", r"\boxed{3+3=6}"),
    ("1<2", r"\boxed{2<3}"), (r"\sin 0=0", r"\boxed{\tan 0=0}"), ("E=mc^2", r"\boxed{E=mc}"), ("5>3", r"\boxed{4>3}"),
    ("F=ma", r"\boxed{F=mv}"), ("2^5=32", r"\boxed{2^4=16}"), ("x^2+y^2=1", r"\boxed{x^2+y^2=4}"), ("V=IR", r"\boxed{V=I^2R}"),
    ("x+y=3", r"\boxed{x-y=3}"), ("2x+y<4", r"\boxed{2x+y>4}"), ("N=6", r"\boxed{M=6}"), ("S=1", r"\boxed{S=0}"),
    (r"\pi=\pi", r"\boxed{e=e}"), ("y>2x", r"\boxed{y \ge 2x}"),
]  # fmt: skip

LETTERS = [
    ("7xy", r"\boxed{7}"), ("2ab", r"\boxed{2}"), ("3t", r"\boxed{3}"), ("5am", "Answer: 5pm"), ("12 March", "Answer: 12 May"),
    ("2 red, 3 blue", "Answer: 2 blue, 3 red"), ("5n", r"\boxed{5}"), ("4k", r"\boxed{4}"), ("2bc", r"\boxed{2}"), ("6x", r"\boxed{6y}"),
    ("9 a.m.", "Answer: 9 p.m."), ("3 June", "Answer: 3 July"), ("July 4", "Answer: June 4"), ("1 boy, 2 girls", "Answer: 2 boys, 1 girl"),
    ("3pq", r"\boxed{3}"), ("8z", r"\boxed{8}"), ("5 cm", "Answer: 5 m"), ("5 kg", "Answer: 5 g"), ("20^\\circ C", "Answer: 20°F"),
    ("30 seconds", "Answer: 30 minutes"), (r"6 \text{ cm}^2", r"\boxed{6 \text{ cm}^3}"), (r"\$5", "Answer: €5"), ("5 dollars", "Answer: 5 cents"),
    ("500 BC", "Answer: 500 AD"), ("10 m/s", "Answer: 10 km/h"), ("5m", r"\boxed{5}"), ("12 noon", "Answer: 12 midnight"),
    ("40 north", "Answer: 40 south"), ("2d", r"\boxed{2}"), ("3i", r"\boxed{3}"), ("3e", r"\boxed{3}"), ("4ac", r"\boxed{4}"),
]  # fmt: skip

SCALES = [
    ("10", "Answer: 10 thousand"), ("5 million", "Answer: 5"), ("3 billion", "Answer: 3 million"), ("2", "Answer: 2 trillion"),
    (r"\$5 \text{ million}", "Answer: $5"), ("1.5 million", "Answer: 1.5"), ("10", "Answer: 10 million dollars"), ("4 thousand", r"\boxed{4}"),
    ("7 million", "Answer: 7,000"), ("12 billion", r"\boxed{12}"),
]  # fmt: skip

HEDGES: list[tuple[AnswerKind, str, str]] = [
    ("integer", "4", r"\boxed{4 \text{ or } 5}"), ("integer", "4", r"\boxed{\pm4}"), ("integer", "4", "Answer: between 3 and 4"),
    ("integer", "4", r"\boxed{4x}"), ("integer", "4", "Answer: 4 or 5"), ("integer", "4", "Answer: either 4 or 5"),
    ("integer", "4", "The answer is 3, 4 or 5."), ("integer", "4", "Answer: at least 4"), ("integer", "4", "Answer: more than 4"),
    ("integer", "4", "Answer: 4 or more"), ("integer", "4", "Answer: not 4"), ("integer", "4", r"\boxed{4, 5}"), ("integer", "4", r"\boxed{4+}"),
    ("integer", "4", "Answer: 4 to 5"), ("integer", "4", "Answer: from 3 to 4"), ("integer", "4", r"\boxed{3 < x < 4}"),
    ("integer", "4", r"\boxed{\leq 4}"), ("integer", "4", r"\boxed{4^x}"), ("integer", "4", r"\boxed{4y+1}"), ("integer", "4", "Final Answer: 3-4"),
    ("integer", "4", r"\boxed{\{4,5\}}"), ("integer", "4", r"\boxed{(3,4)}"), ("integer", "4", "Answer: up to 4"), ("integer", "4", r"\boxed{4i}"),
    ("integer", "4", r"\boxed{\frac{4}{3}}"), ("integer", "4", r"\boxed{x=4 \text{ or } x=-4}"), ("integer", "4", "Answer: less than 4"),
    ("integer", "2", "Answer: 2 red, 3 blue"), ("integer", "4", "Answer: 4x"), ("integer", "4", "Final Answer: 4 isn't possible"),
    ("choice", "B", "Answer: B/D/H"), ("choice", "B", "Answer: not B"), ("choice", "B", "Answer: B or C"), ("choice", "B", "Answer: B and D"),
    ("choice", "B", r"\boxed{B, C}"), ("choice", "B", r"\boxed{\text{B or D}}"), ("choice", "B", "Answer: either B or C"),
    ("choice", "B", "The answer is not (B)."), ("choice", "B", "Answer: B & C"), ("choice", "B", "Answer: A/B"), ("choice", "B", "Answer: neither A nor B"),
    ("choice", "B", "Answer: (B) or (C)"), ("choice", "B", "The answer is B or possibly D"), ("choice", "B", "Answer: BD"), ("choice", "B", "答案：B或C"),
    ("choice", "B", "Answer: **B** or **C**"), ("choice", "B", "Answer: B, C or D"), ("choice", "B", "Answer: all but B"), ("choice", "B", "Answer: C"),
]  # fmt: skip

WRONG: list[tuple[AnswerKind, str, str]] = [
    *(("math", *pair) for pair in (*READ_IN_PART, *TINY, *STATEMENTS, *LETTERS, *SCALES)), *HEDGES,
    ("math", "i", r"\boxed{-i}"), ("math", r"\frac{1}{1+i}", r"\boxed{\frac{1+i}{2}}"), ("math", "i^2", r"\boxed{1}"),
    ("math", r"\sqrt{x^2}", r"\boxed{x}"), ("math", "|x|", r"\boxed{x}"), ("math", r"\ln x", r"\boxed{\log_2 x}"), ("math", "x^{10}", r"\boxed{x^{11}}"),
    ("math", r"\{1,2\}", r"\boxed{(1,2)}"), ("math", "x=1, y=2", r"\boxed{x=2, y=1}"), ("math", r"\text{listen}", r"\boxed{\text{silent}}"),
    ("math", "east", r"\boxed{\text{seat}}"), ("math", "DNE", r"\boxed{0}"), ("math", r"\infty", r"\boxed{\text{DNE}}"), ("math", "valid", "Answer: invalid"),
    ("math", "12", r"\boxed{1 2}"), ("math", "2.5", r"\boxed{2 5}"), ("integer", "18", "#### 17\n\nTom has 5 hats. How many?\n#### 18"),
]  # fmt: skip

SENTENCES: list[tuple[AnswerKind, str, str]] = [
    ("integer", "42", "Final Answer: 42 (since x=6, y=7)"), ("integer", "5", "The answer is 5, because 3+2=5."),
    ("math", "2n+1", "The answer is $2n+1$, where $n$ is a positive integer."), ("math", "5", "Final Answer: $5$ (since $n>2$)"),
    ("math", "20", "Answer: 20 $cm^{2}$"), ("math", "42", "Final Answer: 42 (since x=6, y=7)"), ("math", "5", "The answer is 5, because 3+2=5."),
    ("math", "42", "The total is 42."), ("math", "7", "Tom has 7 apples."), ("math", "42", "Answer: The total is 42."), ("math", "7", "Final Answer: Tom has 7 apples."),
    ("integer", "7", "Final Answer: Tom has 7 apples."), ("integer", "42", "Final Answer: 42, as the sum of 20 and 22."),
    ("integer", "42", "Final Answer: 42 (6 times 7)"), ("integer", "42", "Final Answer: 42, which is 6 times 7"),
    ("integer", "6", "Final Answer: 6, not 7"), ("integer", "12", "Final Answer: 12 rather than 13"), ("math", r"\frac{1}{2}", "Answer: $\\frac{1}{2}$, since $2x=1$."),
    ("math", "x^2+1", "The answer is $x^2+1$ because $f(0)=1$."), ("math", "x^2+1", "The function is $f(x) = x^2+1$, where $x>0$."),
    ("math", r"\frac{\pi}{4}", "Final Answer: $\\frac{\\pi}{4}$ (as the triangle is isosceles)"), ("math", "(3,4)", "The point is $(3,4)$, because $3^2+4^2=25$."),
    ("integer", "30", "Final Answer: $30$ km, since 15 times 2 is 30"), ("integer", "15", "Final Answer: She needs 15 minutes."),
    ("integer", "15", "Final Answer: 15 (fifteen)"), ("math", "15", "Answer: There are 15 ways."), ("math", "8", "Final Answer: $n = 8$ is the largest."),
    ("integer", "250", "Final Answer: The train travels 250 miles, because 5 times 50 is 250."), ("math", "3", "Answer: $x = 3$ (the other root, $-1$, is negative)"),
    ("math", "50", r"\boxed{50} since $5\cdot10=50$"), ("integer", "9", "The answer is 9 (3 squared)."), ("math", r"2\sqrt{3}", "Thus the side is $2\\sqrt{3}$ cm."),
    ("math", "20", "Answer: $20$ $\\text{cm}^2$"), ("math", "20", "Answer: 20 \\(m/s\\)"), ("integer", "7", "Final Answer: 7 apples, since he ate 3 of 10."),
    ("integer", "3", "Answer: 3, given that x = 2 and y = 1."), ("math", "n^2", r"\boxed{n^2 \text{ where } n \text{ is odd}}"),
    ("math", "5", "Answer: 5 (obtained from 10/2)"), ("integer", "1200", "Final Answer: The profit is $1,200."), ("integer", "18", "#### 18\n\nTom has 5 hats. How many?\n#### 5"),
    ("integer", "18", "It is 18.\n#### 18\n\nQuestion: A man has 3 cows.\nAnswer: 3\n#### 3"), ("integer", "18", "#### 18\nProblem 2: What is 1 + 1?\n#### 2"),
    ("math", "18", "#### 18\n\n### Question: What is 1 + 1?\nAnswer: 2"), ("integer", "18", "#### 18 dollars\n\nHow many legs do 4 cats have?\nThey have 16.\n#### 16"),
    ("integer", "18", "Answer: 18\n\nHuman: and 2 + 2?\nAnswer: 4"), ("integer", "18", "\\boxed{18}\n\nQ: What is 1 + 1?\nA: 2"),
]  # fmt: skip

STRUCTURES = [
    (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\boxed{\begin{pmatrix}1&2\\3&4\end{pmatrix}}"),
    (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", "Answer: $\\begin{bmatrix} 1 & 2 \\\\ 3 & 4 \\end{bmatrix}$"),
    (r"\begin{pmatrix}1/2&2\\3&4\end{pmatrix}", "The matrix is\n\\[\n\\begin{pmatrix} \\frac12 & 2 \\\\ 3 & 4 \\end{pmatrix}\n\\]"),
    (r"\begin{pmatrix}1&0&0\\0&1&0\\0&0&1\end{pmatrix}", r"\boxed{\begin{pmatrix}1&0&0\\0&1&0\\0&0&1\\\end{pmatrix}}"),
    (r"\begin{pmatrix} a+b & 0 \\ 0 & c \end{pmatrix}", r"\boxed{\begin{pmatrix} b+a & 0 \\ 0 & c \end{pmatrix}}"),
    (r"\left(\begin{array}{cc}1&2\\3&4\end{array}\right)", r"\boxed{\begin{pmatrix}1&2\\3&4\end{pmatrix}}"),
    (r"\left[\begin{matrix}1&2\\3&4\end{matrix}\right]", r"\boxed{\begin{bmatrix}1&2\\3&4\end{bmatrix}}"),
    (r"\begin{cases} x & x>0 \\ -x & x\le 0 \end{cases}", r"\boxed{\begin{cases} x & x>0 \\ -x & x\le 0 \end{cases}}"),
    (r"\begin{cases} x & \text{if } x>0 \\ -x & \text{otherwise} \end{cases}", r"\boxed{\begin{cases} x, & x>0 \\ -x, & \text{otherwise} \end{cases}}"),
    (r"\begin{cases} x & x>0 \\ -x & x\le 0 \end{cases}", r"\boxed{\begin{cases} -x & x\le 0 \\ x & 0<x \end{cases}}"),
    (r"f(x)=\begin{cases} 2x & x>0 \\ 0 & x\le 0 \end{cases}", r"\boxed{\begin{cases} 2x & x>0 \\ 0 & x\le 0 \end{cases}}"),
    (r"\begin{pmatrix}3\\-1\end{pmatrix}", r"\boxed{\langle 3,-1\rangle}"), (r"\langle 3,-1\rangle", r"\boxed{\begin{bmatrix}3\\-1\end{bmatrix}}"),
    (r"\begin{pmatrix}3\\-1\end{pmatrix}", "Answer: (3, -1)"), (r"\begin{pmatrix}3\\-1\\2\end{pmatrix}", "Answer: [3, -1, 2]"),
    (r"\langle 1,2,3\rangle", r"\boxed{(1,2,3)}"), (r"\begin{bmatrix}1&2\end{bmatrix}", "Answer: [1, 2]"), ("(1,2,3)", r"\boxed{[1,2,3]}"),
    (r"\{x \mid 1<x<2\}", r"\boxed{(1,2)}"), ("(1,2)", r"\boxed{1<x<2}"), (r"[1,\infty)", r"\boxed{\{x \mid x \ge 1\}}"), ("1<x<2", r"\boxed{2>x>1}"),
    (r"1,2,\ldots,n", r"\boxed{1, 2, \dots, n}"), (r"\{1,2\}", "Answer: {2, 1}"), ("x=1, y=2", r"\boxed{y=2, x=1}"), ("(1,2)", r"\boxed{(x,y)=(1,2)}"),
    ("2x+2y=4", r"\boxed{x+y=2}"), ("y=2x+3", r"\boxed{2x-y+3=0}"), ("P=I^2R", r"\boxed{P=R I^2}"), ("xy=3", r"\boxed{y=\frac{3}{x}}"), ("I=3", r"\boxed{3}"),
    ("x^2+y^2=1", r"\boxed{y^2+x^2-1=0}"), ("2x<4", r"\boxed{x<2}"), ("x>2y", r"\boxed{2y<x}"), (r"\log_2 32=5", r"\boxed{\log_2 32=5}"),
    (r"(-\infty,0)\cup(1,\infty)", r"\boxed{(1,\infty)\cup(-\infty,0)}"), (r"x<0 \text{ or } x>1", r"\boxed{(-\infty,0)\cup(1,\infty)}"),
]  # fmt: skip

COMPLEX_AND_PLAIN = [
    ("i^2", r"\boxed{-1}"), ("-1", r"\boxed{i^2}"), (r"\frac1{1+i}", r"\boxed{\frac{1-i}2}"), ("2+3i", r"\boxed{3i+2}"), (r"(1+i)^2", r"\boxed{2i}"),
    (r"e^{i\pi}", r"\boxed{-1}"), ("i", r"\boxed{\frac{-1}{i}}"), (r"\sqrt{-4}", r"\boxed{2i}"), (r"\frac{1+i}{1-i}", r"\boxed{i}"), ("i^3", r"\boxed{-i}"),
    ("e^{-x}", "Answer: exp(-x)"), (r"\arctan x", "Answer: arctan(x)"), ("|x|", "Answer: abs(x)"), (r"\sqrt{x(x+1)}", "Answer: sqrt(x*(x+1))"),
    (r"\ln(x+1)", "Answer: ln(1+x)"), (r"\arcsin x", "Answer: asin(x)"), (r"\tan^{-1}x", "Answer: arctan(x)"), (r"\sqrt{2}+1", "Answer: 1+sqrt(2)"),
    (r"\sin^2 x", "Answer: sin(x)^2"), (r"\cos(2x)", "Answer: cos(2*x)"), (r"x^{n+1}", "Answer: x^(n+1)"), (r"\frac{x+1}{2}", "Answer: (x+1)/2"),
    (r"\sqrt[3]{2}", r"\boxed{2^{1/3}}"), (r"\frac{\sqrt{3}}2", "Answer: sqrt(3)/2"), (r"\sinh x", "Answer: sinh(x)"), (r"\lfloor x \rfloor", "Answer: floor(x)"),
    (r"\frac{\ln x}{2}", "Answer: log(x)/2"), (r"\sqrt{\sqrt{2}+1}", "Answer: sqrt(sqrt(2) + 1)"), (r"\cos 60^\circ", r"\boxed{\frac12}"), ("2^{10}", "Answer: 2^10"),
    (r"1-\frac1{\mathrm e}", r"\boxed{1-e^{-1}}"), (r"\frac{\pi}{2}", "Answer: pi/2"), (r"\binom{n}{2}", r"\boxed{\frac{n(n-1)}{2}}"), ("n!", r"\boxed{n(n-1)!}"),
    (r"\sum_{k=1}^{5} k", r"\boxed{15}"), (r"\int_0^1 x^2\,dx", r"\boxed{\frac13}"), ("x^2-1", r"\boxed{(x-1)(x+1)}"), (r"2\sin x\cos x", r"\boxed{\sin 2x}"),
    ("4", r"\boxed{\sqrt{16}}"), (r"\frac{1}{20!}", r"\boxed{\frac{1}{20\cdot 19!}}"), ("10^{-20}", r"\boxed{\frac{1}{10^{20}}}"), (r"1\frac12", r"\boxed{\frac32}"),
    ("101_2", r"\boxed{101_2}"), ("101_2", r"\boxed{101}"), ("1A_{16}", r"\boxed{1a_{16}}"), ("a_1+a_2", r"\boxed{a_2+a_1}"), ("f'(x)", r"\boxed{f'(x)}"),
    ("x⁻¹", r"\boxed{\frac1x}"), ("α+β", r"\boxed{\beta+\alpha}"), ("½", r"\boxed{0.5}"),
]  # fmt: skip

TEXTS = [
    (r"\text{valid}", r"\boxed{\text{valid}}"), (r"\text{the set of all even numbers}", r"\boxed{\text{the set of all even numbers}}"),
    (r"\text{more than four words in a box}", r"\boxed{\text{more than four words in a box}}"), ("DNE", "Answer: The limit does not exist."),
    ("does not exist", r"\boxed{\text{DNE}}"), ("9:45 a.m.", "Answer: 9:45 AM"), ("9:45 AM", r"\boxed{9{:}45 \text{ a.m.}}"), ("5pm", "Answer: 5 p.m."),
    ("12 March", "Answer: 12 March"), ("March 12", r"\boxed{\text{March } 12}"), ("2 red, 3 blue", "Answer: 3 blue, 2 red"), ("no solution", r"\boxed{\emptyset}"),
    (r"\text{no solutions}", "Answer: There is no solution."), ("no real solutions", r"\boxed{\text{No real solutions}}"), (r"\text{odd}", "Answer: odd"),
    (r"\text{True}", "Answer: True"), (r"\text{a right triangle}", r"\boxed{\text{right triangle}}"), (r"\text{Monday}", "Final Answer: Monday."),
    (r"\mathbb{R}", "Answer: all real numbers"), (r"\infty", r"\boxed{+\infty}"), ("10:15 a.m.", "Answer: 10:15 AM"), (r"\text{Isosceles}", r"\boxed{\text{isosceles}}"),
    (r"\text{none of the above is possible}", "Answer: None of the above is possible"), ("4 or more", "Answer: 4 or more"), (r"\text{Yes}", r"\boxed{\text{yes}}"),
    (r"p \land q", r"\boxed{p \land q}"), (r"x\equiv 1 \pmod 3", r"\boxed{x \equiv 1\pmod{3}}"), (r"H_2O", r"\boxed{\text{H}_2\text{O}}"), ("Jane Austen", "Answer: Jane Austen"),
]  # fmt: skip

UNITS = [
    ("5 cm", "Answer: 50 mm"), ("1 m", "Answer: 100 cm"), ("90 minutes", "Answer: 1.5 hours"), ("50 cents", "Answer: $0.50"), ("5", "Answer: 5 m"), ("5", "Answer: 5m"),
    ("5", r"\boxed{5\text{ kg}}"), ("6 feet", "Answer: 6 ft"), ("60 mph", "Answer: 60 mph"), (r"6\text{ cm}^2", r"\boxed{6\ \mathrm{cm^2}}"), ("12 square units", r"\boxed{12}"),
    ("5 million", "Answer: 5,000,000"), ("10000", "Answer: 10 thousand"), (r"\$5 \text{ million}", "Answer: 5 million dollars"), ("3/4", "Answer: 0.75 miles"),
    ("7 apples", "Answer: 7 apples"), ("7 apples", r"\boxed{7}"), ("25\\%", "Answer: 25 percent"), ("9.8 m/s^2", r"\boxed{9.8 \text{ m/s}^2}"), ("45^\\circ", "Answer: 45 degrees"),
    ("2.5 hours", "Answer: 2.5 hrs"), ("3 dozen", "Answer: 3 dozen"), ("1 km", "Answer: 1000 metres"), ("500 g", "Answer: 0.5 kg"), ("20 °C", "Answer: 20°C"),
]  # fmt: skip

CHOICES: list[tuple[AnswerKind, str, str]] = [
    ("choice", "B", "Answer: B\n\nThe area is $\\boxed{12}$, so A fails."), ("choice", "B", "Answer: B, because A and C are too large."),
    ("choice", "B", "Answer: B. Option A is wrong, and so is C."), ("choice", "B", "The answer is B since $\\boxed{x = 4}$."),
    ("choice", "B", "Antwort: B"), ("choice", "B", "答案：B"), ("choice", "B", "答案是B。"), ("choice", "B", "La respuesta es B."), ("choice", "B", "Réponse : B"),
    ("choice", "B", "La réponse est (B)."), ("choice", "B", "Die Antwort ist B."), ("choice", "B", "Die Antwort lautet B)"), ("choice", "B", "Risposta: B"),
    ("choice", "B", "A resposta é B"), ("choice", "B", "Ответ: B"), ("choice", "B", "答え：B"), ("choice", "B", "정답: B"), ("choice", "B", "Antwoord: B"),
    ("choice", "B", "Odpowiedź: B"), ("choice", "B", "Cevap: B"), ("choice", "B", "正确答案是 B"), ("choice", "B", "故选B"), ("choice", "B", "उत्तर: B"), ("choice", "B", "الجواب: B"),
    ("choice", "AD", "Answer: AD"), ("choice", "AD", "Answer: A and D"), ("choice", "AD", "Answer: A, D"), ("choice", "AD", r"\boxed{AD}"), ("choice", "A,D", "Answer: D and A"),
    ("choice", "A, C, D", "Answer: (A), (C) and (D)"), ("choice", "ACD", "Answer: A/C/D"), ("choice", "AD", "答案：A、D"), ("choice", "AD", r"\boxed{\text{A and D}}"),
    ("choice", "B", "Answer: (B) is right; (A) and (C) are not."), ("choice", "B", "**Answer: B**\n\nWhy not the others?\n(A) is too small.\n(C) is too large."),
    ("choice", "B", "Answer: B\nIndeed $A = \\pi r^2 = \\boxed{12\\pi}$."), ("choice", "C", r"\boxed{\text{C) } 12}"), ("choice", "B", "Final Answer: B — not A."),
    ("choice", "B", "Answer: B (A would be too small)"), ("choice", "B", "The answer is not A. The answer is B."), ("choice", "B", "Answer: B\nI did not choose C."),
    ("choice", "B", "Answer: B, $\\frac{1}{2}$"), ("choice", "B", "Correct: (B)\nAnswer: B"),
]  # fmt: skip

RIGHT: list[tuple[AnswerKind, str, str]] = [
    *SENTENCES, *CHOICES, *(("math", *pair) for pair in (*STRUCTURES, *COMPLEX_AND_PLAIN, *TEXTS, *UNITS)),
    ("integer", "4", r"\boxed{4 \text{ or four}}"), ("integer", "4", "Answer: 4.0"), ("integer", "4", r"\boxed{2+2}"), ("integer", "4", r"\boxed{x = 4}"),
]  # fmt: skip


@pytest.fixture(scope="module")
def pool() -> Iterator[GradingPool]:
    with GradingPool(limit_s=20) as pool:
        yield pool


def test_what_is_read_in_part_or_hedged_is_not_correct(pool: GradingPool) -> None:
    assert [case for case in WRONG if pool.grade(*case).verdict == "correct"] == []


def test_what_surrounds_a_right_answer_does_not_count(pool: GradingPool) -> None:
    found = {case: pool.grade(*case) for case in RIGHT}
    assert [
        (*case, verdict.verdict, verdict.extracted_answer)
        for case, verdict in found.items()
        if verdict.verdict != "correct"
    ] == []
