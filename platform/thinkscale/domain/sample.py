"""Budgets of thinking, what came of one, and the verdict on an answer."""

from dataclasses import dataclass
from typing import Literal

from thinkscale.domain.generation import TokenIds

ThinkingEnd = Literal["natural", "waits_used", "cap", "overflow"]
"""natural: the model ended by itself and no Wait was forced; waits_used: it ended by itself after forced
Waits; cap: the thinking cap was reached; overflow: the prompt left no room for an answer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """How much a model may and must think, in text. `forcing.formats` turns it into token ids."""

    max_thinking_tokens: int | None = None  # cap, in tokens between the delimiters; None: what the context leaves
    waits: int = 0  # how many times an early end of thinking is replaced by `wait_text`
    wait_text: str = "Wait"
    max_answer_tokens: int = 256
    final_answer_text: str = "Final Answer:"  # appended after the end delimiter when the cap cut the thinking

    def __post_init__(self) -> None:
        if self.max_thinking_tokens is not None and self.max_thinking_tokens < 0:
            raise ValueError(f"max_thinking_tokens is {self.max_thinking_tokens}: must be 0 or more, or none")
        if self.waits < 0:
            raise ValueError(f"waits is {self.waits}: must be 0 or more")
        if self.waits > 0 and not self.wait_text:
            raise ValueError("wait_text is empty: with waits > 0 it must hold text")
        if self.max_answer_tokens < 1:
            raise ValueError(f"max_answer_tokens is {self.max_answer_tokens}: must be 1 or more")


VerdictName = Literal["correct", "wrong", "unanswered", "ungradable"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """A grader's judgement of one answer."""

    verdict: VerdictName
    extracted_answer: str | None  # what the grader read as the answer; None where there was none to read
    grader: str  # name and version, as `integer/1`


@dataclass(frozen=True, kw_only=True, slots=True)
class Thought:
    """The result of one budget-forced generation, exact in token ids."""

    thinking_ids: TokenIds  # tokens between the delimiters, forced ones included
    answer_ids: TokenIds  # tokens after the end delimiter, the final-answer text included, the stop not
    end: ThinkingEnd
    waits_used: int
    forced_positions: tuple[tuple[int, int], ...] = ()  # [start, stop) ranges of forced tokens within thinking_ids
    answer_finish: Literal["stop", "length", "none"] = "none"  # none: there was no answer (overflow)
    prompt_tokens: int = 0
    decoded_tokens: int = 0  # tokens that an engine decodes for this result where nothing is shared with other budgets
    answer_decoded_tokens: int = 0  # the part of decoded_tokens that is the answer's, its stop included

    @property
    def thinking_tokens(self) -> int:
        return len(self.thinking_ids)

    @property
    def forced_tokens(self) -> int:
        return sum(stop - start for start, stop in self.forced_positions)
