"""Traces that look back: a first computation, the Wait that budget forcing would put behind it, and a second one.
Owns what is checked and in which words. Whatever is wrong in a trace stands before a Wait, is told apart, so that
training need not learn it, and is put right behind it. Knows no model, tokenizer or grader."""

import ast
import operator
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

CHECK, HOLDS = ", let me check that.", "That holds."
MOST_LOOKS = 4  # Waits of one trace
Attempts = Sequence[tuple[int, str]]  # numbers and texts of a model's attempts
Equation = re.Match[str]  # `left` = `right`, where a text states it

_NUMBER = r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+"
_TERM = rf"[(\s$€£-]*(?:{_NUMBER})%?\)?"
_EQUATION = re.compile(
    rf"(?<![\w.^])(?P<left>[($€£-]*(?:{_NUMBER})%?\)?(?:\s?(?:[-−–+*/x×÷·]|mod)\s?{_TERM})+)\s?=\s?[$€£]?"
    rf"(?P<right>-?(?:{_NUMBER}))(?![.,]?\d|\s?[*/^])"
)
_STEP_END = re.compile(r"\n+|(?<=[.;])\s+")
_OPERATORS = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.Mod: operator.mod,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class SelfCheck:
    """A trace's thinking, of what it was made (`correction:attempt 2`), how much of its beginning is not learned."""

    thinking: str
    made_of: str
    unlearned_characters: int = 0


def self_check(
    solution: str, answer: str, *, wrong: Attempts, right: Attempts, wait: str, shares: tuple[float, float], seed: int
) -> SelfCheck:
    """The thinking for one question; the solution alone where the seed, or what there is, lets it look back at nothing.
    `solution`: right, the last computation of every trace. `wrong`, `right`: attempts of a model, as graders judged
    them. `wait`: what budget forcing puts behind a thinking that ends, white space before it included. `shares`:
    check_share and confirmation_share of `domain.models.Teacher`."""
    draw, opened, equations = random.Random(seed), f"{wait}{CHECK} ", find_equations(solution)
    if not _end_at(equations, answer):
        equations = []  # nothing can be recomputed
    faulty, again = shares[0] * (1 - shares[1]), shares[0] * shares[1]
    made = _correction(solution, equations, wrong, opened, draw) if draw.random() < faulty else None
    looks, made = int(made is not None), made or SelfCheck(thinking=solution, made_of="solution")
    while looks < MOST_LOOKS and (equations or (right and not looks)) and draw.random() * (1 - faulty) < again:
        if right and not looks:
            number, first = draw.choice(right)
            made = SelfCheck(thinking=f"{first}{opened}{solution}", made_of=f"confirmation:attempt {number}")
        else:
            told = f"{made.thinking}{opened}{_recomputed(equations)}{HOLDS}"
            made = replace(made, thinking=told, made_of=made.made_of if looks else "confirmation:solution")
        looks += 1
    return made


def find_equations(text: str) -> list[Equation]:
    """Arithmetic of plain numbers that a text states, in its order."""
    return list(_EQUATION.finditer(text))


def holds(equation: Equation) -> bool:
    """Whether the right side is the value of the left one, or rounds it."""
    value, decimals = arithmetic(equation["left"]), len(equation["right"].partition(".")[2])
    room = Fraction(1, 2 * 10**decimals) if decimals else 0
    return value is not None and abs(value - _number(equation["right"])) <= room


def arithmetic(expression: str) -> Fraction | None:
    """The exact value of plain numbers joined by + - * / and mod; None for anything else."""
    text = re.sub(r"[,$€£\s]", "", re.sub(r"(?<=[\d)%])\s?[x×·]\s?", "*", expression).replace("÷", "/"))
    text = re.sub(r"\b0+(?=\d)", "", re.sub("[−–]", "-", text).replace("%", "/100").replace("mod", "%"))
    try:
        return _value(ast.parse(text, mode="eval").body)
    except (SyntaxError, ValueError, KeyError, ZeroDivisionError):
        return None


def _value(node: Any) -> Fraction:
    if isinstance(node, ast.BinOp):
        value: Fraction = _OPERATORS[type(node.op)](_value(node.left), _value(node.right))
        return value
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_value(node.operand)
    return Fraction(str(node.value) if isinstance(node, ast.Constant) else "no number")


def _number(text: str) -> Fraction:
    return Fraction(text.replace(",", ""))


def _end_at(equations: Sequence[Equation], answer: str) -> bool:
    """Whether all equations hold and the last one gives the answer: then they confirm it."""
    found = re.fullmatch(rf"\$?(-?(?:{_NUMBER}))\$?", answer.strip())
    return bool(equations and found and all(map(holds, equations))) and (
        _number(equations[-1]["right"]) == _number(str(found and found[1]))
    )


def _recomputed(equations: Sequence[Equation]) -> str:
    return "".join(f"{equation['left']} = {equation['right']}. " for equation in equations)


def _correction(
    solution: str, equations: Sequence[Equation], wrong: Attempts, opened: str, draw: random.Random
) -> SelfCheck | None:
    """A trace that begins with a wrong attempt, a slip or half a solution; None where there is none of these."""
    ways = ["attempt"] * bool(wrong) + ["slip"] * bool(equations) + ["half"] * (len(equations) > 1)
    way = draw.choice(ways) if ways else ""
    at = draw.randrange(way == "half", len(equations)) if way in ("slip", "half") else 0
    if way == "attempt":
        number, first = draw.choice(wrong)
        second, made_of = solution, f"correction:attempt {number}"
    elif way == "slip":
        first, slipped = _with_slip(solution, equations, at, draw)
        end, upto = _STEP_END.search(solution, equations[at].end()), _recomputed(equations[: at + 1])
        second = f"{upto.removesuffix('. ')}, not {slipped}. {solution[end.end() :] if end else ''}"
        made_of = "correction:slip"
    elif starts := [end.end() for end in _STEP_END.finditer(solution, 0, equations[at].start() if equations else 0)]:
        first = solution[: starts[-1]].rstrip()  # right as far as it goes: all of it is learned
        second = f"{_recomputed(find_equations(first))}{solution[starts[-1] :]}"
        return SelfCheck(thinking=f"{first}{opened}{second}", made_of="completion:solution")
    else:
        return None
    unlearned = len(first) + len(opened) - len(opened.lstrip())
    return SelfCheck(thinking=f"{first}{opened}{second.strip()}", made_of=made_of, unlearned_characters=unlearned)


def _with_slip(solution: str, equations: Sequence[Equation], at: int, draw: random.Random) -> tuple[str, str]:
    """The solution with a wrong result in one equation and all that follows from it, and that result."""
    right, off = equations[at]["right"], draw.choice([-10, -2, -1, 1, 2, 10])
    changed = {right: _like(_number(right) + (off if _number(right) + off > 0 else abs(off)), right)}
    text, end = f"{solution[: equations[at].start()]}{equations[at]['left']} = {changed[right]}", equations[at].end()
    for equation in equations[at + 1 :]:
        left = _exchanged(equation["left"], changed)
        if left != equation["left"] and (value := arithmetic(left)) is not None:
            changed[equation["right"]] = _like(value, equation["right"])
        told = changed.get(equation["right"], equation["right"])
        text, end = f"{text}{_exchanged(solution[end : equation.start()], changed)}{left} = {told}", equation.end()
    return text + _exchanged(solution[end:], changed), changed[right]


def _like(value: Fraction, shown: str) -> str:
    """A value with as many decimals as another shows, or as it needs."""
    return str(value) if value.denominator == 1 else f"{float(value):.{max(len(shown.partition('.')[2]), 2)}f}"


def _exchanged(text: str, changed: dict[str, str]) -> str:
    return re.sub(_NUMBER, lambda found: changed.get(found[0], found[0]), text)
