"""Commands about the benchmarks under a root."""

import click

from thinkscale.cli.options import JSON, cli
from thinkscale.domain.question import GRADED_KINDS


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
@JSON
def benchmark_list(root: str, as_json: bool) -> None:
    """The benchmarks under the root, those known by name, and the presets."""
    import json

    from thinkscale.domain.presets import BENCHMARKS, PRESETS
    from thinkscale.store.benchmarks import added_benchmark
    from thinkscale.store.filesystem import Store

    store = Store(root)
    made = {name: added_benchmark(store, name).manifest() for name in store.directories("benchmarks")}
    rows = {name: None if manifest is None else manifest.rows for name, manifest in made.items()}
    if as_json:
        click.echo(json.dumps({"added": rows, "known": list(BENCHMARKS), "presets": list(PRESETS)}, indent=1))
        return
    for name, count in rows.items():
        click.echo(f"{name:<20}{'incomplete' if count is None else f'{count:,} questions'}")
    click.echo(f"known by name: {', '.join(BENCHMARKS)}")
    click.echo(f"presets: {', '.join(PRESETS)}")
