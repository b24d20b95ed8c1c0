"""Ten kills under a whole campaign, over all stages, on a cluster of three nodes with S3 as its root."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from thinkscale.chaos import KINDS
from thinkscale.cli import cli
from tiny_model import write_tiny_model

CAMPAIGN = Path(__file__).parents[1] / "campaigns" / "chaos.toml"


@pytest.mark.parametrize("seed", [1])
def test_a_campaign_under_kills_ends_as_one_in_peace(tmp_path: Path, seed: int) -> None:
    model = write_tiny_model(tmp_path / "model")
    words = ["chaos", str(CAMPAIGN), "--set", f'model.base="{model}"', "--times", "10", "--seed", str(seed)]
    result = CliRunner().invoke(cli, words, catch_exceptions=False)
    outcome = json.loads(result.stdout)
    assert {name: outcome[name] for name in ("lost", "doubled", "different", "left", "hangs")} == {
        "lost": {}, "doubled": {}, "different": {}, "left": {}, "hangs": 0,
    }, result.output  # fmt: skip
    assert outcome["redone"] <= outcome["open_segments"]
    assert {kill["kind"] for kill in outcome["kills"]} == set(KINDS)
    assert len(outcome["kills"]) == 10
    assert len({kill["stage"] for kill in outcome["kills"]}) > 3
    assert result.exit_code == 0
