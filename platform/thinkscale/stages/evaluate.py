"""Every model on every benchmark over a grid of budgets, through Serve replicas, resumably."""

import asyncio
from collections.abc import Sequence

from thinkscale.domain.campaign import Campaign
from thinkscale.runtime.asks import ReplicaAsks
from thinkscale.runtime.engines import check_same_engine
from thinkscale.runtime.meter import Meter
from thinkscale.runtime.progress import Progress
from thinkscale.runtime.replicas import metered_replicas
from thinkscale.stages.artifacts import campaign_artifact, fingerprints, sample_sets, template_hash
from thinkscale.stages.rounds import BenchmarkRun, longest_thinking
from thinkscale.store.artifact import fingerprint
from thinkscale.store.filesystem import Store
from thinkscale.store.models import exported
from thinkscale.store.stage import Stage, begin_stage


def evaluate(campaign: Campaign, store: Store) -> bool:
    """`samples/model=../benchmark=..`: graded samples of every model on every benchmark."""
    did = False
    for model in campaign.evaluate.models:
        reference = model_input = campaign.model.base
        if model == "tuned":
            manifest = campaign_artifact(campaign, store, "model").require()
            reference, model_input = store.url(exported(manifest)), manifest.fingerprint
        begun = []
        for benchmark in campaign.evaluate.benchmarks:
            stage, run = _begin(campaign, store, model, reference, model_input, benchmark.name)
            if stage is not None:
                run.resume(stage.done)
                begun.append((stage, run))
        if begun:
            asyncio.run(_evaluate_model(campaign, model, reference, begun))
            did = True
    return did


async def _evaluate_model(
    campaign: Campaign, model: str, reference: str, begun: Sequence[tuple[Stage, BenchmarkRun]]
) -> None:
    resources, runs = campaign.resources, [run for _, run in begun]
    cpus, gpus = resources.cpus_per_replica, resources.gpus_per_replica
    meter = Meter(workers=resources.replicas, cpus_each=cpus, gpus_each=gpus)
    progress = Progress(f"eval {model}", 0, "samples")
    progress.note(f"starting {resources.replicas} replica(s) of {reference}")
    # Root and settings are part of the name: another campaign of this name on the cluster has replicas of its own.
    told = fingerprint([campaign.root, reference, campaign.serve.model_dump(), [run.output.path for run in runs]])
    async with metered_replicas(campaign, reference, f"{campaign.name}-{model}-{told}", meter) as (handle, info):
        for stage, run in begun:
            if not campaign.serve.mixed_engines:
                check_same_engine(stage.engine(), info, run.output.url)
        room = resources.replicas * campaign.serve.max_concurrent_sequences
        await ReplicaAsks(handle, info, room=room, meter=meter, progress=progress).run(runs)
    for run in runs:
        run.commit()


def _begin(
    campaign: Campaign, store: Store, model: str, reference: str, model_input: str, benchmark: str
) -> tuple[Stage | None, BenchmarkRun]:
    source = campaign_artifact(campaign, store, f"benchmarks/{benchmark}")
    output = campaign_artifact(campaign, store, f"samples/model={model}/benchmark={benchmark}")
    inputs = {**fingerprints(benchmark=source), "model": model_input}
    run = BenchmarkRun(campaign, model, benchmark, source, output, lambda: _known_tokens(campaign, store, benchmark))
    config = {
        "model": campaign.model.model_dump(),
        "template": template_hash(campaign, reference),
        "evaluate": campaign.evaluate.model_dump(exclude={"benchmarks", "models", "segment_questions"}),
        "segment_questions": campaign.evaluate.segment_questions,
        "seed": campaign.seed,
        "serve": campaign.serve.model_dump(include={"dtype", "context_tokens"}),
    }
    return begin_stage(output, config, inputs, run.first_round), run


def _known_tokens(campaign: Campaign, store: Store, benchmark: str) -> dict[str, float]:
    """Thinking tokens that models evaluated before took for each question."""
    sets = [one for one in sample_sets(campaign, store) if one.benchmark == benchmark]
    complete = (one for one in sets if one.artifact.manifest() is not None)
    return longest_thinking(part for one in complete for part in one.iter_tables(["question_id", "thinking_tokens"]))
