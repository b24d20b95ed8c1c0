"""The data card of a curated set: what is in it, where it came from, what was dropped and why, what it may be used for.

Owns the card's text. A directory with this README.md and the Parquet parts is a data set that
`datasets.load_dataset` reads as it is.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from thinkscale.domain.campaign import Campaign
from thinkscale.store.lineage import FunnelStep, ModelCost, funnel_table

DOMAINS = {
    "pool": "the pool's own",
    "clusters": "the pool's own, and for questions without one the cluster of their embedding",
    "classifier": "the pool's own, and for questions without one the class that an LLM named",
}


def data_card(
    campaign: Campaign,
    rows: int,
    licences: Sequence[Mapping[str, Any]],
    steps: Sequence[FunnelStep],
    costs: Sequence[ModelCost],
) -> str:
    """Markdown with the front matter of a Hugging Face data set. It shows a `funnel.png` beside it.

    `licences`: `source`, `licence` and `rows` of each pair among them.
    """
    settings = campaign.select
    table = "\n".join(f"| {entry['source']} | {entry['licence']} | {entry['rows']:,} |" for entry in licences)
    spent = "\n".join(
        f"| {c.model} | {c.questions:,} | {c.solved:,} | {c.tokens:,} | {c.usd:,.2f} | {c.tokens_over_all:,} "
        f"| {c.usd_over_all:,.2f} |"
        for c in costs
    )
    tokens, over_all = sum(cost.tokens for cost in costs), sum(cost.tokens_over_all for cost in costs)
    benchmarks = ", ".join(benchmark.name for benchmark in campaign.evaluate.benchmarks)
    return f"""---
configs:
- config_name: default
  data_files: part-*.parquet
tags:
- thinkscale
---
# {campaign.name}: {rows:,} questions

Selected by thinkscale with strategy `{settings.strategy}` (seed {campaign.seed}); each row says by what it was chosen
(`selected_by`) and in which place (`selected_rank`).

## Sources and licences

| source | licence | rows |
|---|---|---|
{table}

Each row keeps its source, its licence and its place there (`locator`). What they allow is for the user to check;
`unknown` means that the campaign states none.

## How it was made

- Quality rules: {", ".join(campaign.curate.quality_rules)}.
- Near duplicates from a similarity of {campaign.curate.near_duplicate_similarity} on.
- Decontaminated against {benchmarks}.
- Dropped where a model below solved it in {campaign.difficulty.attempts} attempt(s).
- Domains: {DOMAINS[campaign.curate.domains]}.

![Rows kept by each stage](funnel.png)

```
{funnel_table(list(steps))}
```

Every dropped row lies with its reason in the artifacts' `dropped/` directories.

## What the attempts cost

Each model was asked only what those before it had not solved.

| model | questions | solved | tokens | dollars | tokens over all questions | dollars over all |
|---|---|---|---|---|---|---|
{spent}

Together {tokens:,} tokens, {tokens / max(over_all, 1):.0%} of the {over_all:,} that every model over all \
questions would have taken (estimated: as many for each question as for those asked).
"""
