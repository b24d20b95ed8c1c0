"""Limits: what counts as spent, when a run is wound up, and what is reported of what is there."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from made_samples import QUESTION_COUNT, made_campaign, made_samples, stored_campaign
from thinkscale.domain.campaign import Campaign, moment
from thinkscale.runtime import ending
from thinkscale.runtime.spend import NEARLY, LimitError, Spending
from thinkscale.stages.report import partial_summary, report
from thinkscale.store.artifact import Artifact
from thinkscale.store.filesystem import Store
from thinkscale.store.schemas import ATTEMPTS

START = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _afterwards() -> Iterator[None]:
    yield
    ending.forget()


def limited(**limits: object) -> Campaign:
    return Campaign.model_validate(made_campaign().model_dump() | limits)


@pytest.mark.parametrize(
    ("text", "after"),
    [("90m", timedelta(minutes=90)), ("1.5h", timedelta(minutes=90)), ("2d", timedelta(days=2)),
     ("2026-01-01T06:00", timedelta(hours=6)), ("2026-01-01T06:00+05:00", timedelta(hours=1))],
)  # fmt: skip
def test_a_deadline_is_a_moment_or_a_time_from_the_start_on(text: str, after: timedelta) -> None:
    assert moment(text, START) == START + after
    assert limited(deadline=text).deadline == text


@pytest.mark.parametrize(("usd", "winds_up"), [(NEARLY * 10 - 0.1, False), (NEARLY * 10 + 0.1, True), (10.5, True)])
def test_what_earlier_runs_spent_counts_and_more_lets_it_go_on(tmp_path: Path, usd: float, winds_up: bool) -> None:
    store = Store(str(tmp_path))
    seconds = usd / 3.0 * 3600
    store.write_bytes("demo/spent.json", json.dumps({"train": {"elapsed_s": 9.0, "gpu_s": seconds}}).encode())
    spent = Spending(limited(max_usd=10.0), store)
    assert spent.usd == pytest.approx(usd)
    assert (ending.winding_up is not None) == winds_up
    if winds_up:
        assert str(ending.winding_up).startswith(f"max_usd = 10: ${usd:.4g} are spent on campaign 'demo'")
    ending.forget()
    Spending(limited(max_usd=20.0), store)
    assert ending.winding_up is None


def test_what_endpoints_asked_counts(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    attempts = Artifact(store, "demo/attempts-1")  # not complete: two segments are committed
    attempts.begin({}, {})
    for key in ("0", "1"):
        attempts.commit_segment(key, ATTEMPTS.empty_table(), stats={"reply_usd": 4.8})
    assert Spending(limited(), store).usd == pytest.approx(9.6)
    Spending(limited(max_usd=10.0), store)
    assert "$9.6 are spent" in str(ending.winding_up)


def test_what_stages_took_adds_up_over_runs(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    for _ in range(2):
        with Spending(limited(), store) as spent:
            with spent.stage("ingest"):
                pass
            spent.keep()
    elapsed = json.loads(store.read_bytes("demo/spent.json"))["ingest"]["elapsed_s"]
    assert elapsed == spent.stages["ingest"]["elapsed_s"] > 0


def test_a_part_of_the_samples_is_reported_with_intervals_and_a_banner(tmp_path: Path) -> None:
    store, campaign = (
        Store(str(tmp_path)),
        limited(evaluate=made_campaign().evaluate.model_dump() | {"models": ["base"]}),
    )
    samples = stored_campaign(tmp_path, samples=made_samples(models={"base": 0.5}, questions=QUESTION_COUNT))
    whole = samples.artifact.require()
    directory = tmp_path / "demo/samples/model=base/benchmark=sums"
    manifest = (directory / "manifest.json").read_bytes()
    (directory / "manifest.json").unlink()
    record = (directory / "segments/0000006.json").read_bytes()
    (directory / "segments/0000006.json").unlink()

    spec = json.loads((directory / "stage.json").read_text())
    (directory / "stage.json").write_text(json.dumps(spec | {"plan": {"segments": 2}}))
    told = partial_summary(campaign, store)
    assert told.startswith("PARTIAL: of base on sums 1 of 2 parts are drawn")
    page = (tmp_path / "demo/report/report.html").read_text()
    assert "PARTIAL: of base on sums 1 of 2 parts" in page
    assert told.count("% to ") == 6  # an interval at each budget

    (directory / "segments/0000006.json").write_bytes(record)
    (directory / "manifest.json").write_bytes(manifest)
    assert samples.artifact.require() == whole
    assert report(campaign, store)  # anew, of all
    assert "PARTIAL" not in (tmp_path / "demo/report/report.html").read_text()
    assert not report(campaign, store)


def test_where_nothing_is_sampled_the_reason_is_told(tmp_path: Path) -> None:
    assert "no report: " in partial_summary(limited(), Store(str(tmp_path)))


def _ended_for(why: BaseException) -> None:
    threading.Thread(target=ending.in_order, args=(why,)).start()
    threading.Event().wait(300)


def test_a_limit_ends_the_main_thread_as_sigterm_does_for_a_reason_of_its_own() -> None:
    why = LimitError("max_usd = 1: $1.2 are spent")
    with ending.listening(), pytest.raises(SystemExit) as raised:
        _ended_for(why)
    assert ending.reason_for(raised.value) is why
    ending.forget()
    assert ending.reason_for(raised.value) is raised.value
