"""What is said of settings: every one has a meaning, the pages are current, and TOML that is shown can be run."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
from pydantic import BaseModel

from thinkscale.domain.campaign import Campaign
from thinkscale.domain.reference import commented_toml, sections_in
from thinkscale.domain.service import Service
from thinkscale.store.campaigns import load_campaign

DOCS = Path(__file__).parents[2] / "docs"


def test_every_setting_says_what_it_means() -> None:
    def undocumented(section: type[BaseModel], path: str) -> list[str]:
        found = []
        for name, field in section.model_fields.items():
            inner, where = sections_in(field.annotation), f"{path}.{name}"
            silent = name != "type" and not (field.description or (inner and all(each.__doc__ for each in inner)))
            found += [where] * silent + [each for below in inner for each in undocumented(below, where)]
        return found

    assert undocumented(Campaign, "campaign") + undocumented(Service, "service") == []


@pytest.mark.parametrize("name", ["campaign.md", "service.md"])
def test_the_pages_of_settings_are_current(name: str) -> None:
    pages = runpy.run_path(str(DOCS / "generate.py"))["pages"]()
    assert (DOCS / name).read_text() == pages[name], "run: make docs"


@pytest.mark.parametrize(
    ("campaign", "overrides"),
    [
        ("demo", []),
        ("s1k-qwen2.5-32b", []),
        ("demo", [r'model.system_prompt="a \"quote\", a \\ and\nlines \u007f \u0001 é 𝛑"', "evaluate.samples=3"]),
        ("s1k-qwen2.5-32b", ['select.long_sources={ "MATH 5" = 5, A = 7 }', 'pool.0.columns.metadata={ "a.b" = "" }']),
        ("s1k-qwen2.5-32b", ["pool.0.preset=gpqa", "evaluate.benchmarks=[{ name = \"aime24\" }]"]),
    ],
)  # fmt: skip
def test_shown_toml_is_the_same_campaign(campaign: str, overrides: list[str], tmp_path: Path) -> None:
    loaded = load_campaign(campaign, overrides)
    (tmp_path / "shown.toml").write_text("\n".join(commented_toml(loaded)))
    assert load_campaign(str(tmp_path / "shown.toml")) == loaded


def test_shown_toml_tells_meaning_and_default() -> None:
    lines = list(commented_toml(load_campaign("demo")))
    rate = lines.index("learning_rate = 0.0003")
    assert lines[rate - 1] == "# Peak learning rate: linear warm-up, then cosine decay to 0. (default: 1e-05)"
    assert "# target_interval =" in lines
