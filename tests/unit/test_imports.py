"""Every module of ours that is imported anywhere, in a function too, is there: the type checker lets it pass."""

from __future__ import annotations

import ast
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("place", ["platform", "tests", "benchmarks", "jobs"])
def test_imported_modules_of_ours_exist(place: str) -> None:
    found = {
        (node.module or "", str(path.relative_to(ROOT)))
        for path in sorted((ROOT / place).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(("thinkscale.", "test_"))
    }
    tests = {path.stem for path in (ROOT / "tests").rglob("test_*.py")}
    assert found
    assert [each for each in sorted(found) if each[0] not in tests and find_spec(each[0]) is None] == []


def test_no_two_test_files_have_one_name() -> None:
    """Pytest imports a test file by its name alone, and refuses to collect a second of that name in another folder."""
    names = Counter(path.name for path in (ROOT / "tests").rglob("test_*.py"))
    assert [name for name, times in names.items() if times > 1] == []
