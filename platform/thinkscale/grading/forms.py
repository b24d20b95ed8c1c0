"""What kind of thing an answer is: a value, a list, a set, a vector, an interval, a matrix, an equation.
Owns the structure around values, as text. Compares nothing and reads no value."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from thinkscale.grading.expressions import UnreadError

MOST_ITEMS = 200  # of a list that is compared item by item
_NAME = re.compile(
    r"(?=[^A-Za-z]*[A-Za-z])(?:\\?[A-Za-z]+|_ ?(?:\w|\{[^{}]*\})|\(\d+\)|\^ ?\{? ?-1 ?\}?|[ '():/|,{}+-])+"
)


def is_name(text: str, *, sums: bool = False) -> bool:
    """Whether a side of an equation only names what the other is: `x`, `f(x)`, `AB`, `Area`, `(x, y)`; or `x + y`."""
    return len(text) <= 60 and (sums or not {*"+-"} & {*text.replace("-1", "")}) and _NAME.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class Form:
    kind: str
    """value, relation, or for anything with items what encloses them: nothing, {}, <> (a vector), (), [), ...; cup for
    a union, and rows and columns of a matrix."""
    text: str
    items: tuple[str | Form, ...] = ()
    signs: tuple[str, ...] = ()  # of a relation, between its sides
    name: str = ""  # what an interval was said of

    @property
    def names(self) -> bool:
        """Whether it says what something is: `x = 3`."""
        return self.kind == "relation" and {*self.signs} == {"="} and is_name(str(self.items[0]))

    def leaves(self) -> Iterator[str]:
        for item in self.items or (self.text,):
            yield from item.leaves() if isinstance(item, Form) else [item]


_ENVIRONMENT = re.compile(
    r"(?:\\\{|\(|\[)? ?\\begin\{([a-zA-Z]*)\*?\}(?:\{[clr| ]*\})?(.*?)\\end\{\1\*?\} ?(?:\\?[)\]}.])?", re.DOTALL
)
_MATRICES = ("matrix", "pmatrix", "bmatrix", "Bmatrix", "smallmatrix", "psmallmatrix", "array")
_CONDITION = re.compile(r"^(?:,|if|for|when|where| )+|(?:,|;|\.| )+$")
_BRACKETS = (("\\{", "\\}"), ("{", "}"), ("\\langle", "\\rangle"), ("(", ")"), ("(", "]"), ("[", ")"), ("[", "]"))
SIGN = re.compile(r"\\le(?![a-z])|\\ge(?![a-z])|\\ne(?![a-z])|[=<>]")
TURNED = {"<": ">", ">": "<", "\\le": "\\ge", "\\ge": "\\le", "=": "=", "\\ne": "\\ne"}
_BUILDER = re.compile(r" ?(\(?[A-Za-z]\)?)(?: ?\\in ?\\mathbb ?\{? ?R ?\}?)? ?[|:] ?(.*)")


def structure(text: str) -> Form:
    """What kind of thing a text is. Raises UnreadError where its brackets do not match, or it is too much."""
    text = text.strip()
    if match := _ENVIRONMENT.fullmatch(text):
        lines = [row.split("&") for row in match[2].split("\\\\") if row.strip()]
        return _rows(text, match[1], [[cell.strip() for cell in line] for line in lines])
    parts, _ = split(text, r"\\cup|(?<![A-Za-z\\])or(?![A-Za-z])")
    if len(parts) > 1:
        forms = tuple(map(structure, parts))
        if all(len(form.kind) == 2 for form in forms) and ("\\cup" in text or all(form.name for form in forms)):
            return Form("cup", text, forms)
    items, _ = split(text, ";")
    if len(items) == 1:
        items, _ = split(text, r",|(?<![A-Za-z\\])(?:and|or)(?![A-Za-z])")
    if len(items) > 1:
        return _listing("", items, text)
    sides, signs = split(text, SIGN.pattern)
    if signs:
        if not all(sides):
            raise UnreadError(text)
        return _interval(text, sides, signs) or Form("relation", text, tuple(sides), tuple(signs))
    for opening, closing in _BRACKETS:
        if text.startswith(opening) and text.endswith(closing) and len(text) > len(opening) + len(closing):
            inner = text[len(opening) : -len(closing)]
            kind = "" if opening == "{" else (opening[-1] + closing[-1]).replace("ee", "<>")
            if kind == "{}" and (builder := _BUILDER.fullmatch(inner)):
                said = structure(builder[2])
                return Form(said.kind, text, said.items) if said.name == builder[1] else Form("value", text)
            try:
                items, _ = split(inner, "[,;]")
            except UnreadError:  # `(1) + (2)`
                continue
            if len(items) > 1 or opening[0] == "\\":
                return _listing(kind, items, text)
    if text.count("\\pm") == 1:
        return _listing("", [text], text)
    return Form("value", text)


def _rows(text: str, name: str, rows: list[list[str]]) -> Form:
    """A matrix; one row or column is a vector, the cases of a function are a set of values with their conditions."""
    cells = [cell for row in rows for cell in row]
    if len(cells) > MOST_ITEMS or not cells or name not in (*_MATRICES, "cases", "dcases"):
        raise UnreadError(text)
    if name not in _MATRICES:
        cases = ([_CONDITION.sub("", cell).strip() for cell in row] for row in rows)
        return Form("{}", text, tuple(Form("()", "", tuple(case)) for case in cases))
    return Form("<>" if 1 in (len(rows), len(rows[0])) else f"{[len(row) for row in rows]}", text, tuple(cells))


def _listing(kind: str, items: list[str], text: str) -> Form:
    """Items of a list, each of a set that holds one \\pm as two."""
    if len(items) > MOST_ITEMS:
        raise UnreadError(text)
    if kind in ("", "{}"):
        items = [
            item.replace("\\pm", sign) for item in items for sign in ("+-" if item.count("\\pm") == 1 else ["\\pm"])
        ]
    if kind == "{}" and len(items) == 1:
        return structure(items[0])
    return Form(kind, text, tuple(item for item in items if item))


def _interval(text: str, sides: list[str], signs: list[str]) -> Form | None:
    name = next((side for side in sides if re.fullmatch(r"\\?[A-Za-z]+(?:\([a-z]\))?", side)), None)
    if signs[0] in (">", "\\ge"):
        sides, signs = sides[::-1], [TURNED[sign] for sign in signs[::-1]]
    if name is None or not {*signs} <= {"<", "\\le"}:
        return None
    at = sides.index(name)
    below, above = sides[:at], sides[at + 1 :]
    if len(below) > 1 or len(above) > 1:
        return None
    brackets = ("(" if not below or signs[0] == "<" else "[") + (")" if not above or signs[-1] == "<" else "]")
    return Form(brackets, text, (*(below or ["-\\infty"]), *(above or ["\\infty"])), name=name)


_NESTING = r"\\[()\[\]{}]|\\(?:langle|rangle|begin|end)(?![a-z])|[(\[{]|[)\]}]"


def split(text: str, separator: str) -> tuple[list[str], list[str]]:
    """The parts between separators outside all brackets, and those. Raises UnreadError for brackets without a match."""
    parts, found, depth, start = [], [], 0, 0
    for match in re.finditer(f"{_NESTING}|{separator}", text):
        token = match[0].removeprefix("\\")
        if token in ("(", "[", "{", "langle", "begin"):
            depth += 1
        elif token in (")", "]", "}", "rangle", "end"):
            depth -= 1
            if depth < 0:
                raise UnreadError(text)
        elif depth == 0:
            parts.append(text[start : match.start()].strip())
            found.append(match[0])
            start = match.end()
    if depth:
        raise UnreadError(text)
    return [*parts, text[start:].strip()], found
