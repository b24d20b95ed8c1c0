"""Lines of progress: nothing before something is known, and rates that mean something."""

from __future__ import annotations

import re

import pytest

from thinkscale.runtime.progress import Progress


def test_nothing_is_said_of_a_total_that_is_not_known(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress("eval base", 0, "samples")
    assert capsys.readouterr().err == ""
    progress.extend(6)
    assert capsys.readouterr().err == "eval base    0/6 samples\n"


@pytest.mark.parametrize(
    ("elapsed_s", "pace"),
    [
        (0.0, ""),  # a rate over no time would say nothing
        (80.0, "  0.05 steps/s  0:00 left"),
        (3.2, "  1.2 steps/s  0:00 left"),
        (0.8, "  5.0 steps/s  0:00 left"),
    ],
)
def test_a_rate_is_told_where_there_is_one(capsys: pytest.CaptureFixture[str], elapsed_s: float, pace: str) -> None:
    progress = Progress("train", 104, "steps", done=100, elapsed_s=elapsed_s)
    progress.advance(4, "loss 1")
    first, last = capsys.readouterr().err.splitlines()
    assert first == "train        100/104 steps already done, resuming"
    assert re.fullmatch(rf"train        104/104 steps{pace}  loss 1", last)
