"""A teacher's reasoning for one question: what fine-tuning learns from, and the attempts that it is chosen from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Status = Literal[
    "ok", "refusal", "content_filter", "empty_thinking", "cut_thinking", "empty_answer", "cut_answer",
    "malformed_reply", "duplicate_reply", "prompt_too_long", "error", "no_solution",
]  # fmt: skip
"""What became of an attempt. Only `ok` ones are learned from; `error` is one that failed after retries."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Attempt:
    """One attempt of a teacher at a question."""

    status: Status
    words: str = ""
    """What was wrong, in the server's words where it said something."""
    thinking: str = ""
    answer: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    usd: float = 0.0
    """What this campaign paid for it."""
    reply_id: str = ""
    """As the server named its reply."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Trace:
    """One reasoning trace. `thinking` and `answer` carry no delimiters."""

    question_id: str
    question: str
    thinking: str
    answer: str
    teacher: str
    """The teacher's model name; `solutions` for the pool's own worked solutions."""
    domain: str | None = None
    source: str = ""
    thinking_tokens: int = 0
