"""The data card of a curated set: what is in it, where it came from, what was dropped and why, what it may be used for.

Owns the card's text. A directory with this README.md and the Parquet parts is a data set that
`datasets.load_dataset` reads as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from thinkscale.domain.campaign import Campaign
from thinkscale.store.lineage import FunnelStep, funnel_table


def data_card(campaign: Campaign, rows: int, licences: Sequence[Mapping[str, Any]], steps: Sequence[FunnelStep]) -> str:
    """Markdown with the front matter of a Hugging Face data set.

    Args:
        rows: in the set.
        licences: `source`, `licence` and `rows` of each pair among them.
        steps: of the curation before the selection.
    """
    settings, models = campaign.select, campaign.difficulty.models
    named = [campaign.model.base if model == "base" else model for model in models]
    table = "\n".join(f"| {entry['source']} | {entry['licence']} | {entry['rows']:,} |" for entry in licences)
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
- Dropped where one of these models solved it in {campaign.difficulty.attempts} attempt(s): {", ".join(named)}.

```
{funnel_table(list(steps))}
```

Every dropped row lies with its reason in the artifacts' `dropped/` directories.
"""
