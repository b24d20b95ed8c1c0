"""Jobs on a cluster with a job server: one id, their own exit code, lost drivers and heads, cancelled in order."""

from __future__ import annotations

import json
import re
import secrets
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from test_curation import wait_until

from asking import CAMPAIGN
from job_head import BIN, ROOT, JobHead
from thinkscale.runtime import metrics
from tiny_model import write_tiny_model

QUESTIONS = 20_000
PLANTED = {
    name: f"planted-{secrets.token_hex(8)}"
    for name in ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "HF_TOKEN", "THINKSCALE_TEACHER_API_KEY",
                 "THINKSCALE_API_KEYS", "RAY_AUTH_TOKEN")
}  # fmt: skip
"""Secrets in the environment of the head and of whoever submits."""


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("asking")
    write_tiny_model(directory / "tiny")
    rows = (f'{{"question": "What is {i}?", "answer": "{i}"}}\n' for i in range(QUESTIONS))
    (directory / "asked.jsonl").write_text("".join(rows))
    (directory / "asking.toml").write_text(
        CAMPAIGN.format(name="asking", directory=directory, model=directory / "tiny")
    )
    return directory / "asking.toml"


class Submitter:
    """Submits one campaign to one head, under a root of its own, and looks after it. What is said is kept."""

    def __init__(self, head: JobHead, campaign: Path, root: Path, outputs: list[str]) -> None:
        self.head, self.root, self._campaign, self.outputs = head, root, campaign, outputs

    def __call__(self, command: str, *arguments: str, code: int = 0) -> str:
        self.outputs.append(self.head.said(command, *arguments, code=code))
        return self.outputs[-1]

    def arguments(self, *options: str) -> tuple[str, ...]:
        return ("--address", self.head.server, *options, "run", str(self._campaign), "--root", str(self.root))

    def status(self) -> dict[str, Any]:
        return dict(json.loads(self("status", "asking", "--root", str(self.root), "--json")))

    def segments(self) -> int:
        return len(list(self.root.glob("asking/samples/*/*/segments/*")))

    def wait_for_more(self) -> None:
        before = self.segments()
        wait_until(lambda: self.segments() > before)

    def wait_for(self, job: str) -> None:
        wait_until((self.root / "asking/run.json").exists)
        wait_until(lambda: (found := self.status())["job"] == job and found["state"] == "running")

    def work_a_while(self) -> None:
        """Leave a campaign behind that was cancelled in the middle."""
        job = self("submit", *self.arguments("--no-wait")).strip()
        self.wait_for_more()
        self("cancel", job, "--address", self.head.server)

    def driver(self) -> list[Any]:
        return [
            process for process, title in self.head.processes().items() if re.match(r"\S*python jobs/run.py", title)
        ]


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JobHead]:
    """One that demands a token."""
    head = JobHead(tmp_path_factory.mktemp("head") / "head", PLANTED["RAY_AUTH_TOKEN"], PLANTED)
    try:
        head.start()
        yield head
    finally:
        head.stop()


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("roots")


@pytest.fixture(scope="module")
def outputs() -> list[str]:
    return []


@pytest.fixture
def submitter(head: JobHead, campaign: Path, roots: Path, outputs: list[str]) -> Iterator[Submitter]:
    found = Submitter(head, campaign, roots / secrets.token_hex(4), outputs)
    yield found
    left = head.thinkscale("cancel", "asking", "--root", str(found.root))  # by a test that failed
    left.communicate(timeout=600)


def test_a_job_is_submitted_once_watched_and_cancelled_in_order(submitter: Submitter) -> None:
    server, root = submitter.head.server, ("--root", str(submitter.root))
    job = submitter("submit", *submitter.arguments("--no-wait")).strip()
    assert re.fullmatch(r"asking-[0-9a-f]{8}", job)
    again = json.loads(submitter("submit", *submitter.arguments("--json", "--no-wait"), "--max-usd", "1e6"))
    assert (again["id"], again["submission_id"], again["campaign"]) == (job, job, "asking")

    submitter.wait_for_more()
    found: dict[str, Any] = {}

    def has_told() -> bool:  # it writes every few seconds what it has done, spent and still to do
        found.update(submitter.status())
        progress = found["progress"]
        return progress.get("per_s", 0) > 0 and progress["done"] > 0 and found["usd"] > 0 and found["left_s"] > 0

    wait_until(has_told)
    assert (found["state"], found["stage"], found["job"]) == ("running", "evaluate", job)
    assert found["progress"]["total"] == QUESTIONS
    stages = {each["stage"]: each for each in found["stages"]}
    assert (stages["benchmarks"]["state"], stages["benchmarks"]["rows"]) == ("complete", QUESTIONS)
    assert (stages["evaluate"]["state"], stages["report"]["state"]) == ("at work", "to do")
    assert 0 < stages["evaluate"]["rows"] < 2 * QUESTIONS
    wait_until(lambda: "samples/s" in submitter("logs", job, "--address", server))
    lines: list[str] = []  # from the root alone

    def are_told() -> bool:
        lines[:] = submitter("logs", "asking", *root).splitlines()
        return any(re.match(r"eval base +\d[\d,]*/20,000 samples", line) for line in lines)

    wait_until(are_told)
    assert "[1/3] benchmarks: complete" in " ".join(lines)
    [listed] = json.loads(submitter("list", *root, "--json"))
    assert (listed["campaign"], listed["state"], listed["stages_over"]) == ("asking", "running", 1)

    exports = {**metrics.GAUGES, "thinkscale_cpu_seconds_total": metrics.COUNTERS["thinkscale_cpu_seconds"],
               "thinkscale_tokens_total": metrics.COUNTERS["thinkscale_tokens"]}  # fmt: skip

    def are_exported() -> bool:
        try:
            exported = urlopen(submitter.head.metrics, timeout=60).read().decode()
        except OSError:
            return False
        return all(
            f"# HELP ray_{name} {told}\n" in exported
            and re.search(rf'^ray_{name}{{.*campaign="asking".*stage="evaluate"', exported, re.MULTILINE)
            for name, told in exports.items()
        )

    wait_until(are_exported)  # Ray passes them on every few seconds

    assert "asking has ended" in submitter("cancel", job, "--address", server)
    found = json.loads(submitter("status", job, "--address", server, "--json"))
    assert found["state"] == "cancelled"
    assert [(each["status"], each["exit_code"]) for each in found["jobs"]] == [("FAILED", 143)]
    assert "nothing works on" in submitter("cancel", "asking", *root, code=1)


def test_a_lost_driver_and_a_lost_head_are_replaced_and_the_exit_code_is_the_jobs(submitter: Submitter) -> None:
    following = submitter.head.thinkscale("submit", *submitter.arguments())
    wait_until((submitter.root / "asking/run.json").exists)
    submitter.wait_for_more()
    job, drivers = submitter.status()["job"], submitter.driver()
    assert drivers
    for process in drivers:
        process.send_signal(signal.SIGKILL)
    submitter.wait_for(f"{job}.2")
    submitter.wait_for_more()

    submitter.head.start()  # another one on the same ports, which knows no job
    submitter.wait_for(job)
    submitter.wait_for_more()
    submitter("cancel", "asking", "--root", str(submitter.root))
    out, errors = following.communicate(timeout=900)
    submitter.outputs += [out, errors]
    assert following.returncode == 143, out + errors
    assert out.splitlines()[0] == job
    assert errors.splitlines()[-1] == f"job {job} has ended with exit code 143"
    assert f"job {job}: its driver was killed (exit code 137); it is submitted again as {job}.2" in out
    assert f"job {job}: its head was lost; it is submitted again as {job}, 1 more tries are left" in out
    assert out.count("samples already done, resuming") == 2


def test_a_limit_is_an_end_of_its_own_and_is_not_tried_again(submitter: Submitter) -> None:
    submitter.work_a_while()
    spent = submitter.status()["usd"]
    out = submitter("submit", *submitter.arguments(), "--max-usd", str(spent + 20), code=1)
    assert f"max_usd = {spent + 20:g}: $" in out
    assert "PARTIAL: of base on asked" in out
    assert "submitted again" not in out
    late = submitter("submit", *submitter.arguments(), "--deadline", "0.3m", code=1)
    assert "thinkscale: deadline = 0.3m; what is committed is kept" in late
    assert "PARTIAL: of base on asked" in late
    assert submitter.status()["state"] == "failed"
    assert submitter.status()["why"].startswith("deadline = ")


def test_no_secret_is_in_anything_that_was_written_said_or_passed(submitter: Submitter, roots: Path) -> None:
    """Of this and all of the above: the roots, the cluster's own logs, what was printed, every process's arguments."""
    submitter.work_a_while()
    titles = list(submitter.head.processes().values())
    assert any("raylet" in title for title in titles)
    paths = [path for top in (roots, submitter.head.temporary) for path in top.rglob("*")]
    files = [path for path in paths if path.is_file() and not path.is_symlink()]
    assert any(path.name == "run.json" for path in files)
    assert any(path.name.startswith("job-driver-asking") for path in files)
    for name, secret in PLANTED.items():
        found = [str(path) for path in files if secret.encode() in path.read_bytes()]
        assert found == [], name
        assert not any(secret in text for text in [*titles, *submitter.outputs]), name


def test_without_the_token_the_job_server_refuses_in_a_sentence(submitter: Submitter) -> None:
    for command in (("submit", *submitter.arguments()), ("status", "asking", "--address", submitter.head.server)):
        said = submitter.head.said(*command, code=1, RAY_AUTH_MODE="disabled")
        assert said.startswith(f"thinkscale: the job server at --address {submitter.head.server} refuses this client's")


def test_a_cluster_without_tokens_works_the_same_and_rays_own_client_too(campaign: Path, tmp_path: Path) -> None:
    head = JobHead(tmp_path / "head", None)
    try:
        head.start()
        submitter = Submitter(head, campaign, tmp_path / "root", [])
        job = submitter("submit", *submitter.arguments("--no-wait")).strip()
        wait_until(lambda: submitter.segments() > 0)
        submitter("cancel", job, "--address", head.server)
        assert submitter.status()["state"] == "cancelled"

        def ray_job(*arguments: str) -> None:
            command = [str(BIN / "ray"), "job", arguments[0], "--address", head.server, *arguments[1:]]
            subprocess.run(command, cwd=ROOT, env=head.client, check=True, capture_output=True)

        ray_job("submit", "--no-wait", "--runtime-env", "jobs/runtime_env.yaml", "--", "python", "jobs/run.py",
                str(campaign), "--root", str(submitter.root))  # fmt: skip
        wait_until(lambda: submitter.status()["state"] == "running")
        submitter.wait_for_more()
        plain = submitter.status()["job"]
        assert plain.startswith("raysubmit_")
        wait_until(lambda: "samples" in submitter("logs", plain, "--address", head.server))
        ray_job("stop", plain)  # has the time to end in order
        assert submitter.status()["state"] == "terminated"
    finally:
        head.stop()


def test_a_stage_that_stands_still_says_what_it_waits_for(submitter: Submitter) -> None:
    root = ("--root", str(submitter.root))
    many = ("--set", "name=many", "--set", "resources.replicas=8")  # on four CPUs
    job = submitter("submit", *submitter.arguments("--no-wait"), *many).strip()
    wait_until((submitter.root / "many/run.json").exists)
    told = r"waits for \d of 8 replicas \(needs \d x 1 CPU; the cluster has {} of 4 CPUs free\)"

    def waits() -> bool:  # at first some that there is room for may still be starting
        said = json.loads(submitter("status", "many", *root, "--json"))["waits_for"]
        return bool(re.fullmatch(told.format("0"), said))

    wait_until(waits)
    assert re.search(rf"no progress for \d+ s: {told.format('[0-4]')}", submitter("logs", job, *root))
    submitter("cancel", "many", *root)
    assert submitter("status", "many", *root, "--json").count('"cancelled"') == 1
