"""Commands of thinkscale as Ray jobs: submitted under an id that stays the same, followed, tried again, stopped.

Ray retries no job, takes each submission's id once, and its own client hides the driver's exit code. So a job here has
an id made of its campaign and configuration, and attempts: Ray's submissions `<id>`, `<id>.2`, ... Each goes on where
the one before stopped, for that is what a campaign does.
"""

import os
import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from thinkscale.runtime.ending import TERMINATED
from thinkscale.runtime.session import reach

POLL_S = 1.0
BACK_WITHIN_S = 900.0
"""The longest that a job server may be away while a job of it is followed: a new head takes its time to come up."""
STARTING_S = 60.0
"""The longest that a head which answers may take until it takes jobs."""
ENTRY_POINTS = ("run", "curate", "distill", "train", "evaluate", "report", "serve")
FORWARDED = ("AWS_ENDPOINT_URL", "AWS_REGION", "AWS_DEFAULT_REGION", "THINKSCALE_CACHE")
ID, CAMPAIGN, ROOT = "thinkscale_id", "thinkscale_campaign", "thinkscale_root"
"""Metadata of submissions."""


class JobError(RuntimeError):
    """The command cannot be submitted or followed; the message says what to do."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is to be submitted: `thinkscale <arguments>`."""

    id: str
    arguments: tuple[str, ...]
    campaign: str | None = None
    """Its name, and the root where it lies; None: of a service."""
    root: str | None = None


class JobServer:
    """A cluster's job server.

    Args:
        address: as `http://head:8265`.

    Raises JobError or ClusterError, within seconds, where no job server answers there.
    """

    def __init__(self, address: str) -> None:
        self._address, self._client = address, _client(address)

    def attempts(self, *names: str | None) -> list[JobDetails]:
        """Submissions of a job, by its id, its campaign or one of Ray's ids; the oldest first."""

        def called(job: JobDetails) -> set[str | None]:
            told = job.metadata or {}
            return {job.submission_id, told.get(ID), told.get(CAMPAIGN)} - {None}

        found = [job for job in self._asked(self._client.list_jobs) if called(job) & set(names)]
        return sorted(found, key=lambda job: job.start_time or 0)

    def submit(self, request: Request, say: Callable[[str], None]) -> str:
        """Start the job, or find that it runs already; returns Ray's submission id."""
        before = self.attempts(request.id)
        if before and not before[-1].status.is_terminal():
            say(f"job {request.id} runs already on {self._address}: nothing new is submitted")
            return str(before[-1].submission_id)
        done = f", and goes on where it stopped (attempt {len(before) + 1})" if before else ""
        started = self._start(request, len(before) + 1)
        say(f"job {request.id} is submitted to {self._address}{done}")
        return started

    def follow(self, request: Request, job: str, retries: int, say: Callable[[str], None]) -> int:
        """Print the job's log until it ends; where driver or head are lost, start it again. Returns its exit code.

        Raises JobError where the job server stays away, or does not know the job.
        """
        for left in range(retries, -1, -1):
            code, lost = self._follow_one(job, say)
            if not lost or not left:
                break
            waiting = ("--wait",) if request.campaign and "--wait" not in request.arguments else ()
            again = Request(
                **{**vars(request), "arguments": (*request.arguments, *waiting)}
            )  # for the dead one's lease
            job = self._start(again, len(self.attempts(request.id)) + 1)
            say(f"job {request.id}: {lost}; it is submitted again as {job}, {left - 1} more tries are left")
        return code

    def log(self, job: str) -> str:
        return str(self._asked(lambda: self._client.get_job_logs(job)))

    def stop(self, job: str) -> None:
        """SIGTERM, and wait until it has ended."""
        self._asked(lambda: self._client.stop_job(job))
        self.wait(job)

    def wait(self, job: str) -> None:
        while not self._asked(lambda: self._client.get_job_status(job)).is_terminal():
            time.sleep(POLL_S)

    def _start(self, request: Request, number: int) -> str:
        """Secrets are never forwarded: the cluster's nodes have their own (an instance role, their environment)."""
        if not Path("jobs/runtime_env.yaml").exists():
            raise JobError("jobs/runtime_env.yaml is not here: submit from the root of a checkout")
        runtime_env: dict[str, Any] = yaml.safe_load(Path("jobs/runtime_env.yaml").read_text())
        there = {name: os.environ[name] for name in FORWARDED if name in os.environ}
        runtime_env["env_vars"] = {**runtime_env.get("env_vars", {}), **there}
        told = {ID: request.id, CAMPAIGN: request.campaign, ROOT: request.root}
        job, began = request.id if number == 1 else f"{request.id}.{number}", time.monotonic()
        command, *rest = request.arguments
        while True:
            try:
                return self._client.submit_job(
                    entrypoint=shlex.join(["python", f"jobs/{command}.py", *rest]),
                    submission_id=job,
                    runtime_env=runtime_env,
                    metadata={name: text for name, text in told.items() if text is not None},
                )
            except AuthenticationError as error:
                raise _refused(self._address, error) from error
            except (RuntimeError, OSError) as error:
                if "already exists" in str(error):  # somebody else was quicker
                    return job
                if time.monotonic() - began > STARTING_S or "No available agent" not in str(error):
                    raise _refused(self._address, error) from error
            time.sleep(POLL_S)

    def _follow_one(self, job: str, say: Callable[[str], None]) -> tuple[int, str]:
        """One attempt's exit code, and how it was lost, in words, where it was."""
        shown, heard, was_away = 0, time.monotonic(), False
        while True:
            try:
                info, log = self._client.get_job_info(job), self._client.get_job_logs(job)
            except AuthenticationError as error:
                raise _refused(self._address, error) from error
            except (RuntimeError, OSError) as error:
                if "does not exist" in str(error):  # this head is another one
                    if was_away:
                        return 1, "its head was lost"
                    raise JobError(f"{self._address} knows no job {job}") from error
                if time.monotonic() - heard > BACK_WITHIN_S:
                    raise JobError(
                        f"the job server at {self._address} has not answered for {BACK_WITHIN_S:.0f} s: once it does, "
                        "the same command goes on"
                    ) from error
                if not was_away:
                    say(f"the job server at {self._address} does not answer: waiting for it")
                was_away = True
                time.sleep(POLL_S)
                continue
            heard = time.monotonic()
            if new := log[shown:].rstrip("\n"):
                say(new)
            shown = len(log)
            if info.status.is_terminal():
                return exit_code(info), _loss(info, was_away)
            time.sleep(POLL_S)

    def _asked(self, ask: Callable[[], Any]) -> Any:
        try:
            return ask()
        except (RuntimeError, OSError, AuthenticationError) as error:
            raise _refused(self._address, error) from error


def exit_code(job: JobDetails) -> int:
    """The driver's own, as shells tell it."""
    if job.status == JobStatus.STOPPED:
        return TERMINATED
    code = job.driver_exit_code
    if code is None:
        return 0 if job.status == JobStatus.SUCCEEDED else 1
    return code if code >= 0 else 128 - code


def _loss(job: JobDetails, head_was_away: bool) -> str:
    """How a job that failed was lost; empty where it ended by itself, or somebody ended it."""
    code = job.driver_exit_code
    if job.status != JobStatus.FAILED or code == TERMINATED:
        return ""
    if code is None:
        return f"its driver was lost: {(job.message or 'unknown').partition(chr(10))[0]}"
    if code < 0 or code == 137:
        return f"its driver was killed (exit code {exit_code(job)})"
    return "its head was away" if head_was_away else ""


def _client(address: str) -> JobSubmissionClient:
    try:
        url = urlsplit(address)
        host, port = url.hostname or "", url.port or {"http": 80, "https": 443}[url.scheme]
    except (ValueError, KeyError):
        raise JobError(f"--address {address} names no job server: it reads http://HEAD:8265") from None
    reach(host, port, f"the job server at --address {address}")
    try:
        return JobSubmissionClient(address)
    except (RuntimeError, OSError, ValueError, AuthenticationError) as error:
        raise _refused(address, error) from error


def _refused(address: str, error: Exception) -> JobError:
    what = f"the job server at --address {address} refuses"
    if isinstance(error, AuthenticationError):
        return JobError(
            f"{what} this client's token: set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH to the "
            "cluster's token (ray get-auth-token on the head prints it)"
        )
    return JobError(f"{what}: {str(error).strip().partition(chr(10))[0]}")
