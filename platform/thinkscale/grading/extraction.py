r"""Reading the answer out of a model's response, as text.

Owns where an answer stands: in `\boxed{}`, after "Answer:", "Final Answer:" or "the answer is", after
`####`, or plainly at the end; of several explicit answers the last one counts. Knows nothing of what is
right. Every scan is linear in the length of the response.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from thinkscale.domain.question import AnswerKind
from thinkscale.grading.notation import clean, is_prose, number_text, number_word, option_letters

TAIL_CHARACTERS = 40_000
"""Only so much of the end of a response is read: an answer stands at the end."""
LONGEST_ANSWER = 2_000
"""Characters; what is longer is no answer."""
MOST_CANDIDATES = 60
"""So many boxes and so many markers at the end are looked at: what a text repeats more often is no answer."""

_THINKING_ENDS = ("</think>", "<|im_start|>answer", "</Thought>")

_FULL_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}
"""Latin letters, digits and signs as Chinese and Japanese texts set them."""

_TURN_ENDS = ("<|im_end|>", "<|endoftext|>", "<|eot_id|>", "</s>", "<|im_start|>user")
_NEXT_QUESTION = re.compile(r"\n[ \t#*]*(?:Question|Problem|Q)[ \t*]*:", re.IGNORECASE)
"""A base model goes on to write itself the next question after its answer."""

_BOXED = re.compile(r"\\(?:boxed|fbox|framebox)\s*(?:\{|(\d+)\b)")
_JOINS = re.compile(r"[\s$.,;:&\\()\[\]*]{0,24}(?:(?:and|or)\b)?[\s$,;:&\\()\[\]*]{0,24}", re.IGNORECASE)
_JOINED_WORDS = re.compile(r"(?:[\s$,:\\()\[\]*]*[A-Za-z]+){0,3}?[\s$,:\\()\[\]*]*\b(?:and|or)\b[\s$,:\\()\[\]*]*")

_MARKER = re.compile(
    r"""\b(?:answers?|ans)\b
        (?:
            [ \t*_`"'”)]{0,8} (?: : | [-=]> | → | = | [-–—][ ] | \b(?:is|are|(?:would|will|should|must)\ be)\b )
          | [ ,][^.:=\n$\\]{1,80}? \b(?:is|are)\b
          | [ \t*_]{0,8} (?=\n)
        )""",
    re.IGNORECASE | re.VERBOSE,
)
_CHECKED = re.compile(r"\b(?:check|verify|confirm|double-check)(?:ing)?\b[^.\n]*$", re.IGNORECASE)
_CHOICE_MARKER = re.compile(
    r"\b(?:options?|choices?)\b[ *_]{0,4}(?::|\b(?:is|would be|must be)\b)|\b(?:choose|select|pick|go with)\b",
    re.IGNORECASE,
)
_EXCLAIMED = re.compile(r"[^!$\\]*!")
_LINE_MARKER = re.compile(r"^A:[ \t]*(?=\S)(?![^\n]*\n+B:)", re.MULTILINE)
_TAGGED = re.compile(r"<answer>([^<]{1,2000})(?:</answer>|\Z)", re.IGNORECASE)
_HASHES = re.compile(r"^####[ \t]*(\S[^\n]{0,200})$", re.MULTILINE)
_EMPTY_MARKER = re.compile(r"(?:\b(?:the|final|my)\s+){0,3}\banswers?[\s:*_#]*\Z", re.IGNORECASE)
_LEAD_IN = re.compile(r"[\s:*_#>`\"“”'=-]*?(?=[^\s:*_#>`\"“”'=])")
_SENTENCE_END = re.compile(r"(?<=[^.\s][.!?])\s+(?=[A-Z])|(?<=。)")

_OPENING = re.compile(r"\$\$|\\\[|\\\(|(?<!\\)\$")
_CLOSING = {
    "$$": re.compile(r"\$\$"),
    "\\[": re.compile(r"\\\]"),
    "\\(": re.compile(r"\\\)"),
    "$": re.compile(r"(?<!\\)\$"),
}


def extract(kind: AnswerKind, response: str, options: Sequence[str] = (), *, lines: int = 1) -> str | None:
    """The answer that a response gives, or None where it gives none.

    Args:
        kind: How the answer will be compared; it decides what can be an answer at all.
        response: The answer part of a model's turn, or the whole turn.
        options: The texts of the options of a choice question.
        lines: How many lines an answer of kind `text` has.
    """
    text = answer_part(response)
    for region in reversed(list(explicit_regions(text, kind, lines=lines))):
        found = _read(kind, region, options)
        if found is not None and len(found) <= LONGEST_ANSWER:
            return found
    found = _plain(kind, text, options, lines)
    return found if found is not None and len(found) <= LONGEST_ANSWER else None


def answer_part(response: str) -> str:
    """What follows the thinking, where its end is marked, up to where the turn ends; of that, the end."""
    for delimiter in _THINKING_ENDS:
        _, found, rest = response.rpartition(delimiter)
        if found and rest.strip():
            response = rest
    for delimiter in _TURN_ENDS:
        response = response.partition(delimiter)[0] or response
    response = response[-TAIL_CHARACTERS:].replace("\0", "").translate(_FULL_WIDTH)
    following = _NEXT_QUESTION.search(response)
    if following and _MARKER.search(response, 0, following.start()):
        return response[: following.start()]
    return response


def explicit_regions(text: str, kind: AnswerKind, *, lines: int = 1) -> Iterator[str]:
    """The pieces of a text that present themselves as the answer, in order."""
    regions = [*_boxes(text), *_marked(text, kind, lines)]
    for _, region in sorted(regions, key=lambda item: item[0]):
        yield region


def _boxes(text: str) -> list[tuple[int, str]]:
    """Contents of boxes; boxes joined by nothing but commas and conjunctions are one answer."""
    found: list[tuple[int, int, str]] = []
    for match in list(_BOXED.finditer(text))[-MOST_CANDIDATES:]:
        if match[1]:
            found.append((match.start(), match.end(), match[1]))
            continue
        end = _closing_brace(text, match.end())
        if end is not None and text[match.end() : end].strip():
            found.append((match.start(), end + 1, text[match.end() : end].strip()))
    joined: list[tuple[int, str]] = []
    last_end = -1
    for start, end, content in found:
        if joined and start < last_end:  # a box within a box
            continue
        gap = text[last_end:start]
        if joined and _joins(gap):
            previous = joined[-1][1]
            joined[-1] = (start, previous if previous == content else f"{previous}, {content}")
        else:
            joined.append((start, content))
        last_end = end
    return joined


def _joins(gap: str) -> bool:
    """Whether what stands between two answers makes one answer of them."""
    if len(gap) > 60 or "\n\n" in gap:
        return False
    return bool(_JOINS.fullmatch(clean(gap)) or _JOINED_WORDS.fullmatch(clean(gap)))


def _closing_brace(text: str, start: int) -> int | None:
    depth = 1
    for match in re.compile(r"\\.|[{}]", re.DOTALL).finditer(text, start, start + LONGEST_ANSWER):
        depth += {"{": 1, "}": -1}.get(match[0], 0)
        if depth == 0:
            return match.start()
    return None


def _marked(text: str, kind: AnswerKind, lines: int) -> Iterator[tuple[int, str]]:
    for match in list(_MARKER.finditer(text))[-MOST_CANDIDATES:]:
        if _CHECKED.search(text[max(0, match.start() - 30) : match.start()]):
            continue
        region = _region(text, match.end(), lines)
        if kind == "integer" and _EXCLAIMED.fullmatch(region):
            region = region[:-1]  # a sentence's end, where a box would hold a factorial
        if region:
            yield match.end(), region
    other_markers = _CHOICE_MARKER if kind == "choice" else _LINE_MARKER
    for match in list(other_markers.finditer(text))[-MOST_CANDIDATES:]:
        region = _region(text, match.end(), lines)
        if region:
            yield match.end(), region
    for match in list(_TAGGED.finditer(text))[-MOST_CANDIDATES:]:
        yield match.start(), match[1].strip()
    for match in list(_HASHES.finditer(text))[-MOST_CANDIDATES:]:
        # A heading has the same form: count it only where nothing but a number or the end of the text follows.
        if number_text(match[1]) is not None or not text[match.end() :].strip():
            yield match.start(), match[1]


def _region(text: str, start: int, lines: int) -> str:
    """What a marker announces: the rest of its line, else the next line that holds something."""
    lead = _LEAD_IN.match(text, start, start + 200)
    if lead is None:
        return ""
    start = lead.end()
    if text[start - 1 : start] in ("-", "=") and text[start : start + 1] not in ("", " "):
        start -= 1 if text[start - 1] == "-" else 0
    for opening, closing in (("\\[", "\\]"), ("$$", "$$"), ("\\begin{", "\\end{"), ("$\\begin{", "\\end{")):
        if text.startswith(opening, start):
            end = text.find(closing, start + 2, start + LONGEST_ANSWER)
            if end >= 0:
                return text[start : text.find("\n", end) if text.find("\n", end) >= 0 else len(text)].strip()
    end = start
    for _ in range(lines):
        newline = text.find("\n", end + 1 if end > start else end)
        end = len(text) if newline < 0 else newline
    return text[start : min(end, start + LONGEST_ANSWER)].strip()


def _read(kind: AnswerKind, region: str, options: Sequence[str]) -> str | None:
    """The answer within a region that announces one, or None where it holds nothing of that kind."""
    if kind == "choice":
        return option_letters(region, options, announced=True)
    if kind == "text":
        return _plain_text(region)
    if kind == "integer":
        return _number_in(region)
    return _expression_in(region)


def _plain(kind: AnswerKind, text: str, options: Sequence[str], lines: int) -> str | None:
    """The answer of a response that announces none: what stands last."""
    stripped = _EMPTY_MARKER.sub("", text).strip()
    if not stripped:
        return None
    if kind == "choice":
        return option_letters(stripped, options, announced=False)
    rows = [row for row in stripped.splitlines() if row.strip()]
    if kind == "text":
        return _plain_text("\n".join(rows[-lines:]))
    if kind == "integer":
        return number_text(stripped) or _last_number(stripped)
    if formulas := _formulas(stripped):
        return _last_number(stripped[formulas[-1].end :]) or _joined(stripped, formulas)
    if len(rows) == 1 and not is_prose(rows[0]):
        return _expression_in(rows[0])
    return _last_number(stripped)


def _plain_text(region: str) -> str | None:
    text = clean(region)
    return text or None


_NUMBER = re.compile(
    r"(?<![\w.^_])(?<![\^_]\{)[-+]?\s?[$€£]?\s?"
    r"(?:[1-9]\d{0,2}(?:,\d{3}){1,12}(?![,\d])|\d+)?(?:\.\d+|(?<=\d))(?:/\d+)?",
    re.ASCII,
)
_OPERATORS = re.compile(r"\\(?:frac|sqrt|cdot|times|binom|log|pi)|[\^!]|\d\s*[*+/-]\s*\d")


@dataclass(frozen=True, slots=True)
class _Formula:
    """A formula between its delimiters."""

    start: int
    end: int
    inner: str


def _formulas(text: str) -> list[_Formula]:
    """The formulas of a text; the text between two amounts of money is none."""
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


def _number_in(region: str) -> str | None:
    """The number that a region announces: all of it, else after its last equals sign, else its first or last one."""
    head = _SENTENCE_END.split(region, maxsplit=1)[0]
    for part in (head.rpartition("=")[2], head):
        number = number_text(part)
        if number is not None:
            return number
    tail = head.rpartition("=")[2].strip()
    if formulas := _formulas(head):
        inner = formulas[-1].inner.rpartition("=")[2]
        number = number_text(inner)
        if number is not None:
            return number
        tail = inner
    if _OPERATORS.search(clean(tail)) and not is_prose(tail):
        return clean(tail) or None
    starts = re.match(r"[^\w(]{0,4}\d", clean(tail))
    if starts:
        return _first_number(tail)
    return _last_number(tail) or _last_number(region) or number_word(tail)


def _first_number(text: str) -> str | None:
    match = _NUMBER.search(clean(text))
    return number_text(match[0]) if match else None


def _last_number(text: str) -> str | None:
    last = None
    for match in _NUMBER.finditer(clean(text)):
        last = match[0]
    return number_text(last) if last else None


def _expression_in(region: str) -> str | None:
    """The mathematical expression that a region announces."""
    head = _SENTENCE_END.split(region, maxsplit=1)[0]
    if formulas := _formulas(head):
        value = _VALUE.match(head, formulas[-1].end)
        return (value and number_text(value[1])) or _joined(head, formulas)
    text = clean(head)
    if not text or _COMMENT.match(text):
        return None
    if is_prose(text):
        return _last_number(text)
    return text


_VALUE = re.compile(r"[^$]*?(?:\b(?:is|are|equals|equal to)\b|=)\s*([^$]+)$")
_COMMENT = re.compile(
    r"(?:in)?(?:correct|valid|right|wrong|not|indeed|therefore|thus|clearly|simply|given|obtained|found|verified|the|as|that)\b",
    re.IGNORECASE,
)
"""What follows "the answer is" where it announces no answer."""


def _joined(text: str, formulas: Sequence[_Formula]) -> str | None:
    """The last formula, together with those before it that only a comma or a conjunction separates."""
    group = [formulas[-1]]
    for formula in reversed(formulas[:-1]):
        gap = text[formula.end : group[0].start]
        if "\n" in gap or not _joins(gap):
            break
        group.insert(0, formula)
    parts = [clean(formula.inner) for formula in group]
    tail = text[group[-1].end :].lstrip()
    percent = "%" if tail.startswith(("%", "\\%", "percent")) else ""
    return (", ".join(part for part in parts if part) + percent) or None
