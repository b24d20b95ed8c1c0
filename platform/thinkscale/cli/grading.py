"""Commands about answers: grade files, compare campaigns, grade stored samples again."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any

import click

from thinkscale.cli.options import JSON, ROOT, WAIT, cli
from thinkscale.domain.question import GRADED_KINDS, WITHHELD, AnswerKind

if TYPE_CHECKING:
    from thinkscale.domain.models import Judge


@cli.command()
@click.argument("source", type=click.Path(exists=True, dir_okay=False))
@click.argument("target", type=click.Path(dir_okay=False))
@click.option("--kind", required=True, type=click.Choice(GRADED_KINDS), help="How answers are compared.")
@click.option("--reference-field", required=True, help="The field with the right answer.")
@click.option("--response-field", required=True, help="The field with the model's response.")
@click.option("--options-field", help="The field with the options of choice questions.")
@click.option("--force", is_flag=True, help="Overwrite TARGET if it exists.")
@JSON
def grade(
    source: str, target: str, kind: AnswerKind, reference_field: str, response_field: str, options_field: str | None,
    force: bool, as_json: bool,
) -> None:  # fmt: skip
    """Grade the responses in SOURCE into TARGET, which gains extracted_answer and verdict.

    SOURCE: JSONL, JSON, CSV or Parquet, also as .gz; TARGET: JSONL or Parquet. A response may be a list of several.
    """
    import json
    from dataclasses import asdict
    from pathlib import Path

    from thinkscale.grading.voting import Vote
    from thinkscale.report.grade_file import accuracies, accuracy_lines, grade_file

    if not force and Path(target).exists() and sys.stdin.isatty():
        force = click.confirm(f"{target} exists: overwrite it?")
    votes: list[list[Vote]] = []
    fields: dict[str, Any] = {"reference_field": reference_field, "response_field": response_field}
    fields["options_field"] = options_field
    counts = grade_file(kind, Path(source), Path(target), **fields, force=force, votes=votes)
    total = sum(counts.values())
    verdicts = {verdict: counts.get(verdict, 0) for verdict in ("correct", "wrong", "unanswered", "ungradable")}
    if as_json:
        shares = {name: asdict(interval) for name, interval in accuracies(votes).items()}
        click.echo(json.dumps({"rows": len(votes), "responses": total, **verdicts, **shares}, indent=1))
        return
    for verdict, count in verdicts.items():
        click.echo(f"{verdict:<11}{count:>9,}{count / max(total, 1):>8.1%}")
    click.echo(f"{'rows' if total == len(votes) else 'responses':<11}{total:>9,}")
    for line in accuracy_lines(votes):
        click.echo(line)


@cli.command()
@click.argument("campaign_a")
@click.argument("campaign_b")
@click.option("--root", help="Where campaigns lie that are given by name.")
@click.option("--across-engines", is_flag=True, help="Compare even where different engines drew the samples.")
@click.option("--fail-on", type=click.Choice(["worse", "inconclusive"]), help="Exit with 1 where CAMPAIGN_B is worse "
              "under any budget; inconclusive: also where it may be.")  # fmt: skip
@click.option("--margin", type=click.FloatRange(min=0), default=0.0, metavar="POINTS", help="How much worse passes "
              "--fail-on.")  # fmt: skip
@JSON
@click.option("--html", type=click.Path(file_okay=False), help="Also write a report page of both to this directory.")
def compare(
    campaign_a: str, campaign_b: str, root: str | None, across_engines: bool, fail_on: str | None, margin: float,
    as_json: bool, html: str | None,
) -> None:  # fmt: skip
    """CAMPAIGN_B against CAMPAIGN_A, paired by question: runs/demo, s3://bucket/runs/demo, or a name.

    Exits with 1 where they cannot be compared, or where --fail-on finds what it looks for.
    """
    import json
    from dataclasses import asdict
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
    rows = comparing.comparisons(found)
    for note in notes:
        click.echo(f"note: {note}", err=as_json)
    click.echo(json.dumps([asdict(row) for row in rows], indent=1) if as_json else comparison_table(rows))
    if html is not None:
        files = comparing.comparison_page(found, notes)
        Path(html).mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            (Path(html) / name).write_bytes(data)
        click.echo(f"report: {Path(html) / 'report.html'}", err=as_json)
    ends = {"worse": "high", "inconclusive": "low"}  # of the interval, which must not lie below the margin
    if fail_on and (failed := [row for row in rows if getattr(row, ends[fail_on]) < -margin / 100]):
        told = "; ".join(f"{row.benchmark}, {row.budget}: {row.low:+.1%} to {row.high:+.1%}" for row in failed)
        raise click.ClickException(f"--fail-on {fail_on} with a margin of {margin:g} points: {told}")


def judge_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """CAMPAIGN, and as `judge` who grades its stored samples (domain.models.Judge; None: the rule graders)."""

    @wraps(command)
    def judged(
        judge: str | None, endpoint: str | None, ungradable: bool, overrides: tuple[str, ...], **arguments: Any
    ) -> None:
        from thinkscale.store.campaigns import load_judge

        settings = {"--judge-endpoint": endpoint, "--judge-ungradable": ungradable, "--judge-set": overrides}
        if judge is None and (given := [name for name, value in settings.items() if value]):
            raise click.UsageError(f"{given[0]} needs --judge, the model that judges")
        raw = {"model": judge, "endpoint": endpoint, "ungradable_only": ungradable}
        command(judge=None if judge is None else load_judge(raw, overrides), **arguments)

    for option in (
        click.option("--judge", metavar="MODEL", help="A model that judges in place of the rule graders."),
        click.option("--judge-endpoint", "endpoint", metavar="URL", help="The OpenAI-compatible server that serves "
                     "it; default: it runs on the cluster."),
        click.option("--judge-ungradable", "ungradable", is_flag=True, help="The judge is asked only about what the "
                     "rules find ungradable."),
        click.option("--judge-set", "overrides", multiple=True, metavar="KEY=VALUE", help="A setting of the "
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
@JSON
def audit(campaign: str, root: str | None, judge: Judge | None, address: str | None, as_json: bool) -> None:
    """List the stored verdicts of CAMPAIGN that the installed graders would not give, with both readings."""
    import json

    from thinkscale.stages import regrade as regrading
    from thinkscale.store.samples import locate_campaign

    differing = 0
    for question, found in regrading.audit(*locate_campaign(campaign, root), judge=judge, address=address):
        differing += 1
        answer = "withheld" if WITHHELD in question.metadata else found.answer[-200:]
        readings = {"stored": found.first, "now": found.second}
        if as_json:  # an object a line: there may be many
            told: dict[str, Any] = {
                when: [each.verdict, each.extracted_answer, each.grader] for when, each in readings.items()
            }
            told = {"reference": question.answer, "answer_ends": answer, **told}
            click.echo(json.dumps({"model": found.model, "sample_id": found.sample_id, **told}, ensure_ascii=False))
            continue
        click.echo(f"{found.model} {found.sample_id}: reference {question.answer!r}, answer ends {answer!r}")
        for when, reading in readings.items():
            click.echo(f"  {when:<7}{reading.verdict:<11}{reading.extracted_answer!r} ({reading.grader})")
    words = f"{differing:,} stored verdict{'' if differing == 1 else 's'} that the graders would not give now"
    click.echo(words, err=as_json)
