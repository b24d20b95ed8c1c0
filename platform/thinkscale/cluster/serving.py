"""Ray Serve replicas around engines, used through handles.

Owns how a replica is built, sized, drained and replaced. Knows nothing of the work that it is given.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import logging
import time
import uuid
from collections.abc import Callable, Coroutine
from typing import Any, Concatenate, ParamSpec, TypeVar

import ray
from ray import serve
from thinkscale.domain.campaign import Campaign
from thinkscale.engines.base import Engine, EngineDiedError
from thinkscale.engines.factory import build_engine
from thinkscale.engines.tokenizer import ModelTokenizer
from thinkscale.store.models import directory_hash, local_model

QUIET = {"log_level": "WARNING"}

P = ParamSpec("P")
T = TypeVar("T")

log = logging.getLogger(__name__)

DRAIN_S = 1800.0
"""The longest that a replica which shall go (its node is drained) may take for what it has under way."""

START_ATTEMPTS = 2
"""Times that Serve tries to build a replica: a model that does not load will not load the tenth time."""


OWNERS = "thinkscale-owners"
"""Ray namespace of the actors that stand for the processes that started replicas."""

WATCH_EVERY_S = 2.0

_owners: dict[str, Any] = {}
"""Owner actors of this process by application: they live as long as it does."""


class Replica:
    """One engine and its tokenizer. Its node resolves the model reference for itself.

    Serve applications outlive the job that started them. Replicas that work for a campaign must not hold GPUs
    after it was killed: once their owner is gone, they drop their work and delete their application.
    """

    async def __init__(self, campaign: Campaign, model_reference: str, owner: str) -> None:  # type: ignore[misc]
        settings = campaign.serve
        directory = local_model(model_reference)
        self.tokenizer = ModelTokenizer(directory)
        self.engine: Engine = await build_engine(
            settings.engine,
            directory,
            dtype=settings.dtype,
            context_tokens=settings.context_tokens,
            max_concurrent_sequences=settings.max_concurrent_sequences,
            tensor_parallel=settings.tensor_parallel,
            gpu_memory_share=settings.gpu_memory_share,
            threads=campaign.resources.threads_per_actor,
        )
        self._info = dataclasses.replace(
            self.engine.info,
            model=model_reference,
            model_hash=directory_hash(directory, ("config.json", "*.safetensors")),
            tokenizer_hash=directory_hash(directory, ("tokenizer*", "*.model", "vocab*", "merges.txt")),
            chat_template_hash=hashlib.sha256(self.tokenizer.chat_template.encode()).hexdigest()[:16],
        )
        self._died = ""
        self._calls: set[asyncio.Task[Any]] = set()
        self._watch = asyncio.create_task(self._end_with(owner))

    async def info(self) -> dict[str, Any]:
        """`EngineInfo` as a dict, with the hashes of model, tokenizer and chat template."""
        return dataclasses.asdict(self._info)

    async def call(
        self,
        function: Callable[Concatenate[Engine, ModelTokenizer, P], Coroutine[Any, Any, T]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Await `function(engine, tokenizer, *args)` here. The function must be importable on the nodes."""
        task = asyncio.create_task(function(self.engine, self.tokenizer, *args, **kwargs))
        self._calls.add(task)
        try:
            return await task
        except EngineDiedError as error:
            self._died = str(error)
            raise
        finally:
            self._calls.discard(task)

    async def check_health(self) -> None:
        """Serve replaces a replica whose engine has died."""
        if self._died:
            raise RuntimeError(self._died)

    async def _end_with(self, owner: str) -> None:
        while await asyncio.to_thread(_is_alive, owner):
            await asyncio.sleep(WATCH_EVERY_S)
        for task in self._calls:
            task.cancel()
        serve.delete(serve.get_replica_context().app_name, _blocking=False)


class Owner:
    """An actor of the process that starts replicas: it ends with that process, however that ends."""


def start_replicas(campaign: Campaign, model_reference: str, name: str) -> Any:
    """Start replicas of a model as a Serve application without HTTP; returns their handle once all are up.

    `handle.info.remote()` and `handle.call.remote(function, *args)` are awaited. A call on a replica that dies
    fails and may be made again. The replicas end with this process, or with `stop_replicas`.

    Args:
        campaign: its `serve` and `resources` say how many replicas of which size.
        name: of the application; one of this name is replaced.

    Raises:
        ValueError: tensor parallelism needs more GPUs than a replica has.
        RuntimeError: the replicas cannot be built; the message holds the cause.
    """
    needs = _replica_resources(campaign)
    # Serve's own news of deployments is not the user's.
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    serve.start(proxy_location="Disabled", logging_config=QUIET)
    owner = f"{name}-{uuid.uuid4().hex}"
    _owners[name] = ray.remote(Owner).options(name=owner, namespace=OWNERS, num_cpus=0).remote()
    deployment = serve.deployment(
        num_replicas=campaign.resources.replicas,
        ray_actor_options=needs,
        # The engine batches and queues; a call is an item of work that may hold several requests at a time.
        max_ongoing_requests=2 * campaign.serve.max_concurrent_sequences,
        graceful_shutdown_wait_loop_s=1.0,
        graceful_shutdown_timeout_s=DRAIN_S,
        health_check_period_s=5.0,
        max_constructor_retry_count=START_ATTEMPTS,
    )(Replica)
    try:
        app = deployment.bind(campaign, model_reference, owner)
        return serve.run(app, name=name, route_prefix=None, logging_config=QUIET)
    except RuntimeError as error:
        cause = _deployment_message(name)
        stop_replicas(name)
        raise RuntimeError(f"replicas of {model_reference} cannot be started: {cause or error}") from error


def stop_replicas(name: str) -> None:
    """Drop what the replicas have under way and free their resources; returns once they are gone."""
    if (owner := _owners.pop(name, None)) is not None:
        ray.kill(owner)
    serve.delete(name, _blocking=False)
    while name in serve.status().applications:
        time.sleep(0.2)


def _is_alive(owner: str) -> bool:
    try:
        ray.get_actor(owner, namespace=OWNERS)
    except ValueError:
        return False
    return True


def _deployment_message(name: str) -> str:
    """What the constructor of a replica raised, as Serve reports it."""
    application = serve.status().applications.get(name)
    messages = [] if application is None else [each.message for each in application.deployments.values()]
    return "\n".join(filter(None, messages))


def _replica_resources(campaign: Campaign) -> dict[str, float]:
    """Actor options of one replica. Says so where the cluster has no room yet: Serve waits for nodes."""
    resources, parallel = campaign.resources, campaign.serve.tensor_parallel
    if 0 < resources.gpus_per_replica < parallel:
        raise ValueError(
            f"resources.gpus_per_replica is {resources.gpus_per_replica:g}: serve.tensor_parallel = {parallel} needs "
            f"{parallel}"
        )
    needs = {"num_cpus": resources.cpus_per_replica, "num_gpus": resources.gpus_per_replica}
    has = ray.cluster_resources()
    for kind, label in (("num_cpus", "CPU"), ("num_gpus", "GPU")):
        wanted = needs[kind] * resources.replicas
        if wanted > has.get(label, 0):
            log.warning(
                "%d replicas need %g %ss, the cluster has %g: waiting for nodes", resources.replicas, wanted, label,
                has.get(label, 0),
            )  # fmt: skip
    return needs
