"""One driver works at a time on a campaign: who gets the lease, who is told, and what a driver that lost it can do."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import threading
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from thinkscale.runtime import ending
from thinkscale.store.artifact import Artifact
from thinkscale.store.filesystem import Store
from thinkscale.store.lease import Holder, Lease, LeaseHeldError, LeaseLostError, hold

ELSEWHERE = Holder(host="other-host", pid=1, process="other-boot:1", id="theirs", started="2026-01-01T00:00:00")
HOLDER = """
import sys
from thinkscale.store.filesystem import Store
from thinkscale.store.lease import hold
with hold(Store(sys.argv[1]), "demo"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path))


def leave(store: Store, holder: Holder, *, age_s: float = 0) -> None:
    """A lease as this holder left it."""
    lease, data = "demo/lease.json", json.dumps(asdict(holder)).encode()
    while not (store.create(lease, data) or store.replace(lease, store.read_bytes(lease), data)):
        pass  # whoever holds it has just renewed it
    path = Path(store.absolute(lease))
    os.utime(path, (path.stat().st_mtime - age_s,) * 2)


def get(store: Store) -> None:
    with hold(store, "demo"):
        pass


def driver(store: Store) -> subprocess.Popen[bytes]:
    process = subprocess.Popen([sys.executable, "-c", HOLDER, store.uri], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    return process


def test_a_second_driver_is_told_who_works_and_comes_in_when_it_has_ended(store: Store) -> None:
    first = driver(store)
    with pytest.raises(LeaseHeldError, match=rf"demo is worked on by process {first.pid} on .*another \d+ s.*--wait"):
        get(store)
    first.communicate()
    with hold(store, "demo"), hold(store, "another"):
        pass


def test_a_driver_waits_when_asked_to_and_says_so_once(store: Store) -> None:
    first, said = driver(store), []

    def end(line: str) -> None:
        said.append(line)
        assert first.stdin is not None
        first.stdin.close()

    with hold(store, "demo", wait=True, lease_s=4, say=end):
        pass
    assert len(said) == 1
    assert f"worked on by process {first.pid}" in said[0]


@pytest.mark.parametrize("reap", [True, False])
def test_the_lease_of_a_driver_that_was_killed_here_is_taken_over_at_once(store: Store, reap: bool) -> None:
    first = driver(store)
    first.send_signal(signal.SIGKILL)
    if reap:
        first.wait()
    else:
        os.waitid(os.P_PID, first.pid, os.WEXITED | os.WNOWAIT)  # dead, but its parent has not looked yet
    get(store)
    first.wait()


def test_elsewhere_only_a_lease_that_has_run_out_is_taken_over(store: Store) -> None:
    leave(store, ELSEWHERE, age_s=10)
    with pytest.raises(LeaseHeldError, match=r"process 1 on other-host, since 2026-01-01T00:00:00.*another [1-5]\d s"):
        get(store)
    leave(store, ELSEWHERE, age_s=70)
    get(store)
    leave(store, replace(ELSEWHERE, released=True))
    get(store)


def test_the_same_number_of_another_process_does_not_keep_a_lease(store: Store) -> None:
    with hold(store, "demo") as lease:
        mine = lease.read()[1]
    leave(store, replace(mine, released=False, process=mine.process.rpartition(":")[0] + ":0"))
    get(store)
    leave(store, replace(mine, released=False))
    with pytest.raises(LeaseHeldError):
        get(store)


def test_a_driver_that_lost_its_lease_commits_and_deletes_nothing(store: Store, tmp_path: Path) -> None:
    (tmp_path / "weights").write_text("w")
    holding = hold(store, "demo")
    lease = holding.__enter__()
    artifact = pickle.loads(pickle.dumps(Artifact(lease.store, "demo/model")))
    artifact.begin({}, {})
    leave(store, ELSEWHERE)
    before = store.written("demo")
    for action in (
        lease.check,
        lambda: artifact.begin({}, {}),
        lambda: artifact.commit_segment("0", pa.table({})),
        lambda: artifact.add_file(tmp_path / "weights", "export/weights"),
        lambda: artifact.write_file("card", b""),
        lambda: artifact.commit("model/1"),
        lambda: artifact.store.delete("demo/model/stage.json"),
        lambda: artifact.store.delete_directory("demo/model"),
    ):
        with pytest.raises(LeaseLostError, match="demo was taken over by process 1 on other-host"):
            action()
    holding.__exit__(None, None, None)
    assert store.written("demo") == before


@pytest.mark.parametrize("handler", [signal.default_int_handler, lambda *_: None])
def test_a_lost_lease_ends_the_work_under_way(store: Store, monkeypatch: pytest.MonkeyPatch, handler: Any) -> None:
    """Whoever listens to Ctrl-C meanwhile: Ray Train does, and goes on after the training."""
    monkeypatch.setattr(ending, "reason", None)
    before = signal.signal(signal.SIGINT, handler)
    try:
        with pytest.raises(SystemExit) as raised, ending.listening():  # noqa: PT012
            signal.signal(signal.SIGINT, handler)
            with hold(store, "demo", lease_s=0.4, lost=ending.interrupt):
                leave(store, ELSEWHERE)
                threading.Event().wait(300)
                raise AssertionError("nothing told this driver")
        assert signal.getsignal(signal.SIGINT) is handler
    finally:
        signal.signal(signal.SIGINT, before)
    error = ending.reason_for(raised.value)
    assert isinstance(error, LeaseLostError)
    assert "was taken over by process 1 on other-host" in str(error)


def test_work_that_ended_before_it_heard_of_the_loss_is_told_on_leaving(store: Store) -> None:
    lost = threading.Event()
    with pytest.raises(LeaseLostError, match="taken over"), hold(store, "demo", lease_s=0.4, lost=lambda _: lost.set()):  # noqa: PT012
        leave(store, ELSEWHERE)
        assert lost.wait(300)


def test_a_lease_is_renewed_as_long_as_it_is_held(store: Store) -> None:
    with hold(store, "demo", lease_s=0.4) as lease:
        while lease.read()[1].renewals < 2:
            pass
    assert lease.read()[1].released
    with pytest.raises(LeaseLostError):
        lease.check()


def test_of_many_drivers_that_come_at_once_one_gets_the_lease(store: Store) -> None:
    leave(store, ELSEWHERE, age_s=100)
    together, over = threading.Barrier(8), threading.Barrier(8)
    got: list[Lease] = []

    def come() -> None:
        together.wait()
        try:
            with hold(store, "demo") as lease:
                got.append(lease)
                over.wait()
        except LeaseHeldError:
            over.wait()

    threads = [threading.Thread(target=come) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 1
