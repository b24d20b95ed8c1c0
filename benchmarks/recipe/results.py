"""What the arms' samples say: points, Waits, arms against each other, votes, and what it cost.

Everything is read from the artifacts; differences are paired by question, with 95% intervals.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, replace
from itertools import groupby
from typing import Any

import pyarrow as pa

from thinkscale.domain.campaign import Campaign
from thinkscale.report.comparison import compare_tallies
from thinkscale.report.metrics import (
    COLUMNS,
    Point,
    by_point,
    curve_metrics,
    curves,
    points,
    question_accuracies,
    tally,
)
from thinkscale.report.parallel import COLUMNS as VOTE_COLUMNS
from thinkscale.report.parallel import Votes
from thinkscale.report.plots import draw_curves
from thinkscale.report.spending import spending
from thinkscale.report.statistics import difference_interval, gate, mcnemar
from thinkscale.stages.report import sample_manifests, stage_manifests
from thinkscale.store.artifact import Artifact, Manifest
from thinkscale.store.filesystem import Store
from thinkscale.store.samples import SampleSet

Complete = Mapping[str, Mapping[str, Campaign]]
"""By arm and way (greedy, drawn) the campaign that evaluated it."""
AGAINST = (
    ("random", "base"), ("selected", "base"), ("selected", "random"), ("selected", "longest"), ("selected", "diverse"),
    ("selected", "all"), ("random+checks", "random"), ("selected+checks", "selected"), ("all+checks", "all"),
    ("random+checks", "base"), ("selected+checks", "base"), ("random+checks+own", "random"),
    ("random+checks+own", "random+checks"),
)  # fmt: skip


def found_of(store: Store, complete: Complete) -> dict[str, Any]:
    """All figures of the arms: each a list of rows."""
    tallies = {arm: tally(_parts(store, ways["greedy"], COLUMNS)) for arm, ways in complete.items() if "greedy" in ways}
    curved = {arm: points(tallied) for arm, tallied in tallies.items()}
    votes = {arm: list(_votes(store, ways["drawn"])) for arm, ways in complete.items() if "drawn" in ways}
    return {
        "points": [_point(arm, point) for arm, found in curved.items() for point in found],
        "metrics": [
            {"arm": arm, **_rounded(asdict(curve_metrics(curve)), "model")}
            for arm, found in curved.items()
            for curve in curves(found).values()
        ],
        "waits": [row for arm, tallied in tallies.items() for row in _waits(arm, tallied)],
        "against": [
            {"arm": arm, "against": other, **_rounded(asdict(row), "model_a", "model_b")}
            for arm, other in AGAINST
            if arm in tallies and other in tallies
            for row in compare_tallies(_as_one(tallies[other]), _as_one(tallies[arm]))
        ],
        "votes": [{"arm": arm, **_rounded(row, "model")} for arm, rows in votes.items() for row in rows],
        "sequential_against_parallel": [
            row for arm, rows in votes.items() if arm in curved for row in _equal_tokens(arm, curved[arm], rows)
        ],
    }


def figure(store: Store, complete: Complete) -> bytes:
    """The arms' greedy curves as PNG, one panel a benchmark: base, and each selection with and without checks."""
    shown = [arm for arm in complete if "greedy" in complete[arm]][:6]
    found = [
        replace(point, model=arm)
        for arm in shown
        for point in points(tally(_parts(store, complete[arm]["greedy"], COLUMNS)))
    ]
    return draw_curves(found, title="The recipe and its ablations")["png"] if found else b""


def spent_of(store: Store, trained: Mapping[str, Campaign], complete: Complete) -> list[dict[str, Any]]:
    """Device-seconds and dollars by arm and stage; decoded against separate tokens; training's MFU."""
    rows = []
    for arm, campaign in trained.items():
        made = {name: m for name, m in stage_manifests(campaign, store).items() if "taken_from" not in m.extra}
        rows += [_spent(arm, row, made) for row in spending(campaign, made, [])]
        model = Artifact(store, f"{campaign.name}/model")
        if model.manifest() is not None:
            steps = [json.loads(line) for line in model.read_file("metrics.jsonl").splitlines()]
            shares = [step["mfu"] for step in steps[1:] if step.get("mfu") is not None]
            told = {"steps": len(steps), "loss_first": steps[0]["loss"], "loss_last": steps[-1]["loss"]}
            rows[-1] |= {**told, "mfu": round(sum(shares) / len(shares), 4) if shares else None}
    for arm, ways in complete.items():
        for way, campaign in ways.items():
            made = sample_manifests(_sets(store, campaign))
            rows += [
                _spent(arm, {**row, "stage": f"{way} {row['stage']}"}, made) for row in spending(campaign, made, [])
            ]
    return rows


def _spent(arm: str, row: Mapping[str, Any], made: Mapping[str, Manifest]) -> dict[str, Any]:
    names = ("stage", "gpu_s", "cpu_s", "busy", "startup", "idle", "tail", "usd", "decoded_tokens", "separate_tokens")
    return {"arm": arm, **_rounded({name: row[name] for name in names if row.get(name) is not None})}


def _sets(store: Store, campaign: Campaign) -> list[SampleSet]:
    return [
        SampleSet(store=store, campaign=campaign.name, model=model, benchmark=benchmark.name)
        for model in campaign.evaluate.models
        for benchmark in campaign.evaluate.benchmarks
    ]


def _parts(store: Store, campaign: Campaign, columns: list[str]) -> Iterator[pa.Table]:
    for one in _sets(store, campaign):
        yield from one.iter_tables(columns)


def _as_one(tallied: pa.Table) -> pa.Table:
    """A tally whose model has the same name in all arms."""
    at = tallied.schema.get_field_index("model")
    return tallied.set_column(at, "model", pa.array(["arm"] * tallied.num_rows))


def _point(arm: str, point: Point) -> dict[str, Any]:
    names = ("benchmark", "max_thinking_tokens", "num_waits", "questions", "accuracy", "low", "high",
             "mean_thinking_tokens", "mean_answer_tokens", "unanswered", "ungradable", "capped", "failed")  # fmt: skip
    return {"arm": arm, "budget": point.budget, **_rounded({name: getattr(point, name) for name in names})}


def _waits(arm: str, tallied: pa.Table) -> Iterator[dict[str, Any]]:
    """Each number of Waits against none at the same cap."""
    cells = {key: question_accuracies(rows) for key, rows in by_point(tallied).items()}
    for (model, benchmark, cap, waits), after in cells.items():
        before = cells.get((model, benchmark, cap, 0), {})
        paired = sorted(before.keys() & after.keys())
        if not waits or not paired:
            continue
        a, b = [before[q] for q in paired], [after[q] for q in paired]
        difference = difference_interval(a, b)
        told = {**asdict(difference), "p_mcnemar": mcnemar(a, b)}
        yield {"arm": arm, "benchmark": benchmark, "cap": cap, "waits": waits, "questions": len(paired),
               **_rounded(told), "gate": gate(difference)}  # fmt: skip


def _votes(store: Store, campaign: Campaign) -> Iterator[dict[str, Any]]:
    votes, found = Votes(), points(tally(_parts(store, campaign, COLUMNS)))
    for part in _parts(store, campaign, VOTE_COLUMNS):
        votes.add(part)
    yield from (asdict(point) for point in votes.points(found))


def _equal_tokens(arm: str, greedy: list[Point], votes: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Majority votes of k samples beside the best single sample that thinks no longer than they do together."""
    by_benchmark: dict[str, list[Point]] = defaultdict(list)
    for point in greedy:
        by_benchmark[point.benchmark].append(point)
    for benchmark, rows in groupby(votes, key=lambda row: row["benchmark"]):
        for row in rows:
            within = [p for p in by_benchmark[benchmark] if p.mean_thinking_tokens <= row["mean_thinking_tokens"]]
            if within:
                best = max(within, key=lambda p: p.accuracy)
                told = {"tokens": row["mean_thinking_tokens"], "majority": row["majority"], "sequential": best.accuracy}
                yield {"arm": arm, "benchmark": benchmark, "k": row["k"], "of": row["budget"], **_rounded(told),
                       "sequential_budget": best.budget}  # fmt: skip


def _rounded(row: Mapping[str, Any], *without: str) -> dict[str, Any]:
    return {k: round(v, 4) if isinstance(v, float) else v for k, v in row.items() if k not in without}
