"""Whether two answers are the same: exactly for plain numbers and texts, by sympy for formulas.
By what it means only where all of an answer was read; else it is the same as a text, or nobody knows (None). The cheap
part is bounded in time; `expressions_equal` is not: `grading.pool` runs it in a process that can be killed."""

import re
import unicodedata
from collections.abc import Iterable
from fractions import Fraction
from typing import Any

from thinkscale.grading.expressions import UnreadError, read, spelled
from thinkscale.grading.forms import SIGN, TURNED, Form, is_name, split, structure
from thinkscale.grading.notation import (
    VOCABULARY,
    Quantity,
    clean,
    is_hedged,
    is_product,
    quantity,
    radix,
    unit_measure,
    words_of,
)  # fmt: skip

RELATIVE_TOLERANCE = 2e-6  # how far a decimal may be from the reference it rounds
DIGITS, MOST_DIGITS = 30, 120  # of formulas, and of their difference where it is small: two thirds must be 0


def texts_equal(reference: str, answer: str) -> bool:
    """Normalised exact match: Unicode form, case, white space and outer punctuation do not count."""
    return _folded_text(reference) == _folded_text(answer)


_LOOSE = re.compile(r" ?([,;:=()\[\]{}|]) ?")
_DATE = re.compile(
    r"(?:the )?(?:(\d\d?)(?:st|nd|rd|th)?(?: of)? ([a-z]{3,9})|([a-z]{3,9}) (\d\d?)(?:st|nd|rd|th)?),? ?(?=\d{4}$|$)"
)
_ARTICLE = re.compile(r"(?:the|a|an|it is|it's) (?=\S\S)")
_TIME = re.compile(r"(\d{1,2}(?::(?!00)\d\d)?)(?::00)? ?([ap])\.? ?m\b\.?")
_CLOCK = re.compile(rf"{_TIME.pattern}|\d{{4}}-\d\d-\d\d")


def _folded_text(text: str) -> str:
    text = " ".join(unicodedata.normalize("NFKC", clean(text)).casefold().split())
    text = _LOOSE.sub(r"\1", _TIME.sub(r"\1 \2m", text)).strip(" .,;:!?'\"()[]{}")
    text = _DATE.sub(lambda m: f"{m[2] or m[3]} {m[1] or m[4]} ", text).strip()
    return _ARTICLE.sub("", text, count=1) if _ARTICLE.match(text) else text


_PHRASE = {_folded_text(phrase): name for name, phrases in VOCABULARY["phrases"].items() for phrase in phrases}
_DECIMAL_COMMA = re.compile(r"[-+]?\d+,\d+", re.ASCII)
_DEGREE = re.compile(r"°|\\circ|\\degree")
_OPTION = re.compile(r"yes|no|true|false|\([a-z]\)")
_WORDS = re.compile(r"[^\W\d_](?:[^\W\d_]|['’ .-])*[^\W\d_]\.?|\([A-Za-z]\)")
_SPELT = re.compile(r"[^\W\d_]{4}|[A-Z]{3}")  # no product
_TEXT_COMMAND = re.compile(r"\\(?:text|mbox|textbf|textit|textrm|operatorname)(?![a-z])")


def plainly_equal(reference: str, answer: str) -> bool | None:
    """Whether two mathematical answers are equal where that shows at once, None where it takes algebra."""
    left, right = quantity(reference), quantity(answer)
    plain, said = clean(reference), clean(answer)
    left = None if left is not None and is_product(plain) and not _DEGREE.search(reference) else left
    if left is not None and right is None and "=" not in plain:
        name, sign, value = said.partition("=")  # what a name is said to be, as in `m = 20 grams`
        right = quantity(value) if sign and is_name(name) else None
    if left is not None and right is not None:
        return _quantities_equal(left, right, reference, answer)
    known = _PHRASE.get(_folded_text(reference))
    if _compact(plain) == _compact(said) or (known is not None and known == _PHRASE.get(_folded_text(answer))):
        return True
    if _OPTION.fullmatch(plain.lower()):
        first = re.match(r"\(?[A-Za-z]+\)?", said)
        is_open = re.search(r"\b(?:and|or|maybe)\b", said) is not None
        return first is not None and not is_open and first[0].strip("()").lower() == plain.strip("()").lower()
    same = bool(words_of(plain)) and texts_equal(reference, answer)
    both_words = known is None and _WORDS.fullmatch(plain) and _WORDS.fullmatch(said)
    if same or (both_words and (_TEXT_COMMAND.search(reference) or _SPELT.search(plain))):
        return same
    if _CLOCK.fullmatch(plain.lower()) and _CLOCK.fullmatch(said.lower()):
        return texts_equal(reference, answer)
    for one, other in ((plain, said), (said, plain)):
        if "." in one and "," not in one and _DECIMAL_COMMA.fullmatch(other):
            return one == other.replace(",", ".")
    return None


def _quantities_equal(left: Quantity, right: Quantity, reference: str, answer: str) -> bool | None:
    """By value and, where both say it, unit; other words for what is counted are for a judge."""
    unlike = "%" in reference and bool(right.unit) and not re.search("%|percent", answer)
    scales = [] if "%" in answer and abs(left.value) < 1 else [Fraction(1)]
    unit = left.unit or ("deg" if _DEGREE.search(reference) else "")
    if ("%" in reference) != ("%" in answer):
        scales.append(Fraction(1, 100) if "%" in answer else Fraction(100))
    if unit and right.unit:
        one, other = unit_measure(unit), unit_measure(right.unit)
        if one is None or other is None:
            words = [{word.lower().removesuffix("s") for word in words_of(each)} for each in (unit, right.unit)]
            unlike = not words[0] & words[1]
        elif "unit" not in one[0] + other[0]:
            if one[0] != other[0]:
                return False
            scales = [other[1] / one[1]]
    off = Fraction(RELATIVE_TOLERANCE) * abs(left.value) if "." in reference or "." in answer else 0
    equal = any(abs(left.value - scale * right.value) <= off for scale in scales)
    return None if equal and unlike else equal


_MODULUS = re.compile(r"\(? ?\\?[pb]?mod ?\{? ?(\w+) ?\}?\)?")


def _compact(text: str) -> str:
    text = _MODULUS.sub(r"\\pmod\1", spelled(text))
    return re.sub(r"(?<![A-Za-z0-9]) | (?![A-Za-z0-9])|(?<=[0-9]) (?=[A-Za-z])", "", text)


def nesting(text: str) -> int:
    """How many brackets are open at once, closed or not."""
    depth = deepest = 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        deepest = max(deepest, depth)
    return deepest


def expressions_equal(reference: str, answer: str) -> bool | None:
    """Whether two formulas, lists, sets, intervals, matrices or equations are equal; None where one was not all read.
    Lists and sets compare in any order, tuples, vectors and intervals in theirs, each item by itself. May run for ever
    and take any amount of memory on hostile text."""
    left, right = _spelled(reference), _spelled(answer)
    one, other = radix(left), radix(right)
    if one is not None:
        return right.upper() == one[0] if other is None else int(*one) == int(*other)
    right = right if other is None else str(int(*other))
    value, said = quantity(left), quantity(right)
    if value and said and said.unit and (value.unit or "%" in left):
        return plainly_equal(left, right)
    left, unit = _without_unit(left, "")
    right, other_unit = _without_unit(right, left)
    if value is not None and value.unit and not is_product(left):
        left, unit = str(value.value), None
    if unit and other_unit and unit != other_unit:
        return False if unit[0] != other_unit[0] else None
    if re.search(r"\+ ?C$", left):
        right = _CONSTANT.sub("+ C", right)
    equal = _equal(left, right)
    # Whatever else a hedge says, it does not say this number.
    return False if equal is None and value is not None and is_hedged(right) else equal


_FORMS = [(re.compile(pattern), form) for pattern, form in VOCABULARY["forms"].items()]
_ROWS = re.compile(r"\[ ?\[[^\[\]]*\](?: ?, ?\[[^\[\]]*\])* ?\]")
_CONSTANT = re.compile(r"\+ ?[cKk]$")
_UNIT_AFTER = re.compile(
    r"(?<=[\d})i]) [(\[]? ?((?:square |cubic |sq\.? )?[A-Za-z]+(?:[ /][A-Za-z]+){0,3} ?(?:\^ ?\{? ?[23] ?\}?)?)"
    r" ?[)\]]?$"
)


def _spelled(text: str) -> str:
    text = clean(text)
    if (phrase := _PHRASE.get(_folded_text(text))) is not None:
        return str(phrase)
    for one, other in VOCABULARY["synonyms"].items():
        text = text.replace(one, other)
    value, about, rounded = text.partition("\\approx")
    if about:
        text = f"{value}={rounded}" if is_name(value) else value or rounded
    if SIGN.search(text):
        text = text.replace("\\lor", "or").replace("\\vee", "or")
    if _ROWS.fullmatch(text):
        text = re.sub(r"\] ?, ?\[", r"\\\\", text.strip("[ ]")).replace(",", "&")
        return f"\\begin{{matrix}}{text}\\end{{matrix}}"
    for pattern, form in _FORMS:
        text = match.expand(form) if (match := pattern.fullmatch(text)) else text
    return text


def _without_unit(text: str, other: str) -> tuple[str, Any]:
    """What a known unit after a formula is taken off, and its measure; a letter of the other formula is none."""
    match = _UNIT_AFTER.search(text[-80:])
    known = match and (len(match[1]) > 1 or (other and match[1] in "mgsh" and match[1] not in other))
    measure = unit_measure(match[1]) if match and known else None
    return (text, None) if match is None or measure is None else (text[: len(text) - len(match[0])], measure)


def _all(results: Iterable[bool | None]) -> bool | None:
    known = [*results]
    return False if False in known else None if None in known else True


def _equal(left: str | Form, right: str | Form) -> bool | None:
    if isinstance(left, str) and isinstance(right, str) and (plain := plainly_equal(left, right)) is not None:
        return plain
    try:
        one, other = (piece if isinstance(piece, Form) else structure(piece) for piece in (left, right))
        return _forms_equal(one, other)
    except UnreadError:
        return None


def _forms_equal(one: Form, other: Form) -> bool | None:
    if "relation" in (one.kind, other.kind):
        one, other = (_as_relation(form) for form in (one, other))
    if one.kind == other.kind == "relation":
        return _relations_equal(one, other)
    if one.names:
        return _equal(one.items[-1], other.text)
    if other.kind == "relation" and {*other.signs} == {"="}:  # `x = 3 + 4 = 7`: all of it is said
        *sides, last = other.items
        return _all(is_name(str(side), sums=True) or _equal(one.text, side) for side in sides) and _equal(
            one.text, last
        )
    if one.kind == other.kind == "value":
        try:
            return _values_equal(read(one.text), read(other.text), "." in one.text + other.text)
        except UnreadError:
            return _ratios_equal(one.text, other.text)
    if one.kind == "value" and other.kind == "" and all(_equal(one.text, item) for item in other.items):
        return True  # one value said twice
    kinds, count = {one.kind, other.kind}, len(one.items)
    alike = kinds <= {"", "<>", "()", "[]"} and (kinds & {"", "<>"} or count > 2)
    comparable = len(kinds) == 1 or kinds == {"", "{}"} or alike
    if not comparable or count != len(other.items) or (one.name and other.name and one.name != other.name):
        dots = any("\\ldots" in leaf for form in (one, other) for leaf in form.leaves())
        return None if dots else _unlike(one, other)
    if kinds <= {"", "{}", "cup"} and "\\ldots" not in one.items:
        return _matched(one.items, other.items)
    return _all(map(_equal, one.items, other.items))


def _as_relation(form: Form) -> Form:
    sides, signs = split(form.text, SIGN.pattern) if form.name and "{" not in form.text[:2] else ([], [])
    return Form("relation", form.text, tuple(sides), tuple(signs)) if signs else form


def _unlike(*forms: Form) -> bool | None:
    for leaf in (leaf for form in forms for leaf in form.leaves()):
        if quantity(leaf) is None and not _WORDS.fullmatch(leaf):
            form = structure(leaf)
            read(leaf) if form.kind == "value" else _unlike(form)  # raises UnreadError
    return False


def _matched(left: Iterable[str | Form], right: Iterable[str | Form]) -> bool | None:
    remaining, unknown = list(right), False
    for one in left:
        results = [_equal(one, other) for other in remaining]
        if True in results:
            remaining.pop(results.index(True))
        elif None in results:
            unknown = True
        else:
            return False
    return None if unknown else True


def _ratios_equal(left: str, right: str) -> bool | None:
    """`10:15` and the time `10:15`; a ratio is its quotient too."""
    parts = [re.fullmatch(r"\d+(?:\.\d+)?(?: ?: ?\d+(?:\.\d+)?){1,3}", text) for text in (left, right)]
    if all(parts):
        return [Fraction(part) for part in left.split(":")] == [Fraction(part) for part in right.split(":")]
    quotients = [text.replace(":", "/", 1) for text in (left, right)]
    return plainly_equal(*quotients) if any(parts) and all(map(quantity, quotients)) else None


def _relations_equal(left: Form, right: Form) -> bool | None:
    """Whether two equations or inequalities say the same: their differences of sides are multiples of each other."""
    import sympy

    turned = (right.items[::-1], tuple(TURNED[sign] for sign in right.signs[::-1]))
    for sides, signs in ((right.items, right.signs), turned):
        if (
            signs == left.signs
            and _all(map(_equal, left.items, sides))
            and (len(signs) > 1 or left.names or any(read(leaf).free_symbols for leaf in left.leaves()))
        ):
            return True
    if left.names and right.names and _named(left) == _named(right):
        return _equal(left.items[-1], right.items[-1])
    if len(left.items) != 2 or len(right.items) != 2:
        return _unlike(left, right)
    (a, b), (c, d) = (map(read, map(str, side.items)) for side in (left, right))
    one, other = sympy.together(a - b), sympy.together(c - d)
    is_equation = left.signs[0] in ("=", "\\ne")
    if is_equation:
        one, other = sympy.fraction(one)[0], sympy.fraction(other)[0]
    if not (one.free_symbols and other.free_symbols):  # true or false: it is the sides that were asked for
        same = _all([left.signs == right.signs, _values_equal(a, c, False), _values_equal(b, d, False)])
        return None if same else same
    ratio = sympy.simplify(one / other)
    if ratio.free_symbols or ratio == 0:
        return False
    return left.signs == (right.signs if is_equation or ratio.is_positive else turned[1])


def _named(relation: Form) -> str:
    return _compact(str(relation.items[0])).replace("f(x)", "y")


def _values_equal(left: Any, right: Any, is_decimal: bool) -> bool | None:
    """Whether two expressions are equal: by their digits, or at points where both are defined."""
    import sympy

    left, right = left.doit(), right.doit()
    symbols = sorted(left.free_symbols | right.free_symbols, key=str)
    exact = left.is_Rational and right.is_Rational and not is_decimal
    if left == right or exact or (not symbols and sympy.oo in (abs(left), abs(right))):
        return bool(left == right)
    agreed = 0
    for turn in range(1, 9 if symbols else 2):
        # Points that no formula has in mind: positive ones, then of either sign.
        point = [
            sympy.Rational(1009 * turn + 577 * at + 13 * turn * at + 211, 991 * (1 + turn % 2))
            * (-1 if turn > 4 and (at + turn) % 2 else 1)
            for at in range(len(symbols))
        ]
        values = dict(zip(symbols, point, strict=True))
        sides = (left, right, left - right)
        one, other, apart = (sympy.N(side.subs(values), DIGITS, maxn=MOST_DIGITS) for side in sides)
        if not all(side.is_number and side.is_finite for side in (one, other)):
            continue
        if any(value < 0 for value in point) and not (one.is_real and other.is_real):
            continue  # powers and logarithms have several branches there
        off, size = abs(apart), max(abs(one), abs(other))
        if off <= sympy.Float(10) ** (-MOST_DIGITS * 2 // 3) * size:
            agreed += 1
        elif is_decimal and off <= RELATIVE_TOLERANCE * size and not symbols:
            return True
        else:  # what is exactly 0 has no digits
            return min(abs(one), abs(other)) < 10.0 ** (-DIGITS / 2) * max(size, 1) and _simplified(left, right)
    return True if agreed >= (3 if symbols else 1) else _simplified(left, right) or None


def _simplified(left: Any, right: Any) -> bool:
    import sympy

    return bool(sympy.simplify(left - right).is_zero)
