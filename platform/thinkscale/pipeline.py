"""The stages in order: the table of contents of the whole system.

Each stage reads artifacts and writes one; a stage whose artifact is complete does nothing. Knows nothing of
how a stage works, only what comes before what. Importing it loads nothing heavy.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from thinkscale.domain.campaign import Campaign
    from thinkscale.store.filesystem import Store

STAGES = {
    "benchmarks": "benchmarks as Parquet",
    "ingest": "the pool: read, normalised, checked for quality",
    "embed": "an embedding for each question",
    "deduplicate": "near duplicates and benchmark leaks dropped",
    "difficulty": "questions that a model already solves dropped",
    "select": "the questions that teach most",
    "distill": "a reasoning trace for each selected question",
    "train": "the base model fine-tuned on the traces",
    "evaluate": "every model on every benchmark over the grid of budgets",
    "report": "the scaling curve, the costs and the samples on one page",
}
"""Every stage and what it makes, in order."""

FIRST, LAST = next(iter(STAGES)), list(STAGES)[-1]


def _work() -> dict[str, Callable[[Campaign, Store], Any]]:
    from thinkscale.stages import (
        benchmarks,
        deduplicate,
        difficulty,
        distill,
        embed,
        evaluate,
        ingest,
        report,
        select,
        train,
    )

    return {
        "benchmarks": benchmarks.build_benchmarks,
        "ingest": ingest.ingest,
        "embed": embed.embed,
        "deduplicate": deduplicate.deduplicate,
        "difficulty": difficulty.score_difficulty,
        "select": select.select,
        "distill": distill.distill,
        "train": train.train,
        "evaluate": evaluate.evaluate,
        "report": report.report,
    }


def run(
    campaign: Campaign,
    *,
    first: str = FIRST,
    last: str = LAST,
    address: str | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """Run the stages from `first` to `last`, each where its artifact is not complete yet.

    Args:
        address: the Ray cluster to join; None: the one this process is a job of, else a local one.
        say: takes one line of text.

    Raises:
        thinkscale.store.filesystem.StoreError: the campaign's root cannot be written.
        thinkscale.learn.families.UnsupportedModelError: the base model cannot be fine-tuned.
        thinkscale.store.artifact.ConfigDriftError: a stage was begun with another configuration.
    """
    from thinkscale.runtime.session import connect, disconnect
    from thinkscale.stages.distill import check_terms
    from thinkscale.stages.train import check_base
    from thinkscale.store.filesystem import Store

    store = Store(campaign.root)
    store.check_writable()
    names = list(STAGES)
    chosen = names[names.index(first) : names.index(last) + 1]
    if "distill" in chosen:
        check_terms(campaign)
    if "train" in chosen:
        check_base(campaign, store)
    connect(address)
    try:
        for number, name in enumerate(chosen, 1):
            label = f"[{number}/{len(chosen)}] {name}"
            say(f"{label}: {STAGES[name]}")
            began, before = time.monotonic(), _commits(campaign, store)
            _work()[name](campaign, store)
            did = "complete" if _commits(campaign, store) != before else "nothing to do, complete already"
            say(f"{label}: {did} ({time.monotonic() - began:.1f} s)")
        if last == LAST:
            from thinkscale.stages.report import summary

            say(summary(campaign, store))
    finally:
        disconnect()


def _commits(campaign: Campaign, store: Store) -> dict[str, int]:
    """Paths of the campaign's manifests and when they were written."""
    written = store.written(campaign.name)
    return {name: when for name, when in written.items() if name.endswith("manifest.json")}
