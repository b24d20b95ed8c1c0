"""docs/grafana.json: every query finds what is exported, and all of the campaigns' figures are shown."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from thinkscale.runtime import metrics
from thinkscale.server.metrics import Exchange, Metrics

DASHBOARD = json.loads((Path(__file__).parents[2] / "docs" / "grafana.json").read_text())
EXPRESSIONS = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
VARIABLES = [str(each["query"]) for each in DASHBOARD["templating"]["list"] if each["type"] == "query"]
OF_RUNS = {f"ray_{name}" for name in metrics.GAUGES} | {f"ray_{name}_total" for name in metrics.COUNTERS}
"""As Ray exports them; `tests/ray/test_submitted_jobs.py` reads them there."""


def of_the_service() -> set[str]:
    served = Metrics()
    Exchange(served, "/v1/completions").end(200)
    return set(re.findall(r"^(thinkscale_\w+)", served.text(), re.MULTILINE))


@pytest.mark.parametrize("expression", [*EXPRESSIONS, *VARIABLES])
def test_every_query_asks_for_a_figure_that_is_exported(expression: str) -> None:
    asked = set(re.findall(r"\b(?:ray_)?thinkscale_\w+", expression))
    assert asked
    assert asked <= OF_RUNS | of_the_service()
    labels = {label for group in re.findall(r"by \(([^)]*)\)", expression) for label in group.split(", ")}
    assert labels <= {"campaign", "stage", "use", "kind", "status", "le"}


def test_every_figure_of_a_run_is_shown_and_explained() -> None:
    assert set(re.findall(r"\w+", " ".join(EXPRESSIONS))) >= OF_RUNS
    assert all(text.endswith(".") and len(text) > 20 for text in (metrics.GAUGES | metrics.COUNTERS).values())
