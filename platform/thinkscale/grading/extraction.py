r"""Reading the answer out of a model's response, as text.

Owns where an answer stands: in `\boxed{}`, after "Answer:", "Final Answer:" or "the answer is", after
`####`, or plainly at the end; of several explicit answers the last one counts. What stands around it (the sentence,
an explanation after it) is left away, and only that: a hedge stays. Knows nothing of what is right. Every scan is
linear in the length of the response.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from thinkscale.domain.question import AnswerKind
from thinkscale.grading.notation import (
    PLAIN,
    VOCABULARY,
    clean,
    is_hedged,
    is_prose,
    number,
    number_text,
    number_word,
    option_letters,
    quantity,
    words_of,
)

TAIL_CHARACTERS = 40_000
"""Only so much of the end of a response is read: an answer stands at the end."""
LONGEST_ANSWER = 2_000
"""Characters; what is longer is no answer."""
MOST_CANDIDATES = 60
"""So many boxes and so many markers at the end are looked at: what a text repeats more often is no answer."""

_THINKING_ENDS = ("</think>", "<|im_start|>answer", "</Thought>")

_TURN_ENDS = ("<|im_end|>", "<|endoftext|>", "<|eot_id|>", "</s>", "<|im_start|>user", "<|user|>", "<end_of_turn>")
_NEXT_QUESTION = re.compile(
    r"\n[ \t#*]{0,9}(?:(?:next|new) )?(?:question|problem|exercise|q|human|user|instruction|frage|问题)"
    r"[ \t]?\d{0,3}[ \t*]{0,3}:",
    re.IGNORECASE,
)
"""A base model goes on to write itself the next question after its answer."""

_BOXED = re.compile(r"\\(?:boxed|fbox|framebox) ?(?:\{|(\d+)\b)")
_JOINS = re.compile(
    r"[\s$.,;:&\\()\[\]*]{0,24}(?:(?:and|or)\b)?[\s$,;:&\\()\[\]*]{0,24}(?:[a-z](?:_\{?\w\}?)? ?= ?)?", re.IGNORECASE
)
_JOINED_WORDS = re.compile(r"(?:[\s$,:\\()\[\]*]*[A-Za-z]+){0,3}?[\s$,:\\()\[\]*]*\b(?:and|or)\b[\s$,:\\()\[\]*]*")

_WORDS = VOCABULARY["words"]
_MARKER = re.compile(
    rf"""(?:\b(?:{_WORDS["answer"].replace(" ", "[ ]")})\b|{_WORDS["answer_without_blanks"]})
        (?:
            (?:[ ](?:{_WORDS["right"].replace(" ", "[ ]")}))? [ \t*_`"'”)\]】]{{0,8}} (?: : | [-=]> | → | = | [-–—][ ]
              | 是 | 为 | 為 | は | 은 | 는
              | है | \b(?:{_WORDS["is"]}|(?:would|will|should|must)\ be)\b )
          | [ ,][^.:=\n$\\]{{1,80}}? \b(?:is|are)\b
          | [ \t*_]{{0,8}} (?=\n)
        )""",
    re.IGNORECASE | re.VERBOSE,
)
_CHECKED = re.compile(r"\b(?:check|verify|confirm|double-check)(?:ing)?\b[^.\n]*$", re.IGNORECASE)
_CHOICE_MARKER = re.compile(
    r"(?<!not )(?<!n't )\b(?:options?|choices?)\b[ *_]{0,4}(?::|\b(?:is|are|would be|must be)\b)"
    r"|(?<!not )(?<!n't )(?<!never )\b(?:choose|select|pick|go with)\b|选项?(?:是|为)?|选择",
    re.IGNORECASE,
)
_EXCLAIMED = re.compile(r"[^!$\\]*!")
_LINE_MARKER = re.compile(r"^A:[ \t]*(?=\S)(?![^\n]*\n+B:)", re.MULTILINE)
_TAGGED = re.compile(r"<answer>([^<]{1,2000})(?:</answer>|\Z)", re.IGNORECASE)
_HASHES = re.compile(r"^####[ \t]*(\S[^\n]{0,200})$", re.MULTILINE)
_EMPTY_MARKER = re.compile(r"(?:\b(?:the|final|my)\s+){0,3}\banswers?[\s:*_#]*\Z", re.IGNORECASE)
_LEAD_IN = re.compile(r"[\s:*_#>`\"“”'=-]*?(?=[^\s:*_#>`\"“”'=])")
_SENTENCE_END = re.compile(r"(?<=[^.\s][.!?])\s+(?=[A-Z])|(?<=。)")
_NEGATED = re.compile(
    r"\W{0,9}?(?:(?:not|neither|never|nicht|keine?r?|n't|isn't|non?|pas|не)\b|不是|不选|[~¬]|\\neg|\\lnot)",
    re.IGNORECASE,
)

_NOT_A_NUMBER = re.compile(r"\W{0,9}not\W{1,4}\d", re.IGNORECASE)
_DENIED = re.compile(r"(?:n['’]t|not)(?: be| equal)?\W{1,4}[\d.,/]+\W*$")
_OPENING = re.compile(r"\$\$|\\\[|\\\(|(?<!\\)\$")
_CLOSING = {
    "$$": re.compile(r"\$\$"),
    "\\[": re.compile(r"\\\]"),
    "\\(": re.compile(r"\\\)"),
    "$": re.compile(r"(?<!\\)\$"),
}


@dataclass(frozen=True, slots=True)
class Found:
    """An answer, and all of the text that announced it where that is more."""

    answer: str
    whole: str


def extract(kind: AnswerKind, response: str, options: Sequence[str] = (), *, lines: int = 1) -> str | None:
    """The answer that a response gives, or None where it gives none.

    Args:
        kind: How the answer will be compared; it decides what can be an answer at all.
        response: The answer part of a model's turn, or the whole turn.
        options: The texts of the options of a choice question.
        lines: How many lines an answer of kind `text` has.
    """
    found = find(kind, response, options, lines=lines)
    return None if found is None else found.answer


def find(kind: AnswerKind, response: str, options: Sequence[str] = (), *, lines: int = 1) -> Found | None:
    """As `extract`, with the text that the answer was taken from."""
    text = answer_part(response)
    negated = None
    for region, is_remark in reversed(list(explicit_regions(text, kind, lines=lines))):
        if (_NEGATED if kind == "choice" else _NOT_A_NUMBER).match(region):
            negated = negated or clean(region)
            continue
        if is_remark and _COMMENT.match(clean(region)):
            continue
        found = _read(kind, region, options)
        if found is not None and len(found.answer) <= LONGEST_ANSWER:
            return found
    if negated:
        return Found(negated, negated)
    plain = _plain(kind, text, options, lines)
    return Found(plain, plain) if plain is not None and len(plain) <= LONGEST_ANSWER else None


def answer_part(response: str) -> str:
    """What follows the thinking, where its end is marked, up to where the turn ends; of that, the end."""
    for delimiter in _THINKING_ENDS:
        _, found, rest = response.rpartition(delimiter)
        if found and rest.strip():
            response = rest
    for delimiter in _TURN_ENDS:
        response = response.partition(delimiter)[0] or response
    response = response[-TAIL_CHARACTERS:].replace("\0", "").translate(PLAIN)
    following = _NEXT_QUESTION.search(response)
    before = response[: following.start()] if following else ""
    if number(before) is not None or any(mark.search(before) for mark in (_MARKER, _BOXED, _HASHES)):
        return before
    for match in _HASHES.finditer(response):
        if number(match[1]) is not None and "?" in response[match.end() :]:
            return response[: match.end()]
    return response


def explicit_regions(text: str, kind: AnswerKind, *, lines: int = 1) -> Iterator[tuple[str, bool]]:
    """The pieces of a text that present themselves as the answer, in order, and whether each could be a mere remark."""
    boxes = [(start, box, False) for start, box in _boxes(text)]
    for _, region, is_remark in sorted([*boxes, *_marked(text, kind, lines)], key=lambda item: item[0]):
        yield region, is_remark


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


def _marked(text: str, kind: AnswerKind, lines: int) -> Iterator[tuple[int, str, bool]]:
    for match in list(_MARKER.finditer(text))[-MOST_CANDIDATES:]:
        if _CHECKED.search(text[max(0, match.start() - 30) : match.start()]):
            continue
        region = _region(text, match.end(), lines)
        if kind == "integer" and _EXCLAIMED.fullmatch(region):
            region = region[:-1]  # a sentence's end, where a box would hold a factorial
        if region:
            yield match.end(), region, match[0].rstrip()[-1].isalpha()
    other_markers = _CHOICE_MARKER if kind == "choice" else _LINE_MARKER
    for match in list(other_markers.finditer(text))[-MOST_CANDIDATES:]:
        region = _region(text, match.end(), lines)
        if region:
            yield match.end(), region, False
    for match in list(_TAGGED.finditer(text))[-MOST_CANDIDATES:]:
        yield match.start(), match[1].strip(), False
    for match in list(_HASHES.finditer(text))[-MOST_CANDIDATES:]:
        # A heading has the same form: count it only where nothing but a number or the end of the text follows.
        if number_text(match[1]) is not None or not text[match.end() :].strip():
            yield match.start(), match[1], False


def _region(text: str, start: int, lines: int) -> str:
    """What a marker announces: the rest of its line, else the next line that holds something."""
    lead = _LEAD_IN.match(text, start, start + 200)
    if lead is None:
        return ""
    start = lead.end()
    if (sign := re.search(r"(?<![-=])>", lead[0])) and "\n" not in lead[0]:
        start = lead.start() + sign.start()  # a bound; at the beginning of a line it is a quotation
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


def _read(kind: AnswerKind, region: str, options: Sequence[str]) -> Found | None:
    """The answer within a region that announces one, or None where it holds nothing of that kind."""
    if _BOXED.match(region):  # a box within a box
        region = next((box for _, box in _boxes(region)), region)
    if kind == "choice":
        letters = option_letters(region, options, announced=True)
        return None if letters is None else Found(letters, region)
    if kind == "text":
        return Found(clean(_without_aside(_without_explanation(region))), clean(region)) if clean(region) else None
    whole = clean(region)
    answer = number_text(whole) if kind == "integer" else None
    answer = answer or _expression_in(region, kind)
    return None if answer is None else Found(answer, whole)


def _plain(kind: AnswerKind, text: str, options: Sequence[str], lines: int) -> str | None:
    """The answer of a response that announces none: what stands last."""
    stripped = _EMPTY_MARKER.sub("", text).strip()
    if not stripped:
        return None
    if kind == "choice":
        return option_letters(stripped, options, announced=False)
    rows = [row for row in stripped.splitlines() if row.strip()]
    if kind != "text" and _DENIED.search(rows[-1][-80:]):
        return None
    if kind == "text":
        return clean("\n".join(rows[-lines:])) or None
    stripped = stripped[: len(stripped) - len(rows[-1])] + _without_explanation(rows[-1])
    if kind == "integer":
        return number_text(stripped) or _last_number(stripped)
    if formulas := _formulas(stripped):
        said = _groups(stripped, formulas[-MOST_CANDIDATES:])[-1]
        return _last_number(stripped[formulas[-1].end :]) or _text_of(stripped, said) or None
    if len(rows) == 1 and not is_prose(rows[0]):
        return _expression_in(rows[0], kind)
    return _last_number(stripped)


_NUMBER = re.compile(
    r"(?<![\w.^_])(?<![\^_]\{)[-+]?\s?[$€£]?\s?"
    r"(?:[1-9]\d{0,2}(?:,\d{3}){1,12}(?![,\d])|\d+)?(?:\.\d+|(?<=\d))(?:/\d+)?",
    re.ASCII,
)
_EXPLANATION = re.compile(rf"\b(?:{_WORDS['explanations']})\b", re.IGNORECASE)
_BEFORE_EXPLANATION = " \t,;:([{-–—*_.$"
_COMMENT = re.compile(
    r"(?:in)?(?:correct|valid|right|wrong|not\s+(?:given|clear|known|unique|correct)|indeed|therefore|thus|clearly|simply|given"
    r"|obtained|found|verified|the(?=\s*$)|as|that)\b",
    re.IGNORECASE,
)
"""What follows "the answer is" where it announces no answer."""
_IS = re.compile(
    r"(?:\b(?:is|are|be|was|were|equals|equal to|makes|gives|becomes|of exactly)\b(?: at\b)?|'s\b|\bso\b|=|:(?!\d))"
    r"(?!\s*(?:the|an?)\s*$)"
)


def _without_explanation(text: str) -> str:
    """What stands before the words that say why."""
    for match in _EXPLANATION.finditer(text):
        before = text[: match.start()].rstrip(_BEFORE_EXPLANATION)
        before = before.removesuffix("\\text").removesuffix("\\quad").removesuffix("\\ ").rstrip(_BEFORE_EXPLANATION)
        if _closed(text[: match.start()]) and before and any(character.isalnum() for character in before):
            return before + "$" * (before.count("$") % 2)
    return text


def _closed(text: str) -> bool:
    """Whether no formula is open where a text ends, or only words are in it."""
    return text.replace("\\$", "").count("$") % 2 == 0 or text.rstrip().endswith("\\text{")


_ASIDE = re.compile(r"\s\(([^()]*)\)\W*$")


def _without_aside(text: str) -> str:
    """Without brackets at the end that hold words, or the same number again: `42 (six times seven)`, `ten (10)`."""
    match = _ASIDE.search(text[-400:])
    if match is None:
        return text
    before = text[: len(text) - len(match[0])].rstrip()
    wordy = len(words_of(match[1])) > 1 and not re.search(r"\b(?:or|but|could|might)\b", match[1])
    wordy = (
        wordy
        or re.search(r"\d (?:(?:times|plus|minus) \d|squared|cubed)|^(?:about|approx|≈|\\approx)", match[1]) is not None
    )
    wordy = wordy or number_word(match[1]) is not None
    same = number(match[1]) is not None and number(match[1]) == number(before)
    return before if before and (wordy or same) else text


def _expression_in(region: str, kind: AnswerKind) -> str | None:
    """The value that a region announces: without the sentence around it, and all of it."""
    head = _without_aside(_without_explanation(_SENTENCE_END.split(region, maxsplit=1)[0]))
    text = clean(head)
    if not text:
        return None
    if (found := quantity(text)) is not None:
        return str(found.value) if kind == "integer" else text
    formulas = _formulas(head)
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
        verbs = [
            match.end() for match in _IS.finditer(head) if not any(f.start < match.start() < f.end for f in formulas)
        ]
        start = verbs[-1] if verbs else start
        value = number_text(head[start:])
        if value is not None:
            return value if kind == "integer" else clean(head[start:])
        start = min((f.start for f in formulas if f.start >= start), default=formulas[-1].start)
    said = [formula for formula in formulas if formula.start >= start]
    group = _groups(head, said)[0]
    rest = head[group[-1].end :]
    before = clean(head[:start])
    text = _text_of(head, group)
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
    return _last_number(tail) or _last_number(text) or counted or tail.strip() or None


def _last_number(text: str) -> str | None:
    last = None
    for match in _NUMBER.finditer(clean(text)):
        last = match[0]
    return number_text(last) if last else None


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


def _groups(text: str, formulas: Sequence[_Formula]) -> list[list[_Formula]]:
    """Formulas that only a comma or a conjunction separates, together."""
    groups: list[list[_Formula]] = []
    for formula in formulas:
        gap = text[groups[-1][-1].end : formula.start] if groups else ""
        if not groups or "\n" in gap or not _joins(gap):
            groups.append([])
        groups[-1].append(formula)
    return groups


def _text_of(text: str, group: Sequence[_Formula]) -> str:
    """What formulas say, with a percent sign after the last of them."""
    percent = "%" if text[group[-1].end :].lstrip().startswith(("%", "\\%", "percent")) else ""
    return ", ".join(part for part in (clean(formula.inner) for formula in group) if part) + percent
