"""Commands that run others, as a job on a cluster or under chaos, and that look after what runs elsewhere."""

from __future__ import annotations

import json
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from thinkscale import pipeline
from thinkscale.chaos import KINDS
from thinkscale.cli.options import JSON, ROOT, SET, campaign_of, cli

if TYPE_CHECKING:
    from thinkscale.runtime.jobs import JobServer, Request
    from thinkscale.store.filesystem import Store

SERVER: dict[str, Any] = {"envvar": "RAY_API_SERVER_ADDRESS", "metavar": "URL", "show_envvar": True}


@cli.command()
@click.argument("campaign")
@SET
@click.option("--kill", "kinds", multiple=True, type=click.Choice(KINDS), help="What is killed, in turn; "
              "default: all.")  # fmt: skip
@click.option("--times", default=10, show_default=True, type=click.IntRange(1), help="Kills in all.")
@click.option("--seed", default=0, show_default=True, help="Of the moments, the victims and the faults.")
def chaos(campaign: str, overrides: tuple[str, ...], kinds: tuple[str, ...], times: int, seed: int) -> None:
    """Kill processes under CAMPAIGN on a private cluster and S3 server, resume it, and compare with a run in peace."""
    from thinkscale.chaos.trial import chaos as kill_and_compare

    say = partial(click.echo, err=True)
    outcome = kill_and_compare(campaign, overrides, kinds=kinds or KINDS, times=times, seed=seed, say=say)
    click.echo(json.dumps(outcome.as_dict(), indent=1))
    sys.exit(0 if outcome.is_faultless else 1)


@cli.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.argument("arguments", nargs=-1, required=True)
@click.option("--address", required=True, help="The cluster's job server, as http://head:8265.", **SERVER)
@click.option("--wait/--no-wait", default=True, help="Follow the job's log until it ends, and start it again where "
              "driver or head are lost.")  # fmt: skip
@click.option("--retries", default=3, show_default=True, type=click.IntRange(min=0), help="Starts again at most.")
@JSON
def submit(arguments: tuple[str, ...], address: str, wait: bool, retries: int, as_json: bool) -> None:
    """Submit a command to a cluster as a Ray job: thinkscale submit --address http://head:8265 run demo.

    Prints the job's id first, which the campaign and its configuration make: submitted again it is the same job, which
    is followed where it runs, and else goes on where it stopped. Exits with the job's own exit code.
    """
    from thinkscale.runtime.jobs import JobServer

    request, say = requested(arguments), partial(click.echo, err=True)
    server = JobServer(address)
    job = server.submit(request, say)
    told = {"id": request.id, "submission_id": job, "campaign": request.campaign, "root": request.root}
    click.echo(json.dumps({**told, "address": address}) if as_json else request.id)
    if not wait:
        say(f"follow it: thinkscale logs {request.id} --follow --address {address}")
        return
    sys.stdout.flush()
    code = server.follow(request, job, retries, partial(click.echo, err=as_json))
    say(f"job {request.id} has ended with exit code {code}")
    sys.exit(code)


def requested(arguments: tuple[str, ...]) -> Request:
    """What is to be submitted, by the command's own options; whatever is wrong with it is told here."""
    from thinkscale.runtime.jobs import ENTRY_POINTS, JobError, Request
    from thinkscale.store.artifact import fingerprint

    name, *rest = arguments
    if name not in ENTRY_POINTS:
        raise JobError(f"{name!r} cannot be submitted: one of {', '.join(ENTRY_POINTS)}")
    given = cli.commands[name].make_context(name, list(rest)).params
    if name == "serve":
        return Request(id=f"serve-{fingerprint(given)[:8]}", arguments=arguments)
    campaign = campaign_of(given)
    if "://" not in campaign.root and not campaign.root.startswith("/"):
        where = f"the root {campaign.root!r} lies in the job's own directory on the head, which does not last"
        click.echo(f"note: {where}: give --root s3://bucket/prefix, or a directory of all nodes", err=True)
    # Limits and room may change from run to run of the same work.
    same = campaign.model_dump(mode="json", exclude={"max_usd", "deadline", "resources", "prices", "plan"})
    told = fingerprint([name, given.get("first"), given.get("last"), given.get("dry"), same])[:8]
    return Request(id=f"{campaign.name}-{told}", arguments=arguments, campaign=campaign.name, root=campaign.root)


TARGET = click.argument("target", metavar="CAMPAIGN|JOB")
ADDRESS = click.option("--address", help="The job server too, as http://head:8265.", **SERVER)


@cli.command()
@TARGET
@ROOT
@ADDRESS
@JSON
def status(target: str, root: str | None, address: str | None, as_json: bool) -> None:
    """What a campaign is at: stages, rows, rate, time left, dollars so far, what it waits for.

    Told from its root: runs/demo, s3://bucket/runs/demo, a name and --root, or a TOML file. With --address the job
    server is asked too, and a job's id will do.
    """
    from thinkscale.stages import status as of

    store, name, server = _located(target, root, address)
    found = of.status(store, name, partial(pipeline.chosen_stages, first=pipeline.FIRST, last=pipeline.LAST))
    jobs = []
    if server is not None:
        from thinkscale.runtime.jobs import exit_code

        for job in server.attempts(target, name, found["job"]):
            code = exit_code(job) if job.status.is_terminal() else None
            message = (job.message or "").partition("\n")[0]
            told = {"submission_id": job.submission_id, "status": str(job.status.value), "exit_code": code}
            jobs.append({**told, "message": message})
    click.echo(json.dumps({**found, "jobs": jobs}, indent=1) if as_json else of.status_text(found))
    for each in jobs if not as_json else ():
        click.echo(f"job {each['submission_id']}: {each['status']}, {each['message']}")


@cli.command()
@TARGET
@ROOT
@ADDRESS
@click.option("--follow", "-f", is_flag=True, help="Until the job ends; needs --address.")
def logs(target: str, root: str | None, address: str | None, follow: bool) -> None:
    """The log of a campaign's last job; without --address the last lines of its last run, from the root."""
    from thinkscale.runtime.jobs import JobServer, Request
    from thinkscale.stages.status import last_lines
    from thinkscale.store.samples import check_campaign

    server = JobServer(address) if address else None
    if server is not None and (found := server.attempts(target)):
        job = str(found[-1].submission_id)
        if follow:
            sys.exit(server.follow(Request(id=target, arguments=()), job, 0, click.echo))
        click.echo(server.log(job).rstrip("\n"))
    elif follow:
        raise click.UsageError(f"--follow needs --address, and a job server that knows {target}")
    else:
        store, name, _ = _located(target, root, None)
        check_campaign(store, name)
        click.echo("\n".join(last_lines(store, name)))


@cli.command()
@TARGET
@ROOT
@ADDRESS
def cancel(target: str, root: str | None, address: str | None) -> None:
    """End a campaign's run in order, wherever it runs: fine-tuning saves its step first. Waits until it has ended.

    The driver is asked in the root. With --address a job that has not begun is stopped too.
    """
    from thinkscale.store import lease
    from thinkscale.store.samples import check_campaign

    store, name, server = _located(target, root, address)
    asked = lease.cancel(store, name)
    if asked:
        click.echo(f"asked the driver of {store.url(name)} to end: waiting until it has saved what it is at")
        while (held := lease.holder(store, name)) is not None and held[1]:
            time.sleep(1)
    jobs = [job for job in server.attempts(target, name) if not job.status.is_terminal()] if server else []
    for job in jobs:
        assert server is not None
        server.end(str(job.submission_id), stop=not asked)
    if not asked and not jobs:
        check_campaign(store, name)
        raise click.ClickException(f"nothing works on {store.url(name)}")
    click.echo(f"{name} has ended; what is committed is kept, and the same command resumes")


@cli.command("list")
@click.option("--root", default="runs", show_default=True, help="A directory, s3://bucket/prefix, gs:// or az://.")
@JSON
def list_campaigns(root: str, as_json: bool) -> None:
    """The campaigns under a root, each with its state and cost."""
    from thinkscale.stages.status import campaigns, campaigns_table
    from thinkscale.store.filesystem import Store

    store = Store(root)
    if not store.is_remote and not Path(store.uri).is_dir():
        raise click.ClickException(f"there is no root {root}: give the --root of a run")
    found = campaigns(store)
    click.echo(json.dumps(found, indent=1) if as_json else campaigns_table(found))


def _located(target: str, root: str | None, address: str | None) -> tuple[Store, str, JobServer | None]:
    """Where the campaign lies that is named, or whose job is, and the job server where one is given."""
    from thinkscale.runtime.jobs import CAMPAIGN, ROOT, JobServer
    from thinkscale.store.filesystem import Store
    from thinkscale.store.samples import locate_campaign

    server = JobServer(address) if address else None
    for job in reversed(server.attempts(target) if server else []):
        if job.metadata and CAMPAIGN in job.metadata:
            return Store(root or job.metadata[ROOT]), job.metadata[CAMPAIGN], server
    store, name = locate_campaign(target, root)
    stem, _, end = name.rpartition("-")  # a job's id is its campaign's name and eight digits
    is_job = len(end) == 8 and name not in (there := store.directories("")) and stem in there
    return store, stem if is_job else name, server
