"""Questions as tokens and shingles: what duplicates and leaks are measured on.

Owns what counts as a word. A token is a word, a number or an operator of the canonical text; punctuation and
markup are none. Numbers are alike however they are written (`twelve`, `12`, `1,200`); `mask` makes all of
them one. Shingles are hashed to 64 bits, the same in every process.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from thinkscale.curate.normalise import canonical

Hashes = npt.NDArray[np.uint64]

_TOKEN = re.compile(r"\d+(?:,\d{3})+(?:\.\d+)?|\d*\.\d+|\d+|[^\W\d_]+|[^\w\s.,;:!?'\"()\[\]{}\\$&`|]")
_UNITS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_NUMBER_WORDS = {
    **{word: str(i) for i, word in enumerate(_UNITS)},
    **{word: str(10 * i) for i, word in enumerate(_TENS, 2)},
    "hundred": "100",
    "thousand": "1000",
    "million": "1000000",
}
# LaTeX commands that only say how something looks.
_MARKUP = frozenset((
    "frac", "dfrac", "tfrac", "displaystyle", "begin", "end", "align", "aligned", "array", "cdot", "times", "mathbb",
    "mathcal", "rm",
))  # fmt: skip
MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


def tokens(text: str) -> list[str]:
    """Words, numbers and operators of a question."""
    return [_written(token) for token in _TOKEN.findall(canonical(text)) if token not in _MARKUP]


def numbers(words: Sequence[str]) -> list[str]:
    """The numbers among tokens, in order."""
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
    """64 bits of a sequence of words."""
    return hash_text("\x1f".join(words))


def hash_text(text: str) -> int:
    """64 bits of a text."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


def is_number(word: str) -> bool:
    """Whether a token is a number."""
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
