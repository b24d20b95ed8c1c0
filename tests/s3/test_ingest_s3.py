"""Pool files in S3: read in pieces, by pattern and by directory; refusals that name the key."""

from __future__ import annotations

import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from thinkscale.domain.question import Question
from thinkscale.domain.source import FilesSource
from thinkscale.store.filesystem import Store
from thinkscale.store.ingest import plan, read, source_fingerprints
from thinkscale.store.locations import IngestError

ROWS = [{"question": f"What is {i}?", "answer": str(i)} for i in range(25)]


@pytest.fixture(scope="module")
def pool(s3_root: str) -> str:
    store = Store(f"{s3_root}/ingest")
    store.write_bytes("pool/a.jsonl", b"".join(json.dumps(row).encode() + b"\n" for row in ROWS))
    parquet = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(ROWS), parquet, row_group_size=10)
    store.write_bytes("pool/b.parquet", parquet.getvalue())
    store.write_bytes("pool/README.md", b"no data")
    return f"{s3_root}/ingest/pool"


def questions(*paths: str) -> list[Question]:
    files = FilesSource(name="pool", paths=list(paths))
    found = [row for piece in plan(files, 10) for row in read(piece)]
    assert all(isinstance(row, Question) for row in found)
    return found  # type: ignore[return-value]


@pytest.mark.parametrize("name", ["a.jsonl", "b.parquet", "?.jsonl"])
def test_a_file_is_read_whole_in_pieces(pool: str, name: str) -> None:
    found = questions(f"{pool}/{name}")
    assert [q.answer for q in found] == [str(i) for i in range(25)]
    assert found[12].locator.startswith(pool)
    assert found[12].locator.endswith(":13")


def test_a_directory_gives_its_data_files(pool: str) -> None:
    assert len(questions(f"{pool}/")) == 50


def test_fingerprints_are_of_the_content(pool: str) -> None:
    files = FilesSource(name="pool", paths=[f"{pool}/*"])
    with pytest.raises(IngestError, match=r"README\.md: unknown format"):
        plan(files, 10)
    assert len(source_fingerprints(files)) == 3


def test_a_missing_key_is_told_by_name(pool: str) -> None:
    with pytest.raises(IngestError, match=r"none\.jsonl cannot be opened.*Check the bucket and key"):
        questions(f"{pool}/none.jsonl")
    with pytest.raises(IngestError, match="no file there"):
        questions(f"{pool}/*.csv")
