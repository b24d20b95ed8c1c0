"""Commands of thinkscale as Ray jobs: submitted under an id that stays the same, followed, tried again, stopped.
Ray retries no job, takes each submission's id once, and its own client hides the driver's exit code. So a job here has
an id made of its campaign and configuration, and attempts: Ray's submissions `<id>`, `<id>.2`, ... Each goes on where
the one before stopped, for that is what a campaign does."""

import os
import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from thinkscale.runtime.ending import TERMINATED
from thinkscale.runtime.session import reach

POLL_S = 1.0
BACK_WITHIN_S = 900.0  # the longest that a job server may be away: a new head takes its time to come up
AWAY_S = 5.0  # from then on it counts as away
STARTING_S = 60.0  # the longest that a head which answers may take until it takes jobs
ENTRY_POINTS = ("run", "curate", "distill", "train", "evaluate", "report", "serve")
FORWARDED = ("AWS_ENDPOINT_URL", "AWS_REGION", "AWS_DEFAULT_REGION", "THINKSCALE_CACHE")
ID, CAMPAIGN, ROOT = "thinkscale_id", "thinkscale_campaign", "thinkscale_root"  # metadata of submissions
FAULTS = (RuntimeError, OSError, ValueError, AuthenticationError)  # what Ray's client raises

Say = Callable[[str], None]


class JobError(RuntimeError):
    """The command cannot be submitted or followed; the message says what to do."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is to be submitted, `thinkscale <arguments>`. `campaign`, `root`: its name and where it lies; of a service,
    None."""

    id: str
    arguments: tuple[str, ...]
    campaign: str | None = None
    root: str | None = None


class JobServer:
    """A cluster's job server, `http://head:8265`. Whatever is asked of it raises JobError where it refuses; making one
    also ClusterError, within seconds, where nobody answers there."""

    def __init__(self, address: str) -> None:
        self._what = f"the job server at --address {address}"
        try:
            url = urlsplit(address)
            host, port = url.hostname or "", url.port or {"http": 80, "https": 443}[url.scheme]
        except (ValueError, KeyError):
            raise JobError(f"--address {address} names no job server: it reads http://HEAD:8265") from None
        reach(host, port, self._what)
        self._client: JobSubmissionClient = self._asked(JobSubmissionClient, address)

    def attempts(self, *names: str | None) -> list[JobDetails]:
        """Submissions of a job, by its id, its campaign or one of Ray's ids; the oldest first."""

        def is_called(job: JobDetails) -> bool:
            told = job.metadata or {}
            return bool({job.submission_id, told.get(ID), told.get(CAMPAIGN)} & {*filter(None, names)})

        return sorted(filter(is_called, self._asked(self._client.list_jobs)), key=lambda job: job.start_time or 0)

    def submit(self, request: Request, say: Say) -> str:
        """Start the job, or find that it runs already; returns Ray's submission id."""
        before = self.attempts(request.id)
        if before and not before[-1].status.is_terminal():
            say(f"job {request.id} runs already: nothing new is submitted")
            return str(before[-1].submission_id)
        started = self._start(request, len(before) + 1)
        done = f", and goes on where it stopped (attempt {len(before) + 1})" if before else ""
        say(f"job {request.id} is submitted{done}")
        return started

    def follow(self, request: Request, job: str, retries: int, say: Say) -> int:
        """Print the job's log until it ends; where driver or head are lost, start it again. Returns its exit code."""
        code, lost = self._follow_one(job, say)
        if not lost or not retries:
            return code
        if request.campaign and "--wait" not in request.arguments:  # for the dead one's lease
            request = replace(request, arguments=(*request.arguments, "--wait"))
        job = self._start(request, len(self.attempts(request.id)) + 1)
        say(f"job {request.id}: {lost}; it is submitted again as {job}, {retries - 1} more tries are left")
        return self.follow(request, job, retries - 1, say)

    def log(self, job: str) -> str:
        return str(self._asked(self._client.get_job_logs, job))

    def end(self, job: str, *, stop: bool) -> None:
        """Wait until it has ended; `stop`: by SIGTERM."""
        if stop:
            self._asked(self._client.stop_job, job)
        while not self._asked(self._client.get_job_status, job).is_terminal():
            time.sleep(POLL_S)

    def _start(self, request: Request, number: int) -> str:
        """Secrets are never forwarded: the cluster's nodes have their own (an instance role, their environment)."""
        if not Path("jobs/runtime_env.yaml").exists():
            raise JobError("jobs/runtime_env.yaml is not here: submit from the root of a checkout")
        runtime_env: dict[str, Any] = yaml.safe_load(Path("jobs/runtime_env.yaml").read_text())
        there = {name: os.environ[name] for name in FORWARDED if name in os.environ}
        runtime_env["env_vars"] = {**runtime_env.get("env_vars", {}), **there}
        told = {ID: request.id, CAMPAIGN: request.campaign, ROOT: request.root}
        command, *rest = request.arguments
        submission: dict[str, Any] = {
            "entrypoint": shlex.join(["python", f"jobs/{command}.py", *rest]),
            "submission_id": request.id if number == 1 else f"{request.id}.{number}",
            "metadata": {name: text for name, text in told.items() if text is not None},
        }
        began = time.monotonic()
        while True:
            try:
                return str(self._client.submit_job(**submission, runtime_env=runtime_env))
            except FAULTS as error:
                if "already exists" in str(error):  # somebody else was quicker
                    return str(submission["submission_id"])
                if time.monotonic() - began > STARTING_S or "No available agent" not in str(error):
                    raise self._refused(error) from error
            time.sleep(POLL_S)

    def _follow_one(self, job: str, say: Say) -> tuple[int, str]:
        """One attempt's exit code, and in words how it was lost, where it was."""
        shown, heard, is_known, was_away = 0, time.monotonic(), False, False
        while True:
            try:
                info, log = self._client.get_job_info(job), self._client.get_job_logs(job)
            except (RuntimeError, OSError) as error:
                if "does not exist" in str(error):
                    if is_known:  # this head is another one
                        return 1, "its head was lost"
                    raise JobError(f"{self._what} knows no job {job}") from error
                if time.monotonic() - heard > BACK_WITHIN_S:
                    told = f"{self._what} has not answered for {BACK_WITHIN_S:.0f} s"
                    raise JobError(f"{told}: once it does, the same command goes on") from error
                if not was_away and time.monotonic() - heard > AWAY_S:
                    say(f"{self._what} does not answer: waiting for it")
                    was_away = True
            except AuthenticationError as error:
                raise self._refused(error) from error
            else:
                heard, is_known = time.monotonic(), True
                if new := log[shown:].rstrip("\n"):
                    say(new)
                shown = len(log)
                if info.status.is_terminal():
                    return exit_code(info), loss(info, was_away)
            time.sleep(POLL_S)

    def _asked(self, ask: Callable[..., Any], *arguments: str) -> Any:
        try:
            return ask(*arguments)
        except FAULTS as error:
            raise self._refused(error) from error

    def _refused(self, error: Exception) -> JobError:
        if isinstance(error, AuthenticationError):
            return JobError(
                f"{self._what} refuses this client's token: set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or "
                "RAY_AUTH_TOKEN_PATH to the cluster's token (ray get-auth-token on the head prints it)"
            )
        return JobError(f"{self._what} refuses: {str(error).strip().partition(chr(10))[0]}")


def exit_code(job: JobDetails) -> int:
    """The driver's own, as shells tell it."""
    if job.status == JobStatus.STOPPED:
        return TERMINATED
    code = job.driver_exit_code
    if code is None:
        return int(job.status != JobStatus.SUCCEEDED)
    return code if code >= 0 else 128 - code


def loss(job: JobDetails, head_was_away: bool) -> str:
    """How a job was lost; empty where it ended by itself, or somebody ended it."""
    code = job.driver_exit_code
    if job.status != JobStatus.FAILED or code == TERMINATED:
        return ""
    if code is None:
        return f"its driver was lost ({(job.message or 'unknown').partition(chr(10))[0]})"
    if code < 0 or code == 137:
        return f"its driver was killed (exit code {exit_code(job)})"
    return "its head was away" if head_was_away else ""
