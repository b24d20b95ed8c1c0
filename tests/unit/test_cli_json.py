"""--json: standard output is JSON and nothing else, whatever prints a table without it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from test_cli_grading import misgraded

from made_samples import QUESTION_COUNT, stored_campaign
from thinkscale.cli import cli
from thinkscale.domain.reference import commented_toml
from thinkscale.store.artifact import Artifact
from thinkscale.store.filesystem import Store
from thinkscale.store.schemas import DROPPED, QUESTIONS, dropped_row, table


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root with one sampled campaign, whose pool has dropped a row."""
    from made_samples import made_campaign

    stored_campaign(tmp_path, samples=misgraded())
    campaign = made_campaign().model_copy(update={"root": str(tmp_path)})
    (tmp_path / "demo.toml").write_text("\n".join(commented_toml(campaign)))
    pool = Artifact(Store(str(tmp_path)), "demo/pool")
    pool.begin({}, {})
    lost = dropped_row("pool", "q-lost", "exact_duplicate", {"of": "q"}, {"id": "q-lost"})
    pool.commit_segment("0", QUESTIONS.empty_table(), dropped=table([lost], DROPPED))
    pool.commit(QUESTIONS, expected_segments={"0"})
    rows = [{"gold": "42", "said": ["The answer is 42.", "41"]}, {"gold": "7", "said": ["7", "It is 7."]}]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def said(*arguments: str) -> str:
    out = CliRunner().invoke(cli, arguments)
    assert out.exit_code == 0, out.output
    return out.stdout


def as_json(*arguments: str) -> Any:
    assert said(*arguments)  # without it too
    return json.loads(said(*arguments, "--json"))


def test_every_command_that_prints_a_table_takes_it() -> None:
    names = {
        "run",
        "plan",
        "evaluate",
        "report",
        "show",
        "why",
        "compare",
        "grade",
        "audit",
        "submit",
        "status",
        "list",
    }
    commands = {**cli.commands, "model check": cli.commands["model"].commands["check"]}  # type: ignore[attr-defined]
    commands["benchmark list"] = cli.commands["benchmark"].commands["list"]  # type: ignore[attr-defined]
    with_it = {name for name, each in commands.items() if "--json" in [o for p in each.params for o in p.opts]}
    assert with_it == names | {"model check", "benchmark list"}


def test_why(root: Path) -> None:
    settings = (str(root / "demo.toml"),)
    assert as_json("why", *settings) == [
        {"artifact": "pool", "rows_in": 1, "rows_kept": 0, "dropped": {"exact_duplicate": 1}}
    ]
    [sighting] = as_json("why", *settings, "q-lost")
    assert (sighting["artifact"], sighting["kept"]) == ("pool", False)


def test_grade(root: Path) -> None:
    options = ("--kind", "math", "--reference-field", "gold", "--response-field", "said", "--force")
    found = as_json("grade", *options, str(root / "in.jsonl"), str(root / "out.jsonl"))
    assert {name: found[name] for name in ("rows", "responses", "correct", "wrong", "unanswered", "ungradable")} == {
        "rows": 2, "responses": 4, "correct": 3, "wrong": 1, "unanswered": 0, "ungradable": 0,
    }  # fmt: skip
    assert 0 < found["accuracy"]["low"] < found["accuracy"]["mean"] < found["accuracy"]["high"] < 1
    assert found["pass@2"]["mean"] > found["accuracy"]["mean"]


def test_audit_prints_an_object_a_line(root: Path) -> None:
    found = [json.loads(line) for line in said("audit", str(root / "demo"), "--json").splitlines()]
    assert len(found) == 2
    assert {each["stored"][0] for each in found} == {"unanswered"}
    assert {each["now"][0] for each in found} == {"correct"}


def test_report(root: Path) -> None:
    points = as_json("report", str(root / "demo.toml"))
    assert {point["model"] for point in points} == {"base"}
    assert all(point["low"] <= point["accuracy"] <= point["high"] for point in points)
    assert {point["questions"] for point in points} == {QUESTION_COUNT}


def test_benchmark_list(root: Path) -> None:
    found = as_json("benchmark", "list", "--root", str(root))
    assert found["added"] == {}
    assert "aime24" in found["known"]
