from __future__ import annotations

import re
from dataclasses import replace

from made_samples import made_samples
from thinkscale.report.metrics import points, tally
from thinkscale.report.plots import draw_curves, draw_funnel
from thinkscale.store.lineage import FunnelStep

STEPS = [
    FunnelStep(artifact="ingested", rows_in=120, rows_kept=100, dropped={"truncated": 15, "absent_image": 5}),
    FunnelStep(artifact="unique", rows_in=100, rows_kept=99, dropped={"leak:a$b": 1}),
    FunnelStep(artifact="selected", rows_in=99, rows_kept=99, dropped={}),
]


def test_the_funnel_shows_every_stage_and_is_the_same_twice() -> None:
    images = draw_funnel(STEPS, title="$ 1")
    assert images == draw_funnel(STEPS, title="$ 1")
    assert images["png"].startswith(b"\x89PNG")
    text = images["svg"].decode()
    for shown in ("ingested", "unique", "selected", "100 of 120; 15 truncated, 5 for other reasons", "leak:a$b"):
        assert shown in text


def test_a_campaign_without_stages_has_a_plot_too() -> None:
    assert set(draw_funnel([], title="none")) == {"png", "svg"}


def test_a_curve_labels_its_budgets_and_every_power_of_two() -> None:
    found = points(tally(made_samples(models={"base": 0.3, "tuned": 0.9})))
    images = draw_curves(found, title="a $")
    assert images == draw_curves(found, title="a $")
    svg = images["svg"].decode()
    texts = re.findall(r">([^<>]+)</text>", svg)
    assert texts.count("a $: sums") == 1
    assert texts.count("128") == 1 + 2  # the axis, and a cap of each model
    assert texts.count("+1") == texts.count("+2") == 2
    assert texts.count("tuned, with forced Waits") == 1
    assert {"32", "64", "128", "256"} <= set(texts)
    assert "stroke-dasharray" in svg


def test_a_curve_of_one_point_below_one_token_is_drawn() -> None:
    [point, *_] = points(tally(made_samples(models={"base": 0.3})))
    assert b"<svg" in draw_curves([replace(point, mean_thinking_tokens=0.0)], title="t")["svg"]
