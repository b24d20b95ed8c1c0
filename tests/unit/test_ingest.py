from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from thinkscale.domain.question import Question
from thinkscale.domain.source import Columns, FilesSource, ReasoningGymSource
from thinkscale.store.ingest import Unreadable, plan, read, source_fingerprints
from thinkscale.store.locations import IngestError

ROWS = [{"question": f"What is {i}?\nAgain, {i}.", "answer": str(i)} for i in range(25)]


def source(*paths: Path | str, **settings: Any) -> FilesSource:
    return FilesSource(name="pool", paths=[str(path) for path in paths], **settings)


def everything(files: FilesSource | ReasoningGymSource, segment_rows: int = 10) -> list[Question | Unreadable]:
    return [row for piece in plan(files, segment_rows) for row in read(piece)]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    match path.suffix:
        case ".jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        case ".gz":
            path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
        case ".json":
            path.write_text(json.dumps(rows, indent=2))
        case ".parquet":
            pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=7)
        case _:
            with path.open("w", newline="") as file:
                writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
                writer.writeheader()
                writer.writerows(rows)
    return path


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.json", "a.csv", "a.tsv", "a.parquet"])
def test_every_format_gives_the_same_questions(tmp_path: Path, name: str) -> None:
    found = everything(source(write(tmp_path / name, ROWS)))
    assert [(q.question, q.answer) for q in found if isinstance(q, Question)] == [tuple(r.values()) for r in ROWS]
    assert len(found) == len(ROWS)


@pytest.mark.parametrize(
    ("name", "line"), [("a.jsonl", "3"), ("a.json", "10"), ("a.csv", "6"), ("a.parquet", "3"), ("a.jsonl.gz", "3")]
)
def test_a_row_knows_its_file_and_line(tmp_path: Path, name: str, line: str) -> None:
    path = write(tmp_path / name, ROWS)
    third = everything(source(path))[2]
    assert third.locator == f"{path}:{line}"


def test_lines_are_counted_across_pieces(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", ROWS)
    pieces = plan(source(path), 10)
    assert [(piece.rows, piece.part.first_line) for piece in pieces if piece.part] == [(10, 1), (10, 11), (5, 21)]
    assert [row.locator.rpartition(":")[2] for row in read(pieces[2])] == ["21", "22", "23", "24", "25"]


def test_a_column_may_appear_after_the_first_piece(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [*ROWS[:5], {**ROWS[5], "why": "so"}])
    assert everything(source(path, columns=Columns(solution="why")), segment_rows=2)[5].solution == "so"  # type: ignore[union-attr]


def test_a_last_line_without_a_newline_counts(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in ROWS[:11]))
    assert [piece.rows for piece in plan(source(path), 10)] == [10, 1]
    assert len(everything(source(path))) == 11


def test_bad_lines_are_told_with_their_place_and_cost_no_other(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    good = json.dumps(ROWS[0]).encode()
    path.write_bytes(b"\n".join([good, b'{"question": "cut', good, b"\xff\xfe", b"[1, 2]", b"", good]))
    found = everything(source(path))
    bad = [row for row in found if isinstance(row, Unreadable)]
    assert [row.locator for row in bad] == [f"{path}:{line}" for line in (2, 4, 5)]
    assert bad[0].text == '{"question": "cut'
    assert len(found) == 6


def test_a_broken_json_array_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('[\n {"question": "a", "answer": "1"},\n {"question": "b", "answer" "2"}\n]')
    with pytest.raises(IngestError, match=r"a\.json, line 3: broken JSON array"):
        everything(source(path))
    path.write_text('[\n {"question": "a", "answer": "1"}\n {"question": "b"}\n]')
    with pytest.raises(IngestError, match=r"a\.json, line 3: broken JSON array: ',' or ']' expected"):
        everything(source(path))


def test_json_lines_in_a_json_file_are_read_as_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    assert len(plan(source(path), 10)) == 3


HOSTILE = [
    ("a.jsonl", b'{"question": "half a pair \\ud800?", "answer": "1"}'),
    ("a.jsonl", b"[" * 100_000),
    ("a.jsonl", b'{"question": "How many?", "answer": ' + b"9" * 5000 + b"}"),
    ("a.jsonl", b'{"question": "caf\xe9?", "answer": "1"}'),
    ("a.csv", b"caf\xe9?,1"),
]


@pytest.mark.parametrize(("name", "line"), HOSTILE)
def test_a_hostile_line_costs_no_other(tmp_path: Path, name: str, line: bytes) -> None:
    path = write(tmp_path / name, [{"question": "What is 1?", "answer": "1"}])
    path.write_bytes(path.read_bytes() + line + b"\n" + path.read_bytes().splitlines()[-1])
    first, bad, last = everything(source(path))
    assert isinstance(bad, Unreadable)
    assert bad.locator == f"{path}:{3 if name == 'a.csv' else 2}"
    bad.text.encode()
    assert isinstance(first, Question)
    assert isinstance(last, Question)


def test_half_a_surrogate_pair_in_an_array_costs_no_other(tmp_path: Path) -> None:
    rows = [{"question": "\ud800?", "answer": "1"}, *ROWS]
    found = everything(source(write(tmp_path / "a.json", rows)))
    assert [type(row) for row in found] == [Unreadable] + [Question] * len(ROWS)


def test_a_cut_off_archive_is_refused_by_name(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl.gz", ROWS)
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(IngestError, match=r"a\.jsonl\.gz cannot be read"):
        plan(source(path), 10)


def test_nan_is_no_answer(tmp_path: Path) -> None:
    (row,) = everything(source(write(tmp_path / "a.parquet", [{"question": "What?", "answer": float("nan")}])))
    assert isinstance(row, Question)
    assert row.answer == ""


def test_a_csv_row_with_missing_cells_is_unreadable(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('question,answer\n"two\nlines",2\nalone\nlast,3\n')
    found = everything(source(path))
    assert [row.locator.rpartition(":")[2] for row in found] == ["2", "4", "5"]
    assert isinstance(found[1], Unreadable)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda path: path / "none.jsonl", r"none\.jsonl: no file there"),
        (lambda path: path / "*.jsonl", "no file there"),
        (lambda path: _text(path / "a.txt", "rows"), r"unknown format; a file's name must end in one of \.jsonl"),
        (
            lambda path: write(path / "b.jsonl", [{"problem": "x", "answer": 1}]),
            "no column 'question'.*problem, answer",
        ),
        (lambda path: _text(path / "c.parquet", "no parquet"), r"c\.parquet is no Parquet file"),
        (lambda path: _text(path / "d.json", "nothing"), r"d\.json, line 1: neither a JSON array nor JSON lines"),
    ],
)
def test_sources_that_cannot_be_read_are_refused_by_name(tmp_path: Path, make: Any, told: str) -> None:
    with pytest.raises(IngestError, match=told):
        plan(source(make(tmp_path)), 10)


def _text(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_patterns_and_directories_name_many_files(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.jsonl", "c.parquet"):
        write(tmp_path / name, ROWS[:1])
    (tmp_path / "README.md").write_text("no data")
    assert [Path(row.locator).name for row in everything(source(tmp_path / "*.jsonl"))] == ["a.jsonl:1", "b.jsonl:1"]
    assert len(everything(source(tmp_path))) == 3


def test_columns_reach_into_nested_fields_and_answers_are_cut_out(tmp_path: Path) -> None:
    rows = [
        {"q": {"text": "How many?"}, "out": "12/2 = <<12/2=6>>6 eggs\n#### 6", "meta": {"tags": ["algebra", "easy"]}},
        {"q": {"text": "How many?"}, "out": "no mark", "meta": {"tags": []}},
    ]
    columns = Columns(question="q.text", answer="out", solution="out", domain="meta.tags")
    settings = {"columns": columns, "answer_pattern": r"####\s*(.+)", "kind": "integer", "licence": "MIT"}
    good, bad = everything(source(write(tmp_path / "a.jsonl", rows), **settings))
    assert isinstance(good, Question)
    assert (good.question, good.answer, good.solution, good.domain) == ("How many?", "6", "12/2 = 6 eggs", "algebra")
    assert (good.kind, good.licence) == ("integer", "MIT")
    assert isinstance(bad, Unreadable)
    assert "answer_pattern" in bad.error


@pytest.mark.parametrize(
    ("options", "label"),
    [
        (["(A)3", "(B)4"], "B"),
        (["3", "4"], 1),
        (["3", "4"], "4"),
        ({"A": "3", "B": "4"}, "(b)"),
        ('["A. 3", "B. 4"]', "B."),
        ({"text": ["3", "4"], "label": ["A", "B"]}, "B"),
    ],
)
def test_multiple_choice_is_rendered_and_answered_by_letter(tmp_path: Path, options: Any, label: Any) -> None:
    path = write(tmp_path / "a.jsonl", [{"question": "What is 2 + 2?", "options": options, "label": label}])
    [question] = everything(source(path, columns=Columns(answer="label", options="options")))
    assert isinstance(question, Question)
    assert question.question == "What is 2 + 2?\n\nA) 3\nB) 4"
    assert (question.kind, question.answer, question.options) == ("choice", "B", ("3", "4"))


def test_kinds_and_sources_can_come_from_the_rows(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"question": "a", "answer": 11760, "type": "integer", "from": "AIME"},
        {"question": "b", "answer": 1.0, "type": "float", "from": ""},
        {"question": "c", "answer": True, "type": "bool", "from": None},
        {"question": "d", "answer": [1, 2], "type": "list of integer", "from": "GPQA"},
    ]
    found = everything(source(write(tmp_path / "a.json", rows), columns=Columns(kind="type", source="from")))
    assert [(q.answer, q.kind, q.source) for q in found if isinstance(q, Question)] == [
        ("11760", "integer", "AIME"),
        ("1", "math", "pool"),
        ("True", "text", "pool"),
        ("[1, 2]", "math", "GPQA"),
    ]


def test_a_changed_file_has_another_fingerprint(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", ROWS)
    before = source_fingerprints(source(path))
    assert list(before) == [str(path)]
    assert source_fingerprints(source(path)) == before
    write(path, [*ROWS[:-1], {"question": "What is 99?\nAgain, 99", "answer": "24"}])
    assert source_fingerprints(source(path)) != before


def test_procedural_questions_are_the_same_in_any_segments() -> None:
    gym = ReasoningGymSource(families=["gcd", "lcm", "products"], rows=50, seed=4)
    assert everything(gym, 7) == everything(gym, 1000)
    assert len(everything(gym)) == 50


def test_a_preset_fills_what_the_source_leaves_open(tmp_path: Path) -> None:
    gsm8k = source("a.jsonl", preset="gsm8k", columns={"domain": "topic"})
    assert (gsm8k.kind, gsm8k.columns.solution, gsm8k.columns.domain) == ("integer", "answer", "topic")
    assert source("a.jsonl", preset="gsm8k", kind="math").kind == "math"
    with pytest.raises(ValueError, match="preset 'gsm' is unknown; there are: aime, math"):
        source("a.jsonl", preset="gsm")
    boxed = {"problem": "How much?", "solution": r"It is $\boxed{\frac{1}{\sqrt{2}}}$.", "type": "Algebra"}
    [question] = everything(source(write(tmp_path / "a.jsonl", [boxed]), preset="hendrycks-math"))
    assert isinstance(question, Question)
    assert question.answer == r"\frac{1}{\sqrt{2}}"
    picture = {"Question": "Which?", "Answer": 1, "Answer_type": "integer", "Picture": "a.png", "subfield": "Graphs"}
    [question] = everything(source(write(tmp_path / "b.json", [picture]), preset="theoremqa"))
    assert isinstance(question, Question)
    assert question.metadata == {"image": "a.png"}
