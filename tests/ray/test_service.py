"""The HTTP service as a Serve application: config files, scaling to zero and back, keys that must be there."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
import yaml
from ray.serve.schema import ServeDeploySchema
from test_curation import wait_until

from ray import serve
from thinkscale.chaos.s3 import free_ports
from thinkscale.domain.generation import Sampling
from thinkscale.domain.models import Serve
from thinkscale.domain.sample import Budget, Thought
from thinkscale.domain.service import Service
from thinkscale.engines.factory import build_engine
from thinkscale.engines.tokenizer import ModelTokenizer
from thinkscale.forcing.driver import force
from thinkscale.forcing.formats import THINK, ThinkingFormat, forcing_ids
from thinkscale.runtime.replicas import end_application, run_application
from thinkscale.server.service import KEYS, application, from_config
from tiny_model import SPECIAL, write_tiny_model

JOBS = Path(__file__).parents[2] / "jobs"
[PORT] = free_ports(1)


def service(base: str, **settings: Any) -> Service:
    return Service.model_validate(
        {
            "model": {"base": base},
            "name": "tiny",
            "serve": {"engine": "transformers", "dtype": "float32", "context_tokens": 4096},
            "gpus_per_replica": 0.0,
            "cpus_per_replica": 0.5,
            "threads": 1,
            **settings,
        }
    )


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_tiny_model(tmp_path_factory.mktemp("tiny")))


@pytest.fixture(scope="module")
def http(ray_cluster: None) -> Iterator[None]:
    serve.shutdown()  # other tests of the session run it without HTTP
    serve.start(http_options={"host": "127.0.0.1", "port": PORT})
    yield
    serve.shutdown()


def models(client: openai.OpenAI) -> list[str]:
    for _ in range(3000):  # the proxy hears of a new route a moment after the application is up
        with contextlib.suppress(openai.NotFoundError):
            return [model.id for model in client.models.list().data]
        time.sleep(0.2)
    raise AssertionError(f"nothing at {client.base_url}")


def ask(path: str = "", *, max_tokens: int = 20, thinking: dict[str, int] | None = None, **options: Any) -> Any:
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{PORT}{path}/v1", api_key="none", max_retries=0)
    models(client)
    return client.chat.completions.create(
        model="tiny",
        messages=[{"role": "user", "content": "why?"}],
        max_tokens=max_tokens,
        timeout=600,
        extra_body={"thinking": thinking} if thinking else {},
        **options,
    )


def replicas(name: str) -> int:
    (deployment,) = serve.status().applications[name].deployments.values()
    return deployment.replica_states.get("RUNNING", 0)


@pytest.mark.usefixtures("http")
def test_it_scales_to_zero_and_back(tiny_model: str) -> None:
    settings = service(tiny_model, min_replicas=0, max_replicas=2, idle_s=1.0)
    run_application(application(settings), "elastic", route_prefix="/elastic", what="the service")
    try:
        assert ask("/elastic").usage.completion_tokens > 0
        wait_until(lambda: replicas("elastic") == 0)
        assert ask("/elastic").usage.completion_tokens > 0
    finally:
        end_application("elastic")


@pytest.mark.usefixtures("http")
def test_it_scales_out_under_load(tiny_model: str) -> None:
    """One replica that decodes a single sequence at a time, and a queue before it: a second comes to help."""
    serving = {"engine": "transformers", "dtype": "float32", "context_tokens": 4096, "max_concurrent_sequences": 1}
    settings = service(tiny_model, serve=serving, min_replicas=1, max_replicas=2, idle_s=600.0)
    run_application(application(settings), "loaded", route_prefix="/loaded", what="the service")
    ended = threading.Event()

    def load() -> None:
        while not ended.is_set():
            with contextlib.suppress(openai.APIError):
                ask("/loaded")

    threads = [threading.Thread(target=load) for _ in range(4)]
    try:
        assert replicas("loaded") == 1
        for thread in threads:
            thread.start()
        wait_until(lambda: replicas("loaded") == 2)
    finally:
        ended.set()
        for thread in threads:
            thread.join(600)
        end_application("loaded")


@pytest.mark.usefixtures("http")
@pytest.mark.parametrize(
    ("model_settings", "expected"),
    [
        ({}, THINK),  # its tokenizer knows </think>
        (
            {"format": "custom", "start": "[", "end": "e", "end_suffix": ": "},
            ThinkingFormat(name="custom", start="[", end="e", end_suffix=": "),
        ),
        (
            {"format": "custom", "start": "[", "end": "== so", "end_suffix": ": "},  # several ordinary tokens
            ThinkingFormat(name="custom", start="[", end="== so", end_suffix=": "),
        ),
    ],
    ids=["think", "custom", "several tokens"],
)
def test_other_formats_are_served(tmp_path: Path, model_settings: dict[str, str], expected: ThinkingFormat) -> None:
    model = write_tiny_model(tmp_path, (*SPECIAL, "<think>", "</think>"))
    settings = service(str(model), model={"base": str(model), **model_settings})
    tokenizer = ModelTokenizer(model)
    budget = Budget(max_thinking_tokens=40, waits=1, max_answer_tokens=20)

    async def alone() -> Thought:
        engine = await build_engine(model, Serve(engine="transformers", dtype="float32", context_tokens=512))
        question = [{"role": "user", "content": "why?"}]
        ids = forcing_ids(tokenizer, expected, budget)
        return await force(engine, tokenizer.chat_ids(question, expected), budget, ids, sampling=Sampling())

    thought = asyncio.run(alone())
    run_application(application(settings), "formats", route_prefix="/formats", what="the service")
    try:
        length = 60 + len(tokenizer.encode("Final Answer:"))
        reply = ask("/formats", max_tokens=length, temperature=0, thinking={"max_tokens": 40, "waits": 1})
    finally:
        end_application("formats")
    assert reply.choices[0].message.reasoning_content == tokenizer.decode(tokenizer.visible(thought.thinking_ids))
    assert reply.choices[0].message.content == tokenizer.decode(tokenizer.visible(thought.answer_ids))
    assert reply.choices[0].thinking["end"] == thought.end


@pytest.mark.usefixtures("http")
def test_a_config_file_is_deployed(tiny_model: str) -> None:
    """By the way of `serve deploy`: Serve imports the application and gives it the file's arguments."""
    (app,) = yaml.safe_load((JOBS / "serve.yaml").read_text())["applications"]
    args = service(tiny_model, name="deployed").model_dump()
    config = {"applications": [{**app, "name": "deployed", "route_prefix": "/deployed", "args": args}]}
    client = serve.context._get_global_client()
    client.deploy_apps(ServeDeploySchema.model_validate(config), _blocking=True)
    assert models(openai.OpenAI(base_url=f"http://127.0.0.1:{PORT}/deployed/v1", api_key="none")) == ["deployed"]
    end_application("deployed")


@pytest.mark.usefixtures("http")
def test_a_service_that_needs_keys_does_not_start_without(tiny_model: str) -> None:
    assert KEYS not in os.environ
    with pytest.raises(RuntimeError, match="require_key is set, but neither THINKSCALE_API_KEYS nor"):
        run_application(
            application(service(tiny_model, require_key=True)), "locked", route_prefix="/locked", what="the service"
        )
    assert "locked" not in serve.status().applications


def test_the_config_files_say_the_same_and_are_valid() -> None:
    config = yaml.safe_load((JOBS / "serve.yaml").read_text())
    kubernetes = yaml.safe_load((JOBS / "rayservice.yaml").read_text())
    assert yaml.safe_load(kubernetes["spec"]["serveConfigV2"]) == config
    (app,) = ServeDeploySchema.model_validate(config).applications
    settings = Service.model_validate(app.args)
    assert app.import_path == f"{from_config.__module__}:{from_config.__name__}"
    assert settings.require_key
    workers = kubernetes["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]["template"]["spec"]
    limits = workers["containers"][0]["resources"]["limits"]
    assert float(limits["nvidia.com/gpu"]) >= (settings.gpus_per_replica or 0)
    assert float(limits["cpu"]) >= settings.cpus_per_replica
    assert workers["terminationGracePeriodSeconds"] >= settings.drain_s


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"max_replicas": 1, "min_replicas": 2}, "max_replicas is 1: must be at least min_replicas, which is 2"),
        ({"gpus_per_replica": 1.0, "serve": {"tensor_parallel": 2}}, "serve.tensor_parallel = 2 needs 2"),
        ({"retries": 1}, "retries"),
    ],
)
def test_impossible_services_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Service.model_validate({"model": {"base": "x"}, **settings})
