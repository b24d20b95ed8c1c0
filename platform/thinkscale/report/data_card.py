"""The data card of a curated set: what is in it, where it came from, what was dropped and why, what it may be used for.
Owns the card's text. A directory with this README.md and the Parquet parts is a data set that `datasets.load_dataset`
reads as it is."""

from collections.abc import Mapping, Sequence
from typing import Any

from thinkscale.domain.campaign import Campaign
from thinkscale.domain.terms import terms_line
from thinkscale.store.artifact import Manifest
from thinkscale.store.lineage import FunnelStep, ModelCost, funnel_table

DOMAINS = {
    "pool": "the pool's own",
    "clusters": "the pool's own, and for questions without one the cluster of their embedding",
    "classifier": "the pool's own, and for questions without one the class that an LLM named",
}

FRONT = """---
configs:
- config_name: default
  data_files: part-*.parquet
tags:
- thinkscale
---
"""


def data_card(
    campaign: Campaign,
    rows: int,
    licences: Sequence[Mapping[str, Any]],
    steps: Sequence[FunnelStep],
    costs: Sequence[ModelCost],
) -> str:
    """Markdown with the front matter of a Hugging Face data set. It shows a `funnel.png` beside it.
    `licences`: `source`, `licence` and `rows` of each pair among them."""
    settings = campaign.select
    table = _licence_rows(licences)
    spent = "\n".join(
        f"| {c.model} | {c.questions:,} | {c.solved:,} | {c.tokens:,} | {c.usd:,.2f} | {c.tokens_over_all:,} "
        f"| {c.usd_over_all:,.2f} |"
        for c in costs
    )
    tokens, over_all = sum(cost.tokens for cost in costs), sum(cost.tokens_over_all for cost in costs)
    benchmarks = ", ".join(benchmark.name for benchmark in campaign.evaluate.benchmarks)
    return f"""{FRONT}# {campaign.name}: {rows:,} questions

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


def trace_card(
    campaign: Campaign,
    rows: int,
    dropped: Mapping[str, int],
    terms: Sequence[Mapping[str, Any]],
    licences: Sequence[Mapping[str, Any]],
    attempts: Sequence[Manifest],
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
    return f"""{FRONT}# {campaign.name}: {rows:,} reasoning traces

Made by thinkscale. Each row has a question, `thinking`, `answer`, the `teacher`, whether the answer was `correct`, and
the `pass_rate` over all attempts at the question. Kept were `{campaign.distill.keep}`.

## What it may be used for

{stated}

| source of the questions | licence | rows |
|---|---|---|
{_licence_rows(licences)}

## Attempts

| teacher | attempts | prompt tokens | completion tokens | dollars |
|---|---|---|---|---|
{teachers}

| not kept because | attempts |
|---|---|
{reasons}

Every attempt that was not kept lies with its reason in `dropped/`.
"""


def _licence_rows(licences: Sequence[Mapping[str, Any]]) -> str:
    return "\n".join(f"| {entry['source']} | {entry['licence']} | {entry['rows']:,} |" for entry in licences)
