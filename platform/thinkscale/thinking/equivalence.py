"""Whether two answers are the same: exactly for plain numbers and texts, by math-verify for the rest.

Owns the comparison. The cheap part is bounded in time; `expressions_equal` is not, and untrusted text may
keep it busy for ever: `grading.GradingPool` runs it in a process that can be killed.
"""

from __future__ import annotations

import logging
import re
import unicodedata
from typing import Any

from thinkscale.thinking.notation import clean, number

RELATIVE_TOLERANCE = 1e-6
"""How far a decimal may be from the reference it rounds."""


def texts_equal(reference: str, answer: str) -> bool:
    """Normalised exact match: Unicode form, case, white space and outer punctuation do not count."""
    return _folded_text(reference) == _folded_text(answer)


def _folded_text(text: str) -> str:
    text = unicodedata.normalize("NFKC", clean(text)).casefold()
    return re.sub(r"\s+", " ", text).strip(" .,;:!?'\"()[]{}")


def plainly_equal(reference: str, answer: str) -> bool | None:
    """Whether two mathematical answers are equal where that shows at once, None where it takes algebra."""
    left, right = number(reference), number(answer)
    if left is not None and right is not None:
        if left == right:
            return True
        if "%" in reference and "%" not in answer and left == 100 * right:
            return True
        if "%" in answer and "%" not in reference and right == 100 * left:
            return True
        if "." in reference or "." in answer:
            return bool(abs(left - right) <= RELATIVE_TOLERANCE * abs(left))
        return False
    if _compact(reference) == _compact(answer):
        return True
    return None


def _compact(text: str) -> str:
    return re.sub(r"\s+", "", clean(text))


def expressions_equal(reference: str, answer: str) -> bool:
    """Whether two mathematical expressions, sets, intervals or equations are equal (math-verify).

    May run for ever and take any amount of memory on hostile text.
    """
    from math_verify import verify

    parsed_reference = _parse(reference)
    parsed_answer = _parse(answer)
    return bool(verify(parsed_reference, parsed_answer, timeout_seconds=None))


def _parse(text: str) -> Any:
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse

    for name in ("math_verify.parser", "math_verify.grader"):
        # They warn that their own time limit is off; ours is a process of its own.
        logging.getLogger(name).setLevel(logging.ERROR)
    expression = clean(text)
    return parse(
        f"${expression}$",
        extraction_config=[LatexExtractionConfig(), ExprExtractionConfig()],
        parsing_timeout=None,  # type: ignore[arg-type]
    )
