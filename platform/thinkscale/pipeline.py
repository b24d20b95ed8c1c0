"""The stages in order: the table of contents of the whole system.

Each stage reads artifacts and writes one; a stage whose artifact is complete does nothing. Knows nothing of
how a stage works, only what comes before what. Importing it loads nothing heavy.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

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


def _work() -> dict[str, Callable[[Campaign, Store], bool]]:
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
    wait: bool = False,
    say: Callable[[str], None] = print,
) -> None:
    """Run the stages from `first` to `last`, each where its artifact is not complete yet.

    Args:
        address: the Ray cluster to join; None: the one this process is a job of, else a local one.
        wait: for another driver that works on this campaign. False: refuse.
        say: takes one line of text.

    Raises:
        thinkscale.store.filesystem.StoreError: the campaign's root cannot be written, another driver works on it,
            or has taken it over.
        thinkscale.learn.families.UnsupportedModelError: the base model cannot be fine-tuned.
        thinkscale.store.artifact.ConfigDriftError: a stage was begun with another configuration.
        thinkscale.runtime.session.ClusterError: the cluster cannot be joined, or is lost.
        SystemExit: SIGTERM came.
    """
    from thinkscale.runtime import ending, failure, session
    from thinkscale.stages.distill import check_terms
    from thinkscale.stages.train import check_base
    from thinkscale.store.filesystem import Store
    from thinkscale.store.lease import hold

    root = Store(campaign.root)
    root.check_writable()
    names = list(STAGES)
    chosen = names[names.index(first) : names.index(last) + 1]
    if "distill" in chosen:
        check_terms(campaign)
    if "train" in chosen:
        check_base(campaign, root)
    held = hold(root, campaign.name, wait=wait, say=say, lost=ending.interrupt)
    with ending.listening(), held as lease:
        store = lease.store
        try:
            session.connect(address, last_words=lambda error: failure.tell(_explained(error, campaign, store)))
            for number, name in enumerate(chosen, 1):
                label = f"[{number}/{len(chosen)}] {name}"
                say(f"{label}: {STAGES[name]}")
                began, did = time.monotonic(), _work()[name](campaign, store)
                told = "complete" if did else "nothing to do, complete already"
                say(f"{label}: {told} ({time.monotonic() - began:.1f} s)")
            if last == LAST:
                from thinkscale.stages.report import summary

                say(summary(campaign, store))
            store.delete_directory(f"{campaign.name}/logs")  # of failures that are overcome
        except BaseException as raised:
            raise _explained(raised, campaign, store) from None
        finally:
            session.disconnect()


def _explained(raised: BaseException, campaign: Campaign, store: Store) -> BaseException:
    """What ended a run, with notes on what is kept and whether the same command goes on from there."""
    from thinkscale.runtime import ending, failure, session
    from thinkscale.store.artifact import ConfigDriftError

    error = ending.reason_for(raised)
    if isinstance(error, ConfigDriftError) or type(error) is session.ClusterError:  # nothing was begun
        return error
    if isinstance(error, KeyboardInterrupt | SystemExit):
        error.add_note("what is committed is kept: the same command resumes")
        return error
    if isinstance(error, session.ClusterLostError) or failure.may_pass(error):
        error.add_note("what is committed is kept: once that is mended, the same command resumes")
    error.add_note(failure.keep_logs(error, store, campaign.name, session.logs()))
    return error
