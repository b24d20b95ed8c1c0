"""The stages in order: the table of contents of the whole system.

Each stage reads artifacts and writes one; a stage whose artifact is complete does nothing. Knows nothing of
how a stage works, only what comes before what. Importing it loads nothing heavy.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
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

SHARES = dict(zip(STAGES, (1, 2, 5, 1, 20, 1, 1, 35, 32, 2), strict=True))
"""Of a campaign's time that the stages usually take, in percent: for the time left that is shown."""

FIRST, LAST = next(iter(STAGES)), list(STAGES)[-1]


OF_EVALUATION = ("benchmarks", "evaluate", "report")
"""The stages of a campaign without a pool."""

_WORK = {"benchmarks": "build_benchmarks", "difficulty": "score_difficulty"}
"""The function in a stage's module, where it is not called as the stage."""


def _work(stage: str) -> Callable[[Campaign, Store], bool]:
    work: Callable[[Campaign, Store], bool]
    work = getattr(import_module(f"thinkscale.stages.{stage}"), _WORK.get(stage, stage))
    return work


def chosen_stages(campaign: Campaign, first: str, last: str) -> list[str]:
    """The campaign's stages from `first` to `last`. Raises CampaignError where it has none of them."""
    from thinkscale.store.campaigns import CampaignError
    from thinkscale.store.filesystem import Store
    from thinkscale.store.samples import check_campaign

    if campaign.from_campaign is not None:
        first = first if first == LAST else FIRST  # what came before is taken over, or made
        check_campaign(Store(campaign.root), campaign.from_campaign)
    names = list(STAGES)
    chosen = names[names.index(first) : names.index(last) + 1]
    if not campaign.pool and not (chosen := [name for name in chosen if name in OF_EVALUATION]):
        raise CampaignError(f"campaign {campaign.name!r} has no [[pool]]: its stages are {', '.join(OF_EVALUATION)}")
    return chosen


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
        CampaignError: it has none of these stages, or takes over a campaign that is not there.
        TermsError, IngestError, ModelError and others: as `stages.preflight.check_inputs`.
        thinkscale.store.artifact.ConfigDriftError: a stage was begun with another configuration.
        thinkscale.runtime.failure.ClusterError: the cluster cannot be joined, or is lost.
        SystemExit: SIGTERM came.
    """
    from thinkscale.runtime import ending, failure, progress
    from thinkscale.store.filesystem import Store
    from thinkscale.store.lease import hold
    from thinkscale.store.samples import check_campaign

    root = Store(campaign.root)
    root.check_writable()
    chosen = chosen_stages(campaign, first, last)
    logs: Callable[[], dict[str, Path]] = dict
    if on_cluster := chosen != [LAST]:
        from thinkscale.runtime import session
        from thinkscale.stages.preflight import check_inputs, check_room

        check_inputs(campaign, root, chosen)
        logs = session.logs
    else:
        check_campaign(root, campaign.name)
    held = hold(root, campaign.name, wait=wait, say=say, lost=ending.interrupt)
    with ending.listening(), held as lease:
        store = lease.store
        try:
            if on_cluster:
                session.connect(
                    address, last_words=lambda error: failure.tell(_explained(error, campaign, store, logs))
                )
                check_room(campaign, store, chosen)
            with progress.shown({name: SHARES[name] for name in chosen}) as over:
                for number, name in enumerate(chosen, 1):
                    label = f"[{number}/{len(chosen)}] {name}"
                    say(f"{label}: {STAGES[name]}")
                    began, did = time.monotonic(), _work(name)(campaign, store)
                    told = "complete" if did else "nothing to do, complete already"
                    if not did and campaign.from_campaign:
                        told += f" or taken over from {campaign.from_campaign}"
                    say(f"{label}: {told} ({time.monotonic() - began:.1f} s)")
                    over(name, did)
            if last in ("evaluate", LAST):
                from thinkscale.stages.report import evaluation_summary, summary

                say((summary if last == LAST else evaluation_summary)(campaign, store))
            store.delete_directory(f"{campaign.name}/logs")  # of failures that are overcome
        except BaseException as raised:
            raise _explained(raised, campaign, store, logs) from None
        finally:
            if on_cluster:
                session.disconnect()


def _explained(
    raised: BaseException, campaign: Campaign, store: Store, logs: Callable[[], dict[str, Path]]
) -> BaseException:
    """What ended a run, with notes on what is kept and whether the same command goes on from there."""
    from thinkscale.runtime import ending, failure
    from thinkscale.store.artifact import ConfigDriftError

    error = ending.reason_for(raised)
    if isinstance(error, ConfigDriftError) or type(error) is failure.ClusterError:  # nothing was begun
        return error
    if isinstance(error, KeyboardInterrupt | SystemExit):
        error.add_note("what is committed is kept: the same command resumes")
        return error
    if isinstance(error, failure.ClusterLostError) or failure.may_pass(error):
        error.add_note("what is committed is kept: once that is mended, the same command resumes")
    error.add_note(failure.keep_logs(error, store, campaign.name, logs()))
    return error
