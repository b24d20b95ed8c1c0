from __future__ import annotations

from thinkscale.report.plots import draw_funnel
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
