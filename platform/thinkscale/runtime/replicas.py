"""Replicas: engines in actors of Ray Serve, for a campaign used through handles. Owns how one is built, healed and
ended, how many there are, of which size, and that they end with the campaign. Knows nothing of their work."""

import asyncio
import dataclasses
import logging
import os
import time
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from typing import Any, TypeVar, cast

from ray._common.tls_utils import add_port_to_grpc_server
from ray._raylet import build_address, is_localhost  # type: ignore[attr-defined]
from ray.serve import Application
from ray.serve._private import replica
from ray.serve.config import AutoscalingConfig, AutoscalingContext, AutoscalingPolicy

import ray
from ray import serve
from thinkscale.domain.campaign import Campaign
from thinkscale.domain.generation import Engine, EngineDiedError, EngineError, EngineInfo
from thinkscale.engines.tokenizer import ModelTokenizer
from thinkscale.runtime import ending, metrics
from thinkscale.runtime.asking import EngineGoneError
from thinkscale.runtime.engines import EngineSettings, start_engine
from thinkscale.runtime.meter import Meter
from thinkscale.runtime.session import owns_cluster
from thinkscale.store.models import local_model

QUIET = {"log_level": "WARNING"}

log = logging.getLogger(__name__)

DRAIN_S = 4 * 3600.0  # the longest that a replica which shall go may take for what it has under way

RELEASE_AFTER_S = 60.0
METER_EVERY_S = 5.0

START_ATTEMPTS = 2  # times that Serve tries to build a replica: a model that does not load will not load the tenth time

_owners: dict[str, Any] = {}  # owner actors of this process by application: they live as long as it does


class Owner:
    """An actor of the process that starts replicas: it ends with that process, however that ends."""


def start_replicas(
    campaign: Campaign, model_reference: str, name: str, *, release_after_s: float = RELEASE_AFTER_S
) -> Any:
    """Start replicas of a model as a Serve application without HTTP; returns their handle once all are up.
    `handle.info.remote()` and `handle.call.remote(function, *args)` are awaited. A call on a replica that dies fails
    and may be made again. The replicas end with this process, or with `stop_replicas`. `campaign`: its `serve` and
    `resources` say how many replicas of which size. `name`: of the application; one of this name is replaced.
    `release_after_s`: how long fewer calls must be under way than the replicas can take before some are let go, each
    once it has ended what it has under way; they come back with more calls. Raises ValueError: tensor parallelism needs
    more GPUs than a replica has; RuntimeError: the replicas cannot be built; the message holds the cause."""
    needs = _replica_resources(campaign)
    # Serve's own news of deployments is not the user's.
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    # Handles need no HTTP. On a cluster that others use, Serve's proxies are theirs to have; on the head alone, for one
    # on a worker would hold that node for half a minute after its last replica.
    serve.start(proxy_location="Disabled" if owns_cluster() else "HeadOnly", logging_config=QUIET)
    owner = f"{name}-{uuid.uuid4().hex}"
    lasting = {"max_restarts": -1}  # it stands for this process, and ends with it alone
    _owners[name] = ray.remote(Owner).options(name=owner, namespace=OWNERS, num_cpus=0, **lasting).remote()
    deployment = serve.deployment(
        autoscaling_config=AutoscalingConfig(
            min_replicas=1,
            initial_replicas=campaign.resources.replicas,
            max_replicas=campaign.resources.replicas,
            target_ongoing_requests=campaign.serve.max_concurrent_sequences,
            upscale_delay_s=0.0,
            downscale_delay_s=release_after_s,
            policy=AutoscalingPolicy(policy_function=needed_replicas),
        ),
        ray_actor_options=needs,
        # The engine batches and queues; a call is an item of work that may hold several requests at a time.
        max_ongoing_requests=2 * campaign.serve.max_concurrent_sequences,
        graceful_shutdown_wait_loop_s=1.0,
        graceful_shutdown_timeout_s=DRAIN_S,
        health_check_period_s=5.0,
        max_constructor_retry_count=START_ATTEMPTS,
    )(Replica)
    app = deployment.bind(EngineSettings.of(campaign, model_reference), owner)
    return run_application(app, name, route_prefix=None, what=f"replicas of {model_reference}")


@asynccontextmanager
async def metered_replicas(
    campaign: Campaign, model_reference: str, name: str, meter: Meter
) -> AsyncIterator[tuple[Any, EngineInfo]]:
    """Replicas as `start_replicas` gives them, with what their engines are; they end with the block.
    What is metered is those that are held, for replicas are let go as the queue drains."""

    async def watch() -> None:
        while True:
            await asyncio.sleep(METER_EVERY_S)
            held = await asyncio.to_thread(replicas_held, name)
            meter.hold(held)
            metrics.set_gauge("thinkscale_replicas", held)

    handle = await asyncio.to_thread(start_replicas, campaign, model_reference, name)
    watching = asyncio.create_task(watch())
    try:
        info = EngineInfo(**await handle.info.remote())
        meter.started()
        yield handle, info
    finally:
        watching.cancel()
        await asyncio.to_thread(stop_replicas, name)
        await handle.shutdown_async()  # else its router goes on asking after them


def replicas_held(name: str) -> int:
    """How many replicas of an application there are, those included that start or end."""
    return sum(sum(each.replica_states.values()) for each in _deployments(name))


def _deployments(name: str) -> Iterable[Any]:
    application = serve.status().applications.get(name)
    return () if application is None else application.deployments.values()


def needed_replicas(context: AutoscalingContext) -> tuple[int, dict[str, Any]]:
    """Serve's policy: as many replicas as the calls under way need, once there were any; until then all.
    Runs in Serve's controller, which may lack this package: Serve pickles it by value."""
    calls, settings = context.total_num_requests, cast(AutoscalingConfig, context.config)
    if not (calls or context.policy_state.get("worked")):
        return context.capacity_adjusted_max_replicas, {}  # some may still be starting, or wait for a node
    return max(1, -int(-calls // settings.get_target_ongoing_requests())), {"worked": True}


def stop_replicas(name: str) -> None:
    """Drop what the replicas have under way and free their resources; returns once they are gone."""
    if (owner := _owners.pop(name, None)) is not None:
        ray.kill(owner)
    end_application(name)


def run_application(app: Application, name: str, *, route_prefix: str | None, what: str) -> Any:
    """Run a Serve application; returns its handle once it is up.
    Raises RuntimeError with the cause where `what` cannot be started; nothing of it stays."""
    target = serve.RunTarget(app, name, route_prefix, QUIET)
    try:
        (handle,) = serve.run_many([target], wait_for_applications_running=False)
        # Serve's own wait hears nothing of this process's end.
        while (told := serve.status().applications[name]).status != "RUNNING":
            if told.status == "DEPLOY_FAILED":
                raise RuntimeError(told.message)
            if ending.reason is not None:
                raise ending.reason
            time.sleep(0.1)
        # A call by gRPC costs a third of one that goes through Ray's object store.
        return handle.options(_by_reference=False)
    except RuntimeError as error:
        cause = "\n".join(filter(None, (each.message for each in _deployments(name))))  # of a replica's constructor
        stop_replicas(name)
        raise RuntimeError(f"{what} cannot be started: {cause or error}") from error


def end_application(name: str) -> None:
    """Let an application's replicas end what they have under way; returns once they are gone."""
    serve.delete(name, _blocking=False)
    while name in serve.status().applications:
        time.sleep(0.2)


def _replica_resources(campaign: Campaign) -> dict[str, float]:
    """Actor options of one replica. Says so where the cluster has no room yet: Serve waits for nodes."""
    resources = campaign.resources
    needs = {"num_cpus": resources.cpus_per_replica, "num_gpus": resources.gpus_per_replica}
    has = ray.cluster_resources()
    for kind, label in (("num_cpus", "CPU"), ("num_gpus", "GPU")):
        wanted = needs[kind] * resources.replicas
        if wanted > (there := has.get(label, 0)):
            told = "%d replicas need %g %ss, the cluster has %g: waiting for nodes"
            log.warning(told, resources.replicas, wanted, label, there)
    return needs


T = TypeVar("T")

OWNERS = "thinkscale-owners"  # Ray namespace of the actors that stand for the processes that started replicas

WATCH_EVERY_S = 2.0

DYING_S = 0.5


class Replica:
    """One engine and its tokenizer. Its node resolves the model reference for itself. Serve applications outlive the
    job that started them. Replicas that work for a campaign must not hold GPUs after it was killed: once their `owner`,
    a named actor of that job, is gone, they drop their work and delete their application."""

    async def __init__(self, settings: EngineSettings, owner: str | None = None) -> None:  # type: ignore[misc]
        if is_localhost(node := ray.util.get_node_ip_address()):  # of a private cluster: Serve would listen everywhere
            here = build_address(node, 0)
            cast(Any, replica).add_port_to_grpc_server = lambda server, _: add_port_to_grpc_server(server, here)
        directory = local_model(settings.reference)
        self.tokenizer = ModelTokenizer(directory, date=settings.date)
        self.engine: Engine = await start_engine(settings, directory, self.tokenizer)
        self._died = ""
        self._calls: set[asyncio.Task[Any]] = set()
        self._watch = None if owner is None else asyncio.create_task(self._end_with(owner))

    async def info(self) -> dict[str, Any]:
        """`EngineInfo` as a dict, with the hashes of model, tokenizer and chat template."""
        return dataclasses.asdict(self.engine.info)

    async def call(self, function: Callable[..., Coroutine[Any, Any, T]], *args: Any) -> T:
        """Await `function(engine, tokenizer, *args)` here. The function must be importable on the nodes."""
        if self._died:
            raise EngineGoneError(self._died)
        task = asyncio.create_task(function(self.engine, self.tokenizer, *args))
        self._calls.add(task)
        try:
            return await task
        except EngineError as error:
            self.note(error)
            raise
        finally:
            self._calls.discard(task)

    def note(self, error: EngineError) -> None:
        """Take note of an error of the engine: it may have been its end, and then it is this process's.
        Calls under way get their errors first. Serve sees a process that is gone at once, a sick one only at its next
        checks, and would send it calls until then."""
        if isinstance(error, EngineDiedError) and not self._died:
            self._died = str(error)
            asyncio.get_running_loop().call_later(DYING_S, os._exit, 1)

    async def check_health(self) -> None:
        """Serve replaces a replica whose engine has died."""
        try:
            self.engine.check()
        except EngineDiedError as error:
            self.note(error)
            raise

    async def _end_with(self, owner: str) -> None:
        while await asyncio.to_thread(_is_alive, owner):
            await asyncio.sleep(WATCH_EVERY_S)
        for task in self._calls:
            task.cancel()
        serve.delete(serve.get_replica_context().app_name, _blocking=False)


def _is_alive(owner: str) -> bool:
    # Not `get_actor`: that goes on finding one whose process was lost.
    return {"name": owner, "namespace": OWNERS} in ray.util.list_named_actors(all_namespaces=True)
