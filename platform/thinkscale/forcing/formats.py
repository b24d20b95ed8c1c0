"""Thinking delimiters by model family, and a budget's texts as token ids.

Owns where thinking starts and ends in the text of a model family. Knows no engine; a tokenizer is
anything that has the three methods of `Tokenizer`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

from thinkscale.domain.budget import Budget
from thinkscale.domain.campaign import Model
from thinkscale.domain.generation import TokenIds


class Tokenizer(Protocol):
    """What this package needs of a tokenizer. Hashable by identity."""

    vocab_size: int
    """Number of ids the tokenizer knows; a model's logits may have more."""
    eos_ids: TokenIds
    """Ids that end a text."""

    def __hash__(self) -> int: ...

    def encode(self, text: str) -> list[int]:
        """Ids of a text, special tokens in it recognised, none added."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, special tokens included."""
        ...

    def special_id(self, text: str) -> int | None:
        """The id of a special (added) token, None where the text is not one."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class ThinkingFormat:
    """How a model family delimits its thinking within the assistant's turn."""

    name: str
    start: str
    """Stands right after the assistant header."""
    end: str
    """What the model writes to end its thinking."""
    end_suffix: str
    """What stands between `end` and the answer."""

    def assistant_text(self, thinking: str, answer: str) -> str:
        """The assistant's turn as fine-tuning sees it, without the end-of-turn token."""
        return f"{self.start}{thinking}\n{self.end}{self.end_suffix}{answer}"


class ChatTokenizer(Protocol):
    """What a judge needs of its model's tokenizer."""

    def prompt_ids(self, question: str, thinking_format: ThinkingFormat | None, system: str | None = None) -> TokenIds:
        """The chat template with one user message and the assistant header."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids."""
        ...


S1 = ThinkingFormat(name="s1", start="<|im_start|>think\n", end="<|im_start|>answer", end_suffix="\n")
THINK = ThinkingFormat(name="think", start="<think>\n", end="</think>", end_suffix="\n\n")


def detect_format(tokenizer: Tokenizer) -> ThinkingFormat:
    """The format that a tokenizer's special tokens call for: `<think>` models, else ChatML models as s1.

    Raises ValueError where neither fits: the campaign must then name the format.
    """
    if tokenizer.special_id("</think>") is not None:
        return THINK
    if tokenizer.special_id("<|im_start|>") is not None:
        return S1
    raise ValueError(
        "the tokenizer has neither </think> nor <|im_start|>: set model.format to 's1' or 'think', or to 'custom' "
        "with model.start and model.end"
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class ForcingIds:
    """A budget and a format in token ids: all that budget forcing needs to know of a tokenizer."""

    end: TokenIds
    """Sequence that ends thinking when the model writes it. Where the delimiter starts with a special
    token, that token alone: it has no other meaning inside thinking, and nothing of the rest is lost."""
    close: TokenIds
    """Appended to end the thinking: the whole delimiter and its suffix."""
    wait: TokenIds
    final_answer: TokenIds
    newline: TokenIds
    newline_ending: frozenset[int]
    """Ids whose text ends in a newline."""
    eos: TokenIds


def forcing_ids(tokenizer: Tokenizer, thinking_format: ThinkingFormat, budget: Budget) -> ForcingIds:
    end = tuple(tokenizer.encode(thinking_format.end))
    close = tuple(tokenizer.encode(thinking_format.end + thinking_format.end_suffix))
    if close[: len(end)] != end:
        close = end + tuple(tokenizer.encode(thinking_format.end_suffix))
    onset_is_special = tokenizer.special_id(tokenizer.decode(end[:1])) is not None
    return ForcingIds(
        end=end[:1] if onset_is_special else end,
        close=close,
        wait=tuple(tokenizer.encode(budget.wait_text)),
        final_answer=tuple(tokenizer.encode(budget.final_answer_text)),
        newline=tuple(tokenizer.encode("\n")),
        newline_ending=newline_ending(tokenizer),
        eos=tokenizer.eos_ids,
    )


@lru_cache(maxsize=8)
def newline_ending(tokenizer: Tokenizer) -> frozenset[int]:
    """Ids whose text ends in a newline."""
    return frozenset(i for i in range(tokenizer.vocab_size) if tokenizer.decode([i]).endswith("\n"))


def resolve_format(model: Model, tokenizer: Tokenizer) -> ThinkingFormat:
    """The format that the campaign names, or the one that the tokenizer calls for."""
    if model.format == "custom":
        assert model.start is not None
        assert model.end is not None  # the campaign's validation saw to both
        suffix = "\n" if model.end_suffix is None else model.end_suffix
        return ThinkingFormat(name="custom", start=model.start, end=model.end, end_suffix=suffix)
    return {"s1": S1, "think": THINK}.get(model.format) or detect_format(tokenizer)
