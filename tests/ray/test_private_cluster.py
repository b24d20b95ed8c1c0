"""What a private cluster lets in, where it listens, and what a run on it says that it waits for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = """
import contextlib, json, os, subprocess, sys, threading, time
import psutil, ray
from ray import serve
from thinkscale.runtime.session import connect, disconnect
from thinkscale.runtime.room import waits_for

connect("local", cpus=3)
address = ray.get_runtime_context().gcs_address
found = {}

join = "import ray, sys; ray.init(address=sys.argv[1], log_to_driver=False); print(ray.cluster_resources()['CPU'])"
def joined(token):
    secret = {"RAY_AUTH_TOKEN": token or os.environ["RAY_AUTH_TOKEN"]}
    environment = {**os.environ, **secret, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}  # looks for a node on loopback
    return subprocess.run([sys.executable, "-c", join, address], env=environment, capture_output=True, text=True)
found["with its token"] = joined("").stdout
found["with another"] = joined("0" * 64).returncode

listens, words = set(), []
for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
    with contextlib.suppress(psutil.NoSuchProcess):  # it was idle, and ended
        listens |= {c.laddr.ip for c in process.net_connections("inet") if c.status == "LISTEN"}
        words += process.cmdline()
found["listens"] = sorted(listens)
found["told"] = [word for word in words if os.environ["RAY_AUTH_TOKEN"] in word]

def until(words):
    deadline = time.monotonic() + 240
    while words not in (told := waits_for()):
        assert time.monotonic() < deadline, told
        time.sleep(0.2)
    return told

@ray.remote(num_cpus=2)
class Holder:
    def up(self):
        return True

holder = Holder.remote()
ray.get(holder.up.remote())
found["at first"] = waits_for()
other = Holder.remote()
found["an actor"] = until("waits for")
ray.kill(other)
group = ray.util.placement_group([{"CPU": 1}, {"CPU": 1}, {"CPU": 1}])
found["workers"] = until("3 workers")
ray.util.remove_placement_group(group)

@serve.deployment(num_replicas=2, ray_actor_options={"num_cpus": 1})
class Replica:
    pass

serve.start(proxy_location="Disabled")
running = {"name": "app", "route_prefix": None}
threading.Thread(target=serve.run, args=(Replica.bind(),), kwargs=running, daemon=True).start()  # waits for both
found["replicas"] = until("1 of 2 replicas")
disconnect()
found["afterwards"] = [os.environ.get("RAY_AUTH_TOKEN"), os.environ.get("RAY_AUTH_MODE")]
try:
    ray.put(1)
except Exception as error:
    found["asked afterwards"] = type(error).__name__
found["started anew"] = ray.is_initialized()
print("FOUND" + json.dumps(found), flush=True)
os._exit(0)  # the thread still waits
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    home = tmp_path_factory.mktemp("home")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    out = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=1200,
        env={**environment, "HOME": str(home), "PYTHONPATH": str(ROOT / "platform")},
    )  # fmt: skip
    assert "FOUND" in out.stdout, out.stdout + out.stderr
    told = json.loads(out.stdout.partition("FOUND")[2])
    return {**told, "home": [str(path.relative_to(home)) for path in home.rglob("*")]}


def test_only_who_has_its_token_gets_in(found: dict[str, Any]) -> None:
    assert found["with its token"] == "3.0\n"
    assert found["with another"] != 0
    assert found["told"] == []  # no process has it among its arguments
    assert not any("auth_token" in path for path in found["home"])
    assert found["afterwards"] == [None, None]


def test_nothing_starts_another_cluster_once_it_is_left(found: dict[str, Any]) -> None:
    """Ray's functions would, in whatever thread they are called."""
    assert (found["asked afterwards"], found["started anew"]) == ("RaySystemError", False)


def test_it_listens_on_loopback_alone(found: dict[str, Any]) -> None:
    assert {address.removeprefix("::ffff:") for address in found["listens"]} == {"127.0.0.1"}


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ("at first", ""),
        ("an actor", "waits for 1 worker (needs 2 CPUs; the cluster has 1 of 3 CPUs free)"),
        ("workers", "waits for 3 workers (needs 3 x 1 CPU; the cluster has 1 of 3 CPUs free)"),
        ("replicas", "waits for 1 of 2 replicas (needs 1 CPU; the cluster has 0 of 3 CPUs free)"),
    ],
)
def test_what_is_missing_is_told(found: dict[str, Any], what: str, told: str) -> None:
    assert found[what] == told
