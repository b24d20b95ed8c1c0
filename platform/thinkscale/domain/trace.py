"""A teacher's reasoning for one question: what fine-tuning learns from."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Trace:
    """One reasoning trace. `thinking` and `answer` carry no delimiters."""

    question_id: str
    question: str
    thinking: str
    answer: str
    teacher: str
    """`solutions` (the pool's own worked solutions) or the teacher's model name."""
    domain: str | None = None
    source: str = ""
    thinking_tokens: int = 0
