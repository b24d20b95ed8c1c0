r"""The many ways to write one answer, brought to one form.

Owns the reading of numbers, LaTeX wrappings, units and option letters as text. Knows neither references
nor verdicts, and evaluates nothing but plain numbers.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction

LONGEST_NUMBER = 400
"""Characters of a number that is still read as one."""

LONGEST_TEXT = 40_000
"""Characters at the end of a text in which an option letter is looked for."""

_UNICODE = str.maketrans(
    {
        "−": "-", "–": "-", "—": "-", "‐": "-", "‑": "-", "×": "\\times ", "·": "\\cdot ", "⋅": "\\cdot ", "÷": "/",
        "∕": "/", "π": "\\pi ", "∞": "\\infty ", "≤": "\\le ", "≥": "\\ge ", "≠": "\\ne ", "≈": "\\approx ",
        "∪": "\\cup ", "∩": "\\cap ", "∈": "\\in ", "θ": "\\theta ", "°": "^\\circ ",
        "\u00a0": " ", "\u2009": " ", "\u202f": " ", "\u2062": "", "\u200b": "", "\ufeff": "", "，": ",", "。": ".",
        "：": ":", "（": "(", "）": ")", "％": "%", "½": " \\frac{1}{2}", "¼": " \\frac{1}{4}", "¾": " \\frac{3}{4}",
    }
)  # fmt: skip
_ROOT = re.compile(r"√\s*(?:(\d+|[A-Za-z])|\(([^()]*)\))")
_SUPERSCRIPTS = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹]+")
_SUPERSCRIPT_DIGITS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹", "0123456789")

_SPACING = re.compile(
    r"(?<!\\)\\(?:[,;:!> ]|(?:quad|qquad|displaystyle|textstyle|limits|left|right|[bB]igg?[lrm]?)(?![a-z]))|~"
)
_WRAPPERS = re.compile(
    r"\\(?:text|textbf|textit|textrm|textsf|texttt|textnormal|mathbf|mathrm|mathit|mathsf|mathtt|mathnormal|mbox|hbox"
    r"|boldsymbol|bm|operatorname|boxed|fbox|emph|underline|bold)\s*\{([^{}]*)\}"
)
_DEGREES = re.compile(r"\s*\^\s*\{?\s*\\(?:circ|degree)\s*\}?|\\degree|\\degrees")
_BAD_FRACTION = re.compile(r"\\frac\s*(\d)\s*(\d)")
_MARKUP = '*_`"“”'


def clean(text: str) -> str:
    """An answer without wrappings, spacing commands, markup and final punctuation."""
    text = text.replace("\0", "").translate(_UNICODE)
    text = _ROOT.sub(lambda m: f"\\sqrt{{{m[1] or m[2]}}}", text)
    text = _SUPERSCRIPTS.sub(lambda m: f"^{{{m[0].translate(_SUPERSCRIPT_DIGITS)}}}", text)
    text = text.replace("\\$", "$").replace("\\%", "%").replace("{,}", ",").replace("{:}", ":")
    text = re.sub(r"(?<!\\)\\!\s*", "", text)
    text = text.replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac").replace("\\cfrac", "\\frac")
    text = _SPACING.sub(" ", text)
    for _ in range(4):  # wrappers nest, but not deep
        text, count = _WRAPPERS.subn(r" \1 ", text)
        if not count:
            break
    text = _DEGREES.sub("", text)
    text = _BAD_FRACTION.sub(r"\\frac{\1}{\2}", text)
    for token in ("\\(", "\\)", "\\[", "\\]", "$$"):
        text = text.replace(token, " ")
    text = re.sub(r"\s+", " ", text).strip()
    text = text.strip(_MARKUP + " ").rstrip(".;:,? ").strip(_MARKUP + " ")
    if len(text) > 1 and text[0] == text[-1] == "$" and "$" not in text[1:-1]:
        text = text[1:-1].strip()
    return text


_CURRENCY_OR_HEDGE = re.compile(
    r"^(?:\\approx|approximately|approx\.?|about|around|roughly|only|exactly|[$€£¥₹]|Rs\.?|USD)\s*"
)
_NEGATIVE = re.compile(r"^(?:negative|minus)\s+", re.IGNORECASE)
# Possessive: words have one reading only, or a sentence costs time exponential in its letters.
_UNIT = re.compile(r"(?:[A-Za-zµμ\s./'-]|\^\s*\{?-?\d\}?)+", re.ASCII)
_LETTER_UNITS = frozenset("mgshLlJNWVKCFA")
"""Units of one letter; any other single letter after a number is a variable."""
_NO_UNITS = frozenset(
    {"pi", "sqrt", "ln", "log", "sin", "cos", "tan", "exp", "theta", "inf", "infinity", "mod", "or", "and", "if", "to"}
)
_LEADING = re.compile(
    r"[-+]?\s*(?:[1-9]\d{0,2}(?:[, ]\d{3})+(?![,\d])|\d+)?(?:\.\d+)?"
    r"(?:\s*\\frac\s*\{\s*\d+\s*\}\s*\{\s*\d+\s*\}|\s?/\s?\d+| \d+/\d+"
    r"|\s*\\(?:times|cdot)\s*10\s*\^\s*\{?\s*[-+]?\d{1,3}\s*\}?)?",
    re.ASCII,
)
_PLAIN = re.compile(r"[-+]?(?:[1-9]\d{0,2}(?:[, ]\d{3})+|\d+)?(?:\.\d*)?(?:[eE][-+]?\d{1,3})?", re.ASCII)
_FRACTION = re.compile(r"([-+]?)\s*\\frac\s*\{\s*([-+]?[\d.,]+)\s*\}\s*\{\s*([-+]?[\d.,]+)\s*\}", re.ASCII)
_SLASHED = re.compile(r"([-+]?[\d.,]+)\s*/\s*([-+]?[\d.,]+)", re.ASCII)
_MIXED = re.compile(r"([-+]?)(\d+)\s*(?:\\frac\s*\{\s*(\d+)\s*\}\s*\{\s*(\d+)\s*\}|(?<=\s)(\d+)\s*/\s*(\d+))", re.ASCII)
_WORDS_ONLY = re.compile(r"[A-Za-z]+(?:[ -][A-Za-z]+){0,8}")
_REPEATING = re.compile(r"([-+]?)(\d*)\.(\d*)\s*\\overline\s*\{(\d+)\}", re.ASCII)
_SCIENTIFIC = re.compile(r"([-+]?[\d.,]+)\s*\\(?:times|cdot)\s*10\s*\^\s*\{?\s*([-+]?\d{1,3})\s*\}?", re.ASCII)


def number(text: str) -> Fraction | None:
    """The exact value of a text that is one number, with or without a unit; None for anything else.

    A percent sign is dropped: `50%` is 50.
    """
    if len(text) > LONGEST_NUMBER or not (text := clean(text)):
        return None
    previous = None
    while previous != text:
        previous = text
        text = _NEGATIVE.sub("-", text)
        sign = text[:1] if text[:1] in "-+" else ""
        text = sign + _CURRENCY_OR_HEDGE.sub("", text[len(sign) :].lstrip())
    text = text.rstrip("% $").strip()
    value = _bare_number(text)
    if value is not None:
        return value
    leading = _LEADING.match(text)
    if leading is None or not _is_unit(text[leading.end() :].strip("% $")):
        return None
    return _bare_number(leading[0].strip())


def _is_unit(text: str) -> bool:
    """Whether what follows a number is its unit (`cm^2`, `square units`, `dollars per day`), not a factor."""
    if not _UNIT.fullmatch(text):
        return False
    words = re.findall(r"[A-Za-zµμ]+", text)
    return bool(words) and all(
        word in _LETTER_UNITS if len(word) == 1 else word.lower() not in _NO_UNITS for word in words
    )


def _bare_number(text: str) -> Fraction | None:
    while len(text) > 2 and text[0] == "{" and text[-1] == "}":
        text = text[1:-1].strip()
    if _PLAIN.fullmatch(text):
        return _decimal(text)
    if match := _FRACTION.fullmatch(text):
        return _ratio(match[2], match[3], match[1])
    if match := _SLASHED.fullmatch(text):
        return _ratio(match[1], match[2], "")
    if match := _MIXED.fullmatch(text):
        part = _ratio(match[3] or match[5], match[4] or match[6], "")
        return None if part is None else (-1 if match[1] == "-" else 1) * (int(match[2]) + part)
    if match := _REPEATING.fullmatch(text):
        whole, once, again = match[2] or "0", match[3], match[4]
        shifted = int(whole + once) + Fraction(int(again), 10 ** len(again) - 1)
        return (-1 if match[1] == "-" else 1) * shifted / Fraction(10 ** len(once))
    if _WORDS_ONLY.fullmatch(text):
        value, whole_text = _in_words(text)
        return Fraction(value) if value is not None and whole_text else None
    if match := _SCIENTIFIC.fullmatch(text):
        mantissa = _decimal(match[1])
        return None if mantissa is None else mantissa * Fraction(10) ** int(match[2])
    return None


def _decimal(text: str) -> Fraction | None:
    text = text.replace(",", "").replace(" ", "")
    if not any(character.isdigit() for character in text) or text[:1] in "eE":
        return None
    try:
        return Fraction(text.rstrip("."))
    except ValueError:
        return None


def _ratio(numerator: str, denominator: str, sign: str) -> Fraction | None:
    above, below = _decimal(numerator), _decimal(denominator)
    if above is None or not below:
        return None
    return (-1 if sign == "-" else 1) * above / below


def number_text(text: str) -> str | None:
    """A number in its shortest exact form (`1,200.50 dollars` is `2401/2`), None where the text is not one."""
    value = number(text)
    return None if value is None else str(value)


_UNIT_WORDS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
_NUMBER_WORDS = {word: value for value, word in enumerate(_UNIT_WORDS)} | {
    word: 10 * tens
    for tens, word in enumerate(("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"), 2)
}


def number_word(text: str) -> str | None:
    """The number that a text begins with in words (`three apples` is `3`), below a million; else None."""
    value, _ = _in_words(text)
    return None if value is None else str(value)


def _in_words(text: str) -> tuple[int | None, bool]:
    """The number that a text begins with in words, and whether it is all of the text."""
    words = re.findall(r"[a-z]+", clean(text).lower()[:80])
    thousands = rest = used = 0
    for word in words:
        if word in _NUMBER_WORDS:
            rest += _NUMBER_WORDS[word]
        elif word == "hundred":
            rest = 100 * max(rest, 1)
        elif word == "thousand":
            thousands, rest = 1000 * max(rest, 1), 0
        elif word != "and" or not used:
            break
        used += 1
    known = used > 0 and any(word in _NUMBER_WORDS for word in words[:used])
    return (thousands + rest if known else None), used == len(words)


_COMMAND = re.compile(r"\\[A-Za-z]+")
_WORD = re.compile(r"[^\W\d_]{2,}")


def is_prose(text: str) -> bool:
    """Whether a text is a sentence rather than an expression, a number with its unit or a short name."""
    words = _WORD.findall(_COMMAND.sub(" ", text))
    return len(words) > 4


_LETTER = re.compile(r"[\s(\[{*_`\"'$\\:-]{0,40}(?i:option|choice|answer)?[\s(\[{*_`\"':]{0,40}([A-Za-z])(?!['’]?\w)")
_LISTED = re.compile(r"\(?([A-Z])\)?(?:\s*(?:,|and|&|or)\s*\(?([A-Z])\)?)+(?![\w'])")
_LONE_LETTER = re.compile(r"(?<![\w'’.-])([B-HJ-Z])(?![\w'’-])")
_WRAPPED = re.compile(
    r"\(([A-Z])\)|\[([A-Z])\]|\*\*\(?([A-Z])(?:\)?[.:]?|[.):]+[ \t][^*\n]{1,200})\*\*"
    r"|\b(?i:so|thus|hence|therefore|it['’]s|it is),?\s+\(?([A-Z])\)?[.!]?\s*\Z"
    r"|\b([A-Z]) is (?:the )?(?:right|correct|best)\b|\A\s*\(?([A-Z])[.):]+[ \t][^\n]*\Z"
    r"|\b(?i:option|choice)\s+\(?([A-Z])\b|^[ \t]*([A-Z])[.):]?[ \t]*$",
    re.MULTILINE,
)
_ALONE = re.compile(r"[^\w\s]{0,4}([A-Za-z])[^\w\s]{0,4}")
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def option_letters(text: str, options: Sequence[str], *, announced: bool) -> str | None:
    """The letter of the option that a text names (`B`, or `A,C` for several), None where it names none.

    Args:
        text: An announced answer, or a whole response.
        options: The texts of the options: a text that is one of them names its letter.
        announced: Whether the text is an announced answer; else only a letter set apart counts.
    """
    allowed = _LETTERS[: len(options)] if options else _LETTERS[:10]
    plain = clean(text[-LONGEST_TEXT:])
    for letter, option in zip(_LETTERS, options, strict=False):
        if _same_text(plain, option):
            return letter
    if announced:
        if listed := _LISTED.match(plain):
            letters = sorted(set(re.findall(r"[A-Z]", re.sub(r"\b(?:and|or)\b", " ", listed[0]))))
            if all(letter in allowed for letter in letters):
                return ",".join(letters)
        match = _LETTER.match(plain)
        if match and match[1].upper() in allowed and not _is_article(plain, match):
            return match[1].upper()
        lone = {letter for letter in _LONE_LETTER.findall(plain[:200]) if letter in allowed}
        if len(lone) == 1:
            return str(lone.pop())
    if (alone := _ALONE.fullmatch(plain)) and alone[1].upper() in allowed:
        return alone[1].upper()
    found = None
    for match in _WRAPPED.finditer(plain if announced else text):
        letter = next(group for group in match.groups() if group)
        if letter in allowed:
            found = letter
    return found


def _is_article(text: str, match: re.Match[str]) -> bool:
    """Whether the letter is the word `A`, `a` or `I` of a sentence, or a lower-case letter that begins one."""
    follows = re.match(r"\s+([a-z]+)", text[match.end() :])
    if match[1].islower():
        return bool(text[match.end() :].strip(" .)]}*:"))
    return match[1] in "AI" and follows is not None and follows[1] not in ("because", "since", "as", "is", "and", "or")


def _same_text(left: str, right: str) -> bool:
    folded = re.sub(r"\s+", "", clean(right)).casefold()
    return bool(folded) and re.sub(r"\s+", "", left).casefold() == folded
