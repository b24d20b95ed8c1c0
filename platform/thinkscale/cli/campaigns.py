"""Commands that work on a campaign: its stages, what it holds, what became of a row."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from thinkscale import pipeline
from thinkscale.cli.options import JSON, ROOT, SET, TARGET, campaign_options, cli, load

if TYPE_CHECKING:
    from thinkscale.domain.campaign import Campaign

STAGE = click.Choice(list(pipeline.STAGES))


@cli.command()
@campaign_options
@click.option("--from", "first", type=STAGE, default=pipeline.FIRST, help="First stage to run.")
@click.option("--to", "last", type=STAGE, default=pipeline.LAST, help="Last stage to run.")
@click.option("--dry-run", "dry", is_flag=True, help="Check everything, write campaign and plan below the root, end.")
@JSON
def run(campaign: Campaign, address: str | None, wait: bool, first: str, last: str, dry: bool, as_json: bool) -> None:
    """Run a campaign from its pool to its report; a second run resumes."""
    stages = list(pipeline.STAGES)
    if stages.index(first) > stages.index(last):
        raise click.UsageError(f"--from {first} comes after --to {last}")
    _run(campaign, first, last, address, wait, dry, as_json)


def _run(
    campaign: Campaign, first: str, last: str, address: str | None, wait: bool, dry: bool = False, as_json: bool = False
) -> None:
    """`as_json`: accuracies on standard output once all is done, everything else on standard error."""
    from thinkscale.runtime import progress

    def echo(line: str) -> None:
        progress.said.append(line)
        click.echo(line, err=as_json)

    say = echo if progress.form == "text" else progress.say
    pipeline.run(campaign, first=first, last=last, address=address, wait=wait, dry=dry, say=say)
    if as_json and not dry and last in ("evaluate", pipeline.LAST):
        from thinkscale.stages.report import accuracies
        from thinkscale.store.filesystem import Store

        click.echo(json.dumps([asdict(each) for each in accuracies(campaign, Store(campaign.root))], indent=1))


def _stage_command(name: str, first: str, last: str, what: str, *options: Callable[..., Any]) -> None:
    @cli.command(name, help=what)
    @campaign_options
    def command(campaign: Campaign, address: str | None, wait: bool, as_json: bool = False) -> None:
        _run(campaign, first, last, address, wait, as_json=as_json)

    for option in options:
        option(command)


_stage_command("curate", "benchmarks", "select", "From the pool to the selected questions.")
_stage_command("distill", "distill", "distill", "A reasoning trace for each selected question.")
_stage_command("train", "train", "train", "Fine-tune the base model on the traces.")
_stage_command("evaluate", "evaluate", "evaluate", "Every model on every benchmark over the budgets.", TARGET, JSON)
_stage_command("report", "report", "report", "The report page and plots from what is stored.", JSON)


@cli.command()
@campaign_options
@JSON
def plan(campaign: Campaign, address: str | None, wait: bool, as_json: bool) -> None:
    """What CAMPAIGN will take, stage by stage, and what it would be refused for; after a run, against what it took.

    Spends and writes nothing. Exits with 1 where it would be refused. With --address the cluster's room is checked too.
    """
    from thinkscale.runtime.spend import Spending
    from thinkscale.stages.planning import actual_table, against_actual, plan_table
    from thinkscale.store.filesystem import Store

    rows, refused = pipeline.plan(campaign, address=address)
    store = Store(campaign.root)
    actual = against_actual(campaign, store, Spending(campaign, store))
    if as_json:
        click.echo(json.dumps({"plan": [asdict(row) for row in rows], "actual": actual, "refused": refused}, indent=1))
    else:
        click.echo("\n\n".join(filter(None, [plan_table(rows), actual_table(actual)])))
    if refused:
        raise click.ClickException("\n".join(["a run would be refused:", *refused]))


@cli.command()
@click.argument("target", default="campaign.toml", type=click.Path(dir_okay=False))
@click.option("--template", default="demo", show_default=True, type=click.Choice(["demo", "evaluate", "s1k"]), help="A "
              "whole campaign on CPUs, the curve of any model, or the paper's recipe on GPUs.")  # fmt: skip
@click.option("--pool", "file", metavar="FILE", help="Your questions: JSONL, JSON, CSV or Parquet; with evaluate, the "
              "benchmark.")  # fmt: skip
@click.option("--model", metavar="REFERENCE", help="The base model.")
@click.option("--force", is_flag=True, help="Overwrite TARGET if it exists.")
def init(target: str, template: str, file: str | None, model: str | None, force: bool) -> None:
    """Write TARGET, a campaign to start from: the few settings that matter, each with a word on it."""
    from pathlib import Path

    from thinkscale.store.templates import starting_campaign

    text = starting_campaign(template, Path(target).stem, file, model)
    try:
        with Path(target).open("w" if force else "x", encoding="utf-8") as written:
            written.write(text)
    except FileExistsError:
        raise click.ClickException(f"{target} exists: give another name, or --force") from None
    for line in text.splitlines():
        if "CHANGE" in line:
            click.echo(f"to fill in: {line}")
    click.echo(f"{target} is written. Next: thinkscale run {target}")


@cli.command()
@click.argument("campaign")
@SET
@ROOT
@JSON
def show(campaign: str, overrides: tuple[str, ...], root: str | None, as_json: bool) -> None:
    """Print the resolved campaign as TOML: every setting, its meaning and its default."""
    from thinkscale.domain.reference import commented_toml

    loaded = load(campaign, overrides, root)
    click.echo(loaded.model_dump_json(indent=2) if as_json else "\n".join(commented_toml(loaded)))


@cli.command()
@click.argument("campaign")
@click.argument("question_id", required=False)
@SET
@ROOT
@JSON
def why(campaign: str, question_id: str | None, overrides: tuple[str, ...], root: str | None, as_json: bool) -> None:
    """What became of QUESTION_ID, stage by stage; without one, how many rows each stage kept and dropped."""
    from thinkscale.store import lineage
    from thinkscale.store.filesystem import Store
    from thinkscale.store.samples import check_campaign

    loaded = load(campaign, overrides, root)
    store = Store(loaded.root)
    check_campaign(store, loaded.name)
    if question_id is None:
        steps = lineage.funnel(loaded, store)
        click.echo(json.dumps([asdict(each) for each in steps], indent=1) if as_json else lineage.funnel_table(steps))
        return
    sightings = lineage.why(loaded, store, question_id)
    if not sightings:
        raise click.ClickException(f"no stage of campaign {loaded.name!r} under {store.uri} has seen {question_id!r}")
    if as_json:
        click.echo(json.dumps([asdict(each) for each in sightings], indent=1))
    for sighting in sightings if not as_json else ():
        click.echo(f"{sighting.artifact:<14}{'kept' if sighting.kept else 'DROPPED':<9}{sighting.text}")
