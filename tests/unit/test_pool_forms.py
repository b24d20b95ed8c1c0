"""Pools in the forms that files really have: options, tables in JSON, CSV dialects, several answers, programs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from thinkscale.cli import cli
from thinkscale.curate.quality import absurd_answer, missing_field
from thinkscale.domain.question import Question
from thinkscale.domain.source import Columns, FilesSource
from thinkscale.store.ingest import Unreadable, plan, read
from thinkscale.store.locations import IngestError
from thinkscale.store.options import Options, read_options


def read_all(path: Path, **settings: Any) -> list[Question | Unreadable]:
    source = FilesSource(name="pool", paths=[str(path)], **settings)
    return [row for piece in plan(source, 10) for row in read(piece)]


THREE = ("3 cm", "4 cm", "5 cm")
FORMS: list[Any] = [
    ["3 cm", "4 cm", "5 cm"],
    ["A) 3 cm", "B) 4 cm", "C) 5 cm"],
    ["(A)3 cm", "(B)4 cm", "(C)5 cm"],
    ["A. 3 cm", "B. 4 cm", "C. 5 cm"],
    ["a) 3 cm", "b) 4 cm", "c) 5 cm"],
    "A) 3 cm B) 4 cm C) 5 cm",
    "A) 3 cm, B) 4 cm, C) 5 cm",
    "(A) 3 cm (B) 4 cm (C) 5 cm",
    "A. 3 cm\nB. 4 cm\nC. 5 cm",
    "A: 3 cm; B: 4 cm; C: 5 cm",
    "a) 3 cm b) 4 cm c) 5 cm",
    "1) 3 cm 2) 4 cm 3) 5 cm",
    "3 cm\n4 cm\n5 cm",
    "3 cm | 4 cm | 5 cm",
    "3 cm; 4 cm; 5 cm",
    '["3 cm", "4 cm", "5 cm"]',
    "['3 cm', '4 cm', '5 cm']",
    "('3 cm', '4 cm', '5 cm')",
    "['3 cm' '4 cm' '5 cm']",
    "['3 cm'\n '4 cm'\n '5 cm']",
    "array(['3 cm', '4 cm', '5 cm'], dtype=object)",
    "array(['3 cm', '4 cm', '5 cm'], dtype='<U4')",
    {"A": "3 cm", "B": "4 cm", "C": "5 cm"},
    {"C": "5 cm", "A": "3 cm", "B": "4 cm"},
    {"a": "3 cm", "b": "4 cm", "c": "5 cm"},
    '{"A": "3 cm", "B": "4 cm", "C": "5 cm"}',
    "{'A': '3 cm', 'B': '4 cm', 'C': '5 cm'}",
    {"1": "3 cm", "2": "4 cm", "3": "5 cm"},
    {"option_a": "3 cm", "option_b": "4 cm", "option_c": "5 cm"},
    [{"label": "A", "text": "3 cm"}, {"label": "B", "text": "4 cm"}, {"label": "C", "text": "5 cm"}],
    [{"label": "B", "text": "4 cm"}, {"label": "A", "text": "3 cm"}, {"label": "C", "text": "5 cm"}],
    [{"key": "A", "value": "3 cm"}, {"key": "B", "value": "4 cm"}, {"key": "C", "value": "5 cm"}],
    [{"id": 0, "content": "3 cm"}, {"id": 1, "content": "4 cm"}, {"id": 2, "content": "5 cm"}],
    [{"A": "3 cm"}, {"B": "4 cm"}, {"C": "5 cm"}],
    {"choices": ["3 cm", "4 cm", "5 cm"], "labels": ["A", "B", "C"]},
    {"text": ["3 cm", "4 cm", "5 cm"], "label": ["A", "B", "C"]},
    {"label": ["1", "2", "3"], "text": ["3 cm", "4 cm", "5 cm"]},
    {"choices": {"text": ["3 cm", "4 cm", "5 cm"], "label": ["A", "B", "C"]}},
    {"options": ["3 cm", "4 cm", "5 cm"]},
    [("A", "3 cm"), ("B", "4 cm"), ("C", "5 cm")],
    [" 3 cm ", "4 cm", "5 cm\n"],
    "[A] 3 cm [B] 4 cm [C] 5 cm",
    "A、3 cm B、4 cm C、5 cm",
    "Answer Choices: (A) 3 cm (B) 4 cm (C) 5 cm",
    "Options: A) 3 cm B) 4 cm C) 5 cm",
    [["A", "3 cm"], ["B", "4 cm"], ["C", "5 cm"]],
    {"choices": [{"label": "A", "text": "3 cm"}, {"label": "B", "text": "4 cm"}, {"label": "C", "text": "5 cm"}]},
    "{'label': array(['A', 'B', 'C'], dtype=object), 'text': array(['3 cm', '4 cm',\n '5 cm'], dtype=object)}",
]


@pytest.mark.parametrize("form", FORMS, ids=range(len(FORMS)))
def test_options_are_read_in_every_form(form: Any) -> None:
    assert read_options(form).texts == THREE


def test_other_options_keep_what_they_say() -> None:
    assert read_options([1, 2.5]).texts == ("1", "2.5")
    assert read_options("[1 2 3]").texts == ("1", "2", "3")
    assert read_options(["A. Lincoln", "B. Franklin"]).texts == ("Lincoln", "Franklin")
    assert read_options(["A. Lincoln", "G. Washington"]).texts == ("A. Lincoln", "G. Washington")
    assert read_options({"A": "3", "B": "4", "C": None}).texts == ("3", "4")
    assert read_options({"label": ["1", "2"], "text": ["x", "y"]}) == Options(("x", "y"), ("1", "2"))
    assert read_options({"A.": "3", "(B)": "4"}) == Options(("3", "4"), ("A", "B"))
    assert {read_options(nothing) for nothing in (None, [], "", "[]", "None", "nan", float("nan"))} == {Options()}


@pytest.mark.parametrize(
    "form",
    [7, True, "just a text", ["one"], [["a"], ["b"]], {"A": {"x": 1}}, ["3", ""], "[1, 2", {"a": 1}, "{'3', '4'}"],
)
def test_what_is_no_options_is_refused(form: Any) -> None:
    with pytest.raises(ValueError, match="options cannot be read from the"):
        read_options(form)


def lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_unreadable_options_are_a_rows_fault_and_in_every_row_the_files(tmp_path: Path) -> None:
    columns = Columns(options="choices")
    good = {"question": "Which?", "answer": "B", "choices": ["x", "y"]}
    path = lines(
        tmp_path / "a.jsonl", [good, {**good, "choices": 7}, {"question": "How many?", "answer": "4", "choices": None}]
    )
    first, bad, free = read_all(path, columns=columns)
    assert isinstance(first, Question)
    assert first.kind == "choice"
    assert isinstance(bad, Unreadable)
    assert bad.locator == f"{path}:2"
    assert "options cannot be read from the int '7'" in bad.error
    assert isinstance(free, Question)
    assert (free.kind, free.options) == ("math", ())
    with pytest.raises(IngestError, match=r"b\.jsonl:1: options cannot be read from the str 'only one'"):
        read_all(lines(tmp_path / "b.jsonl", [{**good, "choices": "only one"}] * 3), columns=columns)


@pytest.mark.parametrize(
    ("options", "answer", "letter"),
    [
        (["x", "y", "z"], "AC", "A,C"),
        (["x", "y", "z"], ["A", "C"], "A,C"),
        (["x", "y", "z"], "A and C", "A,C"),
        (["x", "y", "z"], "C, A", "A,C"),
        ({"label": ["1", "2"], "text": ["x", "y"]}, "2", "B"),
        (["x", "y"], "y", "B"),
        (["x", "y"], "(b)", "B"),
        ([{"label": "A", "text": "x"}, {"label": "B", "text": "y"}], "B", "B"),
        ("A) x B) y", "B) y", "B"),
    ],
)
def test_the_right_options_are_letters(tmp_path: Path, options: Any, answer: Any, letter: str) -> None:
    [question] = read_all(
        lines(tmp_path / "a.jsonl", [{"question": "?", "answer": answer, "o": options}]), columns=Columns(options="o")
    )
    assert isinstance(question, Question)
    assert question.answer == letter
    assert absurd_answer(question) is None


TABLES: list[Any] = [
    {"question": ["1+1?", "2+2?"], "answer": ["2", "4"]},
    {"question": {"0": "1+1?", "1": "2+2?"}, "answer": {"0": "2", "1": "4"}},
    {"0": {"question": "1+1?", "answer": "2"}, "1": {"question": "2+2?", "answer": "4"}},
    {"columns": ["question", "answer"], "index": [0, 1], "data": [["1+1?", "2"], ["2+2?", "4"]]},
    {"data": [{"question": "1+1?", "answer": "2"}, {"question": "2+2?", "answer": "4"}]},
    {"version": "1", "data": [{"question": "1+1?", "answer": "2"}, {"question": "2+2?", "answer": "4"}]},
    {"schema": {"fields": []}, "data": [{"question": "1+1?", "answer": "2"}, {"question": "2+2?", "answer": "4"}]},
    {"examples": [{"question": "1+1?", "answer": "2"}, {"question": "2+2?", "answer": "4"}], "name": "mine"},
    [{"question": "1+1?", "answer": "2"}, {"question": "2+2?", "answer": "4"}],
]


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("table", TABLES, ids=range(len(TABLES)))
def test_tables_in_json_are_rows(tmp_path: Path, table: Any, indent: int | None) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(table, indent=indent))
    found = read_all(path)
    assert [(row.question, row.answer) for row in found if isinstance(row, Question)] == [("1+1?", "2"), ("2+2?", "4")]
    assert len(found) == 2


def test_one_object_is_one_row(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"question": "1+1?", "answer": "2"}')
    [question] = read_all(tmp_path / "a.json")
    assert isinstance(question, Question)
    assert question.answer == "2"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"question": ["a", "b"], "answer": ["1"]}', "columns of different lengths: question 2, answer 1"),
        ('{"train": [{"question": "a"}], "test": [{"question": "b"}]}', r"2 lists of rows \(train, test\)"),
        ('{"data": [{"question": "a"}', "broken JSON object"),
    ],
)
def test_other_tables_are_refused_in_words(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(IngestError, match=told):
        read_all(tmp_path / "a.json")


def test_a_question_that_is_a_list_is_unreadable(tmp_path: Path) -> None:
    [row] = read_all(lines(tmp_path / "a.jsonl", [{"question": ["a", "b"], "answer": ["1", "2"]}]))
    assert isinstance(row, Unreadable)
    assert "the question is a list" in row.error


@pytest.mark.parametrize("sign", [",", ";", "\t", "|"])
def test_csv_is_read_with_the_sign_that_parts_its_header(tmp_path: Path, sign: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text(sign.join(["question", "answer"]) + "\n" + sign.join(['"1 + 1, or; what|?"', "2"]) + "\n")
    [question] = read_all(path)
    assert isinstance(question, Question)
    assert (question.question, question.answer) == ("1 + 1, or; what|?", "2")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.json"])
def test_utf_16_is_refused_in_words(tmp_path: Path, name: str, encoding: str) -> None:
    text = "question,answer\n1?,1\n" if name == "a.csv" else '{"question": "1?", "answer": "1"}\n'
    (tmp_path / name).write_bytes(text.encode(encoding))
    with pytest.raises(IngestError, match=rf"{name} is UTF-16, not UTF-8: iconv"):
        read_all(tmp_path / name)


def test_several_reference_answers_are_all_kept_or_refused(tmp_path: Path) -> None:
    answers = [
        ["2", "3"],
        ["$2$"],
        ["Paris", "Paris"],
        [5, 6],
        ["The capital of France is Paris", "It is Paris, of course"],
    ]
    found = read_all(
        lines(tmp_path / "a.jsonl", [{"question": f"{i}?", "answer": answer} for i, answer in enumerate(answers)])
    )
    assert [row.answer for row in found if isinstance(row, Question)] == ["2, 3", "$2$", "Paris", "5, 6"]
    assert isinstance(found[4], Unreadable)
    assert "columns.answer = 'NAME.0'" in found[4].error


SENTINELS = [
    "notfound",
    "not found",
    "NotFound",
    "answer not found",
    "N/A",
    "n/a",
    "NaN",
    "null",
    "nil",
    "no answer",
    "no_answer",
    "no answer found",
    "[]",
    "{}",
    "...",
    "?",
    "-",
    "#N/A",
    "#REF!",
    "<NA>",
    "<unk>",
    "TBD",
    "missing",
    "error",
    "not available",
    "not provided",
    "unanswered",
    "final answer not found",
]


@pytest.mark.parametrize("answer", SENTINELS)
def test_what_stands_for_a_missing_answer_is_none(answer: str) -> None:
    assert absurd_answer(Question(id="q", question="?", answer=answer, kind="math", source="s")) is not None


@pytest.mark.parametrize(
    "answer", ["None", "0", "no", r"\emptyset", "no solution", "undefined", "x", "errors", "Missing Link"]
)
def test_answers_that_look_like_it_are_answers(answer: str) -> None:
    assert absurd_answer(Question(id="q", question="?", answer=answer, kind="math", source="s")) is None


def test_programs_are_kept_for_training(tmp_path: Path) -> None:
    rows = [
        {"question": "Sort it.", "answer": "", "kind": "code", "from": "mine"},
        {"question": "Sort these.", "answer": "def f(): ...", "kind": "", "from": "USACO"},
        {"question": "Sort those.", "answer": "x" * 5000, "kind": None, "from": "LiveCodeBench"},
    ]
    found = read_all(lines(tmp_path / "a.jsonl", rows), columns=Columns(kind="kind", source="from"))
    assert [(row.kind, missing_field(row), absurd_answer(row)) for row in found if isinstance(row, Question)] == [
        ("code", None, None)
    ] * 3


@pytest.mark.parametrize(("name", "more"), [("livecodebench", ()), ("usaco-307", ()), ("mine", ("--set", "kind=code"))])
def test_programs_are_refused_as_a_benchmark_by_name(tmp_path: Path, name: str, more: tuple[str, ...]) -> None:
    path = lines(tmp_path / "a.jsonl", [{"question": "Sort it.", "answer": "sorted"}])
    done = CliRunner().invoke(
        cli, ["benchmark", "add", name, "--from", str(path), "--root", str(tmp_path / "r"), *more]
    )
    assert f"benchmark '{name}' asks for programs" in str(done.exception)


def test_programs_among_a_benchmarks_rows_are_not_used(tmp_path: Path) -> None:
    rows = [
        {"question": "Sort it.", "answer": "sorted", "from": "usaco"},
        {"question": "1 + 1?", "answer": "2", "from": "sums"},
    ]
    path = lines(tmp_path / "a.jsonl", rows)
    done = CliRunner().invoke(
        cli, ["benchmark", "add", "mine", "--from", str(path), "--column", "source=from", "--root", str(tmp_path / "r")]
    )
    assert "ungradable_kind: usaco asks for a program" in done.output
    assert "mine: 1 questions" in done.output


def test_parquet_lists_and_structs_are_options(tmp_path: Path) -> None:
    rows = [{"question": "Which?", "answer": "B", "o": [{"label": "A", "text": "x"}, {"label": "B", "text": "y"}]}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    [question] = read_all(tmp_path / "a.parquet", columns=Columns(options="o"))
    assert isinstance(question, Question)
    assert question.options == ("x", "y")
