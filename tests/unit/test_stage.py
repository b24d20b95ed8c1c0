"""A stage's plan is fixed when it is begun: rows are neither lost nor doubled by other settings."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from made_samples import made_campaign, made_questions
from thinkscale.pipeline import STAGES
from thinkscale.stages.artifacts import is_complete
from thinkscale.store.artifact import Artifact, ConfigDriftError
from thinkscale.store.filesystem import Store
from thinkscale.store.schemas import QUESTIONS
from thinkscale.store.stage import Stage, begin_stage, slices


def source(root: Path, questions: int = 20) -> Artifact:
    artifact = Artifact(Store(str(root)), "demo/selected")
    artifact.begin({}, {})
    artifact.commit_segment("000000", made_questions(questions=questions))
    artifact.commit(QUESTIONS)
    return artifact


def begin(read: Artifact, segment_rows: int) -> Stage | None:
    output = Artifact(read.store, "demo/traces")
    return begin_stage(output, {"teacher": "t"}, {"selected": "a"}, lambda: slices(read, segment_rows))


def commit(stage: Stage, keys: int) -> None:
    for segment in stage.pending[:keys]:
        stage.output.commit_segment(segment.key, segment.work.read())


@pytest.mark.parametrize(("before", "now"), [(8, 4), (4, 8), (8, 20)])
def test_other_segments_on_resume_are_refused(tmp_path: Path, before: int, now: int) -> None:
    read = source(tmp_path)
    stage = begin(read, before)
    assert stage is not None
    commit(stage, 1)
    with pytest.raises(ConfigDriftError, match=rf"plan.segment_rows was {before}, is {now}"):
        begin(read, now)


def test_a_resumed_stage_holds_each_row_once_and_a_complete_one_takes_any_plan(tmp_path: Path) -> None:
    read = source(tmp_path)
    first = begin(read, 8)
    assert first is not None
    commit(first, 2)
    again = begin(read, 8)
    assert again is not None
    assert [segment.key for segment in again.pending] == ["000002"]
    commit(again, 1)
    assert again.commit(QUESTIONS)
    ids = Artifact(read.store, "demo/traces").read()["id"]
    assert ids.equals(pa.chunked_array(read.read()["id"].chunks))
    assert begin(read, 4) is None


def test_a_complete_artifact_of_another_configuration_is_refused(tmp_path: Path) -> None:
    read = source(tmp_path)
    stage = begin(read, 20)
    assert stage is not None
    commit(stage, 1)
    stage.commit(QUESTIONS)
    with pytest.raises(ConfigDriftError, match="teacher was 't', is 'other'"):
        begin_stage(stage.output, {"teacher": "other"}, {"selected": "a"}, lambda: slices(read, 20))


@pytest.mark.parametrize(
    ("stage", "made"),
    [
        ("benchmarks", ["benchmarks/sums"]),
        ("ingest", ["pool"]),
        ("embed", ["embeddings"]),
        ("deduplicate", ["unique"]),
        ("difficulty", ["difficulty"]),
        ("select", ["selected"]),
        ("distill", ["traces"]),
        ("train", ["model"]),
        ("evaluate", ["samples/model=base/benchmark=sums", "samples/model=tuned/benchmark=sums"]),
        ("report", ["report"]),
    ],
)
def test_a_stage_is_complete_once_all_that_it_makes_is_committed(tmp_path: Path, stage: str, made: list[str]) -> None:
    campaign, store = made_campaign(), Store(str(tmp_path))
    for name in made:
        assert not is_complete(campaign, store, stage)
        artifact = Artifact(store, f"{campaign.name}/{name}")
        artifact.begin({}, {})
        artifact.commit("any/1")
    assert is_complete(campaign, store, stage)


def test_every_stage_is_known_by_what_it_makes() -> None:
    [cases] = test_a_stage_is_complete_once_all_that_it_makes_is_committed.pytestmark  # type: ignore[attr-defined]
    assert [stage for stage, _ in cases.args[1]] == list(STAGES)
