"""Serve replicas through handles: work done on them, errors, a replica that dies, and how they end."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_curation import wait_until
from test_training import pids_of

import ray
from listening import addresses
from ray import serve
from thinkscale.domain.campaign import Campaign
from thinkscale.domain.generation import Completion, Engine, EngineDiedError, Request
from thinkscale.engines.tokenizer import ModelTokenizer
from thinkscale.runtime.replicas import WATCH_EVERY_S, replicas_held, start_replicas, stop_replicas
from tiny_model import write_tiny_model

pytestmark = pytest.mark.usefixtures("ray_cluster")
PROMPT = (5, 9, 2, 7)


def campaign(**resources: float) -> Campaign:
    source = {"type": "files", "name": "pool", "paths": ["pool.jsonl"]}
    return Campaign.model_validate(
        {
            "name": "serving",
            "pool": [source],
            "model": {"base": "tiny"},
            "teacher": {"source": "solutions"},
            "evaluate": {
                "benchmarks": [{"name": "b", "source": source}],
                "budgets": {"caps": [8], "max_answer_tokens": 8},
            },
            "serve": {"engine": "transformers", "dtype": "float32", "context_tokens": 512},
            "resources": {
                "replicas": 1,
                "gpus_per_replica": 0.0,
                "cpus_per_replica": 0.5,
                "threads_per_actor": 1,
                **resources,
            },
        }
    )


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_tiny_model(tmp_path_factory.mktemp("tiny")))


@pytest.fixture(scope="module")
def handle(tiny_model: str) -> Iterator[Any]:
    yield start_replicas(campaign(), tiny_model, "tests")
    stop_replicas("tests")


def wait_on(handle: Any, function: Any, *args: Any) -> Any:
    return handle.call.remote(function, *args).result(timeout_s=600)


def test_work_runs_on_the_replica_with_its_engine_and_tokenizer(handle: Any) -> None:
    async def work(engine: Engine, tokenizer: ModelTokenizer, counts: list[int]) -> tuple[int, list[Completion], str]:
        requests = [Request(prompt_ids=PROMPT, max_tokens=count) for count in counts]
        completions = await asyncio.gather(*map(engine.generate, requests))
        return os.getpid(), completions, tokenizer.decode(completions[0].ids)

    pid, completions, text = wait_on(handle, work, [3, 5, 8])
    assert pid != os.getpid()
    assert [len(completion.ids) for completion in completions] == [3, 5, 8]
    assert completions[2].ids[:5] == completions[1].ids
    assert text


def test_info_names_the_model_and_what_it_holds(handle: Any, tiny_model: str) -> None:
    info = handle.info.remote().result(timeout_s=600)
    assert (info["engine"], info["model"], info["context_tokens"]) == ("transformers", tiny_model, 512)
    assert all(len(info[name]) == 16 for name in ("model_hash", "tokenizer_hash", "chat_template_hash"))
    assert len({info["model_hash"], info["tokenizer_hash"], info["chat_template_hash"]}) == 3


@pytest.mark.usefixtures("handle")
def test_nothing_of_a_private_cluster_listens_beyond_loopback() -> None:
    found = addresses()
    assert any("ray::ServeReplica" in title for title in found)
    assert set().union(*found.values()) == {"127.0.0.1"}


def test_errors_of_the_work_come_back_as_they_are(handle: Any) -> None:
    async def work(engine: Engine, tokenizer: ModelTokenizer) -> Completion:
        return await engine.generate(Request(prompt_ids=PROMPT, max_tokens=600))

    with pytest.raises(ValueError, match="more than the context of 512"):
        wait_on(handle, work)


def test_the_actor_that_stands_for_this_process_may_be_killed(handle: Any) -> None:
    async def where(engine: Engine, tokenizer: ModelTokenizer) -> int:
        return os.getpid()

    before, owners = wait_on(handle, where), pids_of("ray::Owner")
    assert owners
    for pid in owners:
        os.kill(pid, signal.SIGKILL)
    time.sleep(3 * WATCH_EVERY_S)  # its replicas would take this process for gone
    assert serve.status().applications["tests"].status == "RUNNING"
    assert wait_on(handle, where) == before


def test_replicas_of_a_driver_that_was_killed_end(tiny_model: str) -> None:
    code = (
        "import sys, time, ray; ray.init(address=sys.argv[1], log_to_driver=False); from test_serving import campaign\n"
        "from thinkscale.runtime.replicas import start_replicas\n"
        "start_replicas(campaign(), sys.argv[2], 'orphans'); time.sleep(3600)"
    )
    driver = subprocess.Popen(
        [sys.executable, "-c", code, ray.get_runtime_context().gcs_address, tiny_model],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"},
    )

    def state() -> str:
        found = serve.status().applications.get("orphans")
        return found.status if found else "gone"

    wait_until(lambda: state() == "RUNNING" or driver.poll() is not None)
    assert driver.poll() is None
    driver.kill()
    driver.wait()
    wait_until(lambda: state() == "gone", 90)


def test_an_engine_that_died_is_replaced(handle: Any) -> None:
    async def where(engine: Engine, tokenizer: ModelTokenizer) -> int:
        return os.getpid()

    async def die(engine: Engine, tokenizer: ModelTokenizer) -> None:
        raise EngineDiedError("gone")

    before = wait_on(handle, where)
    with pytest.raises(EngineDiedError, match="gone"):
        wait_on(handle, die)
    for _ in range(1200):
        try:
            if wait_on(handle, where) != before:
                return
        except Exception:
            pass
        time.sleep(0.5)
    pytest.fail("the replica was not replaced")


def test_a_model_that_cannot_be_served_says_why(tiny_model: str) -> None:
    settings = campaign()
    too_long = settings.model_copy(update={"serve": settings.serve.model_copy(update={"context_tokens": 4096})})
    with pytest.raises(RuntimeError, match=r"serve.context_tokens is 4096, the model .* has positions for 512"):
        start_replicas(too_long, tiny_model, "too-long")
    stop_replicas("too-long")


def test_stopping_does_not_wait_for_work_under_way(tiny_model: str, tmp_path: Path) -> None:
    """The same happens when the process that started the replicas is killed: its owner actor ends with it."""
    begun, dropped = tmp_path / "begun", tmp_path / "dropped"

    async def work(engine: Engine, tokenizer: ModelTokenizer) -> None:
        begun.touch()
        try:
            await asyncio.sleep(600)
        except asyncio.CancelledError:
            dropped.touch()
            raise

    start_replicas(campaign(), tiny_model, "stopping").call.remote(work)
    wait_until(begun.exists)
    stop_replicas("stopping")
    assert dropped.exists()


def test_replicas_that_calls_do_not_need_are_let_go_and_what_they_have_under_way_ends(
    tiny_model: str, tmp_path: Path
) -> None:
    async def work(engine: Engine, tokenizer: ModelTokenizer, number: int) -> int:
        (tmp_path / f"{number}-{os.getpid()}").touch()
        while not (tmp_path / f"end{number}").exists():
            await asyncio.sleep(0.1)
        return os.getpid()

    def begun() -> list[tuple[int, int]]:
        """Process and number of each call."""
        return [(int(path.name.split("-")[1]), int(path.name.split("-")[0])) for path in tmp_path.glob("*-*")]

    def end_now() -> int:
        (deployment,) = serve.status().applications["releasing"].deployments.values()
        return int(deployment.replica_states.get("STOPPING", 0))

    settings = campaign(replicas=2, cpus_per_replica=0.2)
    serving = settings.serve.model_copy(update={"max_concurrent_sequences": 4})  # 8 calls on a replica at most
    settings = settings.model_copy(update={"serve": serving})
    handle = start_replicas(settings, tiny_model, "releasing", release_after_s=2.0)
    assert replicas_held("releasing") == 2
    time.sleep(5)
    assert replicas_held("releasing") == 2  # without any call yet, all are kept
    calls: list[Any] = []
    while len(dict(begun())) < 2:  # those that need both can all go to one at first
        calls.extend(handle.call.remote(work, number) for number in range(len(calls), len(calls) + 8))
        wait_until(lambda: len(begun()) == len(calls))
    left = dict(begun())  # one on each
    for number in set(range(len(calls))) - set(left.values()):
        (tmp_path / f"end{number}").touch()
    wait_until(lambda: end_now() == 1)
    for number in left.values():
        (tmp_path / f"end{number}").touch()
    assert {calls[number].result(timeout_s=600) for number in left.values()} == set(left)
    wait_until(lambda: replicas_held("releasing") == 1)
    stop_replicas("releasing")
