"""What became of a question, and of all of them: the stages' kept and dropped rows and manifests, read back.
Owns the order in which curation's artifacts follow each other. Knows nothing of how a stage decides."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow.compute as pc

from thinkscale.domain.campaign import Campaign
from thinkscale.domain.ledger import dollars
from thinkscale.store.artifact import Artifact, Manifest
from thinkscale.store.filesystem import Store


@dataclass(frozen=True, kw_only=True)
class FunnelStep:
    """Rows that came into an artifact's stage, that it kept, and that it dropped by reason."""

    artifact: str
    rows_in: int
    rows_kept: int
    dropped: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class ModelCost:
    """What one model's attempts cost, and what they would have cost over the first model's questions too.
    The latter is an estimate: as much for each question as for those that the model was asked."""

    model: str
    questions: int
    solved: int
    tokens: int  # of prompts and answers
    usd: float  # by the campaign's prices; 0 without prices
    tokens_over_all: int
    usd_over_all: float


@dataclass(frozen=True, kw_only=True)
class Sighting:
    artifact: str
    kept: bool
    text: str  # what the stage found, in one line


def curated_artifacts(campaign: Campaign) -> list[str]:
    """Names of the artifacts that a row passes, in order."""
    weaker = [f"difficulty-{place}" for place in range(1, len(campaign.difficulty.models))]
    domains = [] if campaign.curate.domains == "pool" else ["domains"]
    return ["ingested", "pool", "unique", *weaker, "difficulty", *domains, "selected", "traces"]


def funnel(campaign: Campaign, store: Store) -> list[FunnelStep]:
    """Every committed stage of the campaign, from its manifests alone."""
    steps = []
    for name, _, manifest in _committed(campaign, store):
        rows, dropped = manifest.rows, manifest.dropped
        steps.append(FunnelStep(artifact=name, rows_in=rows + sum(dropped.values()), rows_kept=rows, dropped=dropped))
    return steps


def cascade(campaign: Campaign, store: Store) -> list[ModelCost]:
    """What each model of the difficulty cascade spent, the weakest first, from the manifests alone."""
    first, found = 0, []
    for name, _, manifest in _committed(campaign, store):
        if name.partition("-")[0] != "difficulty" or "model" not in manifest.config:  # nobody was asked
            continue
        questions = manifest.rows + sum(manifest.dropped.values())
        first = first or questions
        tokens = int(manifest.stats.get("prompt_tokens", 0) + manifest.stats.get("attempt_tokens", 0))
        usd = dollars(manifest.stats, campaign.prices)
        share = first / max(questions, 1)
        found.append(
            ModelCost(
                model=str(manifest.config["model"]),
                questions=questions,
                solved=sum(rows for reason, rows in manifest.dropped.items() if reason.startswith("solved_by:")),
                tokens=tokens,
                usd=round(usd, 4),
                tokens_over_all=round(tokens * share),
                usd_over_all=round(usd * share, 4),
            )
        )
    return found


def funnel_table(steps: list[FunnelStep]) -> str:
    """The funnel as text, a line for each stage and each reason."""
    lines = [f"{'stage':<14}{'rows in':>12}{'kept':>12}  dropped"]
    for step in steps:
        reasons = sorted(step.dropped.items(), key=lambda item: (-item[1], item[0]))
        first, *others = [f"{count:,} {reason}" for reason, count in reasons] or [""]
        lines.append(f"{step.artifact:<14}{step.rows_in:>12,}{step.rows_kept:>12,}  {first}".rstrip())
        lines += [f"{'':<40}{text}" for text in others]
    return "\n".join(lines)


def why(campaign: Campaign, store: Store, question_id: str) -> list[Sighting]:
    """A question's way through the campaign's stages; empty where no committed stage has seen it."""
    return [seen for artifact in _committed(campaign, store) for seen in _sightings(*artifact, question_id)]


def _committed(campaign: Campaign, store: Store) -> Iterator[tuple[str, Artifact, Manifest]]:
    for name in curated_artifacts(campaign):
        artifact = Artifact(store, f"{campaign.name}/{name}")
        if (manifest := artifact.manifest()) is not None:
            yield name, artifact, manifest


def _sightings(name: str, artifact: Artifact, manifest: Manifest, question_id: str) -> Iterator[Sighting]:
    column = "question_id" if name == "traces" else "id"
    for part in artifact.parts():
        if not pc.any(pc.equal(artifact.read_part(part, [column]).column(column), question_id)).as_py():
            continue
        rows = artifact.read_part(part)
        for row in rows.filter(pc.equal(rows.column(column), question_id)).to_pylist():
            yield Sighting(artifact=name, kept=True, text=_KEPT[name.partition("-")[0]](row))
    if manifest.dropped and (dropped := artifact.read_dropped()) is not None:
        for row in dropped.filter(pc.equal(dropped.column("id"), question_id)).to_pylist():
            evidence = ", ".join(f"{key} {value}" for key, value in json.loads(row["detail"] or "{}").items())
            place = json.loads(row["row"] or "{}").get("locator") if name == "pool" else None
            text = f"{row['reason']}: {evidence}".rstrip(": ")
            yield Sighting(artifact=name, kept=False, text=f"another copy, {place}: {text}" if place else text)


_KEPT: dict[str, Callable[[dict[str, Any]], str]] = {
    "ingested": lambda row: f"read from {row['locator']} and passed every quality rule",
    "pool": lambda row: f"no exact duplicate before it: {row['locator']}",
    "unique": lambda row: "no near duplicate of a better row, gives away no benchmark question",
    "difficulty": lambda row: (
        f"not solved: {row['pass_rate']:.0%} of {row['attempts']} attempt(s) right, "
        f"trace of {row['trace_tokens']:,} tokens"
    ),
    "domains": lambda row: f"domain {row['domain']!r} by {row['domain_by']}",
    "selected": lambda row: f"chosen as number {row['selected_rank'] + 1} by {row['selected_by']}",
    "traces": lambda row: f"trace of {row['thinking_tokens']:,} tokens by {row['teacher']}, correct: {row['correct']}",
}
