"""How fast the rule graders are, and that hostile text neither hangs nor crashes them.

    python benchmarks/grading.py [--hostile 10000] [--math MATH500.jsonl]

Plain numeric answers are made up; mathematical expressions are those of the MATH500 file given (`answer`,
`solution`), each graded against itself in another spelling and against another question's answer, or, without
a file, made up too.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections import Counter
from pathlib import Path
from typing import Any

from recording import record
from thinkscale.grading.pool import GradingPool
from thinkscale.grading.verdict import Graded

FRAGMENTS = [
    "\\boxed{", "}", "{", "$", "$$", "\\[", "\\]", "\\(", "\\)", "\\frac", "\\sqrt", "^", "9^9^9^9^9", "10^{10^{10}}",
    "!", "((", "))", "\0", "\n", "Answer:", "Final Answer:", "answer is", "####", "A", "(B)", "1,", "111,", "1e999",
    "/0", "\\text{", "\\left(", "\\right", "\\begin{pmatrix}", "&", "\\\\", "x", "=", "\\int_0^\\infty e^{-x^2}dx",
    "\\sum_{n=1}^{10^9}", "😀", "\u202e", "\ud800", "٣", "the ", "the final answer ", "** ", "-", " ", "\t", "%",
    "factorial(10**9)", "\\binom{10^9}{5}", "\\prod_{i=1}^{10^8} i", "(10^{9})!", "\\lim_{x\\to0}", "i", "\\cdot",
    "[", "]", "<", ">", "|", "\\{", "\\}", "∞", "½", "²",
]  # fmt: skip


def hostile(rng: random.Random) -> str:
    """Unbalanced, deeply nested, enormous, binary or merely odd."""
    shape = rng.random()
    few = "".join(rng.choice(FRAGMENTS) for _ in range(rng.randint(1, 40)))
    if shape < 0.6:
        return few
    if shape < 0.75:
        return "\\boxed{" + few[:60] + "}"
    unit = rng.choice(FRAGMENTS) + (rng.choice(FRAGMENTS) if shape < 0.9 else "")
    return unit * max(1, rng.choice([1_000, 40_000, 2_000_000]) // len(unit))


def plain_answers(count: int, rng: random.Random) -> list[Graded]:
    forms = [
        "Final Answer: {}",
        "So the total is {} dollars.\n#### {}",
        "... therefore \\boxed{{{}}}.",
        "The answer is {}.",
    ]
    items = []
    for _ in range(count):
        value = rng.randint(0, 100_000)
        said = value if rng.random() < 0.6 else value + 1
        reasoning = "We add the numbers 12 and 30, which gives 42, and go on. " * 8
        response = reasoning + rng.choice(forms).format(f"{said:,}", said)
        items.append(Graded(kind="integer", reference=str(value), response=response))
    return items


def math_answers(path: Path | None, rng: random.Random) -> list[Graded]:
    if path is None:
        pairs = [
            (f"\\frac{{{a}}}{{{b}}}x^2+{a}", f"{a}+\\dfrac{{{a}}}{{{b}}}x^{{2}}")
            for a in range(1, 21)
            for b in range(2, 22)
        ]
        return [Graded(kind="math", reference=left, response=f"\\boxed{{{right}}}") for left, right in pairs]
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    others = rng.sample(rows, len(rows))
    items = [Graded(kind="math", reference=row["answer"], response=row["solution"]) for row in rows]
    for row, other in zip(rows, others, strict=True):
        items.append(Graded(kind="math", reference=row["answer"], response=f"Final Answer: ${other['answer']}$"))
        spelled = row["answer"].replace("\\frac", "\\dfrac").replace(" ", "") + " + 0"
        items.append(Graded(kind="math", reference=row["answer"], response=f"Final Answer: ${spelled}$"))
    return items


def measure(items: list[Graded], *, processes: int, limit_s: float) -> dict[str, Any]:
    with GradingPool(processes=processes, limit_s=limit_s) as pool:
        pool.grade("math", "x+1", "Answer: $1+x+0$")  # the processes' start is not the graders' speed
        began = time.perf_counter()
        verdicts = pool.grade_all(items)
        elapsed = time.perf_counter() - began
    return {
        "answers": len(items),
        "elapsed_s": round(elapsed, 2),
        "answers_per_minute": round(60 * len(items) / elapsed),
        "verdicts": dict(Counter(verdict.verdict for verdict in verdicts)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hostile", type=int, default=10_000, help="number of hostile strings")
    parser.add_argument("--math", type=Path, help="a MATH500 file (JSONL)")
    arguments = parser.parse_args()
    rng = random.Random(0)
    kinds = ["integer", "math", "choice", "text"]
    references = {"integer": "5", "math": "x^2+1", "choice": "B", "text": "yes"}
    strings = [
        Graded(kind=kind, reference=references[kind], response=hostile(rng))  # type: ignore[arg-type]
        for kind in (rng.choice(kinds) for _ in range(arguments.hostile))
    ]
    numeric = measure(plain_answers(20_000, rng), processes=2, limit_s=5)
    expressions = measure(math_answers(arguments.math, rng), processes=2, limit_s=5)
    attacks = measure(strings, processes=2, limit_s=1)
    record(
        "grading",
        what="answers graded per minute by two processes: plain numbers, mathematical expressions, hostile strings",
        value=numeric["answers_per_minute"],
        unit="plain numeric answers per minute",
        baseline="the goal: 20,000 plain answers and 2,000 expressions a minute on two cores",
        ratio=round(numeric["answers_per_minute"] / 20_000, 2),
        plain_numeric=numeric,
        math=expressions,
        hostile=attacks,
    )


if __name__ == "__main__":
    main()
