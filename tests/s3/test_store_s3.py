"""Stores and artifacts on a real S3 server."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from thinkscale.domain.question import Question
from thinkscale.store.artifact import Artifact, ArtifactError
from thinkscale.store.filesystem import Store, StoreError
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
    stored = artifact.add_file(tmp_path / "model.bin", "export/model.bin")
    manifest = artifact.commit(QUESTIONS, files=[stored])
    assert questions(artifact.read()) == [one]
    assert artifact.begin({"a": 1}, {}) == {"0"}
    names = artifact.store.files("demo/pool", recursive=True)
    assert sum(name.startswith("part-") for name in names) == 1
    assert artifact.commit(QUESTIONS) == manifest
    directory = artifact.store.download("demo/pool/export", tmp_path / "down")
    assert (directory / "model.bin").read_bytes() == b"x" * (6 << 20)


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
    assert not store.exists("a/three")
    with pytest.raises(FileNotFoundError):
        store.read_bytes("a/three")
    store.write_bytes("a/one", b"new")
    assert store.read_bytes("a/one") == b"new"
