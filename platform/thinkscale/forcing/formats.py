"""Thinking delimiters by model family, and a budget's texts as token ids.
Owns where thinking starts and ends in the text of a model family. Knows no engine."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Any, Protocol

from thinkscale.domain.generation import TextStop, TokenIds
from thinkscale.domain.models import Thinker
from thinkscale.domain.sample import Budget
from thinkscale.forcing.ending import text_stop

MARKUP = re.compile(r"<[^<>\s]{1,80}>|\[[^\[\]\s]{1,40}\]")  # what a control token looks like


class Tokenizer(Protocol):
    """What is needed of a model's tokenizer and chat template. Hashable by identity.
    `encode` recognises special tokens and adds none, `decode` includes them, `special_id` is the id of a control token,
    `token_bytes` are those that an id adds to a text."""

    vocab_size: int  # number of ids the tokenizer knows; a model's logits may have more
    eos_ids: TokenIds  # ids that end a text; the first ends the assistant's turn
    chat_template: str
    tuned_format: ThinkingFormat | None  # how the model says that it was tuned to think

    def __hash__(self) -> int: ...

    def encode(self, text: str) -> list[int]: ...

    def decode(self, ids: Sequence[int]) -> str: ...

    def special_id(self, text: str) -> int | None: ...

    def token_bytes(self, token: int) -> bytes: ...

    def prompt_ids(self, question: str, thinking_format: ThinkingFormat | None, system: str | None = None) -> TokenIds:
        """The chat template with one user message and the assistant header."""

    def fitted(self, thinking_format: ThinkingFormat) -> ThinkingFormat:
        """The format with the white space that the chat template has around its delimiters."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ThinkingFormat:
    """How a model family delimits its thinking within the assistant's turn."""

    name: str
    start: str  # stands right after the assistant header
    end: str  # what the model writes to end its thinking
    end_suffix: str  # what stands between `end` and the answer
    before_end: str = "\n"  # what stands between the thinking and `end`

    @property
    def opening(self) -> str:
        """The delimiter that opens the thinking, without white space."""
        return self.start.strip()

    @property
    def close(self) -> str:
        """What ends the thinking and begins the answer."""
        return self.end + self.end_suffix


TABLE: dict[str, Any] = tomllib.loads(resources.files(__package__).joinpath("formats.toml").read_text("utf-8"))
_KNOWN_BY = {name: facts.pop("known_by") for name, facts in TABLE["formats"].items() if "known_by" in facts}
FORMATS = {name: ThinkingFormat(name=name, **facts) for name, facts in TABLE["formats"].items()}
S1, THINK, HARMONY = FORMATS["s1"], FORMATS["think"], FORMATS["harmony"]


class UnknownFormatError(ValueError):
    """Nothing tells how a model thinks; the message says what to set."""


def native_format(tokenizer: Tokenizer) -> ThinkingFormat | None:
    """The format that a model was trained to think in: as its export says, or by control tokens and template."""
    if tokenizer.tuned_format is not None:
        return tokenizer.tuned_format
    for name, mark in _KNOWN_BY.items():
        if tokenizer.special_id(mark) is not None or mark in tokenizer.chat_template:
            return tokenizer.fitted(FORMATS[name])
    return None


def resolve_format(model: Thinker, tokenizer: Tokenizer) -> ThinkingFormat:
    """The format that the settings name, or the one that the model was trained to think in; for other ChatML models s1.
    Raises UnknownFormatError where none of them fits: the campaign must then name the format."""
    if model.format == "custom":
        assert model.start is not None and model.end is not None  # noqa: PT018 (the settings' validation saw to both)
        suffix = "\n" if model.end_suffix is None else model.end_suffix
        return ThinkingFormat(name="custom", start=model.start, end=model.end, end_suffix=suffix)
    if model.format != "auto":
        return tokenizer.fitted(FORMATS[model.format])
    if (native := native_format(tokenizer)) is not None:
        return native
    if tokenizer.special_id("<|im_start|>") is not None:
        return S1
    raise UnknownFormatError(
        "neither tokenizer nor chat template tells how the model thinks: set model.format to "
        f"{', '.join(map(repr, FORMATS))}, or to 'custom' with model.start and model.end"
    )


def split_thinking(text: str, thinking_format: ThinkingFormat | None = None) -> tuple[str, str] | None:
    """Thinking and answer of a text that holds them with their delimiters; None for one that merely mentions some.
    Thinking is delimited where the text begins with its opening, or where its end stands on a line of its own."""
    for each in [*([thinking_format] if thinking_format else []), *FORMATS.values()]:
        opening, end = re.escape(each.opening), re.escape(each.end)
        if each.end_suffix.strip():
            end += re.escape(each.end_suffix.strip())
        found = re.match(rf"\s*{opening}(.*?){end}(.*)\Z", text, re.DOTALL) if opening else None
        found = found or re.match(rf"(.*?)\n[ \t]*{end}[ \t]*(?:\n(.*))?\Z", text, re.DOTALL)
        if found:
            return found[1].strip(), (found[2] or "").strip()
    return None


def behind(tokenizer: Tokenizer, text: str) -> list[int]:
    """Ids of a text that other text stands before: without the space that some tokenizers put before all text."""
    line = tokenizer.encode("\n")
    return tokenizer.encode(text) if len(line) == 1 else tokenizer.encode("\n" + text)[len(line) :]


def literal(tokenizer: Tokenizer, text: str) -> list[int]:
    """Ids of a text in which control tokens are mere text, behind other text."""
    cuts = control_cuts(tokenizer, text)
    return [i for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True) for i in behind(tokenizer, text[a:b])]


def control_cuts(tokenizer: Tokenizer, text: str) -> list[int]:
    """Where to cut a text so that no control token in it is recognised."""
    return [found.start() + 1 for found in MARKUP.finditer(text) if tokenizer.special_id(found[0]) is not None]


@dataclass(frozen=True, kw_only=True, slots=True)
class ForcingIds:
    """A budget and a format in token ids: all that budget forcing needs to know of a tokenizer."""

    end: TokenIds
    """Sequence that ends thinking when the model writes it. Where the delimiter starts with a special
    token, that token alone: it has no other meaning inside thinking, and nothing of the rest is lost."""
    close: TokenIds  # appended to end the thinking: the whole delimiter and its suffix
    wait: TokenIds
    final_answer: TokenIds
    newline: TokenIds  # before `close` where the cap cut the thinking in the middle of a line
    newline_ending: frozenset[int]  # ids whose text ends in a newline
    eos: TokenIds
    end_text: TextStop | None = None  # a delimiter of ordinary tokens: found in the text, however its tokens merge
    start: TokenIds = ()  # opens thinking: never drawn in an answer, nor first in a thinking that is open
    start_text: TextStop | None = None  # the same where it is of ordinary tokens

    @property
    def fits_engine(self) -> bool:
        """Whether the automaton inside an engine can force it: thinking opens and ends at single tokens."""
        return self.end_text is None and self.start_text is None and len(self.end) == 1


@lru_cache(maxsize=256)
def forcing_ids(tokenizer: Tokenizer, thinking_format: ThinkingFormat, budget: Budget) -> ForcingIds:
    """The texts of a budget and a format. The close is the one that training puts behind a thinking."""
    end = behind(tokenizer, thinking_format.end)
    close = behind(tokenizer, thinking_format.close)
    start = behind(tokenizer, thinking_format.opening)
    ends_special = tokenizer.special_id(tokenizer.decode(end[:1])) is not None
    starts_special = bool(start) and tokenizer.special_id(tokenizer.decode(start[:1])) is not None
    single = starts_special or len(start) < 2
    return ForcingIds(
        end=tuple(end[:1] if ends_special else end),
        close=tuple(close),
        wait=tuple(literal(tokenizer, budget.wait_text)),
        final_answer=tuple(literal(tokenizer, budget.final_answer_text)),
        newline=tuple(behind(tokenizer, thinking_format.before_end)),
        newline_ending=newline_ending(tokenizer),
        eos=tokenizer.eos_ids,
        end_text=None if ends_special else text_stop(tokenizer, thinking_format.end),
        start=tuple(start[:1] if single else start),
        start_text=None if single else text_stop(tokenizer, thinking_format.opening),
    )


@lru_cache(maxsize=8)
def newline_ending(tokenizer: Tokenizer) -> frozenset[int]:
    """Ids whose text ends in a newline."""
    return frozenset(i for i in range(tokenizer.vocab_size) if tokenizer.decode([i]).endswith("\n"))
