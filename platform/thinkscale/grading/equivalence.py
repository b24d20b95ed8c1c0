"""Whether two answers are the same: exactly for plain numbers and texts, by sympy for formulas.

Owns the comparison. An answer is compared by what it means only where all of it was read; else it is the same as a
text, or nobody knows (None). The cheap part is bounded in time; `expressions_equal` is not, and untrusted text may
keep it busy for ever: `grading.pool` runs it in a process that can be killed.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from typing import Any

from thinkscale.grading.expressions import Unread, read, spelled
from thinkscale.grading.notation import Quantity, clean, is_hedged, is_product, quantity, radix, unit_measure, words_of

RELATIVE_TOLERANCE = 2e-6
"""How far a decimal may be from the reference it rounds."""
DIGITS = 30
"""Two formulas without variables are equal where so many digits are, less a third for rounding."""
MOST_ITEMS = 200
"""Of a list that is compared item by item."""


def texts_equal(reference: str, answer: str) -> bool:
    """Normalised exact match: Unicode form, case, white space and outer punctuation do not count."""
    return _folded_text(reference) == _folded_text(answer)


_LOOSE = re.compile(r" ?([,;:()\[\]{}|]) ?")
_ARTICLE = re.compile(r"(?:the|a|an|it is|it's) (?=\S\S)")
_TIME = re.compile(r"(\d{1,2}(?::\d\d)?) ?([ap])\.? ?m\b\.?")


def _folded_text(text: str) -> str:
    text = " ".join(unicodedata.normalize("NFKC", clean(text)).casefold().split())
    text = _LOOSE.sub(r"\1", _TIME.sub(r"\1 \2m", text)).strip(" .,;:!?'\"()[]{}")
    return _ARTICLE.sub("", text, count=1) if _ARTICLE.match(text) else text


_PHRASES = {
    "dne": ("dne", "d.n.e", "does not exist", "doesn't exist", "limit does not exist", "limit doesn't exist", "no limit exists"),
    "\\emptyset": ("no solution", "no solutions", "no real solution", "no real solutions", "there is no solution", "none",
                   "there are no solutions", "no solution exists", "empty set", "\\emptyset", "\\varnothing", "\\{\\}", "{}"),
    "(-\\infty,\\infty)": ("all real numbers", "all reals", "set of all real numbers", "set of all reals", "every real number",
                           "\\mathbb{r}", "\\mathbb r", "any real number", "all real values", "x\\in\\mathbb{r}"),
    "infinitely many": ("infinitely many", "infinitely many solutions", "infinite number of solutions", "infinite solutions"),
    "\\infty": ("infinity", "positive infinity", "+\\infty", "\\infty", "diverges to infinity"),
    "-\\infty": ("negative infinity", "minus infinity", "-\\infty", "-infinity"),
}  # fmt: skip
_PHRASE = {_folded_text(phrase): name for name, phrases in _PHRASES.items() for phrase in phrases}
_DECIMAL_COMMA = re.compile(r"[-+]?\d+,\d+", re.ASCII)
_ONE_WORD = ("yes", "no", "true", "false")
_OPTION = re.compile(r"\([A-Z]\)")
_WORDS = re.compile(r"[^\W\d_](?:[^\W\d_]|['’ .-])*[^\W\d_]\.?|\([A-Za-z]\)")
_TEXT_COMMAND = re.compile(r"\\(?:text|mbox|textbf|textit|textrm|operatorname)(?![a-z])")


def plainly_equal(reference: str, answer: str) -> bool | None:
    """Whether two mathematical answers are equal where that shows at once, None where it takes algebra."""
    left, right = quantity(reference), quantity(answer)
    plain_reference, plain_answer = clean(reference), clean(answer)
    if left is not None and is_product(plain_reference):
        left = None
    if left is not None and right is None and "=" not in plain_reference:
        right = _assigned(plain_answer)
    if left is not None and right is not None:
        return _quantities_equal(left, right, reference, answer)
    if _compact(plain_reference) == _compact(plain_answer):
        return True
    known = _PHRASE.get(_folded_text(reference))
    if known is not None and known == _PHRASE.get(_folded_text(answer)):
        return True
    if plain_reference.lower() in _ONE_WORD or _OPTION.fullmatch(plain_reference):
        first = re.match(r"\(?[A-Za-z]+\)?", plain_answer)
        return first is not None and first[0].strip("()").lower() == plain_reference.strip("()").lower()
    if _is_words(reference, plain_reference) and (texts_equal(reference, answer) or _WORDS.fullmatch(plain_answer)):
        return texts_equal(reference, answer)
    if words_of(plain_reference) and texts_equal(reference, answer):
        return True
    times = [_TIME.fullmatch(text.lower()) for text in (plain_reference, plain_answer)]
    if all(times):
        return texts_equal(reference, answer)
    for one, other in ((plain_reference, plain_answer), (plain_answer, plain_reference)):
        if "." in one and "," not in one and _DECIMAL_COMMA.fullmatch(other):
            return one == other.replace(",", ".")
    return None


def _is_words(text: str, plain: str) -> bool:
    """Whether a text means what its words say, and its letters are no variables."""
    if not _WORDS.fullmatch(plain) or _folded_text(text) in _PHRASE:
        return False
    return bool(_TEXT_COMMAND.search(text)) or any(len(word) > 3 for word in words_of(plain))


def _assigned(text: str) -> Quantity | None:
    """What a name is said to be, as in `AB = 5` and `m = 20 grams`."""
    name, sign, value = text.partition("=")
    return quantity(value) if sign and _is_name(name) else None


_NAME = re.compile(r" ?(?:\\?[A-Za-z]+'* ?(?:_ ?(?:\w|\{[^{}]*\}))? ?(?:\([^()=]*\) ?)?){1,6}")
_POINT = re.compile(r" ?\((?:[A-Za-z](?:_\{?\w+\}?)?,? ?)+\) ?")


def _is_name(text: str) -> bool:
    """Whether a side of an equation only names what the other is: `x`, `f(x)`, `AB`, `Area`, `(x, y)`."""
    return bool(_NAME.fullmatch(text) or _POINT.fullmatch(text)) and len(text) <= 60


def _quantities_equal(left: Quantity, right: Quantity, reference: str, answer: str) -> bool | None:
    """By value and, where both say it, unit; other words for what is counted are for a judge."""
    scales = [Fraction(1)]
    if ("%" in reference) != ("%" in answer):
        scales.append(Fraction(1, 100) if "%" in answer else Fraction(100))
    unlike = False
    if left.unit and right.unit:
        one, other = unit_measure(left.unit), unit_measure(right.unit)
        if one is not None and other is not None:
            if "unit" not in one[0] + other[0]:
                if {**one[0]} != {**other[0]}:
                    return False
                scales = [other[1] / one[1]]
        else:
            unlike = not _unit_words(left.unit) & _unit_words(right.unit)
    is_decimal = "." in reference or "." in answer
    equal = any(
        left.value == scale * right.value or (is_decimal and _close(left.value, scale * right.value))
        for scale in scales
    )
    return None if equal and unlike else equal


def _unit_words(unit: str) -> set[str]:
    return {word.lower().removesuffix("s") for word in re.findall(r"[A-Za-z]+", unit)}


def _close(left: Fraction, right: Fraction) -> bool:
    return abs(left - right) <= Fraction(RELATIVE_TOLERANCE) * abs(left)


def _compact(text: str) -> str:
    """Without the blanks that part no two numbers and no two letters."""
    text = _MODULUS.sub(r"\\pmod\1", spelled(text))
    return re.sub(r"(?<![A-Za-z0-9]) | (?![A-Za-z0-9])|(?<=[0-9]) (?=[A-Za-z])", "", text)


_MODULUS = re.compile(r"\(? ?\\?[pb]?mod ?\{? ?(\w+) ?\}?\)?")


def nesting(text: str) -> int:
    """How many brackets are open at once, closed or not."""
    depth = deepest = 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        deepest = max(deepest, depth)
    return deepest


_SYNONYMS = (
    ("\\varnothing", "\\emptyset"), ("\\infinity", "\\infty"), ("\\leqslant", "\\le "), ("\\geqslant", "\\ge "), ("\\leq", "\\le"),
    ("\\geq", "\\ge"), ("<=", "\\le "), (">=", "\\ge "), ("\\lt", "<"), ("\\gt", ">"), ("\\neq", "\\ne "), ("!=", "\\ne "),
    ("\\mathbb R", "\\mathbb{R}"), ("\\lbrace", "\\{"), ("\\rbrace", "\\}"), ("\\mid", "|"), ("\\dots", "\\ldots"),
    ("\\cdots", "\\ldots"), ("...", "\\ldots "),
)  # fmt: skip
_RATIO = re.compile(r"(\d+) (?:to|:) (\d+)", re.ASCII)
_MEMBER = re.compile(r"(?:\(?[A-Za-z](?: ?, ?[A-Za-z])*\)?) ?\\in ?")


def expressions_equal(reference: str, answer: str) -> bool | None:
    """Whether two formulas, lists, sets, intervals, matrices or equations are equal; None where one was not all read.

    Lists and sets compare in any order, tuples, vectors and intervals in theirs, each item by itself. May run for ever
    and take any amount of memory on hostile text.
    """
    left, right = _spelled(reference), _spelled(answer)
    if (found := radix(left)) is not None:
        digits, base = found
        other = radix(right)
        return right.upper() == digits if other is None else int(digits, base) == int(*other)
    if (found := radix(right)) is not None:
        right = str(int(*found))
    value = quantity(left)
    left, unit = (
        (str(value.value), None) if value is not None and value.unit and not is_product(left) else _without_unit(left)
    )
    right, other_unit = _without_unit(right)
    if unit and other_unit and unit != other_unit:
        return False if unit[0] != other_unit[0] else None
    equal = _equal(left, right)
    if equal is None and value is not None and is_hedged(right):
        return False  # whatever else it says, it does not say this number
    return equal


def _spelled(text: str) -> str:
    """A cleaned text with one spelling of what has several."""
    text = clean(text)
    if (phrase := _PHRASE.get(_folded_text(text))) is not None:
        return phrase
    for one, other in _SYNONYMS:
        text = text.replace(one, other)
    text = text.replace("\\lldots", "\\ldots")
    if match := _RATIO.fullmatch(text):
        text = f"{match[1]}:{match[2]}"
    if _SIGN.search(text):
        text = text.replace("\\lor", "or").replace("\\vee", "or")
    return _MEMBER.sub("", text, count=1) if _MEMBER.match(text) else text


_UNIT_AFTER = re.compile(
    r"(?<=[\d})i]) ((?:square |cubic |sq\.? )?[A-Za-z]{2,}(?:[ /][A-Za-z]+){0,3} ?(?:\^ ?\{? ?[23] ?\}?)?)$"
)


def _without_unit(text: str) -> tuple[str, Any]:
    """What a known unit after a formula is taken off, and its measure."""
    match = _UNIT_AFTER.search(text[-80:])
    measure = unit_measure(match[1]) if match else None
    return (text, None) if match is None or measure is None else (text[: len(text) - len(match[0])], measure)


def _all(results: Iterable[bool | None]) -> bool | None:
    """False where one is, None where one is not known, else True."""
    known: bool | None = True
    for result in results:
        if result is False:
            return False
        known = None if result is None else known
    return known


def _equal(left: str, right: str) -> bool | None:
    """Two pieces of cleaned text."""
    plain = plainly_equal(left, right)
    if plain is not None:
        return plain
    try:
        one, other = _structure(left), _structure(right)
    except Unread:
        return None
    return one.equals(other)


@dataclass(frozen=True, slots=True)
class _Value:
    """Anything that is no other form."""

    text: str

    def equals(self, other: Any) -> bool | None:
        if isinstance(other, _Relation):  # the reference is a value: an equation says which
            return _all([*(_is_name(side) or _equal(self.text, side) for side in other.sides[:-1]), _equal(self.text, other.sides[-1])]
                        ) if other.is_chain else _unequal(self.text)  # fmt: skip
        if not isinstance(other, _Value):
            if (
                isinstance(other, _Listing)
                and not other.brackets
                and all(_equal(self.text, item) for item in other.items)
            ):
                return True  # one value said twice
            return other.equals(self) if isinstance(other, _Matrix | _Union) else _unequal(self.text, *other.values())
        try:
            return _values_equal(read(self.text), read(other.text), "." in self.text + other.text)
        except Unread:
            return _ratios_equal(self.text, other.text)

    def values(self) -> Iterator[str]:
        yield self.text


def _unequal(*texts: str) -> bool | None:
    """False for forms that cannot be equal, if only they were read."""
    try:
        for text in texts:
            _structure(text) if "\\ldots" not in text else read(text)
    except Unread:
        return None
    return False


def _ratios_equal(left: str, right: str) -> bool | None:
    """`10:15` and the time `10:15`; a ratio is its quotient too."""
    parts = [re.fullmatch(r"(\d+(?:\.\d+)?)((?: ?: ?\d+(?:\.\d+)?){1,3})", text) for text in (left, right)]
    if all(parts):
        return [Fraction(part) for part in left.split(":")] == [Fraction(part) for part in right.split(":")]
    quotients = [text.replace(":", "/", 1) for text in (left, right)]
    if any(part is not None and part[2].count(":") == 1 for part in parts) and all(
        quantity(text) for text in quotients
    ):
        return plainly_equal(*quotients)
    return None


@dataclass(frozen=True, slots=True)
class _Relation:
    """Sides with signs between them."""

    text: str
    sides: list[str]
    signs: list[str]

    @property
    def is_chain(self) -> bool:
        return set(self.signs) == {"="}

    def values(self) -> Iterator[str]:
        yield from self.sides

    def equals(self, other: Any) -> bool | None:
        if not isinstance(other, _Relation):
            if self.is_chain and _is_name(self.sides[0]):
                return _equal(self.sides[-1], other.text)
            if (interval := self.interval()) is not None:
                return interval.equals(other)
            return _unequal(*self.sides, *other.values())
        mine, theirs = self.interval(), other.interval()
        if mine is not None and theirs is not None:
            return mine.equals(theirs) if self.variable() == other.variable() else False
        if self.is_chain and other.is_chain:
            if _is_name(self.sides[0]) and _is_name(other.sides[0]):
                same = _compact(self.sides[0]) == _compact(other.sides[0])
                value = _equal(self.sides[-1], other.sides[-1])
                if same or value is not True:
                    return value if same else _equations_equal(self, other)
            return _equations_equal(self, other)
        if len(self.sides) == len(other.sides) == 2:
            return _equations_equal(self, other)
        pairs = [_all(map(_equal, self.sides, sides)) if signs == self.signs else False for sides, signs in (
            (other.sides, other.signs), (other.sides[::-1], [_TURNED.get(sign, sign) for sign in other.signs[::-1]])
        ) if len(sides) == len(self.sides)]  # fmt: skip
        return True if True in pairs else None if None in pairs else _unequal(*self.sides, *other.sides)

    def variable(self) -> str | None:
        return next((side.strip() for side in self.sides if re.fullmatch(r" ?\\?[A-Za-z]+ ?", side)), None)

    def interval(self) -> _Listing | None:
        """What `a < x \\le b` says of `x`."""
        sides, signs = self.sides, self.signs
        if signs and signs[0] in (">", "\\ge"):
            sides, signs = sides[::-1], [_TURNED[sign] for sign in signs[::-1] if sign in _TURNED]
        if not set(signs) <= {"<", "\\le"} or len(signs) != len(sides) - 1 or self.variable() is None:
            return None
        at = next(i for i, side in enumerate(sides) if side.strip() == self.variable())
        below, above = sides[:at], sides[at + 1 :]
        if len(below) > 1 or len(above) > 1:
            return None
        opening = "(" if not below or signs[0] == "<" else "["
        closing = ")" if not above or signs[-1] == "<" else "]"
        return _Listing(opening + closing, [below[0] if below else "-\\infty", above[0] if above else "\\infty"])


_TURNED = {"<": ">", ">": "<", "\\le": "\\ge", "\\ge": "\\le", "=": "=", "\\ne": "\\ne"}


@dataclass(frozen=True, slots=True)
class _Listing:
    """A list, tuple, interval, vector or set: what encloses it and its items."""

    brackets: str
    items: list[str]
    text: str = ""

    def values(self) -> Iterator[str]:
        yield from self.items

    def equals(self, other: Any) -> bool | None:
        if isinstance(other, _Matrix | _Union):
            return other.equals(self)
        if isinstance(other, _Relation):
            if other.is_chain and _is_name(other.sides[0]):
                return _equal(self.text, other.sides[-1])
            if (interval := other.interval()) is not None and self.brackets not in ("", "{}"):
                return self.equals(interval)
        if not isinstance(other, _Listing):
            return _unequal(*self.items, *other.values())
        if len(self.items) != len(other.items):
            return None if "\\ldots" in self.items + other.items else _unequal(*self.items, *other.items)
        dots = "\\ldots" in self.items + other.items
        kinds = {self.brackets, other.brackets}
        if kinds == {"", "{}"} or len(kinds) == 1 and kinds <= {"", "{}"}:
            return _all(map(_equal, self.items, other.items)) if dots else _matched(self.items, other.items)
        if kinds - {"", "<>"} and len(kinds - {"", "<>"}) > 1 and (len(self.items) == 2 or "{}" in kinds):
            return _unequal(*self.items, *other.items)  # an open interval is no closed one, a set no tuple
        if "{}" in kinds and "<>" in kinds:
            return False
        return _all(map(_equal, self.items, other.items))


def _matched(left: Sequence[str], right: Sequence[str]) -> bool | None:
    """Whether every item has its equal, in any order."""
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


@dataclass(frozen=True, slots=True)
class _Union:
    """Sets joined by \\cup, or inequalities by "or"."""

    text: str
    parts: list[Any]

    def values(self) -> Iterator[str]:
        for part in self.parts:
            yield from part.values()

    def equals(self, other: Any) -> bool | None:
        others = list(other.parts if isinstance(other, _Union) else [other])
        if len(others) != len(self.parts):
            return _unequal(*self.values(), *(other.values()))
        unknown = False
        for part in self.parts:
            results = [part.equals(one) for one in others]
            if True not in results:
                if None not in results:
                    return False
                unknown = True
                continue
            others.pop(results.index(True))
        return None if unknown else True


@dataclass(frozen=True, slots=True)
class _Matrix:
    """Rows of entries, or the cases of a function (value and condition)."""

    text: str
    rows: list[list[str]]
    cases: bool = False

    def values(self) -> Iterator[str]:
        for row in self.rows:
            yield from row

    def equals(self, other: Any) -> bool | None:
        if isinstance(other, _Listing):
            if other.brackets != "{}" and not self.cases and 1 in (len(self.rows), len(self.rows[0])):
                return _Listing("<>", list(self.values())).equals(_Listing("<>", other.items))
            return _unequal(*self.values(), *other.items)
        if isinstance(other, _Relation) and other.is_chain and _is_name(other.sides[0]):
            return _equal(self.text, other.sides[-1])
        if not isinstance(other, _Matrix) or self.cases != other.cases:
            return _unequal(*self.values(), *other.values())
        if [len(row) for row in self.rows] != [len(row) for row in other.rows]:
            return False
        if not self.cases:
            return _all(map(_equal, self.values(), other.values()))
        ordered = _all(map(_equal, self.values(), other.values()))
        if ordered is True:
            return True
        options = [[_all(map(_equal, one, two)) for two in other.rows] for one in self.rows]
        if all(True in row for row in options) and len(options) == len(other.rows):
            return True
        return None if any(None in row for row in options) or ordered is None else False


_ENVIRONMENT = re.compile(
    r"(?:\\\{|\(|\[)? ?\\begin\{([a-zA-Z]*)\*?\}(?:\{[clr| ]*\})?(.*?)\\end\{\1\*?\} ?(?:\\?[)\]}.])?", re.DOTALL
)
_MATRICES = ("matrix", "pmatrix", "bmatrix", "Bmatrix", "smallmatrix", "array", "cases", "dcases", "psmallmatrix")
_CONDITION = re.compile(r"^(?:,|if|for|when|where|\\textif| )+|(?:,|;|\.| )+$")


def _structure(text: str) -> _Value | _Relation | _Listing | _Union | _Matrix:
    """What kind of thing a text is. Raises Unread where its brackets do not match, or it is too much."""
    text = text.strip()
    if match := _ENVIRONMENT.fullmatch(text):
        if match[1] not in _MATRICES:
            raise Unread(text)
        rows = [[cell.strip() for cell in row.split("&")] for row in match[2].split("\\\\") if row.strip()]
        if match[1].endswith("cases"):
            rows = [[_CONDITION.sub("", cell.strip()).strip() for cell in row] for row in rows]
        if not rows or len(rows) * len(rows[0]) > MOST_ITEMS:
            raise Unread(text)
        return _Matrix(text, rows, match[1].endswith("cases"))
    parts, _ = _split(text, r"\\cup|(?<![A-Za-z\\])or(?![A-Za-z])")
    if len(parts) > 1:
        forms = [_structure(part) for part in parts]
        forms = [form.interval() or form if isinstance(form, _Relation) else form for form in forms]
        if all(isinstance(form, _Listing) for form in forms) and ("\\cup" in text or all(map(_is_interval, forms))):
            return _Union(text, forms)
    items, _ = _split(text, r"[,;]|(?<![A-Za-z\\])(?:and|or)(?![A-Za-z])")
    if len(items) > 1:
        return _listing("", items, text)
    sides, signs = _split(text, _SIGN.pattern)
    if signs:
        if not all(sides):
            raise Unread(text)
        return _Relation(text, sides, signs)
    for opening, closing, brackets in _BRACKETS:
        if text.startswith(opening) and text.endswith(closing) and len(text) > len(opening) + len(closing):
            inner = text[len(opening) : -len(closing)]
            if brackets == "{}" and (builder := _set_builder(inner)) is not None:
                return builder
            items = _split(inner, "[,;]")[0] if _balanced(inner) else []
            if len(items) > 1 or (brackets in ("{}", "<>") and items and opening != "{"):
                return _listing(brackets, items, text)
    if text.count("\\pm") + text.count("\\mp") == 1 and "\\pm" in text:
        return _listing("", [text.replace("\\pm", sign) for sign in ("+", "-")], text)
    return _Value(text)


_BRACKETS = (("\\{", "\\}", "{}"), ("{", "}", "{}"), ("\\langle", "\\rangle", "<>"), ("(", ")", "()"), ("(", "]", "(]"), ("[", ")", "[)"),
             ("[", "]", "[]"))  # fmt: skip
_SIGN = re.compile(r"\\le(?![a-z])|\\ge(?![a-z])|\\ne(?![a-z])|[=<>]")
_BUILDER = re.compile(r" ?(\(?[A-Za-z]\)?)(?: ?\\in ?\\mathbb\{R\})? ?[|:] ?(.*)")


def _is_interval(form: Any) -> bool:
    return (
        isinstance(form, _Listing)
        and form.brackets in ("()", "(]", "[)", "[]")
        and len(form.items) == 2
        and not form.text
    )


def _listing(brackets: str, items: list[str], text: str) -> _Listing:
    """Items of a list, each that holds one \\pm as two."""
    items = [item for item in items if item]
    if len(items) > MOST_ITEMS:
        raise Unread(text)
    if brackets in ("", "{}"):
        items = [
            item.replace("\\pm", sign) for item in items for sign in (("+", "-") if item.count("\\pm") == 1 else ("",))
        ]
    return _Listing(brackets, items, text)


def _set_builder(inner: str) -> _Listing | None:
    """`x \\mid 1 < x < 3` as the interval that it is."""
    match = _BUILDER.fullmatch(inner)
    form = _structure(match[2]) if match else None
    return form.interval() if isinstance(form, _Relation) and form.variable() == (match and match[1]) else None


def _balanced(text: str) -> bool:
    depth = 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        if depth < 0:
            return False
    return depth == 0


_NESTING = r"\\[()\[\]{}]|\\(?:langle|rangle|begin|end)(?![a-z])|[(\[{]|[)\]}]"


def _split(text: str, separator: str) -> tuple[list[str], list[str]]:
    """The parts between separators outside all brackets, and those. Raises Unread where the brackets do not match."""
    parts, found, depth, start = [], [], 0, 0
    for match in re.finditer(f"{_NESTING}|{separator}", text):
        token = match[0].removeprefix("\\")
        if token in ("(", "[", "{", "langle", "begin"):
            depth += 1
        elif token in (")", "]", "}", "rangle", "end"):
            depth -= 1
            if depth < 0:
                raise Unread(text)
        elif depth == 0:
            parts.append(text[start : match.start()].strip())
            found.append(match[0])
            start = match.end()
    if depth:
        raise Unread(text)
    return [*parts, text[start:].strip()], found


def _values_equal(left: Any, right: Any, is_decimal: bool) -> bool | None:
    """Whether two expressions are equal: by their digits, or at points where both are defined."""
    import sympy

    left, right = left.doit(), right.doit()
    if left == right:
        return True
    symbols = sorted(left.free_symbols | right.free_symbols, key=str)
    if not symbols:
        return _numbers_equal(left, right, is_decimal)
    agreed = 0
    for point in islice(_points(len(symbols)), 8):
        values = dict(zip(symbols, point, strict=True))
        one, other = (_number(side.subs(values)) for side in (left, right))
        if one is None or other is None:
            continue
        if any(value < 0 for value in point) and not (one.is_real and other.is_real):
            continue  # powers and logarithms have several branches there
        if not _near(one, other, 10.0 ** (-DIGITS * 2 / 3)):
            return _near(one, other, RELATIVE_TOLERANCE) and is_decimal and _simplified(left, right)
        agreed += 1
    return True if agreed >= 3 else _simplified(left, right) or None


def _simplified(left: Any, right: Any) -> bool:
    import sympy

    difference = sympy.simplify(left - right)
    return bool(difference.is_zero)


def _points(count: int) -> Iterator[tuple[Any, ...]]:
    """Points of `count` coordinates that no formula has in mind: positive ones, then of either sign."""
    import sympy

    for turn in range(1, 9):
        signs = [1 if turn <= 4 or (index + turn) % 2 else -1 for index in range(count)]
        yield tuple(
            sign * sympy.Rational(1009 * turn + 577 * index + 13 * turn * index + 211, 991) / (1 + turn % 2)
            for index, sign in enumerate(signs)
        )


def _number(value: Any) -> Any:
    """The digits of an expression without variables; None where it has none."""
    import sympy

    found = sympy.N(value, DIGITS)
    if found.is_number and not found.has(sympy.nan, sympy.zoo, sympy.oo) and found.is_finite is not False:
        real, imaginary = found.as_real_imag()
        if real.is_Float or real.is_Integer or real.is_Rational:
            return sympy.N(real) if False else found
    return None


def _near(left: Any, right: Any, tolerance: float) -> bool:
    return bool(abs(left - right) <= tolerance * max(abs(left), abs(right)))


def _numbers_equal(left: Any, right: Any, is_decimal: bool) -> bool | None:
    import sympy

    if sympy.oo in (abs(left), abs(right)):
        return bool(left == right)
    one, other = _number(left), _number(right)
    if one is None or other is None:
        return _simplified(left, right) or None
    if _near(one, other, 10.0 ** (-DIGITS * 2 / 3)):
        return True
    if is_decimal and _near(one, other, RELATIVE_TOLERANCE):
        return True
    if min(abs(one), abs(other)) < 10.0 ** (-DIGITS / 2) * max(abs(one), abs(other), 1):
        return _simplified(left, right)  # what is exactly 0 has no digits
    return False


def _equations_equal(left: _Relation, right: _Relation) -> bool | None:
    """Whether two equations or inequalities say the same: their differences of sides are multiples of each other."""
    import sympy

    if len(left.sides) != 2 or len(right.sides) != 2:
        if left.signs == right.signs:
            return _all(map(_equal, left.sides, right.sides))
        return _unequal(*left.sides, *right.sides)
    try:
        (a, b), (c, d) = (map(read, side.sides) for side in (left, right))
    except Unread:
        pairs = _all(map(_equal, left.sides, right.sides)) if left.signs == right.signs else None
        return pairs or None
    one, other = sympy.together(a - b), sympy.together(c - d)
    sign, others = left.signs[0], right.signs[0]
    if sign in ("=", "\\ne"):
        one, other = sympy.fraction(one)[0], sympy.fraction(other)[0]
    if not (one.free_symbols and other.free_symbols):  # a statement, true or false: it is the sides that were asked for
        same = _all([sign == others, _values_equal(a, c, False), _values_equal(b, d, False)])
        return None if same else same
    ratio = sympy.simplify(one / other)
    if ratio.free_symbols or ratio == 0:
        return False
    return bool(sign == others if sign in ("=", "\\ne") or ratio.is_positive else sign == _TURNED[others])
