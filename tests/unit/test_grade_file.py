"""Grading files: formats, what is added, and what is refused with which words."""

from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from thinkscale.domain.question import AnswerKind
from thinkscale.grading.voting import Vote
from thinkscale.report.grade_file import GradeFileError, accuracy_lines, grade_file

ROWS: list[dict[str, Any]] = [
    {"id": 1, "gold": "18", "output": "Answer: 18"},
    {"id": 2, "gold": 5, "output": "so \\boxed{6}"},
    {"id": 3, "gold": "7", "output": None},
    {"id": 4, "gold": None, "output": "Answer: 7"},
]
VERDICTS = ["correct", "wrong", "unanswered", "ungradable"]


def json_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_json_lines_keep_their_fields_and_get_verdicts(tmp_path: Path) -> None:
    source, target = json_lines(tmp_path / "in.jsonl", ROWS), tmp_path / "out.jsonl"
    counts = grade_file("integer", source, target, reference_field="gold", response_field="output")
    graded = [json.loads(line) for line in target.read_text().splitlines()]
    assert [row["verdict"] for row in graded] == VERDICTS
    assert [row["extracted_answer"] for row in graded] == ["18", "6", None, "7"]
    assert [{key: row[key] for key in ("id", "gold", "output")} for row in graded] == ROWS
    assert counts == dict.fromkeys(VERDICTS, 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl"]


def test_parquet_in_and_out_over_many_batches(tmp_path: Path) -> None:
    rows = [{"gold": str(index), "output": f"Final Answer: {index % 1000}"} for index in range(4500)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "in.parquet")
    counts = grade_file(
        "math", tmp_path / "in.parquet", tmp_path / "out.parquet",
        reference_field="gold", response_field="output",
    )  # fmt: skip
    graded = pq.read_table(tmp_path / "out.parquet")
    assert graded.column_names == ["gold", "output", "extracted_answer", "verdict"]
    assert graded.num_rows == 4500
    assert counts == {"correct": 1000, "wrong": 3500}


def test_a_first_batch_without_answers_does_not_fix_the_type(tmp_path: Path) -> None:
    rows = [{"gold": "1", "output": "none" if index < 2000 else "Answer: 1"} for index in range(2001)]
    source = json_lines(tmp_path / "in.jsonl", rows)
    grade_file("integer", source, tmp_path / "out.parquet", reference_field="gold", response_field="output")
    assert pq.read_table(tmp_path / "out.parquet")["extracted_answer"].to_pylist()[-2:] == [None, "1"]


def test_several_reference_answers_are_all_of_the_answer(tmp_path: Path) -> None:
    source = json_lines(
        tmp_path / "in.jsonl",
        [{"gold": ["5", "6"], "output": "Answer: 6, 5"}, {"gold": [5, 6], "output": "Answer: 5"}],
    )
    target = tmp_path / "new" / "out.jsonl"
    assert grade_file("math", source, target, reference_field="gold", response_field="output") == {
        "correct": 1,
        "wrong": 1,
    }


def test_options_of_choice_questions(tmp_path: Path) -> None:
    rows = [{"gold": "B", "output": "I take the red one.\nAnswer: red", "choices": ["blue", "red"]}]
    source = json_lines(tmp_path / "in.jsonl", rows)
    counts = grade_file(
        "choice", source, tmp_path / "out.parquet",
        reference_field="gold", response_field="output", options_field="choices",
    )  # fmt: skip
    assert counts == {"correct": 1}


def test_an_empty_file_gives_an_empty_file(tmp_path: Path) -> None:
    source = json_lines(tmp_path / "in.jsonl", [])
    assert grade_file("math", source, tmp_path / "o.jsonl", reference_field="a", response_field="b") == {}
    assert (tmp_path / "o.jsonl").read_text() == ""
    grade_file("math", source, tmp_path / "o.parquet", reference_field="a", response_field="b")
    assert pq.read_table(tmp_path / "o.parquet").num_rows == 0


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "line 2: not JSON"),
        ("[1]", "line 2: a JSON object is needed"),
        (f'{{"gold": {"9" * 5000}}}', "line 2: not JSON"),
    ],
)
def test_a_bad_line_is_named_and_leaves_no_output(tmp_path: Path, line: str, words: str) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text('{"gold": "1", "output": "1"}\n' + line + "\n")
    with pytest.raises(GradeFileError, match=words):
        grade_file("integer", source, tmp_path / "out.jsonl", reference_field="gold", response_field="output")
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


def test_a_field_that_no_row_has_is_refused(tmp_path: Path) -> None:
    source = json_lines(tmp_path / "in.jsonl", ROWS)
    with pytest.raises(GradeFileError, match="no field 'answer'; it has gold, id, output"):
        grade_file("integer", source, tmp_path / "out.jsonl", reference_field="answer", response_field="output")


def test_a_field_that_no_row_can_be_read_from_is_refused(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"gold": "1", "output": None},
        {"gold": "1", "output": [{"role": "assistant", "content": "1"}]},
    ]
    with pytest.raises(GradeFileError, match="field 'output' holds a list"):
        grade_file(
            "integer", json_lines(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl",
            reference_field="gold", response_field="output",
        )  # fmt: skip


ODD: list[tuple[dict[str, Any], str | list[str]]] = [
    ({"gold": "5"}, "unanswered"),
    ({"output": "5"}, "ungradable"),
    ({"gold": "5", "output": {"text": "5"}}, "unanswered"),
    ({"gold": "5", "output": ["5", "6"]}, ["correct", "wrong"]),
    ({"gold": ["5"], "output": ["Answer: 5"]}, "correct"),
    ({"gold": float("nan"), "output": "5"}, "ungradable"),
    ({"gold": "", "output": "5"}, "ungradable"),
    ({"gold": 5.0, "output": 5}, "correct"),
    ({"gold": "5", "output": "half a pair \ud800, Answer: 5", "mine": "\ud800é"}, "correct"),
]


@pytest.mark.parametrize("kind", ["integer", "math"])
def test_an_odd_row_costs_no_other(tmp_path: Path, kind: AnswerKind) -> None:
    source, target = json_lines(tmp_path / "in.jsonl", [row for row, _ in ODD]), tmp_path / "out.jsonl"
    source.write_bytes(b"\xef\xbb\xbf" + source.read_bytes())
    grade_file(kind, source, target, reference_field="gold", response_field="output")
    graded = [json.loads(line) for line in target.read_text().splitlines()]
    assert [row["verdict"] for row in graded] == [verdict for _, verdict in ODD]
    assert graded[-1]["mine"] == "\ud800é"


def test_parquet_keeps_fields_that_only_later_rows_have(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"gold": "1", "output": "1", "late": None}] * 2000
    source = json_lines(tmp_path / "in.jsonl", [*rows, {"gold": "1", "output": "1", "late": "x", "new": 1.5}])
    grade_file("integer", source, tmp_path / "a.parquet", reference_field="gold", response_field="output")
    grade_file(
        "integer", tmp_path / "a.parquet", tmp_path / "b.parquet", reference_field="gold", response_field="output"
    )
    for name in ("a.parquet", "b.parquet"):
        last = pq.read_table(tmp_path / name).to_pylist()[-1]
        assert last == {
            "gold": "1", "output": "1", "late": "x", "new": 1.5, "extracted_answer": "1", "verdict": "correct",
        }  # fmt: skip


def test_parquet_refuses_values_of_several_types_by_the_field(tmp_path: Path) -> None:
    with pytest.raises(GradeFileError, match=r"values of field 'gold' .* write .jsonl"):
        grade_file(
            "integer", json_lines(tmp_path / "in.jsonl", ROWS), tmp_path / "out.parquet",
            reference_field="gold", response_field="output",
        )  # fmt: skip


def test_an_unknown_format_is_refused(tmp_path: Path) -> None:
    source = json_lines(tmp_path / "in.jsonl", ROWS)
    with pytest.raises(GradeFileError, match=r"out.csv: the name must end in"):
        grade_file("integer", source, tmp_path / "out.csv", reference_field="gold", response_field="output")


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    """The rows in the format that the name says."""
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    if path.name.endswith(".jsonl.gz"):
        path.write_bytes(gzip.compress(lines.encode()))
    elif ".csv" in path.name:
        with io.StringIO(newline="") as text:
            writer = csv.DictWriter(text, list(rows[0]), delimiter=";" if "semicolon" in path.name else ",")
            writer.writeheader()
            writer.writerows(rows)
            data = text.getvalue().encode()
        path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    elif path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text(lines if path.suffix == ".jsonl" else json.dumps(rows, indent=1))
    return path


@pytest.mark.parametrize(
    "name", ["in.jsonl", "in.jsonl.gz", "in.csv", "in.csv.gz", "semicolon.csv", "in.json", "in.parquet", "in.tsv.csv"]
)
def test_every_format_is_graded(tmp_path: Path, name: str) -> None:
    rows = [{"gold": "18", "output": "Answer: 18, or\nso"}, {"gold": "5", "output": "Answer: 6"}]
    source = written(tmp_path / name, rows)
    counts = grade_file("math", source, tmp_path / "out.jsonl", reference_field="gold", response_field="output")
    graded = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["verdict"] for row in graded] == ["correct", "wrong"]
    assert [row["output"] for row in graded] == [row["output"] for row in rows]
    assert counts == {"correct": 1, "wrong": 1}


SEVERAL = [
    {"gold": "4", "output": ["Answer: 4", "Answer: 5", "Answer: 4.0", "Answer: 5"]},
    {"gold": "7", "output": ["Answer: 8", "Answer: 8", "Answer: 7", ""]},
]


@pytest.mark.parametrize("name", ["in.jsonl", "in.parquet"])
@pytest.mark.parametrize("target", ["out.jsonl", "out.parquet"])
def test_several_responses_of_a_row_are_graded_each(tmp_path: Path, name: str, target: str) -> None:
    votes: list[list[Vote]] = []
    counts = grade_file(
        "math", written(tmp_path / name, SEVERAL), tmp_path / target,
        reference_field="gold", response_field="output", votes=votes,
    )  # fmt: skip
    assert counts == {"correct": 3, "wrong": 4, "unanswered": 1}
    if target == "out.jsonl":
        graded = [json.loads(line) for line in (tmp_path / target).read_text().splitlines()]
    else:
        graded = pq.read_table(tmp_path / target).to_pylist()
    assert graded[0]["verdict"] == ["correct", "wrong", "correct", "wrong"]
    assert graded[1]["extracted_answer"] == ["8", "8", "7", None]
    lines = accuracy_lines(votes)
    assert lines[0].startswith("accuracy: 37.5% (95%: ")
    assert [line.split(":")[0] for line in lines[1:]] == ["maj@2", "maj@4"]
    assert lines[2].startswith("maj@4: 25.0% (")
    assert "pass@4: 100.0% (" in lines[2]


def test_rows_with_fewer_responses_are_told(tmp_path: Path) -> None:
    votes: list[list[Vote]] = []
    rows = [*SEVERAL, {"gold": "1", "output": ["1", "1"]}]
    source = written(tmp_path / "in.jsonl", rows)
    grade_file("math", source, tmp_path / "o.jsonl", reference_field="gold", response_field="output", votes=votes)
    assert accuracy_lines(votes)[-1] == "maj@k and pass@k are of the 2 rows with 4 responses"
    assert accuracy_lines([]) == []


def test_a_target_that_exists_is_kept_unless_forced(tmp_path: Path) -> None:
    source, target = json_lines(tmp_path / "in.jsonl", ROWS), tmp_path / "out.jsonl"
    target.write_text("mine")
    with pytest.raises(GradeFileError, match=r"out\.jsonl exists: .* --force"):
        grade_file("integer", source, target, reference_field="gold", response_field="output")
    assert target.read_text() == "mine"
    grade_file("integer", source, target, reference_field="gold", response_field="output", force=True)
    assert len(target.read_text().splitlines()) == len(ROWS)


def test_options_that_cannot_be_read_make_their_row_ungradable(tmp_path: Path) -> None:
    rows = [{"gold": "B", "output": "Answer: B", "o": "A) x B) y"}, {"gold": "B", "output": "Answer: B", "o": 7}]
    counts = grade_file(
        "choice", json_lines(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl",
        reference_field="gold", response_field="output", options_field="o",
    )  # fmt: skip
    assert counts == {"correct": 1, "ungradable": 1}
