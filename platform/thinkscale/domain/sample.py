"""One answer of a model to a benchmark question under one budget, and its verdict."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from thinkscale.domain.budget import ThinkingEnd
from thinkscale.domain.generation import TokenIds

VerdictName = Literal["correct", "wrong", "unanswered", "ungradable"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """A grader's judgement of one answer."""

    verdict: VerdictName
    extracted_answer: str | None
    """What the grader read as the answer; None where there was none to read."""
    grader: str
    """Name and version, as `integer/1`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Thought:
    """The result of one budget-forced generation, exact in token ids."""

    thinking_ids: TokenIds
    """Tokens between the delimiters, forced ones included."""
    answer_ids: TokenIds
    """Tokens after the end delimiter, the final-answer text included, the stop not."""
    end: ThinkingEnd
    waits_used: int
    forced_positions: tuple[tuple[int, int], ...] = ()
    """[start, stop) ranges of forced tokens within thinking_ids."""
    answer_finish: Literal["stop", "length", "none"] = "none"
    """How the answer ended; none where there was no answer (overflow)."""
    prompt_tokens: int = 0
    decoded_tokens: int = 0
    """Tokens that an engine decodes for this result where nothing is shared with other budgets."""
    answer_decoded_tokens: int = 0
    """The part of decoded_tokens that is the answer's, its stop included."""

    @property
    def thinking_tokens(self) -> int:
        return len(self.thinking_ids)

    @property
    def forced_tokens(self) -> int:
        return sum(stop - start for start, stop in self.forced_positions)
