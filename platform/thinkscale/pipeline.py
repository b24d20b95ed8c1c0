"""The stages in order: the table of contents of the whole system.
Each stage reads artifacts and writes one; a stage whose artifact is complete does nothing. Knows nothing of how a stage
works, only what comes before what. Importing it loads nothing heavy."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from thinkscale.domain.campaign import Campaign
    from thinkscale.stages.planning import StagePlan
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
}  # every stage and what it makes, in order

FIRST, LAST = next(iter(STAGES)), list(STAGES)[-1]

LEFT_S = 3.0  # in which those who watch the cluster say what died

OF_EVALUATION = ("benchmarks", "evaluate", "report")  # the stages of a campaign without a pool

_WORK = {"benchmarks": "build_benchmarks", "difficulty": "score_difficulty"}  # where it is not called as the stage


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
    if campaign.pool:
        return chosen
    if not (chosen := [name for name in chosen if name in OF_EVALUATION]):
        raise CampaignError(f"campaign {campaign.name!r} has no [[pool]]: its stages are {', '.join(OF_EVALUATION)}")
    return [FIRST, *chosen] if chosen[0] == "evaluate" else chosen  # nothing else would have made its benchmarks


def run(
    campaign: Campaign,
    *,
    first: str = FIRST,
    last: str = LAST,
    address: str | None = None,
    wait: bool = False,
    dry: bool = False,
    say: Callable[[str], None] = print,
) -> None:
    """Run the stages from `first` to `last`, each where its artifact is not complete yet.
    Before anything is spent the campaign and its plan are written below the root, `campaign.toml` and `plan.json`.
    `address`: the Ray cluster to join; None: the one this process is a job of, else a local one. `wait`: for another
    driver that works on this campaign. False: refuse. `dry`: end there. `say`: takes one line of text. Raises
    StoreError: the campaign's root cannot be written, another driver works on it, or has taken it over; CampaignError:
    it has none of these stages, or takes over a campaign that is not there; TermsError, IngestError, ModelError and
    others: as `stages.preflight.refusals`; ConfigDriftError: a stage was begun with another configuration;
    ClusterError: the cluster cannot be joined, or is lost; LimitError: it came to max_usd or the deadline; what is
    there was reported; SystemExit: SIGTERM came."""
    from thinkscale.runtime import ending, failure, progress
    from thinkscale.runtime.record import COMPLETE, Record
    from thinkscale.runtime.spend import LimitError, Spending
    from thinkscale.stages.artifacts import is_complete
    from thinkscale.stages.planning import actual_table, against_actual, keep_plan, make_plan, plan_table
    from thinkscale.stages.report import partial_summary
    from thinkscale.store.filesystem import Store
    from thinkscale.store.lease import hold
    from thinkscale.store.samples import check_campaign

    root = Store(campaign.root)
    root.check_writable()
    chosen, refused = chosen_stages(campaign, first, last), dict[str, Exception]()
    logs: Callable[[], dict[str, Path]] = dict
    if on_cluster := chosen != [LAST]:
        from thinkscale.runtime import session
        from thinkscale.runtime.room import watched
        from thinkscale.stages.preflight import check_room, refusals

        for first_refusal in refusals(campaign, root, chosen, here=_is_here(address)):
            raise first_refusal
        logs = session.logs
    else:
        check_campaign(root, campaign.name)
    planned = make_plan(campaign, root, chosen_stages(campaign, FIRST, LAST), refused)
    for stage in chosen:
        if stage in refused:
            raise refused[stage]
    held = hold(root, campaign.name, wait=wait, say=say, lost=ending.interrupt, cancelled=ending.cancel)
    record: Record | None = None
    with ending.listening(), held as lease:
        store = lease.store
        try:
            if on_cluster:
                session.connect(
                    address, last_words=lambda error: failure.tell(_explained(error, campaign, store, logs))
                )
                check_room(campaign, store, chosen)
            spent = Spending(campaign, store)
            if dry or not spent.stages:
                keep_plan(campaign, store, planned)
            if dry:
                say(plan_table(planned))
                return
            minutes = {row.stage: row.minutes[1] for row in planned if row.stage in chosen}
            record = Record(campaign.name, store, spent, minutes)
            room = watched(campaign.resources) if on_cluster else nullcontext()
            with spent, record, room, progress.shown(minutes) as over:
                for number, name in enumerate(chosen, 1):
                    label = f"[{number}/{len(chosen)}] {name}"
                    say(f"{label}: {STAGES[name]}")
                    if ending.winding_up is not None and not is_complete(campaign, store, name):
                        raise ending.winding_up
                    began = time.monotonic()
                    record.at(name)
                    with spent.stage(name):
                        did = _work(name)(campaign, store)
                    told = "complete" if did else "nothing to do, complete already"
                    if not did and campaign.from_campaign:
                        told += f" or taken over from {campaign.from_campaign}"
                    say(f"{label}: {told} ({time.monotonic() - began:.1f} s)")
                    over(name, did)
                    record.over(name)
            if did_something := against_actual(campaign, store, spent):
                say(actual_table(did_something))
            if last in ("evaluate", LAST):
                from thinkscale.stages.report import evaluation_summary, summary

                say((summary if last == LAST else evaluation_summary)(campaign, store))
            store.delete_directory(f"{campaign.name}/logs")  # of failures that are overcome
            record.end(COMPLETE if last == LAST else f"{COMPLETE} to {last}", failed=False)
        except BaseException as raised:
            error = _explained(raised, campaign, store, logs)
            if record is not None:
                record.end(ending.word_for(error) or failure.headline(error), failed=True)
            if isinstance(error, LimitError):
                say(partial_summary(campaign, store))
            raise error from None
        finally:
            if on_cluster:
                session.disconnect()


def _is_here(address: str | None) -> bool:
    return address == "local" or (address or os.environ.get("RAY_ADDRESS")) is None


def plan(campaign: Campaign, *, address: str | None = None) -> tuple[list[StagePlan], list[str]]:
    """What the stages that are not complete will take, and what a run would be refused for; writes nothing.
    `address`: the Ray cluster whose room is looked at; None: none is."""
    from thinkscale.runtime import session
    from thinkscale.runtime.failure import ClusterError, headline
    from thinkscale.stages.planning import make_plan
    from thinkscale.stages.preflight import check_room, refusals
    from thinkscale.store.filesystem import Store, StoreError

    root = Store(campaign.root)
    chosen = chosen_stages(campaign, FIRST, LAST)
    refused = [headline(error) for error in refusals(campaign, root, chosen, here=_is_here(address))]
    try:
        root.check_writable()
        if address is not None:
            session.connect(address)
            check_room(campaign, root, chosen)
    except (StoreError, ClusterError) as error:
        refused.append(headline(error))
    finally:
        session.disconnect()
    unusable: dict[str, Exception] = {}
    rows = make_plan(campaign, root, chosen, unusable)
    told = dict.fromkeys(map(headline, unusable.values()))
    return rows, [*refused, *(line for line in told if not any(each.endswith(line) for each in refused))]


def _explained(
    raised: BaseException, campaign: Campaign, store: Store, logs: Callable[[], dict[str, Path]]
) -> BaseException:
    from thinkscale.runtime import ending, failure
    from thinkscale.runtime.spend import LimitError
    from thinkscale.store.artifact import ConfigDriftError

    if isinstance(raised, SystemExit) and ending.reason is None:
        with suppress(SystemExit):  # Ray leaves so, where it sees its cluster's end before those who watch it
            time.sleep(LEFT_S)
    error = ending.reason_for(raised)
    if isinstance(error, SystemExit) and not ending.word_for(error):
        error = RuntimeError(f"something in this process left with exit code {error.code}").with_traceback(
            error.__traceback__
        )
    if isinstance(error, ConfigDriftError) or type(error) is failure.ClusterError:  # nothing was begun
        return error
    if isinstance(error, LimitError):
        ending.forget()
        return error
    if isinstance(error, KeyboardInterrupt | SystemExit):
        error.add_note("what is committed is kept: the same command resumes")
        return error
    if isinstance(error, failure.ClusterLostError) or failure.may_pass(error):
        error.add_note("what is committed is kept: once that is mended, the same command resumes")
    error.add_note(failure.keep_logs(error, store, campaign.name, logs()))
    return error
