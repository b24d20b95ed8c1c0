"""Whether two answers are the same: exactly for plain numbers and texts, by math-verify for the rest.

Owns the comparison. The cheap part is bounded in time; `expressions_equal` is not, and untrusted text may
keep it busy for ever: `grading.GradingPool` runs it in a process that can be killed.
"""

from __future__ import annotations

import logging
import re
import unicodedata
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from thinkscale.grading.notation import clean, number

RELATIVE_TOLERANCE = 2e-6
"""How far a decimal may be from the reference it rounds."""


def texts_equal(reference: str, answer: str) -> bool:
    """Normalised exact match: Unicode form, case, white space and outer punctuation do not count."""
    return _folded_text(reference) == _folded_text(answer)


_LOOSE = re.compile(r" ?([,;:()\[\]{}|]) ?")


def _folded_text(text: str) -> str:
    text = unicodedata.normalize("NFKC", clean(text)).casefold()
    text = re.sub(r"\s+", " ", text)
    return _LOOSE.sub(r"\1", text).strip(" .,;:!?'\"()[]{}")


_SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_DECIMAL_COMMA = re.compile(r"[-+]?\d+,\d+", re.ASCII)
_ONE_WORD = ("yes", "no", "true", "false")
_OPTION = re.compile(r"\([A-Z]\)")
_NAME = re.compile(r"\s*(?:\\[A-Za-z]+\s*)*[A-Za-z]{1,4}(?:_\{?\w+\}?)?\s*", re.ASCII)
_WORDS = re.compile(r"[A-Za-z][A-Za-z'’ -]*[A-Za-z]|[A-Za-z]|\([A-Za-z]\)")


def plainly_equal(reference: str, answer: str) -> bool | None:
    """Whether two mathematical answers are equal where that shows at once, None where it takes algebra."""
    left, right = number(reference), number(answer)
    if left is not None and right is None and "=" not in reference:
        right = _assigned(answer)
    if left is not None and right is not None:
        return any(
            left == scale * right or (_is_decimal(reference, answer) and _close(float(left), float(scale * right)))
            for scale in _scales(reference, answer)
        )
    bare_reference, bare_answer = _compact(reference), _compact(answer)
    if bare_reference == bare_answer:
        return True
    words = clean(reference)
    if words.lower() in _ONE_WORD or _OPTION.fullmatch(words):
        first = re.match(r"\(?[A-Za-z]+\)?", clean(answer))
        return first is not None and first[0].strip("()").lower() == words.strip("()").lower()
    if len(words) > 1 and _WORDS.fullmatch(words) and texts_equal(reference, answer):
        return True
    for one, other in ((bare_reference, bare_answer), (bare_answer, bare_reference)):
        if "." in one and "," not in one and _DECIMAL_COMMA.fullmatch(other):
            return one == other.replace(",", ".")
    return None


def _assigned(text: str) -> Fraction | None:
    """The number that a name is said to be, as in `AB = 5` and `m = 20 grams`."""
    name, sign, value = clean(text).partition("=")
    return number(value) if sign and _NAME.fullmatch(name) else None


def _scales(reference: str, answer: str) -> list[Fraction]:
    """Factors that the answer may differ by: percent signs and the words for large numbers."""
    scales = [Fraction(1)]
    if ("%" in reference) != ("%" in answer):
        scales.append(Fraction(1, 100) if "%" in answer else Fraction(100))
    for word, scale in _SCALES.items():
        if (word in reference) != (word in answer):
            scales.append(Fraction(scale) if word in answer else Fraction(1, scale))
    return scales


def _is_decimal(reference: str, answer: str) -> bool:
    return "." in reference or "." in answer


def _close(left: float, right: float) -> bool:
    return abs(left - right) <= RELATIVE_TOLERANCE * abs(left)


def _compact(text: str) -> str:
    return re.sub(r"\s+", "", _spelled(text))


_NAMES = re.compile(
    r"(?<![\\A-Za-z])(pi|theta|alpha|beta|gamma|lambda|omega|infty|infinity|sin|cos|tan|ln|log)(?![A-Za-z])"
)
_ROOTS = re.compile(r"(?<![\\A-Za-z])sqrt\s*\(([^()]*)\)")
_MEMBER = re.compile(r"^[A-Za-z]\s*(?:\\in|=(?=[^=]*\\pm))\s*")
_SYNONYMS = (
    ("\\varnothing", "\\emptyset"), ("\\infinity", "\\infty"), ("\\leqslant", "\\le "), ("\\geqslant", "\\ge "),
    ("\\mathbb R", "\\mathbb{R}"), ("**", "^"), ("\\lbrace", "\\{"), ("\\rbrace", "\\}"), ("\\mid", "|"),
)  # fmt: skip


_ALL_REALS = re.compile(r"(?:the set of )?all (?:real numbers|reals)", re.IGNORECASE)
_RATIO = re.compile(r"(\d+) to (\d+)", re.ASCII)
_UNIT_AFTER = re.compile(
    r"(?<=[\d})i])\s+(?!(?:or|and|if|for|where|when|with|mod)\b)[a-z]{2,}(?:\s+[a-z]{2,}){0,2}\s*"
    r"(?:\^\s*\{?\s*[23]\s*\}?)?$"
)
_INEQUALITY = re.compile(r"([A-Za-z])\s*(<|>|\\leq?|\\geq?)\s*([^<>=]+)")


def _spelled(text: str) -> str:
    """An expression with one spelling of what has several."""
    text = _UNIT_AFTER.sub("", clean(text))
    text = _NAMES.sub(r"\\\1", _ROOTS.sub(r"\\sqrt{\1}", text))
    if _ALL_REALS.fullmatch(text):
        return "\\mathbb{R}"
    if match := _RATIO.fullmatch(text):
        return f"{match[1]}:{match[2]}"
    text = _as_union(text)
    for one, other in _SYNONYMS:
        text = text.replace(one, other)
    return _MEMBER.sub("", text)


def _as_union(text: str) -> str:
    """`x < a or x > b` as a union of intervals; any other text as it is."""
    parts = [_INEQUALITY.fullmatch(part.strip()) for part in re.split(r"\bor\b|\\lor\b|\\cup\b", text)]
    found = [part for part in parts if part is not None]
    if len(found) < 2 or len(found) < len(parts) or len({part[1] for part in found}) > 1:
        return text
    intervals = []
    for part in found:
        closed, bound = "e" in part[2], part[3].strip()
        below = f"(-\\infty,{bound}{']' if closed else ')'}"
        above = f"{'[' if closed else '('}{bound},\\infty)"
        intervals.append(above if part[2] in (">", "\\ge", "\\geq") else below)
    return "\\cup".join(intervals)


def nesting(text: str) -> int:
    """How many brackets are open at once, closed or not."""
    depth = deepest = 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        deepest = max(deepest, depth)
    return deepest


@dataclass(frozen=True, slots=True)
class _Listing:
    """A list, tuple, interval or set: what encloses it and its items."""

    brackets: str
    items: list[str]


def _listing(text: str) -> _Listing | None:
    """The items of an enumeration, None where the text is something else."""
    text = text.strip()
    inner, brackets = text, ""
    if text.startswith("\\{") and text.endswith("\\}"):
        inner, brackets = text[2:-2], "{}"
    elif text[:1] in ("(", "[") and text[-1:] in (")", "]"):
        inner, brackets = text[1:-1], text[0] + text[-1]
    items = _split(inner)
    if items is not None and len(items) == 1 and text.count("\\pm") == 1:
        items = [text.replace("\\pm", sign) for sign in "+-"]
    return None if items is None or len(items) < 2 else _Listing(brackets, items)


def _split(text: str) -> list[str] | None:
    """Split at the commas outside all brackets; None where the brackets do not match."""
    text = re.sub(r"(?<![A-Za-z\\])(?:and|or)(?![A-Za-z])", ",", text).replace(";", ",")
    depth, items, start = 0, [], 0
    for position, character in enumerate(text):
        if character in "([{":
            depth += 1
        elif character in ")]}":
            depth -= 1
            if depth < 0:
                return None
        elif character == "," and depth == 0:
            items.append(text[start:position])
            start = position + 1
    items.append(text[start:])
    items = [item.strip() for item in items if item.strip()]
    return items if depth == 0 else None


def expressions_equal(reference: str, answer: str) -> bool:
    """Whether two mathematical expressions, lists, sets, intervals or equations are equal (math-verify).

    Lists and sets compare in any order, tuples and intervals in theirs, each item by itself. May run for
    ever and take any amount of memory on hostile text.
    """
    left, right = _spelled(reference), _spelled(answer)
    listed_left, listed_right = _listing(left), _listing(right)
    if listed_left and listed_right and len(listed_left.items) == len(listed_right.items):
        return _listings_equal(listed_left, listed_right)
    return _algebraically_equal(left, right)


def _listings_equal(left: _Listing, right: _Listing) -> bool:
    ordered = {left.brackets, right.brackets} - {"", "{}"}
    if len(ordered) > 1:
        return False  # an open interval is not a closed one
    if ordered:
        return all(_items_equal(one, other) for one, other in zip(left.items, right.items, strict=True))
    remaining = list(right.items)
    for one in left.items:
        match = next((other for other in remaining if _items_equal(one, other)), None)
        if match is None:
            return False
        remaining.remove(match)
    return True


def _items_equal(reference: str, answer: str) -> bool:
    plain = plainly_equal(reference, answer)
    return _algebraically_equal(reference, answer) if plain is None else plain


def _algebraically_equal(reference: str, answer: str) -> bool:
    from math_verify import verify

    return bool(verify(_parse(reference), _parse(answer), allow_set_relation_comp=True, timeout_seconds=None))


def _parse(expression: str) -> Any:
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse

    for name in ("math_verify.parser", "math_verify.grader"):
        # They warn that their own time limit is off; ours is a process of its own.
        logging.getLogger(name).setLevel(logging.ERROR)
    return parse(
        f"${expression}$",
        extraction_config=[LatexExtractionConfig(), ExprExtractionConfig()],
        parsing_timeout=None,  # type: ignore[arg-type]
    )
