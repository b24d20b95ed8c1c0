"""The value that an announced answer says: without the sentence, the explanation or the formulas' signs around it.
Owns what stands around a value and is left away, and only that: a hedge stays. Every scan is linear."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from thinkscale.domain.question import AnswerKind
from thinkscale.grading.notation import (
    VOCABULARY,
    clean,
    is_hedged,
    is_prose,
    number,
    number_text,
    number_word,
    quantity,
    words_of,
)  # fmt: skip

_WORDS = VOCABULARY["words"]
_JOINS = re.compile(
    r"[\s$.,;:&\\()\[\]*]{0,24}(?:(?:and|or)\b)?[\s$,;:&\\()\[\]*]{0,24}(?:[a-z](?:_\{?\w\}?)? ?= ?)?", re.IGNORECASE
)
_JOINED_WORDS = re.compile(r"(?:[\s$,:\\()\[\]*]*[A-Za-z]+){0,3}?[\s$,:\\()\[\]*]*\b(?:and|or)\b[\s$,:\\()\[\]*]*")
_SENTENCE_END = re.compile(r"(?<=[^.\s][.!?])\s+(?=[A-Z])|(?<=。)")
_OPENING = re.compile(r"\$\$|\\\[|\\\(|(?<!\\)\$")
_ENDS = {"$$": r"\$\$", "\\[": r"\\\]", "\\(": r"\\\)", "$": r"(?<!\\)\$"}
_CLOSING = {opening: re.compile(end) for opening, end in _ENDS.items()}

_NUMBER = re.compile(
    r"(?<![\w.^_])(?<![\^_]\{)[-+]?\s?[$€£]?\s?"
    r"(?:[1-9]\d{0,2}(?:,\d{3}){1,12}(?![,\d])|\d+)?(?:\.\d+|(?<=\d))(?:/\d+)?",
    re.ASCII,
)
_EXPLANATION = re.compile(rf"\b(?:{_WORDS['explanations']})\b", re.IGNORECASE)
_BEFORE_EXPLANATION = " \t,;:([{-–—*_.$"
_IS = re.compile(
    r"(?:\b(?:is|are|be|was|were|equals|equal to|makes|gives|becomes|of exactly)\b(?: at\b)?|'s\b|\bso\b|=|:(?!\d))"
    r"(?!\s*(?:the|an?)\s*$)"
)


@dataclass(frozen=True, slots=True)
class _Formula:
    start: int
    end: int
    inner: str


def without_explanation(text: str) -> str:
    """What stands before the words that say why."""
    for match in _EXPLANATION.finditer(text):
        before = text[: match.start()].rstrip(_BEFORE_EXPLANATION)
        before = before.removesuffix("\\text").removesuffix("\\quad").removesuffix("\\ ").rstrip(_BEFORE_EXPLANATION)
        head = text[: match.start()]
        closed = head.replace("\\$", "").count("$") % 2 == 0 or head.rstrip().endswith("\\text{")  # or mere words
        if closed and any(character.isalnum() for character in before):
            return before + "$" * (before.count("$") % 2)
    return text


_REMARK = re.compile(r"\d (?:(?:times|plus|minus) \d|squared|cubed)|^(?:about|approx|≈|\\approx)")
_ASIDE = re.compile(r"\s\(([^()]*)\)\W*$")


def without_aside(text: str) -> str:
    """Without brackets at the end that hold words, or the same number again: `42 (six times seven)`, `ten (10)`."""
    match = _ASIDE.search(text[-400:])
    if match is None:
        return text
    before = text[: len(text) - len(match[0])].rstrip()
    wordy = len(words_of(match[1])) > 1 and not re.search(r"\b(?:or|but|could|might)\b", match[1])
    wordy = wordy or _REMARK.search(match[1]) is not None or number_word(match[1]) is not None
    same = number(match[1]) is not None and number(match[1]) == number(before)
    return before if before and (wordy or same) else text


def expression_in(region: str, kind: AnswerKind) -> str | None:
    """The value that a region announces: without the sentence around it, and all of it."""
    head = without_aside(without_explanation(_SENTENCE_END.split(region, maxsplit=1)[0]))
    text = clean(head)
    if not text:
        return None
    if (found := quantity(text)) is not None:
        return str(found.value) if kind == "integer" else text
    formulas = formulas_in(head)
    if formulas:
        return _said_by_formulas(head, formulas, kind)
    if not words_of(text) or is_hedged(text):
        return _chain_end(text) if kind == "integer" else text
    return _said_in_words(text, kind) or text


def _chain_end(text: str) -> str:
    """Of `3 * 4 = 12` the last part, of `8:00` the hour."""
    return text if _UNSOLVED.search(text) else number_text(_HOUR.sub("", text.rpartition("=")[2])) or text


_UNSOLVED = re.compile(
    r"[<>]|\\(?:[gl]eq?|neq?)(?![a-z])|\d ?[a-z]\b(?=[^=]*=)|[,;] ?(?:\\text ?\{? ?)?(?:and )?[A-Za-z]\w* ?="
)
_HOUR = re.compile(r":00(?: ?[ap]\.? ?m\b\.?)?$", re.IGNORECASE)


def _said_by_formulas(head: str, formulas: Sequence[_Formula], kind: AnswerKind) -> str | None:
    start = formulas[0].start
    if head[:start].strip(" *_:(\"'"):  # a sentence: what it says stands after its verb
        for verb in _IS.finditer(head):
            if not any(formula.start < verb.start() < formula.end for formula in formulas):
                start = verb.end()
        value = number_text(head[start:])
        if value is not None:
            return value if kind == "integer" else clean(head[start:])
        start = min((f.start for f in formulas if f.start >= start), default=formulas[-1].start)
    said = [formula for formula in formulas if formula.start >= start]
    group = grouped(head, said)[0]
    rest = head[group[-1].end :]
    before = clean(head[:start])
    text = text_of(head, group)
    if number(before) is not None and group == list(formulas):  # a number with its unit as a formula
        return f"{before} {text}"
    if (len(said) > len(group) or re.search(r"\d", clean(rest))) and not is_prose(rest):
        return clean(head)
    if is_hedged(clean(rest).partition(",")[0]) or is_hedged(before[-12:]):
        return clean(head)
    if kind == "integer" and text:
        return number_text(text) or _chain_end(text)
    return text or None


def _said_in_words(text: str, kind: AnswerKind) -> str | None:
    """The number in a sentence: after its verb, at its beginning, or the only or last one. None where there is none."""
    if option := re.match(r"(yes|no|true|false)\b[,;.:]", text, re.IGNORECASE):
        return option[1]
    parts = re.split(r",\s|\band\b", text)
    if len(parts) > 1 and all(re.match(r"\W*\d", part) for part in parts):
        return None  # a list of amounts
    tail = text[[match.end() for match in _IS.finditer(text)][-1] :] if _IS.search(text) else text
    found = quantity(tail)
    if found is not None and tail.strip():
        return str(found.value) if kind == "integer" or is_prose(text) else tail.strip()
    if tail.strip() and not {*words_of(tail)} - {"and", "or", "AM", "PM", "am", "pm"}:
        return _chain_end(tail.strip()) if kind == "integer" else tail.strip()
    if re.match(r"[^\w(]{0,4}\d", tail):
        first = _NUMBER.search(tail)
        return number_text(first[0]) if first else None
    counted = number_word(tail) if kind == "integer" or is_prose(text) else None
    return last_number(tail) or last_number(text) or counted or tail.strip() or None


def last_number(text: str) -> str | None:
    last = "".join(_NUMBER.findall(clean(text))[-1:])
    return number_text(last) if last else None


def formulas_in(text: str) -> list[_Formula]:
    found, position, hopeless = [], 0, set()
    while (opening := _OPENING.search(text, position)) is not None:
        position = opening.end()
        if opening[0] in hopeless:
            continue
        closing = _CLOSING[opening[0]].search(text, position)
        if closing is None:
            hopeless.add(opening[0])  # nor can a later one be closed: every scan stays linear
            continue
        inner = text[position : closing.start()]
        if not inner.strip() or (opening[0] == "$" and _is_currency(inner, text[closing.end() : closing.end() + 1])):
            continue
        found.append(_Formula(opening.start(), closing.end(), inner))
        position = closing.end()
    return found


_WORD = re.compile(r"(?<![\\A-Za-z{])[A-Za-z]{3,}")


def _is_currency(inner: str, after: str) -> bool:
    """Whether `$inner$after` is two amounts of money with words between them."""
    if not inner[0].isdigit():
        return False
    if inner[-1].isspace() and _WORD.search(inner):
        return True
    return (after.isdigit() or after == "") and (inner[-1].isspace() or is_prose(inner))


def grouped(text: str, formulas: Sequence[_Formula]) -> list[list[_Formula]]:
    """Formulas that only a comma or a conjunction separates, together."""
    groups: list[list[_Formula]] = []
    for formula in formulas:
        gap = text[groups[-1][-1].end : formula.start] if groups else ""
        if not groups or "\n" in gap or not joins(gap):
            groups.append([])
        groups[-1].append(formula)
    return groups


def text_of(text: str, group: Sequence[_Formula]) -> str:
    """What formulas say, with a percent sign after the last of them."""
    percent = "%" if text[group[-1].end :].lstrip().startswith(("%", "\\%", "percent")) else ""
    return ", ".join(part for part in (clean(formula.inner) for formula in group) if part) + percent


def joins(gap: str) -> bool:
    """Whether what stands between two answers makes one answer of them."""
    if len(gap) > 60 or "\n\n" in gap:
        return False
    return bool(_JOINS.fullmatch(clean(gap)) or _JOINED_WORDS.fullmatch(clean(gap)))
