"""The command line. Parses, calls the pipeline, prints; decides nothing else."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from thinkscale import __version__, pipeline

if TYPE_CHECKING:
    from thinkscale.domain.campaign import Campaign

STAGE = click.Choice(list(pipeline.STAGES))


def main() -> None:
    """Entry point: errors that the user can mend are one message, not a traceback."""
    try:
        cli(standalone_mode=False)
    except click.exceptions.Abort:
        sys.exit(130)
    except KeyboardInterrupt:
        click.echo("interrupted; run the same command again to resume", err=True)
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (ValueError, RuntimeError, OSError) as error:
        if os.environ.get("THINKSCALE_TRACEBACK"):
            raise
        click.echo(f"thinkscale: {error}", err=True)
        click.echo(
            "(what is committed is kept: the same command resumes; THINKSCALE_TRACEBACK=1 shows where)", err=True
        )
        sys.exit(1)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def cli() -> None:
    """Simple test-time scaling (s1) on Ray: curate, distil, fine-tune, serve with budget forcing, evaluate."""


def campaign_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """CAMPAIGN and the options that every stage shares."""
    for option in (
        click.option("--address", help="Ray cluster to join (auto, host:port); default: a local one."),
        click.option("--pool", "pool_files", multiple=True, metavar="FILE", help="Add a JSONL, JSON, CSV or Parquet "
                     "file with the fields question and answer to the pool."),
        click.option("--root", help="Where artifacts lie: a directory or s3://bucket/prefix."),
        click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a setting, as "
                     "train.learning_rate=2e-5."),
        click.argument("campaign"),
    ):  # fmt: skip
        command = option(command)
    return command


def _load(campaign: str, overrides: tuple[str, ...], root: str | None, pool_files: tuple[str, ...] = ()) -> Campaign:
    from thinkscale.domain.campaign import FilesSource
    from thinkscale.store.campaigns import load_campaign

    loaded = load_campaign(campaign, [*overrides, *([f'root="{root}"'] if root else [])])
    extra = [FilesSource(name=f"file-{n}", paths=[path]) for n, path in enumerate(pool_files, 1)]
    return loaded.model_copy(update={"pool": [*loaded.pool, *extra]}) if extra else loaded


@cli.command()
@campaign_options
@click.option(
    "--from", "first", type=click.Choice(list(pipeline.STAGES)), default=pipeline.FIRST, help="First stage to run."
)
@click.option(
    "--to", "last", type=click.Choice(list(pipeline.STAGES)), default=pipeline.LAST, help="Last stage to run."
)
def run(
    campaign: str,
    overrides: tuple[str, ...],
    root: str | None,
    pool_files: tuple[str, ...],
    address: str | None,
    first: str,
    last: str,
) -> None:
    """Run a campaign from its pool to its report; a second run resumes."""
    stages = list(pipeline.STAGES)
    if stages.index(first) > stages.index(last):
        raise click.UsageError(f"--from {first} comes after --to {last}")
    _run(_load(campaign, overrides, root, pool_files), first, last, address)


def _run(campaign: Campaign, first: str, last: str, address: str | None) -> None:
    pipeline.run(campaign, first=first, last=last, address=address, say=click.echo)


def _stage_command(name: str, first: str, last: str, what: str) -> None:
    @cli.command(name, help=what)
    @campaign_options
    def command(
        campaign: str, overrides: tuple[str, ...], root: str | None, pool_files: tuple[str, ...], address: str | None
    ) -> None:
        _run(_load(campaign, overrides, root, pool_files), first, last, address)


_stage_command("curate", "benchmarks", "select", "From the pool to the selected questions.")
_stage_command("distill", "distill", "distill", "A reasoning trace for each selected question.")
_stage_command("train", "train", "train", "Fine-tune the base model on the traces.")
_stage_command("evaluate", "evaluate", "evaluate", "Every model on every benchmark over the grid of budgets.")
_stage_command("report", "report", "report", "The report page and plots from what is stored.")


@cli.command()
@click.argument("campaign")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a setting.")
@click.option("--root", help="Where artifacts lie.")
def show(campaign: str, overrides: tuple[str, ...], root: str | None) -> None:
    """Print the resolved campaign, every default filled in."""
    import json

    click.echo(json.dumps(_load(campaign, overrides, root).model_dump(), indent=2))


@cli.command()
@click.argument("model")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="A setting of the service, as "
              "serve.engine=vllm, model.format=s1, name=mine, max_replicas=4, min_replicas=0.")  # fmt: skip
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8000, show_default=True, help="Port to listen on.")
@click.option("--route", default="/", show_default=True, help="Prefix of the paths, for several on one cluster.")
@click.option("--address", help="Ray cluster to join (auto, host:port); default: a local one.")
def serve(model: str, overrides: tuple[str, ...], host: str, port: int, route: str, address: str | None) -> None:
    """Serve MODEL with OpenAI's HTTP interface and thinking budgets."""
    from thinkscale.store.campaigns import load_service

    service = load_service(model, overrides)
    from thinkscale.cluster.service import serve as serve_model

    serve_model(service, host=host, port=port, route=route, address=address, say=click.echo)


@cli.command(context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, required=True)
@click.option("--address", required=True, help="The cluster's job server, as http://head:8265.")
@click.option("--wait/--no-wait", default=True, help="Follow the job's log until it ends.")
def submit(arguments: tuple[str, ...], address: str, wait: bool) -> None:
    """Submit a command to a cluster as a Ray job: thinkscale submit --address http://head:8265 run demo."""
    from thinkscale.cluster.jobs import submit as submit_job

    sys.exit(submit_job(address, list(arguments), wait=wait, say=click.echo))
