"""What would fail in a later stage, refused before the first one: terms, files, models, room on the cluster.
Owns the order of these checks. What is complete needs nothing any more, so it is not asked for."""

from collections.abc import Callable, Collection, Iterator
from functools import partial
from importlib.util import find_spec

from ray._private.state import state

import ray
from thinkscale.domain.campaign import Campaign
from thinkscale.domain.generation import EngineError
from thinkscale.domain.source import FilesSource
from thinkscale.domain.terms import check_terms
from thinkscale.engines.factory import check_context
from thinkscale.engines.tokenizer import ModelTokenizer
from thinkscale.forcing.formats import resolve_format
from thinkscale.learn.arithmetic import GPU_GIB, cache_numbers, training_gib
from thinkscale.runtime.failure import ClusterError
from thinkscale.runtime.session import owns_cluster
from thinkscale.runtime.spend import check_limits
from thinkscale.stages.artifacts import is_complete, shape, weights
from thinkscale.stages.distill import DistillError
from thinkscale.stages.train import check_base
from thinkscale.store.filesystem import Store
from thinkscale.store.locations import expand
from thinkscale.store.models import ModelError, local_model


def refusals(campaign: Campaign, store: Store, stages: Collection[str], *, here: bool) -> Iterator[Exception]:
    """What the stages cannot work with, one error after the other.
    TermsError: the teacher's terms are not stated, or are a no. DistillError: worked solutions are to be learned, and
    no source of the pool has any. IngestError: a file of the pool or of a benchmark is not there. ModelError,
    UnsupportedModelError, FormatError: a model is not there, or cannot be asked or fine-tuned. EngineError: a context
    is too long, an extra is missing. ClusterError: a model does not fit into GPUs of the kind `resources.gpu`. `here`:
    the work is done on this machine, with the packages that are installed here."""
    for check in _checks(campaign, store, stages, here):
        try:
            check()
        except (ValueError, RuntimeError, OSError) as error:
            yield error


def _checks(campaign: Campaign, store: Store, stages: Collection[str], here: bool) -> Iterator[Callable[[], object]]:
    open_stages = [stage for stage in stages if not is_complete(campaign, store, stage)]
    yield partial(check_limits, campaign)
    if "distill" in stages:
        yield partial(check_terms, campaign)
    if "distill" in open_stages:
        yield partial(_check_solutions, campaign)
    benchmarks = [benchmark.source for benchmark in campaign.evaluate.benchmarks] if "benchmarks" in stages else []
    for source in [*benchmarks, *(campaign.pool if "ingest" in stages else [])]:
        for path in source.paths if isinstance(source, FilesSource) else []:
            yield partial(_check_file, path)
        if here and source.type == "reasoning_gym":
            yield partial(_check_extra, f"the source {source.name!r}", "reasoning_gym", "demo")
    for stage, key, reference in _models(campaign):
        if stage in open_stages:
            yield partial(_check_model, campaign, stage, key, reference)
    if campaign.serve.engine == "vllm" and here and any(stage in open_stages for stage in _ASKING):
        yield partial(_check_extra, "serve.engine = 'vllm'", "vllm", "vllm")
    if "train" in open_stages:
        yield partial(check_base, campaign)
    if campaign.resources.gpu is not None:
        yield partial(check_memory, campaign, open_stages, campaign.resources.gpu)


_ASKING = ("difficulty", "distill", "evaluate")


def _check_file(path: str) -> None:
    with expand(path)[0].open_stream():
        pass


def _check_extra(what: str, module: str, extra: str) -> None:
    if find_spec(module) is None:
        raise EngineError(f"{what} needs the package {module}: pip install 'thinkscale[{extra}]'")


def _check_model(campaign: Campaign, stage: str, key: str, reference: str) -> None:
    try:
        directory = local_model(campaign.model.base if reference == "base" else reference, weights=False)
    except ModelError as error:
        raise ModelError(f"{key}: {error}") from error
    if stage in _ASKING:
        check_context(directory, campaign.serve.context_tokens)
    if stage == "evaluate":
        resolve_format(campaign.model, ModelTokenizer(directory, date=campaign.model.date))


def check_memory(campaign: Campaign, stages: Collection[str], gpu: str) -> None:
    """Raises ClusterError where a model does not fit into GPUs of this kind."""
    wanted, serve, train, has = campaign.resources, campaign.serve, campaign.train, GPU_GIB[gpu]
    if "train" in stages and wanted.gpus_per_train_worker:
        reference, workers = campaign.model.base, wanted.train_workers
        pack, share, lora = train.pack_tokens, train.checkpoint_layers, train.lora_rank > 0
        held = training_gib(shape(reference), weights(reference), workers, pack_tokens=pack, share=share, lora=lora)
        if held > has:
            raise ClusterError(
                f"fine-tuning {reference} takes {held:.0f} GiB of each of {workers} GPUs, an {gpu} has {has}: raise "
                f"resources.train_workers or train.checkpoint_layers = {train.checkpoint_layers:g}, or lower "
                f"train.pack_tokens = {train.pack_tokens}"
            )
    for stage, key, model in _models(campaign):
        if stage not in stages or stage not in _ASKING or not wanted.gpus_per_replica:
            continue
        config, count = shape(reference := campaign.model.base if model == "base" else model), weights(reference)
        cache = serve.context_tokens * cache_numbers(config)  # of one sequence, which must fit
        needed = (count + cache) * (4 if serve.dtype == "float32" else 2) / serve.tensor_parallel / 2**30
        if needed > serve.gpu_memory_share * has:
            raise ClusterError(
                f"{key}: {reference} and one sequence of serve.context_tokens = {serve.context_tokens} take "
                f"{needed:.0f} GiB of each GPU, serve.gpu_memory_share leaves {serve.gpu_memory_share * has:.0f} of an "
                f"{gpu}: raise serve.tensor_parallel = {serve.tensor_parallel}"
            )


def check_room(campaign: Campaign, store: Store, stages: Collection[str]) -> None:
    """Raises ClusterError where a stage needs more CPUs or GPUs, or larger ones, than the cluster has and can start."""
    most = ray.cluster_resources() if owns_cluster() else state.get_max_resources_from_cluster_config()
    open_stages = [stage for stage in stages if not is_complete(campaign, store, stage)]
    for stage, setting, unit, count, cpus, gpus in _needs(campaign):
        if most is None or stage not in open_stages:
            continue
        for device, needed in (("CPU", cpus), ("GPU", gpus)):
            if needed > (there := most.get(device, 0)):
                raise ClusterError(
                    f"{stage} needs {needed:g} {device}s at the same time, the cluster has {there:g} and can start no "
                    f"more: lower resources.{setting} = {count} or the {device}s that each holds "
                    f"(resources.{device.lower()}s_per_{unit}), or join a larger cluster (--address)"
                )
    kinds = [kind for kind in GPU_GIB if f"accelerator_type:{kind}" in ray.cluster_resources()]
    if len(kinds) == 1 and campaign.resources.gpu is None:
        check_memory(campaign, open_stages, kinds[0])


def _needs(campaign: Campaign) -> Iterator[tuple[str, str, str, int, float, float]]:
    """Stage, setting, unit, number, CPUs and GPUs of what is held at the same time at least."""
    wanted = campaign.resources
    cpus, gpus, training = wanted.cpus_per_replica, wanted.gpus_per_replica, wanted.min_train_workers

    def pool(count: int, cpus: float, gpus: float) -> tuple[int, float, float]:
        count = count if gpus else 1  # a pool on CPUs grows
        return count, count * cpus, count * gpus

    yield "embed", "embed_actors", "embed_actor", *pool(wanted.embed_actors, 1, wanted.gpus_per_embed_actor)
    if campaign.difficulty.models:
        yield "difficulty", "difficulty_actors", "replica", *pool(wanted.difficulty_actors, cpus, gpus)
    if any(teacher.source == "engine" and not teacher.endpoint for teacher in campaign.teacher):
        yield "distill", "replicas", "replica", *pool(wanted.replicas, cpus, gpus)
    workers = training or wanted.train_workers
    held = (workers * wanted.cpus_per_train_worker, workers * wanted.gpus_per_train_worker)
    yield "train", "min_train_workers" if training else "train_workers", "train_worker", workers, *held
    yield "evaluate", "replicas", "replica", wanted.replicas, wanted.replicas * cpus, wanted.replicas * gpus


def _models(campaign: Campaign) -> Iterator[tuple[str, str, str]]:
    yield "embed", "curate.embedding_model", campaign.curate.embedding_model
    for place, model in enumerate(campaign.difficulty.models):
        yield "difficulty", "model.base" if model == "base" else f"difficulty.models.{place}", model
    if campaign.curate.domains == "classifier":
        yield "select", "curate.domain_model", campaign.curate.domain_model
    for teacher in campaign.teacher:
        if teacher.source == "engine" and not teacher.endpoint:
            yield "distill", "teacher.model", str(teacher.model)
    yield "evaluate", "model.base", "base"


def _check_solutions(campaign: Campaign) -> None:
    files = [source for source in campaign.pool if isinstance(source, FilesSource)]
    alone = campaign.difficulty.attempts < 2  # the right one of several may stand for a solution
    learned = [each for each in campaign.teacher if each.source in ("solutions", *["self_check"] * alone)]
    if learned and len(files) == len(campaign.pool) and not any(source.columns.solution for source in files):
        raise DistillError(
            f'teacher.source = "{learned[0].source}" learns worked solutions, but no source of the pool has any: set '
            'pool.0.columns.solution to their column, or teacher.source = "engine" with a model'
        )
