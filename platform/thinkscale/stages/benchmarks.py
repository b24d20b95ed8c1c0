"""The campaign's benchmarks as Parquet: normalised, nothing dropped but unreadable and repeated rows."""

from __future__ import annotations

from thinkscale.domain.campaign import AddedSource, Campaign
from thinkscale.runtime.dropping import licences
from thinkscale.runtime.progress import Progress
from thinkscale.store.artifact import Artifact, Manifest
from thinkscale.store.benchmarks import added_benchmark, read_benchmark
from thinkscale.store.filesystem import Store
from thinkscale.store.ingest import source_fingerprints
from thinkscale.store.locations import IngestError
from thinkscale.store.schemas import DROPPED, QUESTIONS, question_row, questions, questions_table, table


def build_benchmarks(campaign: Campaign, store: Store) -> list[Manifest]:
    """Every benchmark of the campaign as questions: normalised, nothing dropped but unreadable and repeated rows."""
    return [_build_benchmark(campaign, store, i) for i in range(len(campaign.evaluate.benchmarks))]


def _build_benchmark(campaign: Campaign, store: Store, index: int) -> Manifest:
    benchmark = campaign.evaluate.benchmarks[index]
    output = Artifact(store, f"{campaign.name}/benchmarks/{benchmark.name}")
    source, added = benchmark.source, added_benchmark(store, benchmark.name)
    if isinstance(source, AddedSource):
        if added.manifest() is None:
            raise IngestError(
                f"campaign {campaign.name!r} names the benchmark {benchmark.name!r} without a source, and {added.url} "
                f"is not there: thinkscale benchmark add {benchmark.name} --root {store.uri}"
            )
        inputs = {added.path: added.require().fingerprint}
    else:
        inputs = source_fingerprints(source)
    output.begin(benchmark.model_dump(), inputs)
    if (manifest := output.manifest()) is not None:
        return manifest
    if isinstance(source, AddedSource):
        kept, dropped = questions(added.read())[: benchmark.limit], DROPPED.empty_table()
    else:
        kept, bad = read_benchmark(source, benchmark.limit)
        dropped = table(bad, DROPPED)
    Progress("benchmarks", len(kept)).advance(len(kept), benchmark.name)
    output.commit_segment("000000", questions_table(kept), dropped=dropped)
    return output.commit(QUESTIONS, extra=licences(question_row(question) for question in kept))
