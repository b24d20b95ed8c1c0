"""The questions that teach most: the paper's selection, or another named strategy, seeded."""

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from sys import intern
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from thinkscale.curate import selection
from thinkscale.domain.campaign import Campaign, Select
from thinkscale.domain.question import TRACE_ANSWER
from thinkscale.grading.pool import GradingPool
from thinkscale.grading.verdict import Graded
from thinkscale.report.data_card import data_card
from thinkscale.report.plots import draw_funnel
from thinkscale.runtime.progress import Progress
from thinkscale.runtime.segments import licences
from thinkscale.stages.artifacts import campaign_artifact, fingerprints
from thinkscale.stages.domains import label_domains
from thinkscale.stages.self_check import graded_row
from thinkscale.store.artifact import Artifact
from thinkscale.store.filesystem import Store
from thinkscale.store.lineage import FunnelStep, cascade, funnel
from thinkscale.store.locations import IngestError
from thinkscale.store.schemas import DIFFICULTY, DROPPED, SELECTED, dropped_row, table
from thinkscale.store.stage import WHOLE, begin_stage, stored_vectors


def select(campaign: Campaign, store: Store) -> bool:
    """`selected`: the questions to train on, by the campaign's strategy, in the order in which they were chosen.
    Before it `domains`, where the campaign labels questions itself."""
    source, output = label_domains(campaign, store), campaign_artifact(campaign, store, "selected")
    embeddings = campaign_artifact(campaign, store, "embeddings")
    inputs = {"questions": source} | ({"embeddings": embeddings} if campaign.select.strategy == "facility" else {})
    config = {"select": campaign.select.model_dump(), "seed": campaign.seed}
    stage = begin_stage(output, config, fingerprints(**inputs), lambda: [WHOLE])
    if stage is None:
        return False
    rows = source.require().rows
    progress = Progress("select", min(campaign.select.count, rows))
    if not rows:
        raise IngestError(
            f"{source.url} is empty: no question is left to select. Every question was dropped before or is solved by "
            "a model of difficulty.models; add harder sources or weaker models"
        )
    if rows < campaign.select.count:
        progress.note(f"select.count is {campaign.select.count:,}, only {rows:,} are left: all are selected")
    parts = source.iter_tables(["id", "source", "domain", "trace_tokens"])
    candidates = sorted((_candidate(**row) for part in parts for row in part.to_pylist()), key=lambda each: each.id)
    if wrong := _wrongly_traced(source, campaign.select):
        candidates = [replace(each, may_seed=each.id not in wrong) for each in candidates]
    vectors = stored_vectors(embeddings, [candidate.id for candidate in candidates]) if "embeddings" in inputs else None
    picks = selection.select(candidates, campaign.select, campaign.seed, vectors)
    chosen = _chosen(source, picks)
    left = {candidate.id for candidate in candidates} - {pick.id for pick in picks}
    output.commit_segment(WHOLE.key, table(chosen, SELECTED), dropped=_not_selected(sorted(left), campaign))
    progress.advance(len(chosen))
    facts, costs = licences(chosen), cascade(campaign, store)
    dropped = {"not_selected": rows - len(chosen)} if len(chosen) < rows else {}
    own = FunnelStep(artifact="selected", rows_in=rows, rows_kept=len(chosen), dropped=dropped)
    steps = [*funnel(campaign, store), own]
    card = data_card(campaign, len(chosen), facts["licences"], steps, costs)
    images = draw_funnel(steps, title=f"{campaign.name}: {len(chosen):,} questions")
    texts = {"README.md": card.encode(), **{f"funnel.{kind}": image for kind, image in images.items()}}
    files = [output.write_file(name, data) for name, data in texts.items()]
    return stage.commit(SELECTED, extra={**facts, "cascade": [asdict(cost) for cost in costs]}, files=files)


def _candidate(id: str, source: str, domain: str | None, trace_tokens: int | None) -> selection.Candidate:
    domain = intern(domain or source)
    return selection.Candidate(id=id, source=intern(source), domain=domain, trace_tokens=trace_tokens or 0)


def _wrongly_traced(source: Artifact, settings: Select) -> set[str]:
    """Ids of would-be seeds whose ready-made trace does not come to the reference, as the graders see it."""
    if settings.strategy != "s1" or not (settings.always_sources or settings.long_sources):
        return set()
    asked: dict[str, Graded] = {}
    for part in source.iter_tables(["id", "source", "trace_tokens", "answer", "kind", "options", "metadata"]):
        for row in part.to_pylist():
            said = dict(row["metadata"] or ()).get(TRACE_ANSWER)
            if said and settings.is_seed(row["source"], row["trace_tokens"] or 0):
                asked[row["id"]] = graded_row(row, said)
    with GradingPool() as pool:
        verdicts = pool.grade_all(asked.values())
    return {name for name, verdict in zip(asked, verdicts, strict=True) if verdict.verdict != "correct"}


def _chosen(source: Artifact, picks: Sequence[selection.Pick]) -> list[dict[str, Any]]:
    wanted = pa.array([pick.id for pick in picks])
    parts = source.iter_tables(DIFFICULTY.names)
    found = pa.concat_tables(rows.filter(pc.is_in(rows.column("id"), wanted)) for rows in parts)
    by_id = {row["id"]: row for row in found.to_pylist()}
    chosen = []
    for rank, pick in enumerate(picks):
        metadata = json.dumps(dict(by_id[pick.id]["metadata"] or ()))
        chosen.append({**by_id[pick.id], "metadata": metadata, "selected_rank": rank, "selected_by": pick.by})
    return chosen


def _not_selected(ids: Sequence[str], campaign: Campaign) -> pa.Table:
    """Rows of `dropped`; their content stands in the artifact that they were selected from."""
    fixed = dropped_row("select", None, "not_selected", {"strategy": campaign.select.strategy})
    columns = {**{name: pa.repeat(pa.scalar(value, pa.string()), len(ids)) for name, value in fixed.items()}, "id": ids}
    return pa.table(columns, schema=DROPPED)
