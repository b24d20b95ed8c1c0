"""The group of all commands, and the options that several of them share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from typing import TYPE_CHECKING, Any

import click

from thinkscale import __version__
from thinkscale.runtime import progress

if TYPE_CHECKING:
    from thinkscale.domain.campaign import Campaign
    from thinkscale.runtime.progress import Form


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def cli() -> None:
    """Simple test-time scaling (s1) on Ray: curate, distil, fine-tune, serve with budget forcing, evaluate."""


ROOT = click.option("--root", help="Where artifacts lie: a directory, s3://bucket/prefix, gs:// or az://.")
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON instead.")
ADDRESS = click.option("--address", help="Ray cluster to join (auto, host:port); default: a local one.")
WAIT = click.option("--wait", is_flag=True, help="Wait for another driver that works on the campaign.")
SET = click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a setting, as "
                   "train.learning_rate=2e-5.")  # fmt: skip
TARGET = click.option("--target-interval", type=float, metavar="POINTS", help="Sample on until every 95% interval is "
                      "within so many points to either side, or evaluate.max_samples is reached.")  # fmt: skip


def campaign_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """CAMPAIGN, loaded for the command, and the options that every stage shares."""

    @wraps(command)
    def call(log_format: Form, quiet: bool, **given: Any) -> None:
        progress.form = "quiet" if quiet else log_format
        campaign = campaign_of(given)
        command(campaign, **{name: value for name, value in given.items() if name not in _OF_CAMPAIGN})

    for option in (
        ADDRESS,
        WAIT,
        click.option("--quiet", is_flag=True, help="No progress; what goes wrong is told all the same."),
        click.option("--log-format", type=click.Choice(["text", "json"]), default="text", help="Of progress; "
                     "json: an object a line."),
        click.option("--max-usd", type=float, metavar="USD", help="End in order once the campaign's runs "
                     "have cost so much together, endpoints included."),
        click.option("--deadline", metavar="WHEN", help="End in order at 2026-12-24T18:00 (UTC), or after 90m, 8h."),
        click.option("--from-campaign", metavar="NAME", help="Another campaign under the root: take over what the "
                     "same settings made of the same inputs; the earlier stages are then checked too."),
        click.option("--pool", "pool_files", multiple=True, metavar="FILE", help="Add a JSONL, JSON, CSV or Parquet "
                     "file with the fields question and answer to the pool."),
        ROOT,
        SET,
        click.argument("campaign"),
    ):  # fmt: skip
        call = option(call)
    return call


_OF_CAMPAIGN = (
    "campaign", "overrides", "root", "pool_files", "from_campaign", "max_usd", "deadline", "target_interval",
)  # fmt: skip


def campaign_of(given: Mapping[str, Any]) -> Campaign:
    """The campaign that `campaign_options` name. Raises CampaignError where there is no such one."""
    texts = {name: given[name] and f'"{given[name]}"' for name in ("from_campaign", "deadline")}
    values = {"max_usd": given["max_usd"], "evaluate.target_interval": given.get("target_interval"), **texts}
    overrides = [f"{name}={value}" for name, value in values.items() if value is not None]
    return load(given["campaign"], (*given["overrides"], *overrides), given["root"], given["pool_files"])


def load(campaign: str, overrides: tuple[str, ...], root: str | None, pool_files: tuple[str, ...] = ()) -> Campaign:
    from thinkscale.domain.source import FilesSource
    from thinkscale.store.samples import find_campaign

    loaded = find_campaign(campaign, overrides, root)
    extra = [FilesSource(name=f"file-{n}", paths=[path]) for n, path in enumerate(pool_files, 1)]
    return loaded.model_copy(update={"pool": [*loaded.pool, *extra]}) if extra else loaded
