"""A campaign whose questions are selected already, and its distill command killed at random moments."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

from thinkscale.chaos.s3 import free_ports
from thinkscale.domain.campaign import Campaign
from thinkscale.store.artifact import Artifact
from thinkscale.store.filesystem import Store
from thinkscale.store.schemas import SELECTED, table
from tiny_model import write_tiny_model

HERE = Path(__file__).parent
PRICES = {"prompt_usd_per_million": 1.0, "completion_usd_per_million": 2.0}


def begun(
    root: Path, url: str, questions: list[str], teachers: list[dict[str, Any]], name: str = "c", **changes: Any
) -> tuple[Campaign, Store]:
    """A campaign under `<root>/runs` whose questions `What is 2 + 3?` are selected."""
    tiny = root / "tiny"
    if not tiny.exists():
        write_tiny_model(tiny)
    source = {"type": "files", "name": "pool", "paths": ["pool.jsonl"]}
    shared = {"endpoint": url, "prices": PRICES, "terms": {"licence": "MIT", "may_train": True}}
    campaign = Campaign.model_validate(
        {
            "name": name,
            "root": str(root / "runs"),
            "pool": [source],
            "model": {"base": str(tiny)},
            "difficulty": {"segment_rows": 16},
            "teacher": [{**shared, **teacher} for teacher in teachers],
            "evaluate": {"benchmarks": [{"name": "b", "source": source}], "budgets": {"caps": [8]}},
            **changes,
        }
    )
    store = Store(campaign.root)
    selected = Artifact(store, f"{name}/selected")
    if selected.manifest() is None:
        sums = [sum(int(n) for n in question.split(" is ")[1].rstrip("?").split(" + ")) for question in questions]
        rows = [
            {"id": f"q-{i}", "question": question, "answer": str(total), "kind": "integer", "source": "pool"}
            for i, (question, total) in enumerate(zip(questions, sums, strict=True))
        ]
        selected.begin({}, {})
        selected.commit_segment("0", table(rows, SELECTED))
        selected.commit(SELECTED)
    return campaign, store


def kill_and_resume(
    root: Path, *, kills: int, questions: int, seed: int, api: str = "chat", delay_s: float = 0.2, how: str = "stage"
) -> dict[str, Any]:
    """Kill the distill stage, its cluster with it, at random moments while it asks, then let it end.

    Args:
        how: `stage`, or `asking`: without Ray, in one process, so that many kills take minutes.

    Returns:
        What was paid (whole replies) and asked, the rows, those lost, kills, concurrency.
    """
    [port] = free_ports(1)
    url, concurrency, draw = f"http://127.0.0.1:{port}/v1", 4, random.Random(seed)
    asked = [f"What is {i} + 2?" for i in range(questions)]
    limits = {"concurrency": concurrency}
    campaign, store = begun(root, url, asked, [{"model": "m", "api": api, "limits": limits}])
    file = root / "campaign.json"
    file.write_text(campaign.model_dump_json())
    command = [sys.executable, __file__, str(file), how]
    server = subprocess.Popen([sys.executable, str(HERE / "teacher_server.py"), str(port), str(delay_s)])
    try:
        done = 0
        while done < kills:
            before = ledger(port)["asked"] if done else {}
            process = subprocess.Popen(command, start_new_session=True, env={**os.environ, "PYTHONPATH": PATH})
            while process.poll() is None and sum(ledger(port)["asked"].values()) <= sum(before.values()):
                time.sleep(0.05)
            left_s = (questions * delay_s / concurrency) / (kills + 1)
            time.sleep(draw.uniform(0, left_s))
            if process.poll() is not None:
                break
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            done += 1
        subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": PATH})
        found = ledger(port)
    finally:
        server.kill()
        server.wait()
    answered = root / "answered.json"
    ids = json.loads(answered.read_text()) if answered.exists() else []
    ids = ids or Artifact(store, "c/traces").read().column("question_id").to_pylist()
    return {
        "paid": sum(found["paid"].values()),
        "most_paid_for_one": max(found["paid"].values()),
        "rows": len(ids),
        "lost": questions - len(set(ids)),
        "kills": done,
        "concurrency": concurrency,
    }


def ledger(port: int) -> Any:
    for _ in range(3000):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/ledger") as answer:
                return json.loads(answer.read())
        except OSError:
            time.sleep(0.1)
    raise AssertionError("the teacher's server does not answer")


PATH = os.pathsep.join(map(str, (HERE.parent / "platform", HERE)))


async def ask_all(campaign: Campaign, answered: Path) -> None:
    """Ask about every selected question, and write the ids of those that were answered right."""
    from thinkscale.runtime.teaching import EndpointSettings, EndpointTeacher

    store = Store(campaign.root)
    engine = EndpointTeacher(EndpointSettings(teacher=campaign.teacher[0], store=store, campaign=campaign.name))
    rows = Artifact(store, f"{campaign.name}/selected").read(["id", "question", "answer"]).to_pylist()
    attempts = await asyncio.gather(*(engine.attempt(row["question"], 0) for row in rows))
    right = [row["id"] for row, a in zip(rows, attempts, strict=True) if a.answer == f"The answer is {row['answer']}"]
    answered.write_text(json.dumps(right))


if __name__ == "__main__":
    settings = Campaign.model_validate_json(Path(sys.argv[1]).read_text())
    if sys.argv[2] == "asking":
        asyncio.run(ask_all(settings, Path(sys.argv[1]).parent / "answered.json"))
    else:
        from thinkscale.runtime.session import connect
        from thinkscale.stages.distill import distill

        connect("local", cpus=2)
        distill(settings, Store(settings.root))
