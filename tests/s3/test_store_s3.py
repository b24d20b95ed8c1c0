"""Stores and artifacts on a real S3 server."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from thinkscale.domain.generation import StopAskingError
from thinkscale.domain.models import Limits
from thinkscale.domain.question import Question
from thinkscale.runtime.limits import Pace
from thinkscale.store.artifact import Artifact, ArtifactError, new_attempt
from thinkscale.store.filesystem import Store, StoreError
from thinkscale.store.lease import LeaseHeldError, hold
from thinkscale.store.models import local_model
from thinkscale.store.replies import Replies
from thinkscale.store.schemas import QUESTIONS, questions, questions_table


def test_an_artifact_round_trip(s3_root: str, tmp_path: Path) -> None:
    artifact = Artifact(Store(f"{s3_root}/round/"), "demo/pool")
    one = Question(id="a", question="1?", answer="1", kind="integer", source="s")
    assert artifact.begin({"a": 1}, {}) == set()
    assert artifact.commit_segment("0", questions_table([one]))
    assert not artifact.commit_segment("0", questions_table([one]))
    with pytest.raises(ArtifactError, match="no manifest"):
        artifact.read()
    (tmp_path / "model.bin").write_bytes(b"x" * (6 << 20))
    stored = artifact.add_file(tmp_path / "model.bin", "export/model.bin", "0123abcd")
    manifest = artifact.commit(QUESTIONS, files=[stored])
    assert questions(artifact.read()) == [one]
    assert artifact.begin({"a": 1}, {}) == {"0"}
    names = artifact.store.files("demo/pool", recursive=True)
    assert sum(name.startswith("part-") for name in names) == 1
    assert artifact.commit(QUESTIONS) == manifest
    assert artifact.store.download("demo/pool/export-0123abcd/model.bin", tmp_path / "down") == stored.sha256
    assert (tmp_path / "down").read_bytes() == b"x" * (6 << 20)


def test_one_of_many_writers_creates(s3_root: str) -> None:
    store = Store(f"{s3_root}/race")
    for attempt in range(5):
        won: list[int] = []

        def write(n: int, attempt: int = attempt, won: list[int] = won) -> None:
            if store.create(f"manifest-{attempt}", f"writer {n}".encode()):
                won.append(n)

        threads = [threading.Thread(target=write, args=(n,)) for n in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1
        assert store.read_bytes(f"manifest-{attempt}") == f"writer {won[0]}".encode()


def test_a_server_that_is_not_there_is_named(s3_root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with pytest.raises(StoreError, match=r"s3://bkt/x cannot be written.*AWS_ENDPOINT_URL"):
        Store("s3://bkt/x").check_writable()


def test_wrong_credentials_are_named(s3_root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    monkeypatch.setenv("AWS_REGION", "us-west-2")  # another client than the other tests'
    with pytest.raises(StoreError, match=r"cannot be written.*AWS_SECRET_ACCESS_KEY"):
        Store("s3://bkt/x").check_writable()


def test_listing_and_reading(s3_root: str) -> None:
    store = Store(f"{s3_root}/list")
    store.write_bytes("a/one", b"1")
    store.write_bytes("a/b/two", b"22")
    assert store.files("a") == {"one": 1}
    assert store.files("a", recursive=True) == {"b/two": 2, "one": 1}
    assert store.directories("a") == ["b"]
    assert store.files("nothing") == {}
    with pytest.raises(FileNotFoundError):
        store.read_bytes("a/three")
    store.write_bytes("a/one", b"new")
    assert store.read_bytes("a/one") == b"new"
    store.delete("a/three")
    store.delete_directory("a/b")
    assert store.files("a", recursive=True) == {"one": 3}


def test_a_model_that_was_trained_again_is_downloaded_again(
    s3_root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THINKSCALE_CACHE", str(tmp_path / "cache"))
    artifact = Artifact(Store(f"{s3_root}/trained"), "demo/model")
    for weights in (b"first", b"later"):  # of equal size
        artifact.store.delete_directory(artifact.path)
        artifact.begin({}, {})
        attempt = new_attempt()
        files = []
        for name, data in {"config.json": b"{}", "model.safetensors": weights}.items():
            (tmp_path / name).write_bytes(data)
            files.append(artifact.add_file(tmp_path / name, f"export/{name}", attempt))
        artifact.commit("model/1", files=files)
        for reference in (artifact.url, f"{artifact.url}/export", f"{artifact.url}/export-{attempt}"):
            assert (local_model(reference) / "model.safetensors").read_bytes() == weights


def test_a_plain_directory_that_was_written_again_is_downloaded_again(
    s3_root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THINKSCALE_CACHE", str(tmp_path / "cache"))
    store = Store(f"{s3_root}/plain")
    for weights in (b"first", b"later"):
        store.write_bytes("qwen/config.json", b"{}")
        store.write_bytes("qwen/model.safetensors", weights)
        assert (local_model(store.url("qwen")) / "model.safetensors").read_bytes() == weights


def test_of_many_drivers_one_gets_the_lease_and_each_replacement_is_won_once(s3_root: str) -> None:
    store = Store(f"{s3_root}/leases")
    store.create("lease", b"0")
    for turn in range(5):
        with ThreadPoolExecutor(8) as pool:
            before = store.read_bytes("lease")
            won = list(pool.map(lambda n, t=turn, b=before: store.replace("lease", b, b"%d %d" % (t, n)), range(8)))
        assert sum(won) == 1
        assert store.read_bytes("lease") == b"%d %d" % (turn, won.index(True))
    with hold(store, "demo"), pytest.raises(LeaseHeldError, match="process"), hold(store, "demo"):
        pass
    with hold(store, "demo") as lease:
        assert 0 <= store.age_s("demo/lease.json") < 300
        lease.check()


def test_replies_and_limits_are_kept(s3_root: str) -> None:
    async def run() -> None:
        replies = Replies(Store(f"{s3_root}/paid"))
        assert await replies.get("ab" * 32) is None
        first = await replies.put("ab" * 32, {"reply": 1})
        assert await replies.put("ab" * 32, {"reply": 2}) == first == await replies.get("ab" * 32)
        pace = Pace(replies.store, "http://host m", Limits(requests_per_day=3, concurrency=2))
        for _ in range(3):
            await pace.admit(1)
        with pytest.raises(StopAskingError, match="daily quota"):
            await Pace(replies.store, "http://host m", Limits(requests_per_day=3)).admit(1)

    asyncio.run(run())
