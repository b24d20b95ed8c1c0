"""A job's id, its exit code, and what counts as lost."""

from __future__ import annotations

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from ray.dashboard.modules.job.pydantic_models import JobType
from ray.job_submission import JobDetails, JobStatus

from thinkscale.cli import cli, jobs
from thinkscale.runtime.jobs import JobError, JobServer, Request, exit_code, loss
from thinkscale.store.campaigns import CampaignError

DEMO = ("run", "demo", "--root", "/shared")


def job_id(*arguments: str) -> str:
    return jobs.requested(arguments).id


def test_the_id_is_made_of_campaign_and_configuration() -> None:
    first = job_id(*DEMO)
    assert first.startswith("demo-")
    assert len(first) == len("demo-") + 8
    same = (("--max-usd", "5"), ("--deadline", "8h"), ("--quiet",), ("--wait",), ("--log-format", "json"),
            ("--set", "resources.replicas=4"), ("--set", "prices.gpu_hour_usd=2"))  # fmt: skip
    assert {job_id(*DEMO, *options) for options in same} == {first}
    others = [
        job_id("run", "demo", "--root", "/elsewhere"), job_id("train", "demo", "--root", "/shared"),
        job_id(*DEMO, "--set", "train.epochs=7"), job_id(*DEMO, "--to", "train"), job_id(*DEMO, "--dry-run"),
        job_id(*DEMO, "--set", "name=other"), job_id("serve", "/shared/demo"), job_id("serve", "/shared/other"),
    ]  # fmt: skip
    assert len({first, *others}) == len(others) + 1


def test_what_is_wrong_is_told_before_anything_is_sent(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(CampaignError, match="unknown key"):
        job_id(*DEMO, "--set", "train.epoch=7")
    with pytest.raises(JobError, match="'list' cannot be submitted: one of run, curate"):
        job_id("list")
    job_id("run", "demo")
    assert "the root 'runs' lies in the job's own directory" in capsys.readouterr().err
    out = CliRunner().invoke(cli, ["submit", "--address", "ftp://head", "run", "demo"])
    assert "--address ftp://head names no job server: it reads http://HEAD:8265" in str(out.exception)


@pytest.mark.parametrize(
    ("status", "code", "head_was_away", "exits", "lost"),
    [
        ("SUCCEEDED", 0, False, 0, ""),
        ("SUCCEEDED", 0, True, 0, ""),
        ("FAILED", 1, False, 1, ""),  # an error of its own
        ("FAILED", 2, False, 2, ""),
        ("FAILED", 1, True, 1, "its head was away"),
        ("FAILED", 143, False, 143, ""),  # it was cancelled
        ("FAILED", 143, True, 143, ""),
        ("FAILED", -9, False, 137, "its driver was killed (exit code 137)"),
        ("FAILED", 137, False, 137, "its driver was killed (exit code 137)"),
        ("FAILED", -11, False, 139, "its driver was killed (exit code 139)"),
        ("FAILED", None, False, 1, "its driver was lost (the supervisor died)"),
        ("STOPPED", None, False, 143, ""),
        ("STOPPED", None, True, 143, ""),
    ],
)
def test_the_exit_code_is_the_drivers_and_only_a_loss_is_tried_again(
    status: str, code: int | None, head_was_away: bool, exits: int, lost: str
) -> None:
    job = JobDetails(
        type=JobType.SUBMISSION, entrypoint="", status=JobStatus(status), driver_exit_code=code,
        message="the supervisor died\nsome log",
    )  # fmt: skip
    assert exit_code(job) == exits
    assert loss(job, head_was_away) == lost


KILLED = {"status": "FAILED", "driver_exit_code": -9}
FAILED = {"status": "FAILED", "driver_exit_code": 7}
SUCCEEDED = {"status": "SUCCEEDED", "driver_exit_code": 0}
RUNNING = {"status": "RUNNING"}
GONE, FORGETS = {"answers": 503}, {"forgets": True}
REQUEST = Request(id="demo-0123abcd", arguments=("run", "demo"), campaign="demo", root="/shared")


class Head(ThreadingHTTPServer):
    """What the Jobs API of a head answers; each look at a job takes the next of `course`."""

    def __init__(self, *course: dict[str, Any]) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.course, self.jobs = list(course), dict[str, dict[str, Any]]()
        self.submitted: list[tuple[str, str]] = []

    def look(self, job: str) -> tuple[int, Any]:
        if job not in self.jobs:
            return 404, f"Job {job} does not exist"
        now = self.course.pop(0) if len(self.course) > 1 else self.course[0]
        if "forgets" in now:  # another head
            self.jobs.clear()
            return self.look(job)
        if "answers" in now:
            return now["answers"], "no healthy upstream"
        self.jobs[job] |= now
        return 200, self.jobs[job]


class Answers(BaseHTTPRequestHandler):
    server: Head

    def do_GET(self) -> None:
        path = self.path.rstrip("/")
        found = re.fullmatch(r"/api/jobs/([^/]+)(/logs)?", path)
        if found and found[2]:
            self.answer(200, {"logs": f"log of {found[1]}\n"})
        elif found:
            self.answer(*self.server.look(found[1]))
        elif path == "/api/jobs":
            self.answer(200, list(self.server.jobs.values()))
        else:  # the version; a package is there already
            self.answer(200, {"ray_version": "2.60.0", "version": "4", "ray_commit": "", "session_name": ""})

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        job = asked["submission_id"]
        if job in self.server.jobs:
            self.answer(500, f"Job with submission_id {job} already exists")
            return
        facts = {"type": "SUBMISSION", "submission_id": job, "start_time": len(self.server.jobs), "status": "PENDING"}
        self.server.jobs[job] = {**facts, "entrypoint": asked["entrypoint"], "metadata": asked["metadata"]}
        self.server.submitted.append((job, asked["entrypoint"]))
        self.answer(200, {"job_id": job, "submission_id": job})

    def answer(self, status: int, body: Any) -> None:
        data = json.dumps(body).encode() if not isinstance(body, str) else body.encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs/runtime_env.yaml").write_text("working_dir: '.'\n")
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("checkout")
@pytest.mark.parametrize(
    ("course", "retries", "exits", "submitted"),
    [
        ([RUNNING, SUCCEEDED], 3, 0, ["", ]),
        ([RUNNING, FAILED], 3, 7, [""]),
        ([KILLED, RUNNING, SUCCEEDED], 3, 0, ["", ".2"]),
        ([KILLED, KILLED, SUCCEEDED], 3, 0, ["", ".2", ".3"]),
        ([KILLED, KILLED, KILLED, SUCCEEDED], 2, 137, ["", ".2", ".3"]),  # bounded
        ([KILLED, SUCCEEDED], 0, 137, [""]),
        ([RUNNING, GONE, RUNNING, SUCCEEDED], 3, 0, [""]),  # the head was away and knows the job
        ([RUNNING, GONE, FORGETS, SUCCEEDED], 3, 0, ["", ""]),  # a new head, for which the id is a new one
        ([RUNNING, FORGETS, FAILED], 3, 7, ["", ""]),
    ],
)  # fmt: skip
def test_a_lost_job_goes_on_under_its_id(
    course: list[dict[str, Any]], retries: int, exits: int, submitted: list[str]
) -> None:
    said: list[str] = []
    with Head(*course) as head:
        threading.Thread(target=head.serve_forever, daemon=True).start()
        server = JobServer(f"http://127.0.0.1:{head.server_address[1]}")
        job = server.submit(REQUEST, said.append)
        if "status" in course[0] and course[0]["status"] == "RUNNING":
            assert server.submit(REQUEST, said.append) == job  # it runs
            assert said[-1] == "job demo-0123abcd runs already: nothing new is submitted"
        assert server.follow(REQUEST, job, retries, said.append) == exits
        head.shutdown()
    assert [name for name, _ in head.submitted] == [f"demo-0123abcd{number}" for number in submitted]
    commands = [command for _, command in head.submitted]
    assert commands == ["python jobs/run.py demo"] + ["python jobs/run.py demo --wait"] * (len(submitted) - 1)
    assert f"log of {job}" in said
