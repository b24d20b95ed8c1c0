"""Budgets of thinking, and how a thinking phase ended (design: budget forcing)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

ThinkingEnd = Literal["natural", "waits_used", "cap", "overflow"]
"""natural: the model ended by itself and no Wait was forced; waits_used: it ended by itself after forced
Waits; cap: the thinking cap was reached; overflow: the prompt left no room for an answer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """How much a model may and must think, in text. `forcing.formats` turns it into token ids."""

    max_thinking_tokens: int | None = None
    """Cap, in tokens between the delimiters; None: what the context leaves."""
    num_waits: int = 0
    """How many times an early end of thinking is replaced by `wait_text`."""
    wait_text: str = "Wait"
    max_answer_tokens: int = 256
    final_answer_text: str = "Final Answer:"
    """Appended after the end delimiter when the cap cut the thinking."""

    def __post_init__(self) -> None:
        if self.max_thinking_tokens is not None and self.max_thinking_tokens < 0:
            raise ValueError(f"max_thinking_tokens is {self.max_thinking_tokens}: must be 0 or more, or none")
        if self.num_waits < 0:
            raise ValueError(f"num_waits is {self.num_waits}: must be 0 or more")
        if self.num_waits > 0 and not self.wait_text:
            raise ValueError("wait_text is empty: with num_waits > 0 it must hold text")
        if self.max_answer_tokens < 1:
            raise ValueError(f"max_answer_tokens is {self.max_answer_tokens}: must be 1 or more")
