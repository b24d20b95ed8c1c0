"""Whether the rule graders agree with known verdicts, how fast they are, and that no text hangs or crashes them.

    python benchmarks/grading.py [--hostile 10000] [--data DIRECTORY]

Verdicts are known of the tables of cases in `tests/unit` and of public sets of questions (PUBLIC names them with
where they come from; those of them that lie under the directory are used): a published solution answers its own
question, and the answer of a question with another value does not. Plain numeric answers for the speed are made up,
and so are expressions where there is no MATH-500.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator
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


PUBLIC: list[tuple[str, str, str, str, str]] = [
    # file, kind, reference, response, source; a reference `####` is what follows that mark
    ("benchmarks/gsm8k_test.jsonl", "integer", "####answer", "answer", "openai/grade-school-math@3101c7d5"),
    ("pool/gsm8k_train.jsonl", "integer", "####answer", "answer", "openai/grade-school-math@3101c7d5"),
    ("benchmarks/math500.jsonl", "math", "answer", "solution", "hkust-nlp/simpleRL-reason@cf1c7858"),
    ("pool/math_train.json", "math", "answer", "answer", "agentica-project/deepscaler@95ef74ff"),
    ("pool/aime_1983_2023.json", "integer", "answer", "solution", "agentica-project/deepscaler@95ef74ff"),
    ("benchmarks/aime24.jsonl", "integer", "answer", "answer", "hkust-nlp/simpleRL-reason@cf1c7858"),
    ("pool/omni_math_num_500.jsonl", "math", "answer", "solution", "RUCAIBox/Slow_Thinking_with_LLMs@834e1b79"),
    ("pool/agieval_math.jsonl", "math", "answer", "answer", "ruixiangcui/AGIEval@5c77d073"),
    ("pool/agieval_aqua_rat.jsonl", "choice", "label", "label", "ruixiangcui/AGIEval@5c77d073"),
    ("pool/agieval_sat_math.jsonl", "choice", "label", "label", "ruixiangcui/AGIEval@5c77d073"),
]


def public_cases(directory: Path, rng: random.Random) -> Iterator[tuple[str, Graded, bool]]:
    """Source, answer, and whether it is right."""
    for name, kind, reference_field, response_field, source in PUBLIC:
        if not (directory / name).exists():
            continue
        text = (directory / name).read_text()
        rows = json.loads(text) if name.endswith(".json") else [json.loads(line) for line in text.splitlines()]
        field = reference_field.removeprefix("####")
        rows = [row for row in rows if row.get(field) and row.get(response_field)]
        references = [str(row[field]).rpartition("####")[2].strip() for row in rows]
        others = rng.sample(references, len(references))
        for row, reference, other in zip(rows, references, others, strict=True):
            response = str(row[response_field]) if field != response_field else f"Final Answer: {reference}"
            if reference_field.startswith("####"):
                response = str(row[field])
            yield f"{name}: {source}", Graded(kind=kind, reference=reference, response=response), True  # type: ignore[arg-type]
            if reference.casefold() != other.casefold():
                response = f"Final Answer: {other if kind == 'choice' else f'${other}$'}"
                yield f"{name}, another's answer", Graded(kind=kind, reference=reference, response=response), False  # type: ignore[arg-type]


def table_cases() -> Iterator[tuple[str, Graded, bool]]:
    """The tables of the tests; what is right only in another form too."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "unit"))
    import test_grading_forms as forms
    import test_grading_whole as whole

    tables: list[tuple[list[tuple[Any, ...]], bool]] = [
        ([*whole.RIGHT, *whole.MORE_RIGHT, *whole.REVIEWED_RIGHT], True),
        ([*whole.WRONG, *whole.MORE_WRONG, *whole.REVIEWED_WRONG], False),
    ]
    tables.append((forms.ANNOUNCED, True))
    tables.append(([("choice", "C", response) for response in forms.CHOSEN], True))
    for pairs, right in ((forms.EQUAL, True), (forms.DIFFERENT, False)):
        tables.append(([("math", reference, f"So \\boxed{{{answer}}}.") for reference, answer in pairs], right))
    for table, right in tables:
        for kind, reference, response, *options in table:
            item = Graded(kind=kind, reference=reference, response=response, options=tuple(*options))
            yield "tests/unit", item, right


def agreement(cases: list[tuple[str, Graded, bool]]) -> dict[str, Any]:
    """By source and by kind how many verdicts are the known ones; a right answer must be correct, another not."""
    with GradingPool(processes=2, limit_s=5) as pool:
        verdicts = pool.grade_all(item for _, item, _ in cases)
    by_source: dict[str, Counter[str]] = {}
    by_kind: dict[str, Counter[str]] = {}
    for (source, item, right), verdict in zip(cases, verdicts, strict=True):
        agrees = (verdict.verdict == "correct") == right
        for table, key in ((by_source, source), (by_kind, item.kind)):
            table.setdefault(key, Counter()).update(cases=1, agree=agrees, ungradable=verdict.verdict == "ungradable")
    return {
        name: {key: dict(count) for key, count in table.items()}
        for name, table in (("by_source", by_source), ("by_kind", by_kind))
    }


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
    parser.add_argument("--data", type=Path, default=Path(), help="where the public sets lie")
    arguments = parser.parse_args()
    rng = random.Random(0)
    kinds = ["integer", "math", "choice", "text"]
    references = {"integer": "5", "math": "x^2+1", "choice": "B", "text": "yes"}
    strings = [
        Graded(kind=kind, reference=references[kind], response=hostile(rng))  # type: ignore[arg-type]
        for kind in (rng.choice(kinds) for _ in range(arguments.hostile))
    ]
    numeric = measure(plain_answers(20_000, rng), processes=2, limit_s=5)
    math500 = arguments.data / "benchmarks" / "math500.jsonl"
    expressions = measure(math_answers(math500 if math500.exists() else None, rng), processes=2, limit_s=5)
    attacks = measure(strings, processes=2, limit_s=1)
    record(
        "grading",
        what="agreement with known verdicts by kind; answers graded per minute by two processes: plain numbers, "
        "mathematical expressions, hostile strings",
        value=numeric["answers_per_minute"],
        unit="plain numeric answers per minute",
        baseline="the goal: 20,000 plain answers and 2,000 expressions a minute on two cores",
        ratio=round(numeric["answers_per_minute"] / 20_000, 2),
        agreement=agreement([*table_cases(), *public_cases(arguments.data, rng)]),
        plain_numeric=numeric,
        math=expressions,
        hostile=attacks,
    )


if __name__ == "__main__":
    main()
