"""A teacher behind vLLM's own OpenAI-compatible server, over HTTP."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from thinkscale.chaos.s3 import free_ports
from thinkscale.domain.models import Teacher
from thinkscale.domain.question import Attempt
from thinkscale.runtime.teaching import EndpointSettings, EndpointTeacher
from thinkscale.store.filesystem import Store
from tiny_model import write_tiny_model

pytest.importorskip("vllm", reason="vLLM is not installed: pip install 'thinkscale[vllm]'")
for needed in ("prometheus_fastapi_instrumentator", "model_hosting_container_standards"):
    pytest.importorskip(needed, reason=f"vLLM's own server needs {needed}")
pytestmark = pytest.mark.vllm
KEY = "TEST_ENDPOINT_KEY"


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def server(tiny_model: Path) -> Iterator[str]:
    [port] = free_ports(1)
    command = [
        sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(tiny_model),
        "--served-model-name", "tiny", "--dtype", "float32", "--max-model-len", "512", "--enforce-eager",
        "--host", "127.0.0.1", "--port", str(port), "--api-key", "secret",
    ]  # fmt: skip
    environment = {
        **os.environ, "OMP_NUM_THREADS": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_NO_USAGE_STATS": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_LOGGING_LEVEL": "WARNING",
    }  # fmt: skip
    process = subprocess.Popen(command, env=environment)
    try:
        for _ in range(3000):
            assert process.poll() is None, "the server ended by itself"
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.3)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait(300)


def test_it_is_an_honest_teacher(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY, "secret")
    teacher = Teacher(model="tiny", endpoint=server, api_key_env=KEY, max_thinking_tokens=20, max_answer_tokens=20)
    engine = EndpointTeacher(EndpointSettings(teacher=teacher, store=Store(str(tmp_path)), campaign="c"))

    async def attempts() -> list[Attempt]:
        asked = [engine.attempt("What is 2 + 2?", number) for number in range(4)]
        found = [*await asyncio.gather(*asked), await engine.attempt("word " * 600, 0)]
        again = await engine.attempt("What is 2 + 2?", 0)
        assert again == found[0]
        await engine.close()
        return found

    *found, long = asyncio.run(attempts())
    assert all(each.prompt_tokens > 0 and each.completion_tokens > 0 for each in found)
    assert {each.status for each in found} <= {"cut_answer", "cut_thinking", "empty_thinking", "empty_answer", "ok"}
    assert (long.status, "context length" in long.words) == ("prompt_too_long", True)
    (log,) = tmp_path.rglob("*.log")
    assert log.read_bytes().count(b"\n") == 4
