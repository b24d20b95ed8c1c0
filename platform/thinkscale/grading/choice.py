"""The letter of an option that a text names, however it says so. Every rule takes time linear in its text."""

import re
from collections.abc import Sequence

from thinkscale.grading.notation import VOCABULARY, clean

LONGEST_TEXT = 40_000  # characters at the end of a text in which an option letter is looked for

_JOIN = (
    rf"(?:[?. ]?[ ]?(?:,|/|&|\+|\||;|\b(?i:{VOCABULARY['words']['joins']})\b|和|或|与|及|と)"
    r" ?(?:possibly |maybe |perhaps )?)+"
)
_SEVERAL = re.compile(
    r"(?i:(?:the )?(?:both|either|options?|choices?) )?[(\[]?([A-Z])[)\]]?"
    rf"(?:{_JOIN}(?:option |choice )?[(\[]?[A-Z][)\]]?)+(?![A-Za-z0-9'])"
)
_OPEN = re.compile(rf"\b(?:{VOCABULARY['words']['alternatives']})\b|或")
_DOUBTED = re.compile(
    rf"\W{{0,4}}(?:(?:{VOCABULARY['words']['alternatives']})\W{{1,3}}(?:[A-Z]\b|not|none|neither|some|any|else|other)"
    r"|(?:to|through|thru) \W?[A-Z]\b|(?:is|was|would be) (?:not|wrong|incorrect|false)\b|(?:is|was|ca)n['’]t\b"
    r"|cannot\b)|[?~-]\W?[A-Z]\b"
)
_RUN = re.compile(r"[(\[]?([A-Z]{2,10})[)\]]?(?![A-Za-z0-9'])")
_LETTER = re.compile(
    rf"[ (\[{{*_`\"'$\\:-]{{0,40}}(?i:{VOCABULARY['words']['option']})?"
    r"[ (\[{*_`\"':]{0,40}([A-Za-z])"
    r"(?!['’]?[A-Za-z0-9_])(?! ?[=+^_<>])"
)
_RIGHT = re.compile(r"(?<!nor )(?<!nor \()\b([A-Z])\b[)*]* is (?:the )?(?:right|correct|best|true)\b")
_LONE_LETTER = re.compile(r"(?<![A-Za-z0-9_'’.-])([B-HJ-Z])(?![A-Za-z0-9_'’-])(?! ?[=+^<>])")
_WRAPPED = re.compile(
    r"\(([A-Z])\)|\[([A-Z])\]|\*\*\(?([A-Z])(?:\)?[.:]?|[.):]+[ \t][^*\n]{1,200})\*\*"
    r"|\b(?i:so|thus|hence|therefore|it['’]s|it is),?\s{1,9}\(?([A-Z])\)?[.!]?\s{0,9}\Z"
    r"|\A\s*\(?([A-Z])(?:[.):]+| -)[ \t][^\n]*\Z"
    r"|\b(?i:option|choice)\s{1,9}\(?([A-Z])\b|^[ \t]{0,40}([A-Z])[.):]?[ \t]*$",
    re.MULTILINE,
)
_LOWER = re.compile(r"[(\[]?[a-j][)\]]?(?:(?: and | or |[ ,;&+/]+)[(\[]?[a-j][)\]]?)+")
_ALONE = re.compile(r"[^\w\s]{0,4}([A-Za-z])[^\w\s]{0,4}")
_EXCLUDING = re.compile(r"\b(?:not|n?either|nor|never|unless|except|but|wrong|incorrect|none)\b|n't\b", re.IGNORECASE)
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def option_letters(text: str, options: Sequence[str], *, announced: bool) -> str | None:
    """The letter of the option that a text names (`B`, or `A,C` for several), None where it names none.
    `options`: the texts of the options: a text that is one of them names its letter. `announced`: whether the text is
    an announced answer; else only a letter set apart counts."""
    allowed = _LETTERS[: len(options)] if options else _LETTERS[:10]
    plain = clean(text[-LONGEST_TEXT:])
    for letter, option in zip(_LETTERS, options, strict=False):
        if (wanted := _folded(clean(option))) and _folded(plain) == wanted:
            return letter
    if announced:
        bare = re.sub(r"[*$`\"{}]|'(?![a-z])|\\(?:quad|[,;: ])|\\(?=[{}])", "", plain)
        bare = bare.upper() if _LOWER.fullmatch(bare) else bare
        if several := _SEVERAL.match(bare):
            letters = sorted(set(re.findall(r"(?<![A-Za-z])[A-Z](?![A-Za-z])", several[0])))
            return (" or " if _OPEN.search(several[0].lower()) else ",").join(letters)
        run = re.sub(r"[ ()\[\]]", "", bare)
        if 1 < len(run) == len({*run} & {*allowed}):
            return ",".join(sorted(run))
        if (found := _RUN.match(bare)) and "".join(sorted({*found[1]} & {*allowed})) == found[1]:
            return ",".join(found[1])
        match = _LETTER.match(plain)
        if match and match[1].upper() in allowed and not _is_article(plain, match):
            return None if _DOUBTED.match(plain, match.end()) else str(match[1]).upper()
        lone = {letter for letter in _LONE_LETTER.findall(plain[:200]) if letter in allowed}
        if len(lone) == 1 and not _EXCLUDING.search(plain[:200]):
            return str(lone.pop())
    if (alone := _ALONE.fullmatch(plain)) and alone[1].upper() in allowed:
        return alone[1].upper()
    right, chosen = {letter for letter in _RIGHT.findall(text[-LONGEST_TEXT:]) if letter in allowed}, None
    if len(right) == 1:
        return str(right.pop())
    for match in _WRAPPED.finditer(plain if announced else text):
        letter = next(group for group in match.groups() if group)
        if letter in allowed:
            chosen = letter
    return chosen


def _is_article(text: str, match: re.Match[str]) -> bool:
    """Whether the letter is the word `A`, `a` or `I` of a sentence, or a lower-case letter that begins one."""
    follows = re.match(r"\s+([a-z]+)", text[match.end() :])
    if match[1].islower():
        return not re.match(r"[.:)\]}]+(?:\s|$)", text[match.end() :]) and bool(text[match.end() :].strip(" .)]}*:"))
    return match[1] in "AI" and follows is not None and follows[1] not in ("because", "since", "as", "is", "and", "or")


def _folded(text: str) -> str:
    return re.sub(r"\s+", "", text).casefold()
