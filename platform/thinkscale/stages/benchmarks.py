"""The campaign's benchmarks as Parquet: normalised, nothing dropped but unreadable and repeated rows."""

from thinkscale.domain.campaign import Campaign
from thinkscale.domain.source import AddedSource, Benchmark
from thinkscale.runtime.progress import Progress
from thinkscale.runtime.segments import licences
from thinkscale.stages.artifacts import campaign_artifact
from thinkscale.store.benchmarks import added_benchmark, added_manifest, read_benchmark
from thinkscale.store.filesystem import Store
from thinkscale.store.ingest import source_fingerprints
from thinkscale.store.schemas import DROPPED, QUESTIONS, question_row, questions, questions_table, table
from thinkscale.store.stage import WHOLE, begin_stage


def build_benchmarks(campaign: Campaign, store: Store) -> bool:
    """Every benchmark of the campaign as questions: normalised, nothing dropped but unreadable and repeated rows."""
    built = [_build_benchmark(campaign, store, benchmark) for benchmark in campaign.evaluate.benchmarks]
    return any(built)


def _build_benchmark(campaign: Campaign, store: Store, benchmark: Benchmark) -> bool:
    output = campaign_artifact(campaign, store, f"benchmarks/{benchmark.name}")
    source, added = benchmark.source, added_benchmark(store, benchmark.name)
    if not isinstance(source, AddedSource):
        inputs = source_fingerprints(source)
    else:
        inputs = {added.path: added_manifest(store, benchmark.name).fingerprint}
    stage = begin_stage(output, benchmark.model_dump(), inputs, lambda: [WHOLE])
    if stage is None:
        return False
    if isinstance(source, AddedSource):
        kept, dropped = questions(added.read())[: benchmark.limit], DROPPED.empty_table()
    else:
        kept, bad = read_benchmark(source, benchmark.limit)
        dropped = table(bad, DROPPED)
    Progress("benchmarks", len(kept)).advance(len(kept), benchmark.name)
    output.commit_segment(WHOLE.key, questions_table(kept), dropped=dropped)
    return stage.commit(QUESTIONS, extra=licences(question_row(question) for question in kept))
