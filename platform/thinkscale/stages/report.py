"""The report of a campaign: reads what the stages stored, writes the page, the plots and the summary.
Knows nothing of how a page or a plot is made."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import pyarrow as pa

from thinkscale.domain.campaign import Campaign
from thinkscale.report.comparison import Comparison
from thinkscale.report.metrics import COLUMNS, Point, points, tally, unsettled
from thinkscale.report.model_card import model_card
from thinkscale.report.page import build_report, comparisons
from thinkscale.report.spending import spending
from thinkscale.stages.artifacts import sample_sets
from thinkscale.store.artifact import Artifact, ArtifactError, Manifest
from thinkscale.store.filesystem import Store
from thinkscale.store.lineage import curated_artifacts
from thinkscale.store.samples import SampleSet, complete_ones
from thinkscale.store.schemas import SAMPLES


def report(campaign: Campaign, store: Store) -> bool:
    """Write `<campaign>/report/`: report.html, curve.png, curve.svg, summary.txt. Nothing is done where the report of
    these very artifacts is there; one of older artifacts is replaced. Its manifest records the whole campaign, so that
    later pages can tell the settings from the root alone. Raises ArtifactError where no samples are complete."""
    samples = _samples(campaign, store)
    manifests = stage_manifests(campaign, store) | sample_manifests(samples)
    output = Artifact(store, f"{campaign.name}/report")
    inputs = {name: manifest.fingerprint for name, manifest in manifests.items()}
    config = {"campaign": campaign.model_dump(mode="json")}
    committed = output.manifest()
    if committed is not None and committed.inputs == inputs and committed.config == config:
        return False
    store.delete_directory(output.path)
    output.begin(config, inputs)
    training, questions = _training(campaign, store), benchmark_questions(campaign, store)
    notes = sample_notes(samples)
    files = build_report(campaign, _parts(samples), manifests, training, questions, notes)
    tallied = tally(_parts(samples, COLUMNS))
    found, compared = points(tallied, seed=campaign.seed), comparisons(campaign, tallied)
    partial = "".join(f"{line}\n\n" for line in notes if line.startswith("PARTIAL"))
    files["summary.txt"] = (partial + _summary(campaign, store, found, compared, manifests)).encode()
    model = Artifact(store, f"{campaign.name}/model")
    if "model" in manifests and not partial and "taken_from" not in manifests["model"].extra:
        write_model_card(campaign, model, found, compared, files["curve.png"])
    output.commit("report/1", files=[output.write_file(name, data) for name, data in files.items()])
    return True


def summary(campaign: Campaign, store: Store) -> str:
    """Accuracy by budget, the cost and where the report lies, as text for a terminal."""
    return Artifact(store, f"{campaign.name}/report").read_file("summary.txt").decode()


def partial_summary(campaign: Campaign, store: Store) -> str:
    """The report of what is committed as text, made anew; or why there is none."""
    try:
        report(campaign, store)
        return summary(campaign, store)
    except ArtifactError as error:
        return f"no report: {error}"


def evaluation_summary(campaign: Campaign, store: Store) -> str:
    """Accuracy by budget of the complete samples, and why sampling stopped, as text for a terminal."""
    notes = [f"note: {line}" for line in sample_notes(_samples(campaign, store))]
    return "\n".join(_accuracies(accuracies(campaign, store)) + notes)


def accuracies(campaign: Campaign, store: Store) -> list[Point]:
    """Accuracy by model, benchmark and budget of what is sampled."""
    return points(tally(_parts(_samples(campaign, store), COLUMNS)), seed=campaign.seed)


def write_model_card(
    campaign: Campaign,
    model: Artifact,
    found: Sequence[Point] = (),
    compared: Sequence[Comparison] = (),
    curve: bytes = b"",
) -> None:
    """The card beside the exported model; again, with the results and the curve, once there are some."""
    manifest = model.require()
    config = next(file.path for file in manifest.files if file.name == "export/config.json")
    directory = f"{model.path}/{config.partition('/')[0]}"
    metrics = [json.loads(line) for line in model.read_file("metrics.jsonl").splitlines()]
    model.store.write_bytes(f"{directory}/README.md", model_card(campaign, manifest, metrics, found, compared).encode())
    if curve:
        model.store.write_bytes(f"{directory}/curve.png", curve)


def stage_manifests(campaign: Campaign, store: Store) -> dict[str, Manifest]:
    """Manifests of what was committed before the samples, by the artifact's name, in the order of the stages."""
    curated = curated_artifacts(campaign)
    benchmarks = [f"benchmarks/{benchmark.name}" for benchmark in campaign.evaluate.benchmarks]
    attempts = [f"attempts-{number}" for number, _ in enumerate(campaign.teacher, 1)]
    names = [*curated[:2], "embeddings", "fingerprints", *curated[2:-1], *attempts, curated[-1], "model", *benchmarks]
    found = {name: Artifact(store, f"{campaign.name}/{name}").manifest() for name in names}
    return {name: manifest for name, manifest in found.items() if manifest is not None}


def sample_manifests(samples: Sequence[SampleSet]) -> dict[str, Manifest]:
    """Manifests of samples and of the regradings that count."""
    manifests, schema = {}, SAMPLES.metadata[b"thinkscale.schema"].decode()
    for one in samples:
        manifest, extra = one.artifact.require(), {"model": one.model, "benchmark": one.benchmark}
        manifests[f"samples {one.label}"] = replace(manifest, schema=schema, extra={**manifest.extra, **extra})
    regradings = {f"regraded {one.label}": one.regrading() for one in samples}
    return manifests | {name: artifact.require() for name, artifact in regradings.items() if artifact is not None}


def sample_notes(samples: Sequence[SampleSet]) -> list[str]:
    """A line for each sample set that is not complete, whose sampling went on for an interval, or was graded later."""
    notes = [
        f"PARTIAL: of {one.model} on {one.benchmark} {segments[0]} of {segments[1]} parts are drawn, those first that "
        "were expected to take longest: the intervals are of these questions alone."
        for one in samples
        if (segments := one.artifact.require().extra.get("segments"))
    ]
    notes += [
        f"{one.model} on {one.benchmark} was sampled on for 95% intervals within {sampling['target_points']:g} points: "
        f"{sampling['stopped']} at {sampling['samples']} sample(s) of each question, the widest interval is "
        f"{sampling['interval_points']:.2f} points to either side."
        for one in samples
        if "target_points" in (sampling := one.artifact.require().extra.get("sampling", {}))
    ]
    return notes + [
        f"Verdicts on {one.benchmark} of {one.model} are of a later grading: "
        f"{int(regrading.require().stats.get('changed', 0)):,} changed."
        for one in samples
        if (regrading := one.regrading()) is not None
    ]


def benchmark_questions(campaign: Campaign, store: Store) -> pa.Table:
    return pa.concat_tables(
        [Artifact(store, f"{campaign.name}/benchmarks/{b.name}").read() for b in campaign.evaluate.benchmarks]
    )


def _samples(campaign: Campaign, store: Store) -> list[SampleSet]:
    return complete_ones(sample_sets(campaign, store, partial=True), store.url(campaign.name))


def _parts(samples: Iterable[SampleSet], columns: list[str] | None = None) -> Iterator[pa.Table]:
    return (part for one in samples for part in one.iter_tables(columns))


def _training(campaign: Campaign, store: Store) -> list[dict[str, float]]:
    artifact = Artifact(store, f"{campaign.name}/model")
    if artifact.manifest() is None:
        return []
    lines = artifact.read_file("metrics.jsonl").splitlines()
    # MFU is null where the device's peak is not known.
    return [{name: value for name, value in json.loads(line).items() if value is not None} for line in lines]


def _accuracies(found: Sequence[Point]) -> list[str]:
    lines = [f"{'model':<8} {'benchmark':<14} {'budget':<20} {'tokens':>7} {'accuracy':>9}   95% interval"]
    lines += [
        f"{p.model:<8} {p.benchmark:<14} {p.budget:<20} {p.mean_thinking_tokens:>7,.0f} {p.accuracy:>8.1%}   "
        f"{p.low:.1%} to {p.high:.1%}"
        for p in found
    ]
    return lines + [f"note: {line}" for line in unsettled(found)]


def _summary(
    campaign: Campaign, store: Store, found: Sequence[Point], rows: Sequence[Comparison], manifests: dict[str, Manifest]
) -> str:
    lines = _accuracies(found)
    if rows:
        lines += ["", f"{rows[0].model_b} against {rows[0].model_a}, paired by question:"]
        lines += [
            f"  {row.benchmark:<14} {row.budget:<20} {row.difference:+.1%}   "
            f"{row.low:+.1%} to {row.high:+.1%}   {row.gate}"
            for row in rows
        ]
    costs = spending(campaign, manifests, found)
    curves = [row for row in costs if row["separate_tokens"] is not None]  # distillation decodes too
    decoded, separate = (sum(row[name] for row in curves) for name in ("decoded_tokens", "separate_tokens"))
    tail = sum(row["tail"] * (row["cpu_s"] + row["gpu_s"]) for row in costs)
    seconds = sum(row["cpu_s"] + row["gpu_s"] for row in costs)
    hours = {device: sum(row[f"{device}_s"] for row in costs) / 3600 for device in ("cpu", "gpu")}
    lines += [
        "",
        f"cost: {hours['cpu']:.2f} CPU-hours, {hours['gpu']:.2f} GPU-hours, ${sum(row['usd'] for row in costs):.4f}, "
        f"idle tail {tail / seconds if seconds else 0:.1%}",
        f"tokens decoded for the curves: {decoded:,.0f}, cell by cell it would have been {separate:,.0f}",
        f"report: {store.url(campaign.name)}/report/report.html",
    ]
    return "\n".join(lines)
