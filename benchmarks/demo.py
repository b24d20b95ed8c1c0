"""What `thinkscale run demo` takes on this machine: minutes, and memory of all its processes together.

    python benchmarks/demo.py [ROOT]

The demo runs in a new folder, which is deleted, or below ROOT, as `make demo` runs it after its set-up. Memory is the
proportional set size (shared pages count once), summed over every process that the run started, looked at every
second. The same run is held against its plan: plan-demo.json.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from plan import compare, planned
from recording import record

MARK = "THINKSCALE_DEMO_BENCHMARK"
"""Variable by which the run's processes are known: they inherit it, whoever their parent becomes."""
GOAL_GB, GOAL_MINUTES = 8.0, 12.0


def memory_of(mark: str) -> int:
    """Bytes of all processes that carry the mark."""
    total = 0
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark:
                total += process.memory_full_info().pss
        except psutil.Error:  # it ended meanwhile, or is another user's
            continue
    return total


def main() -> None:
    mark, peak, at_s = str(os.getpid()), 0, 0.0
    with tempfile.TemporaryDirectory(prefix="thinkscale-demo-") as folder:
        root = sys.argv[1] if len(sys.argv) > 1 else folder
        plan = planned("demo", root)
        began = time.monotonic()
        command = [str(Path(sys.executable).parent / "thinkscale"), "run", "demo", "--root", root]
        run = subprocess.Popen(command, env={**os.environ, MARK: mark})
        while run.poll() is None:
            if (memory := memory_of(mark)) > peak:
                peak, at_s = memory, time.monotonic() - began
            time.sleep(1)
        if run.returncode:
            sys.exit(run.returncode)
        minutes = (time.monotonic() - began) / 60
        compare("demo", root, plan)
    record(
        "demo",
        what="peak memory of all processes of the demo together (proportional set size)",
        value=round(peak / 1e9, 2),
        unit="GB",
        baseline=f"the goal: less than {GOAL_GB:g} GB, at most {GOAL_MINUTES:g} minutes on 2 cores",
        ratio=round(peak / 1e9 / GOAL_GB, 3),
        peak_at_minute=round(at_s / 60, 1),
        minutes=round(minutes, 1),
    )


if __name__ == "__main__":
    main()
