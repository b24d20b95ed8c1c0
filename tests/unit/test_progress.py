"""Lines of progress: nothing before something is known, and rates that mean something."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from contextlib import suppress

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
    assert first == "train        100/104 steps  already done, resuming"
    assert re.fullmatch(rf"train        104/104 steps{pace}  loss 1", last)


STAGES = """
from thinkscale.runtime import progress
progress.form = {form!r}
with progress.shown({{"embed": 5, "train": 90, "report": 5}}) as over:
    over("embed", False)
    training = progress.Progress("train", 10, "steps", elapsed_s=60)
    training.advance(10, "loss 1")
    training.note("[bold]workers were lost[/bold]")
    print("printed")
    over("train", True)
"""


def on_a_terminal(form: str) -> tuple[str, str]:
    """What the program shows on a terminal, and what it prints on a standard output that is none."""
    ours, theirs = os.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    program = [sys.executable, "-c", STAGES.format(form=form)]
    done = subprocess.run(program, stderr=theirs, stdout=subprocess.PIPE, text=True, env=environment, check=True)
    os.close(theirs)
    shown = b""
    with suppress(OSError):  # the terminal's other side is closed
        while part := os.read(ours, 1 << 16):
            shown += part
    os.close(ours)
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode()), done.stdout


def test_a_terminal_shows_bars_for_the_stage_and_for_all_stages() -> None:
    shown, printed = on_a_terminal("text")
    assert printed == "printed\n"
    assert re.search(r"train +━+.*10/10 steps  0\.17 steps/s  0:00 left  loss 1", shown), shown
    assert re.search(r"all stages +━+", shown), shown
    assert "train        [bold]workers were lost[/bold]" in shown  # a text, not markup


def test_json_lines_hold_what_is_said() -> None:
    shown, printed = on_a_terminal("json")
    first, second, note = (json.loads(line) for line in shown.splitlines())
    assert (first["stage"], first["done"], first["total"], first["unit"]) == ("train", 0, 10, "steps")
    assert (second["done"], second["left_s"], second["note"]) == (10, 0, "loss 1")
    assert note["message"] == "[bold]workers were lost[/bold]"
    assert printed == "printed\n"


def test_quiet_says_nothing() -> None:
    assert on_a_terminal("quiet") == ("", "printed\n")
