"""What the comparison of a disturbed campaign with an undisturbed one finds, and what it lets pass."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from safetensors.torch import save_file

from thinkscale.chaos.comparison import WEIGHT_TOLERANCE, compare
from thinkscale.chaos.trial import Findings
from thinkscale.store.artifact import Artifact
from thinkscale.store.filesystem import Store

ROWS = [("a", 1), ("b", 2), ("c", 3)]
DROPPED = [("d", "unread"), (None, "unread")]


def write(
    store: Store,
    scratch: Path,
    rows: list[tuple[str, int]] = ROWS,
    dropped: list[tuple[str | None, str]] = DROPPED,
    weight: float = 1.0,
    commit: bool = True,
) -> None:
    """A campaign of rows in one artifact and weights in another."""
    numbers = Artifact(store, "tried/numbers")
    numbers.begin({"key": "value"}, {})
    for key, part in (("000000", rows[:2]), ("000001", rows[2:])):
        table = pa.table({"id": [row[0] for row in part], "value": [row[1] for row in part]})
        gone = pa.table({"id": [row[0] for row in dropped], "reason": [row[1] for row in dropped]})
        numbers.commit_segment(key, table, dropped=gone if key == "000000" else None)
    if commit:
        numbers.commit("numbers/1")
    model = Artifact(store, "tried/model")
    model.begin({}, {})
    save_file({"weight": torch.tensor([weight, 2.0])}, scratch / "model.safetensors")
    model.commit("model/1", files=[model.add_file(scratch / "model.safetensors", "export/model.safetensors")])


CASES: dict[str, tuple[dict[str, Any], dict[str, dict[str, int]]]] = {
    "the same": ({}, {}),
    "another order, over segments": ({"rows": [ROWS[2], ROWS[0], ROWS[1]]}, {}),
    "weights that all but agree": ({"weight": 1.0 + WEIGHT_TOLERANCE / 2}, {}),
    "a row lost": (
        {"rows": ROWS[:2]},
        {"lost": {"numbers": 1}, "different": {"numbers, manifest: rows": 1}},
    ),
    "a row doubled": (
        {"rows": [*ROWS, ROWS[0]]},
        {"doubled": {"numbers": 1}, "different": {"numbers, manifest: rows": 1}},
    ),
    "one row lost, one doubled": (
        {"rows": [ROWS[0], ROWS[0], ROWS[1]]},
        {"lost": {"numbers": 1}, "doubled": {"numbers": 1}},
    ),
    "a row different": ({"rows": [*ROWS[:2], ("c", 4)]}, {"different": {"numbers: value '3' -> '4'": 1}}),
    "a dropped row lost": (
        {"dropped": DROPPED[1:]},
        {"lost": {"numbers/dropped": 1}, "different": {"numbers, manifest: dropped": 1}},
    ),
    "a dropped row different": (
        {"dropped": [("d", "other"), DROPPED[1]]},
        {"different": {"numbers/dropped: reason 'unread' -> 'other'": 1, "numbers, manifest: dropped": 1}},
    ),
    "weights different": ({"weight": 1.1}, {"different": {"model, weights: weight": 1}}),
    "an artifact missing": ({"commit": False}, {"lost": {"numbers": 1}}),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_differences_are_counted_by_where_they_are(tmp_path: Path, name: str) -> None:
    changes, expected = CASES[name]
    stores = [Store(str(tmp_path / root)) for root in ("undisturbed", "disturbed")]
    write(stores[0], tmp_path)
    write(stores[1], tmp_path, **changes)
    found = compare("tried", *stores)
    assert {what: dict(counts) for what, counts in found.items() if counts} == expected


LEFT: dict[str, tuple[Callable[[Store], Any], dict[str, int]]] = {
    "a losing attempt's part": (
        lambda store: store.write_bytes("tried/numbers/part-000000-0123abcd.parquet", b"x"),
        {"tried/numbers/part-000000-*.parquet": 1},
    ),
    "a probe": (lambda store: store.write_bytes(f".probe-{'a' * 32}", b"1"), {".probe-*": 1}),
    "a checkpoint": (
        lambda store: store.write_bytes("tried/model/checkpoints/step-1/metadata", b"x"),
        {"tried/model/checkpoints/step-1/metadata": 1},
    ),
}


@pytest.mark.parametrize("name", LEFT)
def test_files_that_no_undisturbed_run_leaves_are_named(tmp_path: Path, name: str) -> None:
    act, expected = LEFT[name]
    stores = [Store(str(tmp_path / root)) for root in ("undisturbed", "disturbed")]
    for store in stores:
        write(store, tmp_path)
    act(stores[1])
    assert compare("tried", *stores)["left"] == expected


def test_what_a_trial_has_found_is_json() -> None:
    outcome = Findings(different=Counter({"copy-1: numbers": 2}), faults={"503": 1}, redone=3)
    told = json.loads(json.dumps(outcome.as_dict()))
    assert told["different"] == {"copy-1: numbers": 2}
    assert told["redone"] == 3
    assert told.keys() == Findings.__dataclass_fields__.keys()
