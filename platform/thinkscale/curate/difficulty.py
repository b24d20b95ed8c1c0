"""What attempts say about a question. Pure: verdicts in, a decision out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from thinkscale.domain.sample import Verdict


@dataclass(frozen=True, kw_only=True)
class Attempts:
    """How a model did on one question."""

    pass_rate: float
    solved: bool


def judge(verdicts: Sequence[Verdict], solved_pass_rate: float) -> Attempts:
    """The share of right attempts, and whether it counts as solved. Raises ValueError without attempts."""
    if not verdicts:
        raise ValueError("a question without attempts has no pass rate")
    pass_rate = sum(verdict.verdict == "correct" for verdict in verdicts) / len(verdicts)
    return Attempts(pass_rate=pass_rate, solved=pass_rate >= solved_pass_rate)
