"""Every rule over a user's text takes time in proportion to its length, whatever it repeats."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress

import pytest

from thinkscale.curate.fingerprints import fingerprint
from thinkscale.curate.normalise import canonical, normalise
from thinkscale.curate.quality import RULES
from thinkscale.domain.question import Question
from thinkscale.domain.source import FilesSource
from thinkscale.grading.choice import option_letters
from thinkscale.grading.verdict import Graded, judge_plainly
from thinkscale.store.ingest import Unreadable, _question
from thinkscale.store.options import read_options

UNITS = [
    " ",
    "~",
    "\t",
    "\n",
    "\n ",
    "\u3000",
    "$",
    "$ ",
    "\\ ",
    "\\text{",
    "}",
    "{",
    "(",
    "[",
    "1,",
    "1 ",
    "-",
    "= ",
    "is ",
    "Answer: ",
    "#### 1\n",
    "** ",
    "A, ",
    "A and ",
    "not ",
    "![",
    "\\frac{",
    "^{",
    "\\boxed{1} or ",
    "<<",
    "Question:",
    "|",
    "sqrt(",
    "\\cup ",
    "\\begin{pmatrix}",
    ". ",
    "million ",
    "√(",
    "²",
    "^\\circ ",
    "\n####",
    "_{",
]


def _ingest(text: str) -> None:
    row = {"question": text, "answer": text, "solution": text}
    source = FilesSource(name="s", paths=["a"], columns={"solution": "solution"})  # type: ignore[arg-type]
    assert not isinstance(_question(source, row, "a:1", None), Unreadable)


def _quality(text: str) -> None:
    question = Question(id="q", question=text, answer=text[:1000], kind="math", source="s", options=(text, "b"))
    for rule in RULES.values():
        rule(question)


def _options(text: str) -> None:
    for form in (text, "['a" + text, "A) " + text):
        with suppress(ValueError):  # it is no options: that is said in time too
            read_options(form)


def _judge(text: str) -> None:
    for kind, reference in (("integer", "5"), ("math", "x^2"), ("choice", "B"), ("text", "yes")):
        for response in (text, f"Answer: {text}!"):
            judge_plainly(Graded(kind=kind, reference=reference, response=response, options=("1", "2")))  # type: ignore[arg-type]
    option_letters(text, ("1", "2"), announced=True)


RULES_OF_TEXT: list[Callable[[str], object]] = [
    normalise,
    canonical,
    lambda text: fingerprint(text, text),
    _ingest,
    _quality,
    _options,
    _judge,
]


def took_s(rule: Callable[[str], object], text: str) -> float:
    """CPU-seconds of this thread."""
    began = time.thread_time()
    rule(text)
    return time.thread_time() - began


@pytest.mark.parametrize(
    "rule", RULES_OF_TEXT, ids=["normalise", "canonical", "fingerprint", "ingest", "quality", "options", "judge"]
)
def test_time_grows_with_the_text(rule: Callable[[str], object]) -> None:
    slow = []
    for unit in UNITS:
        short, long = (f"a{unit * (size // len(unit))}b" for size in (4_000, 32_000))
        # In proportion it is 8 times as long, with a square 64 times, and so each time; a short first time may be luck.
        if all(took_s(rule, long) > 24 * max(took_s(rule, short), 0.02) for _ in range(3)):
            slow.append(unit)
    assert slow == []
