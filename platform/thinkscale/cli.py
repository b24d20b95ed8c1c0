"""The command line. Parses, calls the pipeline, prints; decides nothing else."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any

import click

from thinkscale import __version__, pipeline
from thinkscale.chaos import KINDS
from thinkscale.domain.question import GRADED_KINDS, WITHHELD, AnswerKind

if TYPE_CHECKING:
    from thinkscale.domain.campaign import Campaign, Judge

STAGE = click.Choice(list(pipeline.STAGES))


def main() -> None:
    """Entry point: what goes wrong is told in a line or two; by a traceback where THINKSCALE_TRACEBACK is set."""
    from thinkscale.runtime import ending

    signal.signal(signal.SIGTERM, ending.terminate)
    try:
        cli(standalone_mode=False)
    except click.ClickException as told:
        told.show()
        sys.exit(told.exit_code)
    except (Exception, SystemExit) as raised:
        error = ending.reason_for(raised)
        if isinstance(error, click.exceptions.Abort):  # how click passes on KeyboardInterrupt
            line, code = "interrupted", 130
            error = error.__cause__ or error
        elif isinstance(error, SystemExit):
            if error.code != ending.TERMINATED:
                raise
            line, code = "terminated", ending.TERMINATED
        else:
            if os.environ.get("THINKSCALE_TRACEBACK"):
                raise error from None
            line, code = None, 1
        from thinkscale.runtime.failure import tell

        tell(error, line)
        if ending.reason is None:
            sys.exit(code)
        sys.stdout.flush()
        os._exit(code)  # some thread may wait for ever for what is not there any more


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def cli() -> None:
    """Simple test-time scaling (s1) on Ray: curate, distil, fine-tune, serve with budget forcing, evaluate."""


ROOT = click.option("--root", help="Where artifacts lie: a directory, s3://bucket/prefix, gs:// or az://.")
WAIT = click.option("--wait", is_flag=True, help="Wait for another driver that works on the campaign.")
SET = click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a setting, as "
                   "train.learning_rate=2e-5.")  # fmt: skip
TARGET = click.option("--target-interval", type=float, metavar="POINTS", help="Sample on until every 95% interval is "
                      "within so many points to either side, or evaluate.max_samples is reached.")  # fmt: skip


def campaign_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """CAMPAIGN, loaded for the command, and the options that every stage shares."""

    @wraps(command)
    def call(
        campaign: str,
        overrides: tuple[str, ...],
        root: str | None,
        pool_files: tuple[str, ...],
        target_interval: float | None = None,
        **others: Any,
    ) -> None:
        if target_interval is not None:
            overrides = (*overrides, f"evaluate.target_interval={target_interval}")
        command(_load(campaign, overrides, root, pool_files), **others)

    for option in (
        click.option("--address", help="Ray cluster to join (auto, host:port); default: a local one."),
        WAIT,
        click.option("--pool", "pool_files", multiple=True, metavar="FILE", help="Add a JSONL, JSON, CSV or Parquet "
                     "file with the fields question and answer to the pool."),
        ROOT,
        SET,
        click.argument("campaign"),
    ):  # fmt: skip
        call = option(call)
    return call


def _load(campaign: str, overrides: tuple[str, ...], root: str | None, pool_files: tuple[str, ...] = ()) -> Campaign:
    from thinkscale.domain.campaign import FilesSource
    from thinkscale.store.campaigns import load_campaign

    loaded = load_campaign(campaign, [*overrides, *([f'root="{root}"'] if root else [])])
    extra = [FilesSource(name=f"file-{n}", paths=[path]) for n, path in enumerate(pool_files, 1)]
    return loaded.model_copy(update={"pool": [*loaded.pool, *extra]}) if extra else loaded


@cli.command()
@campaign_options
@click.option("--from", "first", type=STAGE, default=pipeline.FIRST, help="First stage to run.")
@click.option("--to", "last", type=STAGE, default=pipeline.LAST, help="Last stage to run.")
def run(campaign: Campaign, address: str | None, wait: bool, first: str, last: str) -> None:
    """Run a campaign from its pool to its report; a second run resumes."""
    stages = list(pipeline.STAGES)
    if stages.index(first) > stages.index(last):
        raise click.UsageError(f"--from {first} comes after --to {last}")
    _run(campaign, first, last, address, wait)


def _run(campaign: Campaign, first: str, last: str, address: str | None, wait: bool) -> None:
    pipeline.run(campaign, first=first, last=last, address=address, wait=wait, say=click.echo)


def _stage_command(name: str, first: str, last: str, what: str, *options: Callable[..., Any]) -> None:
    @cli.command(name, help=what)
    @campaign_options
    def command(campaign: Campaign, address: str | None, wait: bool) -> None:
        _run(campaign, first, last, address, wait)

    for option in options:
        option(command)


_stage_command("curate", "benchmarks", "select", "From the pool to the selected questions.")
_stage_command("distill", "distill", "distill", "A reasoning trace for each selected question.")
_stage_command("train", "train", "train", "Fine-tune the base model on the traces.")
_stage_command("evaluate", "evaluate", "evaluate", "Every model on every benchmark over the budgets.", TARGET)
_stage_command("report", "report", "report", "The report page and plots from what is stored.")


@cli.command()
@click.argument("campaign")
@SET
@ROOT
def show(campaign: str, overrides: tuple[str, ...], root: str | None) -> None:
    """Print the resolved campaign, every default filled in."""
    import json

    click.echo(json.dumps(_load(campaign, overrides, root).model_dump(), indent=2))


@cli.command()
@click.argument("campaign")
@click.argument("question_id", required=False)
@SET
@ROOT
def why(campaign: str, question_id: str | None, overrides: tuple[str, ...], root: str | None) -> None:
    """What became of QUESTION_ID, stage by stage; without one, how many rows each stage kept and dropped."""
    from thinkscale.store import lineage
    from thinkscale.store.filesystem import Store

    loaded = _load(campaign, overrides, root)
    store = Store(loaded.root)
    if question_id is None:
        click.echo(lineage.funnel_table(lineage.funnel(loaded, store)))
        return
    sightings = lineage.why(loaded, store, question_id)
    if not sightings:
        raise click.ClickException(f"no stage of campaign {loaded.name!r} under {store.uri} has seen {question_id!r}")
    for sighting in sightings:
        click.echo(f"{sighting.artifact:<14}{'kept' if sighting.kept else 'DROPPED':<9}{sighting.text}")


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
    from thinkscale.server.service import serve as serve_model

    serve_model(service, host=host, port=port, route=route, address=address, say=click.echo)


@cli.group("model")
def model_group() -> None:
    """Models: what is known of one before it is paid for."""


@model_group.command("check")
@click.argument("reference")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="A setting of [model], as "
              "model.format=think.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def model_check(reference: str, overrides: tuple[str, ...], as_json: bool) -> None:
    """Check tokenizer, template, thinking format and training support of the model REFERENCE; needs no weights."""
    import json

    from thinkscale.report.model_check import check_model
    from thinkscale.store.campaigns import load_service
    from thinkscale.store.models import local_model

    found = check_model(load_service(reference, overrides).model, local_model(reference, weights=False))
    lines = (f"{name:<30}{json.dumps(value, ensure_ascii=False)}" for name, value in found.items())
    click.echo(json.dumps(found, ensure_ascii=False) if as_json else "\n".join(lines))


@cli.command()
@click.argument("source", type=click.Path(exists=True, dir_okay=False))
@click.argument("target", type=click.Path(dir_okay=False))
@click.option("--kind", required=True, type=click.Choice(GRADED_KINDS), help="How answers are compared.")
@click.option("--reference-field", required=True, help="The field with the right answer.")
@click.option("--response-field", required=True, help="The field with the model's response.")
@click.option("--options-field", help="The field with the options of choice questions.")
@click.option("--force", is_flag=True, help="Overwrite TARGET if it exists.")
def grade(
    source: str, target: str, kind: AnswerKind, reference_field: str, response_field: str, options_field: str | None,
    force: bool,
) -> None:  # fmt: skip
    """Grade the responses in SOURCE into TARGET, which gains extracted_answer and verdict.

    SOURCE: JSONL, JSON, CSV or Parquet, also as .gz; TARGET: JSONL or Parquet. A response may be a list of several.
    """
    from pathlib import Path

    from thinkscale.grading.voting import Vote
    from thinkscale.report.grade_file import accuracy_lines, grade_file

    votes: list[list[Vote]] = []
    counts = grade_file(
        kind,
        Path(source),
        Path(target),
        reference_field=reference_field,
        response_field=response_field,
        options_field=options_field,
        force=force,
        votes=votes,
    )
    total = sum(counts.values())
    for verdict in ("correct", "wrong", "unanswered", "ungradable"):
        count = counts.get(verdict, 0)
        click.echo(f"{verdict:<11}{count:>9,}{count / max(total, 1):>8.1%}")
    click.echo(f"{'rows' if total == len(votes) else 'responses':<11}{total:>9,}")
    for line in accuracy_lines(votes):
        click.echo(line)


@cli.group()
def benchmark() -> None:
    """Benchmarks under a root, for every campaign there that names them."""


@benchmark.command("add")
@click.argument("name")
@click.option("--from", "paths", multiple=True, metavar="FILE", help="JSONL, JSON, CSV or Parquet: local, s3://, "
              "hf://datasets/OWNER/NAME/PATH, or a data set's OWNER/NAME. Known ones need none.")  # fmt: skip
@click.option("--preset", help="The columns and kind of a known set of questions (`thinkscale benchmark list`).")
@click.option("--kind", type=click.Choice(GRADED_KINDS), help="How answers are compared; default: math, or choice "
              "where there are options.")  # fmt: skip
@click.option("--column", "columns", multiple=True, metavar="FIELD=COLUMN", help="Which column holds question, "
              "answer, solution, options (a list, or columns as A,B,C,D), domain, metadata.level, ...; question and "
              "answer by default.")  # fmt: skip
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Another setting of a source, as "
              "answer_pattern, prompt, shuffle_options=SEED, withheld=true, licence.")  # fmt: skip
@click.option("--limit", type=click.IntRange(min=1), help="Take only the first so many questions.")
@click.option("--root", default="runs", show_default=True, help="A directory or s3://bucket/prefix.")
def benchmark_add(
    name: str, paths: tuple[str, ...], preset: str | None, kind: str | None, columns: tuple[str, ...],
    overrides: tuple[str, ...], limit: int | None, root: str,
) -> None:  # fmt: skip
    """Make the benchmark NAME, as Parquet under the root: a known one, or any file of questions."""
    import json

    from thinkscale.domain.presets import BENCHMARKS
    from thinkscale.store import benchmarks
    from thinkscale.store.campaigns import load_source
    from thinkscale.store.filesystem import Store

    if name not in BENCHMARKS and not paths:
        raise click.UsageError(f"{name!r} needs --from; known by name are {', '.join(BENCHMARKS)}")
    given = {"preset": preset, "kind": kind, "paths": [benchmarks.dataset_path(path) for path in paths]}
    settings = []
    for each in columns:
        field, _, column = each.partition("=")
        if not column:
            raise click.UsageError(f"--column {each!r}: must read FIELD=COLUMN")
        value = column.split(",") if field == "options" and "," in column else column
        settings.append(f"columns.{field}={json.dumps(value)}")
    source = load_source(
        {**BENCHMARKS.get(name, {}), **{key: value for key, value in given.items() if value}, "name": name},
        [*settings, *overrides],
    )
    manifest, bad = benchmarks.add_benchmark(Store(root), source, limit)
    for row in bad:
        detail = json.loads(row["detail"])
        click.echo(f"not used: {detail['locator']}: {row['reason']}: {detail['error']}", err=True)
    left = f", {len(bad):,} rows not used" if bad else ""
    click.echo(f"{name}: {manifest.rows:,} questions at {Store(root).url(manifest.artifact)}{left}")


@benchmark.command("list")
@click.option("--root", default="runs", show_default=True, help="A directory or s3://bucket/prefix.")
def benchmark_list(root: str) -> None:
    """The benchmarks under the root, those known by name, and the presets."""
    from thinkscale.domain.presets import BENCHMARKS, PRESETS
    from thinkscale.store.benchmarks import added_benchmark
    from thinkscale.store.filesystem import Store

    store = Store(root)
    for name in store.directories("benchmarks"):
        manifest = added_benchmark(store, name).manifest()
        click.echo(f"{name:<20}{'incomplete' if manifest is None else f'{manifest.rows:,} questions'}")
    click.echo(f"known by name: {', '.join(BENCHMARKS)}")
    click.echo(f"presets: {', '.join(PRESETS)}")


@cli.command()
@click.argument("campaign_a")
@click.argument("campaign_b")
@click.option("--root", help="Where campaigns lie that are given by name.")
@click.option("--across-engines", is_flag=True, help="Compare even where different engines drew the samples.")
@click.option("--html", type=click.Path(file_okay=False), help="Also write a report page of both to this directory.")
def compare(campaign_a: str, campaign_b: str, root: str | None, across_engines: bool, html: str | None) -> None:
    """CAMPAIGN_B against CAMPAIGN_A, paired by question: runs/demo, s3://bucket/runs/demo, or a name."""
    from pathlib import Path

    from thinkscale.report.comparison import comparison_table
    from thinkscale.stages import compare as comparing
    from thinkscale.store.samples import locate_campaign

    found = comparing.pairs(locate_campaign(campaign_a, root), locate_campaign(campaign_b, root))
    differences = comparing.differences(found)
    if differences and not across_engines:
        raise click.ClickException(
            "different engines drew the samples, so that a difference need not be the models': "
            f"{'; '.join(differences)}. Compare all the same: --across-engines"
        )
    notes = [f"The engines differ: {line}." for line in differences] + comparing.grading_notes(found)
    for note in notes:
        click.echo(f"note: {note}")
    click.echo(comparison_table(comparing.comparisons(found)))
    if html is not None:
        files = comparing.comparison_page(found, notes)
        Path(html).mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            (Path(html) / name).write_bytes(data)
        click.echo(f"report: {Path(html) / 'report.html'}")


def judge_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """CAMPAIGN, and as `judge` who grades its stored samples (domain.campaign.Judge; None: the rule graders)."""

    @wraps(command)
    def judged(
        judge: str | None,
        judge_endpoint: str | None,
        judge_ungradable: bool,
        judge_overrides: tuple[str, ...],
        **arguments: Any,
    ) -> None:
        from thinkscale.store.campaigns import load_judge

        settings: dict[str, object] = {"--judge-endpoint": judge_endpoint, "--judge-ungradable": judge_ungradable}
        settings["--judge-set"] = judge_overrides
        if judge is None and (given := [name for name, value in settings.items() if value]):
            raise click.UsageError(f"{given[0]} needs --judge, the model that judges")
        raw = {"model": judge, "endpoint": judge_endpoint, "ungradable_only": judge_ungradable}
        command(judge=None if judge is None else load_judge(raw, judge_overrides), **arguments)

    for option in (
        click.option("--judge", metavar="MODEL", help="A model that judges in place of the rule graders."),
        click.option("--judge-endpoint", metavar="URL", help="The OpenAI-compatible server that serves it; default: "
                     "it runs on the cluster."),
        click.option("--judge-ungradable", is_flag=True, help="The judge is asked only about what the rules "
                     "find ungradable."),
        click.option("--judge-set", "judge_overrides", multiple=True, metavar="KEY=VALUE", help="A setting of the "
                     "judge, as format=think, system_prompt=..., max_thinking_tokens=512, serve.engine=vllm."),
        click.option("--address", help="Ray cluster that the judge runs on (auto, host:port); default: a local one."),
        ROOT,
        click.argument("campaign"),
    ):  # fmt: skip
        judged = option(judged)
    return judged


@cli.command()
@judge_options
@WAIT
def regrade(campaign: str, root: str | None, judge: Judge | None, address: str | None, wait: bool) -> None:
    """Grade the stored samples of CAMPAIGN again with the installed graders (no GPU, no cluster), or a judge."""
    from thinkscale.stages import regrade as regrading
    from thinkscale.store.samples import locate_campaign

    regrading.regrade(*locate_campaign(campaign, root), judge=judge, address=address, wait=wait, say=click.echo)
    click.echo("these verdicts count from now on; `thinkscale report` makes the report anew")


@cli.command()
@judge_options
def audit(campaign: str, root: str | None, judge: Judge | None, address: str | None) -> None:
    """List the stored verdicts of CAMPAIGN that the installed graders would not give, with both readings."""
    from thinkscale.stages import regrade as regrading
    from thinkscale.store.samples import locate_campaign

    differing = 0
    for question, found in regrading.audit(*locate_campaign(campaign, root), judge=judge, address=address):
        differing += 1
        answer = "withheld" if WITHHELD in question.metadata else found.answer[-200:]
        click.echo(f"{found.model} {found.sample_id}: reference {question.answer!r}, answer ends {answer!r}")
        for when, reading in (("stored", found.first), ("now", found.second)):
            click.echo(f"  {when:<7}{reading.verdict:<11}{reading.extracted_answer!r} ({reading.grader})")
    click.echo(f"{differing:,} stored verdict{'' if differing == 1 else 's'} that the graders would not give now")


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
