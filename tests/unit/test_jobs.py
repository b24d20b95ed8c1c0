"""A job's id, its exit code, and what counts as lost."""

from __future__ import annotations

import pytest
from click.testing import CliRunner
from ray.dashboard.modules.job.pydantic_models import JobType
from ray.job_submission import JobDetails, JobStatus

from thinkscale.cli import cli, jobs
from thinkscale.runtime.jobs import JobError, exit_code, loss
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
