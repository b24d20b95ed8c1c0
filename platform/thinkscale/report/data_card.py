"""The data card of a curated set: what is in it, where it came from, what was dropped and why, what it may be used for.
Owns the card's text. A directory with this README.md and the Parquet parts is a data set that `datasets.load_dataset`
reads as it is."""

from collections.abc import Mapping, Sequence
from typing import Any

from thinkscale.domain.campaign import Campaign
from thinkscale.domain.terms import terms_line
from thinkscale.report.model_card import filled
from thinkscale.store.artifact import Manifest
from thinkscale.store.lineage import FunnelStep, ModelCost, funnel_table

Facts = Sequence[Mapping[str, Any]]

DOMAINS = {
    "pool": "the pool's own",
    "clusters": "the pool's own, and for questions without one the cluster of their embedding",
    "classifier": "the pool's own, and for questions without one the class that an LLM named",
}


def data_card(
    campaign: Campaign, rows: int, licences: Facts, steps: Sequence[FunnelStep], costs: Sequence[ModelCost]
) -> str:
    """Markdown with the front matter of a Hugging Face data set. It shows a `funnel.png` beside it.
    `licences`: `source`, `licence` and `rows` of each pair among them."""
    spent = "\n".join(
        f"| {c.model} | {c.questions:,} | {c.solved:,} | {c.tokens:,} | {c.usd:,.2f} | {c.tokens_over_all:,} "
        f"| {c.usd_over_all:,.2f} |"
        for c in costs
    )
    tokens, over_all = sum(cost.tokens for cost in costs), sum(cost.tokens_over_all for cost in costs)
    return filled(
        "data_card",
        name=campaign.name,
        rows=rows,
        strategy=campaign.select.strategy,
        seed=campaign.seed,
        licences=_licence_rows(licences),
        rules=", ".join(campaign.curate.quality_rules),
        similarity=campaign.curate.near_duplicate_similarity,
        benchmarks=", ".join(benchmark.name for benchmark in campaign.evaluate.benchmarks),
        attempts=campaign.difficulty.attempts,
        domains=DOMAINS[campaign.curate.domains],
        funnel=funnel_table(list(steps)),
        spent=spent,
        tokens=tokens,
        over_all=over_all,
        share=tokens / max(over_all, 1),
    )


def trace_card(
    campaign: Campaign, rows: int, dropped: dict[str, int], terms: Facts, licences: Facts, attempts: Sequence[Manifest]
) -> str:
    """Markdown as `data_card`, for reasoning traces.
    `rows`: traces. `dropped`: attempts that did not become one, by reason. `terms`: of each teacher's output.
    `licences`: of the questions. `attempts`: of each teacher, in the campaign's order."""
    teachers = "\n".join(
        f"| {teacher.model or 'solutions'} | {manifest.rows:,} | {manifest.stats.get('prompt_tokens', 0):,.0f} "
        f"| {manifest.stats.get('decoded_tokens', 0):,.0f} | {manifest.stats.get('reply_usd', 0):,.2f} |"
        for teacher, manifest in zip(campaign.teacher, attempts, strict=True)
    )
    reasons = "\n".join(f"| {reason} | {count:,} |" for reason, count in sorted(dropped.items()))
    stated = "\n".join(map(terms_line, terms)) or "- worked solutions of the pool: the sources' licences below hold"
    facts = {"name": campaign.name, "rows": rows, "keep": campaign.distill.keep, "licences": _licence_rows(licences)}
    return filled("trace_card", **facts, stated=stated, teachers=teachers, reasons=reasons)


def _licence_rows(licences: Facts) -> str:
    return "\n".join(f"| {entry['source']} | {entry['licence']} | {entry['rows']:,} |" for entry in licences)
