r"""Reading the answer out of a model's response, as text: in `\boxed{}`, after "Answer:" or "the answer is", after
`####`, or plainly at the end; of several explicit answers the last one counts. What stands around it (the sentence, an
explanation) is left away, and only that: a hedge stays. Knows nothing of what is right. Every scan is linear in the
response."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from thinkscale.domain.question import AnswerKind
from thinkscale.grading.choice import option_letters
from thinkscale.grading.notation import PLAIN, VOCABULARY, clean, is_prose, number, number_text
from thinkscale.grading.sentences import (
    expression_in,
    formulas_in,
    grouped,
    joins,
    last_number,
    text_of,
    without_aside,
    without_explanation,
)

TAIL_CHARACTERS = 40_000  # only so much of the end of a response is read: an answer stands at the end
LONGEST_ANSWER = 2_000  # characters; what is longer is no answer
MOST_CANDIDATES = 60  # boxes and markers at the end that are looked at: what is repeated more often is no answer

_THINKING_ENDS = ("</think>", "<|im_start|>answer", "</Thought>")

_TURN_ENDS = ("<|im_end|>", "<|endoftext|>", "<|eot_id|>", "</s>", "<|im_start|>user", "<|user|>", "<end_of_turn>")
_NEXT_QUESTION = re.compile(
    r"\n[ \t#*]{0,9}(?:(?:next|new) )?(?:question|problem|exercise|q|human|user|instruction|frage|问题)"
    r"[ \t]?\d{0,3}[ \t*]{0,3}:",
    re.IGNORECASE,
)  # a base model goes on to write itself the next question after its answer

_BOXED = re.compile(r"\\(?:boxed|fbox|framebox) ?(?:\{|(\d+)\b)")

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

_NEGATED = re.compile(
    r"\W{0,9}?(?:(?:not|neither|never|nicht|keine?r?|n't|isn't|non?|pas|не)\b|不是|不选|[~¬]|\\neg|\\lnot)",
    re.IGNORECASE,
)

_NOT_A_NUMBER = re.compile(r"\W{0,9}not\W{1,4}\d", re.IGNORECASE)
_DENIED = re.compile(r"(?:n['’]t|not)(?: be| equal)?\W{1,4}[\d.,/]+\W*$")

_COMMENT = re.compile(
    r"(?:in)?(?:correct|valid|right|wrong|not\s+(?:given|clear|known|unique|correct)|indeed|therefore|thus|clearly|simply|given"
    r"|obtained|found|verified|the(?=\s*$)|as|that)\b",
    re.IGNORECASE,
)  # what follows "the answer is" where it announces no answer


@dataclass(frozen=True, slots=True)
class Found:
    """An answer, and all of the text that announced it where that is more."""

    answer: str
    whole: str


def extract(kind: AnswerKind, response: str, options: Sequence[str] = (), *, lines: int = 1) -> str | None:
    """The answer that a response gives, or None where it gives none.
    `lines`: how many lines an answer of kind `text` has."""
    found = find(kind, response, options, lines=lines)
    return None if found is None else found.answer


def find(kind: AnswerKind, response: str, options: Sequence[str] = (), *, lines: int = 1) -> Found | None:
    """As `extract`, with the text that the answer was taken from."""
    text = answer_part(response)
    negated = None
    boxes = [(start, box, False) for start, box in _boxes(text)]
    for _, region, is_remark in sorted([*boxes, *_marked(text, kind, lines)], key=lambda item: item[0])[::-1]:
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


def _boxes(text: str) -> list[tuple[int, str]]:
    joined: list[tuple[int, str]] = []
    last_end = -1
    for match in list(_BOXED.finditer(text))[-MOST_CANDIDATES:]:
        start, inner = match.span()
        end = inner if match[1] else _closing_brace(text, inner)
        content = match[1] or text[inner:end].strip()
        if end is None or not content or start < last_end:  # a box within a box
            continue
        if joined and joins(text[last_end:start]):
            previous = joined[-1][1]
            joined[-1] = (start, previous if previous == content else f"{previous}, {content}")
        else:
            joined.append((start, content))
        last_end = end + (match[1] is None)
    return joined


def _closing_brace(text: str, start: int) -> int | None:
    depth = 1
    for match in re.compile(r"\\.|[{}]", re.DOTALL).finditer(text, start, start + LONGEST_ANSWER):
        depth += {"{": 1, "}": -1}.get(match[0], 0)
        if depth == 0:
            return match.start()
    return None


def _marked(text: str, kind: AnswerKind, lines: int) -> Iterator[tuple[int, str, bool]]:
    """Where what is announced as the answer begins, its text, and whether it could be a mere remark."""
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
    if _BOXED.match(region):  # a box within a box
        region = next((box for _, box in _boxes(region)), region)
    if kind == "choice":
        letters = option_letters(region, options, announced=True)
        return None if letters is None else Found(letters, region)
    if kind == "text":
        return Found(clean(without_aside(without_explanation(region))), clean(region)) if clean(region) else None
    whole = clean(region)
    answer = number_text(whole) if kind == "integer" else None
    answer = answer or expression_in(region, kind)
    return None if answer is None else Found(answer, whole)


_NOTHING = re.compile(r"\b(does(?: not|n't) exist|no (?:real )?solutions?(?: exists?)?)[\s.$*!]*$", re.IGNORECASE)


def _plain(kind: AnswerKind, text: str, options: Sequence[str], lines: int) -> str | None:
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
    stripped = stripped[: len(stripped) - len(rows[-1])] + without_explanation(rows[-1])
    if kind == "math" and (nothing := _NOTHING.search(stripped[-60:])):
        return nothing[1]
    if kind == "integer":
        return number_text(stripped) or last_number(stripped)
    if formulas := formulas_in(stripped):
        said = grouped(stripped, formulas[-MOST_CANDIDATES:])[-1]
        return last_number(stripped[formulas[-1].end :]) or text_of(stripped, said) or None
    if len(rows) == 1 and not is_prose(rows[0]):
        return expression_in(rows[0], kind)
    return last_number(stripped)
