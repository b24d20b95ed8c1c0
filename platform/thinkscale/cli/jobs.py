"""Commands that run others: as a job on a cluster, or under chaos."""

from __future__ import annotations

import sys

import click

from thinkscale.chaos import KINDS
from thinkscale.cli.options import SET, cli


@cli.command()
@click.argument("campaign")
@SET
@click.option("--kill", "kinds", multiple=True, type=click.Choice(KINDS), help="What is killed, in turn; "
              "default: all.")  # fmt: skip
@click.option("--times", default=10, show_default=True, type=click.IntRange(1), help="Kills in all.")
@click.option("--seed", default=0, show_default=True, help="Of the moments, the victims and the faults.")
def chaos(campaign: str, overrides: tuple[str, ...], kinds: tuple[str, ...], times: int, seed: int) -> None:
    """Kill processes under CAMPAIGN on a private cluster and S3 server, resume it, and compare with a run in peace."""
    import json
    from functools import partial

    from thinkscale.chaos.trial import chaos as kill_and_compare

    say = partial(click.echo, err=True)
    outcome = kill_and_compare(campaign, overrides, kinds=kinds or KINDS, times=times, seed=seed, say=say)
    click.echo(json.dumps(outcome.as_dict(), indent=1))
    sys.exit(0 if outcome.is_faultless else 1)


@cli.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.argument("arguments", nargs=-1, required=True)
@click.option("--address", required=True, help="The cluster's job server, as http://head:8265.")
@click.option("--wait/--no-wait", default=True, help="Follow the job's log until it ends.")
def submit(arguments: tuple[str, ...], address: str, wait: bool) -> None:
    """Submit a command to a cluster as a Ray job: thinkscale submit --address http://head:8265 run demo."""
    from thinkscale.runtime.jobs import submit as submit_job

    sys.exit(submit_job(address, list(arguments), wait=wait, say=click.echo))
