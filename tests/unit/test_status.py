"""What is told of a campaign from its root alone: its state, its stages, what it is at, its cost."""

from __future__ import annotations

import json
import os
import threading
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from test_lease import ELSEWHERE

from made_samples import made_campaign, made_samples, stored_campaign
from thinkscale.cli import cli
from thinkscale.domain.reference import commented_toml
from thinkscale.runtime import ending, progress
from thinkscale.runtime.record import Record
from thinkscale.runtime.spend import Spending
from thinkscale.store import lease
from thinkscale.store.filesystem import Store

RECORD = {
    "outcome": "", "began": "2026-01-01T00:00:00+00:00", "at": "2026-01-01T00:10:00+00:00", "job": "demo-0123abcd",
    "stage": "evaluate", "left_s": 90, "waits_for": "waits for 1 of 2 replicas (needs 1 GPU; the cluster has 0 free)",
    "progress": {"label": "eval base", "done": 10, "total": 40, "unit": "samples", "note": "", "per_s": 0.5,
                 "left_s": 60},
    "usd": 12.5, "lines": ["[1/3] benchmarks: complete", "eval base    10/40 samples"],
    "stages": {"benchmarks": {"over": True, "usd": 0.5, "elapsed_s": 60.0},
               "evaluate": {"over": False, "usd": 12.0, "elapsed_s": 540.0}},
}  # fmt: skip


def thinkscale(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments)


def status(root: Path, *options: str) -> Any:
    out = thinkscale("status", "demo", "--root", str(root), *options)
    assert out.exit_code == 0, out.output
    return json.loads(out.stdout) if "--json" in options else out.stdout


def left(root: Path, holder: lease.Holder | None, record: dict[str, Any] | None, *, age_s: float = 0) -> None:
    """A root as a driver that works elsewhere leaves it."""
    store = Store(str(root))
    store.write_bytes("demo/campaign.toml", "\n".join(commented_toml(made_campaign())).encode())
    if record is not None:
        store.write_bytes("demo/run.json", json.dumps(RECORD | record).encode())
    if holder is not None:
        store.write_bytes("demo/lease.json", json.dumps(asdict(holder)).encode())
        path = root / "demo/lease.json"
        os.utime(path, (path.stat().st_mtime - age_s,) * 2)


RELEASED = replace(ELSEWHERE, released=True)


@pytest.mark.parametrize(
    ("holder", "age_s", "record", "state", "why"),
    [
        (None, 0, None, "not begun", ""),
        (ELSEWHERE, 0, {}, "running", ""),
        (ELSEWHERE, 0, None, "running", ""),  # it has begun just now
        (replace(ELSEWHERE, cancelled=True), 5, {}, "cancelling", ""),
        (ELSEWHERE, 70, {}, "lost", "its driver went without a word: the same command resumes"),
        (RELEASED, 0, {}, "lost", "its driver went without a word: the same command resumes"),
        (RELEASED, 0, {"outcome": "complete"}, "complete", ""),
        (RELEASED, 0, {"outcome": "complete to select"}, "complete to select", ""),
        (RELEASED, 0, {"outcome": "cancelled"}, "cancelled", ""),
        (RELEASED, 0, {"outcome": "terminated"}, "terminated", ""),
        (RELEASED, 0, {"outcome": "the disk is full"}, "failed", "the disk is full"),
        (ELSEWHERE, 0, {"outcome": "the disk is full"}, "running", ""),  # again
    ],
)
def test_the_state_is_told_from_lease_and_record(
    tmp_path: Path, holder: lease.Holder | None, age_s: float, record: dict[str, Any] | None, state: str, why: str
) -> None:
    left(tmp_path, holder, record, age_s=age_s)
    found = status(tmp_path, "--json")
    assert (found["state"], found["why"]) == (state, why)
    assert f": {state}" in status(tmp_path)
    listed = json.loads(thinkscale("list", "--root", str(tmp_path), "--json").stdout)
    assert [each["state"] for each in listed] == ([] if holder is None else [state])


def test_a_status_shows_stages_rate_time_left_dollars_and_what_it_waits_for(tmp_path: Path) -> None:
    stored_campaign(tmp_path, samples=made_samples(models={"base": 0.5}))
    left(tmp_path, ELSEWHERE, {})
    found = status(tmp_path, "--json")
    assert (found["usd"], found["left_s"], found["job"]) == (12.5, 90, "demo-0123abcd")
    stages = {each["stage"]: each for each in found["stages"]}
    assert stages["benchmarks"]["state"] == "complete"
    assert stages["evaluate"]["rows"] == made_samples(models={"base": 0.5}).num_rows
    assert stages["evaluate"]["state"] == "at work"  # its second model has no samples
    assert (stages["evaluate"]["usd"], stages["evaluate"]["elapsed_s"]) == (12.0, 540.0)
    text = status(tmp_path)
    assert "running, by process 1 on other-host, since 2026-01-01T00:00:00\n" in text
    assert "eval base: 10/40 samples  0.5 samples/s  1:00 left\n" in text
    assert "\nwaits for 1 of 2 replicas (needs 1 GPU; the cluster has 0 free)\n" in text
    assert text.endswith("$12.5 so far, about 1:30 left, told at 2026-01-01T00:10:00+00:00\n")
    [line] = thinkscale("list", "--root", str(tmp_path)).stdout.splitlines()[1:]
    assert line.split() == ["demo", "running", "evaluate", "1/2", "1:30", "12.5", "2026-01-01T00:10:00+00:00"]


def test_a_root_that_is_not_there_is_told(tmp_path: Path) -> None:
    found = thinkscale("list", "--root", str(tmp_path / "no"))
    assert (found.exit_code, found.output) == (
        1,
        f"Error: there is no root {tmp_path / 'no'}: give the --root of a run\n",
    )


def test_every_command_takes_a_campaign_by_its_name_below_the_root(tmp_path: Path) -> None:
    """As it was when it ran: its file may lie on another machine."""
    left(tmp_path, RELEASED, {})
    written = thinkscale(
        "show", "demo", "--set", "name=mine", "--set", "train.epochs=7", "--root", str(tmp_path)
    ).stdout
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "campaign.toml").write_text(written.replace(str(tmp_path), "/elsewhere"))
    for campaign in (("mine", "--root", str(tmp_path)), (f"{tmp_path}/mine",)):
        shown = json.loads(thinkscale("show", *campaign, "--set", "seed=3", "--json").stdout)
        assert (shown["name"], shown["root"], shown["seed"]) == ("mine", str(tmp_path), 3)
        assert (shown["train"]["epochs"], thinkscale("why", *campaign).exit_code) == (7, 0)
    assert "no campaign 'other': give a .toml" in str(thinkscale("show", "other", "--root", str(tmp_path)).exception)


def test_a_campaign_is_found_by_its_jobs_id_and_a_wrong_name_is_told(tmp_path: Path) -> None:
    left(tmp_path, RELEASED, {})
    assert thinkscale("status", "demo-0123abcd", "--root", str(tmp_path)).exit_code == 0
    out = thinkscale("status", "other-0123abcd", "--root", str(tmp_path))
    assert "there is no campaign 'other-0123abcd' under" in str(out.exception)


def test_the_last_lines_are_told_without_a_job_server(tmp_path: Path) -> None:
    left(tmp_path, RELEASED, {})
    Store(str(tmp_path)).write_bytes("demo/logs/1/error.log", b"")
    assert thinkscale("logs", "demo", "--root", str(tmp_path)).stdout.splitlines() == [
        "[1/3] benchmarks: complete", "eval base    10/40 samples", f"kept: {tmp_path}/demo/logs/1/error.log",
    ]  # fmt: skip
    for command in ("logs", "cancel", "status"):
        unknown = thinkscale(command, "nothere", "--root", str(tmp_path))
        assert "there is no campaign 'nothere' under" in str(unknown.exception)
    assert "--follow needs --address" in thinkscale("logs", "demo", "--root", str(tmp_path), "--follow").output


def test_cancelling_ends_the_driver_in_order_and_waits_for_it(tmp_path: Path) -> None:
    store, heard = Store(str(tmp_path)), threading.Event()
    with lease.hold(store, "demo", lease_s=3, cancelled=heard.set):
        assert lease.cancel(store, "demo")
        assert heard.wait(300)
    assert not lease.cancel(store, "demo")  # nobody is there
    with lease.hold(store, "demo", lease_s=3) as held:
        assert not held.read()[1].cancelled  # that was the other one's
    assert "nothing works on" in thinkscale("cancel", "demo", "--root", str(tmp_path)).output


def _cancelled() -> None:
    threading.Thread(target=ending.cancel).start()
    threading.Event().wait(300)


def test_a_cancelled_run_ends_as_a_terminated_one() -> None:
    with ending.listening(), pytest.raises(SystemExit) as raised:
        _cancelled()
    error = ending.reason_for(raised.value)
    assert ending.word_for(error) == "cancelled"
    assert isinstance(error, SystemExit)
    assert error.code == ending.TERMINATED
    ending.forget()


def test_a_run_that_holds_nothing_writes_no_record_and_a_failure_is_written(tmp_path: Path) -> None:
    left(tmp_path, RELEASED, None)
    spent = Spending(made_campaign(), Store(str(tmp_path)))
    with Record("demo", Store(str(tmp_path)), spent, {"benchmarks": 1.0, "evaluate": 2.0}) as record:
        record.at("benchmarks")
        progress.Progress("benchmarks", 4).advance(4)
        record.over("benchmarks")
    record.end("complete", failed=False)
    assert not (tmp_path / "demo/run.json").exists()
    record.end("the disk is full", failed=True)
    found = status(tmp_path, "--json")
    assert (found["state"], found["why"], found["stages_over"]) == ("failed", "the disk is full", 1)
