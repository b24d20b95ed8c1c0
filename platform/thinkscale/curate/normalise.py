"""Text made comparable without changing what it means.

Owns Unicode and whitespace. Two forms: `normalise` is what is stored and asked; `canonical` is only ever
compared (duplicates, leaks) and also loses spacing commands, dollar signs and letter case.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import replace

from thinkscale.domain.question import Question, question_id

# Soft hyphen, zero-width space, word joiner, byte-order mark: invisible, and never part of a meaning.
# Zero-width (non-)joiners stay: they matter in several scripts and in emoji.
_INVISIBLE = dict.fromkeys(map(ord, "\u00ad\u200b\u2060\ufeff"))
_SPACES = dict.fromkeys((0xA0, *range(0x2000, 0x200B), 0x202F, 0x205F, 0x3000), " ")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_BLANK_LINES = re.compile(r"\n{3,}")
_NEGATIVE_SPACE = re.compile(r"(?<!\\)\\!(?![A-Za-z])")  # after a backslash it is a line's end and a factorial
_THOUSANDS = re.compile(r"(?<=\d)\{,\}(?=\d{3})")

_LATEX_SPACE = re.compile(r"\\(?:[,;:! ]|quad\b|qquad\b|thinspace\b|displaystyle\b|left(?![a-z])|right(?![a-z]))|~")
_LATEX_TEXT = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mbox|emph|operatorname)\s{0,9}\{([^{}]*)\}")
_WHITESPACE = re.compile(r"\s+")
_SUPERSCRIPTS = {
    ord(sign): f"^{digit}" for digit, sign in enumerate("\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079")
}
"""NFKC would make 2\u00b2 the number 22."""
_QUOTES = str.maketrans("\u2018\u2019\u201c\u201d\u2013\u2014\u2212\u00d7\u00f7", "''\"\"---*/")


def normalise(text: str) -> str:
    """NFC, plain spaces and newlines, no invisible or control characters, LaTeX's negative spaces gone.

    Leading spaces of a line stay: they can carry a drawing or code.
    """
    text = unicodedata.normalize("NFC", text.replace("\r\n", "\n").replace("\r", "\n"))
    text = _CONTROL.sub("", text.translate(_INVISIBLE).translate(_SPACES))
    text = _THOUSANDS.sub(",", _NEGATIVE_SPACE.sub("", text))
    text = _BLANK_LINES.sub("\n\n", "\n".join(line.rstrip(" \t") for line in text.split("\n")))
    return text.strip("\n").rstrip()


def normalise_question(question: Question) -> Question:
    """The question with all its texts normalised and its id renewed."""
    text, answer = normalise(question.question).lstrip(), normalise(question.answer).strip()
    return replace(
        question,
        id=question_id(question.source, text, answer),
        question=text,
        answer=answer,
        solution=normalise(question.solution).strip() or None if question.solution else None,
        options=tuple(normalise(option).strip() for option in question.options),
    )


def canonical(text: str) -> str:
    """The form in which two questions are compared. Equal for texts that differ in spacing, case or markup."""
    text = unicodedata.normalize("NFKC", normalise(text).translate(_SUPERSCRIPTS)).translate(_QUOTES)
    for _ in range(8):  # nested, but not deep
        text = _LATEX_TEXT.sub(r" \1 ", text)
    text = _LATEX_SPACE.sub(" ", text).replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac").replace("$", " ")
    text = re.sub(r"\\[\[\]()]", " ", text)
    return _WHITESPACE.sub(" ", text).strip().casefold()
