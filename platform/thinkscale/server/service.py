"""A model served over HTTP by Ray Serve: replicas that speak OpenAI's interface.
Owns admission, autoscaling, draining and keys. `from_config` is what `serve deploy` and KubeRay import."""

import logging
import os
import re
import signal
import socket
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ray.serve import Application
from ray.serve.config import BackpressureConfig
from starlette.applications import Starlette

import ray
from ray import serve as ray_serve
from thinkscale.domain.service import Service
from thinkscale.engines.factory import model_context
from thinkscale.forcing.formats import resolve_format
from thinkscale.runtime.engines import EngineSettings
from thinkscale.runtime.replicas import QUIET, START_ATTEMPTS, Replica, end_application, run_application
from thinkscale.runtime.session import connect, disconnect, owns_cluster
from thinkscale.server.api import OpenAiApi
from thinkscale.server.proxy import CALLBACK, CALLBACK_PATH, LIMIT
from thinkscale.store.lease import Say
from thinkscale.store.models import local_model

KEYS = "THINKSCALE_API_KEYS"  # in the replicas' environment, separated by commas; KEYS_FILE: a file of them
KEYS_FILE = "THINKSCALE_API_KEYS_FILE"

BUSY_SHARE = 0.8  # of the sequences that engines decode at once, from which another replica is started


@ray_serve.ingress()
class HttpReplica(Replica):
    """A replica that answers HTTP too; `call` works on it as on any other."""

    async def __init__(self, service: Service) -> None:  # type: ignore[misc]
        keys = api_keys()
        if service.require_key and not keys:
            raise RuntimeError(f"require_key is set, but neither {KEYS} nor {KEYS_FILE} stands in this environment")
        most = model_context(local_model(service.model.base))
        context = min(service.serve.context_tokens, most or service.serve.context_tokens)
        settings = service.serve.model_copy(update={"context_tokens": context})
        model, threads = service.model, min(service.threads, os.cpu_count() or 1)
        await super().__init__(
            EngineSettings(reference=model.base, serve=settings, threads=threads, date=model.date, json_mode=True)
        )
        thinking_format = resolve_format(model, self.tokenizer)
        self._api = OpenAiApi(
            self.engine, self.tokenizer, thinking_format, service, keys=keys, on_engine_error=self.note,
            all_figures=self._all_figures,
        )  # fmt: skip

    def figures(self) -> str:
        """Of this replica, for whichever of them is asked for those of all."""
        return self._api.metrics.text()

    async def _all_figures(self) -> Sequence[str]:
        me = ray_serve.get_replica_context()
        handle = ray_serve.get_deployment_handle(me.deployment, me.app_name)
        return [str(text) for text in await handle.broadcast("figures").results_async()]

    def __serve_build_asgi_app__(self) -> Starlette:
        return self._api.app()


def from_config(args: dict[str, Any]) -> Application:
    """`import_path` of a Serve config file, whose `args` are a Service."""
    return application(Service.model_validate(args))


def application(service: Service) -> Application:
    admitted = service.max_requests_per_replica
    gpus = service.serve.tensor_parallel if service.gpus_per_replica is None else service.gpus_per_replica
    scaling: dict[str, Any] = {"num_replicas": service.max_replicas}
    if service.min_replicas != service.max_replicas:
        scaling = {
            "autoscaling_config": {
                "min_replicas": service.min_replicas,
                "initial_replicas": max(service.min_replicas, 1),
                "max_replicas": service.max_replicas,
                "target_ongoing_requests": BUSY_SHARE * min(admitted, service.serve.max_concurrent_sequences),
                "upscale_delay_s": 5.0,
                "downscale_delay_s": service.idle_s,
            }
        }
    deployment = ray_serve.deployment(
        name="openai",
        ray_actor_options={"num_cpus": service.cpus_per_replica, "num_gpus": gpus},
        max_ongoing_requests=admitted,
        max_queued_requests=service.max_waiting_requests,
        backpressure_config=BackpressureConfig(status_code=429, retry_after_s=service.retry_after_s),
        graceful_shutdown_wait_loop_s=1.0,
        graceful_shutdown_timeout_s=service.drain_s,
        health_check_period_s=5.0,
        max_constructor_retry_count=START_ATTEMPTS,
        **scaling,
    )(HttpReplica)
    app: Application = deployment.bind(service)
    return app


def serve(
    service: Service,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    route: str = "/",
    address: str | None = None,
    say: Say = print,
) -> None:
    """Serve a model. On a cluster of its own: until SIGINT or SIGTERM, then drained. On another: returns once up.
    `host`, `port`: of Serve's proxies, where Serve does not run yet. `route`: prefix of the paths, for several services
    on one cluster. `address`: the Ray cluster to join; None: the one this process is a job of, else a local one. Raises
    OSError: the port is taken; RuntimeError: the replicas cannot be built; the message holds the cause."""
    os.environ.setdefault(CALLBACK, CALLBACK_PATH)  # a cluster that is started here inherits them
    os.environ.setdefault(LIMIT, str(service.max_body_bytes))
    try:
        connect(address)
        if owns_cluster():
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((host, port))
            if service.gpus_per_replica is None and not ray.cluster_resources().get("GPU"):
                service = service.model_copy(update={"gpus_per_replica": 0.0})
        logging.getLogger("ray.serve").setLevel(logging.WARNING)
        ray_serve.start(http_options={"host": host, "port": port}, logging_config=QUIET)
        name = "serve-" + re.sub(r"[^A-Za-z0-9.-]+", "-", service.served_name).strip("-")
        say(f"starting {service.served_name} with {service.max_replicas} replica(s) at most")
        run_application(application(service), name, route_prefix=route, what=f"replicas of {service.model.base}")
        door = "an API key is needed" if api_keys() else f"no API key is needed: set {KEYS} to ask for one"
        say(f"serving {service.served_name} at http://{host}:{port}{route.rstrip('/')}/v1 ({door})")
        if not owns_cluster():
            say(f"it goes on without this process; to end it: serve shutdown, or delete the application {name}")
            return
        _wait_for_signal()
        say("ending; what is under way is let end")
        end_application(name)
    finally:
        disconnect()


def _wait_for_signal() -> None:
    come = threading.Event()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, lambda *_: come.set())
    try:
        come.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def api_keys() -> list[str]:
    keys = os.environ.get(KEYS, "").split(",")
    if path := os.environ.get(KEYS_FILE):
        keys += Path(path).read_text().splitlines()
    return [key.strip() for key in keys if key.strip()]
