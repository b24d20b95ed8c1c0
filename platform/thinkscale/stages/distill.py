"""A reasoning trace for each selected question, chosen from the attempts of all teachers.
Owns the choice, and what the traces carry on: pass rates, the teachers' terms, a card."""

import asyncio
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pyarrow as pa

from thinkscale.domain.campaign import Campaign
from thinkscale.domain.terms import teachers_terms
from thinkscale.report.data_card import trace_card
from thinkscale.runtime.segments import Result, itself, licences, run_segments
from thinkscale.runtime.teaching import EndpointSettings, spent_usd
from thinkscale.stages.artifacts import campaign_artifact, fingerprints
from thinkscale.stages.attempts import make_attempts
from thinkscale.store.artifact import Artifact
from thinkscale.store.filesystem import Store
from thinkscale.store.schemas import DROPPED, S1K, TRACES, dropped_row, table
from thinkscale.store.stage import Segment, Stage, begin_stage, slices

POLICIES = {
    "first_correct": lambda right: right[:1],
    "shortest_correct": lambda right: sorted(right, key=lambda row: row["thinking_tokens"])[:1],
    "longest_correct": lambda right: sorted(right, key=lambda row: -row["thinking_tokens"])[:1],
    "all_correct": lambda right: right,
}  # which of a question's correct attempts are kept, in the order of the teachers and attempts


class DistillError(RuntimeError):
    """No trace could be made; the message says where the reasons stand."""


def distill(campaign: Campaign, store: Store) -> bool:
    """`traces`: thinking and answer for each selected question; before it `attempts-<n>` of every teacher.
    Raises TermsError: a teacher's terms are not confirmed, or do not allow training on its output; DistillError: no
    trace came of it. The errors of `make_attempts`."""
    terms = teachers_terms(campaign)
    source, output = (campaign_artifact(campaign, store, name) for name in ("selected", "traces"))
    numbers = range(1, len(campaign.teacher) + 1)
    all_attempts = [campaign_artifact(campaign, store, f"attempts-{number}") for number in numbers]
    did = _ask_all(campaign, source, all_attempts)
    config = {"teacher": [teacher.identity for teacher in campaign.teacher], "keep": campaign.distill.keep}
    inputs = fingerprints(selected=source, **{attempts.path.rpartition("/")[2]: attempts for attempts in all_attempts})
    stage = _beside(begin_stage(output, config, inputs, lambda: slices(source, _rows(campaign))), all_attempts)
    if stage is not None:
        run_segments("distill", stage, read=itself, transform=KeepTraces(campaign.distill.keep))
        records = output.segment_records()
        rows = sum(record["file"]["rows"] for record in records)
        if not rows:
            raise DistillError(
                f"{output.url}: no trace came of {source.require().rows:,} questions; the reasons stand in "
                f"{output.url}/dropped"
            )
        dropped = sum((Counter(record.get("dropped", {})) for record in records), Counter[str]())
        facts = licences(source.read(["source", "licence"]).to_pylist())
        made = [each.require() for each in all_attempts]
        card = trace_card(campaign, rows, dropped, terms, facts["licences"], made)
        readme = output.write_file("README.md", card.encode())
        did = stage.commit(TRACES, extra={"terms": terms, **facts}, files=[readme])
    return did | (campaign.distill.s1k and _write_s1k(campaign, store, source, output))


def _ask_all(campaign: Campaign, source: Artifact, outputs: Sequence[Artifact]) -> bool:
    """Whether any teacher had to be asked. Endpoints are asked side by side, but where they share dollars; none waits
    for another, and what one raises is raised once all are done."""
    found: list[bool | Exception] = [False] * len(outputs)
    shared = (campaign.distill.max_usd, campaign.max_usd) != (None, None)

    def ask(at: int) -> None:
        teacher = campaign.teacher[at]
        try:
            left = partial(_usd_left, campaign, source) if shared and teacher.endpoint is not None else None
            found[at] = make_attempts(campaign, source, outputs[at], teacher, left)
        except Exception as error:
            found[at] = error

    beside = [at for at, teacher in enumerate(campaign.teacher) if teacher.endpoint is not None and not shared]
    # Daemons: what ends this process does not wait for them.
    threads = [threading.Thread(target=ask, args=(at,), daemon=True) for at in beside[1:]]
    for at in (at for at in range(len(outputs)) if at not in beside):
        ask(at)
    for thread in threads:
        thread.start()
    for at in beside[:1]:
        ask(at)
    for thread in threads:
        thread.join()
    if errors := [each for each in found if isinstance(each, Exception)]:
        for other in errors[1:]:
            errors[0].add_note(f"and: {other}")
        raise errors[0]
    return any(found)


def _rows(campaign: Campaign) -> int:
    return campaign.difficulty.segment_rows


def _usd_left(campaign: Campaign, source: Artifact) -> float:
    """What the endpoints may still cost, by the replies that the campaign has paid for."""
    most = min(usd for usd in (campaign.distill.max_usd, campaign.max_usd) if usd is not None)
    questions = source.read(["question"]).column("question").to_pylist()
    for teacher in campaign.teacher:
        if teacher.endpoint is not None:
            settings = EndpointSettings(teacher=teacher, store=source.store, campaign=campaign.name)
            most -= asyncio.run(spent_usd(settings, [(q, n) for q in questions for n in range(teacher.attempts)]))
    return most


def _beside(stage: Stage | None, artifacts: Sequence[Artifact]) -> Stage | None:
    """The stage, each segment with the parts of artifacts that were made of the same one."""
    if stage is None:
        return None
    parts = [artifact.parts() for artifact in artifacts]
    work = [
        replace(segment, work=(segment.work, [(a, own[at]) for a, own in zip(artifacts, parts, strict=True)]))
        for at, segment in enumerate(stage.segments)
    ]
    return replace(stage, segments=tuple[Segment, ...](work))


class KeepTraces:
    """Chooses among the attempts at each question; what is not chosen is dropped with the reason."""

    def __init__(self, keep: str) -> None:
        self._keep = keep

    def __call__(self, work: tuple[Any, Sequence[tuple[Artifact, Any]]]) -> Result:
        questions, kept, dropped = work[0].read().to_pylist(), [], []
        by_question: dict[str, list[dict[str, Any]]] = {row["id"]: [] for row in questions}
        for artifact, part in work[1]:
            for row in artifact.read_part(part).to_pylist():
                by_question[row["question_id"]].append(row)
        for question in questions:
            attempts = by_question[question["id"]]
            asked = [row for row in attempts if row["status"] not in ("error", "no_solution")]
            right = [row for row in asked if row["correct"]]
            whole = [row for row in asked if row["status"] == "ok"]
            chosen = whole if self._keep == "all" else POLICIES[self._keep](right)
            rates = {"attempts": len(asked), "pass_rate": len(right) / len(asked) if asked else None}
            for row in attempts:
                trace = {
                    **{name: row[name] for name in TRACES.names if name in row},
                    **{name: question[name] for name in ("question", "domain", "source")},
                    **rates,
                }
                if row in chosen:
                    kept.append(trace)
                    continue
                reason = row["status"]
                if reason == "ok":
                    reason = "not_kept" if row["correct"] else "wrong_answer"
                detail = {"teacher": row["teacher"], "attempt": row["attempt"], "words": row["words"], **rates}
                dropped.append(dropped_row("distill", question["id"], reason, detail, {**question, **trace}))
        return Result(kept=table(kept, TRACES), dropped=table(dropped, DROPPED))


def _write_s1k(campaign: Campaign, store: Store, source: Artifact, traces: Artifact) -> bool:
    """`traces-s1k`: the traces with the columns of s1K."""
    output, inputs = campaign_artifact(campaign, store, "traces-s1k"), fingerprints(selected=source, traces=traces)
    stage = _beside(begin_stage(output, {}, inputs, lambda: slices(source, _rows(campaign))), [traces])
    if stage is None:
        return False
    run_segments("distill", stage, read=itself, transform=as_s1k)
    return stage.commit(S1K, files=[output.write_file("README.md", traces.read_file("README.md"))])


def as_s1k(work: tuple[Any, Sequence[tuple[Artifact, Any]]]) -> Result:
    """Traces and their questions in s1K's columns."""
    questions: Mapping[str, Any] = {row["id"]: row for row in work[0].read().to_pylist()}
    traces = [row for artifact, part in work[1] for row in artifact.read_part(part).to_pylist()]
    rows = [
        {
            "solution": questions[trace["question_id"]]["answer"],
            "question": trace["question"],
            "cot_type": trace["domain"] or questions[trace["question_id"]]["kind"],
            "source_type": trace["source"],
            "metadata": questions[trace["question_id"]]["metadata"] or "{}",
            "cot": None,
            "thinking_trajectories": [trace["thinking"]],
            "attempt": trace["answer"],
        }
        for trace in traces
    ]
    return Result(kept=pa.Table.from_pylist(rows, schema=S1K))
