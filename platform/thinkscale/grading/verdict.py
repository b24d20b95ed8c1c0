"""Verdicts on answers: what they mean, and the rule graders by kind. Knows no models, samples or storage."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from thinkscale.domain.question import AnswerKind
from thinkscale.domain.sample import Verdict, VerdictName
from thinkscale.grading.choice import option_letters
from thinkscale.grading.equivalence import expressions_equal, nesting, plainly_equal, texts_equal
from thinkscale.grading.extraction import extract, find
from thinkscale.grading.notation import number, words_of

GRADERS: dict[AnswerKind, str] = {
    "integer": "integer/3",
    "math": "math/3",
    "choice": "choice/3",
    "text": "text/3",
    "code": "none/1",
}  # name and version of the rule grader of each kind; the version changes when a verdict could

_FOR_ALL = re.compile(r"[\s,]{0,9}(?:\\text ?\{\s{0,9})?for (?:all|any|every|each)\b.*", re.DOTALL)
DEEPEST_NESTING = 40  # brackets within brackets that algebra is asked to read; beyond, parsing takes exponential time


@dataclass(frozen=True, kw_only=True, slots=True)
class Graded:
    kind: AnswerKind
    reference: str
    response: str
    options: tuple[str, ...] = ()


def grade(kind: AnswerKind, reference: str, response: str, options: Sequence[str] = ()) -> Verdict:
    """Judge one response, in this process and without a time limit: untrusted text belongs into a GradingPool.
    `reference`: the right answer; for `choice` the letter of the option (or its text)."""
    verdict, plain_reference, answer = judge_plainly(
        Graded(kind=kind, reference=reference, response=response, options=tuple(options))
    )
    if verdict is not None:
        return verdict
    equal = expressions_equal(plain_reference, answer)  # None: not all of the answer, or of the reference, was read
    return verdict_of(kind, "ungradable" if equal is None else "correct" if equal else "wrong", answer)


def judge_plainly(item: Graded) -> tuple[Verdict | None, str, str]:
    """The verdict where it shows without algebra; else None, and the reference and answer to compare.
    Bounded in time."""
    kind, reference = item.kind, _reference(item.kind, item.reference)
    found = find(kind, item.response, item.options, lines=reference.strip().count("\n") + 1)
    answer = None if found is None else found.answer
    right = option_letters(reference, item.options, announced=True) if kind == "choice" else reference.strip()
    if not right or kind == "code" or (kind == "integer" and number(reference) is None):
        return verdict_of(kind, "ungradable", answer), "", ""
    if found is None or answer is None:
        return verdict_of(kind, "unanswered", None), "", ""
    equal: bool | None
    if kind == "choice":
        equal = answer == right
    elif kind == "text":
        equal = texts_equal(reference, found.whole) or texts_equal(reference, answer)
    elif words_of(reference) and (texts_equal(reference, found.whole) or plainly_equal(reference, found.whole)):
        equal = True
    else:
        no_value = reference.count("=") > 1 or number(reference.rpartition("=")[2]) is None
        if no_value and number(answer) is not None and words_of(found.whole):
            answer = found.whole  # the sentence says more than its number
        equal = plainly_equal(reference, answer)
        if equal is None and nesting(answer) > DEEPEST_NESTING:
            return verdict_of(kind, "ungradable", answer), "", ""
        if equal is None:
            return None, reference, answer
    return verdict_of(kind, "correct" if equal else "wrong", answer), "", ""


def _reference(kind: AnswerKind, text: str) -> str:
    if kind in ("integer", "math") and (number(text) is None) and ("\n" in text.strip() or "\\boxed" in text):
        return extract(kind, text) or text
    text = _FOR_ALL.sub("", text) if kind == "math" else text
    formulas = re.sub(r"(?<!\\)\$", "", text)
    return formulas if kind == "math" and (len(text) - len(formulas)) in (2, 4, 6) else text


def verdict_of(kind: AnswerKind, name: VerdictName, answer: str | None) -> Verdict:
    """A verdict in the name of the kind's rule grader."""
    return Verdict(verdict=name, extracted_answer=answer, grader=GRADERS[kind])
