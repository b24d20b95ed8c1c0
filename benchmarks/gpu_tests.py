"""The GPU tier: every test that needs a GPU, and what passed where.

    python benchmarks/gpu_tests.py [-k EXPRESSION] [-n 3]       (= make test-gpu)

Runs the tests of tests/gpu and those of vLLM on all GPUs of this machine, and writes
benchmarks/results/gpu_tests.json with a hash over platform/: of the code that was seen to run.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from recording import record

ROOT = Path(__file__).parents[1]
TESTS = ("tests/gpu", "tests/e2e/test_vllm_forcing.py", "tests/e2e/test_vllm_engine.py")


class Collector:
    """A pytest plugin that records each test's outcome and seconds as it ends: a run may be cut off."""

    def __init__(self) -> None:
        self._tests: dict[str, dict[str, Any]] = {}
        self._began = time.monotonic()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        found = self._tests.setdefault(report.nodeid, {"outcome": "passed", "seconds": 0.0})
        found["seconds"] = round(found["seconds"] + report.duration, 1)
        if report.outcome != "passed":
            found["outcome"] = report.outcome
            found["why"] = str(report.longrepr).replace(f"{ROOT}/", "")[-600:]
            if report.failed:
                print(f"\n{report.nodeid}\n{str(report.longrepr)[-3000:]}", flush=True)
        if report.when == "teardown":
            self._record()

    def _record(self) -> None:
        outcomes = [test["outcome"] for test in self._tests.values()]
        counts = {outcome: outcomes.count(outcome) for outcome in ("passed", "failed", "skipped")}
        ran = counts["passed"] + counts["failed"]
        with contextlib.redirect_stdout(io.StringIO()):
            record(
                "gpu_tests",
                what="tests that need a GPU: kernels, training, vLLM and forcing inside it, a campaign under Ray",
                value=counts["passed"],
                unit="tests passed",
                baseline="tests that ran",
                ratio=round(counts["passed"] / ran, 4) if ran else None,
                counts=counts,
                seconds=round(time.monotonic() - self._began),
                platform_hash=code_hash(),
                tests=self._tests,
            )


def code_hash() -> str:
    """Over all sources of the package, by path and content."""
    digest = hashlib.sha256()
    for path in sorted((ROOT / "platform").rglob("*.py")):
        digest.update(f"{path.relative_to(ROOT)}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("-k", default="", metavar="EXPRESSION", help="only tests that match, as pytest's -k")
    parser.add_argument("tests", nargs="*", default=[str(ROOT / test) for test in TESTS])
    parser.add_argument("-n", default="0", help="files at once, where pytest-xdist is installed")
    arguments = parser.parse_args()
    os.chdir(ROOT)
    beside = ["-n", arguments.n, "--dist", "loadfile"] if arguments.n != "0" else []
    return int(pytest.main(["-v", "-k", arguments.k, *beside, *arguments.tests], plugins=[Collector()]))


if __name__ == "__main__":
    sys.exit(main())
