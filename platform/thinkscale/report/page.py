"""The report of a campaign as files: a self-contained HTML page, more samples beside it, its curve as PNG and SVG.
Owns what the page says. Takes tables and manifests, returns bytes; reads and stores nothing. Text that models wrote
reaches the page only as data, never as HTML."""

import html
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from importlib import resources
from itertools import combinations
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from thinkscale.domain.campaign import Campaign
from thinkscale.domain.question import WITHHELD
from thinkscale.report.browsing import SampleBrowser, packed
from thinkscale.report.comparison import Comparison, compare_tallies
from thinkscale.report.metrics import breakdown, curve_metrics, curves, points, tally, unsettled
from thinkscale.report.parallel import Votes
from thinkscale.report.plots import draw_curves
from thinkscale.report.spending import duration_s, published, spending, terms
from thinkscale.store.artifact import Manifest, distinct


def build_report(
    campaign: Campaign,
    samples: pa.Table | Iterable[pa.Table],
    manifests: Mapping[str, Manifest],
    training_metrics: Sequence[Mapping[str, float]],
    questions: pa.Table | None = None,
    notes: Sequence[str] = (),
) -> dict[str, bytes]:
    """The report's files by name: `report.html`, `samples-1.js`, ..., `curve.png`, `curve.svg`.
    The page stands alone; it loads `samples-<n>.js`, more samples that do not fit in it, when asked. `samples`: of
    schema SAMPLES, whole or part by part; read once. `manifests`: of the campaign's artifacts, in the order of the
    stages. `training_metrics`: a row a step, with `step` and `loss`. `questions`: the benchmarks' (schema QUESTIONS);
    without them samples show only ids. `notes`: what a reader must know before the figures."""
    asked = _Questions(questions)
    browser, votes = SampleBrowser(withheld=asked.withheld), Votes()
    tallied = tally(_watched([samples] if isinstance(samples, pa.Table) else samples, browser, votes))
    found = points(tallied, seed=campaign.seed)
    images = draw_curves(found, title=campaign.name)
    pages = browser.pages()
    rows = next(pages)
    beside = {
        f"samples-{number}.js": f'samplesPage({number},"{packed(asked.with_rows(page), level=4)}")'.encode()
        for number, page in enumerate(pages, 1)
    }
    facts = {
        "name": campaign.name,
        "base": campaign.model.base,
        "created": max((manifest.created_at for manifest in manifests.values()), default=""),
        "code": sorted({manifest.code_version for manifest in manifests.values()}),
        "engines": _engines(manifests),
        "duration_s": duration_s(manifests),
        "settings": campaign.model_dump(mode="json"),
        "changed_settings": campaign.model_dump(mode="json", exclude_defaults=True),
        "stages": {
            name: {
                "kind": manifest.schema.partition("/")[0],
                "rows": manifest.rows,
                "dropped": manifest.dropped,
                "hash": manifest.fingerprint,
                "workers": manifest.extra.get("workers"),
                "engines": manifest.engines,
                "stats": manifest.stats,
            }
            for name, manifest in manifests.items()
        },
        "notes": [*notes, *unsettled(found)],
        "published": published(dict.fromkeys(point.benchmark for point in found)),
        "points": [{**asdict(point), "budget": point.budget} for point in found],
        "metrics": [asdict(curve_metrics(curve)) for curve in curves(found).values()],
        "parallel": [asdict(row) for row in votes.points(found, seed=campaign.seed)],
        "groups": [asdict(row) for row in breakdown(tallied, questions, seed=campaign.seed)],
        "comparisons": [asdict(row) for row in comparisons(campaign, tallied)],
        "spending": spending(campaign, manifests, found),
        "terms": terms(manifests),
        "training": [
            {name: value if math.isfinite(value) else None for name, value in row.items()} for row in training_metrics
        ],
        "samples_total": browser.total_rows,
        "samples_shown": len(rows),
        "samples_pages": len(beside),
    }
    page = resources.files("thinkscale.report").joinpath("template.html").read_text(encoding="utf-8")
    page = page.replace("{{TITLE}}", html.escape(campaign.name, quote=False))
    text = json.dumps(facts, separators=(",", ":"), allow_nan=False)
    for sign in "<>&":  # whatever its strings hold, it can stand inside a script element
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    page = page.replace("{{FACTS}}", text)
    page = page.replace("{{SAMPLES}}", packed(asked.with_rows(rows)))
    return {"report.html": page.encode(), **beside, "curve.png": images["png"], "curve.svg": images["svg"]}


def _watched(parts: Iterable[pa.Table], *watchers: SampleBrowser | Votes) -> Iterator[pa.Table]:
    for part in parts:
        for watcher in watchers:
            watcher.add(part)
        yield part


def comparisons(campaign: Campaign, tallied: pa.Table) -> list[Comparison]:
    """Each later model against each earlier one, in the campaign's order."""
    present = set(tallied["model"].to_pylist())
    named = [model for model in campaign.evaluate.models if model in present]
    models = [*named, *sorted(present - set(named))]
    by_model = {model: tallied.filter(pc.equal(tallied["model"], model)) for model in models}
    return [
        row
        for first, second in combinations(models, 2)
        for row in compare_tallies(by_model[first], by_model[second], seed=campaign.seed)
    ]


def _engines(manifests: Mapping[str, Manifest]) -> list[str]:
    names = ("engine", "version", "dtype", "device")
    samples = [manifest for manifest in manifests.values() if manifest.schema.startswith("samples/")]
    engines = [engine for manifest in samples for engine in manifest.engines]
    return distinct(" ".join(str(engine[name]) for name in names if engine.get(name)) for engine in engines)


class _Questions:
    """The benchmarks' questions (schema QUESTIONS), for the samples that are shown; None: only ids are known."""

    def __init__(self, questions: pa.Table | None) -> None:
        self._questions = questions
        rows = [] if questions is None else questions.select(["id", "metadata"]).to_pylist()
        self.withheld = {row["id"] for row in rows if WITHHELD in dict(row["metadata"] or ())}

    def with_rows(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The rows with text, reference and domain of their questions."""
        found = {}
        if self._questions is not None:
            wanted = pa.array(sorted({row["question_id"] for row in rows}), pa.string())
            table = self._questions.filter(pc.is_in(self._questions["id"], wanted))
            for row in table.select(["id", "question", "answer", "domain"]).to_pylist():
                shown = f"{row['id']}: its text may not be published" if row["id"] in self.withheld else row["question"]
                found[row["id"]] = {"question": shown, "answer": row["answer"], "domain": row["domain"]}
        return {"questions": found, "rows": rows}
