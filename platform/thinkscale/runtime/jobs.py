"""Submitting a command of thinkscale to a cluster as a Ray job, and following it.

Ray does not retry jobs, and its own client hides the driver's exit code; both are ours to do: resubmitting
the same campaign resumes it, and the status decides what is returned here.
"""

import os
import shlex
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml
from ray.job_submission import JobStatus, JobSubmissionClient

from thinkscale.runtime.session import reach

POLL_S = 2.0
ENTRY_POINTS = ("run", "curate", "distill", "train", "evaluate", "report", "serve")
FORWARDED = ("AWS_ENDPOINT_URL", "AWS_REGION", "AWS_DEFAULT_REGION", "THINKSCALE_CACHE")


class JobError(RuntimeError):
    """The command cannot be submitted; the message says what to do."""


def submit(address: str, arguments: list[str], *, wait: bool, say: Callable[[str], None]) -> int:
    """Submit `thinkscale <arguments>` from the root of a checkout.

    Secrets are never forwarded: the cluster's nodes have their own (an instance role, their environment).

    Args:
        address: the job server, as `http://head:8265`.
        wait: print the job's log until it ends.

    Returns:
        0 where the job succeeded (or was submitted without waiting), else 1.
    """
    if arguments[0] not in ENTRY_POINTS:
        raise JobError(f"{arguments[0]!r} cannot be submitted: one of {', '.join(ENTRY_POINTS)}")
    if not Path("jobs/runtime_env.yaml").exists():
        raise JobError("jobs/runtime_env.yaml is not here: submit from the root of a checkout")
    runtime_env: dict[str, Any] = yaml.safe_load(Path("jobs/runtime_env.yaml").read_text())
    runtime_env["env_vars"] = {name: os.environ[name] for name in FORWARDED if name in os.environ}
    client = _client(address)
    job = client.submit_job(
        entrypoint=shlex.join(["python", f"jobs/{arguments[0]}.py", *arguments[1:]]), runtime_env=runtime_env
    )
    say(f"job {job} submitted to {address}")
    return follow(client, job, say) if wait else 0


def _client(address: str) -> JobSubmissionClient:
    """Raises JobError or ClusterError, within seconds, where no job server answers there."""
    try:
        url = urlsplit(address)
        host, port = url.hostname or "", url.port or {"http": 80, "https": 443}[url.scheme]
    except (ValueError, KeyError):
        raise JobError(f"--address {address} names no job server: it reads http://HEAD:8265") from None
    what = f"the job server at --address {address}"
    reach(host, port, what)
    try:
        return JobSubmissionClient(address)
    except (RuntimeError, ConnectionError, ValueError) as error:  # no job server, another version, no token
        raise JobError(f"{what} refuses: {str(error).strip().partition(chr(10))[0]}") from error


def follow(client: JobSubmissionClient, job: str, say: Callable[[str], None]) -> int:
    """Print a job's log as it grows; 0 where it succeeds, else 1."""
    shown = 0
    while True:
        status = client.get_job_status(job)
        log = client.get_job_logs(job)
        if new := log[shown:].rstrip("\n"):
            say(new)
        shown = len(log)
        if status.is_terminal():
            why = client.get_job_info(job).message if status == JobStatus.FAILED else None
            say(f"job {job}: {status}{f': {why}' if why else ''}")
            return 0 if status == JobStatus.SUCCEEDED else 1
        time.sleep(POLL_S)
