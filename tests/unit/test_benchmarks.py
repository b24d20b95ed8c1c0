"""Benchmarks from files of the schemas that the public ones have, through the command line."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from made_samples import made_campaign
from thinkscale.cli import cli
from thinkscale.domain.presets import BENCHMARKS
from thinkscale.domain.question import WITHHELD, Question
from thinkscale.stages.benchmarks import build_benchmarks
from thinkscale.store.artifact import Artifact
from thinkscale.store.benchmarks import added_benchmark, dataset_path
from thinkscale.store.campaigns import load_source
from thinkscale.store.filesystem import Store
from thinkscale.store.locations import IngestError
from thinkscale.store.schemas import questions


def add(root: Path, name: str, *arguments: str | Path) -> Result:
    return CliRunner().invoke(
        cli, ["benchmark", "add", name, "--root", str(root), *(str(argument) for argument in arguments)]
    )


def stored(root: Path, name: str) -> list[Question]:
    return questions(added_benchmark(Store(str(root)), name).read())


def write_lines(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def write_table(path: Path, rows: list[dict[str, Any]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


MADE = {
    "aime24": {"id": 60, "problem": "How many?", "solution": "So 204.", "answer": "204", "url": "", "year": "2024"},
    "aime25": {"id": "0", "problem": "How many?", "answer": "70"},
    "math500": {
        "problem": "Where?", "solution": "There.", "answer": r"\left( 3, \frac{\pi}{2} \right)",
        "subject": "Precalculus",
        "level": 2, "unique_id": "test/precalculus/807.json",
    },
    "gsm8k": {"question": "How much?", "answer": "It is 9 * 2 = $<<9*2=18>>18.\n#### 18"},
    "olympiad-bench": {
        "question": "Find all.", "solution": ["It is so."], "final_answer": ["$2$"], "subfield": "Algebra",
        "is_multiple_answer": False, "unit": None, "answer_type": "Numerical",
    },
}  # fmt: skip


@pytest.mark.parametrize("name", MADE)
def test_a_known_benchmark_needs_no_columns(tmp_path: Path, name: str) -> None:
    row: dict[str, Any] = MADE[name]
    path = tmp_path / "made.parquet"
    pq.write_table(pa.Table.from_pylist([row]), path)
    done = add(tmp_path, name, "--from", path)
    assert done.output == f"{name}: 1 questions at {tmp_path}/benchmarks/{name}\n", done
    [question] = stored(tmp_path, name)
    assert question.question == row.get("problem", row.get("question"))
    assert question.answer == {"gsm8k": "18", "olympiad-bench": "$2$"}.get(name, row.get("answer"))
    assert question.kind == ("integer" if name in ("aime24", "aime25", "gsm8k") else "math")
    assert question.metadata == ({"level": "2"} if name == "math500" else {})
    assert add(tmp_path, name, "--from", path).output == done.output  # a second time it is there


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_known_benchmark_is_a_valid_source_at_hugging_face(name: str) -> None:
    source = load_source({**BENCHMARKS[name], "name": name})
    assert all(path.startswith("hf://datasets/") for path in source.paths)
    assert source.prompt == "{question}"


def gpqa_rows(count: int) -> list[dict[str, str]]:
    return [
        {
            "Question": f"Which is secret {i}?", "Correct Answer": f"right {i}", "Incorrect Answer 1": "wrong x",
            "Incorrect Answer 2": "wrong y", "Incorrect Answer 3": "wrong z", "High-level domain": "Physics",
            "Writer's Difficulty Estimate": "Hard", "Canary String": "not for publication",
        }
        for i in range(count)
    ]  # fmt: skip


def test_gpqa_is_shuffled_by_the_seed_and_never_printed(tmp_path: Path) -> None:
    path = write_table(tmp_path / "gpqa_diamond.csv", [*gpqa_rows(40), {**gpqa_rows(1)[0], "Correct Answer": ""}])
    done = add(tmp_path / "a", "gpqa-diamond", "--from", path)
    assert done.exit_code == 0, done
    assert "secret" not in done.output
    assert "wrong" not in done.output
    found = stored(tmp_path / "a", "gpqa-diamond")
    letters = Counter(question.answer for question in found)
    assert set(letters) == {"A", "B", "C", "D"}
    assert max(letters.values()) < 20
    for question in found:
        at = "ABCD".index(question.answer)
        assert question.options[at].startswith("right")
        assert question.question.splitlines()[1] == ""
        assert question.question.splitlines()[2 + at] == f"{question.answer}) {question.options[at]}"
        assert question.metadata == {"difficulty": "Hard", WITHHELD: "yes"}
    again = add(tmp_path / "b", "gpqa-diamond", "--from", path)
    assert again.exit_code == 0
    assert [q.answer for q in stored(tmp_path / "b", "gpqa-diamond")] == [q.answer for q in found]
    other = add(tmp_path / "c", "gpqa-diamond", "--from", path, "--set", "shuffle_options=1")
    assert other.exit_code == 0
    assert [q.answer for q in stored(tmp_path / "c", "gpqa-diamond")] != [q.answer for q in found]


def test_bad_rows_are_named_by_file_and_line_and_cost_no_other(tmp_path: Path) -> None:
    good = {"q": "1 + 1?", "a": "2", "hard": 3}
    rows = [
        good,
        '{"q": "cut',
        {"q": "2 + 2?", "a": ""},
        {"q": "3?", "a": "many", "hard": 1},
        good,
        {"q": "3?", "a": 3},
    ]
    path = write_lines(tmp_path / "mine.jsonl", rows)
    columns = ("--column", "question=q", "--column", "answer=a", "--column", "metadata.level=hard")
    done = add(tmp_path, "mine", "--from", path, "--kind", "integer", *columns)
    assert done.exit_code == 0, done
    told = [line.removeprefix(f"not used: {path}:") for line in done.output.splitlines()]
    assert [line.split(":")[:2] for line in told[:-1]] == [
        ["2", " unreadable_line"], ["3", " missing_field"], ["4", " ungradable_reference"], ["5", " exact_duplicate"]
    ]  # fmt: skip
    assert told[-1] == f"mine: 2 questions at {tmp_path}/benchmarks/mine, 4 rows not used"
    assert [(q.question, q.answer, q.metadata) for q in stored(tmp_path, "mine")] == [
        ("1 + 1?", "2", {"level": "3"}),
        ("3?", "3", {}),
    ]
    dropped = added_benchmark(Store(str(tmp_path)), "mine").read_dropped()
    assert dropped is not None
    assert dropped.num_rows == 4


def test_a_missing_column_is_refused_with_those_there_are_and_nothing_is_written(tmp_path: Path) -> None:
    path = write_table(tmp_path / "mine.csv", [{"frage": "1 + 1?", "antwort": "2"}])
    done = add(tmp_path, "mine", "--from", path, "--column", "question=frage")
    assert isinstance(done.exception, IngestError)
    assert "no column 'answer'" in str(done.exception)
    assert "the file has: frage, antwort" in str(done.exception)
    assert not (tmp_path / "benchmarks").exists()
    unknown = add(tmp_path, "mine", "--from", path, "--column", "frage=question")
    assert "columns.frage: unknown key" in str(unknown.exception)
    assert "must read FIELD=COLUMN" in add(tmp_path, "mine", "--from", path, "--column", "question").output


def test_options_in_columns_and_a_prompt_of_ones_own(tmp_path: Path) -> None:
    path = write_table(tmp_path / "mine.csv", [{"q": "Red?", "A": "rose", "B": "sky", "label": "A"}])
    columns = ("--column", "question=q", "--column", "answer=label", "--column", "options=A,B")
    done = add(tmp_path, "mine", "--from", path, *columns, "--set", "prompt=Choose.\n{question}")
    assert done.exit_code == 0, done
    [question] = stored(tmp_path, "mine")
    assert (question.kind, question.answer) == ("choice", "A")
    assert question.question == "Choose.\nRed?\n\nA) rose\nB) sky"


def test_an_unknown_name_needs_a_source_and_a_bare_id_is_a_data_set(tmp_path: Path) -> None:
    done = add(tmp_path, "mine")
    assert "'mine' needs --from; known by name are aime24" in done.output
    assert dataset_path("owner/some-set") == "hf://datasets/owner/some-set"
    assert dataset_path("folder/file.jsonl") == "folder/file.jsonl"


def test_a_campaign_uses_an_added_benchmark_by_its_name(tmp_path: Path) -> None:
    campaign = made_campaign()
    raw = campaign.model_dump()
    raw["evaluate"]["benchmarks"] = [{"name": "mine", "limit": 2}]
    campaign, store = type(campaign).model_validate(raw), Store(str(tmp_path))
    with pytest.raises(IngestError, match="thinkscale benchmark add mine --root"):
        build_benchmarks(campaign, store)
    path = write_lines(tmp_path / "mine.jsonl", [{"question": f"{i}?", "answer": str(i)} for i in range(3)])
    assert add(tmp_path, "mine", "--from", path).exit_code == 0
    build_benchmarks(campaign, store)
    assert Artifact(store, "demo/benchmarks/mine").read()["question"].to_pylist() == ["0?", "1?"]
    listed = CliRunner().invoke(cli, ["benchmark", "list", "--root", str(tmp_path)]).output
    assert listed.startswith("mine                3 questions\nknown by name: aime24")
