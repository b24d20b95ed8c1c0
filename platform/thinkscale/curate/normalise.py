"""Text made comparable without changing what it means: normalised, canonical, and as tokens and shingles.
`normalise` is what is stored and asked; `canonical` is only ever compared, and loses case, dollars and spacing too. A
token is a word, a number (`twelve`, `12` alike) or an operator. Shingles are of 64 bits, the same in every process."""

import hashlib
import re
import tomllib
import unicodedata
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from importlib import resources

import numpy as np
import numpy.typing as npt

from thinkscale.domain.question import Question, question_id

# Soft hyphen, zero-width space, word joiner, byte-order mark: invisible, and never part of a meaning.
# Zero-width (non-)joiners stay: they matter in several scripts and in emoji.
_INVISIBLE = dict.fromkeys(map(ord, "\u00ad\u200b\u2060\ufeff"))
_SPACES = dict.fromkeys((0xA0, *range(0x2000, 0x200B), 0x202F, 0x205F, 0x3000), " ")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_BLANK_LINES = re.compile(r"\n{3,}")
_NEGATIVE_SPACE = re.compile(r"(?<!\\)\\!(?![A-Za-z])")  # after a backslash it is a line's end and a factorial
_THOUSANDS = re.compile(r"(?<=\d)\{,\}(?=\d{3})")

_LATEX_SPACE = re.compile(r"\\(?:[,;:! ]|quad\b|qquad\b|thinspace\b|displaystyle\b|left(?![a-z])|right(?![a-z]))|~")
_LATEX_TEXT = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mbox|emph|operatorname)\s{0,9}\{([^{}]*)\}")
_WHITESPACE = re.compile(r"\s+")
_SUPERSCRIPTS = {
    ord(sign): f"^{digit}" for digit, sign in enumerate("\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079")
}  # NFKC would make 2² the number 22
_QUOTES = str.maketrans("\u2018\u2019\u201c\u201d\u2013\u2014\u2212\u00d7\u00f7", "''\"\"---*/")


def normalise(text: str) -> str:
    """NFC, plain spaces and newlines, no invisible or control characters, LaTeX's negative spaces gone.
    Leading spaces of a line stay: they can carry a drawing or code."""
    text = unicodedata.normalize("NFC", text.replace("\r\n", "\n").replace("\r", "\n"))
    text = _CONTROL.sub("", text.translate(_INVISIBLE).translate(_SPACES))
    text = _THOUSANDS.sub(",", _NEGATIVE_SPACE.sub("", text))
    text = _BLANK_LINES.sub("\n\n", "\n".join(line.rstrip(" \t") for line in text.split("\n")))
    return text.strip("\n").rstrip()


def normalise_question(question: Question) -> Question:
    text, answer = normalise(question.question).lstrip(), normalise(question.answer).strip()
    return replace(
        question,
        id=question_id(question.source, text, answer),
        question=text,
        answer=answer,
        solution=normalise(question.solution).strip() or None if question.solution else None,
        options=tuple(normalise(option).strip() for option in question.options),
    )


def canonical(text: str) -> str:
    """The form in which two questions are compared. Equal for texts that differ in spacing, case or markup."""
    text = unicodedata.normalize("NFKC", normalise(text).translate(_SUPERSCRIPTS)).translate(_QUOTES)
    for _ in range(8):  # nested, but not deep
        text = _LATEX_TEXT.sub(r" \1 ", text)
    text = _LATEX_SPACE.sub(" ", text).replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac").replace("$", " ")
    text = re.sub(r"\\[\[\]()]", " ", text)
    return _WHITESPACE.sub(" ", text).strip().casefold()


Hashes = npt.NDArray[np.uint64]

_TOKEN = re.compile(r"\d+(?:,\d{3})+(?:\.\d+)?|\d*\.\d+|\d+|[^\W\d_]+|[^\w\s.,;:!?'\"()\[\]{}\\$&`|]")
WORDS: dict[str, list[str]] = {
    name: words.split()
    for name, words in tomllib.loads(resources.files(__package__).joinpath("words.toml").read_text("utf-8")).items()
}
_NUMBER_WORDS = {word: str(i) for i, word in enumerate(WORDS["numbers"])}
_NUMBER_WORDS |= {word: str(10 * i) for i, word in enumerate(WORDS["tens"], 2)}
_NUMBER_WORDS |= {"hundred": "100", "thousand": "1000", "million": "1000000"}
_MARKUP = frozenset(WORDS["markup"])
MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


def tokens(text: str) -> list[str]:
    return [_written(token) for token in _TOKEN.findall(canonical(text)) if token not in _MARKUP]


def numbers(words: Sequence[str]) -> list[str]:
    return [word for word in words if is_number(word)]


def mask(words: Sequence[str]) -> list[str]:
    """Tokens with every number made the same."""
    return ["0" if is_number(word) else word for word in words]


def mask_letters(words: Sequence[str]) -> list[str]:
    """Tokens with every letter that stands alone made the same."""
    return ["x" if len(word) == 1 and word.isalpha() else word for word in words]


def shingles(words: Sequence[str], size: int) -> Hashes:
    """Hashes of all runs of `size` tokens, shape [len(words) - size + 1]; of the whole where it is shorter."""
    if not words:
        return np.empty(0, dtype=np.uint64)
    size = min(size, len(words))
    hashes = np.fromiter((_hash(word) for word in words), dtype=np.uint64, count=len(words))
    count = len(words) - size + 1
    result = np.zeros(count, dtype=np.uint64)
    for i in range(size):
        result = (result ^ hashes[i : i + count]) * MULTIPLIER
        result ^= result >> np.uint64(29)
    return result


def hash_words(words: Sequence[str]) -> int:
    return hash_text("\x1f".join(words))


def hash_text(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


def is_number(word: str) -> bool:
    return word[0].isdigit() or (word[0] == "." and len(word) > 1)


_hash = lru_cache(maxsize=1 << 18)(hash_text)


@lru_cache(maxsize=1 << 16)
def _written(token: str) -> str:
    """A number as digits without thousands' commas and trailing zeros; other tokens as they are."""
    token = _NUMBER_WORDS.get(token, token)
    if not is_number(token):
        return token
    token = token.replace(",", "")
    if "." in token:
        token = token.rstrip("0").rstrip(".")
        token = f"0{token}" if token.startswith(".") else token
    return (token.lstrip("0") or "0") if "." not in token else token
