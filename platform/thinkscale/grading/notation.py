r"""The many ways to write one answer, brought to one form.
Owns the reading of numbers with their units, LaTeX wrappings and option letters as text. Knows neither references nor
verdicts, and evaluates nothing but plain numbers. Every rule takes time linear in its text."""

import re
import tomllib
import unicodedata
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from importlib import resources
from typing import Any

LONGEST_NUMBER = 400  # characters of a number that is still read as one

VOCABULARY: dict[str, Any] = tomllib.loads(resources.files(__package__).joinpath("vocabulary.toml").read_text("utf-8"))
"""Words and signs that the graders know."""

PLAIN = {
    code: unicodedata.normalize("NFKC", chr(code))
    for code in (0xFE63, *range(0xFF01, 0xFF5F), *range(0x1D400, 0x1D800))
}  # letters, digits and signs of full width, as Chinese and Japanese texts have them, and of mathematical alphabets
_GREEK = VOCABULARY["formulas"]["letters"].split()
_UNICODE = str.maketrans(
    {
        **{chr(0x3B1 + i): f"\\{name} " for i, name in enumerate(_GREEK) if name not in (".", "mu")},
        **{chr(0x391 + i): f"\\{name.title()} " for i, name in enumerate(_GREEK) if name != "."},
        **{
            sign: " \\frac{{{}}}{{{}}}".format(*unicodedata.normalize("NFKC", sign).split("\u2044"))
            for sign in "½¼¾⅓⅔⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞"
        },
        **VOCABULARY["characters"],
        "\0": "",
    }
)
_ROOT = re.compile(r"√ ?(?:(\d+|[A-Za-z])|\(([^()]*)\))")
_SUPERSCRIPTS = re.compile("[⁻⁺]?[⁰¹²³⁴⁵⁶⁷⁸⁹ⁿ]+")
_SUBSCRIPTS = re.compile("[₀₁₂₃₄₅₆₇₈₉]+")

_REWRITTEN = [(re.compile(pattern, re.ASCII), form) for pattern, form in VOCABULARY["rewritten"].items()]
_WRAPPERS = re.compile(
    rf"\\(?:{'|'.join(VOCABULARY['formulas']['wrappers'].split())})"
    r" ?\{((?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*)\}"
)
_DEGREES = re.compile(r" ?\^ ?\{? ?\\(?:circ|degree) ?\}?|\\degrees?")
_TRIGONOMETRIC = re.compile(r"\\?(?:sin|cos|tan|cot|sec|csc)(?![a-z])")
_IN_DEGREES = re.compile(rf"(\d+(?:\.\d+)?)(?:{_DEGREES.pattern})")
_SHORT_ARGUMENTS = re.compile(r"\\frac ?(?:(\d)|\{([^{}]*)\}) ?(?:(\d|[A-Za-z])|\{([^{}]*)\})")
_MARKUP = '*_`"“”'


@lru_cache(maxsize=512)
def clean(text: str) -> str:
    """An answer without wrappings, spacing commands, markup and final punctuation."""
    text = " ".join(text.translate(PLAIN).translate(_UNICODE).split())
    text = _ROOT.sub(r"\\sqrt{\1\2}", text)
    for signs, mark in ((_SUPERSCRIPTS, "^"), (_SUBSCRIPTS, "_")):
        text = signs.sub(lambda m, mark=mark: f"{mark}{{{unicodedata.normalize('NFKC', m[0])}}}", text)  # type: ignore[misc]
    if "\\begin" not in text:
        text = re.sub(r"\\\\(?=[A-Za-z])", r"\\", text)  # escaped twice
    for pattern, form in _REWRITTEN:
        text = pattern.sub(form, text)
    for _ in range(4):  # wrappers nest, but not deep
        text, count = _WRAPPERS.subn(r" \1 ", text)
        if not count:
            break
    if _TRIGONOMETRIC.search(text):
        text = _IN_DEGREES.sub(r"(\\frac{\1\\pi}{180})", text)
    text = _DEGREES.sub("", text)
    text = _SHORT_ARGUMENTS.sub(r"\\frac{\1\2}{\3\4}", text)
    for token in ("\\(", "\\)", "\\[", "\\]", "$$"):
        text = text.replace(token, " ")
    text = " ".join(text.split())
    text = text.strip(_MARKUP + " ").rstrip(".;:,? ").strip(_MARKUP + " ")
    if len(text) > 1 and text[0] == text[-1] == "$" and "$" not in text[1:-1]:
        text = text[1:-1].strip().rstrip(".;:,? ")
    return text


@dataclass(frozen=True, kw_only=True, slots=True)
class Quantity:
    value: Fraction
    unit: str = ""  # as it is written; empty where the number stands alone


_UNITS = {
    name: (dimension, Fraction(factor)) if dimension != "other" else (factor, Fraction(1))
    for dimension, units in VOCABULARY["units"].items()
    for names, factor in units.items()
    for name in names.split()
}
_LETTER_UNITS = frozenset("mgshLlJNWVKCFA")  # units of one letter; any other single letter after a number is a variable
_NO_UNITS = frozenset(VOCABULARY["words"]["no_units"].split())
_SMALL_WORDS = ("of", "in", "a", "by", "at", "on")
_POWERS = {"square": 2, "sq": 2, "squared": 2, "cubic": 3, "cu": 3}
_UNIT_TOKEN = re.compile(r"([A-Za-zμ$€£¥₹¢]+)'?(?: ?\^ ?\{? ?(-?\d) ?\}?)?|(/)|(?:\\cdot|[ .*()[\]-])", re.ASCII)


def unit_measure(unit: str) -> tuple[Counter[str], Fraction] | None:
    """Dimensions with their powers, and the factor to their base units; None where a word is no known unit."""
    dimensions: Counter[str] = Counter()
    factor, sign, power, at = Fraction(1), 1, 1, 0
    while at < len(unit):
        token = _UNIT_TOKEN.match(unit, at)
        if token is None:
            return None
        at = token.end()
        word = token[1]
        if token[3] or word == "per":
            sign = -1
        elif word in _POWERS:
            power = _POWERS[word]
        elif word:
            found = _UNITS.get(word) or _UNITS.get(word.lower()) or _UNITS.get(word.lower().removesuffix("s"))
            if found is None:
                return None
            exponent = sign * (int(token[2]) if token[2] else power)
            dimensions[found[0]] += exponent
            factor, power = factor * found[1] ** exponent, 1
    if {"C", "F"} & {*dimensions}:
        dimensions.pop("deg", None)
    return (dimensions, factor) if dimensions else None


_CURRENCY = re.compile(
    r"(?:([$€£¥₹]|USD|EUR|Rs\.?)|(?:\\approx|approximately|approx\.?|about|around|roughly|only|exactly)) ?"
)
_NEGATIVE = re.compile(r"(?:negative|minus) ", re.IGNORECASE)
_UNIT = re.compile(r"(?:[A-Za-zμ /$€£¥₹¢.'()[\]-]|\\cdot|\^ ?\{? ?-?\d ?\}?)+", re.ASCII)
_DECIMAL = r"(?:[1-9]\d{0,2}(?:(?:[, ']\d{3})+|(?:\.\d{3}){2,})(?![,\d])|\d+)?(?:\.\d*)?(?:[eE][-+]?\d{1,3})?"
_RATIONAL = re.compile(rf"([-+]?) ?(?:(\d+) (?=\d+ ?/))?({_DECIMAL})(?: ?/ ?([-+]?{_DECIMAL}(?<=\d)))?", re.ASCII)
_FRACTION = re.compile(r" ?\\frac ?\{ ?([-+]?[\d.,]+) ?\} ?\{ ?([-+]?[\d.,]+) ?\}", re.ASCII)
_TIMES_TEN = re.compile(
    r"(?: ?\\(?:times|cdot)|(?<=\d) ?[x*]) ?10 ?\^ ?(?:\{ ?([-+]?\d{1,3}) ?\}|([-+]?\d{1,3}))", re.ASCII
)
_WORDS_ONLY = re.compile(r"[A-Za-z]+(?:[ -][A-Za-z]+){0,8}")
_REPEATING = re.compile(r"(\d*)\.(\d*) ?(?:\\(?:overline|bar|dot) ?\{?|(?<=\.)\()(\d+)[})]?", re.ASCII)
_SCALES = {"dozen": 12, "hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_SCALE = re.compile(rf" ?({'|'.join(_SCALES)})\b ?")
_RADIX = re.compile(r"\(?([0-9A-Fa-f]+)\)? ?(?:_|\(?(?:in )?base) ?\{? ?(\d{1,2}|two|eight|ten|sixteen) ?[})]?")
_RADIX_WORDS = {"two": 2, "eight": 8, "ten": 10, "sixteen": 16}
_ORDINALS = ("st", "nd", "rd", "th")


def number(text: str) -> Fraction | None:
    """The exact value of a text that is one number, with or without a unit; None for anything else.
    A percent sign is dropped: `50%` is 50."""
    found = quantity(text)
    return None if found is None else found.value


def quantity(text: str) -> Quantity | None:
    """The number and the unit of a text that is nothing else; None for anything else.
    Letters that touch a number are a unit only where they are the name of one: `7xy` is a product. A single letter is
    one where it could be (`5m`): `is_product` says which texts would rather be products."""
    if len(text) > LONGEST_NUMBER or not (text := clean(text)):
        return None
    currency, previous = "", None
    while previous != text:
        previous = text
        text = _NEGATIVE.sub("-", text, count=1) if _NEGATIVE.match(text) else text
        sign = text[:1] if text[:1] in "-+" else ""
        rest = text[len(sign) :].lstrip()
        if match := _CURRENCY.match(rest):
            currency, rest = match[1] or currency, rest[match.end() :]
        text = sign + rest
    text = re.sub(r"%| ?\bper ?cent\b", "", text).rstrip("$ ")
    text = _FRACTION.sub(r" \1/\2", _TIMES_TEN.sub(r"e\1\2", text, count=1), count=1).strip()
    while len(text) > 2 and text[0] == "{" and text[-1] == "}":
        text = text[1:-1].strip()
    if (value := _spoken(text.lstrip("-"))) is not None:
        return Quantity(value=-value if text[0] == "-" else value, unit=currency)
    leading = _RATIONAL.match(text)
    value = _rational(leading) if leading is not None else None
    if leading is None or value is None:
        return None
    rest = text[leading.end() :]
    while scale := _SCALE.match(rest):
        value, rest = value * _SCALES[scale[1]], rest[scale.end() :]
    unit = rest.strip()
    if unit and not _is_unit(unit, attached=rest[0].isalpha()):
        return _compound(value, unit)
    return Quantity(value=value, unit=unit or currency)


def _compound(value: Fraction, rest: str) -> Quantity | None:
    if (match := re.fullmatch(r"([A-Za-z]+)(?:,| and|, and)? (\d.*)", rest)) and (less := quantity(match[2])):
        one, other = unit_measure(match[1]), unit_measure(less.unit)
        if one and other and one[0] == other[0] and other[1] < one[1]:
            return Quantity(value=value + less.value * other[1] / one[1], unit=match[1])
    return None


def is_product(text: str) -> bool:
    """Whether a text is a number and a letter that touches it: in a reference a product, whatever unit it could be."""
    return re.fullmatch(r"[-+]?[\d.,]+[A-Za-z]", text.strip("$ .")) is not None


def _is_unit(text: str, attached: bool) -> bool:
    if not _UNIT.fullmatch(text):
        return False
    if unit_measure(text) is not None:
        return True
    words = [] if "\\" in text else re.findall(r"[A-Za-zμ]+", text)
    if attached:
        return len(words) > 0 and words[0] in _ORDINALS and all(len(word) > 2 for word in words[1:])
    return bool(words) and all(
        word in _LETTER_UNITS
        or word in _SMALL_WORDS
        or (word.lower() not in _NO_UNITS and (len(word) > 2 or word in _UNITS))
        for word in words
    )


def _spoken(text: str) -> Fraction | None:
    if match := _REPEATING.fullmatch(text):
        whole, once, again = match[1] or "0", match[2], match[3]
        return (int(whole + once) + Fraction(int(again), 10 ** len(again) - 1)) / Fraction(10 ** len(once))
    value, whole_text = _in_words(text) if _WORDS_ONLY.fullmatch(text) else (None, False)
    return Fraction(value) if value is not None and whole_text else None


def _rational(match: re.Match[str]) -> Fraction | None:
    try:
        parts = (re.sub("[, ']", "", part or "1").rstrip(".") for part in match.group(3, 4))
        above, below = (Fraction(part.replace(".", "") if part.count(".") > 1 else part) for part in parts)
        return (-1 if match[1] == "-" else 1) * (int(match[2] or 0) + above / below) if match[3] else None
    except (ValueError, ZeroDivisionError):
        return None


def radix(text: str) -> tuple[str, int] | None:
    """Digits and base of a number that says its base (`101_2`), None for anything else or digits that base lacks."""
    if (match := _RADIX.fullmatch(text)) is None:
        return None
    base = _RADIX_WORDS.get(match[2]) or int(match[2])
    known = 2 <= base <= 36 and all(int(digit, 36) < base for digit in match[1])
    return (match[1].upper(), base) if known else None


def number_text(text: str) -> str | None:
    """A number in its shortest exact form (`1,200.50 dollars` is `2401/2`), None where the text is not one."""
    value = number(text)
    return None if value is None else str(value)


_NUMBER_WORDS = {word: value for value, word in enumerate(VOCABULARY["words"]["numbers"].split())} | {
    word: 10 * tens for tens, word in enumerate(VOCABULARY["words"]["tens"].split(), 2)
}


def number_word(text: str) -> str | None:
    """The number that a text begins with in words (`three apples` is `3`), below a million; else None."""
    value, _ = _in_words(text)
    return None if value is None else str(value)


def _in_words(text: str) -> tuple[int | None, bool]:
    words = re.findall(r"[a-z]+", clean(text).lower()[:80])
    large = rest = used = 0
    for word in words:
        if word in _NUMBER_WORDS:
            rest += _NUMBER_WORDS[word]
        elif word == "hundred":
            rest = 100 * max(rest, 1)
        elif word in _SCALES:
            large, rest = large + _SCALES[word] * max(rest, 1), 0
        elif word != "and" or not used:
            break
        used += 1
    known = used > 0 and any(word in _NUMBER_WORDS for word in words[:used])
    return (large + rest if known else None), used == len(words)


_COMMAND = re.compile(r"\\(?:begin|end)\{[a-z]+\*?\}(?:\{[clr|]+\})?|\\[A-Za-z]+")
_WORD = re.compile(r"[^\W\d_]{2,}")


def is_prose(text: str) -> bool:
    """Whether a text is a sentence rather than an expression, a number with its unit or a short name."""
    return len(words_of(text)) > 4


_HEDGE = re.compile(
    rf"\b(?:{VOCABULARY['words']['hedges']})\b|n't\b"
    r"|\\(?:pm|mp|ge|le|geq|leq|ne|neq|lt|gt)\b|[<>≥≤]|\d ?[+](?=\W*$)|\d ?- ?\d+$",
    re.IGNORECASE,
)


def is_hedged(text: str) -> bool:
    """Whether a text names more than one value, or a bound or a condition with it."""
    return bool(_HEDGE.search(text))


def words_of(text: str) -> list[str]:
    """The words of two and more letters that are no LaTeX commands."""
    return _WORD.findall(_COMMAND.sub(" ", text))
