"""Stores and artifacts on a local directory: atomic commits, resume, drift, damage."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from thinkscale.domain.question import Question
from thinkscale.store.artifact import Artifact, ArtifactError, ConfigDriftError
from thinkscale.store.filesystem import Store, StoreError
from thinkscale.store.schemas import DROPPED, QUESTIONS, questions, questions_table, table


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


def test_files_are_listed_with_checksums(artifact: Artifact, tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(b"w" * 100)
    artifact.begin({}, {})
    stored = artifact.add_file(tmp_path / "weights", "export/weights")
    manifest = artifact.commit("model/1", files=[stored])
    assert manifest.files[0].path == "export/weights"
    assert artifact.store.read_bytes("demo/pool/export/weights") == b"w" * 100


def test_a_root_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"file/root cannot be written"):
        Store(str(tmp_path / "file" / "root")).check_writable()
    with pytest.raises(StoreError, match="gs:// is not supported"):
        Store("gs://bucket/x")
    with pytest.raises(StoreError, match="names no bucket"):
        Store("s3:///x")


def test_unknown_columns_are_an_error() -> None:
    with pytest.raises(KeyError, match="colour"):
        table([{"id": "x", "stage": "s", "reason": "r", "colour": 1}], DROPPED)
