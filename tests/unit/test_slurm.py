"""jobs/campaign.sbatch up to what it gives to srun: Ray's and our own command lines know every option."""

from __future__ import annotations

import os
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import click
from ray.scripts.scripts import cli as ray_cli
from ray.scripts.scripts import start

from thinkscale.cli import cli

SCRIPT = Path(__file__).parents[2] / "jobs" / "campaign.sbatch"


def test_the_batch_job_s_command(tmp_path: Path) -> None:
    for name, does in {"scontrol": "printf 'node-1\\nnode-2\\n'", "srun": "printf '%s\\n' \"$@\""}.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{does}\n")
        (tmp_path / name).chmod(0o755)
    ends = datetime(2026, 9, 18, 8, 22, tzinfo=UTC)
    job = {
        "SLURM_JOB_NODELIST": "node-[1-2]", "SLURM_JOB_NUM_NODES": "2", "SLURM_CPUS_PER_TASK": "96",
        "SLURM_GPUS_ON_NODE": "8", "SLURM_JOB_END_TIME": str(round(ends.timestamp())),
    }  # fmt: skip
    said = subprocess.run(
        ["bash", str(SCRIPT), "mine.toml", "--root", "/shared/a b"],
        env={**job, "PATH": f"{tmp_path}:{os.environ['PATH']}"}, capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    at = said.index("--")
    assert said[:4] == ["--kill-on-bad-exit", "ray", "symmetric-run", "--address"]
    assert said[4:at] == ["node-1:6379", "--min-nodes", "2", "--num-cpus=96", "--num-gpus=8"]
    ours = ["mine.toml", "--root", "/shared/a b", "--address", "auto", "--wait", "--deadline", "2026-09-18T08:12"]
    assert said[at + 1 :] == ["thinkscale", "run", *ours]
    options = {
        name for command in (ray_cli.commands["symmetric-run"], start) for each in command.params for name in each.opts
    }
    assert {word.partition("=")[0] for word in said[3:at] if word.startswith("--")} <= options
    known = {name for each in cli.commands["run"].params if isinstance(each, click.Option) for name in each.opts}
    assert {word for word in ours if word.startswith("--")} <= known
