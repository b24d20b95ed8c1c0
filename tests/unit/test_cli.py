"""The command line: quick, light, and refusing what is wrong before any work."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from thinkscale.store.filesystem import Store
from thinkscale.store.lease import hold

HEAVY = ("ray", "torch", "vllm", "transformers", "pyarrow", "numpy")


def thinkscale(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = "from thinkscale.cli import main; main()"
    return subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, timeout=600)


def test_importing_the_command_line_loads_nothing_heavy() -> None:
    program = f"import sys, thinkscale.cli; print([m for m in {HEAVY} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_help_names_the_commands() -> None:
    out = thinkscale("--help")
    assert out.returncode == 0
    for command in (
        "run",
        "plan",
        "curate",
        "distill",
        "train",
        "evaluate",
        "report",
        "show",
        "submit",
        "serve",
        "why",
        "grade",
        "compare",
        "chaos",
    ):
        assert f"\n  {command} " in out.stdout


def test_show_prints_the_resolved_campaign_with_overrides() -> None:
    out = thinkscale(
        "show", "demo", "--json", "--set", "train.learning_rate=2e-5", "--set", "evaluate.budgets.caps=[8,16]"
    )
    shown = json.loads(out.stdout)
    assert shown["train"]["learning_rate"] == 2e-5
    assert shown["evaluate"]["budgets"]["caps"] == [8, 16]
    assert shown["train"]["betas"] == [0.9, 0.95]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("train.learning_rat=1", ["train.learning_rat", "unknown key", "learning_rate, lora_alpha"]),
        ("pool.0.column=1", ["pool.0", "column", "families, licence"]),
        ("train.learning_rate=inf", ["train.learning_rate", "inf", "finite"]),
        ("train.betas=[0.9,1.0]", ["train.betas.1", "1.0", "less than 1"]),
        ("seed=-1", ["seed", "-1", "greater than or equal to 0"]),
        ("curate.quality_rules=[\"nice\"]", ["curate.quality_rules.0", "'nice'", "'ascii_art'"]),
        ("resources.gpus_per_replica=1.5", ["resources.gpus_per_replica", "1.5", "whole number"]),
        ("evaluate.models=[]", ["evaluate.models", "[]", "at least 1"]),
        ("evaluate.models=[\"base\",\"base\"]", ["evaluate.models", "'base'", "twice"]),
        ("evaluate.budgets.wait_text=", ["evaluate.budgets.wait_text", "''", "at least 1"]),
        ("model.start=x", ["model", "start and end"]),
        ("model.end=", ["model.end", "''", "at least 1"]),
        ("curate.near_duplicate_similarity=0", ["curate.near_duplicate_similarity", "0", "greater than 0"]),
        ("train.epochs=\"five\"", ["train.epochs", "'five'", "integer"]),
        ("train.epochs=0", ["train.epochs", "0", "greater than or equal to 1"]),
        ("evaluate.budgets.caps=[]", ["evaluate.budgets.caps", "[]", "at least 1"]),
        ("model.format=r1", ["model.format", "'r1'", "'s1'", "'think'"]),
        ("model.format=custom", ["model", "start and end"]),
        ("select.strategy=best", ["select.strategy", "'best'", "'random'"]),
        ("pool.0.type=sql", ["pool.0.type", "'sql' is refused: 'files' or 'reasoning_gym'"]),
        ("pool.9.rows=1", ["pool.9.rows", "list"]),
        ("nonsense", ["--set", "key.path=value"]),
        ("name=a/b", ["name", "a/b", "must be letters, digits"]),
        ("pool.0={}", ["pool.0.type: must be given: 'files' or 'reasoning_gym'"]),
        ("train=3", ["train: 3 is refused: must be a section, [train]"]),
        ("evaluate.benchmarks=[]", ["evaluate.benchmarks: [] is refused: must have at least 1 item, not 0"]),
        ("teacher={}", ["teacher.0: source = 'engine' needs a model"]),
    ],
)  # fmt: skip
def test_a_wrong_setting_is_refused_by_key_value_and_what_is_allowed(override: str, words: list[str]) -> None:
    out = thinkscale("show", "demo", "--set", override)
    assert out.returncode == 1
    for foreign in ("Traceback", "Input should", "discriminator", "validation"):
        assert foreign not in out.stderr
    assert "resumes" not in out.stderr  # nothing was begun
    for word in words:
        assert word in out.stderr, out.stderr


def test_settings_that_do_not_go_together_are_refused() -> None:
    out = thinkscale("show", "demo", "--set", "resources.gpus_per_replica=1", "--set", "serve.tensor_parallel=4")
    assert "resources.gpus_per_replica is 1: serve.tensor_parallel = 4 needs 4" in out.stderr
    out = thinkscale("show", "demo", "--set", "serve.context_tokens=80")
    assert "a cap of 64 and 24 tokens of answer leave no room for a prompt in serve.context_tokens = 80" in out.stderr


def test_unknown_campaigns_and_broken_files_are_named(tmp_path: Path) -> None:
    assert "demo" in thinkscale("show", "nope").stderr  # the known ones
    assert "no campaign file" in thinkscale("show", "no/such.toml").stderr
    broken = tmp_path / "broken.toml"
    broken.write_text("name = \n")
    assert "line 1" in thinkscale("show", str(broken)).stderr
    broken.write_bytes(b"name = '\xff'")
    assert f"{broken} is not valid TOML: 'utf-8'" in thinkscale("show", str(broken)).stderr


def test_a_target_interval_needs_samples_that_differ() -> None:
    refused = thinkscale("evaluate", "demo", "--target-interval", "2")
    assert refused.returncode == 1
    assert "target_interval = 2 draws more samples of a question: they are all the same" in refused.stderr
    settings = ("--set", "evaluate.target_interval=2", "--set", "evaluate.temperature=1")
    many = thinkscale("show", "demo", *settings, "--set", "evaluate.samples=65")
    assert "samples = 65 are more than max_samples = 64" in many.stderr
    assert json.loads(thinkscale("show", "demo", "--json", *settings).stdout)["evaluate"]["target_interval"] == 2


def test_stages_out_of_order_are_refused() -> None:
    out = thinkscale("run", "demo", "--from", "train", "--to", "ingest")
    assert out.returncode == 2
    assert "--from train comes after --to ingest" in out.stderr


def test_a_root_that_cannot_be_written_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    out = thinkscale("run", "demo", "--root", str(tmp_path / "file" / "runs"))
    assert out.returncode == 1
    assert "cannot be written" in out.stderr
    assert "Traceback" not in out.stderr


def test_a_second_driver_ends_with_a_word_that_names_the_first(tmp_path: Path) -> None:
    with hold(Store(str(tmp_path)), "demo"):
        for command in (["report", "demo", "--root", str(tmp_path)], ["run", "demo", "--root", str(tmp_path)]):
            out = thinkscale(*command)
            assert out.returncode == 1
            assert out.stderr.startswith(
                f"thinkscale: campaign {tmp_path}/demo is worked on by process {os.getpid()} on "
            )
        shown = thinkscale("why", "demo", "--root", str(tmp_path))
        assert "worked on" not in shown.stderr
