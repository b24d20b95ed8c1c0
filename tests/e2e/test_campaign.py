"""Whole campaigns as a user runs them: on the command line, through the Jobs API, on S3, killed and resumed."""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from asking import CAMPAIGN
from job_head import JobHead
from thinkscale.store.artifact import Artifact
from thinkscale.store.filesystem import Store
from tiny_model import write_tiny_model

ROOT = Path(__file__).parents[2]
TINY = ROOT / "tests" / "campaigns" / "tiny.toml"
BIN = Path(sys.executable).parent


def thinkscale(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [str(BIN / "thinkscale"), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def wait_for(process: subprocess.Popen[str], words: str) -> str:
    """Read the output until a line holds the words."""
    assert process.stdout is not None
    seen = ""
    for line in process.stdout:
        seen += line
        if words in line:
            return seen
    raise AssertionError(f"{words!r} never came:\n{seen}")


def written(root: Path) -> dict[Path, int]:
    """Every file and when it was written; but for the lease, which every run takes."""
    files = (path for path in root.rglob("*") if path.is_file() and path.name != "lease.json")
    return {path: path.stat().st_mtime_ns for path in files}


def check_samples(store: Store) -> None:
    for model in ("base", "tuned"):
        table = Artifact(store, f"tiny/samples/model={model}/benchmark=held-out").read()
        assert table.num_rows == 6 * 3  # caps 2 and 6 without waits, cap 6 with one
        assert len(set(table.column("sample_id").to_pylist())) == table.num_rows
        assert set(table.column("status").to_pylist()) == {"ok"}
        assert None not in table.column("verdict").to_pylist()


def test_a_killed_campaign_resumes_and_a_finished_one_does_nothing(tmp_path: Path) -> None:
    arguments = ("run", str(TINY), "--root", str(tmp_path))
    killed = thinkscale(*arguments)
    wait_for(killed, "difficulty: complete")
    time.sleep(1)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    store = Store(str(tmp_path))
    before = store.read_bytes("tiny/difficulty/manifest.json")

    killed = thinkscale(*arguments)
    wait_for(killed, "] evaluate")
    wait_for(killed, "samples/s")  # a segment is committed
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()

    out, _ = thinkscale(*arguments).communicate(timeout=1800)
    assert "accuracy" in out, out
    assert "report.html" in out
    assert store.read_bytes("tiny/difficulty/manifest.json") == before
    check_samples(store)
    page = (tmp_path / "tiny" / "report" / "report.html").read_text()
    assert "held-out" in page
    assert "tuned" in page
    [card] = (tmp_path / "tiny" / "model").glob("export-*/README.md")
    assert "## Results" in card.read_text()
    assert card.with_name("curve.png").exists()

    files = written(tmp_path)
    out, _ = thinkscale(*arguments).communicate(timeout=1800)
    assert out.count("nothing to do") == 10, out
    assert written(tmp_path) == files

    changed, _ = thinkscale(*arguments, "--set", "select.count=4").communicate(timeout=1800)
    assert "select.count was 8, is 4" in changed, changed


def test_a_run_ends_in_order_at_its_limit_reports_what_is_there_and_goes_on_with_more(tmp_path: Path) -> None:
    """Evaluation alone, of more questions than can be asked before the limit comes."""
    (tmp_path / "asked.jsonl").write_text(
        "".join(f'{{"question": "What is {i}?", "answer": "{i}"}}\n' for i in range(20_000))
    )
    campaign = tmp_path / "limited.toml"
    campaign.write_text(CAMPAIGN.format(name="limited", directory=tmp_path, model=write_tiny_model(tmp_path / "tiny")))
    arguments = ("run", str(campaign), "--root", str(tmp_path / "root"))
    directory = tmp_path / "root" / "limited"
    segments = directory / "samples/model=base/benchmark=asked/segments"

    def spent() -> float:  # a dollar a CPU-second
        return sum(stage.get("cpu_s", 0.0) for stage in json.loads((directory / "spent.json").read_text()).values())

    first = thinkscale(*arguments)
    wait_for(first, "samples/s")  # a segment is committed
    first.terminate()
    first.communicate(timeout=1800)
    before = then = len(list(segments.iterdir()))

    while then == before:  # where starting took long, all went for that
        most = 2.5 * spent()
        limited = thinkscale(*arguments, "--max-usd", str(most))
        out, _ = limited.communicate(timeout=1800)
        assert limited.returncode == 1
        assert f"thinkscale: max_usd = {most:g}: $" in out, out
        assert "Traceback" not in out
        then = len(list(segments.iterdir()))
    assert re.search(r"PARTIAL: of base on asked \d+ of 5000 parts are drawn", out), out
    assert re.search(r"base +asked +cap 2 .*% to .*%", out), out
    assert "PARTIAL" in (directory / "report/report.html").read_text()
    assert before < then < 5000
    assert 0.95 * most <= spent() < 3 * most

    again = thinkscale(*arguments, "--max-usd", str(most))  # is used up
    assert "PARTIAL" in again.communicate(timeout=1800)[0]
    more = thinkscale(*arguments, "--max-usd", str(100 * most))
    assert f"{4 * then:,} samples already done, resuming" in wait_for(more, "resuming")
    more.terminate()
    more.wait(900)


@pytest.fixture
def head(s3_root: str, tmp_path: Path) -> Iterator[JobHead]:
    """A cluster of its own with a job server, which demands a token."""
    found = JobHead(tmp_path / "head", secrets.token_hex(16))
    try:
        found.start()
        yield found
    finally:
        found.stop()


def submit(head: JobHead, *entrypoint: str, timeout: float) -> str:
    command = [
        str(BIN / "ray"), "job", "submit", f"--address={head.server}", "--runtime-env", "jobs/runtime_env.yaml", "--",
        *entrypoint,
    ]  # fmt: skip
    for _ in range(300):
        done = subprocess.run(command, cwd=ROOT, env=head.client, capture_output=True, text=True, timeout=timeout)
        if "No available agent to submit job" not in done.stderr:  # the head is still starting
            break
        time.sleep(2)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_stages_and_the_whole_run_as_ray_jobs_on_s3(head: JobHead, s3_root: str) -> None:
    root = f"{s3_root}/parts"
    for part, words in {
        "curate": "select: complete",
        "distill": "distill: complete",
        "train": "train: complete",
        "evaluate": "evaluate: complete",
        "run": f"report: {root}/tiny/report/report.html",  # all that is left
        "report": "report: nothing to do",
    }.items():
        assert words in submit(head, "python", f"jobs/{part}.py", str(TINY), "--root", root, timeout=1800)
    check_samples(Store(root))
    assert Artifact(Store(root), "tiny/selected").require().rows == 8
