"""A benchmark under a root in S3, from a file in S3."""

from __future__ import annotations

from click.testing import CliRunner

from thinkscale.cli import cli
from thinkscale.store.benchmarks import added_benchmark
from thinkscale.store.filesystem import Store


def test_a_benchmark_is_built_and_listed_in_s3(s3_root: str) -> None:
    store = Store(f"{s3_root}/added")
    store.write_bytes("raw/mine.jsonl", b'{"question": "1 + 1?", "answer": "2"}\nnot json\n')
    path = store.url("raw/mine.jsonl")
    done = CliRunner().invoke(cli, ["benchmark", "add", "mine", "--from", path, "--root", store.uri])
    assert f"not used: {path}:2: unreadable_line" in done.output
    assert f"mine: 1 questions at {store.uri}/benchmarks/mine, 1 rows not used" in done.output
    assert added_benchmark(store, "mine").read()["answer"].to_pylist() == ["2"]
    listed = CliRunner().invoke(cli, ["benchmark", "list", "--root", store.uri])
    assert listed.output.startswith("mine                1 questions")
