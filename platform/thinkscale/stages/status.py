"""What a campaign is at, told from its root alone: the lease, the record of its run, the manifests.
Works from any machine that reads the root, while a driver works elsewhere, after it has ended or was lost."""

import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from thinkscale.domain.campaign import Campaign
from thinkscale.runtime.progress import clock
from thinkscale.runtime.record import COMPLETE
from thinkscale.stages.artifacts import stage_artifacts
from thinkscale.store.filesystem import Store
from thinkscale.store.lease import holder
from thinkscale.store.samples import check_campaign

ENDED = ("cancelled", "terminated", "interrupted")
LOST = "its driver went without a word: the same command resumes"


def status(store: Store, name: str, stages_of: Callable[[Campaign], Sequence[str]]) -> dict[str, Any]:
    """State, stages with rows, what is at work, time left, dollars so far, what it waits for; as JSON values. Raises
    CampaignError where there is no such campaign below the root."""
    check_campaign(store, name)
    found = overview(store, name)
    if "campaign.toml" not in store.files(name):
        return {**found, "stages": []}
    campaign = Campaign.model_validate(tomllib.loads(store.read_bytes(f"{name}/campaign.toml").decode()))
    took, stages = (store.read_json(f"{name}/run.json") or {}).get("stages", {}), []
    for stage in stages_of(campaign):
        made = [replace(each, partial=True).manifest() for each in stage_artifacts(campaign, store, stage)]
        state = "partly" if any(made) else "to do"
        if all(each is not None and each.schema != "partial/1" for each in made):
            state = "complete"
        elif stage == found["stage"] and found["is_alive"]:
            state = "at work"
        rows = sum(each.rows for each in made if each is not None) if any(made) else None
        cost = {key: took.get(stage, {}).get(key, 0.0) for key in ("elapsed_s", "usd")}
        stages.append({"stage": stage, "state": state, "rows": rows, **cost})
    return {**found, "stages": stages}


def overview(store: Store, name: str) -> dict[str, Any]:
    """The same without the stages' rows: two small files are read."""
    record, held = store.read_json(f"{name}/run.json") or {}, holder(store, name)
    outcome, is_alive = str(record.get("outcome", "")), held is not None and held[1]
    if held is not None and is_alive:
        state = "cancelling" if held[0].cancelled else "running"
    elif outcome:
        state = outcome if outcome.startswith(COMPLETE) or outcome in ENDED else "failed"
    else:
        state = "lost" if record else COMPLETE if "report" in store.directories(name) else "not begun"
    over = [stage["over"] for stage in record.get("stages", {}).values()]
    now = record if is_alive else {}
    return {
        "campaign": name, "root": store.uri, "state": state, "is_alive": is_alive,
        "why": {"failed": outcome, "lost": LOST}.get(state, ""),
        "driver": str(held[0]) if held is not None else None, "job": record.get("job"),
        "stage": record.get("stage", ""), "stages_over": sum(over), "stages_in_all": len(over),
        "progress": now.get("progress", {}), "left_s": now.get("left_s"), "waits_for": now.get("waits_for", ""),
        "usd": record.get("usd", 0.0), "told_at": record.get("at"),
    }  # fmt: skip


def last_lines(store: Store, name: str) -> list[str]:
    """What the last run said, its last lines; then where logs of failures are kept."""
    kept = [path for path in store.files(f"{name}/logs", recursive=True) if path.endswith("error.log")]
    lines = (store.read_json(f"{name}/run.json") or {}).get("lines", [])
    return [*lines, *(f"kept: {store.url(f'{name}/logs/{path}')}" for path in kept)]


def campaigns(store: Store) -> list[dict[str, Any]]:
    """An overview of each campaign below the root."""
    return [overview(store, name) for name in store.directories("") if "lease.json" in store.files(name)]


def status_text(found: Mapping[str, Any]) -> str:
    by = f", by {found['driver']}" if found["is_alive"] else f": {found['why']}" if found["why"] else ""
    lines = [f"{found['campaign']} at {found['root']}/{found['campaign']}: {found['state']}{by}"]
    if at := found["progress"]:
        pace = f"  {at['per_s']:,.4g} {at['unit']}/s  {clock(at['left_s'])} left" if "per_s" in at else ""
        lines.append(f"{at['label']}: {at['done']:,}/{at['total']:,} {at['unit']}{pace}  {at['note']}".rstrip())
    lines += [found["waits_for"]] if found["waits_for"] else []
    lines.append(f"{'stage':<12}{'state':<10}{'rows':>10}{'minutes':>10}{'USD':>10}")
    for each in found["stages"]:
        figures = f"{'' if each['rows'] is None else format(each['rows'], ','):>10}{each['elapsed_s'] / 60:>10,.3g}"
        lines.append(f"{each['stage']:<12}{each['state']:<10}{figures}{each['usd']:>10,.3g}")
    left = "" if found["left_s"] is None else f", about {clock(found['left_s'])} left"
    told = f", told at {found['told_at']}" if found["told_at"] else ""
    return "\n".join([*lines, f"${found['usd']:,.4g} so far{left}{told}"])


def campaigns_table(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = [f"{'campaign':<28}{'state':<14}{'stage':<14}{'stages':>8}{'left':>10}{'USD':>10}  told at"]
    for row in rows:
        left = "" if row["left_s"] is None else clock(row["left_s"])
        at = f"{row['stage'] if row['is_alive'] else '':<14}{row['stages_over']}/{row['stages_in_all']:<7}{left:>9}"
        lines.append(f"{row['campaign']:<28}{row['state']:<14}{at}{row['usd']:>10,.4g}  {row['told_at'] or ''}")
    return "\n".join(lines)
