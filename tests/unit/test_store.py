"""Stores and artifacts on a local directory: atomic commits, resume, drift, damage."""

from __future__ import annotations

import pickle
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from thinkscale.domain.question import Question
from thinkscale.store.artifact import Artifact, ArtifactError, ConfigDriftError
from thinkscale.store.filesystem import Store, StoreError
from thinkscale.store.schemas import DROPPED, QUESTIONS, questions, questions_table, table
from thinkscale.store.stage import begin_stage


def question(n: int) -> Question:
    return Question(id=f"q{n}", question=f"{n}?", answer=str(n), kind="integer", source="s", metadata={"k": "v"})


def dropped(n: int, reason: str) -> pa.Table:
    return table([{"id": f"d{i}", "stage": "ingest", "reason": reason} for i in range(n)], DROPPED)


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    return Artifact(Store(str(tmp_path)), "demo/pool")


def test_rows_come_back_in_segment_order_with_their_drops(artifact: Artifact) -> None:
    artifact.begin({"a": 1}, {"in": "x"})
    artifact.commit_segment("0002", questions_table([question(2)]), stats={"cpu_busy_s": 1.5})
    artifact.commit_segment("0001", questions_table([question(1)]), dropped=dropped(2, "why"), stats={"cpu_busy_s": 1})
    manifest = artifact.commit(QUESTIONS, expected_segments={"0001", "0002"})
    assert questions(artifact.read()) == [question(1), question(2)]
    assert (manifest.rows, manifest.dropped, manifest.stats) == (2, {"why": 2}, {"cpu_busy_s": 2.5})
    assert (manifest.schema, manifest.inputs) == ("questions/1", {"in": "x"})
    drops = artifact.read_dropped()
    assert drops is not None
    assert drops.column("id").to_pylist() == ["d0", "d1"]
    assert artifact.manifest() == manifest


def test_a_directory_without_a_manifest_is_refused(artifact: Artifact) -> None:
    artifact.begin({}, {})
    artifact.commit_segment("0", questions_table([question(1)]))
    with pytest.raises(ArtifactError, match=r"demo/pool is not complete.*manifest"):
        artifact.read()


def test_a_resumed_stage_knows_its_segments_and_a_missing_one_stops_the_commit(artifact: Artifact) -> None:
    artifact.begin({"a": 1}, {})
    artifact.commit_segment("0", questions_table([question(1)]))
    assert artifact.begin({"a": 1}, {}) == {"0"}
    with pytest.raises(ArtifactError, match="'1'"):
        artifact.commit(QUESTIONS, expected_segments={"0", "1"})


def test_of_two_writers_of_a_segment_one_counts_and_no_part_is_left_over(artifact: Artifact) -> None:
    artifact.begin({}, {})
    assert artifact.commit_segment("0", questions_table([question(1)]))
    assert not artifact.commit_segment("0", questions_table([question(1)]), dropped=dropped(1, "x"))
    # A part of a writer that died before its record:
    artifact.store.write_bytes("demo/pool/part-1-dead.parquet", b"half")
    artifact.commit(QUESTIONS)
    root = Path(artifact.url)
    assert pq.read_table(sorted(root.glob("part-*.parquet"))[0]).num_rows == 1
    assert len(list(root.glob("part-*.parquet"))) == 1
    assert not list((root / "dropped").glob("*"))


def test_another_config_or_input_is_refused_with_the_keys(artifact: Artifact) -> None:
    artifact.begin({"train": {"rate": 1, "epochs": 5}}, {"pool": "a"})
    with pytest.raises(ConfigDriftError, match=r"train.rate was 1, is 2; inputs.pool was 'a', is 'b'"):
        artifact.begin({"train": {"rate": 2, "epochs": 5}}, {"pool": "b"})


def test_damage_is_noticed(artifact: Artifact) -> None:
    artifact.begin({}, {})
    artifact.commit_segment("0", questions_table([question(1)]))
    artifact.commit(QUESTIONS)
    part = next(Path(artifact.url).glob("part-*.parquet"))
    part.write_bytes(part.read_bytes()[:-1] + b"x")
    with pytest.raises(ArtifactError, match="checksum"):
        artifact.read()
    part.unlink()
    with pytest.raises(ArtifactError, match="not there"):
        artifact.read()


def test_a_second_commit_keeps_the_first(artifact: Artifact) -> None:
    artifact.begin({}, {})
    artifact.commit_segment("0", questions_table([question(1)]))
    first = artifact.commit(QUESTIONS, extra={"by": "one"})
    assert artifact.commit(QUESTIONS, extra={"by": "two"}) == first


def test_files_are_listed_with_checksums_under_the_name_that_readers_ask_for(
    artifact: Artifact, tmp_path: Path
) -> None:
    (tmp_path / "weights").write_bytes(b"w" * 100)
    artifact.begin({}, {})
    stored = artifact.add_file(tmp_path / "weights", "export/weights")
    manifest = artifact.commit("model/1", files=[stored, artifact.write_file("README.md", b"card")])
    assert [file.name for file in manifest.files] == ["export/weights", None]
    assert re.fullmatch(r"export-[0-9a-f]{8}/weights", manifest.files[0].path)
    assert artifact.read_file("export/weights") == b"w" * 100
    assert artifact.read_file("README.md") == b"card"
    with pytest.raises(ArtifactError, match="holds no summary"):
        artifact.read_file("summary")


def test_a_second_writer_changes_nothing_that_was_committed(artifact: Artifact, tmp_path: Path) -> None:
    """Two trainers of one model: the second uploads, and commits in vain, after the first has committed."""
    written = {}
    for writer in ("first", "second"):
        (tmp_path / writer).write_text(writer)
        artifact.begin({}, {})
        files = [artifact.add_file(tmp_path / writer, f"export/{name}", writer) for name in ("model", "config.json")]
        files += [artifact.add_file(tmp_path / writer, "metrics.jsonl"), artifact.write_file("card", writer.encode())]
        written[writer] = files
    manifest = artifact.commit("model/1", files=written["first"])
    artifact.add_file(tmp_path / "second", "export/model", "second")
    artifact.write_file("card", b"second")
    assert artifact.commit("model/1", files=written["second"]) == manifest
    for name in ("export/model", "export/config.json", "metrics.jsonl", "card"):
        assert artifact.read_file(name) == b"first"


def test_only_the_one_who_commits_removes_what_others_left(artifact: Artifact, tmp_path: Path) -> None:
    """A driver that is late finds the manifest there, and must delete nothing."""
    (tmp_path / "f").write_text("x")
    artifact.begin({}, {})
    artifact.commit_segment("0", questions_table([question(1)]))
    artifact.store.create("demo/pool/manifest.json", _manifest_of(artifact))
    late = artifact.add_file(tmp_path / "f", "export/f")
    before = artifact.store.files("demo/pool", recursive=True)
    artifact.commit(QUESTIONS, files=[late])
    assert artifact.store.files("demo/pool", recursive=True) == before


def test_orphans_of_a_driver_that_died_after_its_commit_go_with_the_next_run(artifact: Artifact) -> None:
    artifact.begin({}, {})
    artifact.commit_segment("0", questions_table([question(1)]))
    artifact.commit(QUESTIONS)
    for orphan in ("part-0-0123abcd.parquet", "dropped/part-0-0123abcd.parquet", "export-0123abcd/model"):
        artifact.store.write_bytes(f"demo/pool/{orphan}", b"of a writer that lost")
    assert begin_stage(artifact, {}, {}) is None
    names = set(artifact.store.files("demo/pool", recursive=True))
    assert names == {"manifest.json", "stage.json", "segments/0.json", artifact.parts()[0].path}


def _manifest_of(artifact: Artifact) -> bytes:
    """The manifest that a commit would write."""
    other = Artifact(Store(artifact.store.uri), f"{artifact.path}-copy")
    shutil.copytree(artifact.url, other.url)
    other.commit(QUESTIONS)
    return other.store.read_bytes(f"{other.path}/manifest.json")


def test_another_plan_of_segments_is_refused(artifact: Artifact) -> None:
    artifact.begin({"a": 1}, {}, {"segment_rows": 256, "keys": "x"})
    artifact.begin({"a": 1}, {}, {"segment_rows": 256, "keys": "x"})
    with pytest.raises(ConfigDriftError, match=r"plan\.segment_rows was 256, is 128"):
        artifact.begin({"a": 1}, {}, {"segment_rows": 128, "keys": "x"})
    with pytest.raises(ConfigDriftError, match=r"plan was"):
        artifact.begin({"a": 1}, {})


def test_a_root_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"file/root cannot be written"):
        Store(str(tmp_path / "file" / "root")).check_writable()


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("s3:///x", "names no bucket"),
        ("s3:/x", "names no bucket"),
        ("s3:x", "names no bucket"),
        ("s3://", "names no bucket"),
        ("gs:/bucket/x", "names no bucket"),
        ("az://", "names no bucket"),
        ("s3://bucket//x", "has an empty part"),
        ("ftp://host/x", "ftp:// is not supported; use a directory, s3://"),
        ("http:/x", "http:// is not supported"),
        ("gcs://bucket/x", "gcs:// is not supported"),
        ("file://host/x", "file:// is not supported"),
    ],
)
def test_a_root_that_is_none_is_refused_in_words(uri: str, words: str) -> None:
    with pytest.raises(StoreError, match=re.escape(words)):
        Store(uri)


@pytest.mark.parametrize(
    ("uri", "spelled"),
    [
        ("file:///data/runs", "/data/runs"),
        ("file:/data/runs/", "/data/runs"),
        ("file://localhost/data", "/data"),
        ("/data/../runs", "/runs"),
        ("/data/a:b#c%20", "/data/a:b#c%20"),
        ("S3://bucket/prefix/", "s3://bucket/prefix"),
        ("gs://bucket", "gs://bucket"),
        ("az://container/a b", "az://container/a b"),
    ],
)
def test_roots_are_spelled_in_one_way(uri: str, spelled: str) -> None:
    assert Store(uri).uri == spelled


def test_a_full_disk_is_one_sentence_that_travels(small_disk: Path, tmp_path: Path) -> None:
    store = Store(str(small_disk / "runs"))
    words = rf"^no space left on {store.uri} while writing demo/big: free some and run the same command again$"
    (tmp_path / "big").write_bytes(bytes(2 << 20))
    for write in (
        lambda: store.write_bytes("demo/big", bytes(2 << 20)),
        lambda: store.create("demo/big", bytes(2 << 20)),
        lambda: store.upload(tmp_path / "big", "demo/big"),
    ):
        with pytest.raises(StoreError, match=words) as raised:
            write()
        assert str(pickle.loads(pickle.dumps(raised.value))) == str(raised.value)
        assert not list((small_disk / "runs/demo").iterdir())  # a full disk has better uses for parts
    store.write_bytes("demo/small", b"fits")


def test_writers_on_one_directory_replace_one_after_the_other(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.create("n", b"0")

    def count(_: int) -> None:
        done = False
        while not done:
            before = store.read_bytes("n")
            done = store.replace("n", before, str(int(before) + 1).encode())

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(count, range(100)))
    assert store.read_bytes("n") == b"100"
    assert store.files("") == {"n": 3}


def test_a_forked_process_is_told_instead_of_hanging(tmp_path: Path) -> None:
    code = f"""
import os, signal
from thinkscale.store.filesystem import Store, StoreError
store = Store({str(tmp_path)!r}); store.write_bytes("a", b"1"); store.read_bytes("a")
if child := os.fork():
    raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
signal.alarm(20)
try:
    store.read_bytes("a")
except StoreError as error:
    os._exit(0 if "spawn" in str(error) else 1)
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_unknown_columns_are_an_error() -> None:
    with pytest.raises(KeyError, match="colour"):
        table([{"id": "x", "stage": "s", "reason": "r", "colour": 1}], DROPPED)
