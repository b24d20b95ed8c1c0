"""What would fail in a later stage, refused before the first one: terms, files, models, room on the cluster.

Owns the order of these checks. What is complete needs nothing any more, so it is not asked for.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from ray._private.state import state

import ray
from thinkscale.domain.campaign import Campaign
from thinkscale.domain.source import FilesSource
from thinkscale.domain.terms import check_terms
from thinkscale.runtime.failure import ClusterError
from thinkscale.runtime.segments import TASK_CPUS
from thinkscale.runtime.session import owns_cluster
from thinkscale.stages.artifacts import campaign_artifact
from thinkscale.stages.distill import DistillError
from thinkscale.stages.train import check_base
from thinkscale.store.filesystem import Store
from thinkscale.store.locations import expand
from thinkscale.store.models import ModelError, local_model
from thinkscale.store.samples import SampleSet


def check_inputs(campaign: Campaign, store: Store, stages: Collection[str]) -> None:
    """Refuse what the stages cannot work with.

    Raises:
        TermsError: the teacher's terms are not stated, or are a no.
        DistillError: worked solutions are to be learned, and no source of the pool has any.
        IngestError: a file of the pool or of a benchmark is not there.
        ModelError, UnsupportedModelError: a model is not there, or cannot be fine-tuned.
    """
    open_stages = [stage for stage in stages if not _complete(campaign, store, stage)]
    if "distill" in stages:
        check_terms(campaign)
    if "distill" in open_stages:
        _check_solutions(campaign)
    benchmarks = [benchmark.source for benchmark in campaign.evaluate.benchmarks] if "benchmarks" in stages else []
    for source in [*benchmarks, *(campaign.pool if "ingest" in stages else [])]:
        for path in source.paths if isinstance(source, FilesSource) else []:
            with expand(path)[0].open_stream():
                pass
    for stage, key, reference in _models(campaign):
        if stage in open_stages:
            try:
                local_model(campaign.model.base if reference == "base" else reference, weights=False)
            except ModelError as error:
                raise ModelError(f"{key}: {error}") from error
    if "train" in open_stages:
        check_base(campaign)


def check_room(campaign: Campaign, store: Store, stages: Collection[str]) -> None:
    """Raises ClusterError where a stage needs more CPUs or GPUs than the cluster has and can start."""
    most = ray.cluster_resources() if owns_cluster() else state.get_max_resources_from_cluster_config()
    for stage, setting, unit, count, cpus, gpus in _needs(campaign):
        if most is None or stage not in stages or _complete(campaign, store, stage):
            continue
        for device, needed in (("CPU", cpus), ("GPU", gpus)):
            if needed > (there := most.get(device, 0)):
                raise ClusterError(
                    f"{stage} needs {needed:g} {device}s at the same time, the cluster has {there:g} and can start no "
                    f"more: lower resources.{setting} = {count} or the {device}s that each holds "
                    f"(resources.{device.lower()}s_per_{unit}), or join a larger cluster (--address)"
                )


def _needs(campaign: Campaign) -> Iterator[tuple[str, str, str, int, float, float]]:
    """Stage, setting, unit, number, CPUs and GPUs of what is held at the same time at least."""
    wanted, teachers = campaign.resources, campaign.teacher
    cpus, gpus, training = wanted.cpus_per_replica, wanted.gpus_per_replica, wanted.min_train_workers

    def pool(count: int, cpus: float, gpus: float) -> tuple[int, float, float]:
        count = count if gpus else 1  # a pool on CPUs grows
        return count, count * cpus + TASK_CPUS, count * gpus

    yield "embed", "embed_actors", "embed_actor", *pool(wanted.embed_actors, 1, wanted.gpus_per_embed_actor)
    yield "difficulty", "difficulty_actors", "replica", *pool(wanted.difficulty_actors, cpus, gpus)
    if any(teacher.source == "engine" and not teacher.endpoint for teacher in teachers):
        yield "distill", "replicas", "replica", *pool(wanted.replicas, cpus, gpus)
    workers = training or wanted.train_workers
    held = (workers * wanted.cpus_per_train_worker, workers * wanted.gpus_per_train_worker)
    yield "train", "min_train_workers" if training else "train_workers", "train_worker", workers, *held
    yield "evaluate", "replicas", "replica", wanted.replicas, wanted.replicas * cpus, wanted.replicas * gpus


def _models(campaign: Campaign) -> Iterator[tuple[str, str, str]]:
    """Stage, setting and reference of every model that a campaign names."""
    yield "embed", "curate.embedding_model", campaign.curate.embedding_model
    for place, model in enumerate(campaign.difficulty.models):
        yield "difficulty", f"difficulty.models.{place}", model
    if campaign.curate.domains == "classifier":
        yield "select", "curate.domain_model", campaign.curate.domain_model
    for teacher in campaign.teacher:
        if teacher.source == "engine" and not teacher.endpoint:
            yield "distill", "teacher.model", str(teacher.model)
    yield "evaluate", "model.base", "base"


def _check_solutions(campaign: Campaign) -> None:
    files = [source for source in campaign.pool if isinstance(source, FilesSource)]
    learned = [teacher for teacher in campaign.teacher if teacher.source == "solutions"]
    if learned and len(files) == len(campaign.pool) and not any(source.columns.solution for source in files):
        raise DistillError(
            'teacher.source = "solutions" learns worked solutions, but no source of the pool has any: set '
            'pool.0.columns.solution to their column, or teacher.source = "engine" with a model'
        )


def _complete(campaign: Campaign, store: Store, stage: str) -> bool:
    if stage == "evaluate":
        names = [benchmark.name for benchmark in campaign.evaluate.benchmarks]
        found = [(model, name) for model in campaign.evaluate.models for name in names]
        sets = (SampleSet(store=store, campaign=campaign.name, model=m, benchmark=name) for m, name in found)
        return all(samples.artifact.manifest() is not None for samples in sets)
    name = {"embed": "embeddings", "select": "selected", "distill": "traces", "train": "model"}.get(stage, stage)
    return campaign_artifact(campaign, store, name).manifest() is not None
