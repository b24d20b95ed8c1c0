"""Two stored campaigns against each other: what they share, as rows of a table and as a report page.
Reads both campaigns and pairs their samples by model and benchmark. Needs no Ray. Knows nothing of the statistics and
nothing of how a page is made."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import chain

import pyarrow as pa

from thinkscale.domain.campaign import Campaign
from thinkscale.report.comparison import Comparison, compare_tallies, engine_differences, renamed
from thinkscale.report.metrics import COLUMNS, tally
from thinkscale.report.page import build_report
from thinkscale.stages.report import benchmark_questions, sample_manifests, sample_notes, stage_manifests
from thinkscale.store.artifact import Artifact, ArtifactError, Manifest
from thinkscale.store.filesystem import Store
from thinkscale.store.samples import SampleSet, sample_sets


class NotComparableError(ValueError):
    """Two campaigns share nothing, or differ in what a comparison takes for equal; the message says in what."""


Pair = tuple[SampleSet, SampleSet]  # what two campaigns have of the same model and benchmark


def pairs(first: tuple[Store, str], second: tuple[Store, str]) -> list[Pair]:
    """The sample sets that two campaigns both have complete. Raises ArtifactError: a campaign has no complete samples;
    NotComparableError: they share no model on the same benchmark."""
    before, after = ({(s.model, s.benchmark): s for s in sample_sets(*place)} for place in (first, second))
    if shared := [(before[key], after[key]) for key in before if key in after]:
        return shared
    sides = [", ".join(" on ".join(key) for key in side) for side in (before, after)]
    raise NotComparableError(f"the campaigns share no model on the same benchmark: {sides[0]} against {sides[1]}")


def differences(found: Sequence[Pair]) -> list[str]:
    """How the engines that drew the two campaigns' samples differ, a line for each fact."""
    sides = ([samples.artifact.require() for samples in side] for side in zip(*found, strict=True))
    return engine_differences(*([engine for each in side for engine in each.engines or [{}]] for side in sides))


def grading_notes(found: Sequence[Pair]) -> list[str]:
    """A line for each pair whose verdicts are of different gradings."""
    return [
        f"{first.label}: one campaign's verdicts are of another grading than the other's; "
        "`thinkscale regrade` gives both the same"
        for first, second in found
        if first.gradings() != second.gradings()
    ]


def comparisons(found: Sequence[Pair]) -> list[Comparison]:
    """The second campaign against the first, by model, benchmark and budget. Reads part by part.
    Raises NotComparableError where they share no question under the same budget."""
    rows = [
        row for pair in found for row in compare_tallies(*(tally(samples.iter_tables(COLUMNS)) for samples in pair))
    ]
    if not rows:
        raise NotComparableError("the campaigns share no question under the same budget")
    return rows


def comparison_page(found: Sequence[Pair], notes: Sequence[str]) -> dict[str, bytes]:
    """The files of a report page with both campaigns' curves; dollars at the first campaign's prices.
    Raises ArtifactError where a campaign has no report, whose manifest tells the campaign's settings."""
    campaigns = [_campaign(samples) for samples in found[0]]
    names = [campaign.name for campaign in campaigns]
    if names[0] == names[1]:
        names = [samples.store.url(samples.campaign) for samples in found[0]]
    manifests: dict[str, Manifest] = {}
    remarks, parts, questions = list(notes), list[Iterable[pa.Table]](), []
    for name, campaign, side in zip(names, campaigns, zip(*found, strict=True), strict=True):
        own = stage_manifests(campaign, side[0].store) | sample_manifests(side)
        for stage, manifest in own.items():
            if "model" in manifest.extra and manifest.schema.startswith("samples/"):  # as `renamed` names it
                manifest = replace(manifest, extra={**manifest.extra, "model": f"{name} {manifest.extra['model']}"})
            manifests[f"{name} {stage}"] = manifest
        remarks += [f"{name}: {note}" for note in sample_notes(side)]
        parts += [renamed(samples.iter_tables(), name) for samples in side]
        questions.append(benchmark_questions(campaign, side[0].store))
    both = campaigns[0].model_copy(update={"name": f"{names[1]} against {names[0]}"})
    samples = chain.from_iterable(parts)
    return build_report(both, samples, manifests, [], pa.concat_tables(questions), notes=remarks)


def _campaign(samples: SampleSet) -> Campaign:
    report = Artifact(samples.store, f"{samples.campaign}/report").manifest()
    if report is None:
        raise ArtifactError(
            f"{samples.store.url(samples.campaign)} has no report, which records the campaign's settings: run "
            "thinkscale report for it first"
        )
    campaign = Campaign.model_validate_json(json.dumps(report.config["campaign"]))
    return campaign.model_copy(update={"name": samples.campaign})  # where it lies now
