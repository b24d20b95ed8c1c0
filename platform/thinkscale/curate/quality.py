"""Named rules that say what is wrong with a question. Each can be switched in `curate.quality_rules`.
Owns what makes a row unusable whatever its difficulty. A rule gives the evidence, or None where the question passes.
Patterns follow section 3 and the repository of arXiv 2501.19393, made stricter where theirs hit good questions."""

import re
from collections.abc import Callable, Sequence

from thinkscale.curate.normalise import WORDS
from thinkscale.domain.question import TRACES_BY, Question

Rule = Callable[[Question], str | None]

LONGEST_ANSWER = 2000  # characters from which a reference answer is no answer but an essay

_ASY = "[asy]"
_AIME = re.compile(r"(?<![A-Za-z_])aime", re.IGNORECASE)  # not NuminaMath's amc_aime
_BOXES = re.compile(r"[│┤┐└┴┬├─┼┘┌═║╔╗╚╝█░▒▓]")
_DRAWN_LINE = re.compile(r"[-+|/\\_#*=.:^v<>()o\[\]]{2}[-+|/\\_#*=.:^v<>()o\[\] \t]*")
_IMAGE = re.compile(r"!\[[^\]\[]{0,500}\]|<img\b|\\includegraphics|\[image\]", re.IGNORECASE)
_PICTURE = r"(?:figure|diagram|picture|image|drawing|illustration|graph|chart|map)s?"
_FIGURE = re.compile(
    rf"\b(?:{_PICTURE} (?:(?:is |are )?shown )?(?:above|below|to the (?:left|right)|at (?:left|right))"
    rf"|(?:shown|pictured|depicted|illustrated|indicated) (?:\w+ ){{0,2}}in the (?:\w+ )?{_PICTURE}"
    rf"|(?:in|from|see|consider) the (?:above|following|accompanying|given|adjacent|attached) {_PICTURE}"
    rf"|as (?:shown|pictured|depicted)(?: (?:above|below|here)\b|[.,:;]))",
    re.IGNORECASE,
)
_TABLE = re.compile(r"\\begin\{(?:tabular|array|matrix|[bpv]matrix)\}|\|.*\|")
_PART_NUMBER = re.compile(r"(?<![\w.])p[1-9]\d{0,2}\.(?!\d)")
# A number set in bold, as in **12.**; an operand before the stars makes them a power (x**2, 3*x**3*y**2).
_BOLD_NUMBER = re.compile(r"(?<![\w)\]}*])\*\*(?=[^\s\]]*\d)[^\s\]*]*\*\*(?![\w(*])")
_OPEN_END = re.compile(
    r"(?:[,;(\[{+]|\\(?:frac|sqrt|left|begin|cdot|times)"
    r"|(?<!: )\b(?:and|or|the|of|with|to|that|where|is|are|such|if))$"  # a word after a colon is what is asked about
)
_CURRENCY = re.compile(r"\$ ?\.?\d|\d ?\$")
_END_SPACING = re.compile(r"\\[,;:]?\Z")
_NO_ANSWER = re.compile(
    r"[<#\[(]?(?:n/?a|nan|nat|null|nil|undefined answer|unknown|unk|see (?:the )?(?:solution|above|below)"
    r"|(?:the )?proof|prove.*|todo|tbd|(?:answer |final answer )?not[ _-]?found|no[ _-]?(?:final )?answer(?: found)?"
    r"|not[ _-]?available|unavailable|missing|unanswered"
    r"|(?:value|ref|name|div/0)!|error|empty|placeholder|not[ _-]?(?:applicable|given|provided))[>\])!]?"
    r"|\?+|-+|\.+|\[\s*\]|\{\s*\}|https?://\S+",
    re.IGNORECASE,
)
_WORD = re.compile(r"[^\W\d_]+")
_LATEX = re.compile(r"\$[^$]*\$|\\[A-Za-z]+|\[asy\].*?\[/asy\]", re.DOTALL)
_ENGLISH = frozenset(WORDS["english"])


def missing_field(question: Question) -> str | None:
    """No question, no reference answer, or a multiple choice without its options."""
    if not question.question:
        return "the question is empty"
    if not question.answer and question.kind != "code":
        return "the reference answer is empty"
    if question.kind == "choice" and len(question.options) < 2:
        return f"multiple choice with {len(question.options)} options"
    return None


def missing_reference(question: Question) -> str | None:
    """No reference answer whatever the kind, or no trace where the source comes with traces: what the paper drops."""
    if not question.answer:
        return "the reference answer is empty"
    return "the trace is missing" if TRACES_BY in question.metadata and not question.solution else None


def ascii_art(question: Question) -> str | None:
    """A drawing in characters or in Asymptote code, which a language model cannot see.
    As in the paper, AIME questions keep theirs: the text around it suffices there."""
    if _ASY in question.question:
        return None if _AIME.search(question.source) else "[asy] drawing code"
    if found := _BOXES.findall(question.question):
        return f"{len(found)} box-drawing characters" if len(found) >= 4 else None
    lines = question.question.splitlines()
    drawn = [line for line in lines if _DRAWN_LINE.fullmatch(line.strip()) and line.strip(" -_=*.")]
    return f"{len(drawn)} drawn lines, as {drawn[0].strip()!r}" if len(drawn) >= 3 else None


def absent_image(question: Question) -> str | None:
    """A reference to an image, figure or diagram that the text does not hold."""
    if match := _IMAGE.search(question.question):
        return repr(match.group())
    if question.metadata.get("image"):
        return f"comes with an image: {question.metadata['image'][:80]}"
    if _ASY in question.question or _TABLE.search(question.question):
        return None
    return _found(_FIGURE.search(question.question))


def inconsistent_numbering(question: Question) -> str | None:
    """Numbers of problem sheets left in the text: `p12.` or `**3.**`."""
    return _found(_PART_NUMBER.search(question.question) or _BOLD_NUMBER.search(question.question))


def truncated(question: Question) -> str | None:
    """The text breaks off: an open formula or environment, or an end that cannot be one."""
    text = question.question
    if text.replace("\\$", "").count("$") % 2 and not _CURRENCY.search(text):
        return "an unclosed $"
    opened, closed = text.count("\\begin{"), text.count("\\end{")
    if opened > closed:
        return f"{opened - closed} environments not ended"
    end = text[-200:].rstrip("$ ~\n\t")
    while (shorter := _END_SPACING.sub("", end).rstrip("$ ~\n\t")) != end:
        end = shorter
    match = _OPEN_END.search(end)
    return f"ends in {match.group()!r}" if match else None


def wrong_language(question: Question) -> str | None:
    """Not English: another script, or not one common English word in a text of some length."""
    letters = [c for c in _LATEX.sub(" ", question.question) if c.isalpha()]
    foreign = sum(c > "\u024f" and not ("\u0370" <= c <= "\u03ff" or "\u1d00" <= c <= "\u22ff") for c in letters)
    if len(letters) >= 10 and foreign > 0.2 * len(letters):
        return f"{foreign} of {len(letters)} letters are of another script"
    words = [word.casefold() for word in _WORD.findall(_LATEX.sub(" ", question.question)) if len(word) > 1]
    if len(words) >= 12 and not _ENGLISH.intersection(words):
        return f"no common English word among {len(words)}"
    return None


def absurd_answer(question: Question) -> str | None:
    """A reference answer that cannot be one of its kind."""
    answer = question.answer.strip()
    if question.kind == "code":
        return None
    if len(answer) > LONGEST_ANSWER:
        return f"{len(answer)} characters long"
    if is_no_answer(answer):
        return repr(answer)
    if question.kind == "integer" and not re.fullmatch(r"[-+]?\d[\d,]*(?:\.0*)?", answer.strip("$ ")):
        return f"{answer[:80]!r} is no integer"
    if question.kind == "choice":
        letters = [chr(ord("A") + i) for i in range(len(question.options))]
        if not set(answer.split(",")) <= set(letters):
            return f"{answer[:80]!r} is not one of {', '.join(letters)}"
    if not any(c.isalnum() or c in "∞∅" for c in answer):
        return f"{answer[:80]!r} holds neither letter nor digit"
    return None


def _found(match: re.Match[str] | None) -> str | None:
    return repr(match.group()) if match else None


def is_no_answer(answer: str) -> bool:
    """Whether a text stands where an answer is missing (`N/A`, `notfound`, `#REF!`)."""
    return _NO_ANSWER.fullmatch(answer.strip()) is not None


RULES: dict[str, Rule] = {
    rule.__name__: rule
    for rule in (
        missing_field, ascii_art, absent_image, inconsistent_numbering, truncated, wrong_language, absurd_answer,
        missing_reference,
    )
}  # fmt: skip


def first_fault(question: Question, rules: Sequence[str]) -> tuple[str, str] | None:
    """Name and evidence of the first rule, of those named, that the question breaks."""
    faults = ((name, RULES[name](question)) for name in rules)
    return next(((name, evidence) for name, evidence in faults if evidence is not None), None)
